// A block per row of given numbers: what the kernels over logits and probabilities share.
//
// A row is read from device memory once: it is kept in shared memory as far as that reaches (the rest is read again,
// from the level-2 cache). Maximum and sums are formed while it arrives, so only two passes are left: one waits for
// loads, the other for stores. A thread has eight loads under way before it uses one: 4 bytes each and 128 a warp, which
// needs no alignment, as rows of an odd number of classes have none.
#pragma once
#include "../formulas/row_sums.h"
#include "gpu.cuh"

namespace margin_softmax::cuda {

constexpr int mostRowThreads = 1024, mostRowWarps = mostRowThreads / 32;
constexpr int batchSize = 8;  // elements that a thread reads before it uses one
// Bytes of shared memory that a row leaves to the reductions.
constexpr int64_t reservedShared = 2048;

struct RowShared {
  double values[5][mostRowWarps];  // of each warp
};

// Eight elements of a thread: those of a warp are 256 in a row, a thread's 32 apart, so that the distance is known when
// the loads are compiled.
template <bool whole>
struct Batch {
  static constexpr int step = 32;
  int64_t first;
  int left;  // elements of the row from `first` on, where not all eight are there

  __device__ bool has(int k) const { return whole || k * step < left; }
  // Reads the thread's elements of an array, `otherwise` beyond the row's end.
  __device__ void read(const float* from, float otherwise, float (&values)[batchSize]) const {
    from += first;
#pragma unroll
    for (int k = 0; k < batchSize; k++) values[k] = has(k) ? from[k * step] : otherwise;
  }
  // Writes them by store(place, value).
  template <class Store>
  __device__ void write(float* to, const float (&values)[batchSize], const Store& store) const {
    to += first;
#pragma unroll
    for (int k = 0; k < batchSize; k++)
      if (has(k)) store(to + k * step, values[k]);
  }
};

// Elements of a block's threads together.
__device__ inline int64_t blockBatch() { return int64_t{batchSize} * blockDim.x; }

// Calls body(batch) as often for each thread: a warp may shuffle within.
template <class Body>
__device__ void forBatches(int64_t count, const Body& body) {
  const int mine = static_cast<int>(threadIdx.x / 32 * (batchSize * 32) + threadIdx.x % 32);
  int64_t from = 0;
  for (; from + blockBatch() <= count; from += blockBatch()) body(Batch<true>{from + mine, 0});
  if (from < count) body(Batch<false>{from + mine, static_cast<int>(count - from) - mine});
}

// The thread that element i belongs to.
__device__ inline unsigned threadOf(int64_t i) {
  const unsigned place = static_cast<unsigned>(i % blockBatch());
  return place / (batchSize * 32) * 32 + place % 32;
}

// A row, and as much of it as fits in shared memory.
struct KeptRow {
  const float* row;
  float* kept;
  int64_t keptCount;  // all, or whole batches of the block
  int64_t count;

  __device__ float at(int64_t i) const { return i < keptCount ? kept[i] : row[i]; }
  template <class Batch>
  __device__ bool keeps(const Batch& batch) const {
    return batch.first < keptCount;
  }
  // −∞, which adds nothing, beyond the row's end. `again`: what was kept.
  template <class Batch>
  __device__ void read(const Batch& batch, float (&values)[batchSize]) const {
    batch.read(row, -HUGE_VALF, values);
  }
  template <class Batch>
  __device__ void readAgain(const Batch& batch, float (&values)[batchSize]) const {
    if (keeps(batch)) batch.read(kept, -HUGE_VALF, values);
    else read(batch, values);
  }
  template <class Batch>
  __device__ void keep(const Batch& batch, const float (&values)[batchSize]) const {
    if (keeps(batch)) batch.write(kept, values, [](float* to, float value) { *to = value; });
  }
};

// The shares a_j of row_sums.h, where only the exponentials count.
struct NoShares {
  static constexpr bool any = false;
  template <class Data>
  __device__ static NoShares of(const Data&, int64_t, double) {
    return {};
  }
  template <class Batch>
  __device__ void read(const Batch&, float (&values)[batchSize]) const {
#pragma unroll
    for (float& value : values) value = 0;
  }
};

// Sums of one batch, relative to the maximum so far, for RowSums::add.
struct BatchSums {
  float ones = 0, rest = 0, shares = 0, deficit = 0;
};

// The sums of a warp's lanes together, in every lane.
__device__ inline RowSums warpTotal(RowSums sums) {
  sums.raise(gpu::warpMax(static_cast<float>(sums.maximum)));
  sums.ones = gpu::warpSum(sums.ones);
  sums.rest = gpu::warpSum(sums.rest);
  sums.shares = gpu::warpSum(sums.shares);
  sums.deficit = gpu::warpSum(sums.deficit);
  return sums;
}

// The sums of the block's threads in a fixed order; the result is warp 0's. What the block kept is there for all.
__device__ inline RowSums blockTotal(RowShared& shared, RowSums sums) {
  sums = warpTotal(sums);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  double (&values)[5][mostRowWarps] = shared.values;
  if (lane == 0) {
    values[0][warp] = sums.maximum;
    values[1][warp] = sums.ones;
    values[2][warp] = sums.rest;
    values[3][warp] = sums.shares;
    values[4][warp] = sums.deficit;
  }
  __syncthreads();
  if (warp != 0) return sums;
  sums = {};
  if (lane < blockDim.x / 32)
    sums = {values[0][lane], values[1][lane], values[2][lane], values[3][lane], values[4][lane]};
  return warpTotal(sums);
}

// The same of one number.
__device__ inline double blockTotal(RowShared& shared, double value) {
  value = gpu::warpSum(value);
  const unsigned lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  if (lane == 0) shared.values[0][warp] = value;
  __syncthreads();
  return warp == 0 ? gpu::warpSum(lane < blockDim.x / 32 ? shared.values[0][lane] : 0.0) : value;
}

// Reads the row, keeps it, and sums it on the way; the result is warp 0's. A warp has one maximum: it rises in about
// log(batches) of them, so that the exponential in double precision that a rise takes is rare.
template <class Shares>
__device__ RowSums sumRow(RowShared& shared, const KeptRow& row, const Shares& shares) {
  RowSums sums;
  float maximum = -HUGE_VALF;
  forBatches(row.count, [&](const auto& batch) {
    float values[batchSize], a[batchSize];
    row.read(batch, values);
    shares.read(batch, a);
    row.keep(batch, values);
    float largest = values[0];
#pragma unroll
    for (int k = 1; k < batchSize; k++) largest = fmaxf(largest, values[k]);
    largest = gpu::warpMax(largest);  // NaN is passed over: the sums meet it
    if (largest > maximum) {
      maximum = largest;
      sums.raise(largest);
    }
    const float shift = maximum == -HUGE_VALF ? 0 : maximum;
    BatchSums batchSums;
#pragma unroll
    for (int k = 0; k < batchSize; k++) {
      const float difference = values[k] - shift, exponential = expf(difference);
      const bool one = difference == 0;
      batchSums.ones += one ? 1 : 0;
      batchSums.rest += one ? 0 : exponential;
      if (!Shares::any) continue;
      batchSums.shares += a[k];
      batchSums.deficit += a[k] == 0 ? 0 : a[k] * -difference;
    }
    sums.add(batchSums);
  });
  return blockTotal(shared, sums);
}

// out[i] = value(z_i, a_i); out may be the row itself.
template <class Shares, class Value>
__device__ void writeRow(const KeptRow& row, float* out, const Shares& shares, const Value& value) {
  forBatches(row.count, [&](const auto& batch) {
    float values[batchSize], a[batchSize];
    row.readAgain(batch, values);
    shares.read(batch, a);
#pragma unroll
    for (int k = 0; k < batchSize; k++) values[k] = value(values[k], a[k]);
    batch.write(out, values, [](float* to, float result) { gpu::storeStreaming(to, result); });
  });
}

}  // namespace margin_softmax::cuda
