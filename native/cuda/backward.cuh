// The backward pass over a chunk of classes: logits again → A, and the two products with it. See step.cuh.
#pragma once
#include "forward.cuh"

namespace margin_softmax::cuda {

template <class Core, bool transforms>
struct GradientShared {
  using Tile = LogitTile<Core>;
  LogitShared<Core, transforms> logits;
  float columnSums[Tile::warpsOfColumn][Tile::columns];  // by the warps that share a column
};

// A_ij = ∂loss/∂(cosine of row i to class j), targets left out, and its sums down the columns: Σ_i A_ij·cos_ij is how
// far a class's gradient goes along its own weights; without cosines Σ_i A_ij is the bias's gradient. `smooths`: the
// labels; `corrected`: operands are pairs; `transforms`: negatives.
template <class Core, bool normalized, bool smooths, bool corrected, bool transforms>
__global__ void __launch_bounds__(LogitTile<Core>::threads, LogitTile<Core>::blocks)
    gradientTile(StepData<typename Core::Element> step, int firstClass, int classes) {
  using Tile = LogitTile<Core>;
  using Shared = GradientShared<Core, transforms>;
  static_assert(sizeof(Shared) <= Tile::sharedBytes, "the epilogue's scratch takes the place of the operands");
  gpu::SharedPool pool;
  unsigned char* staged = pool.take<unsigned char>(Tile::sharedBytes);
  const TileOrigin origin = logitOrigin<Core>();
  if (blockIdx.x == 0)  // here, where the wait for it is hidden by the product
    spread<Tile, Tile::columns>([&](int i) { placeTargets(step, origin.column + i, firstClass, classes); });
  typename Tile::Sums sums;
  multiplyLogits<Core, !corrected>(step, origin, staged, sums);
  Shared& shared = *reinterpret_cast<Shared*>(staged);
  loadFactors<Core, smooths, transforms>(step, origin, firstClass, classes, shared.logits);
  __syncthreads();

  // For each row of a thread, pair by pair of its columns: probability → A, written as an operand, and added to the
  // columns' sums as the products will see it.
  float columnSums[Tile::threadColumns] = {};
  typename Core::Element* out =
      step.gradientOperand + static_cast<int64_t>(origin.row + Tile::row(0)) * step.chunk + origin.column;
  // From a row to the next, as a multiple of one distance: a product for each of them took 100 instructions more.
  const int rowStep = Tile::row(1) - Tile::row(0), further = rowStep * step.chunk;
  forEachRow<Tile>([&](int r, int row) {
    const int own = shared.logits.own[row];
    const RowFactors factors = shared.logits.rows[row];
    forEachPair<Tile>([&](int c, int column) {
      float pair[2];
#pragma unroll
      for (int i = 0; i < 2; i++) {
        const int of = Tile::column(c + i);
        const float cosine = sums.at(r, c + i);
        // Rounded before the maximum is subtracted, as in the forward pass: SphereFace's logits may be of any size.
        const float u = fmaf(factors.scale, cosine, shared.logits.bias[of]);
        float exponent = u - factors.maximum;
        if constexpr (transforms) exponent = negativeLogit(shared.logits.negatives[row], u) - factors.maximum;
        const float even = smooths ? factors.even * shared.logits.share[of] : 0;
        float a = fmaf(Core::power(exponent), factors.share, -even);
        if constexpr (transforms) a *= negativeSlope(shared.logits.negatives[row], u);
        pair[i] = counted(step, cosine, of == own) ? a : 0;
      }
      if constexpr (Tile::pairsColumns) {
        storePair<corrected>(out + column, step.gradientPlane(), pair);
      } else {
        static_assert(!corrected || Tile::pairsColumns, "pairs of terms are written in pairs of columns");
        out[column] = pair[0];
        out[Tile::column(c + 1)] = pair[1];
      }
#pragma unroll
      for (int i = 0; i < 2; i++) columnSums[c + i] += normalized ? pair[i] * sums.at(r, c + i) : pair[i];
    });
    if (r + 1 < Tile::threadRows) out += (Tile::row(r + 1) - row) / rowStep * further;
  });
  forEachColumn<Tile>([&](int c, int column) {
    const float sum = sumDownColumn<Tile>(columnSums[c]);
    if (threadIdx.x % 32 < Tile::firstColumnLane) shared.columnSums[Tile::warpInColumn()][column] = sum;
  });
  __syncthreads();
  spread<Tile, Tile::columns>([&](int column) {
    float sum = 0;
    for (int w = 0; w < Tile::warpsOfColumn; w++) sum += shared.columnSums[w][column];
    step.columnSums[static_cast<int64_t>(blockIdx.x) * step.chunk + origin.column + column] = sum;
  });
}

// partialInput[slot] += A·ŵ over the slot's share of the chunk. Grid: dim tiles × row tiles × slots. `tiles`: of logits,
// along the chunk's classes. `first`: the sums begin with this chunk.
template <class Core>
__global__ void __launch_bounds__(InputTile<Core>::threads, InputTile<Core>::blocks)
    inputGradient(StepData<typename Core::Element> step, int tiles, bool first) {
  using Tile = InputTile<Core>;
  static_assert(Tile::pairsColumns, "the sums are read and written in pairs");
  constexpr int tileClasses = LogitTile<Core>::columns;
  gpu::SharedPool pool;
  unsigned char* staged = pool.take<unsigned char>(Tile::sharedBytes);
  const int slot = blockIdx.z, firstRow = blockIdx.y * Tile::rows, firstDim = blockIdx.x * Tile::columns;
  const int64_t firstTile = static_cast<int64_t>(tiles) * slot / step.inputSlots;
  const int64_t lastTile = static_cast<int64_t>(tiles) * (slot + 1) / step.inputSlots;
  typename Tile::Sums sums;
  Tile::multiply(step.gradients(), firstRow, step.weights(), firstDim, firstTile * tileClasses, lastTile * tileClasses,
                 step.terms, staged, sums);
  float* out =
      step.partialInput + (static_cast<int64_t>(slot) * step.paddedRows + firstRow) * step.paddedDim + firstDim;
  const int dims = step.paddedDim - firstDim;
  forEachRow<Tile>([&](int r, int row) {
    float* to = out + row * step.paddedDim;
    float2 before[Tile::threadColumns / 2];
    forEachPair<Tile>([&](int c, int dim) {  // all on their way before the first is used
      before[c / 2] = first || dim >= dims ? make_float2(0, 0) : *reinterpret_cast<const float2*>(to + dim);
    });
    forEachPair<Tile>([&](int c, int dim) {
      if (dim < dims)
        *reinterpret_cast<float2*>(to + dim) =
            make_float2(before[c / 2].x + sums.at(r, c), before[c / 2].y + sums.at(r, c + 1));
    });
  });
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
template <int threads>
__device__ double sumOfBlock(double (&shared)[threads / 32], double value) {
  value = gpu::warpSum(value);
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (int w = 0; threadIdx.x == 0 && w < threads / 32; w++) sum += shared[w];
  return sum;
}

// Σ over all rows, of the chunk's class j.
__device__ inline double columnSum(const StepRows& step, int j) {
  double sum = 0;
  for (int t = 0; t < step.rowTiles; t++) sum += step.columnSums[static_cast<int64_t>(t) * step.chunk + j];
  return sum;
}

// The tile's sums pass through shared memory in strips of rows, so that a warp meets whole rows of the weights: 512 bytes
// at once, and few instructions for all of them.
//
//   strip[row of the strip][columns + 8]   8 words more than the tile is wide: no bank is met twice
template <class Core>
struct WeightShared {
  using Tile = WeightTile<Core>;
  static constexpr int stripRows = Tile::rows / Tile::strips, warps = Tile::threads / 32;
  static constexpr int rowsOfWarp = stripRows / warps;

  float strip[stripRows][Tile::columns + 8];
  float scale[Tile::rows];   // 1/‖w_j‖
  float along[Tile::rows];   // how far the sum over rows goes along w_j's direction
  int targets[Tile::rows];   // the class's row of targetGradient, or −1
  int64_t rows[Tile::rows];  // of the weights
  double squares[warps];
};

// A lane's elements of a row of `dims` numbers in a tile of so many columns, four for each 128 of these: neighbours, or
// 32 apart where rows are not aligned to 16 bytes.
template <bool aligned, int columns>
struct RowPart {
  static_assert(columns % 128 == 0, "a warp reads 128 columns at once");
  static constexpr int count = columns / 32;
  using Values = float[count];

  __device__ static int at(int e) {
    return aligned ? e / 4 * 128 + threadIdx.x % 32 * 4 + e % 4 : threadIdx.x % 32 + 32 * e;
  }

  // `once`: it is met once in a step, and should not stay in the caches.
  template <bool once = false>
  __device__ static void load(const float* row, int dims, Values& to) {
    const auto read = [](const auto* from) {
      if constexpr (once) return gpu::loadStreaming(from);
      else return *from;
    };
    if constexpr (aligned) {
#pragma unroll
      for (int e = 0; e < count; e += 4) {
        const float4 four = at(e) < dims ? read(reinterpret_cast<const float4*>(row + at(e))) : make_float4(0, 0, 0, 0);
        to[e] = four.x, to[e + 1] = four.y, to[e + 2] = four.z, to[e + 3] = four.w;
      }
    } else {
#pragma unroll
      for (int e = 0; e < count; e++) to[e] = at(e) < dims ? read(row + at(e)) : 0;
    }
  }
  __device__ static void store(float* row, int dims, const Values& from) {
    if constexpr (aligned) {
#pragma unroll
      for (int e = 0; e < count; e += 4)
        if (at(e) < dims)
          gpu::storeStreaming(reinterpret_cast<float4*>(row + at(e)),
                              make_float4(from[e], from[e + 1], from[e + 2], from[e + 3]));
    } else {
#pragma unroll
      for (int e = 0; e < count; e++)
        if (at(e) < dims) gpu::storeStreaming(row + at(e), from[e]);
    }
  }
};

// Aᵀ·x̂ for the chunk's classes, finished on the spot. Grid: dim tiles × class tiles. `aligned`: dim is a multiple of 4.
template <class Core, WeightUse use, bool aligned>
__global__ void __launch_bounds__(WeightTile<Core>::threads, WeightTile<Core>::blocks)
    weightGradient(StepData<typename Core::Element> step, int firstClass, int classes) {
  if (use != WeightUse::gradient && step.totals->notFinite >= 0) return;  // the head refuses such a step
  using Tile = WeightTile<Core>;
  using Shared = WeightShared<Core>;
  using Part = RowPart<aligned, Tile::columns>;
  static_assert(sizeof(Shared) <= Tile::sharedBytes, "the epilogue's scratch takes the place of the operands");
  static_assert(Tile::pairsColumns, "the sums are handed over in pairs");
  constexpr int states = use == WeightUse::adamW ? 2 : use == WeightUse::momentum ? 1 : 0;
  constexpr int rowsAtOnce = aligned && states < 2 ? 4 : 2;
  static_assert(Shared::rowsOfWarp % rowsAtOnce == 0, "a warp takes whole batches of rows");
  gpu::SharedPool pool;
  unsigned char* staged = pool.take<unsigned char>(Tile::sharedBytes);
  const int firstDim = blockIdx.x * Tile::columns, firstRow = blockIdx.y * Tile::rows;
  typename Tile::Sums sums;
  Tile::multiply(step.gradients(), firstRow, step.inputs(), firstDim, 0, step.paddedRows, step.terms, staged, sums);
  Shared& shared = *reinterpret_cast<Shared*>(staged);
  spread<Tile, Tile::rows>([&](int i) {
    const int j = firstRow + i;
    shared.scale[i] = step.classScale[j];
    shared.along[i] = step.normalized ? static_cast<float>(columnSum(step, j)) : 0;
    shared.targets[i] = step.targetPlaces[j];
    shared.rows[i] = j < classes ? step.rowOf(firstClass + j) : 0;
  });
  const int dims = step.dim - firstDim;
  double squares = 0;
  // Strip by strip: sums → shared memory; then a warp takes its rows of the strip, `rowsAtOnce` at a time: weights and
  // states are read, gradients finished, and what follows from them written.
#pragma unroll
  for (int strip = 0; strip < Tile::strips; strip++) {
    __syncthreads();
    forEachRowOfStrip<Tile>(strip, [&](int r, int place) {
      forEachPair<Tile>([&](int c, int column) {
        *reinterpret_cast<float2*>(&shared.strip[place][column]) = make_float2(sums.at(r, c), sums.at(r, c + 1));
      });
    });
    __syncthreads();
#pragma unroll 1
    for (int i = 0; i < Shared::rowsOfWarp; i += rowsAtOnce) {
      const int from = threadIdx.x / 32 * Shared::rowsOfWarp + i;
      typename Part::Values weight[rowsAtOnce], state[2][rowsAtOnce];
      float partSquares = 0;
#pragma unroll
      for (int r = 0; r < rowsAtOnce; r++) {  // all on their way before the first is used
        const int row = Tile::rowOfStrip(strip, from + r), limit = firstRow + row < classes ? dims : 0;
        const int64_t at = shared.rows[row] * step.dim + firstDim;
        const bool projects = use != WeightUse::gradient || step.normalized;
        Part::load(step.weight + at, projects ? limit : 0, weight[r]);
#pragma unroll
        for (int s = 0; s < states; s++) Part::template load<true>(step.weightState[s] + at, limit, state[s][r]);
      }
#pragma unroll
      for (int r = 0; r < rowsAtOnce; r++) {
        const int row = Tile::rowOfStrip(strip, from + r), limit = firstRow + row < classes ? dims : 0;
        const int targets = shared.targets[row];
        const int64_t at = shared.rows[row] * step.dim + firstDim;
        const float scale = shared.scale[row], along = shared.along[row];
        typename Part::Values gradient, target = {};
        if (targets >= 0)
          Part::load(step.targetGradient + static_cast<int64_t>(targets) * step.dim + firstDim, limit, target);
        Part::load(shared.strip[from + r], limit, gradient);
#pragma unroll
        for (int e = 0; e < Part::count; e++) {
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
  const double total = sumOfBlock<Tile::threads>(shared.squares, squares);
  if (threadIdx.x != 0) return;
  step.gradientSquares[blockIdx.y * gridDim.x + blockIdx.x] += total;
}

constexpr int biasThreads = 256;  // and classes of a block

struct BiasShared {
  double squares[biasThreads / 32];
};

// The biases of a chunk: a thread per class.
static __global__ void __launch_bounds__(biasThreads) biasGradient(StepRows step, int firstClass, int classes) {
  GPU_SHARED(BiasShared, shared);
  const int j = blockIdx.x * biasThreads + threadIdx.x, label = firstClass + j;
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
  const double total = sumOfBlock<biasThreads>(shared.squares, square);
  if (threadIdx.x != 0) return;
  step.biasSquares[blockIdx.x] += total;
}

}  // namespace margin_softmax::cuda
