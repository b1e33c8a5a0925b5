// The part of the CUDA runtime that native/cuda calls, on the CPU. Kernels run at once, copies before the next kernel
// or when they are waited for, what nccl.cc gives a stream by and by; device memory is ordinary memory, exactly as long
// as asked for and poisoned. The environment says what machine this is, and what goes wrong on it:
//
//   SIMT_DEVICES=2          how many GPUs (default 1)
//   SIMT_CAPABILITY=75      their compute capability (default 90)
//   SIMT_MEMORY=1000000     bytes of memory that each has (default 4 GiB)
//   SIMT_PINNED=65536       bytes of host memory that may be pinned at once (default: all)
//   SIMT_DRIVER=none|old    no driver, or one that knows CUDA 11.2 at most; the usual one knows 13.0
//   SIMT_REFUSED=02         the GPUs that nobody may open
//   SIMT_CONTEXTS=file      where a line with its number is added for each GPU that a process opens
//   SIMT_FAIL=cudaMalloc:3  the third call from now fails; also launch, cudaMemcpyAsync, cudaStreamSynchronize, whose
//                           failure breaks the device for good, as a real one's does. Counted anew when the value
//                           changes
//   SIMT_STREAMS=late|uneven  see streams.cc
//   SIMT_POISON=1           the workspace is poisoned again before each piece of work: what one leaves is not another's
//   SIMT_WORK=none          kernels and memsets do nothing from now on: what is left of a call is its overhead
#pragma once
#include <atomic>
#include <cstddef>
#include <cstdint>

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorInvalidConfiguration = 9,
  cudaErrorInsufficientDriver = 35,
  cudaErrorDevicesUnavailable = 46,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorNotReady = 600,
  cudaErrorLaunchFailure = 719,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice = 1, cudaMemcpyDeviceToHost = 2, cudaMemcpyDeviceToDevice = 3 };
enum cudaStreamFlags { cudaStreamDefault = 0, cudaStreamNonBlocking = 1 };
enum cudaEventFlags { cudaEventDefault = 0, cudaEventDisableTiming = 2 };
enum cudaFuncAttribute { cudaFuncAttributePreferredSharedMemoryCarveout = 9 };
enum cudaSharedCarveout { cudaSharedmemCarveoutDefault = -1, cudaSharedmemCarveoutMaxShared = 100 };
struct cudaUUID_t {
  char bytes[16];
};
struct cudaDeviceProp {
  char name[256];
  cudaUUID_t uuid;
  int major, minor;
  size_t totalGlobalMem, sharedMemPerBlockOptin;
};
namespace simt {
struct Queue;
}
struct SimtStream {
  std::atomic<int> underWay{0};  // pieces of work of another library
  simt::Queue* queue = nullptr;
};
using cudaStream_t = SimtStream*;
using cudaEvent_t = struct SimtEvent*;

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaRuntimeGetVersion(int* version);
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaMalloc(void** memory, size_t bytes);
cudaError_t cudaFree(void* memory);
cudaError_t cudaMallocHost(void** memory, size_t bytes);
cudaError_t cudaFreeHost(void* memory);
cudaError_t cudaMemGetInfo(size_t* available, size_t* total);
cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind);
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority);
cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaStreamQuery(cudaStream_t stream);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value);
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaGetLastError();
const char* cudaGetErrorName(cudaError_t error);
const char* cudaGetErrorString(cudaError_t error);

namespace simt {
// The share of shared memory that a kernel prefers on the current device, in percent.
int carveoutOf(const void* kernel);
constexpr int mostDevices = 8;
int currentDevice();
// Begins a call: says whether the current device still works, or SIMT_FAIL makes this call of the function fail
// with `failure`, which may break the device.
cudaError_t enter(const char* function, cudaError_t failure, bool breaks);
cudaError_t enterLaunch();
// Called after a launch: what becomes of the device.
cudaError_t leaveLaunch(cudaError_t error);
bool skipsWork();  // SIMT_WORK=none
}  // namespace simt
