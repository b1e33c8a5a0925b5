// The backward pass over a chunk of classes: logits again → A, and the two products with it. See step.cuh.
#pragma once
#include "forward.cuh"

namespace margin_softmax::cuda {

struct GradientShared {
  float bias[tileSize];
  float columnSums[8][tileSize];
};

// A_ij = ∂loss/∂(cosine of row i to class j), targets left out, and its sums down the columns: Σ_i A_ij·cos_ij is how
// far a class's gradient goes along its own weights; without cosines Σ_i A_ij is the bias's gradient.
template <class Core, class Element>
__global__ void __launch_bounds__(tileThreads, Core::blocks)
    gradientTile(StepData<Element> step, int firstClass, int classes) {
  gpu::SharedPool pool;
  Element* staged = pool.take<Element>(tileSharedBytes / sizeof(Element));
  const LogitTile tile = logitTile<Element>();
  if (blockIdx.x == 0 && threadIdx.x < tileSize) {  // here, where the wait for it is hidden by the product
    placeTargets(step, tile.firstColumn + threadIdx.x, firstClass, classes);
  }
  Sums sums;
  multiplyLogits<Core>(step, tile, staged, sums);
  GradientShared& shared = *reinterpret_cast<GradientShared*>(staged);
  loadBias(step, tile, firstClass, classes, shared.bias);
  __syncthreads();

  const float smoothing = static_cast<float>(step.labelSmoothing / step.classesInAll);
  float columnSums[8] = {};
#pragma unroll
  for (int r = 0; r < 8; r++) {
    const int row = tile.firstRow + Core::template row<Lies::along>(r);
    const RowFactors factors = step.factors[row];
    const int own = step.labels[row] - firstClass - tile.firstColumn;
    Element* out = step.gradientOperand + static_cast<int64_t>(row) * step.chunk + tile.firstColumn;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const int column = Core::template column<Lies::along>(c);
      const float cosine = sums.at(r, c);
      const bool counts =
          factors.gradient != 0 && counted(step, cosine) && tile.firstColumn + column < classes && column != own;
      const float z = fmaf(factors.scale, cosine, shared.bias[column]);
      const float a = counts ? factors.gradient * fmaf(expf(z - factors.maximum), factors.factor, -smoothing) : 0;
      const float seen = storeOperand(out + column, step.gradientPlane(), step.terms, a);
      columnSums[c] += step.normalized && counts ? seen * cosine : seen;
    }
  }
#pragma unroll
  for (int c = 0; c < 8; c++) {
    const float sum = sumDownColumn<Core>(columnSums[c]);
    if (threadIdx.x % 32 < Core::firstColumnLane)
      shared.columnSums[Core::warpInColumn()][Core::template column<Lies::along>(c)] = sum;
  }
  __syncthreads();
  if (threadIdx.x >= tileSize) return;
  float sum = 0;
  for (int w = 0; w < Core::warpsOfColumn; w++) sum += shared.columnSums[w][threadIdx.x];
  step.columnSums[static_cast<int64_t>(blockIdx.x) * step.chunk + tile.firstColumn + threadIdx.x] = sum;
}

// partialInput[slot] += A·ŵ over the slot's share of the chunk. Grid: dim tiles × row tiles × slots.
template <class Core, class Element>
__global__ void __launch_bounds__(tileThreads, Core::blocks) inputGradient(StepData<Element> step, int tiles) {
  gpu::SharedPool pool;
  Element* staged = pool.take<Element>(tileSharedBytes / sizeof(Element));
  const int slot = blockIdx.z, firstRow = blockIdx.y * tileSize, firstDim = blockIdx.x * tileSize;
  const int64_t firstTile = static_cast<int64_t>(tiles) * slot / step.inputSlots;
  const int64_t lastTile = static_cast<int64_t>(tiles) * (slot + 1) / step.inputSlots;
  Sums sums;
  multiplyTile<Core, Lies::along, Lies::across>(step.gradients(), firstRow, step.weights(), firstDim,
                                                firstTile * tileSize, lastTile * tileSize, step.terms, staged, sums);
  float* out =
      step.partialInput + (static_cast<int64_t>(slot) * step.paddedRows + firstRow) * step.paddedDim + firstDim;
  const int dims = step.paddedDim - firstDim;
#pragma unroll
  for (int r = 0; r < 8; r++) {
    float* row = out + Core::template row<Lies::along>(r) * step.paddedDim;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const int dim = Core::template column<Lies::across>(c);
      if (dim < dims) row[dim] += sums.at(r, c);
    }
  }
}

// One element of a weight or bias, given its gradient; `parameter` and `state` are the arrays that `at` counts in.
__device__ inline void applyUpdate(const StepRows& step, float* parameter, float* const (&state)[2], int64_t at,
                                   float gradient) {
  const float before = parameter[at];
  float after;
  if (step.weightUse == WeightUse::sgd) {
    after = sgdElement(before, gradient, step.sgd, multiplyAdd);
  } else if (step.weightUse == WeightUse::momentum) {
    float momentum = state[0][at];
    after = sgdElement(before, gradient, momentum, step.sgd, multiplyAdd);
    state[0][at] = momentum;
  } else {
    float moment = state[0][at], second = state[1][at];
    after = adamWElement(before, gradient, moment, second, step.adamW, multiplyAdd);
    state[0][at] = moment;
    state[1][at] = second;
  }
  parameter[at] = after;
}

// Sums a block's threads in a fixed order; the result is thread 0's.
__device__ inline double sumOfBlock(double* shared, double value) {
  value = gpu::warpSum(value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int w = 0; threadIdx.x == 0 && w < tileThreads / 32; w++) sum += shared[w];
  return sum;
}

// Σ over all rows, of the chunk's class j.
__device__ inline double columnSum(const StepRows& step, int j) {
  double sum = 0;
  for (int t = 0; t < step.rowTiles(); t++) sum += step.columnSums[static_cast<int64_t>(t) * step.chunk + j];
  return sum;
}

struct WeightShared {
  float scale[tileSize];  // 1/‖w_j‖
  float along[tileSize];  // how far the sum over rows goes along w_j's direction
  int targets[tileSize];  // the class's row of targetGradient, or −1
  double squares[tileThreads / 32];
};

// Aᵀ·x̂ for the chunk's classes, finished on the spot. Grid: dim tiles × class tiles.
template <class Core, class Element>
__global__ void __launch_bounds__(tileThreads, Core::blocks)
    weightGradient(StepData<Element> step, int firstClass, int classes) {
  if (step.weightUse != WeightUse::gradient && step.totals->notFinite >= 0) return;  // the head refuses such a step
  gpu::SharedPool pool;
  Element* staged = pool.take<Element>(tileSharedBytes / sizeof(Element));
  const int firstDim = blockIdx.x * tileSize, firstRow = blockIdx.y * tileSize;
  Sums sums;
  multiplyTile<Core, Lies::across, Lies::across>(step.gradients(), firstRow, step.inputs(), firstDim, 0,
                                                 step.paddedRows, step.terms, staged, sums);
  WeightShared& shared = *reinterpret_cast<WeightShared*>(staged);
  if (threadIdx.x < tileSize) {
    const int j = firstRow + threadIdx.x;
    const float scale = step.classScale[j];
    shared.scale[threadIdx.x] = scale;
    shared.along[threadIdx.x] = step.normalized ? static_cast<float>(columnSum(step, j)) : 0;
    shared.targets[threadIdx.x] = step.targetPlaces[j];
  }
  __syncthreads();
  double squares = 0;
#pragma unroll
  for (int r = 0; r < 8; r++) {
    const int row = Core::template row<Lies::across>(r);
    if (firstRow + row >= classes) continue;
    const int64_t from = step.rowOf(firstClass + firstRow + row) * step.dim;
    const int targets = shared.targets[row];
    const float scale = shared.scale[row], along = shared.along[row];
    float rowSquares = 0;
#pragma unroll
    for (int c = 0; c < 8; c++) {
      const int dim = firstDim + Core::template column<Lies::across>(c);
      if (dim >= step.dim) continue;
      // Scaled last: weights of 1e±15 would leave float32's range on another way.
      float gradient = sums.at(r, c);
      if (step.normalized) gradient = scale * fmaf(-along, scale * step.weight[from + dim], gradient);
      if (targets >= 0) gradient += step.targetGradient[static_cast<int64_t>(targets) * step.dim + dim];
      rowSquares = fmaf(gradient, gradient, rowSquares);
      if (step.weightUse == WeightUse::gradient) gpu::storeStreaming(step.gradWeight + from + dim, gradient);
      else applyUpdate(step, step.weight, step.weightState, from + dim, gradient);
    }
    squares += rowSquares;
  }
  const double total = sumOfBlock(shared.squares, squares);
  if (threadIdx.x != 0) return;
  step.gradientSquares[blockIdx.y * gridDim.x + blockIdx.x] += total;
}

struct BiasShared {
  double squares[tileThreads / 32];
};

// The biases of a chunk: a thread per class.
static __global__ void __launch_bounds__(tileThreads) biasGradient(StepRows step, int firstClass, int classes) {
  GPU_SHARED(BiasShared, shared);
  const int j = blockIdx.x * tileThreads + threadIdx.x, label = firstClass + j;
  double square = 0;
  if (j < classes && (step.weightUse == WeightUse::gradient || step.totals->notFinite < 0)) {
    double sum = columnSum(step, j);
    for (int p = step.targetPlaces[j]; p >= 0 && p < step.rows && step.sorted[p] == label; p++) {
      const RowState& state = step.states[step.order[p]];
      sum += state.gradient * state.error;
    }
    const float gradient = static_cast<float>(sum);
    square = static_cast<double>(gradient) * gradient;
    if (step.weightUse != WeightUse::gradient)
      applyUpdate(step, step.bias, step.biasState, step.rowOf(label), gradient);
    else if (step.gradBias) step.gradBias[label] = gradient;
  }
  const double total = sumOfBlock(shared.squares, square);
  if (threadIdx.x != 0) return;
  step.biasSquares[blockIdx.x] += total;
}

}  // namespace margin_softmax::cuda
