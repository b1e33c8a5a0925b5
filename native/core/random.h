// Random numbers and random orders, made from random bits.
#pragma once
#include <cstdint>

#include "../formulas/random_bits.h"

namespace margin_softmax {

// A uniform number in (0, 1).
inline double uniform(uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53; }

// A random order of [0, size), without a table: at(i) is its i-th element, and placeOf(at(i)) is i.
// A Feistel network (Luby and Rackoff 1988) permutes the numbers of as many bits as size needs;
// numbers beyond size are permuted again (cycle walking, Black and Rogaway 2002), less than once
// for each element on average.
class RandomOrder {
 public:
  RandomOrder(uint64_t seed, int64_t size) : size_(static_cast<uint64_t>(size)) {
    int bits = 0;
    while (bits < 63 && (uint64_t{1} << bits) < size_) bits++;
    lowBits_ = bits - bits / 2;
    lowMask_ = (uint64_t{1} << lowBits_) - 1;
    highMask_ = (uint64_t{1} << (bits / 2)) - 1;
    for (int r = 0; r < rounds; r++) keys_[r] = randomBits(seed, static_cast<uint64_t>(r));
  }

  int64_t at(int64_t i) const {
    uint64_t x = static_cast<uint64_t>(i);
    do x = permuted(x);
    while (x >= size_);
    return static_cast<int64_t>(x);
  }
  int64_t placeOf(int64_t element) const {
    uint64_t x = static_cast<uint64_t>(element);
    do x = unpermuted(x);
    while (x >= size_);
    return static_cast<int64_t>(x);
  }

 private:
  static constexpr int rounds = 6;

  static uint64_t mixed(uint64_t x) {
    x *= 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ull;
    return x ^ (x >> 32);
  }
  uint64_t permuted(uint64_t x) const {
    uint64_t high = x >> lowBits_, low = x & lowMask_;
    for (int r = 0; r < rounds; r += 2) {
      high ^= mixed(low + keys_[r]) & highMask_;
      low ^= mixed(high + keys_[r + 1]) & lowMask_;
    }
    return high << lowBits_ | low;
  }
  uint64_t unpermuted(uint64_t x) const {
    uint64_t high = x >> lowBits_, low = x & lowMask_;
    for (int r = rounds - 2; r >= 0; r -= 2) {
      low ^= mixed(high + keys_[r + 1]) & lowMask_;
      high ^= mixed(low + keys_[r]) & highMask_;
    }
    return high << lowBits_ | low;
  }

  uint64_t size_, lowMask_, highMask_, keys_[rounds];
  int lowBits_;
};

}  // namespace margin_softmax
