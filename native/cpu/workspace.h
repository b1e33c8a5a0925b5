// The one cached block of scratch memory of the process. A fresh 100 MB costs 60 ms of page faults, a reused one none,
// so it is kept between calls; it belongs to whoever holds the `PoolLock` (pool.h).
#pragma once
#include <cstdint>

#include "../core/layout.h"
#include "../core/status.h"

namespace margin_softmax::cpu {

// At least `bytes`, aligned to 64; null where the system refuses. What the last call left there is lost.
void* workspace(int64_t bytes);

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
