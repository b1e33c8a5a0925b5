// The seam between kernels and what multiplies. A block computes one tile of out[m][n] = Σ_k a(m, k)·b(n, k), and asks
// its core for everything about it; cores/ holds the cores, cores.cuh says which of them a step takes.
//
//   Core                          who multiplies
//     Element                     of the operands: float, Tf32 or bf16
//     logitUnit, power(x)         logits are multiples of logitUnit, and power(x) is e^(x·logitUnit)
//     Tile<aMajor, bMajor>        a tile of a product whose operands lie so. The three may differ in everything:
//
//   Tile
//     rows, columns               outputs of a block; columns of the gradients' tiles are a multiple of 128
//     depth                       k comes in multiples of this
//     threads, blocks             of a block; of a multiprocessor at least, for __launch_bounds__
//     sharedBytes                 dynamic shared memory: operands, and after them an epilogue's scratch
//     Sums, sums.at(r, c)         a thread's threadRows × threadColumns outputs, in registers
//     multiply<onePlane>(…)       the pipeline: clears the sums and adds up a range of k
//     row(r), column(c)           where in the tile a thread's output (r, c) stands; rows are multiples of
//                                 row(1) − row(0) apart
//     pairsColumns                columns 2i and 2i + 1 of a thread are neighbours, the first one even
//     lanesOfRow                  a row's outputs are in the lanes that differ in bits below this, a power of two,
//     warpsOfRow, warpInRow()     and in so many warps
//     firstColumnLane             a column's outputs are in the lanes that differ in bits from this on,
//     warpsOfColumn, warpInColumn()  and in so many warps
//     strips                      passes in which a thread hands over its rows by way of shared memory, threadRows /
//     inStrip(r)                  strips at a time: the place of its row r among the rows of its pass, and
//     rowOfStrip(strip, place)    the tile's row at a place
//
// r, c and strip are constants once loops are unrolled, so sums stay in registers.
#pragma once
#include "operand.cuh"

namespace margin_softmax::cuda {

constexpr double logTwo = 0.693147180559945309417;

// The three products of a step. Rows × columns, and what k runs over:
template <class Core>  // batch × classes, dimensions
using LogitTile = typename Core::template Tile<Major::k, Major::k>;
template <class Core>  // batch × dimensions, classes
using InputTile = typename Core::template Tile<Major::k, Major::mn>;
template <class Core>  // classes × dimensions, batch
using WeightTile = typename Core::template Tile<Major::mn, Major::mn>;

// The place in the product where a block's tile begins.
struct TileOrigin {
  int row, column;
};

// Calls body(r, row) for a thread's rows: r counts them, `row` is the place in the tile.
template <class Tile, class Body>
__device__ __forceinline__ void forEachRow(const Body& body) {
#pragma unroll
  for (int r = 0; r < Tile::threadRows; r++) body(r, Tile::row(r));
}

// Calls body(c, column) for a thread's columns.
template <class Tile, class Body>
__device__ __forceinline__ void forEachColumn(const Body& body) {
#pragma unroll
  for (int c = 0; c < Tile::threadColumns; c++) body(c, Tile::column(c));
}

// Calls body(c, column) for the even ones: c and c + 1 are a pair, and neighbours where Tile::pairsColumns.
template <class Tile, class Body>
__device__ __forceinline__ void forEachPair(const Body& body) {
  static_assert(Tile::threadColumns % 2 == 0, "outputs are handled in pairs");
#pragma unroll
  for (int c = 0; c < Tile::threadColumns; c += 2) body(c, Tile::column(c));
}

// Calls body(r, place) for a thread's rows of one strip: `place` counts the strip's rows.
template <class Tile, class Body>
__device__ __forceinline__ void forEachRowOfStrip(int strip, const Body& body) {
  constexpr int count = Tile::threadRows / Tile::strips;
#pragma unroll
  for (int r = strip * count; r < strip * count + count; r++) body(r, Tile::inStrip(r));
}

// Calls body(i) for i < count, each by another thread of the block as far as they reach.
template <class Tile, int count, class Body>
__device__ __forceinline__ void spread(const Body& body) {
  if constexpr (count <= Tile::threads) {
    if (threadIdx.x < count) body(static_cast<int>(threadIdx.x));
  } else {
    for (int i = threadIdx.x; i < count; i += Tile::threads) body(i);
  }
}

// Combines a thread's value of one of its rows with those of the lanes that share the row.
template <class Tile, class Combine>
__device__ float acrossRow(float value, Combine combine) {
#pragma unroll
  for (int distance = 1; distance < Tile::lanesOfRow; distance *= 2)
    value = combine(value, __shfl_xor_sync(gpu::allLanes, value, distance));
  return value;
}

template <class Tile>
__device__ float sumDownColumn(float value) {
#pragma unroll
  for (int distance = Tile::firstColumnLane; distance < 32; distance *= 2)
    value += __shfl_xor_sync(gpu::allLanes, value, distance);
  return value;
}

}  // namespace margin_softmax::cuda
