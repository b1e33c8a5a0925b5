// Kernels with one planted fault each, named by the first argument: simt.test.ts demands that each is caught. "sound"
// ones must stay silent. Prints "fault: …" for what the engine finds, "result: …" for a wrong result; a sanitizer
// reports in its own words.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "../../native/cuda/gpu.cuh"

namespace {

struct Lanes {
  float at[64];
};

__global__ void missingBarrier(float* out) {
  GPU_SHARED(Lanes, shared);
  shared.at[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = shared.at[threadIdx.x ^ 32];
}
__global__ void missingWarpBarrier(float* out) {
  GPU_SHARED(Lanes, shared);
  shared.at[threadIdx.x] = static_cast<float>(threadIdx.x);
  out[threadIdx.x] = shared.at[threadIdx.x ^ 1];
}
__global__ void soundExchange(float* out) {
  GPU_SHARED(Lanes, shared);
  shared.at[threadIdx.x] = static_cast<float>(threadIdx.x);
  __syncthreads();
  out[threadIdx.x] = shared.at[threadIdx.x ^ 32];
}
__global__ void divergentBarrier(float* out) {
  if (threadIdx.x < 32) __syncthreads();
  else __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void barrierInBranch(float* out) {
  if (threadIdx.x < 32) __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void exitBeforeBarrier(float* out) {
  if (threadIdx.x == 5) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void differentTrips(float* out) {
  for (unsigned i = 0; i <= threadIdx.x / 32; i++) __syncthreads();
  out[threadIdx.x] = 1;
}
__global__ void shuffleInBranch(float* out) {
  float value = 1;
  if (threadIdx.x % 32 < 16) value = __shfl_xor_sync(~0u, value, 1);
  out[threadIdx.x] = value;
}
__global__ void wrongMask(float* out) {
  out[threadIdx.x] = __shfl_xor_sync(threadIdx.x % 32 < 16 ? 0xffffu : ~0u, 1.0f, 1);
}
__global__ void readsBeforeWait(float* out) {
  gpu::SharedPool pool;
  float* at = pool.take<float>(256);
  gpu::copyAsync16(at + threadIdx.x * 4, out, true);
  gpu::commitCopies();
  out[64 + threadIdx.x] = at[threadIdx.x * 4];
}
__global__ void waitsForTooFew(float* out) {
  gpu::SharedPool pool;
  float* at = pool.take<float>(512);
  for (int i = 0; i < 2; i++) {
    gpu::copyAsync16(at + i * 256 + threadIdx.x * 4, out, true);
    gpu::commitCopies();
  }
  gpu::waitCopies<1>();
  out[64 + threadIdx.x] = at[256 + threadIdx.x * 4];
}
__global__ void sharedOverrun(float* out) {
  GPU_SHARED(Lanes, shared);
  shared.at[threadIdx.x + 1] = 1;
  __syncthreads();
  out[threadIdx.x] = shared.at[threadIdx.x];
}
__global__ void pieceOverrun(float* out) {
  gpu::SharedPool pool;
  float* first = pool.take<float>(64);
  float* second = pool.take<float>(64);
  second[threadIdx.x] = 0;
  __syncthreads();
  first[threadIdx.x + 8] = 1;
  __syncthreads();
  out[threadIdx.x] = second[threadIdx.x];
}
__global__ void globalOverrun(float* out) { out[threadIdx.x + 128] = 1; }
__global__ void misaligned(float* out) {
  if (threadIdx.x == 0) *reinterpret_cast<float4*>(out + 1) = make_float4(1, 2, 3, 4);
}
__global__ void tooLittleShared(float* out) {
  gpu::SharedPool pool;
  float* at = pool.take<float>(4096);
  at[threadIdx.x] = 1;
  out[threadIdx.x] = at[threadIdx.x];
}
__global__ void uninitialised(float* out) {
  GPU_SHARED(Lanes, shared);
  if (threadIdx.x) shared.at[threadIdx.x] = 1;
  __syncthreads();
  out[threadIdx.x] = shared.at[threadIdx.x];
}
__global__ void twoBlocksOneElement(float* out) { out[threadIdx.x] = static_cast<float>(blockIdx.x); }
// A counter tells the last block that all others have written: fence, then add.
__global__ void soundLastBlock(float* out) {
  if (threadIdx.x != 0) return;
  out[1 + blockIdx.x] = 1;
  __threadfence();
  if (atomicAdd(reinterpret_cast<int*>(out), 1) != static_cast<int>(gridDim.x) - 1) return;
  float sum = 0;
  for (unsigned i = 0; i < gridDim.x; i++) sum += out[1 + i];
  out[64] = sum;
}

struct Planted {
  const char* name;
  void (*kernel)(float*);
  int blocks, shared;
  float expected;  // of out[index]
  int index;
};

constexpr Planted all[] = {
    {"missingBarrier", missingBarrier, 1, 0, 32, 0},
    {"missingWarpBarrier", missingWarpBarrier, 1, 0, 1, 0},
    {"soundExchange", soundExchange, 1, 0, 32, 0},
    {"divergentBarrier", divergentBarrier, 1, 0, 1, 0},
    {"barrierInBranch", barrierInBranch, 1, 0, 1, 0},
    {"exitBeforeBarrier", exitBeforeBarrier, 1, 0, 1, 0},
    {"differentTrips", differentTrips, 1, 0, 1, 0},
    {"shuffleInBranch", shuffleInBranch, 1, 0, 1, 0},
    {"wrongMask", wrongMask, 1, 0, 1, 0},
    {"readsBeforeWait", readsBeforeWait, 1, 4096, 0, 64},
    {"waitsForTooFew", waitsForTooFew, 1, 4096, 0, 64},
    {"sharedOverrun", sharedOverrun, 1, 0, 1, 1},
    {"pieceOverrun", pieceOverrun, 1, 4096, 0, 0},
    {"globalOverrun", globalOverrun, 1, 0, 0, 0},
    {"misaligned", misaligned, 1, 0, 1, 1},
    {"tooLittleShared", tooLittleShared, 1, 512, 1, 0},
    {"uninitialised", uninitialised, 1, 0, 1, 0},
    {"twoBlocksOneElement", twoBlocksOneElement, 4, 0, 3, 0},
    {"soundLastBlock", soundLastBlock, 8, 0, 8, 64},
};

}  // namespace

int main(int count, char** arguments) {
  for (const Planted& planted : all) {
    if (count < 2 || std::strcmp(planted.name, arguments[1]) != 0) continue;
    float* out = static_cast<float*>(std::calloc(128, sizeof(float)));
    const cudaError_t error = gpu::launch(planted.kernel, dim3(static_cast<unsigned>(planted.blocks)), dim3(64),
                                          static_cast<size_t>(planted.shared), nullptr, out);
    if (error != cudaSuccess) std::printf("fault: %s\n", simt::lastFault());
    else if (!(out[planted.index] == planted.expected)) std::printf("result: %g\n", out[planted.index]);
    std::free(out);
    return 0;
  }
  std::printf("no such fault\n");
  return 2;
}
