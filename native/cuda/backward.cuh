// The backward pass over a chunk of classes: logits again → A, and the two products with it. See step.cuh.
#pragma once
#include "forward.cuh"

namespace margin_softmax::cuda {

struct GradientShared {
  LogitShared logits;
  float columnSums[8][tileSize];
};

// A_ij = ∂loss/∂(cosine of row i to class j), targets left out, and its sums down the columns: Σ_i A_ij·cos_ij is how
// far a class's gradient goes along its own weights; without cosines Σ_i A_ij is the bias's gradient. `smooths`: the
// labels; `corrected`: operands are pairs.
template <class Core, bool normalized, bool smooths, bool corrected>
__global__ void __launch_bounds__(tileThreads, Core::blocks)
    gradientTile(StepData<typename Core::Element> step, int firstClass, int classes) {
  using Element = typename Core::Element;
  gpu::SharedPool pool;
  Element* staged = pool.take<Element>(tileSharedBytes / sizeof(Element));
  const LogitTile tile = logitTile();
  if (blockIdx.x == 0 && threadIdx.x < tileSize)  // here, where the wait for it is hidden by the product
    placeTargets(step, tile.firstColumn + threadIdx.x, firstClass, classes);
  Sums sums;
  multiplyLogits<Core, !corrected>(step, tile, staged, sums);
  GradientShared& shared = *reinterpret_cast<GradientShared*>(staged);
  loadFactors<Core, smooths>(step, tile, firstClass, classes, shared.logits);
  __syncthreads();

  float columnSums[8] = {};
  const int firstOfThread = Core::template row<Lies::along>(0);
  const int further = (Core::template row<Lies::along>(1) - firstOfThread) * step.chunk;  // from a row to the next
  Element* out =
      step.gradientOperand + static_cast<int64_t>(tile.firstRow + firstOfThread) * step.chunk + tile.firstColumn;
#pragma unroll
  for (int r = 0; r < 8; r++, out += further) {
    const int row = Core::template row<Lies::along>(r), own = shared.logits.own[row];
    const RowFactors factors = shared.logits.rows[row];
#pragma unroll
    for (int c = 0; c < 8; c += 2) {
      float pair[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int column = Core::template column<Lies::along>(c + i);
        const float cosine = sums.at(r, c + i);
        // Rounded before the maximum is subtracted, as in the forward pass: SphereFace's logits may be of any size.
        const float exponent = fmaf(factors.scale, cosine, shared.logits.bias[column]) - factors.maximum;
        const float even = smooths ? factors.even * shared.logits.share[column] : 0;
        const float a = fmaf(Core::power(exponent), factors.share, -even);
        pair[i] = counted(step, cosine, column == own) ? a : 0;
      }
      const int column = Core::template column<Lies::along>(c);
      if constexpr (Core::pairsColumns) {
        storePair<corrected>(out + column, step.gradientPlane(), pair);
      } else {
        out[column] = pair[0];
        out[Core::template column<Lies::along>(c + 1)] = pair[1];
      }
#pragma unroll
      for (int i = 0; i < 2; i++) columnSums[c + i] += normalized ? pair[i] * sums.at(r, c + i) : pair[i];
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

// partialInput[slot] += A·ŵ over the slot's share of the chunk. Grid: dim tiles × row tiles × slots. `first`: the sums
// begin with this chunk.
template <class Core>
__global__ void __launch_bounds__(tileThreads, Core::blocks)
    inputGradient(StepData<typename Core::Element> step, int tiles, bool first) {
  gpu::SharedPool pool;
  auto* staged = pool.take<typename Core::Element>(tileSharedBytes / sizeof(typename Core::Element));
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
    float2 before[4];
#pragma unroll
    for (int c = 0; c < 4; c++) {  // all on their way before the first is used
      const int dim = Core::template column<Lies::across>(2 * c);
      before[c] = first || dim >= dims ? make_float2(0, 0) : *reinterpret_cast<const float2*>(row + dim);
    }
#pragma unroll
    for (int c = 0; c < 4; c++) {
      const int dim = Core::template column<Lies::across>(2 * c);
      if (dim < dims)
        *reinterpret_cast<float2*>(row + dim) =
            make_float2(before[c].x + sums.at(r, 2 * c), before[c].y + sums.at(r, 2 * c + 1));
    }
  }
}

// A weight or bias after the update, given its gradient and its optimizer's states.
template <WeightUse use>
__device__ float updated(const StepRows& step, float before, float& first, float& second, float gradient) {
  if constexpr (use == WeightUse::sgd) return sgdElement(before, gradient, step.sgd, multiplyAdd);
  else if constexpr (use == WeightUse::momentum) return sgdElement(before, gradient, first, step.sgd, multiplyAdd);
  else return adamWElement(before, gradient, first, second, step.adamW, multiplyAdd);
}

__device__ inline void updateBias(const StepRows& step, int64_t at, float gradient) {
  float& bias = step.bias[at];
  float none = 0;
  float& first = step.biasState[0] ? step.biasState[0][at] : none;
  float& second = step.biasState[1] ? step.biasState[1][at] : none;
  if (step.weightUse == WeightUse::sgd) bias = updated<WeightUse::sgd>(step, bias, none, none, gradient);
  else if (step.weightUse == WeightUse::momentum)
    bias = updated<WeightUse::momentum>(step, bias, first, none, gradient);
  else bias = updated<WeightUse::adamW>(step, bias, first, second, gradient);
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

// The tile's sums pass through shared memory in two strips of rows, so that a warp meets whole rows of the weights: 512
// bytes at once, and few instructions for all of them. Rows are 8 words longer than the tile: no bank is met twice.
constexpr int stripRows = 64, stripStride = tileSize + 8, rowsOfWarp = stripRows / (tileThreads / 32);

struct WeightShared {
  float strip[stripRows][stripStride];
  float scale[tileSize];   // 1/‖w_j‖
  float along[tileSize];   // how far the sum over rows goes along w_j's direction
  int targets[tileSize];   // the class's row of targetGradient, or −1
  int64_t rows[tileSize];  // of the weights
  double squares[tileThreads / 32];
};
static_assert(sizeof(WeightShared) <= tileSharedBytes);

// A lane's four elements of a row of `dims` numbers: neighbours, or 32 apart where rows are not aligned to 16 bytes.
template <bool aligned>
struct RowPart {
  __device__ static int at(int e) { return aligned ? threadIdx.x % 32 * 4 + e : threadIdx.x % 32 + 32 * e; }

  // `once`: it is met once in a step, and should not stay in the caches.
  template <bool once = false>
  __device__ static void load(const float* row, int dims, float (&to)[4]) {
    const auto read = [](const auto* from) {
      if constexpr (once) return gpu::loadStreaming(from);
      else return *from;
    };
    if constexpr (aligned) {
      const float4 four = at(0) < dims ? read(reinterpret_cast<const float4*>(row + at(0))) : make_float4(0, 0, 0, 0);
      to[0] = four.x, to[1] = four.y, to[2] = four.z, to[3] = four.w;
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++) to[e] = at(e) < dims ? read(row + at(e)) : 0;
    }
  }
  __device__ static void store(float* row, int dims, const float (&from)[4]) {
    if constexpr (aligned) {
      if (at(0) < dims)
        gpu::storeStreaming(reinterpret_cast<float4*>(row + at(0)), make_float4(from[0], from[1], from[2], from[3]));
    } else {
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (at(e) < dims) gpu::storeStreaming(row + at(e), from[e]);
    }
  }
};

// Aᵀ·x̂ for the chunk's classes, finished on the spot. Grid: dim tiles × class tiles. `aligned`: dim is a multiple of 4.
template <class Core, WeightUse use, bool aligned>
__global__ void __launch_bounds__(tileThreads, Core::blocks)
    weightGradient(StepData<typename Core::Element> step, int firstClass, int classes) {
  if (use != WeightUse::gradient && step.totals->notFinite >= 0) return;  // the head refuses such a step
  using Part = RowPart<aligned>;
  constexpr int states = use == WeightUse::adamW ? 2 : use == WeightUse::momentum ? 1 : 0;
  constexpr int rowsAtOnce = aligned && states < 2 ? 4 : 2;
  gpu::SharedPool pool;
  auto* staged = pool.take<typename Core::Element>(tileSharedBytes / sizeof(typename Core::Element));
  const int firstDim = blockIdx.x * tileSize, firstRow = blockIdx.y * tileSize;
  Sums sums;
  multiplyTile<Core, Lies::across, Lies::across>(step.gradients(), firstRow, step.inputs(), firstDim, 0,
                                                 step.paddedRows, step.terms, staged, sums);
  WeightShared& shared = *reinterpret_cast<WeightShared*>(staged);
  if (threadIdx.x < tileSize) {
    const int j = firstRow + threadIdx.x;
    shared.scale[threadIdx.x] = step.classScale[j];
    shared.along[threadIdx.x] = step.normalized ? static_cast<float>(columnSum(step, j)) : 0;
    shared.targets[threadIdx.x] = step.targetPlaces[j];
    shared.rows[threadIdx.x] = j < classes ? step.rowOf(firstClass + j) : 0;
  }
  const int dims = step.dim - firstDim;
  double squares = 0;
#pragma unroll
  for (int strip = 0; strip < tileSize / stripRows; strip++) {
    __syncthreads();
#pragma unroll
    for (int r = strip * 4; r < strip * 4 + 4; r++)
#pragma unroll
      for (int c = 0; c < 8; c += 2)
        *reinterpret_cast<float2*>(&shared.strip[Core::inStrip(r)][Core::template column<Lies::across>(c)]) =
            make_float2(sums.at(r, c), sums.at(r, c + 1));
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < rowsOfWarp; i += rowsAtOnce) {
      const int from = threadIdx.x / 32 * rowsOfWarp + i;
      float weight[rowsAtOnce][4], state[2][rowsAtOnce][4];
      float partSquares = 0;
#pragma unroll
      for (int r = 0; r < rowsAtOnce; r++) {  // all on their way before the first is used
        const int row = Core::rowOfStrip(strip, from + r), limit = firstRow + row < classes ? dims : 0;
        const int64_t at = shared.rows[row] * step.dim + firstDim;
        const bool projects = use != WeightUse::gradient || step.normalized;
        Part::load(step.weight + at, projects ? limit : 0, weight[r]);
#pragma unroll
        for (int s = 0; s < states; s++) Part::template load<true>(step.weightState[s] + at, limit, state[s][r]);
      }
#pragma unroll
      for (int r = 0; r < rowsAtOnce; r++) {
        const int row = Core::rowOfStrip(strip, from + r), limit = firstRow + row < classes ? dims : 0;
        const int targets = shared.targets[row];
        const int64_t at = shared.rows[row] * step.dim + firstDim;
        const float scale = shared.scale[row], along = shared.along[row];
        float gradient[4], target[4] = {};
        if (targets >= 0)
          Part::load(step.targetGradient + static_cast<int64_t>(targets) * step.dim + firstDim, limit, target);
        Part::load(shared.strip[from + r], limit, gradient);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          // Scaled last: weights of 1e±15 would leave float32's range on another way.
          float& g = gradient[e];
          g = fmaf(scale, fmaf(-along, scale * weight[r][e], g), target[e]);
          partSquares = fmaf(g, g, partSquares);
          if constexpr (use != WeightUse::gradient)
            weight[r][e] = updated<use>(step, weight[r][e], state[0][r][e], state[1][r][e], g);
        }
        if constexpr (use == WeightUse::gradient) {
          if (step.gradWeight) Part::store(step.gradWeight + at, limit, gradient);
        } else {
          Part::store(step.weight + at, limit, weight[r]);
#pragma unroll
          for (int s = 0; s < states; s++) Part::store(step.weightState[s] + at, limit, state[s][r]);
        }
      }
      squares += partSquares;
    }
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
    if (step.weightUse != WeightUse::gradient) updateBias(step, step.rowOf(label), gradient);
    else if (step.gradBias) step.gradBias[label] = gradient;
  }
  const double total = sumOfBlock(shared.squares, square);
  if (threadIdx.x != 0) return;
  step.biasSquares[blockIdx.x] += total;
}

}  // namespace margin_softmax::cuda
