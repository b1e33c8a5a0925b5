#include "block.h"

#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace margin_softmax {

#if defined(__linux__)

constexpr int64_t hugePage = 2 << 20;

void preferHugePages(void* data, int64_t bytes) {
  const uintptr_t begin = reinterpret_cast<uintptr_t>(data), page = hugePage;
  const uintptr_t from = (begin + page - 1) / page * page, to = (begin + static_cast<uintptr_t>(bytes)) / page * page;
  if (from < to) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
}

// Below a huge page the allocator's own memory, which is warm more often than not, costs less than
// a mapping.
int64_t Block::mapped(int64_t bytes) { return bytes < hugePage ? bytes : (bytes + hugePage - 1) / hugePage * hugePage; }

Block::Block(int64_t bytes, bool zeros) : bytes_(mapped(bytes)) {
  if (bytes < hugePage) {
    const size_t size = static_cast<size_t>(bytes ? bytes : 1);
    data_ = zeros ? std::calloc(size, 1) : std::malloc(size);
    return;
  }
  void* block = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) return;
  madvise(block, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  data_ = block;
}
Block::~Block() {
  if (bytes_ < hugePage) std::free(data_);
  else if (data_) munmap(data_, static_cast<size_t>(bytes_));
}

#else

void preferHugePages(void*, int64_t) {}

int64_t Block::mapped(int64_t bytes) { return bytes; }

Block::Block(int64_t bytes, bool zeros) : bytes_(bytes) {
#if defined(_WIN32)
  data_ = _aligned_malloc(static_cast<size_t>(bytes ? bytes : 1), 64);
#else
  if (posix_memalign(&data_, 64, static_cast<size_t>(bytes ? bytes : 1)) != 0) data_ = nullptr;
#endif
  if (data_ && zeros) std::memset(data_, 0, static_cast<size_t>(bytes));
}
Block::~Block() {
#if defined(_WIN32)
  _aligned_free(data_);
#else
  free(data_);
#endif
}

#endif

}  // namespace margin_softmax
