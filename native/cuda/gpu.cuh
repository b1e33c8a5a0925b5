// The one header that kernels include: the same names under nvcc, where they are PTX, and under a C++ compiler, where
// test/simt runs kernels on the CPU. Nothing else contains asm or asks which of the two it is.
//
// Rules that keep kernels runnable on both: static shared memory is one struct through GPU_SHARED, dynamic shared
// memory comes from SharedPool; no return of some threads before a later barrier; full masks and uniform control flow
// around whatever a warp does together; wide accesses through float4 and uint4 pointers that are aligned.
#pragma once

#if defined(__CUDACC__)

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#define GPU_SHARED(Type, name) __shared__ Type name

#else

#include "simt/simt.h"

#define GPU_SHARED(Type, name)           \
  static const char name##_identity = 0; \
  Type& name = *static_cast<Type*>(simt::staticShared(&name##_identity, sizeof(Type), alignof(Type)))

#endif

using bf16 = __nv_bfloat16;

namespace gpu {

constexpr unsigned allLanes = 0xffffffffu;

// Carves a launch's dynamic shared memory into typed pieces. Every thread takes the same ones in the same order.
struct SharedPool {
  unsigned offset = 0, piece = 0;

  template <class T>
  __device__ T* take(unsigned count) {
    offset = (offset + 127) / 128 * 128;
#if defined(__CUDACC__)
    extern __shared__ __align__(128) unsigned char dynamicShared[];
    T* at = reinterpret_cast<T*>(dynamicShared + offset);
#else
    T* at = static_cast<T*>(simt::dynamicShared(offset, count * sizeof(T), piece, {__FILE__, __LINE__}));
#endif
    offset += count * sizeof(T);
    piece++;
    return at;
  }
};

template <class T>
struct Same {
  using Type = T;
};

#if defined(__CUDACC__)

// A place in shared memory, as PTX counts it: 32 bits, so that a tile's addresses cost one register each.
struct SharedAddress {
  uint32_t place;

  __device__ __forceinline__ SharedAddress(const void* at)
      : place(static_cast<uint32_t>(__cvta_generic_to_shared(at))) {}
  __device__ __forceinline__ explicit SharedAddress(uint32_t at) : place(at) {}
  __device__ __forceinline__ SharedAddress operator+(unsigned bytes) const { return SharedAddress(place + bytes); }
};

__device__ __forceinline__ uint32_t loadShared32(SharedAddress from) {
  uint32_t value;
  asm volatile("ld.shared.b32 %0, [%1];" : "=r"(value) : "r"(from.place) : "memory");
  return value;
}

__device__ __forceinline__ float4 loadShared128(SharedAddress from) {
  float4 value;
  asm volatile("ld.shared.v4.f32 {%0,%1,%2,%3}, [%4];"
               : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w)
               : "r"(from.place)
               : "memory");
  return value;
}

// Four 8 × 8 matrices of 16-bit elements (or 8 × 4 of 32-bit ones); lane l gives row l % 8 of matrix l / 8.
__device__ __forceinline__ void ldmatrix4(uint32_t (&out)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row.place)
               : "memory");
}

__device__ __forceinline__ void ldmatrix4Transposed(uint32_t (&out)[4], SharedAddress row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(row.place)
               : "memory");
}

// d += a·b: 16 × 16 by 16 × 8 in bfloat16, 16 × 8 by 8 × 8 in tf32. Tensor cores of this kind begin with sm_80; the
// host never launches a kernel that uses them on an older GPU.
__device__ __forceinline__ void mmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

__device__ __forceinline__ void mmaTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if __CUDA_ARCH__ >= 800
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  __trap();
#endif
}

// Rounded to tf32's 10 bits of fraction, ties away from zero.
__device__ __forceinline__ float toTf32(float value) {
#if __CUDA_ARCH__ >= 800
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits & 0xffffe000u);
#else
  return value;
#endif
}

// 2^x to some 22 bits; 0 where that is too small for a normal number.
__device__ __forceinline__ float powerOfTwo(float exponent) {
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(exponent));
  return power;
}

// Two values rounded to bfloat16, to nearest, the first one in the lower half.
__device__ __forceinline__ uint32_t packBf16(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// 16 bytes from global to shared memory, done at the latest when waitCopies says so; zeros, and nothing read, if not
// valid. Before sm_80 they are copied at once: a barrier follows every wait anyhow.
__device__ __forceinline__ void copyAsync16(SharedAddress shared, const void* global, bool valid) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared.place), "l"(global), "r"(valid ? 16 : 0)
               : "memory");
#else
  const uint4 value = valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
  asm volatile("st.shared.v4.b32 [%0], {%1,%2,%3,%4};" ::"r"(shared.place), "r"(value.x), "r"(value.y), "r"(value.z),
               "r"(value.w)
               : "memory");
#endif
}

__device__ __forceinline__ void commitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits for all but the `Pending` latest groups that this thread committed.
template <int Pending>
__device__ __forceinline__ void waitCopies() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
#endif
}

// For what is read or written once: it should not push anything else out of the caches.
template <class T>
__device__ __forceinline__ T loadStreaming(const T* from) {
  return __ldcs(from);
}
template <class T>
__device__ __forceinline__ void storeStreaming(T* to, typename Same<T>::Type value) {
  __stcs(to, value);
}

// Says that nobody needs what this memory holds: the shim may then fill it with NaN.
inline void discard(void*, size_t) {}

template <class... Parameters>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t sharedBytes, cudaStream_t stream,
                   typename Same<Parameters>::Type... arguments) {
  if (sharedBytes > 48 * 1024) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(sharedBytes));
    if (error != cudaSuccess) return error;
  }
  kernel<<<grid, block, sharedBytes, stream>>>(arguments...);
  return cudaGetLastError();
}

#else

using simt::commitCopies;
using simt::discard;
using simt::launch;
using simt::mmaBf16;
using simt::mmaTf32;
using simt::toTf32;

struct SharedAddress {
  unsigned char* place;

  SharedAddress(const void* at) : place(static_cast<unsigned char*>(const_cast<void*>(at))) {}
  SharedAddress operator+(unsigned bytes) const { return place + bytes; }
};
inline uint32_t loadShared32(SharedAddress from) { return *reinterpret_cast<const uint32_t*>(from.place); }
inline float4 loadShared128(SharedAddress from) { return *reinterpret_cast<const float4*>(from.place); }
inline void ldmatrix4(uint32_t (&out)[4], SharedAddress row, SIMT_SITE_PARAMETER) {
  simt::ldmatrix4(out, row.place, site);
}
inline void ldmatrix4Transposed(uint32_t (&out)[4], SharedAddress row, SIMT_SITE_PARAMETER) {
  simt::ldmatrix4Transposed(out, row.place, site);
}
inline float powerOfTwo(float exponent) {
  const float power = std::exp2(exponent);
  return power < 0x1p-126f ? 0 : power;  // NaN stays
}
inline uint32_t packBf16(float low, float high) {
  return __float2bfloat16(low).bits | uint32_t{__float2bfloat16(high).bits} << 16;
}
inline void copyAsync16(SharedAddress shared, const void* global, bool valid, SIMT_SITE_PARAMETER) {
  simt::copyAsync(shared.place, global, 16, valid, site);
}
template <int Pending>
void waitCopies() {
  simt::waitCopies(Pending);
}
template <class T>
T loadStreaming(const T* from) {
  return *from;
}
template <class T>
void storeStreaming(T* to, typename Same<T>::Type value) {
  *to = value;
}

#endif

// Butterflies over a full warp: every lane gets the result, and the order is always the same.
__device__ __forceinline__ float warpMax(float value) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2) value = fmaxf(value, __shfl_xor_sync(allLanes, value, distance));
  return value;
}

template <class T>
__device__ __forceinline__ T warpSum(T value) {
#pragma unroll
  for (int distance = 16; distance; distance /= 2) value += __shfl_xor_sync(allLanes, value, distance);
  return value;
}

}  // namespace gpu
