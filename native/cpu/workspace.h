// The process's cached block of scratch memory, kept between calls: 100 MB of fresh memory cost 60
// ms of page faults. The holder of the PoolLock (pool.h) owns it.
#pragma once
#include <cstdint>

#include "../core/layout.h"
#include "../core/status.h"

namespace margin_softmax::cpu {

// At least `bytes`, aligned to 64; null where the system refuses. What the last call left there is
// lost.
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
