// Whole numbers of things.
#pragma once
#include <cstdint>

namespace margin_softmax {

inline int64_t divideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t roundUp(int64_t a, int64_t b) { return divideUp(a, b) * b; }

}  // namespace margin_softmax
