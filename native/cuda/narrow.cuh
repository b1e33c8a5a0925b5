// Rows of few dimensions (Problem::isNarrow): logits and gradInput in double precision. ../cpu/step.h tells what cancels
// there. These kernels take the places of a step's tiles (step.cuh) and leave the same arrays to the others:
//
//   narrowClasses   a thread per class             the directions of a chunk's classes, as prepareClasses
//   narrowForward   a thread per row, of a tile    running (maximum, sum), as forwardTile
//   narrowGradient  a thread per class, of a tile  A and its sums down the columns, as gradientTile
//   narrowInput     a thread per row, of a slot    partial gradInput += A·ŵ, as inputGradient
//
// Maxima are floats, and a difference to one is rounded after it is taken: logits close to the maximum, which alone
// count, keep their digits.
#pragma once
#include "forward.cuh"

namespace margin_softmax::cuda {

constexpr int narrowSide = 128;  // rows and classes of a block, and its threads

// A block's rows and classes: both [dim][narrowSide], so that threads side by side read side by side.
struct NarrowTile {
  int firstRow, firstColumn;  // in the batch, in the chunk
  double *input, *weight;     // x̂ and ŵ, zeros for rows and classes that take no part
};
inline size_t narrowTileBytes(int64_t dim) { return static_cast<size_t>(2 * dim * narrowSide) * sizeof(double); }

// Grid: tiles of the chunk.
static __global__ void __launch_bounds__(narrowSide) narrowClasses(StepRows step, int firstClass, int classes) {
  const int j = blockIdx.x * narrowSide + threadIdx.x;
  const bool present = j < classes;
  const float* w = step.weightRow(firstClass + (present ? j : 0));
  double squares = 0;
  for (int d = 0; d < step.dim; d++) squares += static_cast<double>(w[d]) * w[d];
  const double scale = present ? inverseNorm(squares) : 0;
  step.classScale[j] = static_cast<float>(scale);
  for (int d = 0; d < step.dim; d++)
    step.narrowWeight[static_cast<int64_t>(d) * step.chunk + j] = scale == 0 ? 0 : w[d] * scale;
}

// Ends with a barrier.
__device__ inline NarrowTile loadNarrowTile(const StepRows& step, gpu::SharedPool& pool) {
  const unsigned count = static_cast<unsigned>(step.dim * narrowSide);
  double* const input = pool.take<double>(count);
  double* const weight = pool.take<double>(count);
  const NarrowTile tile{static_cast<int>(blockIdx.x) * narrowSide, static_cast<int>(blockIdx.y) * narrowSide, input,
                        weight};
  const int row = tile.firstRow + threadIdx.x;
  const double scale = step.labels[row] == ignoredLabel ? 0 : step.states[row].inverseNorm;
  for (int d = 0; d < step.dim; d++) {
    const int at = d * narrowSide + threadIdx.x;
    input[at] = scale == 0 ? 0 : step.input[static_cast<int64_t>(row) * step.dim + d] * scale;
    weight[at] = step.narrowWeight[static_cast<int64_t>(d) * step.chunk + tile.firstColumn + threadIdx.x];
  }
  __syncthreads();
  return tile;
}

constexpr int narrowTerms = 4;  // of a thread at once

// The cosines of this thread's vector with four others, from `first` on.
__device__ inline void narrowCosines(const double* own, const double* others, int first, int dim,
                                     double (&cosines)[narrowTerms]) {
#pragma unroll
  for (int k = 0; k < narrowTerms; k++) cosines[k] = 0;
  for (int d = 0; d < dim; d++) {
    const double value = own[d * narrowSide + threadIdx.x];
#pragma unroll
    for (int k = 0; k < narrowTerms; k++) cosines[k] = fma(value, others[d * narrowSide + first + k], cosines[k]);
  }
}

// Beyond 2^29 (SphereFace's may be of any size) a maximum that is rounded to float would be further from its own logit
// than exponentials reach: there logits are rounded like it.
__device__ inline double narrowLogit(double scale, double cosine) {
  const double z = scale * cosine;
  return fabs(z) < 0x1p29 ? z : static_cast<double>(static_cast<float>(z));
}

// `first`: the running figures begin with this chunk. `transforms`: negatives. Grid: row tiles × class tiles.
template <bool transforms>
__global__ void __launch_bounds__(narrowSide) narrowForward(StepRows step, int firstClass, int classes, bool first) {
  gpu::SharedPool pool;
  const NarrowTile tile = loadNarrowTile(step, pool);
  const int row = tile.firstRow + threadIdx.x, label = step.labels[row];
  if (label == ignoredLabel) return;
  const int64_t at = static_cast<int64_t>(blockIdx.y) * step.paddedRows + row;
  const float2 before = first ? make_float2(leftOut, 0) : step.extremes[at];
  const double scale = step.states[row].scale;
  const int own = label - firstClass - tile.firstColumn, columns = classes - tile.firstColumn;
  double maximum = before.x, sum = before.y, logits = 0;
  float largestCosine = leftOut;
  for (int j = 0; j < narrowSide; j += narrowTerms) {
    double z[narrowTerms], largest = leftOut;
    narrowCosines(tile.input, tile.weight, j, step.dim, z);
#pragma unroll
    for (int k = 0; k < narrowTerms; k++) {
      const bool counts = counted(step, static_cast<float>(z[k]), j + k == own) && j + k < columns;
      if constexpr (transforms) {
        if (counts) largestCosine = fmaxf(largestCosine, static_cast<float>(z[k]));
        z[k] = transformedCosine(step.negatives[row], z[k]);
      }
      z[k] = counts ? narrowLogit(scale, z[k]) : leftOut;
      largest = fmax(largest, z[k]);
      if (step.smooths) logits += counts ? z[k] * step.shareOf(firstClass + tile.firstColumn + j + k) : 0;
    }
    if (largest > maximum) {
      const double raised = static_cast<float>(largest);
      sum *= expf(static_cast<float>(maximum - raised));
      maximum = raised;
    }
    float terms = 0;
#pragma unroll
    for (int k = 0; k < narrowTerms; k++) terms += z[k] == leftOut ? 0 : expf(static_cast<float>(z[k] - maximum));
    sum += terms;
  }
  step.extremes[at] = make_float2(static_cast<float>(maximum), static_cast<float>(sum));
  if (step.smooths) step.logitSums[at] = logits + (first ? 0 : step.logitSums[at]);
  if constexpr (transforms) {
    const float here = largestCosine == leftOut ? leftOut : static_cast<float>(scale) * largestCosine;
    step.largest[at] = first ? here : fmaxf(step.largest[at], here);
  }
}

// The factors of a block's rows that A is made of: see RowFactors.
struct NarrowRows {
  double scale[narrowSide];
  float maximum[narrowSide], share[narrowSide], even[narrowSide];
  int labels[narrowSide];
};

// Grid: row tiles × class tiles.
template <bool transforms>
__global__ void __launch_bounds__(narrowSide) narrowGradient(StepData<float> step, int firstClass, int classes) {
  gpu::SharedPool pool;
  GPU_SHARED(NarrowRows, rows);
  const int mine = blockIdx.x * narrowSide + threadIdx.x;
  const RowFactors factors = step.factors[mine];
  rows.labels[threadIdx.x] = step.labels[mine];
  rows.scale[threadIdx.x] = step.labels[mine] == ignoredLabel ? 0 : step.states[mine].scale;
  rows.maximum[threadIdx.x] = factors.maximum;
  rows.share[threadIdx.x] = factors.share;
  rows.even[threadIdx.x] = factors.even;
  const NarrowTile tile = loadNarrowTile(step, pool);
  const int column = tile.firstColumn + threadIdx.x;
  if (blockIdx.x == 0) placeTargets(step, column, firstClass, classes);
  float* out = step.gradientOperand + static_cast<int64_t>(tile.firstRow) * step.chunk + column;
  const float share = step.smooths && column < classes ? step.shareOf(firstClass + column) : 0;
  double sum = 0;
  for (int i = 0; i < narrowSide; i += narrowTerms) {
    double cosines[narrowTerms];
    narrowCosines(tile.weight, tile.input, i, step.dim, cosines);
#pragma unroll
    for (int k = 0; k < narrowTerms; k++) {
      const int row = i + k;
      const bool own = firstClass + column == rows.labels[row];
      const bool counts = counted(step, static_cast<float>(cosines[k]), own) && column < classes;
      double value = cosines[k];
      if constexpr (transforms) value = transformedCosine(step.negatives[tile.firstRow + row], value);
      const float difference = static_cast<float>(narrowLogit(rows.scale[row], value) - rows.maximum[row]);
      float a = counts ? fmaf(expf(difference), rows.share[row], -rows.even[row] * share) : 0;
      if constexpr (transforms)
        a *= static_cast<float>(transformedSlope(step.negatives[tile.firstRow + row], cosines[k]));
      out[static_cast<int64_t>(row) * step.chunk] = a;
      sum += counts ? a * cosines[k] : 0;
    }
  }
  step.columnSums[static_cast<int64_t>(blockIdx.x) * step.chunk + column] = static_cast<float>(sum);
}

constexpr int narrowColumns = 32;                // of A that a block holds at once
constexpr int narrowStride = narrowColumns + 1;  // rows of A begin on different banks
constexpr int narrowInputThreads = 256;
constexpr int narrowDims = narrowInputThreads / narrowSide;           // threads of a row, each with other dimensions
constexpr int narrowRowsAtOnce = narrowInputThreads / narrowColumns;  // of A, when a block reads it

inline size_t narrowInputBytes(int64_t dim) {
  return narrowSide * narrowStride * sizeof(float) +
         static_cast<size_t>(dim * (narrowColumns + narrowSide)) * sizeof(double);
}

// Grid: row tiles × slots.
static __global__ void __launch_bounds__(narrowInputThreads) narrowInput(StepData<float> step, int tiles) {
  gpu::SharedPool pool;
  float* gradients = pool.take<float>(narrowSide * narrowStride);                       // [narrowSide][stride]
  double* weight = pool.take<double>(static_cast<unsigned>(step.dim * narrowColumns));  // [dim][columns]
  double* sums = pool.take<double>(static_cast<unsigned>(step.dim * narrowSide));       // [dim][narrowSide]
  const int slot = blockIdx.y, firstRow = blockIdx.x * narrowSide;
  const int row = threadIdx.x % narrowSide, firstDim = threadIdx.x / narrowSide;
  const int column = threadIdx.x % narrowColumns, firstRead = threadIdx.x / narrowColumns;
  const int64_t firstTile = static_cast<int64_t>(tiles) * slot / step.inputSlots;
  const int64_t lastTile = static_cast<int64_t>(tiles) * (slot + 1) / step.inputSlots;
  for (int d = firstDim; d < step.dim; d += narrowDims) sums[d * narrowSide + row] = 0;
  for (int64_t first = firstTile * narrowSide; first < lastTile * narrowSide; first += narrowColumns) {
    __syncthreads();  // all are done with the columns before
    const float* from = step.gradientOperand + static_cast<int64_t>(firstRow) * step.chunk + first + column;
#pragma unroll 8
    for (int i = firstRead; i < narrowSide; i += narrowRowsAtOnce)
      gradients[i * narrowStride + column] = from[static_cast<int64_t>(i) * step.chunk];
    for (int d = firstRead; d < step.dim; d += narrowRowsAtOnce)
      weight[d * narrowColumns + column] = step.narrowWeight[static_cast<int64_t>(d) * step.chunk + first + column];
    __syncthreads();
    for (int d = firstDim; d < step.dim; d += narrowDims) {
      double sum = sums[d * narrowSide + row];
#pragma unroll 8
      for (int j = 0; j < narrowColumns; j++)
        sum = fma(double{gradients[row * narrowStride + j]}, weight[d * narrowColumns + j], sum);
      sums[d * narrowSide + row] = sum;
    }
  }
  double* out = step.narrowInput + (static_cast<int64_t>(slot) * step.paddedRows + firstRow + row) * step.paddedDim;
  for (int d = firstDim; d < step.dim; d += narrowDims) out[d] += sums[d * narrowSide + row];
}

}  // namespace margin_softmax::cuda
