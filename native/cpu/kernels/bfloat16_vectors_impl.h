// Serves all products in bfloat16: rounding of vectors, denormal numbers that count as 0,
// prefetching.
#pragma once
#include "../../formulas/bfloat16.h"
#include "bfloat16_kernels.h"
#include "simd.h"

namespace {

using margin_softmax::cpu::bfloat16Block;
using margin_softmax::cpu::Bfloat16Kernels;
using margin_softmax::cpu::Bfloat16Shape;
using margin_softmax::cpu::Bfloat16Term;
using margin_softmax::cpu::Bfloat16Terms;
using margin_softmax::cpu::bfloat16Terms;
using margin_softmax::cpu::Packed;
using margin_softmax::cpu::PackedSizes;
using margin_softmax::cpu::Prefetch;

typedef uint16_t VectorHalves __attribute__((vector_size(VECTOR_BYTES / 2), may_alias, aligned(2)));

INLINE int64_t divideUp(int64_t a, int64_t b) { return (a + b - 1) / b; }
INLINE int64_t blocksOf(int64_t values) { return divideUp(values, bfloat16Block); }

#if defined(__AVX512BF16__)

typedef VectorHalves Rounded;  // to nearest even
INLINE Rounded rounded(Vector x) {
  Rounded halves;
  asm("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(x));
  return halves;
}
// In the lower halves of the lanes.
INLINE VectorBits lower(Rounded halves) {
  VectorBits bits;
  asm("vpmovzxwd %1, %0" : "=v"(bits) : "v"(halves));
  return bits;
}
INLINE VectorHalves halves(Rounded x) { return x; }

#else

typedef VectorBits Rounded;  // to nearest even, in the lower halves of the lanes
INLINE Rounded rounded(Vector x) {
  const VectorBits bits = (VectorBits)x, magnitude = bits & 0x7fffffffu;
  const VectorBits nearest = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  const VectorBits number = magnitude > 0x7f800000u ? (bits >> 16 | margin_softmax::quietBit) : nearest;
  return magnitude < 0x00800000u ? (bits >> 16 & 0x8000u) : number;
}
INLINE VectorBits lower(Rounded bits) { return bits; }
INLINE VectorHalves halves(Rounded bits) { return __builtin_convertvector(bits, VectorHalves); }

#endif

INLINE Vector widened(Rounded x) { return (Vector)(lower(x) << 16); }

// body(first, second, plane) of two vectors: what rounding left of a plane is the next one.
template <class Body>
INLINE void forPlanes(Vector first, Vector second, int planes, const Body& body) {
  for (int plane = 0;; plane++) {
    const Rounded a = rounded(first), b = rounded(second);
    body(a, b, plane);
    if (plane + 1 == planes) return;
    first -= widened(a);
    second -= widened(b);
  }
}

// A vector of a row from dimension d on, times a factor; zeros beyond the row, and where the factor
// is 0, whatever the row holds.
INLINE Vector rowTimes(const float* row, int64_t dim, int64_t d, float factor) {
  return factor == 0 ? (Vector){} : loadFew(row + d, dim - d) * broadcast(factor);
}

// An element of a tile of gradients of floats, [panel][tileClasses][L].
INLINE const float* gradientAt(const Bfloat16Shape& shape, const float* gradient, int64_t row, int64_t j) {
  return gradient + (row / panelLanes * shape.tileClasses + j) * panelLanes + row % panelLanes;
}

// columns[k][i] = factors[i] · rows[i·stride + k] for 16 rows of at least `count` values; zeros
// beyond, and where the factor is 0, whatever the row holds.
INLINE void packColumns(const float* rows, int64_t stride, int64_t count, const float* factors, float (*columns)[16]) {
  for (int i = 0; i < 16; i++) {
    const float factor = factors[i];
    for (int k = 0; k < bfloat16Block; k++)
      columns[k][i] = factor == 0 || k >= count ? 0 : rows[i * stride + k] * factor;
  }
}

// A logit of a finished sum: the same operations in every table.
INLINE Vector scaledLogits(Vector sum, float scale, const float* bias) {
  sum *= broadcast(scale);
  if (bias) sum += broadcast(*bias);
  return sum;
}

// Denormal numbers count as 0 while one of these lives, as they do to tdpbf16ps and vdpbf16ps.
class FlushDenormals {
 public:
#if defined(__x86_64__)
  INLINE_MEMBER FlushDenormals() {
    asm volatile("stmxcsr %0" : "=m"(before_)::"memory");
    const uint32_t flushing = before_ | 0x8040;
    asm volatile("ldmxcsr %0" ::"m"(flushing) : "memory");
  }
  INLINE_MEMBER ~FlushDenormals() { asm volatile("ldmxcsr %0" ::"m"(before_) : "memory"); }

 private:
  uint32_t before_;
#elif defined(__aarch64__)
  INLINE_MEMBER FlushDenormals() {
    asm volatile("mrs %0, fpcr" : "=r"(before_)::"memory");
    asm volatile("msr fpcr, %0" ::"r"(before_ | uint64_t{1} << 24) : "memory");
  }
  INLINE_MEMBER ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(before_) : "memory"); }

 private:
  uint64_t before_;
#else
  INLINE_MEMBER FlushDenormals() {}
  INLINE_MEMBER ~FlushDenormals() {}
#endif
};

// Fetches what is read next, a few lines at each of about so many calls.
class Prefetcher {
 public:
  INLINE_MEMBER Prefetcher(Prefetch next, int64_t calls)
      : at_((const char*)next.from), left_(next.lines), rate_(calls > 0 ? divideUp(next.lines * one, calls) : 0) {}
  INLINE_MEMBER void fetch() {
    for (due_ += rate_; due_ >= one && left_ > 0; due_ -= one, left_--, at_ += 64) __builtin_prefetch(at_, 0, 2);
  }

 private:
  static constexpr int64_t one = 256;
  const char* at_;
  int64_t left_, due_ = 0;
  const int64_t rate_;  // lines a call, in 256ths
};

}  // namespace
