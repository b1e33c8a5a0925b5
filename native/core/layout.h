// Lays arrays out in a block of scratch memory, one after the other. Run once over a null base to
// learn the size, and once over the block itself.
#pragma once
#include <cstddef>
#include <cstdint>

namespace margin_softmax {

class Layout {
 public:
  explicit Layout(void* base) : base_(static_cast<char*>(base)) {}
  // Takes an array, aligned to 256 bytes, which serves a cache line as well as a GPU's widest
  // transaction. No elements give a null pointer, so that an array that is not wanted has no
  // address.
  template <class T>
  T* take(int64_t count, int64_t alignment = 256) {
    offset_ = (offset_ + alignment - 1) / alignment * alignment;
    T* at = base_ && count > 0 ? reinterpret_cast<T*>(base_ + offset_) : nullptr;
    offset_ += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
    return at;
  }
  int64_t bytes() const { return offset_; }

 private:
  char* base_;
  int64_t offset_ = 0;
};

}  // namespace margin_softmax
