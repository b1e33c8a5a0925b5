// Tiles of scores written out, for the k best classes of each row: cosines, or raw scores with their bias.
#pragma once
#include "tile.cuh"
#include "warp_rows.cuh"

namespace margin_softmax::cuda {

struct ScoreData {
  int paddedDim, classes, stride;  // classes of the chunk, and those padded to whole tiles
  const float* bias;               // [classes] or null
  float* inputOperand;             // [padded rows][paddedDim]
  float* weightOperand;            // [stride][paddedDim]
  float* scores;                   // [padded rows][stride]
};

// A warp to a row of either matrix: its direction, or itself for raw scores, padded with zeros.
static __global__ void __launch_bounds__(rowWarps * 32)
    prepareVectors(const float* from, int count, int dim, int paddedCount, int paddedDim, bool normalized, float* to) {
  const int row = warpRow(), lane = threadIdx.x % 32;
  if (row >= paddedCount) return;
  const bool present = row < count;
  const float* v = from + static_cast<int64_t>(present ? row : 0) * dim;
  const float scale = !present ? 0 : normalized ? inverseNormOfRow(v, dim) : 1;
  for (int d = lane; d < paddedDim; d += 32)
    to[static_cast<int64_t>(row) * paddedDim + d] = present && d < dim ? v[d] * scale : 0;
}

// A tile of scores per block. Grid: row tiles × class tiles.
template <class Core>
__global__ void __launch_bounds__(LogitTile<Core>::threads, LogitTile<Core>::blocks) scoreTile(ScoreData data) {
  using Tile = LogitTile<Core>;
  using Operand = Matrix<typename Core::Element>;
  gpu::SharedPool pool;
  unsigned char* staged = pool.take<unsigned char>(Tile::sharedBytes);
  const int firstRow = blockIdx.x * Tile::rows, firstColumn = blockIdx.y * Tile::columns;
  typename Tile::Sums sums;
  Tile::multiply(Operand{data.inputOperand, data.paddedDim, 0, data.paddedDim}, firstRow,
                 Operand{data.weightOperand, data.paddedDim, 0, data.paddedDim}, firstColumn, 0, data.paddedDim,
                 leadingOnly, staged, sums);
  forEachColumn<Tile>([&](int c, int tileColumn) {
    const int column = firstColumn + tileColumn;
    const float bias = data.bias && column < data.classes ? data.bias[column] : 0;
    forEachRow<Tile>([&](int r, int row) {
      data.scores[static_cast<int64_t>(firstRow + row) * data.stride + column] = sums.at(r, c) + bias;
    });
  });
}

}  // namespace margin_softmax::cuda
