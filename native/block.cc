#include "block.h"

#include <cstdlib>
#include <cstring>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace margin_softmax {

#if defined(__linux__)

constexpr int64_t hugePage = 2 << 20;

Block::Block(int64_t bytes) : bytes_(bytes < hugePage ? bytes : (bytes + hugePage - 1) / hugePage * hugePage) {
  void* block = mmap(nullptr, static_cast<size_t>(bytes_ ? bytes_ : 1), PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (block == MAP_FAILED) return;
  if (bytes_ >= hugePage) madvise(block, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  data_ = block;
}
Block::~Block() {
  if (data_) munmap(data_, static_cast<size_t>(bytes_ ? bytes_ : 1));
}

#else

Block::Block(int64_t bytes) : bytes_(bytes) {
#if defined(_WIN32)
  data_ = _aligned_malloc(static_cast<size_t>(bytes ? bytes : 1), 64);
#else
  if (posix_memalign(&data_, 64, static_cast<size_t>(bytes ? bytes : 1)) != 0) data_ = nullptr;
#endif
  if (data_) std::memset(data_, 0, static_cast<size_t>(bytes));
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
