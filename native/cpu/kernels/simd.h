// One vector vocabulary for every instruction set, in GCC/Clang vector extensions: no intrinsics.
//
// Included only by the kernels_<instruction set>.cc files, which are the only files compiled with
// instruction-set flags. Everything here has internal linkage and no standard header with inline
// functions is included, so that no function compiled for AVX-512 can be picked by the linker for a
// machine without it (a test reads the symbol tables).
#pragma once
#include <stdint.h>

#if !defined(VECTOR_BYTES)
#error "a kernels_<instruction set>.cc file defines VECTOR_BYTES, BLOCK_ROWS and BLOCK_VECTORS first"
#endif

#define INLINE static inline __attribute__((always_inline, unused))
#define INLINE_MEMBER inline __attribute__((always_inline))
// Lanes of a, then of b, by their numbers.
#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#endif
#endif
#if !defined(SHUFFLE)  // GCC before 12
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (VectorBits){__VA_ARGS__})
#endif
// GCC keeps an array of accumulators in registers only if every loop over it is unrolled (116
// against 58 GFLOP/s).
#define UNROLL _Pragma("GCC unroll 32")

namespace {

constexpr int lanes = VECTOR_BYTES / 4;
constexpr int vectorsOf16 = 64 / VECTOR_BYTES;
// A block of a matrix product: its rows of the one operand, its vectors of the other one, which are a panel.
constexpr int blockRows = BLOCK_ROWS;
constexpr int blockVectors = BLOCK_VECTORS;
constexpr int panelLanes = blockVectors * lanes;

typedef float Vector __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef float VectorUnaligned __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(4)));
typedef float Quarter __attribute__((vector_size(16), may_alias, aligned(4)));  // of 16 lanes
typedef int32_t VectorInt __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef uint32_t VectorBits __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef double VectorDouble __attribute__((vector_size(VECTOR_BYTES), may_alias));
typedef uint64_t VectorDoubleBits __attribute__((vector_size(VECTOR_BYTES), may_alias));

INLINE Vector load(const float* from) { return *(const VectorUnaligned*)from; }
// Up to a vector of floats; zeros beyond `count`.
INLINE Vector loadFew(const float* from, int64_t count) {
  if (count >= lanes) return load(from);
  float few[lanes] = {};
  for (int64_t i = 0; i < count; i++) few[i] = from[i];
  return load(few);
}
INLINE void store(float* to, Vector value) { *(VectorUnaligned*)to = value; }
INLINE Vector broadcast(float value) { return value - (Vector){}; }
// A lane that compares false (NaN) gets the second argument: pass the value that must survive
// there.
INLINE Vector maximum(Vector a, Vector b) { return a > b ? a : b; }

// Bit l is set if lane l is not 0; a NaN's is.
INLINE uint32_t notZero(Vector x) {
#if defined(__AVX512F__) && VECTOR_BYTES == 64
  uint32_t bits;
  asm("vptestmd %1, %1, %%k1\n\tkmovw %%k1, %0" : "=r"(bits) : "v"(x) : "k1");
  return bits;
#elif defined(__x86_64__) && VECTOR_BYTES <= 32
  uint32_t bits;
  const VectorInt lanesThatAre = (VectorInt)x != 0;
#if VECTOR_BYTES == 32
  asm("vmovmskps %1, %0" : "=r"(bits) : "x"(lanesThatAre));
#else
  asm("movmskps %1, %0" : "=r"(bits) : "x"(lanesThatAre));
#endif
  return bits;
#else
  uint32_t bits = 0;
  UNROLL for (int l = 0; l < lanes; l++) bits |= (uint32_t)(((VectorInt)x)[l] != 0) << l;
  return bits;
#endif
}

// e^x for x <= 88, error below 0.9 ulp (1.2 ulp without fused multiply-adds), also where |x| is
// large: x is reduced by multiples of log 2 in two parts. Gradual: denormal numbers below 2^-126,
// then 0. Otherwise 0 below -87.33 at once, which is nothing to a sum and spares the machine
// denormal arithmetic. NaN stays NaN.
template <bool Gradual>
INLINE Vector exponential(Vector x) {
  const Vector rounder = broadcast(12582912.0f);
  const Vector rounded = x * broadcast(1.44269504f) + rounder;
  const Vector n = rounded - rounder;
  const Vector f = (x - n * broadcast(0.693359375f)) - n * broadcast(-2.12194440e-4f);  // the first product is exact
  Vector p = broadcast(1.3813145e-3f);  // minimax polynomial of (e^f - 1 - f) / f^2 on [-log(2)/2, log(2)/2], degree 4
  p = p * f + broadcast(8.3694188e-3f);
  p = p * f + broadcast(4.1668457e-2f);
  p = p * f + broadcast(1.6666515e-1f);
  p = p * f + broadcast(4.9999993e-1f);
  p = p * f + broadcast(1.0f);
  p = p * f + broadcast(1.0f);
  const VectorInt exponent = (VectorInt)rounded - (VectorInt)rounder;
  if (!Gradual) return x < -87.33f ? broadcast(0.0f) : p * (Vector)((exponent + 127) << 23);
  const VectorInt half = exponent >> 1;
  const Vector scaled = p * (Vector)((half + 127) << 23) * (Vector)((exponent - half + 127) << 23);  // rounded once
  return x < -104.0f ? broadcast(0.0f) : scaled;
}

// A number format, as the logarithm needs to know it.
template <class Scalar>
struct Format;
template <>
struct Format<float> {
  typedef Vector Values;
  typedef VectorBits Bits;
  static constexpr int mantissaBits = 23, terms = 4;
  static constexpr float smallestNormal = 0x1p-126f, bias = 127, infinity = __builtin_inff(), nan = __builtin_nanf("");
  static constexpr float rounder = 0x1.8p23f,
                         root = 0x1.6a09e6p-1f;  // an integer added to the bits adds it to the value
  static constexpr float log2High = 0.693359375f, log2Low = -2.12194440e-4f;
};
template <>
struct Format<double> {
  typedef VectorDouble Values;
  typedef VectorDoubleBits Bits;
  static constexpr int mantissaBits = 52, terms = 10;
  static constexpr double smallestNormal = 0x1p-1022, bias = 1023, infinity = __builtin_inf(), nan = __builtin_nan("");
  static constexpr double rounder = 0x1.8p52, root = 0x1.6a09e667f3bcdp-1;
  static constexpr double log2High = 6.93147180369123816490e-01, log2Low = 1.90821492927058770002e-10;
};

// log x, error below 1 ulp (single and double precision), denormal numbers included. log 0 = -inf,
// of a negative number NaN, and NaN stays NaN. x = m * 2^n with m in [sqrt(1/2), sqrt(2)), s = (m -
// 1)/(m + 1), and log m = 2 artanh s, arranged so that the exact m - 1 is the leading term.
template <class Scalar>
INLINE typename Format<Scalar>::Values logarithm(typename Format<Scalar>::Values x) {
  using F = Format<Scalar>;
  using Values = typename F::Values;
  using Bits = typename F::Bits;
  const Values zero = {};
  const Values raise = zero + (Scalar)(1ull << F::mantissaBits);
  const auto denormal = x < F::smallestNormal;
  const Values normal = denormal ? x * raise : x;
  const Bits root = (Bits)(zero + F::root), one = (Bits)(zero + (Scalar)1);
  const Bits shifted = (Bits)normal - root + one;
  const Values n = ((Values)((Bits)(zero + F::rounder) + (shifted >> F::mantissaBits)) - (F::rounder + F::bias)) -
                   (denormal ? zero + (Scalar)F::mantissaBits : zero);
  const Values f =
      (Values)((shifted & (((Bits)(zero + F::root) & 0) + ((1ull << F::mantissaBits) - 1))) + root) - (Scalar)1;
  const Values s = f / (f + (Scalar)2), w = s * s;
  Values r = zero + (Scalar)2 / (2 * F::terms + 1);
  UNROLL for (int k = F::terms - 1; k > 0; k--) r = r * w + (Scalar)2 / (2 * k + 1);
  const Values half = f * f * (Scalar)0.5;
  const Values result = n * F::log2High - ((half - (s * (half + r * w) + n * F::log2Low)) - f);
  const Values special = x == zero ? zero - F::infinity : x == F::infinity ? x : zero + F::nan;
  return ((x > zero) & (x < F::infinity)) ? result : special;
}

#if defined(__AVX512F__) || (defined(__x86_64__) && VECTOR_BYTES <= 32)
INLINE void storeStream(float* to, Vector value) {
#if VECTOR_BYTES == 64
  asm volatile("vmovntps %1, %0" : "=m"(*(Vector*)to) : "v"(value));
#elif VECTOR_BYTES == 32
  asm volatile("vmovntps %1, %0" : "=m"(*(Vector*)to) : "x"(value));
#else
  asm volatile("movntps %1, %0" : "=m"(*(Vector*)to) : "x"(value));
#endif
}
#else
INLINE void storeStream(float* to, Vector value) { store(to, value); }
#endif

// a·b + c, rounded once where the machine can; elsewhere a call of libm's fma would cost more than
// the rounding does.
#if defined(__FMA__) || defined(__aarch64__)
INLINE float fused(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
INLINE double fused(double a, double b, double c) { return __builtin_fma(a, b, c); }
#else
INLINE float fused(float a, float b, float c) { return a * b + c; }
INLINE double fused(double a, double b, double c) { return a * b + c; }
#endif

// Sum of the lanes: the upper half of them added to the lower one, again and again.
INLINE float sumOfLanes(Vector x) {
#if VECTOR_BYTES == 64
  x += SHUFFLE(x, x, 8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
  x += SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3, 12, 13, 14, 15, 8, 9, 10, 11);
  x += SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13);
#elif VECTOR_BYTES == 32
  x += SHUFFLE(x, x, 4, 5, 6, 7, 0, 1, 2, 3);
  x += SHUFFLE(x, x, 2, 3, 0, 1, 6, 7, 4, 5);
#else
  x += SHUFFLE(x, x, 2, 3, 0, 1);
#endif
  return x[0] + x[1];
}
// Sum of the 16 virtual lanes of the first vectors, in halves: 8, 4, 2, 1.
template <int count>
INLINE float sumOf16(Vector (&sum)[count]) {
  UNROLL for (int width = vectorsOf16 / 2; width > 0; width /= 2) {
    UNROLL for (int v = 0; v < width; v++) sum[v] += sum[v + width];
  }
  return sumOfLanes(sum[0]);
}

// The first lane stands if it is NaN; another NaN is left out.
INLINE float largestLane(Vector x) {
  float largest = x[0];
  UNROLL for (int l = 1; l < lanes; l++) largest = x[l] > largest ? x[l] : largest;
  return largest;
}

// Sum of a[i]·b[i] over 64 virtual lanes whatever the vector width: enough chains to keep the
// multipliers busy, and the same bits on every instruction set with FMA. What is left goes 16
// lanes, then one, at a time.
INLINE float dot(const float* a, const float* b, int64_t n) {
  constexpr int vectors = 4 * vectorsOf16, few = vectorsOf16;
  Vector sum[vectors];
  UNROLL for (int v = 0; v < vectors; v++) sum[v] = (Vector){};
  int64_t i = 0;
  for (; i + 64 <= n; i += 64) {
    UNROLL for (int v = 0; v < vectors; v++) sum[v] += load(a + i + v * lanes) * load(b + i + v * lanes);
  }
  for (; i + 16 <= n; i += 16) {
    UNROLL for (int v = 0; v < few; v++) sum[v] += load(a + i + v * lanes) * load(b + i + v * lanes);
  }
  UNROLL for (int width = vectors / 2; width >= few; width /= 2) {
    UNROLL for (int v = 0; v < width; v++) sum[v] += sum[v + width];
  }
  if (i < n) {
    float total[16];
    UNROLL for (int v = 0; v < few; v++) store(total + v * lanes, sum[v]);
    for (; i < n; i++) total[i & 15] = fused(a[i], b[i], total[i & 15]);
    UNROLL for (int v = 0; v < few; v++) sum[v] = load(total + v * lanes);
  }
  return sumOf16(sum);
}

}  // namespace
