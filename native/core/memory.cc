#include "memory.h"

namespace margin_softmax {

Status Memory::take(int device, int64_t bytes) {
  release();
  device_ = device;
  if (Status status = executorOf(device)->allocate(device, bytes, data_); !status) return status;
  bytes_ = bytes;
  return {};
}

void Memory::release() {
  if (data_) executorOf(device_)->release(device_, data_, bytes_);
  data_ = nullptr;
  bytes_ = 0;
}

Status Memory::read(int64_t offset, void* to, int64_t bytes) const {
  return executorOf(device_)->download(device_, as<char>() + offset, to, bytes);
}

Status Memory::write(int64_t offset, const void* from, int64_t bytes) {
  return executorOf(device_)->upload(device_, as<char>() + offset, from, bytes);
}

}  // namespace margin_softmax
