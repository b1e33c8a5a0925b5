// Memory of a device, for a head's arrays. On the CPU it is ordinary memory, used in place.
#pragma once
#include <utility>

#include "block.h"
#include "executor.h"

namespace margin_softmax {

class Memory {
 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { release(); }

  // Takes zeroed memory in place of what it held.
  Status take(int device, int64_t bytes);
  void release();

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }
  Status read(int64_t offset, void* to, int64_t bytes) const;
  Status write(int64_t offset, const void* from, int64_t bytes);
  void swap(Memory& other) {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

 private:
  int device_ = cpuDevice;
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace margin_softmax
