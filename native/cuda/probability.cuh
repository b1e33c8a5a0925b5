// The probability functions, a block per row.
#pragma once
#include "../probability.h"
#include "row_reduce.cuh"

namespace margin_softmax::cuda {

struct MeasureData {
  Measure measure;
  int64_t classes, keptCount;
  const float *p, *q;  // [rows][classes]
  float* out;          // [rows] or [rows][classes]
};

// p log q, where p = 0 gives q − q: 0, but NaN where q is.
__device__ inline float crossTerm(float p, float q) { return p == 0 ? q - q : p * logf(q); }

// p log(p/q) in double precision: where q is near p the terms cancel almost wholly.
__device__ inline double divergenceTerm(double p, double q) {
  if (p == 0) return q - q;
  return p * (q < 0 ? nan("") : log(p / (q + 0.0)));  // + 0: −0 would turn +∞ into −∞
}

template <class Term>
__device__ double sumOfRow(RowShared& shared, int64_t classes, const Term& term) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < classes; i += blockDim.x) sum += term(i);
  return blockTotal(shared, sum);
}

// Grid: rows.
static __global__ void __launch_bounds__(mostRowThreads) measureRows(MeasureData data) {
  gpu::SharedPool pool;
  float* kept = pool.take<float>(static_cast<unsigned>(data.keptCount));
  GPU_SHARED(RowShared, shared);
  const int64_t from = static_cast<int64_t>(blockIdx.x) * data.classes;
  const float *p = data.p + from, *q = data.q + from;
  if (data.measure == Measure::informationContent) {
    for (int64_t i = threadIdx.x; i < data.classes; i += blockDim.x)
      gpu::storeStreaming(data.out + from + i, 0 - logf(p[i]));
    return;
  }
  if (data.measure == Measure::softmax || data.measure == Measure::logSoftmax) {
    const KeptRow row{p, kept, data.keptCount, data.classes};
    const float maximum = keepRow(shared, row);
    const RowSums sums = sumRow(shared, row, maximum, false, [](int64_t) { return 0.0f; });
    const float shift = static_cast<float>(sums.shift());
    const bool logarithm = data.measure == Measure::logSoftmax;
    const float by = static_cast<float>(logarithm ? log1p(sums.totalLessOne()) : 1 / sums.total());
    for (int64_t i = threadIdx.x; i < data.classes; i += blockDim.x) {
      const float difference = row.at(i) - shift;
      gpu::storeStreaming(data.out + from + i, logarithm ? difference - by : expf(difference) * by);
    }
    return;
  }
  double sum;
  if (data.measure == Measure::klDivergence)
    sum = sumOfRow(shared, data.classes, [&](int64_t i) { return divergenceTerm(p[i], q[i]); });
  else if (data.measure == Measure::crossEntropy)
    sum = 0 - sumOfRow(shared, data.classes, [&](int64_t i) { return static_cast<double>(crossTerm(p[i], q[i])); });
  else sum = 0 - sumOfRow(shared, data.classes, [&](int64_t i) { return static_cast<double>(crossTerm(p[i], p[i])); });
  if (threadIdx.x == 0) data.out[blockIdx.x] = static_cast<float>(sum);
}

}  // namespace margin_softmax::cuda
