// Counter-based random bits: element i needs no predecessor, so any thread, process or device
// computes the same. Always inlined, and no standard header: inner loops compiled for an
// instruction set may include this (cpu/kernels/simd.h).
#pragma once
#include <stdint.h>

namespace margin_softmax {

// The finalizer of SplitMix64 (Steele et al. 2014): 64 random bits for element i.
__attribute__((always_inline)) inline uint64_t randomBits(uint64_t seed, uint64_t i) {
  uint64_t z = seed * 0xd1342543de82ef95ull + (i + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace margin_softmax
