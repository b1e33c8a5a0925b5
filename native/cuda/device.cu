#include "device.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "../core/executor.h"
#include "../core/sizes.h"

namespace margin_softmax::cuda {
namespace {

// Batches of 16,384 × 512 embeddings; what exceeds it is copied unpinned. Each process pins it for each GPU it opens.
constexpr int64_t mostStaging = int64_t{32} << 20, leastStaging = int64_t{64} << 10;
constexpr int oldestCapability = 75;  // what the toolkit still compiles for

int mostDevices() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

// One per device of the machine, never destroyed: work may still run while the process ends. Counted once, as CUDA
// itself looks once for its driver: one that is loaded later serves the next process.
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

// Whether it opens, and what it has free.
void openDevice(DeviceState& state) {
  const DeviceLock lock(state.index);
  size_t available = 0, total = 0;
  state.usable = static_cast<bool>(lock.status());
  if (!state.usable) state.reason = lock.status().message.c_str();
  else if (cudaMemGetInfo(&available, &total) == cudaSuccess) state.freeBytes = static_cast<int64_t>(available);
}

}  // namespace

Status Device::open(int index) {
  index_ = index;
  cudaDeviceProp properties;
  cudaError_t error = cudaGetDeviceProperties(&properties, index);
  if (error == cudaSuccess && !stream_) error = openStreams();
  if (error == cudaSuccess) error = pinStaging();
  if (error != cudaSuccess) {
    cudaGetLastError();
    return {Failure::device, "Expected the GPU to open but " + nameOf(index) + " reported " + reported(error)};
  }
  capability_ = properties.major * 10 + properties.minor;
  sharedMemoryPerBlock_ = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  return {};
}

cudaError_t Device::openStreams() {
  int lowest = 0, highest = 0;
  cudaError_t error = cudaDeviceGetStreamPriorityRange(&lowest, &highest);
  // This stream has the higher priority: few blocks shall not queue behind a product's thousands.
  if (error == cudaSuccess) error = cudaStreamCreateWithPriority(&ahead_, cudaStreamNonBlocking, highest);
  for (cudaEvent_t& mark : marks_)
    if (error == cudaSuccess) error = cudaEventCreateWithFlags(&mark, cudaEventDisableTiming);
  return error == cudaSuccess ? cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking) : error;
}

// Where the system lets a process pin less (WSL, a limit of locked memory) less has to do.
cudaError_t Device::pinStaging() {
  cudaError_t error = cudaSuccess;
  for (stagingBytes_ = mostStaging; stagingBytes_ >= leastStaging; stagingBytes_ /= 2) {
    error = cudaMallocHost(reinterpret_cast<void**>(&staging_), static_cast<size_t>(stagingBytes_));
    if (error == cudaSuccess) break;
    staging_ = nullptr;
    cudaGetLastError();
  }
  return error;
}

Status Device::failure(cudaError_t error, const char* what) {
  cudaGetLastError();  // forget an error of one call; one that broke the context stays
  Status status{Failure::device,
                "Expected the GPU to " + std::string(what) + " but " + nameOf(index_) + " reported " + reported(error)};
  if (waitForAll() != cudaSuccess) {
    status.message += "; it can't be used again in this process";
    lose(status);
  }
  return status;
}

// A communicator that does not end loses its device while another thread's work may hold the `DeviceLock` (nccl.cu).
void Device::lose(Status reason) {
  const std::lock_guard<std::mutex> lock(lostMutex_);
  lost_ = std::move(reason);
}

Status Device::lost() const {
  const std::lock_guard<std::mutex> lock(lostMutex_);
  return lost_;
}

void Device::mark(Lane lane, int mark) {
  if (well()) check(cudaEventRecord(marks_[mark], streamOf(lane)), "mark its work");
}

void Device::waitFor(Lane lane, int mark) {
  if (well()) check(cudaStreamWaitEvent(streamOf(lane), marks_[mark], 0), "order its work");
}

cudaError_t Device::waitForAll() {
  cudaError_t error = cudaStreamSynchronize(stream_);
  if (error == cudaSuccess && usedAhead_) error = cudaStreamSynchronize(ahead_);
  usedAhead_ = false;
  return error;
}

void Device::check(cudaError_t error, const char* what) {
  if (error != cudaSuccess && well()) outcome_ = failure(error, what);
}

// A multiprocessor divides its memory between the level-1 cache and shared memory as the driver sees fit: two blocks of
// a tile kernel need 98 KiB of it. Said once for each kernel.
void Device::preferSharedMemory(const void* kernel, const char* what) {
  if (well() && preferring_.insert(kernel).second)
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, cudaSharedmemCarveoutMaxShared),
          what);
}

Status Device::finish(const char* what) {
  check(waitForAll(), what);
  if (well())
    for (const Download& download : downloads_)
      std::memcpy(download.to, download.from, static_cast<size_t>(download.bytes));
  freeStaging();
  return outcome_;
}

void* Device::stage(int64_t at, int64_t bytes, int64_t& end) {
  if (at + bytes > stagingBytes_) return nullptr;
  end = at + roundUp(bytes, 64);
  return staging_ + at;
}

void Device::freeStaging() {
  downloads_.clear();
  uploaded_ = downloaded_ = 0;
}

void Device::upload(void* to, const void* from, int64_t bytes) {
  if (bytes == 0 || !well()) return;
  // The host writes at once: neither on what still goes up nor where something comes down.
  if (void* pinned = stage(std::max(uploaded_, downloaded_), bytes, uploaded_)) {
    std::memcpy(pinned, from, static_cast<size_t>(bytes));
    from = pinned;
  }
  check(cudaMemcpyAsync(to, from, static_cast<size_t>(bytes), cudaMemcpyHostToDevice, stream_), "receive its inputs");
}

void Device::download(void* to, const void* from, int64_t bytes) {
  if (bytes == 0 || !well()) return;
  if (end_ && !ended_) check(cudaEventRecord(end_, stream_), "note the time");
  ended_ = true;
  // Over the uploads, which the stream has done by then.
  void* pinned = stage(downloaded_, bytes, downloaded_);
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

DeviceLock::DeviceLock(int index) : device_(deviceAt(index)) {
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
  status_ = device_->lost();
  if (status_ && !device_->staging_) status_ = device_->open(index);
  device_->outcome_ = {};
  device_->begun_ = device_->ended_ = false;
}

// Work that was given up half-way may still have copies under way to or from the staging memory.
DeviceLock::~DeviceLock() {
  if (!device_ || !device_->stream_) return;
  device_->waitForAll();
  device_->freeStaging();
}

std::vector<DeviceState> listDevices(int opened) {
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
    // A driver runs what was built with any toolkit of the major version that it knows.
    if (driver == 0) none.reason = "no NVIDIA driver was found";
    else if (error == cudaErrorInsufficientDriver)
      none.reason = "the NVIDIA driver knows CUDA " + versionOf(driver) + " but this build needs " +
                    versionOf(built / 1000 * 1000) + ": update the driver";
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
      for (const Precision precision : {Precision::float32, Precision::tf32, Precision::bfloat16})
        state.precisions[static_cast<int>(precision)] = hasCore(precision, state.computeCapability);
      state.memoryBytes = static_cast<int64_t>(properties.totalGlobalMem);
      if (state.computeCapability < oldestCapability)
        state.reason = "its compute capability " + std::to_string(properties.major) + "." +
                       std::to_string(properties.minor) + " is below 7.5";
      else if (opened == allDevices || opened == i) openDevice(state);
    }
    list.push_back(state);
  }
  return list;
}

}  // namespace margin_softmax::cuda
