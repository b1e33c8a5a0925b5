// A GPU as the host code of this folder sees it: one stream, one cached block of scratch memory, pinned staging for
// what goes up and down, and every error turned into a Status. Whoever holds the `Turn` has the device for itself.
#pragma once
#include <cstdint>
#include <mutex>
#include <vector>

#include "../layout.h"
#include "../status.h"
#include "gpu.cuh"

namespace margin_softmax::cuda {

class Device {
 public:
  int index() const { return index_; }
  int capability() const { return capability_; }                          // 90 for 9.0
  int64_t sharedMemoryPerBlock() const { return sharedMemoryPerBlock_; }  // what a launch may ask for
  cudaStream_t stream() const { return stream_; }

  // Whether the work at hand has met no error so far.
  bool well() const { return static_cast<bool>(outcome_); }
  // Remembers the first error of the work at hand; `what` completes "Expected the GPU to …".
  void check(cudaError_t error, const char* what);
  // Launches a kernel on the stream, and clears memory; neither once something has failed.
  template <class... Parameters, class... Arguments>
  void launch(const char* what, void (*kernel)(Parameters...), dim3 grid, unsigned threads, size_t sharedBytes,
              const Arguments&... arguments) {
    if (well()) check(gpu::launch(kernel, grid, dim3(threads), sharedBytes, stream_, arguments...), what);
  }
  template <class T>
  void clear(T* array, int64_t count) {
    if (well()) check(cudaMemsetAsync(array, 0, static_cast<size_t>(count) * sizeof(T), stream_), "clear memory");
  }
  // Counts as beyond repair from now on, for this reason.
  void lose(Status reason) { lost_ = std::move(reason); }
  // Waits for everything that was launched, hands the downloads over, and tells how the work at hand went.
  Status finish(const char* what);

  // Copies in the stream's order. Small ones go through pinned memory, so that neither side waits. What `download`
  // promises is there after `finish`.
  void upload(void* to, const void* from, int64_t bytes);
  void download(void* to, const void* from, int64_t bytes);

  // Memory of the device that outlives the work at hand, and the bytes to blame where it refuses.
  Status allocate(int64_t bytes, const char* purpose, void*& memory);
  void release(void* memory);

  // Places the arrays that layOut(Layout&) takes into the cached block. What the last work left there is lost.
  template <class LayOut>
  Status placeInWorkspace(const LayOut& layOut) {
    Layout measure(nullptr);
    layOut(measure);
    if (Status status = reserve(measure.bytes()); !status) return status;
    gpu::discard(workspace_, static_cast<size_t>(measure.bytes()));
    Layout place(workspace_);
    layOut(place);
    return {};
  }

 private:
  friend class Turn;
  struct Download {
    void* to;
    const void* from;
    int64_t bytes;
  };

  Status open(int index);
  Status reserve(int64_t bytes);
  void* stage(int64_t bytes);
  Status failure(cudaError_t error, const char* what);

  std::mutex mutex_;
  int index_ = -1, capability_ = 0;
  int64_t sharedMemoryPerBlock_ = 0;
  cudaStream_t stream_ = nullptr;
  void* workspace_ = nullptr;
  int64_t workspaceBytes_ = 0;
  char* staging_ = nullptr;  // pinned
  int64_t staged_ = 0;       // bytes of it in use by the work at hand
  std::vector<Download> downloads_;
  Status outcome_;  // of the work at hand: well, or its first error
  Status lost_;     // set for good once the device's context is beyond repair
};

// The right to use a device, and the device made current on this thread, for as long as it lives.
class Turn {
 public:
  explicit Turn(int index);
  ~Turn();
  Turn(const Turn&) = delete;
  const Status& status() const { return status_; }
  Device& device() const { return *device_; }

 private:
  Device* device_ = nullptr;
  std::unique_lock<std::mutex> lock_;
  Status status_;
};

}  // namespace margin_softmax::cuda
