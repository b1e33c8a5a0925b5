// A warp to a row of a matrix: which row, and its norm.
#pragma once
#include "../formulas/row.h"
#include "gpu.cuh"

namespace margin_softmax::cuda {

constexpr int rowWarps = 8;  // rows of a block

__device__ inline int warpRow() { return blockIdx.x * rowWarps + threadIdx.x / 32; }

// 1/‖w‖ of a warp's row: in single precision, and by way of double where squares could leave its range.
__device__ inline float inverseNormOfRow(const float* w, int dim) {
  const int lane = threadIdx.x % 32;
  float squares = 0;
  for (int d = lane; d < dim; d += 32) squares = fmaf(w[d], w[d], squares);
  squares = gpu::warpSum(squares);
  if (squares > 1e-24f && squares < 1e30f) return 1 / sqrtf(squares);
  double exact = 0;
  for (int d = lane; d < dim; d += 32) exact += static_cast<double>(w[d]) * w[d];
  return static_cast<float>(inverseNorm(gpu::warpSum(exact)));
}

}  // namespace margin_softmax::cuda
