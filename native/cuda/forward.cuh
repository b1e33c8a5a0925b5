// Classes as operands, and the forward pass over a chunk of them: see step.cuh.
#pragma once
#include "rows.cuh"
#include "tile.cuh"

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

// The tile of logits that a block computes, in the batch and in the chunk. Grid: row tiles × class tiles.
template <class Core>
__device__ TileOrigin logitOrigin() {
  using Tile = LogitTile<Core>;
  return {static_cast<int>(blockIdx.x) * Tile::rows, static_cast<int>(blockIdx.y) * Tile::columns};
}

template <class Core, bool onePlane = false>
__device__ void multiplyLogits(const StepData<typename Core::Element>& step, TileOrigin origin, void* staged,
                               typename LogitTile<Core>::Sums& sums) {
  LogitTile<Core>::template multiply<onePlane>(step.inputs(), origin.row, step.weights(), origin.column, 0,
                                               step.paddedDim, onePlane ? leadingOnly : step.terms, staged, sums);
}

// An epilogue's figures of its rows and columns. The scratch of an epilogue takes the place of the staged operands,
// which nobody reads any more: more shared memory would cost the second block of a multiprocessor on sm_86 and sm_89.
// `transforms`: the margin transforms negatives (formulas/negative.h).
template <class Core, bool transforms>
struct LogitShared {
  using Tile = LogitTile<Core>;
  RowFactors rows[Tile::rows];
  int own[Tile::rows];         // the column of the row's label, or one that is none of the tile's
  float bias[Tile::columns];   // in logit units; −∞ past the classes, so that their logits count nothing
  float share[Tile::columns];  // StepRows::shares, only with label smoothing
  NegativeRow negatives[transforms ? Tile::rows : 1];
};

// Needs a barrier before it is read.
template <class Core, bool smooths, bool transforms>
__device__ void loadFactors(const StepRows& step, TileOrigin origin, int firstClass, int classes,
                            LogitShared<Core, transforms>& shared) {
  using Tile = LogitTile<Core>;
  spread<Tile, Tile::rows>([&](int i) {
    shared.rows[i] = step.factors[origin.row + i];
    shared.own[i] = step.labels[origin.row + i] - firstClass - origin.column;
    if constexpr (transforms)
      shared.negatives[i] = negativeRow(step.negatives[origin.row + i], shared.rows[i].scale, 0);
  });
  spread<Tile, Tile::columns>([&](int i) {
    const int column = origin.column + i;
    float bias = column < classes ? 0 : -HUGE_VALF;
    if (step.bias && column < classes)
      bias = step.bias[step.rowOf(firstClass + column)] * static_cast<float>(1 / Core::logitUnit);
    shared.bias[i] = bias;
    if constexpr (smooths) shared.share[i] = column < classes ? step.shareOf(firstClass + column) : 0;
  });
}

// Whether another class of this cosine takes part in a row. NaN does: the loss shall show it.
__device__ inline bool counted(const StepRows& step, float cosine, bool own) {
  return !(cosine > step.interclassFilter || own);
}

template <class Core, bool transforms>
struct ForwardShared {
  using Tile = LogitTile<Core>;
  LogitShared<Core, transforms> logits;
  // Each row's results, by the warps that share it.
  float maxima[Tile::warpsOfRow][Tile::rows], sums[Tile::warpsOfRow][Tile::rows];
  float logitSums[Tile::warpsOfRow][Tile::rows];
  float largest[transforms ? Tile::warpsOfRow : 1][transforms ? Tile::rows : 1];
};

// `first`: the running figures begin with this chunk. `smooths`: the logits' sums are wanted, for label smoothing.
template <class Core, bool smooths, bool transforms>
__global__ void __launch_bounds__(LogitTile<Core>::threads, LogitTile<Core>::blocks)
    forwardTile(StepData<typename Core::Element> step, int firstClass, int classes, bool first) {
  using Tile = LogitTile<Core>;
  using Shared = ForwardShared<Core, transforms>;
  static_assert(sizeof(Shared) <= Tile::sharedBytes, "the epilogue's scratch takes the place of the operands");
  gpu::SharedPool pool;
  unsigned char* staged = pool.take<unsigned char>(Tile::sharedBytes);
  const TileOrigin origin = logitOrigin<Core>();
  typename Tile::Sums sums;
  multiplyLogits<Core>(step, origin, staged, sums);
  Shared& shared = *reinterpret_cast<Shared*>(staged);
  loadFactors<Core, smooths, transforms>(step, origin, firstClass, classes, shared.logits);
  __syncthreads();

  // For each row of a thread: its logits and their maximum, over the lanes that share the row; then the sum of powers
  // relative to that maximum. What a warp knows of a row goes to shared memory.
  forEachRow<Tile>([&](int r, int row) {
    const int own = shared.logits.own[row];
    const float scale = shared.logits.rows[row].scale;
    float maximum = leftOut, logits = 0, largest = leftOut;
    forEachColumn<Tile>([&](int c, int column) {
      float& z = sums.at(r, c);
      const bool counts = counted(step, z, column == own);
      z = fmaf(scale, z, shared.logits.bias[column]);
      if constexpr (transforms) {
        if (counts) largest = fmaxf(largest, z);
        z = negativeLogit(shared.logits.negatives[row], z);
      }
      if constexpr (smooths) logits += counts && origin.column + column < classes ? z * shared.logits.share[column] : 0;
      z = counts ? z : -HUGE_VALF;
      maximum = fmaxf(maximum, z);
    });
    maximum = acrossRow<Tile>(maximum, [](float a, float b) { return fmaxf(a, b); });
    float sum = 0;
    forEachColumn<Tile>([&](int c, int) { sum += Core::power(sums.at(r, c) - maximum); });
    const auto add = [](float a, float b) { return a + b; };
    sum = acrossRow<Tile>(sum, add);
    if constexpr (smooths) logits = acrossRow<Tile>(logits, add);
    if constexpr (transforms) largest = acrossRow<Tile>(largest, [](float a, float b) { return fmaxf(a, b); });
    if (threadIdx.x % Tile::lanesOfRow == 0) {
      shared.maxima[Tile::warpInRow()][row] = maximum;
      shared.sums[Tile::warpInRow()][row] = sum;
      if constexpr (smooths) shared.logitSums[Tile::warpInRow()][row] = logits;
      if constexpr (transforms) shared.largest[Tile::warpInRow()][row] = largest;
    }
  });
  __syncthreads();

  // A thread per row: the warps' maxima and sums join what the chunks before left.
  spread<Tile, Tile::rows>([&](int row) {
    const int64_t at = static_cast<int64_t>(blockIdx.y) * step.paddedRows + origin.row + row;
    const float2 before = first ? make_float2(leftOut, 0) : step.extremes[at];
    float maximum = before.x;
    for (int w = 0; w < Tile::warpsOfRow; w++) maximum = fmaxf(maximum, shared.maxima[w][row]);
    float sum = before.y * Core::power(before.x - maximum);
    for (int w = 0; w < Tile::warpsOfRow; w++)
      sum += shared.sums[w][row] * Core::power(shared.maxima[w][row] - maximum);
    step.extremes[at] = make_float2(maximum, sum);
    if constexpr (transforms) {
      float largest = first ? leftOut : step.largest[at];
      for (int w = 0; w < Tile::warpsOfRow; w++) largest = fmaxf(largest, shared.largest[w][row]);
      step.largest[at] = largest;
    }
    if constexpr (smooths) {
      double logits = first ? 0 : step.logitSums[at];
      for (int w = 0; w < Tile::warpsOfRow; w++) logits += shared.logitSums[w][row];
      step.logitSums[at] = logits;
    }
  });
}

}  // namespace margin_softmax::cuda
