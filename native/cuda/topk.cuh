// The k best of each row as chunks of scores come by: a block per row keeps them as a sorted list of keys in device
// memory. A key orders by score, then by class: a larger one is better, and two are never equal.
#pragma once
#include "gpu.cuh"

namespace margin_softmax::cuda {

constexpr int topKThreads = 256, segment = 1024;  // scores looked at together
constexpr uint64_t emptyKey = 0;                  // below every other: where there are fewer than k numbers

struct TopKData {
  const float* scores;  // [rows][stride]
  int stride, classes;  // of the chunk
  int firstClass;
  int64_t k;
  uint64_t *best, *spare;  // [rows][k] descending; spare is scratch
  int32_t* indices;        // [rows][k]
  float* bestScores;       // [rows][k]
};

// Scores in their order as unsigned integers; NaN is no score.
__device__ inline uint64_t keyOf(float score, int index) {
  if (score != score) return emptyKey;
  const uint32_t bits = __float_as_uint(score + 0.0f);  // + 0: −0 is 0
  const uint32_t ordered = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<uint64_t>(ordered) << 32 | static_cast<uint32_t>(~index);
}

__device__ inline float scoreOf(uint64_t key) {
  const uint32_t ordered = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(ordered & 0x80000000u ? ordered & 0x7fffffffu : ~ordered);
}

// Counts the keys of a descending list that are better than this one.
__device__ inline int64_t betterThan(const uint64_t* list, int64_t count, uint64_t key) {
  int64_t first = 0, last = count;
  while (first < last) {
    const int64_t middle = (first + last) / 2;
    if (list[middle] > key) first = middle + 1;
    else last = middle;
  }
  return first;
}

struct TopKShared {
  uint64_t keys[segment];
};

// Batcher's bitonic sort, descending.
__device__ inline void sortSegment(TopKShared& shared) {
  for (int size = 2; size <= segment; size *= 2)
    for (int distance = size / 2; distance; distance /= 2) {
      __syncthreads();
      for (int i = threadIdx.x; i < segment; i += topKThreads) {
        const int other = i ^ distance;
        if (other < i) continue;
        const uint64_t a = shared.keys[i], b = shared.keys[other];
        const bool descending = (i & size) == 0;
        if (descending ? a < b : a > b) {
          shared.keys[i] = b;
          shared.keys[other] = a;
        }
      }
    }
  __syncthreads();
}

// Takes a chunk's scores into the lists. Grid: rows.
static __global__ void __launch_bounds__(topKThreads) mergeTopK(TopKData data) {
  GPU_SHARED(TopKShared, shared);
  const float* scores = data.scores + static_cast<int64_t>(blockIdx.x) * data.stride;
  uint64_t* const home = data.best + blockIdx.x * data.k;
  uint64_t *from = home, *to = data.spare + blockIdx.x * data.k;
  for (int first = 0; first < data.classes; first += segment) {
    const uint64_t worst = from[data.k - 1];
    int better = 0;
    for (int i = threadIdx.x; i < segment; i += topKThreads) {
      const int column = first + i;
      const uint64_t key = column < data.classes ? keyOf(scores[column], data.firstClass + column) : emptyKey;
      shared.keys[i] = key > worst ? key : emptyKey;
      better |= key > worst;
    }
    if (!__syncthreads_or(better)) continue;
    sortSegment(shared);
    for (int64_t i = threadIdx.x; i < data.k; i += topKThreads) {
      const uint64_t key = from[i];
      const int64_t place = i + betterThan(shared.keys, segment, key);
      if (place < data.k) to[place] = key;
    }
    for (int i = threadIdx.x; i < segment; i += topKThreads) {
      const uint64_t key = shared.keys[i];
      if (key == emptyKey) continue;
      const int64_t place = i + betterThan(from, data.k, key);
      if (place < data.k) to[place] = key;
    }
    uint64_t* const merged = to;
    to = from;
    from = merged;
    __syncthreads();
  }
  if (from == home) return;
  for (int64_t i = threadIdx.x; i < data.k; i += topKThreads) home[i] = from[i];
}

// Grid: rows.
static __global__ void __launch_bounds__(topKThreads) unpackTopK(TopKData data) {
  const int64_t row = blockIdx.x * data.k;
  for (int64_t i = threadIdx.x; i < data.k; i += topKThreads) {
    const uint64_t key = data.best[row + i];
    data.indices[row + i] = key == emptyKey ? -1 : static_cast<int32_t>(~static_cast<uint32_t>(key));
    data.bestScores[row + i] = key == emptyKey ? -HUGE_VALF : scoreOf(key);
  }
}

}  // namespace margin_softmax::cuda
