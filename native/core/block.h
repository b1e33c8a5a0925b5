// A large block of memory, taken from the system directly, in huge pages if there are any, and
// returned at once.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>

namespace margin_softmax {

// Asks the system for huge pages under memory of another owner that nobody has touched yet. Filling
// 2 GB then takes 1,000 page faults instead of 500,000.
void preferHugePages(void* data, int64_t bytes);

class Block {
 public:
  Block() = default;
  // Zeroed. The data are null if the system refuses.
  explicit Block(int64_t bytes) : Block(bytes, true) {}
  // Skips zeroing (40 µs/MB), for callers that overwrite everything.
  static Block uninitialized(int64_t bytes) { return Block(bytes, false); }
  ~Block();
  Block(Block&& other) noexcept { *this = std::move(other); }
  Block& operator=(Block&& other) noexcept {
    Block old;
    old.swap(*this);
    swap(other);
    return *this;
  }

  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }
  int64_t bytes() const { return bytes_; }

  // For owners that keep only the address: `release` hands it over, `adopt` makes a block of it
  // again.
  void* release() { return std::exchange(data_, nullptr); }
  static Block adopt(void* data, int64_t bytes) {
    Block block;
    block.data_ = data;
    block.bytes_ = mapped(bytes);
    return block;
  }

 private:
  Block(int64_t bytes, bool zeros);
  static int64_t mapped(int64_t bytes);  // bytes, rounded up to what the system maps
  void swap(Block& other) {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }
  void* data_ = nullptr;
  int64_t bytes_ = 0;
};

}  // namespace margin_softmax
