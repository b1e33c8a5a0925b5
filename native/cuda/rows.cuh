// The kernels that work on batch rows, a warp to each: see step.cuh for where they stand in a step. They touch O(B·D)
// numbers, so they can afford double precision even where a GPU has little of it.
#pragma once
#include "step.cuh"
#include "warp_rows.cuh"

namespace margin_softmax::cuda {

template <class Element>
__global__ void __launch_bounds__(rowWarps * 32) prepareRows(StepData<Element> step) {
  const int row = warpRow(), lane = threadIdx.x % 32;
  if (row >= step.paddedRows) return;
  const int label = row < step.rows ? step.labels[row] : ignoredLabel;
  const float* x = step.input + static_cast<int64_t>(row) * step.dim;
  float factor = 0;
  if (label != ignoredLabel) {
    const float* w = step.weightRow(label >= 0 ? label : 0);
    double product = 0, inputSquares = 0, weightSquares = 0;
    for (int d = lane; d < step.dim; d += 32) {
      const double a = x[d], b = w[d];
      product += a * b;
      inputSquares += a * a;
      weightSquares += b * b;
    }
    product = gpu::warpSum(product);
    inputSquares = gpu::warpSum(inputSquares);
    weightSquares = gpu::warpSum(weightSquares);
    const double upstream = step.rowGradient * (step.gradOutput ? step.gradOutput[row] : 1);
    const RowWeight weight = step.rowWeights ? step.rowWeights[row] : step.unweighted;
    const RowState state = label == labelElsewhere
                               ? rowWithoutTarget(step.margin, label, inputSquares, weight, upstream)
                               : targetRow(step.margin, label, product, inputSquares, weightSquares,
                                           step.bias ? step.bias[step.rowOf(label)] : 0, weight, upstream);
    if (lane == 0) {
      step.states[row] = state;
      step.factors[row] = {static_cast<float>(state.scale / step.logitUnit), 0, 0, 0};
    }
    factor = static_cast<float>(state.inverseNorm);
  } else if (lane == 0) {
    RowState ignored{};  // all of it: it is copied whole
    ignored.label = ignoredLabel;
    if (row < step.rows) step.states[row] = ignored;
    step.factors[row] = {0, 0, 0, 0};
  }
  Element* out = step.inputOperand + static_cast<int64_t>(row) * step.paddedDim;
  for (int d = lane; d < step.paddedDim; d += 32)
    storeOperand(out + d, step.inputPlane(), step.terms, factor != 0 && d < step.dim ? x[d] * factor : 0);
}

constexpr int closeThreads = 256;

// Each row's target cosine as totals, for the ranks to add up: one of them has it.
static __global__ void __launch_bounds__(closeThreads) targetCosines(StepRows step) {
  const int row = blockIdx.x * closeThreads + threadIdx.x;
  if (row >= step.rows) return;
  RowTotals totals{leftOut, leftOut, 0, 0, 0, 0};
  totals.cosine = step.states[row].cosine;
  step.totalsOfRows[row] = totals;
}

// Places each row's transform of its negatives. `exchanged`: the cosines of the targets are those of all ranks.
static __global__ void __launch_bounds__(closeThreads) placeThresholds(StepRows step, bool exchanged) {
  const int row = blockIdx.x * closeThreads + threadIdx.x;
  if (row >= step.paddedRows) return;
  NegativeTransform transform;
  if (step.labels[row] != ignoredLabel)
    transform = negativesOf(step.margin, exchanged ? step.totalsOfRows[row].cosine : step.states[row].cosine);
  step.negatives[row] = transform;
}

// Reduces the tiles' maxima and sums to one log-sum-exp per row, without the target.
static __global__ void __launch_bounds__(rowWarps * 32) totalRows(StepRows step, int tiles) {
  const int row = warpRow(), lane = threadIdx.x % 32;
  if (row >= step.rows) return;
  RowTotals totals{leftOut, leftOut, 0, 0, 0, 0};
  if (step.states[row].label != ignoredLabel) {
    float maximum = leftOut;
    for (int t = lane; t < tiles; t += 32)
      maximum = fmaxf(maximum, step.extremes[static_cast<int64_t>(t) * step.paddedRows + row].x);
    maximum = gpu::warpMax(maximum);
    float largest = step.negatives ? leftOut : maximum;
    for (int t = lane; step.negatives && t < tiles; t += 32)
      largest = fmaxf(largest, step.largest[static_cast<int64_t>(t) * step.paddedRows + row]);
    if (step.negatives) largest = gpu::warpMax(largest);
    double sum = 0, logitSum = 0;
    for (int t = lane; t < tiles; t += 32) {
      const float2 partial = step.extremes[static_cast<int64_t>(t) * step.paddedRows + row];
      sum += partial.y * exp((static_cast<double>(partial.x) - maximum) * step.logitUnit);
    }
    for (int t = lane; step.smooths && t < tiles; t += 32)
      logitSum += step.logitSums[static_cast<int64_t>(t) * step.paddedRows + row];
    totals = {maximum * step.logitUnit, largest * step.logitUnit,
              gpu::warpSum(sum),        gpu::warpSum(logitSum) * step.logitUnit,
              step.states[row].target,  step.states[row].cosine};
  }
  if (lane == 0) step.totalsOfRows[row] = totals;
}

// Each row's loss and the factors of its probabilities: a thread per row.
static __global__ void __launch_bounds__(closeThreads) closeRows(StepRows step) {
  const int row = blockIdx.x * closeThreads + threadIdx.x;
  if (row >= step.rows) return;
  RowState state = step.states[row];
  if (state.label == ignoredLabel) {
    step.losses[row] = 0;
    return;
  }
  const RowTotals totals = step.totalsOfRows[row];
  const float factor = closeRow(state, totals, step.negativeWeight);
  step.states[row] = state;
  step.losses[row] = static_cast<float>(state.weight.loss * state.loss);
  const double gradient = state.gradient * state.scale;
  // A row without other classes has no maximum: any finite one will do.
  step.factors[row] = {static_cast<float>(state.scale / step.logitUnit),
                       totals.sum == 0 ? 0 : static_cast<float>(totals.maximum / step.logitUnit),
                       static_cast<float>(gradient * factor),
                       static_cast<float>(gradient * state.weight.smoothing.even)};
}

// The target's share of a row's gradInput, while the weights are what the forward pass saw: an update may change them.
// In gradInput itself, or apart and in double precision (narrow rows).
template <class Number>
__global__ void __launch_bounds__(rowWarps * 32) targetInputs(StepRows step, Number* targets /* [rows][dim] */) {
  const int row = warpRow(), lane = threadIdx.x % 32;
  if (row >= step.rows) return;
  Number* out = targets + static_cast<int64_t>(row) * step.dim;
  const RowState& state = step.states[row];
  if (state.label < 0) {
    for (int d = lane; d < step.dim; d += 32) out[d] = 0;
    return;
  }
  const TargetShare target = inputShare(state, step.normalized, step.radial);
  const float* x = step.input + static_cast<int64_t>(row) * step.dim;
  const float* w = step.weightRow(state.label);
  for (int d = lane; d < step.dim; d += 32)
    out[d] = static_cast<Number>(fma(target.input, static_cast<double>(x[d]), target.weight * w[d]));
}

// The first place in `sorted` whose label is at least this.
__device__ inline int firstTarget(const StepRows& step, int label) {
  int first = 0, last = step.rows;
  while (first < last) {
    const int middle = (first + last) / 2;
    if (step.sorted[middle] < label) first = middle + 1;
    else last = middle;
  }
  return first;
}

// Tells weightGradient where a column's targets are.
__device__ inline void placeTargets(const StepRows& step, int column, int firstClass, int classes) {
  const int label = firstClass + column;
  const int place = column < classes ? firstTarget(step, label) : step.rows;
  step.targetPlaces[column] = place < step.rows && step.sorted[place] == label ? place : -1;
}

// Σ over a label's rows of their share of its weights' gradient, by the warp of the label's first row in `order`.
static __global__ void __launch_bounds__(rowWarps * 32) targetGradients(StepRows step) {
  const int place = warpRow(), lane = threadIdx.x % 32;
  if (place >= step.rows) return;
  const int label = step.sorted[place];
  if (label < 0 || (place > 0 && step.sorted[place - 1] == label)) return;
  const float* w = step.weightRow(label);
  float* out = step.targetGradient + static_cast<int64_t>(place) * step.dim;
  for (int d = lane; d < step.dim; d += 32) {
    double sum = 0;
    for (int p = place; p < step.rows && step.sorted[p] == label; p++) {
      const int row = step.order[p];
      const TargetShare share = weightShare(step.states[row], step.normalized);
      const double x = step.input[static_cast<int64_t>(row) * step.dim + d];
      sum = fma(share.weight, static_cast<double>(w[d]), fma(share.input, x, sum));
    }
    out[d] = static_cast<float>(sum);
  }
}

// `partialInput`: [inputSlots][paddedRows][paddedDim]; `targets`: what targetInputs left.
template <class Number>
__global__ void __launch_bounds__(rowWarps * 32)
    finishRows(StepRows step, Number* partialInput, const Number* targets) {
  const int row = warpRow(), lane = threadIdx.x % 32;
  if (row >= step.rows) return;
  const RowState state = step.states[row];
  float* out = step.gradInput + static_cast<int64_t>(row) * step.dim;
  targets += static_cast<int64_t>(row) * step.dim;
  if (state.label == ignoredLabel) {
    for (int d = lane; d < step.dim; d += 32) out[d] = 0;
    if (lane == 0) step.rowSquares[row] = 0;
    return;
  }
  const int64_t slot = static_cast<int64_t>(step.paddedRows) * step.paddedDim;
  Number* partial = partialInput + static_cast<int64_t>(row) * step.paddedDim;
  const float* x = step.input + static_cast<int64_t>(row) * step.dim;
  double along = 0;
  for (int d = lane; d < step.dim; d += 32) {
    Number sum = partial[d];
    for (int s = 1; s < step.inputSlots; s++) sum += partial[s * slot + d];
    partial[d] = sum;
    along += static_cast<double>(sum) * x[d];
  }
  along = gpu::warpSum(along) * state.inverseNorm;  // Σ_j A_ij·cos_ij
  // The tiles' A holds g and s already: what is left is 1/‖x‖, and the projection. Where s is ‖x‖ itself, its own
  // gradient, Σ_j A_ij·cos_ij / s along x̂, undoes the projection.
  const double scale = step.normalized ? state.inverseNorm : 1;
  const double back = step.normalized && !step.radial ? -along * state.inverseNorm * state.inverseNorm : 0;
  double squares = 0;
  for (int d = lane; d < step.dim; d += 32) {
    const double value = fma(scale, static_cast<double>(partial[d]),
                             fma(back, static_cast<double>(x[d]), static_cast<double>(targets[d])));
    out[d] = static_cast<float>(value);
    squares += value * value;
  }
  squares = gpu::warpSum(squares);
  if (lane == 0) step.rowSquares[row] = squares;
}

// One block adds in a fixed order what the rows and tiles left.
constexpr int collectThreads = 256;

template <class Add>
__device__ double blockSum(double* shared, int count, const Add& add) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += collectThreads) sum += add(i);
  sum = gpu::warpSum(sum);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = sum;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < collectThreads / 32; w++) total += shared[w];
  return total;
}

struct CollectShared {
  double sums[collectThreads / 32];
  int firstBad[collectThreads / 32];
};

// After the forward pass: everything of the totals but the gradients' norms.
static __global__ void __launch_bounds__(collectThreads) collectLosses(StepRows step) {
  GPU_SHARED(CollectShared, shared);
  const auto sum = [&](auto value) {
    return blockSum(shared.sums, step.rows, [&](int i) {
      const RowState& state = step.states[i];
      return state.label == ignoredLabel ? 0.0 : value(state);
    });
  };
  Totals totals{};
  totals.loss = sum(
      [&](const RowState& state) { return (step.perRowGradient ? state.gradient : state.weight.loss) * state.loss; });
  totals.accuracy = sum([&](const RowState& state) { return state.cosine > state.largestNegative ? 1.0 : 0.0; });
  totals.targetCosine = sum([](const RowState& state) { return state.cosine; });
  totals.largestOther = sum([](const RowState& state) { return state.largestNegative; });
  int bad = step.rows;
  for (int i = threadIdx.x; i < step.rows; i += collectThreads) {
    const RowState& state = step.states[i];
    if (state.label != ignoredLabel && !isfinite(state.loss) && i < bad) bad = i;
  }
  for (int distance = 16; distance; distance /= 2) bad = min(bad, __shfl_xor_sync(gpu::allLanes, bad, distance));
  if (threadIdx.x % 32 == 0) shared.firstBad[threadIdx.x / 32] = bad;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int w = 0; w < collectThreads / 32; w++) bad = min(bad, shared.firstBad[w]);
  totals.notFinite = bad == step.rows ? -1 : bad;
  *step.totals = totals;
}

// After the backward pass: the gradients' norms.
static __global__ void __launch_bounds__(collectThreads) collectSquares(StepRows step) {
  GPU_SHARED(CollectShared, shared);
  double weights = 0, inputs = 0;
  if (step.weightUse != WeightUse::none) {
    weights = blockSum(shared.sums, step.gradientBlocks, [&](int i) { return step.gradientSquares[i]; });
    if (step.bias) weights += blockSum(shared.sums, step.biasBlocks, [&](int i) { return step.biasSquares[i]; });
  }
  if (step.gradInput) inputs = blockSum(shared.sums, step.rows, [&](int i) { return step.rowSquares[i]; });
  if (threadIdx.x != 0) return;
  step.totals->gradientSquares = weights;
  step.totals->inputGradientSquares = inputs;
}

}  // namespace margin_softmax::cuda
