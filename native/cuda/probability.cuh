// The probability functions, a block per row.
#pragma once
#include "../core/probability.h"
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

// Σ term(i) over a row; the result is thread 0's.
template <class Term>
__device__ double sumOfRow(RowShared& shared, int64_t classes, const Term& term) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < classes; i += blockDim.x) sum += term(i);
  return blockTotal(shared, sum);
}

struct MeasureShared {
  RowShared rows;
  float shift, by;  // to subtract from a logit; the sum's inverse, or its logarithm
};

// Grid: rows.
static __global__ void __launch_bounds__(mostRowThreads) measureRows(MeasureData data) {
  gpu::SharedPool pool;
  float* kept = pool.take<float>(static_cast<unsigned>(data.keptCount));
  GPU_SHARED(MeasureShared, shared);
  static_assert(sizeof(MeasureShared) <= reservedShared);
  const int64_t from = static_cast<int64_t>(blockIdx.x) * data.classes;
  const float *p = data.p + from, *q = data.q + from;
  const KeptRow row{p, kept, data.keptCount, data.classes};
  const NoShares none;
  if (data.measure == Measure::informationContent) {
    writeRow(row, data.out + from, none, [](float value, float) { return 0 - logf(value); });
    return;
  }
  if (data.measure == Measure::softmax || data.measure == Measure::logSoftmax) {
    const bool logarithm = data.measure == Measure::logSoftmax;
    const RowSums sums = sumRow(shared.rows, row, none);
    if (threadIdx.x == 0) {
      shared.shift = static_cast<float>(sums.shift());
      shared.by = static_cast<float>(logarithm ? log1p(sums.totalLessOne()) : 1 / sums.total());
    }
    __syncthreads();
    const float shift = shared.shift, by = shared.by;
    writeRow(row, data.out + from, none, [&](float z, float) {
      const float difference = z - shift;
      return logarithm ? difference - by : expf(difference) * by;
    });
    return;
  }
  double sum;
  if (data.measure == Measure::klDivergence)
    sum = sumOfRow(shared.rows, data.classes, [&](int64_t i) { return divergenceTerm(p[i], q[i]); });
  else if (data.measure == Measure::crossEntropy)
    sum = 0 - sumOfRow(shared.rows, data.classes, [&](int64_t i) { return double{crossTerm(p[i], q[i])}; });
  else sum = 0 - sumOfRow(shared.rows, data.classes, [&](int64_t i) { return double{crossTerm(p[i], p[i])}; });
  if (threadIdx.x == 0) data.out[blockIdx.x] = static_cast<float>(sum);
}

}  // namespace margin_softmax::cuda
