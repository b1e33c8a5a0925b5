// bfloat16: the upper half of a float (8 bits of exponent, 7 of fraction), and the ways to round to
// it. Always inlined, and no standard header: inner loops compiled for an instruction set may
// include this (cpu/kernels/simd.h).
#pragma once
#include <stdint.h>

namespace margin_softmax {

__attribute__((always_inline)) inline float widened(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// NaN: the highest bit of the fraction is set, so that it stays NaN without its lower half.
constexpr uint32_t quietBit = 0x40;

// Rounds to nearest even. Denormal numbers become 0, as in processors that multiply bfloat16.
__attribute__((always_inline)) inline uint16_t rounded(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const uint32_t magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return static_cast<uint16_t>(bits >> 16 | quietBit);
  if (magnitude < 0x00800000) return static_cast<uint16_t>(bits >> 16 & 0x8000);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// Rounds to one of both neighbors, with probabilities such that the mean over all 16 random bits is
// x. Numbers that bfloat16 has stay as they are. (Gupta et al. 2015, arXiv:1502.02551, section 3.)
__attribute__((always_inline)) inline uint16_t stochasticallyRounded(float x, uint16_t random) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, 4);
  const bool number = (bits & 0x7fffffff) <= 0x7f800000;
  return static_cast<uint16_t>(number ? (bits + random) >> 16 : bits >> 16 | quietBit);
}

}  // namespace margin_softmax
