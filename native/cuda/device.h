// A GPU as the host code of this folder sees it: two streams, one cached block of scratch memory, pinned staging for
// what goes up and down, and every error turned into a Status. Whoever holds the `DeviceLock` has the device for itself.
#pragma once
#include <cstdint>
#include <mutex>
#include <set>
#include <vector>

#include "../core/layout.h"
#include "../core/problem.h"
#include "../core/status.h"
#include "gpu.cuh"

namespace margin_softmax::cuda {

// Whether a core computes in this precision on a GPU of this compute capability (cores.cuh).
bool hasCore(Precision precision, int capability);

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
    launchOn(Lane::work, what, kernel, grid, threads, sharedBytes, arguments...);
  }

  // Two lanes of work: what stands in `ahead` may run beneath that of `work`, which is the stream's. A lane remembers
  // how far it has come by one of its marks; where the other one waits for the mark, it goes on when that much is done.
  enum class Lane { work, ahead };
  static constexpr int marks = 4;
  template <class... Parameters, class... Arguments>
  void launchOn(Lane lane, const char* what, void (*kernel)(Parameters...), dim3 grid, unsigned threads,
                size_t sharedBytes, const Arguments&... arguments) {
    if (sharedBytes) preferSharedMemory(reinterpret_cast<const void*>(kernel), what);
    usedAhead_ |= lane == Lane::ahead;
    beginWork();
    if (well()) check(gpu::launch(kernel, grid, dim3(threads), sharedBytes, streamOf(lane), arguments...), what);
  }
  void mark(Lane lane, int mark);
  void waitFor(Lane lane, int mark);

  template <class T>
  void clear(T* array, int64_t count) {
    beginWork();
    if (well()) check(cudaMemsetAsync(array, 0, static_cast<size_t>(count) * sizeof(T), stream_), "clear memory");
  }
  // For benchmarks: from now on records events around the kernels of each piece of work, between the copies up and
  // those down. Null ends it.
  void timeWork(cudaEvent_t begin, cudaEvent_t end) {
    begin_ = begin;
    end_ = end;
  }
  // Counts as beyond repair from now on, for this reason. The one call that needs no `DeviceLock`.
  void lose(Status reason);
  // Waits for everything that was launched, hands the downloads over, and tells how the work at hand went.
  Status finish(const char* what);

  // Copies in the stream's order, through pinned memory as far as it reaches, so that neither side waits. `from` may be
  // read, and `to` is written, until `finish`: what is copied must live as long.
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
  friend class DeviceLock;
  struct Download {
    void* to;
    const void* from;
    int64_t bytes;
  };

  Status open(int index);
  cudaError_t openStreams();
  cudaError_t pinStaging();
  cudaStream_t streamOf(Lane lane) const { return lane == Lane::work ? stream_ : ahead_; }
  cudaError_t waitForAll();
  Status reserve(int64_t bytes);
  // Staging memory from byte `at` on, in use up to `end` then; null where it does not suffice.
  void* stage(int64_t at, int64_t bytes, int64_t& end);
  void preferSharedMemory(const void* kernel, const char* what);
  void freeStaging();
  Status failure(cudaError_t error, const char* what);
  Status lost() const;
  void beginWork() {
    if (begin_ && !begun_) check(cudaEventRecord(begin_, stream_), "note the time");
    begun_ = true;
  }

  std::mutex mutex_;
  int index_ = -1, capability_ = 0;
  int64_t sharedMemoryPerBlock_ = 0;
  cudaStream_t stream_ = nullptr, ahead_ = nullptr;
  cudaEvent_t marks_[marks] = {};
  bool usedAhead_ = false;  // since the last finish
  void* workspace_ = nullptr;
  int64_t workspaceBytes_ = 0;
  char* staging_ = nullptr;  // pinned
  int64_t stagingBytes_ = 0;
  int64_t uploaded_ = 0, downloaded_ = 0;  // where the work at hand's uploads and downloads end in it
  std::vector<Download> downloads_;
  // The events of timeWork, and whether the work at hand has recorded them.
  cudaEvent_t begin_ = nullptr, end_ = nullptr;
  bool begun_ = false, ended_ = false;
  std::set<const void*> preferring_;  // kernels that preferSharedMemory was called for
  Status outcome_;                    // of the work at hand: well, or its first error
  mutable std::mutex lostMutex_;
  Status lost_;  // set for good once the device's context is beyond repair; under lostMutex_
};

// The right to use a device, and the device made current on this thread, for as long as it lives.
class DeviceLock {
 public:
  explicit DeviceLock(int index);
  ~DeviceLock();
  DeviceLock(const DeviceLock&) = delete;
  const Status& status() const { return status_; }
  Device& device() const { return *device_; }

 private:
  Device* device_ = nullptr;
  std::unique_lock<std::mutex> lock_;
  Status status_;
};

}  // namespace margin_softmax::cuda
