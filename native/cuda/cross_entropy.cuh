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

// Grid: rows.
static __global__ void __launch_bounds__(mostRowThreads) crossEntropyRows(CrossEntropyData data) {
  gpu::SharedPool pool;
  float* kept = pool.take<float>(static_cast<unsigned>(data.keptCount));
  GPU_SHARED(RowShared, shared);
  const int64_t from = static_cast<int64_t>(blockIdx.x) * data.classes;
  const int label = data.labels ? data.labels[blockIdx.x] : 0;
  float* out = data.gradLogits ? data.gradLogits + from : nullptr;
  if (label < 0) {  // ignored
    if (threadIdx.x == 0) data.losses[blockIdx.x] = 0;
    for (int64_t i = threadIdx.x; out && i < data.classes; i += blockDim.x) gpu::storeStreaming(out + i, 0);
    return;
  }
  const KeptRow row{data.logits + from, kept, data.keptCount, data.classes};
  const float* targets = data.targets ? data.targets + from : nullptr;
  // With labels the classes share the smoothing alone; the label's own share is added by closeLogits.
  const bool weighted = targets || data.even != 0;
  const auto shareOf = [&](float keep, float even) {
    return [=](int64_t i) {
      const float share = targets ? fmaf(keep, targets[i], even) : even;
      return data.classWeights ? data.classWeights[i] * share : share;
    };
  };
  const float maximum = keepRow(shared, row);
  const RowSums sums =
      sumRow(shared, row, maximum, weighted, shareOf(static_cast<float>(data.keep), static_cast<float>(data.even)));
  LabelledLogit own{};
  if (data.labels) own = {true, row.at(label), data.classWeights ? data.classWeights[label] : 1.0};
  LogitGradient gradient{};
  const double loss = closeLogits(sums, own, data.keep, data.even, data.upstream[blockIdx.x], gradient);
  if (threadIdx.x == 0) data.losses[blockIdx.x] = loss;
  if (!out) return;
  __syncthreads();  // in place: nobody writes before all have read their label's logit
  const auto share =
      shareOf(static_cast<float>(data.keep * gradient.scale), static_cast<float>(data.even * gradient.scale));
  for (int64_t i = threadIdx.x; i < data.classes; i += blockDim.x) {
    const float a = weighted ? share(i) : 0;
    const float value = fmaf(expf(row.at(i) - gradient.shift), gradient.factor, -a);
    gpu::storeStreaming(out + i, data.labels && i == label ? gradient.atLabel : value);
  }
}

}  // namespace margin_softmax::cuda
