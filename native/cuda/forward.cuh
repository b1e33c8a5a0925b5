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

// Where a block's tile of logits begins.
struct LogitTile {
  int firstRow, firstColumn;  // in the batch, in the chunk
};

__device__ inline LogitTile logitTile() {
  return {static_cast<int>(blockIdx.x) * tileSize, static_cast<int>(blockIdx.y) * tileSize};
}

template <class Core, bool onePlane = false, class Element>
__device__ void multiplyLogits(const StepData<Element>& step, LogitTile tile, Element* staged, Sums& sums) {
  multiplyTile<Core, Lies::along, Lies::along, onePlane>(step.inputs(), tile.firstRow, step.weights(), tile.firstColumn,
                                                         0, step.paddedDim, onePlane ? leadingOnly : step.terms, staged,
                                                         sums);
}

// What an epilogue knows of its rows and columns. The scratch of an epilogue takes the place of the staged operands,
// which nobody reads any more: more shared memory would cost the second block of a multiprocessor on sm_86 and sm_89.
struct LogitShared {
  RowFactors rows[tileSize];
  int own[tileSize];      // the column of the row's label, or one that is none of the tile's
  float bias[tileSize];   // in logit units; −∞ past the classes, so that their logits count nothing
  float share[tileSize];  // StepRows::shares, only with label smoothing
};

// Needs a barrier before it is read.
template <class Core, bool smooths>
__device__ void loadFactors(const StepRows& step, LogitTile tile, int firstClass, int classes, LogitShared& shared) {
  if (threadIdx.x >= tileSize) return;
  const int row = tile.firstRow + threadIdx.x, column = tile.firstColumn + threadIdx.x;
  shared.rows[threadIdx.x] = step.factors[row];
  shared.own[threadIdx.x] = step.labels[row] - firstClass - tile.firstColumn;
  float bias = column < classes ? 0 : -HUGE_VALF;
  if (step.bias && column < classes)
    bias = step.bias[step.rowOf(firstClass + column)] * static_cast<float>(1 / Core::logitUnit);
  shared.bias[threadIdx.x] = bias;
  if constexpr (smooths) shared.share[threadIdx.x] = column < classes ? step.shareOf(firstClass + column) : 0;
}

// Whether another class of this cosine takes part in a row. NaN does: the loss shall show it.
__device__ inline bool counted(const StepRows& step, float cosine, bool own) {
  return !(cosine > step.interclassFilter || own);
}

struct ForwardShared {
  LogitShared logits;
  float maxima[4][tileSize], sums[4][tileSize], logitSums[4][tileSize];
};

// `first`: the running figures begin with this chunk. `smooths`: the logits' sums are wanted, for label smoothing.
template <class Core, bool smooths>
__global__ void __launch_bounds__(tileThreads, Core::blocks)
    forwardTile(StepData<typename Core::Element> step, int firstClass, int classes, bool first) {
  gpu::SharedPool pool;
  auto* staged = pool.take<typename Core::Element>(tileSharedBytes / sizeof(typename Core::Element));
  const LogitTile tile = logitTile();
  Sums sums;
  multiplyLogits<Core>(step, tile, staged, sums);
  ForwardShared& shared = *reinterpret_cast<ForwardShared*>(staged);
  loadFactors<Core, smooths>(step, tile, firstClass, classes, shared.logits);
  __syncthreads();

#pragma unroll
  for (int r = 0; r < 8; r++) {
    const int row = Core::template row<Lies::along>(r), own = shared.logits.own[row];
    const float scale = shared.logits.rows[row].scale;
    float maximum = leftOut, logits = 0;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const int column = Core::template column<Lies::along>(c);
      float& z = sums.at(r, c);
      const bool counts = counted(step, z, column == own);
      z = fmaf(scale, z, shared.logits.bias[column]);
      if constexpr (smooths)
        logits += counts && tile.firstColumn + column < classes ? z * shared.logits.share[column] : 0;
      z = counts ? z : -HUGE_VALF;
      maximum = fmaxf(maximum, z);
    }
    maximum = acrossRow<Core>(maximum, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0;
#pragma unroll
    for (int c = 0; c < 8; c++) sum += Core::power(sums.at(r, c) - maximum);
    const auto add = [](float a, float b) { return a + b; };
    sum = acrossRow<Core>(sum, add);
    if constexpr (smooths) logits = acrossRow<Core>(logits, add);
    if (threadIdx.x % Core::lanesOfRow == 0) {
      shared.maxima[Core::warpInRow()][row] = maximum;
      shared.sums[Core::warpInRow()][row] = sum;
      if constexpr (smooths) shared.logitSums[Core::warpInRow()][row] = logits;
    }
  }
  __syncthreads();

  if (threadIdx.x >= tileSize) return;
  const int row = threadIdx.x;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * step.paddedRows + tile.firstRow + row;
  const float2 before = first ? make_float2(leftOut, 0) : step.extremes[at];
  float maximum = before.x;
  for (int w = 0; w < Core::warpsOfRow; w++) maximum = fmaxf(maximum, shared.maxima[w][row]);
  float sum = before.y * Core::power(before.x - maximum);
  for (int w = 0; w < Core::warpsOfRow; w++) sum += shared.sums[w][row] * Core::power(shared.maxima[w][row] - maximum);
  step.extremes[at] = make_float2(maximum, sum);
  if constexpr (smooths) {
    double logits = first ? 0 : step.logitSums[at];
    for (int w = 0; w < Core::warpsOfRow; w++) logits += shared.logitSums[w][row];
    step.logitSums[at] = logits;
  }
}

}  // namespace margin_softmax::cuda
