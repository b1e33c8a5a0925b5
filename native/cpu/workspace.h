// The one cached block of scratch memory of the process. A fresh 100 MB costs 60 ms of page faults, a reused one none,
// so it is kept between calls; it belongs to whoever holds the `Turn` (pool.h).
#pragma once
#include <cstddef>
#include <cstdint>

#include "../status.h"

namespace margin_softmax::cpu {

// At least `bytes`, aligned to 64; null where the system refuses. What the last call left there is lost.
void* workspace(int64_t bytes);

// Lays arrays out one behind the other: once over a null base to learn the size, once over the block itself.
class Layout {
 public:
  explicit Layout(void* base) : base_(static_cast<char*>(base)) {}
  template <class T>
  T* take(int64_t count) {
    T* at = base_ ? reinterpret_cast<T*>(base_ + offset_) : nullptr;
    offset_ += (count * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
    return at;
  }
  int64_t bytes() const { return offset_; }

 private:
  char* base_;
  int64_t offset_ = 0;
};

// Places the arrays that layOut(Layout&) takes into the workspace.
template <class LayOut>
Status placeInWorkspace(const LayOut& layOut) {
  Layout measure(nullptr);
  layOut(measure);
  void* block = workspace(measure.bytes());
  if (!block) return Status::outOfMemory("the workspace", measure.bytes());
  Layout place(block);
  layOut(place);
  return {};
}

}  // namespace margin_softmax::cpu
