// Cross-entropy of given logits, forward and backward in one pass over memory: see row_reduce.cuh.
#pragma once
#include "row_reduce.cuh"

namespace margin_softmax::cuda {

struct CrossEntropyData {
  int64_t classes, keptCount;
  const float* logits;        // [rows][classes]
  const int32_t* labels;      // [rows] or null
  const float* targets;       // [rows][classes] or null
  const float* classWeights;  // [classes] or null
  const double* upstream;     // [rows] gradient of each row's loss
  double keep, even;          // 1 − ε and ε/C
  double* losses;             // [rows] before rounding
  float* gradLogits;          // [rows][classes] or null; may be the logits themselves
};

struct CrossEntropyShared {
  RowShared rows;
  LogitGradient gradient;
};

// a_j = w_j (keep·t_j + even). With labels the classes share the smoothing alone; the label's own share is added by
// closeLogits.
struct ClassShares {
  static constexpr bool any = true;
  const float *targets, *classWeights;  // of the row, of all; or null
  float keep, even;

  __device__ static ClassShares of(const CrossEntropyData& data, int64_t from, double scale) {
    return {data.targets ? data.targets + from : nullptr, data.classWeights, static_cast<float>(data.keep * scale),
            static_cast<float>(data.even * scale)};
  }
  // 0 beyond the row's end.
  template <class Batch>
  __device__ void read(const Batch& batch, float (&values)[batchSize]) const {
    float given[batchSize];
    if (targets) batch.read(targets, 0, given);
#pragma unroll
    for (int k = 0; k < batchSize; k++) values[k] = !batch.has(k) ? 0 : targets ? fmaf(keep, given[k], even) : even;
    if (!classWeights) return;
    batch.read(classWeights, 0, given);
#pragma unroll
    for (int k = 0; k < batchSize; k++) values[k] *= given[k];
  }
};

template <class Shares>
__device__ void lossOfRow(const CrossEntropyData& data, const KeptRow& row, int64_t from, CrossEntropyShared& shared) {
  const RowSums sums = sumRow(shared.rows, row, Shares::of(data, from, 1));
  const int label = data.labels ? data.labels[blockIdx.x] : 0;
  if (threadIdx.x == 0) {
    LabelledLogit own{};
    if (data.labels) own = {true, row.at(label), data.classWeights ? data.classWeights[label] : 1.0};
    data.losses[blockIdx.x] = closeLogits(sums, own, data.keep, data.even, data.upstream[blockIdx.x], shared.gradient);
  }
  if (!data.gradLogits) return;
  __syncthreads();
  const LogitGradient gradient = shared.gradient;
  float* out = data.gradLogits + from;
  writeRow(row, out, Shares::of(data, from, gradient.scale),
           [&](float z, float a) { return fmaf(expf(z - gradient.shift), gradient.factor, -a); });
  // By the thread that wrote it before.
  if (data.labels && threadIdx.x == threadOf(label)) out[label] = gradient.atLabel;
}

// Grid: rows.
static __global__ void __launch_bounds__(mostRowThreads) crossEntropyRows(CrossEntropyData data) {
  gpu::SharedPool pool;
  float* kept = pool.take<float>(static_cast<unsigned>(data.keptCount));
  GPU_SHARED(CrossEntropyShared, shared);
  static_assert(sizeof(CrossEntropyShared) <= reservedShared);
  const int64_t from = static_cast<int64_t>(blockIdx.x) * data.classes;
  if (data.labels && data.labels[blockIdx.x] < 0) {  // ignored
    if (threadIdx.x == 0) data.losses[blockIdx.x] = 0;
    float* out = data.gradLogits ? data.gradLogits + from : nullptr;
    for (int64_t i = threadIdx.x; out && i < data.classes; i += blockDim.x) gpu::storeStreaming(out + i, 0);
    return;
  }
  const KeptRow row{data.logits + from, kept, data.keptCount, data.classes};
  if (data.targets || data.even != 0) lossOfRow<ClassShares>(data, row, from, shared);
  else lossOfRow<NoShares>(data, row, from, shared);
}

}  // namespace margin_softmax::cuda
