// A block per row of given numbers: what the kernels over logits and probabilities share.
//
// A row is read from device memory once: it is kept in shared memory as far as that reaches (the rest is read again,
// from the level-2 cache), so that maximum, sums and gradient pass over it there. Elements are read one by one, 128
// bytes a warp and eight loads in flight a thread: that needs no alignment, which rows of an odd number of classes
// lack.
#pragma once
#include "../row_sums.h"
#include "gpu.cuh"

namespace margin_softmax::cuda {

constexpr int mostRowThreads = 1024;
// Bytes of shared memory for a row where a block may have them: an H100's 227 KiB less what the reductions take.
constexpr int64_t reservedShared = 1024;

struct RowShared {
  double doubles[mostRowThreads / 32];
  float floats[mostRowThreads / 32];
};

// A row with as much of it as fits in shared memory. Every thread of the block calls these together.
struct KeptRow {
  const float* row;
  float* kept;
  int64_t keptCount, count;

  __device__ float at(int64_t i) const { return i < keptCount ? kept[i] : row[i]; }
};

// The block's maximum, in every thread. NaN is passed over: the sums meet it.
__device__ inline float blockMaximum(RowShared& shared, float value) {
  value = gpu::warpMax(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.floats[threadIdx.x / 32] = value;
  __syncthreads();
  for (unsigned w = 0; w < blockDim.x / 32; w++) value = fmaxf(value, shared.floats[w]);
  return value;
}

// The block's sum in a fixed order, in every thread.
__device__ inline double blockTotal(RowShared& shared, double value) {
  value = gpu::warpSum(value);
  __syncthreads();
  if (threadIdx.x % 32 == 0) shared.doubles[threadIdx.x / 32] = value;
  __syncthreads();
  double sum = 0;
  for (unsigned w = 0; w < blockDim.x / 32; w++) sum += shared.doubles[w];
  return sum;
}

// Reads the row and returns its largest element (−∞ where it has none but −∞ and NaN).
__device__ inline float keepRow(RowShared& shared, const KeptRow& row) {
  float maximum = -HUGE_VALF;
#pragma unroll 8
  for (int64_t i = threadIdx.x; i < row.count; i += blockDim.x) {
    const float value = row.row[i];
    if (i < row.keptCount) row.kept[i] = value;
    maximum = fmaxf(maximum, value);
  }
  return blockMaximum(shared, maximum);  // its barriers also publish what was kept
}

// Adds terms in single precision over runs of 64, in double precision beyond.
struct RunningSum {
  double total = 0;
  float run = 0;
  int terms = 0;

  __device__ void add(float term) {
    run += term;
    if (++terms % 64 == 0) {
      total += run;
      run = 0;
    }
  }
  __device__ double value() const { return total + run; }
};

// Sums over a row relative to its maximum; share(i) is a_i, or nothing counts but the exponentials.
template <class Share>
__device__ RowSums sumRow(RowShared& shared, const KeptRow& row, float maximum, bool weighted, const Share& share) {
  RowSums sums;
  sums.maximum = maximum;
  const float shift = static_cast<float>(sums.shift());
  RunningSum ones, rest, shares, deficit;
  for (int64_t i = threadIdx.x; i < row.count; i += blockDim.x) {
    const float difference = row.at(i) - shift;
    if (difference == 0) ones.add(1);
    else rest.add(expf(difference));
    if (!weighted) continue;
    const float a = share(i);
    shares.add(a);
    deficit.add(a == 0 ? 0 : a * -difference);
  }
  sums.ones = blockTotal(shared, ones.value());
  sums.rest = blockTotal(shared, rest.value());
  if (weighted) {
    sums.shares = blockTotal(shared, shares.value());
    sums.deficit = blockTotal(shared, deficit.value());
  }
  return sums;
}

}  // namespace margin_softmax::cuda
