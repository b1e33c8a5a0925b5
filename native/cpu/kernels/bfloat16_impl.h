// The products of bfloat16_kernels.h on vectors, written once: lanes are rows of the batch, or
// dimensions in the weights' gradient. Where the compiler is told of vdpbf16ps, an element of an
// operand is a pair of bfloat16; elsewhere it is one bfloat16, widened to a float when it is
// packed, so that the inner loop is that of float32.
//
// A block's even and odd numbers are two chains, and operands hold them one behind the other, so
// that one loop serves both. vdpbf16ps adds the product of a pair's upper halves, then that of its
// lower halves, each in one fused multiply-add: so the pairs of the even chain are (upper 0, lower
// 2), (4, 6), …, (28, 30), those of the odd one (1, 3), …, (29, 31).
//
// Without fused multiply-adds (portable, on x64) the bits differ where a product leaves float32's
// range: all others are exact.
#pragma once
#include "bfloat16_vectors_impl.h"

namespace {

constexpr int pairRows = PAIR_ROWS;
constexpr int pairVectors = PAIR_VECTORS;
constexpr int pairLanes = pairVectors * lanes;  // P
static_assert(panelLanes % pairLanes == 0, "a panel of logits is so many panels of pairs");

constexpr int greatestDivisor(int a, int b) { return b ? greatestDivisor(b, a % b) : a; }
// G: dimensions of weightPairs side by side, whole vectors and whole blocks.
constexpr int groupRows = 16 / greatestDivisor(16, pairRows) * pairRows;

#if defined(__AVX512BF16__)

constexpr bool nativePairs = true;
typedef uint32_t Element;
constexpr int chainSteps = 8;  // S
typedef VectorBits Step;
INLINE Step loadStep(const Element* from) { return (VectorBits)load((const float*)from); }
INLINE Step broadcastStep(const Element* from) { return (VectorBits){} + *from; }
INLINE Vector multiplyAdd(Vector sum, Step a, Step b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a));
  return sum;
}

// 32 values of a row from valuesAt(0) and valuesAt(lanes) → [plane][chain][S].
template <class Values>
INLINE void packRow(const Values& valuesAt, int planes, Element* to) {
  alignas(64) static constexpr uint16_t order[32] = {2, 0, 6, 4, 10, 8, 14, 12, 18, 16, 22, 20, 26, 24, 30, 28,
                                                     3, 1, 7, 5, 11, 9, 15, 13, 19, 17, 23, 21, 27, 25, 31, 29};
  Vector first = valuesAt(0), second = valuesAt(lanes);
  for (int plane = 0;; plane++) {
    VectorBits words;
    asm("vcvtne2ps2bf16 %1, %2, %0" : "=v"(words) : "v"(first), "v"(second));  // the first in the lower half
    asm("vpermw %1, %2, %0" : "=v"(words) : "v"(words), "v"(*(const VectorBits*)order));
    store((float*)to + plane * 2 * chainSteps, (Vector)words);
    if (plane + 1 == planes) return;
    first -= widened(rounded(first));
    second -= widened(rounded(second));
  }
}

// A vector of each k in [first, first + count) of a block, from valuesOf(k) →
// [plane][chain][S][width]; both are multiples of 4.
template <class Values>
INLINE void packVectors(const Values& valuesOf, int first, int count, int planes, int64_t width, Element* to) {
  for (int step = first / 4; step < (first + count) / 4; step++) {
    for (int chain = 0; chain < 2; chain++) {
      forPlanes(valuesOf(4 * step + chain), valuesOf(4 * step + 2 + chain), planes,
                [&](Rounded upper, Rounded lowerHalf, int plane) __attribute__((always_inline)) {
                  Element* at = to + ((plane * 2 + chain) * chainSteps + step) * width;
                  store((float*)at, (Vector)(lower(lowerHalf) | lower(upper) << 16));
                });
    }
  }
}

#else

constexpr bool nativePairs = false;
typedef float Element;
constexpr int chainSteps = 16;  // S
typedef Vector Step;
INLINE Step loadStep(const Element* from) { return load(from); }
INLINE Step broadcastStep(const Element* from) { return broadcast(*from); }
INLINE Vector multiplyAdd(Vector sum, Step a, Step b) { return sum + a * b; }

template <class Values>
INLINE void packRow(const Values& valuesAt, int planes, Element* to) {
  float left[bfloat16Block], values[bfloat16Block];
  UNROLL for (int i = 0; i < bfloat16Block; i += lanes) store(left + i, valuesAt(i));
  for (int plane = 0; plane < planes; plane++, to += 2 * chainSteps) {
    UNROLL for (int i = 0; i < bfloat16Block; i += lanes) {
      const Vector x = load(left + i), value = widened(rounded(x));
      store(values + i, value);
      store(left + i, x - value);
    }
    for (int s = 0; s < chainSteps; s++) {
      to[s] = values[2 * s];
      to[chainSteps + s] = values[2 * s + 1];
    }
  }
}

template <class Values>
INLINE void packVectors(const Values& valuesOf, int first, int count, int planes, int64_t width, Element* to) {
  for (int k = first; k < first + count; k++) {
    Vector x = valuesOf(k);
    for (int plane = 0; plane < planes; plane++) {
      const Vector value = widened(rounded(x));
      store(to + ((plane * 2 + k % 2) * chainSteps + k / 2) * width, value);
      x -= value;
    }
  }
}

#endif

// Elements of a plane of one block: of a row, and of `width` lanes side by side.
constexpr int64_t rowPlane = 2 * chainSteps;
constexpr int64_t lanePlane(int64_t width) { return rowPlane * width; }

// Layouts, S steps of each of two chains:
//   input          [panel of P rows][block of D][plane][chain][S][P]
//   inputGradient  [panel of P dimensions][block of rows][plane][chain][S][P]
//   weightRows     [class][block of D][plane][chain][S]
//   weightPairs    [group of G dimensions][block of classes][plane][chain][S][G]
//   gradByClass    [block of rows][class][plane][chain][S]
//   gradByRow      [panel of P rows][block of classes][plane][chain][S][P]
static PackedSizes laneSizes(const Bfloat16Shape& shape) {
  const int64_t plane = shape.planes * rowPlane * (int64_t)sizeof(Element);
  const int64_t dimBlocks = blocksOf(shape.dim), classBlocks = blocksOf(shape.tileClasses);
  return {plane * shape.paddedRows * dimBlocks,
          plane * divideUp(shape.dim, pairLanes) * pairLanes * blocksOf(shape.paddedRows),
          plane * shape.tileClasses * dimBlocks,
          plane * divideUp(shape.dim, groupRows) * groupRows * classBlocks,
          plane * shape.tileClasses * blocksOf(shape.chunkRows),
          plane * shape.chunkRows * classBlocks};
}

// B's share of the level-1 cache: 16 of 32 or 48 KB.
constexpr int64_t firstCacheBytes = 16 << 10;

// A product's operands: `rows` are those of A, strides are in elements.
struct BlockOperands {
  const Element* rows;
  int64_t rowStride, stepStride;        // from a row to the next; from a step to the next
  int64_t rowPlaneStride, blockStride;  // from a plane, a block of A to the next
  const Element* vectors;               // [block][plane][chain][S][P]
  int64_t blocks;
  int planes;
};

// The destination of a product: out[row][P], scale[row] and bias[row] or null.
struct BlockOutput {
  float* out;
  int64_t stride;
  const float *scale, *bias;
  bool accumulate;
};

// One chain of a block: S steps from +0.
template <int Rows>
INLINE void multiplyChain(const Element* rows, int64_t rowStride, int64_t stepStride, const Element* vectors,
                          Vector (&sum)[Rows][pairVectors]) {
  UNROLL for (int r = 0; r < Rows; r++) UNROLL for (int v = 0; v < pairVectors; v++) sum[r][v] = (Vector){};
  for (int s = 0; s < chainSteps; s++) {
    Step b[pairVectors];
    UNROLL for (int v = 0; v < pairVectors; v++) b[v] = loadStep(vectors + v * lanes);
    UNROLL for (int r = 0; r < Rows; r++) {
      const Step a = broadcastStep(rows + r * rowStride);
      UNROLL for (int v = 0; v < pairVectors; v++) sum[r][v] = multiplyAdd(sum[r][v], a, b[v]);
    }
    rows += stepStride;
    vectors += pairLanes;
  }
}

// A block of output, Rows × P. Its sums stay in memory, in the level-1 cache: registers hold one
// chain, and the even chain's sums wait on the stack for the odd one's.
template <int Rows>
static __attribute__((noinline)) void multiplyBlocks(const BlockOperands& o, const BlockOutput& to,
                                                     Prefetcher& prefetcher) {
  const Bfloat16Terms& terms = bfloat16Terms[o.planes - 1];
  const int64_t rowStride = o.rowStride, stepStride = o.stepStride, outStride = to.stride;
  float* const out = to.out;
  bool empty = !to.accumulate;
  for (int64_t block = 0; block < o.blocks; block++) {
    for (int t = 0; t < terms.count; t++) {
      prefetcher.fetch();
      const Element* rows = o.rows + block * o.blockStride + terms.term[t].a * o.rowPlaneStride;
      const Element* vectors = o.vectors + (block * o.planes + terms.term[t].b) * lanePlane(pairLanes);
      Vector even[Rows][pairVectors], odd[Rows][pairVectors];
      multiplyChain<Rows>(rows, rowStride, stepStride, vectors, even);
      multiplyChain<Rows>(rows + chainSteps * stepStride, rowStride, stepStride, vectors + chainSteps * pairLanes, odd);
      UNROLL for (int r = 0; r < Rows; r++) {
        UNROLL for (int v = 0; v < pairVectors; v++) {
          float* at = out + r * outStride + v * lanes;
          const Vector before = empty ? (Vector){} : load(at);
          store(at, before + (even[r][v] + odd[r][v]));
        }
      }
      empty = false;
    }
  }
  if (!to.scale) return;
  UNROLL for (int r = 0; r < Rows; r++) {
    UNROLL for (int v = 0; v < pairVectors; v++) {
      float* at = out + r * outStride + v * lanes;
      store(at, scaledLogits(load(at), to.scale[r], to.bias ? to.bias + r : nullptr));
    }
  }
}

template <int Rows>
static void multiplyBlocksRest(int64_t rest, const BlockOperands& o, const BlockOutput& to, Prefetcher& prefetcher) {
  if constexpr (Rows > 0) {
    if (rest == Rows) multiplyBlocks<Rows>(o, to, prefetcher);
    else multiplyBlocksRest<Rows - 1>(rest, o, to, prefetcher);
  }
}

// All rows of a product. Of K as much at a time as keeps B's share of it in the level-1 cache for
// all rows.
INLINE void multiplyAllBlocks(int64_t rows, BlockOperands o, BlockOutput to, Prefetcher& prefetcher) {
  const int64_t inCache = firstCacheBytes / (o.planes * lanePlane(pairLanes) * (int64_t)sizeof(Element));
  const int64_t blocks = o.blocks, blocksAtOnce = inCache > 1 ? inCache : 1;
  const float* scale = to.scale;
  for (int64_t block = 0; block < blocks; block += blocksAtOnce) {
    o.blocks = blocks - block < blocksAtOnce ? blocks - block : blocksAtOnce;
    to.scale = block + o.blocks == blocks ? scale : nullptr;
    BlockOperands part = o;
    BlockOutput here = to;
    int64_t r = 0;
    for (; r + pairRows <= rows; r += pairRows) {
      multiplyBlocks<pairRows>(part, here, prefetcher);
      part.rows += pairRows * o.rowStride;
      here.out += pairRows * to.stride;
      if (here.scale) here.scale += pairRows;
      if (here.bias) here.bias += pairRows;
    }
    if (r < rows) multiplyBlocksRest<pairRows - 1>(rows - r, part, here, prefetcher);
    o.rows += o.blocks * o.blockStride;
    o.vectors += o.blocks * o.planes * lanePlane(pairLanes);
    to.accumulate = true;
  }
}

static void laneLogits(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t firstRow,
                       int64_t panels, const float* scale, const float* bias, float* tile, Prefetch next) {
  const FlushDenormals flush;
  const int64_t blocks = blocksOf(shape.dim), blockStride = shape.planes * rowPlane;
  const int64_t inputPanel = blocks * shape.planes * lanePlane(pairLanes);
  const int64_t lanePanels = panels * (panelLanes / pairLanes), terms = bfloat16Terms[shape.planes - 1].count;
  Prefetcher prefetcher(next, lanePanels * divideUp(classes, pairRows) * blocks * terms);
  for (int64_t p = 0; p < lanePanels; p++) {
    const BlockOperands o{(const Element*)packed.weightRows,
                          blocks * blockStride,
                          1,
                          rowPlane,
                          blockStride,
                          (const Element*)packed.input + (firstRow / pairLanes + p) * inputPanel,
                          blocks,
                          shape.planes};
    const int64_t lane = p * pairLanes;
    float* out = tile + lane / panelLanes * shape.tileClasses * panelLanes + lane % panelLanes;
    multiplyAllBlocks(classes, o, {out, panelLanes, scale, bias, false}, prefetcher);
  }
}

static void laneWeightGradient(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t firstRow,
                               int64_t panels, float* out, bool accumulate, Prefetch next) {
  const FlushDenormals flush;
  const int64_t blocks = blocksOf(panels * panelLanes), rowStride = shape.planes * rowPlane;
  const int64_t dimPanels = divideUp(shape.dim, pairLanes), terms = bfloat16Terms[shape.planes - 1].count;
  const int64_t inputBlock = shape.planes * lanePlane(pairLanes);
  Prefetcher prefetcher(next, dimPanels * divideUp(classes, pairRows) * blocks * terms);
  for (int64_t d = 0; d < dimPanels; d++) {
    const int64_t firstBlock = d * blocksOf(shape.paddedRows) + firstRow / bfloat16Block;
    const BlockOperands o{(const Element*)packed.gradByClass,
                          rowStride,
                          1,
                          rowPlane,
                          shape.tileClasses * rowStride,
                          (const Element*)packed.inputGradient + firstBlock * inputBlock,
                          blocks,
                          shape.planes};
    const int64_t outStride = divideUp(shape.dim, panelLanes) * panelLanes;
    multiplyAllBlocks(classes, o, {out + d * pairLanes, outStride, nullptr, nullptr, accumulate}, prefetcher);
  }
}

static void laneInputGradient(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t panels,
                              float* out, bool accumulate, Prefetch next) {
  const FlushDenormals flush;
  const int64_t blocks = blocksOf(classes), room = blocksOf(shape.tileClasses), dim = shape.dim;
  const int64_t lanePanels = panels * (panelLanes / pairLanes), terms = bfloat16Terms[shape.planes - 1].count;
  Prefetcher prefetcher(next, lanePanels * divideUp(dim, pairRows) * blocks * terms);
  for (int64_t p = 0; p < lanePanels; p++) {
    const int64_t lane = p * pairLanes;
    float* panelOut = out + lane / panelLanes * dim * panelLanes + lane % panelLanes;
    for (int64_t d = 0; d < dim; d += groupRows) {
      const BlockOperands o{(const Element*)packed.weightPairs + d * room * shape.planes * rowPlane,
                            1,
                            groupRows,
                            lanePlane(groupRows),
                            shape.planes * lanePlane(groupRows),
                            (const Element*)packed.gradByRow + p * room * shape.planes * lanePlane(pairLanes),
                            blocks,
                            shape.planes};
      const int64_t rows = dim - d < groupRows ? dim - d : groupRows;
      multiplyAllBlocks(rows, o, {panelOut + d * panelLanes, panelLanes, nullptr, nullptr, accumulate}, prefetcher);
    }
  }
}

static void packLaneInput(const Bfloat16Shape& shape, const float* rows, int64_t first, const float* factors,
                          const float* gradientFactors, const Packed& packed) {
  const int64_t dim = shape.dim, blocks = blocksOf(dim), block = shape.planes * lanePlane(pairLanes);
  Element* input = (Element*)packed.input + first / pairLanes * blocks * block + first % pairLanes;
  for (int64_t b = 0; b < blocks; b++, input += block) {
    float columns[bfloat16Block][16];
    packColumns(rows + b * bfloat16Block, dim, dim - b * bfloat16Block, factors, columns);
    for (int lane = 0; lane < 16; lane += lanes)
      packVectors([&](int k) __attribute__((always_inline)) { return load(columns[k] + lane); }, 0, bfloat16Block,
                  shape.planes, pairLanes, input + lane);
  }
  if (!packed.inputGradient) return;
  const int inBlock = first % bfloat16Block;
  Element* gradient = (Element*)packed.inputGradient + first / bfloat16Block * block;
  for (int64_t d = 0; d < divideUp(dim, pairLanes) * pairLanes; d += lanes)
    packVectors(
        [&](int k) __attribute__((always_inline)) {
          const int i = k - inBlock;
          return rowTimes(rows + i * dim, dim, d, gradientFactors[i]);
        },
        inBlock, 16, shape.planes, pairLanes,
        gradient + d / pairLanes * blocksOf(shape.paddedRows) * block + d % pairLanes);
}

static void packLaneWeights(const Bfloat16Shape& shape, const float* weight, int64_t classes, const Packed& packed) {
  const int64_t dim = shape.dim, dimBlocks = blocksOf(dim);
  Element* rows = (Element*)packed.weightRows;
  for (int64_t j = 0; rows && j < classes; j++) {
    for (int64_t b = 0; b < dimBlocks; b++, rows += shape.planes * rowPlane) {
      const float* w = weight + j * dim + b * bfloat16Block;
      const int64_t count = dim - b * bfloat16Block;
      packRow([&](int i) __attribute__((always_inline)) { return loadFew(w + i, count - i); }, shape.planes, rows);
    }
  }
  if (!packed.weightPairs) return;
  const int64_t blockStride = shape.planes * lanePlane(groupRows);
  for (int64_t first = 0; first < classes; first += bfloat16Block) {
    Element* block = (Element*)packed.weightPairs + first / bfloat16Block * blockStride;
    for (int64_t d = 0; d < divideUp(dim, groupRows) * groupRows; d += lanes) {
      const float* w = weight + first * dim + d;
      packVectors([&](int k) __attribute__((
                      always_inline)) { return first + k < classes ? loadFew(w + k * dim, dim - d) : (Vector){}; },
                  0, bfloat16Block, shape.planes, groupRows,
                  block + d / groupRows * blocksOf(shape.tileClasses) * blockStride + d % groupRows);
    }
  }
}

static void packLaneGradient(const Bfloat16Shape& shape, const float* gradient, int64_t classes, int64_t panels,
                             const Packed& packed) {
  const int64_t rows = panels * panelLanes;
  const auto at = [&](int64_t row, int64_t j)
                      __attribute__((always_inline)) { return gradientAt(shape, gradient, row, j); };
  for (int64_t first = 0; packed.gradByClass && first < rows; first += bfloat16Block) {
    Element* to = (Element*)packed.gradByClass + first / bfloat16Block * shape.tileClasses * shape.planes * rowPlane;
    for (int64_t j = 0; j < classes; j++, to += shape.planes * rowPlane)
      packRow([&](int i)
                  __attribute__((always_inline)) { return first + i < rows ? load(at(first + i, j)) : (Vector){}; },
              shape.planes, to);
  }
  const int64_t blockStride = shape.planes * lanePlane(pairLanes);
  for (int64_t row = 0; packed.gradByRow && row < rows; row += lanes) {
    Element* to =
        (Element*)packed.gradByRow + row / pairLanes * blocksOf(shape.tileClasses) * blockStride + row % pairLanes;
    for (int64_t first = 0; first < classes; first += bfloat16Block, to += blockStride)
      packVectors(
          [&](int k)
              __attribute__((always_inline)) { return first + k < classes ? load(at(row, first + k)) : (Vector){}; },
          0, bfloat16Block, shape.planes, pairLanes, to);
  }
}

constexpr Bfloat16Kernels bfloat16Kernels = {
    nativePairs,      false,      laneSizes,          packLaneInput,    packLaneWeights,
    packLaneGradient, laneLogits, laneWeightGradient, laneInputGradient};

}  // namespace
