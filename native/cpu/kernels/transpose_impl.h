// A square of as many vectors as a vector has lanes, transposed in registers.
#pragma once
#include "simd.h"

namespace {

// Each round takes a result's elements from two vectors, and in every quarter of a vector (four
// lanes) alike, which takes one instruction:
//
//   words      a0 b0 a1 b1 | a2 b2 a3 b3      pairs      a0 a1 b0 b1 | a2 a3 b2 b3
//   quarters   the even ones of a, then of b; the odd ones
#if VECTOR_BYTES == 64
#define LOWER_WORDS(a, b) SHUFFLE(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29)
#define UPPER_WORDS(a, b) SHUFFLE(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31)
#define LOWER_PAIRS(a, b) SHUFFLE(a, b, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29)
#define UPPER_PAIRS(a, b) SHUFFLE(a, b, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31)
#define EVEN_QUARTERS(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27)
#define ODD_QUARTERS(a, b) SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31)
#elif VECTOR_BYTES == 32
#define LOWER_WORDS(a, b) SHUFFLE(a, b, 0, 8, 1, 9, 4, 12, 5, 13)
#define UPPER_WORDS(a, b) SHUFFLE(a, b, 2, 10, 3, 11, 6, 14, 7, 15)
#define LOWER_PAIRS(a, b) SHUFFLE(a, b, 0, 1, 8, 9, 4, 5, 12, 13)
#define UPPER_PAIRS(a, b) SHUFFLE(a, b, 2, 3, 10, 11, 6, 7, 14, 15)
#define EVEN_QUARTERS(a, b) SHUFFLE(a, b, 0, 1, 2, 3, 8, 9, 10, 11)
#define ODD_QUARTERS(a, b) SHUFFLE(a, b, 4, 5, 6, 7, 12, 13, 14, 15)
#else
#define LOWER_WORDS(a, b) SHUFFLE(a, b, 0, 4, 1, 5)
#define UPPER_WORDS(a, b) SHUFFLE(a, b, 2, 6, 3, 7)
#define LOWER_PAIRS(a, b) SHUFFLE(a, b, 0, 1, 4, 5)
#define UPPER_PAIRS(a, b) SHUFFLE(a, b, 2, 3, 6, 7)
#define EVEN_QUARTERS(a, b) (a)  // not used
#define ODD_QUARTERS(a, b) (b)
#endif

// V: vectors of 32-bit lanes.
template <class V>
INLINE void transpose(V (&v)[lanes]) {
  // Four rows, columns c, c + 4, … → a vector of column c in its first quarter, c + 4 in its next.
  UNROLL for (int i = 0; i < lanes; i += 4) {
    const V a = LOWER_WORDS(v[i], v[i + 1]), b = UPPER_WORDS(v[i], v[i + 1]);
    const V c = LOWER_WORDS(v[i + 2], v[i + 3]), d = UPPER_WORDS(v[i + 2], v[i + 3]);
    v[i] = LOWER_PAIRS(a, c);
    v[i + 1] = UPPER_PAIRS(a, c);
    v[i + 2] = LOWER_PAIRS(b, d);
    v[i + 3] = UPPER_PAIRS(b, d);
  }
  // The same of quarters: those of one column come together.
  UNROLL for (int c = 0; c < 4; c++) {
    if constexpr (lanes == 8) {
      const V low = EVEN_QUARTERS(v[c], v[c + 4]), high = ODD_QUARTERS(v[c], v[c + 4]);
      v[c] = low;
      v[c + 4] = high;
    } else if constexpr (lanes == 16) {
      const V a = EVEN_QUARTERS(v[c], v[c + 4]), b = ODD_QUARTERS(v[c], v[c + 4]);
      const V d = EVEN_QUARTERS(v[c + 8], v[c + 12]), e = ODD_QUARTERS(v[c + 8], v[c + 12]);
      v[c] = EVEN_QUARTERS(a, d);
      v[c + 4] = EVEN_QUARTERS(b, e);
      v[c + 8] = ODD_QUARTERS(a, d);
      v[c + 12] = ODD_QUARTERS(b, e);
    }
  }
}

}  // namespace
