// The inner loops of weights stored in bfloat16: a row is widened to floats for the computation,
// and rounded stochastically when it is stored.
#pragma once
#include "../../formulas/bfloat16.h"
#include "../../formulas/random_bits.h"
#include "simd.h"

namespace {

static void widen(const uint16_t* from, float* to, int64_t n) {
  for (int64_t i = 0; i < n; i++) to[i] = margin_softmax::widened(from[i]);
}

// Element i takes its 16 random bits from number first + i/4 of the key, the lowest for i % 4 = 0.
static void roundStochastically(const float* from, uint16_t* to, int64_t n, uint64_t key, uint64_t first) {
  constexpr int64_t atOnce = 256;
  uint64_t numbers[atOnce / 4];
  uint16_t random[atOnce];
  for (int64_t start = 0; start < n; start += atOnce) {
    const int64_t count = n - start < atOnce ? n - start : atOnce;
    for (int64_t k = 0; k < (count + 3) / 4; k++) numbers[k] = margin_softmax::randomBits(key, first + start / 4 + k);
    __builtin_memcpy(random, numbers, sizeof random);  // little-endian: the lowest bits come first
    for (int64_t i = 0; i < count; i++)
      to[start + i] = margin_softmax::stochasticallyRounded(from[start + i], random[i]);
  }
}

}  // namespace
