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

static __global__ void __launch_bounds__(tileThreads, MultiplyAddCore::blocks) scoreTile(ScoreData data) {
  gpu::SharedPool pool;
  float* staged = pool.take<float>(tileSharedBytes / sizeof(float));
  const int firstRow = blockIdx.x * tileSize, firstColumn = blockIdx.y * tileSize;
  Sums sums;
  multiplyTile<MultiplyAddCore, Lies::along, Lies::along>({data.inputOperand, data.paddedDim, 0, data.paddedDim},
                                                          firstRow,
                                                          {data.weightOperand, data.paddedDim, 0, data.paddedDim},
                                                          firstColumn, 0, data.paddedDim, leadingOnly, staged, sums);
#pragma unroll
  for (int c = 0; c < 8; c++) {
    const int column = firstColumn + MultiplyAddCore::column<Lies::along>(c);
    const float bias = data.bias && column < data.classes ? data.bias[column] : 0;
#pragma unroll
    for (int r = 0; r < 8; r++) {
      const int row = firstRow + MultiplyAddCore::row<Lies::along>(r);
      data.scores[static_cast<int64_t>(row) * data.stride + column] = sums.at(r, c) + bias;
    }
  }
}

}  // namespace margin_softmax::cuda
