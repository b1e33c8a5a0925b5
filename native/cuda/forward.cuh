// Classes as operands, and the forward pass over a chunk of them: see step.cuh.
#pragma once
#include "rows.cuh"

namespace margin_softmax::cuda {

template <class Element>
__global__ void __launch_bounds__(rowWarps * 32) prepareClasses(StepData<Element> step, int firstClass, int classes) {
  const int j = warpRow(), lane = threadIdx.x % 32;
  if (j >= step.chunk) return;
  const bool present = j < classes;
  const float* w = step.weightRow(firstClass + (present ? j : 0));
  const float scale = !present ? 0 : step.normalized ? inverseNormOfRow(w, step.dim) : 1;
  if (lane == 0) step.classScale[j] = scale;
  Element* out = step.weightOperand + static_cast<int64_t>(j) * step.paddedDim;
  for (int d = lane; d < step.paddedDim; d += 32)
    storeOperand(out + d, step.weightPlane(), step.terms, present && d < step.dim ? w[d] * scale : 0);
}

// Whether another class of this cosine takes part in a row. NaN does: the loss shall show it.
__device__ inline bool counted(const StepRows& step, float cosine) { return !(cosine > step.interclassFilter); }

// Where a block's tile of logits begins.
struct LogitTile {
  int firstRow, firstColumn;  // in the batch, in the chunk
};

template <class Element>
__device__ LogitTile logitTile() {
  return {static_cast<int>(blockIdx.x) * tileSize, static_cast<int>(blockIdx.y) * tileSize};
}

template <class Core, class Element>
__device__ void multiplyLogits(const StepData<Element>& step, LogitTile tile, Element* staged, Sums& sums) {
  multiplyTile<Core, Lies::along, Lies::along>(step.inputs(), tile.firstRow, step.weights(), tile.firstColumn, 0,
                                               step.paddedDim, step.terms, staged, sums);
}

// The biases of a block's columns, 0 where there are none.
__device__ inline void loadBias(const StepRows& step, LogitTile tile, int firstClass, int classes, float* bias) {
  if (threadIdx.x >= tileSize) return;
  const int column = tile.firstColumn + threadIdx.x;
  bias[threadIdx.x] = step.bias && column < classes ? step.bias[step.rowOf(firstClass + column)] : 0;
}

// The scratch of an epilogue takes the place of the staged operands, which nobody reads any more: more shared memory
// would cost the second block of a multiprocessor on sm_86 and sm_89.
struct ForwardShared {
  float bias[tileSize];
  float maxima[4][tileSize], sums[4][tileSize], logits[4][tileSize];
};

// `first`: the running figures begin with this chunk.
template <class Core, class Element>
__global__ void __launch_bounds__(tileThreads, Core::blocks)
    forwardTile(StepData<Element> step, int firstClass, int classes, bool first) {
  gpu::SharedPool pool;
  Element* staged = pool.take<Element>(tileSharedBytes / sizeof(Element));
  const LogitTile tile = logitTile<Element>();
  Sums sums;
  multiplyLogits<Core>(step, tile, staged, sums);
  ForwardShared& shared = *reinterpret_cast<ForwardShared*>(staged);
  loadBias(step, tile, firstClass, classes, shared.bias);
  __syncthreads();

#pragma unroll
  for (int r = 0; r < 8; r++) {
    const int row = Core::template row<Lies::along>(r);
    const float scale = step.factors[tile.firstRow + row].scale;
    const int own = step.labels[tile.firstRow + row] - firstClass - tile.firstColumn;
    float maximum = leftOut, logits = 0;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const int column = Core::template column<Lies::along>(c);
      float& z = sums.at(r, c);
      const bool counts = counted(step, z) && tile.firstColumn + column < classes && column != own;
      z = fmaf(scale, z, shared.bias[column]);
      if (counts) logits += z;
      else z = leftOut;
      maximum = fmaxf(maximum, z);
    }
    maximum = acrossRow<Core>(maximum, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const float z = sums.at(r, c);
      if (z != leftOut) sum += expf(z - maximum);
    }
    const auto add = [](float a, float b) { return a + b; };
    sum = acrossRow<Core>(sum, add);
    if (step.labelSmoothing != 0) logits = acrossRow<Core>(logits, add);
    if (threadIdx.x % Core::lanesOfRow == 0) {
      shared.maxima[Core::warpInRow()][row] = maximum;
      shared.sums[Core::warpInRow()][row] = sum;
      shared.logits[Core::warpInRow()][row] = logits;
    }
  }
  __syncthreads();

  if (threadIdx.x >= tileSize) return;
  const int row = threadIdx.x;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * step.paddedRows + tile.firstRow + row;
  const float2 before = first ? make_float2(leftOut, 0) : step.extremes[at];
  float maximum = before.x;
  for (int w = 0; w < Core::warpsOfRow; w++) maximum = fmaxf(maximum, shared.maxima[w][row]);
  float sum = before.y * expf(before.x - maximum);
  for (int w = 0; w < Core::warpsOfRow; w++) sum += shared.sums[w][row] * expf(shared.maxima[w][row] - maximum);
  step.extremes[at] = make_float2(maximum, sum);
  if (step.labelSmoothing != 0) {
    double logits = first ? 0 : step.logitSums[at];
    for (int w = 0; w < Core::warpsOfRow; w++) logits += shared.logits[w][row];
    step.logitSums[at] = logits;
  }
}

}  // namespace margin_softmax::cuda
