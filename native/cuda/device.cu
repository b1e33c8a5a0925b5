#include "device.h"

#include <cstring>
#include <string>

#include "../executor.h"

namespace margin_softmax::cuda {
namespace {

constexpr int64_t stagingBytes = 8 << 20;  // batches of 4096 × 512 embeddings; what exceeds it is copied unpinned
constexpr int oldestCapability = 75;       // what the toolkit still compiles for

int mostDevices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// One per device of the machine, never destroyed: work may still run while the process ends.
Device* deviceAt(int index) {
  static const int count = mostDevices();
  static Device* const devices = new Device[static_cast<size_t>(count) + 1];
  return index >= 0 && index < count ? &devices[index] : nullptr;
}

std::string nameOf(int index) { return "cuda:" + std::to_string(index); }

std::string reported(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + " (" + std::to_string(static_cast<int>(error)) +
         "): " + cudaGetErrorString(error);
}

std::string versionOf(int version) {  // 13000 → 13.0
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

Status Device::open(int index) {
  index_ = index;
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking);
  if (error == cudaSuccess) error = cudaMallocHost(reinterpret_cast<void**>(&staging_), stagingBytes);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return {Failure::device, "Expected the GPU to open but " + nameOf(index) + " reported " + reported(error)};
  }
  capability_ = properties.major * 10 + properties.minor;
  sharedMemoryPerBlock_ = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  return {};
}

Status Device::failure(cudaError_t error, const char* what) {
  cudaGetLastError();  // forget an error of one call; one that broke the context stays
  Status status{Failure::device,
                "Expected the GPU to " + std::string(what) + " but " + nameOf(index_) + " reported " + reported(error)};
  if (cudaStreamSynchronize(stream_) != cudaSuccess) {
    status.message += "; it can't be used again in this process";
    lost_ = status;
  }
  return status;
}

void Device::check(cudaError_t error, const char* what) {
  if (error != cudaSuccess && well()) outcome_ = failure(error, what);
}

Status Device::finish(const char* what) {
  check(cudaStreamSynchronize(stream_), what);
  if (well())
    for (const Download& download : downloads_)
      std::memcpy(download.to, download.from, static_cast<size_t>(download.bytes));
  downloads_.clear();
  staged_ = 0;
  return outcome_;
}

void* Device::stage(int64_t bytes) {
  const int64_t at = staged_, end = at + (bytes + 63) / 64 * 64;
  if (end > stagingBytes) return nullptr;
  staged_ = end;
  return staging_ + at;
}

void Device::upload(void* to, const void* from, int64_t bytes) {
  if (bytes == 0 || !well()) return;
  if (void* pinned = stage(bytes)) {
    std::memcpy(pinned, from, static_cast<size_t>(bytes));
    from = pinned;
  }
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_), "receive its inputs");
}

void Device::download(void* to, const void* from, int64_t bytes) {
  if (bytes == 0 || !well()) return;
  if (end_ && !ended_) check(cudaEventRecord(end_, stream_), "note the time");
  ended_ = true;
  void* pinned = stage(bytes);
  if (pinned) downloads_.push_back({to, pinned, bytes});
  check(cudaMemcpyAsync(pinned ? pinned : to, from, static_cast<size_t>(bytes), cudaMemcpyDeviceToHost, stream_),
        "send its results");
}

Status Device::allocate(int64_t bytes, const char* purpose, void*& memory) {
  const cudaError_t error = cudaMalloc(&memory, static_cast<size_t>(bytes));
  if (error == cudaSuccess) return {};
  memory = nullptr;
  if (error != cudaErrorMemoryAllocation) return failure(error, "give memory");
  cudaGetLastError();
  size_t available = 0, total = 0;
  cudaMemGetInfo(&available, &total);
  return {Failure::outOfMemory, "Expected " + std::to_string(bytes) + " bytes of memory for " + purpose + " but " +
                                    nameOf(index_) + " has " + std::to_string(available) + " of its " +
                                    std::to_string(total) + " free"};
}

void Device::release(void* memory) {
  if (memory) cudaFree(memory);
}

Status Device::reserve(int64_t bytes) {
  if (bytes <= workspaceBytes_) return {};
  release(workspace_);  // the old one goes first, so that both are never held at once
  workspace_ = nullptr;
  workspaceBytes_ = 0;
  if (Status status = allocate(bytes, "the workspace", workspace_); !status) return status;
  workspaceBytes_ = bytes;
  return {};
}

Turn::Turn(int index) : device_(deviceAt(index)) {
  if (!device_) {
    status_ = {Failure::unavailable, "Expected a GPU " + nameOf(index) + " but there is none"};
    return;
  }
  lock_ = std::unique_lock<std::mutex>(device_->mutex_);
  if (const cudaError_t error = cudaSetDevice(index); error != cudaSuccess) {
    status_ = {Failure::device, "Expected the GPU to answer but " + nameOf(index) + " reported " + reported(error)};
    return;
  }
  cudaGetLastError();  // of another device, on this thread: the first launch here would take it for its own
  if (!device_->lost_) status_ = device_->lost_;
  else if (!device_->stream_ || !device_->staging_) status_ = device_->open(index);
  device_->outcome_ = {};
  device_->begun_ = device_->ended_ = false;
}

// Work that was given up half-way may still have copies under way to or from the staging memory.
Turn::~Turn() {
  if (!device_ || !device_->stream_) return;
  cudaStreamSynchronize(device_->stream_);
  device_->downloads_.clear();
  device_->staged_ = 0;
}

std::vector<DeviceState> listDevices() {
  std::vector<DeviceState> list;
  int driver = 0, built = 0, count = 0;
  cudaDriverGetVersion(&driver);
  cudaRuntimeGetVersion(&built);
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess || count == 0) {
    cudaGetLastError();
    DeviceState none;
    none.index = -1;
    none.driverVersion = driver;
    if (driver == 0) none.reason = "no NVIDIA driver was found";
    else if (error == cudaErrorInsufficientDriver)
      none.reason = "the NVIDIA driver knows CUDA " + versionOf(driver) + " but this build needs " + versionOf(built) +
                    ": update the driver";
    else if (error == cudaSuccess || error == cudaErrorNoDevice) none.reason = "the NVIDIA driver sees no GPU";
    else none.reason = "the NVIDIA driver reported " + reported(error);
    return {none};
  }
  for (int i = 0; i < count; i++) {
    DeviceState state;
    state.index = i;
    state.driverVersion = driver;
    cudaDeviceProp properties;
    if (const cudaError_t failed = cudaGetDeviceProperties(&properties, i); failed != cudaSuccess) {
      cudaGetLastError();
      state.reason = "it reported " + reported(failed);
    } else {
      state.name = properties.name;
      state.computeCapability = properties.major * 10 + properties.minor;
      state.memoryBytes = static_cast<int64_t>(properties.totalGlobalMem);
      const Turn turn(state.computeCapability < oldestCapability ? -1 : i);
      size_t available = 0, total = 0;
      if (state.computeCapability < oldestCapability)
        state.reason = "its compute capability " + std::to_string(properties.major) + "." +
                       std::to_string(properties.minor) + " is below 7.5";
      else if (!turn.status()) state.reason = turn.status().message.c_str();
      else if (cudaMemGetInfo(&available, &total) == cudaSuccess) state.freeBytes = static_cast<int64_t>(available);
      state.usable = state.reason.empty();
    }
    list.push_back(state);
  }
  return list;
}

}  // namespace margin_softmax::cuda
