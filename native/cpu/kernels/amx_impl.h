// The products of bfloat16_kernels.h on AMX tiles: C[16 × 16 floats] += A[16 × 32] · B[32 × 16], A
// and B in bfloat16.
//
// Every operand is an array of tiles of 1 KB, so that a tile is loaded from 16 cache lines in a
// row, whatever the shape:
//
//   A   [16 rows][32 values of K]
//   B   [16 pairs of K][16 columns][2]
//
//   input          B   [16 rows of the batch][block of D][plane]
//   inputGradient  B   [16 dimensions][block of rows][plane]
//   weightRows     A   [16 classes][block of D][plane]
//   weightPairs    A   [16 dimensions][block of classes][plane]
//   gradByClass    A   [16 classes][block of rows][plane]
//   gradByRow      B   [16 rows of the batch][block of classes][plane]
//
// Rows of A come in twos of tiles: those beyond the classes or dimensions that exist hold anything,
// and so do their rows of C, which nobody stores. Beyond the end of K both operands hold zeros.
#pragma once
#include "amx_tiles_impl.h"
#include "bfloat16_vectors_impl.h"
#include "transpose_impl.h"

namespace {

static_assert(panelLanes == 64, "a panel of logits is four tiles wide");

constexpr int blockSide = 32;  // rows and columns of C at once: two tiles each way

INLINE uint16_t* tileAt(void* operand, int64_t index) { return (uint16_t*)operand + index * tileHalves; }
INLINE int64_t pairedTiles(int64_t rows) { return 2 * divideUp(rows, blockSide); }
INLINE int64_t dimensionTiles(const Bfloat16Shape& shape) {
  return divideUp(shape.dim, panelLanes) * (panelLanes / 16);
}

static PackedSizes tileSizes(const Bfloat16Shape& shape) {
  const int64_t bytes = shape.planes * tileHalves * 2;
  const int64_t dimBlocks = blocksOf(shape.dim), classBlocks = blocksOf(shape.tileClasses);
  return {bytes * (shape.paddedRows / 16) * dimBlocks,
          bytes * dimensionTiles(shape) * blocksOf(shape.paddedRows),
          bytes * pairedTiles(shape.tileClasses) * dimBlocks,
          bytes * pairedTiles(shape.dim) * classBlocks,
          bytes * pairedTiles(shape.tileClasses) * blocksOf(shape.chunkRows),
          bytes * (shape.chunkRows / 16) * classBlocks};
}

// A product's operands; strides are in halves, from 16 rows or columns to the next.
struct TileOperands {
  const uint16_t *a, *b;
  int64_t aStride, bStride;
  int64_t blocks;
};

// C[row][panel of 64 columns]: strides in floats.
struct TileOutput {
  float* out;
  int64_t rowStride, panelStride;
  int64_t rows, columns;  // columns: a multiple of 64
  const float *scale, *bias;
  bool accumulate;
};

// Two by two tiles of C: four sums, two tiles of A, two of B.
template <int planes>
INLINE void multiplySquare(Tiles& tiles, const TileOperands& o, bool accumulate, float* out, int64_t strideBytes,
                           Prefetcher& prefetcher) {
  constexpr Bfloat16Terms terms = bfloat16Terms[planes - 1];
  float* const below = (float*)((char*)out + 16 * strideBytes);
  if (accumulate) {
    tiles.load<0>(out, strideBytes);
    tiles.load<1>(out + 16, strideBytes);
    tiles.load<2>(below, strideBytes);
    tiles.load<3>(below + 16, strideBytes);
  } else {
    tiles.zero<0>();
    tiles.zero<1>();
    tiles.zero<2>();
    tiles.zero<3>();
  }
  for (int64_t block = 0; block < o.blocks; block++) {
    prefetcher.fetch();
    const uint16_t *a = o.a + block * planes * tileHalves, *b = o.b + block * planes * tileHalves;
    UNROLL for (int t = 0; t < terms.count; t++) {
      const Bfloat16Term term = terms.term[t];
      if (t == 0 || term.a != terms.term[t - 1].a) {
        tiles.load<4>(a + term.a * tileHalves, 64);
        tiles.load<5>(a + term.a * tileHalves + o.aStride, 64);
      }
      if (t == 0 || term.b != terms.term[t - 1].b) {
        tiles.load<6>(b + term.b * tileHalves, 64);
        tiles.load<7>(b + term.b * tileHalves + o.bStride, 64);
      }
      tiles.multiply<0, 4, 6>();
      tiles.multiply<1, 4, 7>();
      tiles.multiply<2, 5, 6>();
      tiles.multiply<3, 5, 7>();
    }
  }
  tiles.store<0>(out, strideBytes);
  tiles.store<1>(out + 16, strideBytes);
  tiles.store<2>(below, strideBytes);
  tiles.store<3>(below + 16, strideBytes);
}

INLINE void copySquare(const float* from, int64_t fromStride, int64_t rows, float* to, int64_t toStride) {
  for (int64_t r = 0; r < rows; r++)
    UNROLL for (int c = 0; c < blockSide; c += lanes) store(to + r * toStride + c, load(from + r * fromStride + c));
}

// All of a product. Of K as much at a time as leaves A's share in the level-1 cache, while B passes
// through it from level 2.
template <int planes>
static void multiplyAllSquares(TileOperands o, TileOutput to, Prefetch next) {
  constexpr int64_t inCache = (16 << 10) / (2 * planes * tileHalves * 2), blocksAtOnce = inCache > 1 ? inCache : 1;
  const FlushDenormals flush;
  Tiles tiles;
  const int64_t blocks = o.blocks;
  Prefetcher prefetcher(next, divideUp(to.rows, blockSide) * (to.columns / blockSide) * blocks);
  for (int64_t block = 0; block < blocks; block += blocksAtOnce, to.accumulate = true) {
    o.blocks = blocks - block < blocksAtOnce ? blocks - block : blocksAtOnce;
    const bool scales = to.scale && block + o.blocks == blocks;
    for (int64_t r = 0; r < to.rows; r += blockSide) {
      const int64_t rows = to.rows - r < blockSide ? to.rows - r : blockSide;
      for (int64_t c = 0; c < to.columns; c += blockSide) {
        TileOperands square = o;
        square.a += r / 16 * o.aStride + block * planes * tileHalves;
        square.b += c / 16 * o.bStride + block * planes * tileHalves;
        float* out = to.out + r * to.rowStride + c / panelLanes * to.panelStride + c % panelLanes;
        if (rows == blockSide) {
          multiplySquare<planes>(tiles, square, to.accumulate, out, to.rowStride * 4, prefetcher);
        } else {  // at the lower edge, where whole tiles would be stored over what follows
          alignas(64) float edge[blockSide * blockSide] = {};
          if (to.accumulate) copySquare(out, to.rowStride, rows, edge, blockSide);
          multiplySquare<planes>(tiles, square, to.accumulate, edge, blockSide * 4, prefetcher);
          copySquare(edge, blockSide, rows, out, to.rowStride);
        }
        for (int64_t i = 0; scales && i < rows; i++) {
          UNROLL for (int v = 0; v < blockSide; v += lanes) {
            float* at = out + i * to.rowStride + v;
            store(at, scaledLogits(load(at), to.scale[r + i], to.bias ? to.bias + r + i : nullptr));
          }
        }
      }
    }
  }
}

INLINE void multiplyAllSquares(const Bfloat16Shape& shape, const TileOperands& o, const TileOutput& to, Prefetch next) {
  if (shape.planes == 1) multiplyAllSquares<1>(o, to, next);
  else multiplyAllSquares<2>(o, to, next);
}

static void tileLogits(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t firstRow,
                       int64_t panels, const float* scale, const float* bias, float* tile, Prefetch next) {
  const int64_t blocks = blocksOf(shape.dim), stride = blocks * shape.planes * tileHalves;
  multiplyAllSquares(
      shape,
      {tileAt(packed.weightRows, 0), (const uint16_t*)packed.input + firstRow / 16 * stride, stride, stride, blocks},
      {tile, panelLanes, shape.tileClasses * panelLanes, classes, panels * panelLanes, scale, bias, false}, next);
}

static void tileWeightGradient(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t firstRow,
                               int64_t panels, float* out, bool accumulate, Prefetch next) {
  const int64_t aStride = blocksOf(shape.chunkRows) * shape.planes * tileHalves;
  const int64_t bStride = blocksOf(shape.paddedRows) * shape.planes * tileHalves;
  const uint16_t* b = tileAt(packed.inputGradient, firstRow / bfloat16Block * shape.planes);
  const int64_t columns = dimensionTiles(shape) * 16;
  multiplyAllSquares(shape, {tileAt(packed.gradByClass, 0), b, aStride, bStride, blocksOf(panels * panelLanes)},
                     {out, columns, panelLanes, classes, columns, nullptr, nullptr, accumulate}, next);
}

static void tileInputGradient(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t panels,
                              float* out, bool accumulate, Prefetch next) {
  const int64_t stride = blocksOf(shape.tileClasses) * shape.planes * tileHalves;
  multiplyAllSquares(
      shape, {tileAt(packed.weightPairs, 0), tileAt(packed.gradByRow, 0), stride, stride, blocksOf(classes)},
      {out, panelLanes, shape.dim * panelLanes, shape.dim, panels * panelLanes, nullptr, nullptr, accumulate}, next);
}

// Two vectors → the 32 values of a row of A in each plane's tile.
INLINE void packRowOfA(Vector first, Vector second, int planes, uint16_t* to) {
  forPlanes(first, second, planes, [&](Rounded a, Rounded b, int plane) __attribute__((always_inline)) {
    *(VectorHalves*)(to + plane * tileHalves) = halves(a);
    *(VectorHalves*)(to + plane * tileHalves + lanes) = halves(b);
  });
}

// Two values of K of 16 columns → a row of B in each plane's tile.
INLINE void packRowOfB(Vector first, Vector second, int planes, uint16_t* to) {
  forPlanes(first, second, planes, [&](Rounded a, Rounded b, int plane) __attribute__((always_inline)) {
    store((float*)(to + plane * tileHalves), (Vector)(lower(a) | lower(b) << 16));
  });
}

static void packTileInput(const Bfloat16Shape& shape, const float* rows, int64_t first, const float* factors,
                          const float* gradientFactors, const Packed& packed) {
  const int64_t dim = shape.dim, blocks = blocksOf(dim);
  const int planes = shape.planes;
  for (int64_t b = 0; b < blocks; b++) {
    float columns[bfloat16Block][16];
    packColumns(rows + b * bfloat16Block, dim, dim - b * bfloat16Block, factors, columns);
    uint16_t* to = tileAt(packed.input, (first / 16 * blocks + b) * planes);
    for (int k = 0; k < bfloat16Block; k += 2) packRowOfB(load(columns[k]), load(columns[k + 1]), planes, to + k * 16);
  }
  if (!packed.inputGradient) return;
  const auto values = [&](int i, int64_t d) __attribute__((always_inline)) {
    return rowTimes(rows + i * dim, dim, d, gradientFactors[i]);
  };
  for (int64_t t = 0; t < dimensionTiles(shape); t++) {
    uint16_t* to = tileAt(packed.inputGradient, (t * blocksOf(shape.paddedRows) + first / bfloat16Block) * planes) +
                   first % bfloat16Block * 16;
    for (int i = 0; i < 16; i += 2) packRowOfB(values(i, t * 16), values(i + 1, t * 16), planes, to + i * 16);
  }
}

static void packTileWeights(const Bfloat16Shape& shape, const float* weight, int64_t classes, const Packed& packed) {
  const int64_t dim = shape.dim, dimBlocks = blocksOf(dim), classBlocks = blocksOf(shape.tileClasses);
  const int planes = shape.planes;
  for (int64_t j = 0; packed.weightRows && j < classes; j++) {
    uint16_t* to = tileAt(packed.weightRows, j / 16 * dimBlocks * planes) + j % 16 * bfloat16Block;
    for (int64_t d = 0; d < dim; d += bfloat16Block, to += planes * tileHalves)
      packRowOfA(loadFew(weight + j * dim + d, dim - d), loadFew(weight + j * dim + d + lanes, dim - d - lanes), planes,
                 to);
  }
  // Pairs of classes of 16 dimensions are rows of a B; A is its transpose.
  for (int64_t first = 0; packed.weightPairs && first < classes; first += bfloat16Block) {
    for (int64_t d = 0; d < dim; d += 16) {
      const auto values = [&](int64_t j) __attribute__((always_inline)) {
        return j < classes ? loadFew(weight + j * dim + d, dim - d) : (Vector){};
      };
      alignas(64) uint16_t pairs[margin_softmax::cpu::maxPlanes * tileHalves];
      for (int k = 0; k < bfloat16Block; k += 2)
        packRowOfB(values(first + k), values(first + k + 1), planes, pairs + k * 16);
      uint16_t* to = tileAt(packed.weightPairs, (d / 16 * classBlocks + first / bfloat16Block) * planes);
      for (int plane = 0; plane < planes; plane++) {
        VectorBits words[16];
        UNROLL for (int i = 0; i < 16; i++) words[i] = *(const VectorBits*)(pairs + plane * tileHalves + i * 32);
        transpose(words);
        UNROLL for (int i = 0; i < 16; i++) store((float*)(to + plane * tileHalves + i * 32), (Vector)words[i]);
      }
    }
  }
}

static void packTileGradient(const Bfloat16Shape& shape, const float* gradient, int64_t classes, int64_t panels,
                             const Packed& packed) {
  const int64_t rows = panels * panelLanes, rowBlocks = blocksOf(shape.chunkRows);
  const int64_t classBlocks = blocksOf(shape.tileClasses);
  const int planes = shape.planes;
  const auto at = [&](int64_t row, int64_t j)
                      __attribute__((always_inline)) { return gradientAt(shape, gradient, row, j); };
  for (int64_t row = 0; packed.gradByClass && row < rows; row += bfloat16Block) {
    for (int64_t j = 0; j < classes; j++)
      packRowOfA(
          load(at(row, j)), load(at(row + lanes, j)), planes,
          tileAt(packed.gradByClass, (j / 16 * rowBlocks + row / bfloat16Block) * planes) + j % 16 * bfloat16Block);
  }
  for (int64_t row = 0; packed.gradByRow && row < rows; row += 16) {
    for (int64_t j = 0; j < blocksOf(classes) * bfloat16Block; j += 2)
      packRowOfB(
          j < classes ? load(at(row, j)) : (Vector){}, j + 1 < classes ? load(at(row, j + 1)) : (Vector){}, planes,
          tileAt(packed.gradByRow, (row / 16 * classBlocks + j / bfloat16Block) * planes) + j % bfloat16Block * 16);
  }
}

#if defined(AMX_EMULATED)
constexpr bool nativeTiles = false;
#else
constexpr bool nativeTiles = true;
#endif
constexpr Bfloat16Kernels bfloat16Kernels = {nativeTiles,   nativeTiles,        tileSizes,
                                             packTileInput, packTileWeights,    packTileGradient,
                                             tileLogits,    tileWeightGradient, tileInputGradient};

}  // namespace
