// SIMT on the CPU: what a CUDA kernel sees when it is compiled as plain C++ (native/cuda/gpu.cuh includes this).
//
// Every GPU thread is a fibre and a block's fibres share one thread of the system; blocks are spread over the cores.
// What threads do together (barriers, shuffles, mma) is a rendezvous: a lane leaves a pointer to its arguments and
// yields, the last to arrive computes for all. Lanes are truly independent, so code that relies on a warp marching in
// step fails. Memory is plain memory, so that the compilers' sanitizers do the checking: shared memory begins poisoned,
// has a red zone behind each piece, and asynchronous copies land as late as they may. README.md tells what this can't
// see.
#pragma once
#include <algorithm>
#include <atomic>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#define __host__
#define __device__
#define __global__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};
struct uint3 {
  unsigned x, y, z;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
inline float2 make_float2(float x, float y) { return {x, y}; }
inline float4 make_float4(float x, float y, float z, float w) { return {x, y, z, w}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }

#include "streams.h"

namespace simt {

// A place in the kernel's source, which a fault's message names.
struct Site {
  const char* file;
  int line;
};
#define SIMT_SITE_PARAMETER simt::Site site = {__builtin_FILE(), __builtin_LINE()}

struct Thread {
  uint3 index, block;
  dim3 blockSize, gridSize;
  unsigned lane, warp, linear;
};
extern thread_local Thread* self;

// Ends the block's work: the launch reports the message. Never returns.
[[noreturn]] void fault(Site site, const char* format, ...) __attribute__((format(printf, 2, 3)));
// The reason why the last launch of this thread failed; empty if it did not.
const char* lastFault();

// Settings of how kernels run; read from the environment once, see engine.cc.
struct Options {
  int order;    // of fibres: 0 ascending, 1 descending, else pseudo-random with this seed
  int threads;  // of the system; 0: as many as there are cores. One under ThreadSanitizer
};
const Options& options();

// ---- what threads do together (engine.cc) ----
using Combine = void (*)(void* const* lanes, unsigned mask);  // lanes[i]: what lane i left
// `aligned`: all lanes must be at the same source line.
void warpCollective(const char* what, unsigned mask, void* arguments, Combine combine, Site site, bool aligned);
void warpBarrier(unsigned mask, Site site);
int blockBarrier(int vote, Site site);  // returns how many threads voted

// ---- shared memory and asynchronous copies (memory.cc) ----
void* staticShared(const void* identity, size_t bytes, size_t alignment);
void* dynamicShared(size_t offset, size_t bytes, unsigned piece, Site site);
void copyAsync(void* shared, const void* global, int bytes, bool valid, Site site);
void commitCopies();
void waitCopies(int pending);

// Poisons device memory whose owner needs nothing of what it holds, where SIMT_POISON asks for that (runtime.cc).
void discard(void* memory, size_t bytes);

// ---- launches ----
cudaError_t launchBody(void (*body)(void*), void* argument, dim3 grid, dim3 block, size_t sharedBytes);

template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, cudaStream_t stream,
                   std::type_identity_t<Parameters>... arguments) {
  return giveLaunch(stream, [=] {
    auto call = [=] { kernel(arguments...); };
    return launchBody([](void* body) { (*static_cast<decltype(call)*>(body))(); }, &call, grid, block, sharedBytes);
  });
}

// ---- shuffles and votes ----
struct Shuffle {
  uint64_t in, out;
  int source;
};
inline void combineShuffle(void* const* lanes, unsigned mask) {
  for (unsigned rest = mask; rest; rest &= rest - 1) {
    auto* own = static_cast<Shuffle*>(lanes[std::countr_zero(rest)]);
    if (!(mask >> own->source & 1))
      fault({"shuffle", 0}, "a lane reads lane %d, which is not in the mask %08x", own->source, mask);
    own->out = static_cast<Shuffle*>(lanes[own->source])->in;
  }
}
template <class T>
T shuffle(unsigned mask, T value, int source, Site site) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>);
  Shuffle shuffle{0, 0, source};
  std::memcpy(&shuffle.in, &value, sizeof(T));
  warpCollective("a shuffle", mask, &shuffle, combineShuffle, site, false);
  T out;
  std::memcpy(&out, &shuffle.out, sizeof(T));
  return out;
}

struct Vote {
  unsigned own, all;
};
inline unsigned ballot(unsigned mask, bool own, Site site) {
  Vote vote{own, 0};
  warpCollective(
      "a ballot", mask, &vote,
      [](void* const* lanes, unsigned among) {
        unsigned all = 0;
        for (unsigned rest = among; rest; rest &= rest - 1)
          all |= static_cast<Vote*>(lanes[std::countr_zero(rest)])->own << std::countr_zero(rest);
        for (unsigned rest = among; rest; rest &= rest - 1)
          static_cast<Vote*>(lanes[std::countr_zero(rest)])->all = all;
      },
      site, false);
  return vote.all;
}

}  // namespace simt

#define threadIdx (simt::self->index)
#define blockIdx (simt::self->block)
#define blockDim (simt::self->blockSize)
#define gridDim (simt::self->gridSize)

inline void __syncthreads(SIMT_SITE_PARAMETER) { simt::blockBarrier(0, site); }
inline int __syncthreads_count(int vote, SIMT_SITE_PARAMETER) { return simt::blockBarrier(vote, site); }
inline int __syncthreads_or(int vote, SIMT_SITE_PARAMETER) { return simt::blockBarrier(vote, site) != 0; }
inline void __syncwarp(unsigned mask = ~0u, SIMT_SITE_PARAMETER) { simt::warpBarrier(mask, site); }
inline void __threadfence() { std::atomic_signal_fence(std::memory_order_seq_cst); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, SIMT_SITE_PARAMETER) {
  return simt::shuffle(mask, value, source & 31, site);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int distance, SIMT_SITE_PARAMETER) {
  return simt::shuffle(mask, value, static_cast<int>(simt::self->lane) ^ distance, site);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned distance, SIMT_SITE_PARAMETER) {
  const int lane = static_cast<int>(simt::self->lane), source = lane - static_cast<int>(distance);
  return simt::shuffle(mask, value, source < 0 ? lane : source, site);
}
inline unsigned __ballot_sync(unsigned mask, int vote, SIMT_SITE_PARAMETER) {
  return simt::ballot(mask, vote != 0, site);
}

inline int __popc(unsigned bits) { return std::popcount(bits); }
inline int __float_as_int(float value) { return std::bit_cast<int>(value); }
inline unsigned __float_as_uint(float value) { return std::bit_cast<unsigned>(value); }
inline float __int_as_float(int bits) { return std::bit_cast<float>(bits); }
inline float __uint_as_float(unsigned bits) { return std::bit_cast<float>(bits); }
using std::isfinite, std::isnan, std::max, std::min;

// Acquire and release, so that "the last block to finish" stays clean under ThreadSanitizer.
inline int atomicAdd(int* at, int value) { return __atomic_fetch_add(at, value, __ATOMIC_ACQ_REL); }
inline unsigned atomicAdd(unsigned* at, unsigned value) { return __atomic_fetch_add(at, value, __ATOMIC_ACQ_REL); }

#include "fragments.h"
