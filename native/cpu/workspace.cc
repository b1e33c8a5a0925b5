#include "workspace.h"

#include <algorithm>

#include "../core/block.h"

namespace margin_softmax::cpu {

void* workspace(int64_t bytes) {
  constexpr int64_t minBytes = 4 << 20;  // mapped, and enough for small batches of any shape to share
  static Block* block = new Block;       // never destroyed: a thread may still work in it while the process ends
  if (bytes > block->bytes() || !block->as<void>()) {
    *block = Block();  // the old one goes first, so that both are never held at once
    *block = Block(std::max(bytes, minBytes));
  }
  return block->as<void>();
}

}  // namespace margin_softmax::cpu
