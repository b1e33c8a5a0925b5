// See runtime.h.
#include "runtime.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "streams.h"

using simt::enter, simt::mostDevices;

#include "engine.h"

namespace {

constexpr size_t usualMemory = size_t{4} << 30;

struct Piece {
  int device;
  size_t bytes;
};

struct Machine {
  std::mutex mutex;
  std::map<void*, Piece> pieces;
  std::map<const void*, int> carveouts[mostDevices];
  size_t used[mostDevices] = {};
  bool open[mostDevices] = {}, broken[mostDevices] = {};
  std::string planned;  // SIMT_FAIL as last seen
  int calls = 0;        // of its function since then
};
Machine& machine() {
  static Machine* machine = new Machine;  // never destroyed: threads may still work while the process ends
  return *machine;
}

thread_local int current = 0;
thread_local cudaError_t last = cudaSuccess;

cudaError_t remember(cudaError_t error) {
  if (error != cudaSuccess) last = error;
  return error;
}

const char* environment(const char* name) {
  const char* value = std::getenv(name);
  return value && *value ? value : nullptr;
}

size_t memoryOf() {
  const char* bytes = environment("SIMT_MEMORY");
  return bytes ? std::strtoull(bytes, nullptr, 10) : usualMemory;
}

// Whether SIMT_FAIL makes this call fail.
bool planned(const char* function) {
  const char* value = environment("SIMT_FAIL");
  if (!value) return false;
  Machine& m = machine();
  if (m.planned != value) {
    m.planned = value;
    m.calls = 0;
  }
  const size_t name = std::strlen(function);
  if (m.planned.compare(0, name, function) != 0 || m.planned[name] != ':') return false;
  return ++m.calls == std::atoi(m.planned.c_str() + name + 1);
}

}  // namespace

namespace simt {

int currentDevice() { return current; }

cudaError_t enter(const char* function, cudaError_t failure, bool breaks) {
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  if (m.broken[current]) return remember(cudaErrorLaunchFailure);
  if (!planned(function)) return cudaSuccess;
  m.broken[current] = breaks;
  return remember(failure);
}
cudaError_t enterLaunch() { return enter("launch", cudaErrorLaunchFailure, true); }
int carveoutOf(const void* kernel) {
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  const auto known = m.carveouts[current].find(kernel);
  return known == m.carveouts[current].end() ? cudaSharedmemCarveoutDefault : known->second;
}
void discard(void* memory, size_t bytes) {
  if (environment("SIMT_POISON")) std::memset(memory, poisonByte, bytes);
}
cudaError_t leaveLaunch(cudaError_t error) {
  if (error == cudaSuccess) return error;
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  m.broken[current] = true;
  return remember(error);
}
bool skipsWork() {
  const char* work = environment("SIMT_WORK");
  return work && std::strcmp(work, "none") == 0;
}
}  // namespace simt

cudaError_t cudaGetDeviceCount(int* count) {
  *count = 0;
  if (environment("SIMT_DRIVER")) return remember(cudaErrorInsufficientDriver);
  const char* devices = environment("SIMT_DEVICES");
  *count = devices ? std::min(std::atoi(devices), mostDevices) : 1;
  return *count ? cudaSuccess : remember(cudaErrorNoDevice);
}

cudaError_t cudaDriverGetVersion(int* version) {
  const char* driver = environment("SIMT_DRIVER");
  *version = !driver ? 13000 : std::strcmp(driver, "old") == 0 ? 11020 : 0;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13020;
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || device < 0 || device >= count)
    return remember(cudaErrorInvalidDevice);
  const char* capability = environment("SIMT_CAPABILITY");
  const int version = capability ? std::atoi(capability) : 90;
  *properties = {};
  std::strcpy(properties->name, "SIMT shim");
  std::strcpy(properties->uuid.bytes, "SIMT");
  properties->uuid.bytes[15] = static_cast<char>(device);
  properties->major = version / 10;
  properties->minor = version % 10;
  properties->totalGlobalMem = memoryOf();
  properties->sharedMemPerBlockOptin = version < 80 ? 64 << 10 : 227 << 10;
  return cudaSuccess;
}

cudaError_t cudaSetDevice(int device) {
  int count = 0;
  if (cudaGetDeviceCount(&count) != cudaSuccess || device < 0 || device >= count)
    return remember(cudaErrorInvalidDevice);
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  if (!m.open[device]) {
    if (const char* refused = environment("SIMT_REFUSED"); refused && std::strchr(refused, '0' + device))
      return remember(cudaErrorDevicesUnavailable);
    if (const char* file = environment("SIMT_CONTEXTS"))
      if (std::FILE* list = std::fopen(file, "a")) std::fprintf(list, "%d\n", device), std::fclose(list);
    m.open[device] = true;
  }
  current = device;
  return cudaSuccess;
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  if (const cudaError_t error = enter("cudaMalloc", cudaErrorMemoryAllocation, false); error != cudaSuccess)
    return error;
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  const size_t total = memoryOf();
  if (bytes > total || m.used[current] > total - bytes) return remember(cudaErrorMemoryAllocation);
  void* at = nullptr;
  if (posix_memalign(&at, 256, bytes ? bytes : 1) != 0) return remember(cudaErrorMemoryAllocation);
  std::memset(at, simt::poisonByte, bytes);
  m.pieces[at] = {current, bytes};
  m.used[current] += bytes;
  *memory = at;
  return cudaSuccess;
}

cudaError_t cudaFree(void* memory) {
  if (!memory) return cudaSuccess;
  simt::drain(current);
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  const auto piece = m.pieces.find(memory);
  if (piece == m.pieces.end()) return remember(cudaErrorInvalidValue);
  m.used[piece->second.device] -= piece->second.bytes;
  m.pieces.erase(piece);
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  const char* most = environment("SIMT_PINNED");
  *memory = most && bytes > std::strtoull(most, nullptr, 10) ? nullptr : std::malloc(bytes);
  return *memory ? cudaSuccess : remember(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void* memory) {
  std::free(memory);
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* available, size_t* total) {
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  *total = memoryOf();
  *available = *total > m.used[current] ? *total - m.used[current] : 0;
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaMemcpyAsync", cudaErrorInvalidValue, false); error != cudaSuccess)
    return error;
  return simt::giveTransfer(stream, [=] {
    std::memcpy(to, from, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind kind) {
  const cudaError_t error = cudaMemcpyAsync(to, from, bytes, kind, nullptr);
  if (error == cudaSuccess) simt::drain(current);
  return error;
}

cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t stream) {
  if (const cudaError_t error = enter("cudaMemsetAsync", cudaErrorInvalidValue, false); error != cudaSuccess)
    return error;
  return simt::giveTransfer(stream, [=] {
    if (!simt::skipsWork()) std::memset(memory, value, bytes);
    return cudaSuccess;
  });
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return stream->underWay ? remember(cudaErrorNotReady) : cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute, int value) {
  if (const cudaError_t error = enter("cudaFuncSetAttribute", cudaErrorInvalidValue, false); error != cudaSuccess)
    return error;
  Machine& m = machine();
  const std::lock_guard<std::mutex> lock(m.mutex);
  m.carveouts[current][kernel] = value;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  const cudaError_t error = last;
  last = cudaSuccess;
  return error;
}

const char* cudaGetErrorName(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "cudaSuccess";
    case cudaErrorInvalidValue:
      return "cudaErrorInvalidValue";
    case cudaErrorMemoryAllocation:
      return "cudaErrorMemoryAllocation";
    case cudaErrorInvalidConfiguration:
      return "cudaErrorInvalidConfiguration";
    case cudaErrorInsufficientDriver:
      return "cudaErrorInsufficientDriver";
    case cudaErrorDevicesUnavailable:
      return "cudaErrorDevicesUnavailable";
    case cudaErrorNoDevice:
      return "cudaErrorNoDevice";
    case cudaErrorInvalidDevice:
      return "cudaErrorInvalidDevice";
    case cudaErrorNotReady:
      return "cudaErrorNotReady";
    case cudaErrorLaunchFailure:
      return "cudaErrorLaunchFailure";
  }
  return "an unknown error";
}

const char* cudaGetErrorString(cudaError_t error) {
  return error == cudaErrorMemoryAllocation ? "out of memory" : "the shim's own report";
}
