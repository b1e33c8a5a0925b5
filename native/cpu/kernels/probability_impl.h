// The inner loops of the probability functions, written once; included by kernels_impl.h.
//
// A loop body is written for one vector. It receives `at`, which loads the same elements of any
// array: all lanes (Whole), or the few that are left at an end (Rest). Sums run over 16 virtual
// lanes whatever the vector width:
//
//   element       0  1  2 … 15 | 16 17 18 … 31 | …      lane i % 16 adds element i;
//   virtual lane  0  1  2 … 15 |  0  1  2 … 15 | …      at the end the lanes are added in halves
//
// So every instruction set with fused multiply-adds gives the same bits.
#pragma once
#include "probability_kernels.h"
#include "simd.h"

namespace {

using margin_softmax::cpu::blockSize;
using margin_softmax::cpu::BlockSums;
using margin_softmax::cpu::ProbabilityKernels;
using margin_softmax::cpu::Shares;

constexpr float infinity = __builtin_inff();

struct Whole {
  int64_t first;
  INLINE_MEMBER Vector operator()(const float* from) const { return load(from + first); }
  INLINE_MEMBER Vector kept(Vector x, float) const { return x; }
};

struct Rest {
  int64_t first, count;
  INLINE_MEMBER Vector operator()(const float* from) const {
    float buffer[lanes] = {};
    for (int64_t l = 0; l < count; l++) buffer[l] = from[first + l];
    return load(buffer);
  }
  // Lanes beyond the count become `otherwise`.
  INLINE_MEMBER Vector kept(Vector x, float otherwise) const {
    VectorInt lane = {};
    UNROLL for (int l = 0; l < lanes; l++) lane[l] = l;
    return lane < (VectorInt{} + (int32_t)count) ? x : broadcast(otherwise);
  }
};

// Stores the first `count` lanes.
INLINE void storeRest(float* to, Vector value, int64_t count) {
  float buffer[lanes];
  store(buffer, value);
  for (int64_t l = 0; l < count; l++) to[l] = buffer[l];
}

// out[i] = body(element i). Streaming begins at the first aligned vector; what comes before is a
// Rest.
template <class Body>
INLINE void map(float* out, int64_t n, bool stream, const Body& body) {
  int64_t i = 0;
  if (stream) {
    const int64_t misaligned = (int64_t)((uintptr_t)out % VECTOR_BYTES / 4);
    i = misaligned ? lanes - misaligned : 0;
    if (i > n) i = n;
    if (i) storeRest(out, body(Rest{0, i}), i);
    for (; i + lanes <= n; i += lanes) storeStream(out + i, body(Whole{i}));
  }
  for (; i + lanes <= n; i += lanes) store(out + i, body(Whole{i}));
  if (i < n) storeRest(out + i, body(Rest{i, n - i}), n - i);
}

// Calls body(at, v) for n elements in runs of 16, v being the vector's place among the 16 virtual
// lanes.
template <class Body>
INLINE void forVectors(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= n; i += 16) UNROLL for (int v = 0; v < vectorsOf16; v++) body(Whole{i + v * lanes}, v);
  for (int v = 0; i < n; v++, i += lanes) body(Rest{i, n - i < lanes ? n - i : lanes}, v);
}

static float maximumOf(const float* z, int64_t n) {
  Vector chain[4];
  UNROLL for (int k = 0; k < 4; k++) chain[k] = broadcast(-infinity);
  int64_t i = 0;
  for (; i + 4 * lanes <= n; i += 4 * lanes)
    UNROLL for (int k = 0; k < 4; k++) chain[k] = maximum(load(z + i + k * lanes), chain[k]);
  for (; i + lanes <= n; i += lanes) chain[0] = maximum(load(z + i), chain[0]);
  if (i < n) {
    const Rest rest{i, n - i};
    chain[1] = maximum(rest.kept(rest(z), -infinity), chain[1]);
  }
  return largestLane(maximum(maximum(chain[0], chain[1]), maximum(chain[2], chain[3])));
}

// a_j = weights[j]·(keep·targets[j] + add) for a vector of classes; an absent array is left out at
// compile time.
template <bool Targets, bool Weights>
struct Share {
  const float *targets, *weights;
  Vector keep, add;
  explicit Share(const Shares& s)
      : targets(s.targets), weights(s.weights), keep(broadcast(s.keep)), add(broadcast(s.add)) {}
  template <class At>
  INLINE_MEMBER Vector operator()(const At& at) const {
    const Vector target = Targets ? keep * at(targets) + add : add;
    return Weights ? at(weights) * target : target;
  }
};

// Calls body with the Share for those of targets and weights that are present.
template <class Body>
INLINE void withShare(const Shares& s, const Body& body) {
  if (s.targets && s.weights) body(Share<true, true>(s));
  else if (s.targets) body(Share<true, false>(s));
  else if (s.weights) body(Share<false, true>(s));
  else body(Share<false, false>(s));
}

// The sums of BlockSums over a block, in one pass. A term of share 0 adds 0 even if its logit is −∞
// (0·∞ is NaN).
static void exponentialSums(const float* z, int64_t n, float shift, const Shares* shares, BlockSums& out) {
  const Vector shifts = broadcast(shift);
  Vector ones[vectorsOf16] = {}, rest[vectorsOf16] = {}, share[vectorsOf16] = {}, deficit[vectorsOf16] = {};
  const auto exponentials = [&](const auto& at, int v, Vector d) __attribute__((always_inline)) {
    // The comparison is false for NaN, which then stays in the sum.
    ones[v] += at.kept(d == 0.0f ? broadcast(1.0f) : broadcast(0.0f), 0);
    rest[v] += at.kept(d == 0.0f ? broadcast(0.0f) : exponential<false>(d), 0);
  };
  if (!shares) {
    forVectors(n, [&](const auto& at, int v) __attribute__((always_inline)) { exponentials(at, v, at(z) - shifts); });
  } else {
    withShare(*shares, [&](const auto& shareOf) __attribute__((always_inline)) {
      forVectors(n, [&](const auto& at, int v) __attribute__((always_inline)) {
        const Vector d = at(z) - shifts;
        const Vector a = at.kept(shareOf(at), 0);
        exponentials(at, v, d);
        share[v] += a;
        deficit[v] += a == 0.0f ? broadcast(0.0f) : a * -d;
      });
    });
  }
  out.ones = sumOf16(ones);
  out.rest = sumOf16(rest);
  out.shares = sumOf16(share);
  out.deficit = sumOf16(deficit);
}

static void softmax(const float* z, int64_t n, float shift, float factor, float* out, bool stream) {
  const Vector shifts = broadcast(shift), times = broadcast(factor);
  map(out, n, stream,
      [&](const auto& at) __attribute__((always_inline)) { return exponential<true>(at(z) - shifts) * times; });
}

static void logSoftmax(const float* z, int64_t n, float shift, float logSum, float* out, bool stream) {
  const Vector shifts = broadcast(shift), less = broadcast(logSum);
  map(out, n, stream, [&](const auto& at) __attribute__((always_inline)) { return (at(z) - shifts) - less; });
}

static void gradient(const float* z, int64_t n, float shift, float factor, const Shares& shares, float* out,
                     bool stream) {
  const Vector shifts = broadcast(shift), times = broadcast(factor);
  withShare(shares, [&](const auto& shareOf) __attribute__((always_inline)) {
    map(out, n, stream, [&](const auto& at) __attribute__((always_inline)) {
      return exponential<false>(at(z) - shifts) * times - shareOf(at);
    });
  });
}

static void informationContent(const float* p, int64_t n, float* out, bool stream) {
  map(out, n, stream,
      [&](const auto& at) __attribute__((always_inline)) { return broadcast(0.0f) - logarithm<float>(at(p)); });
}

// −Σ p log q. Where p = 0 the term is q − q: 0, but NaN where q is.
static double crossEntropy(const float* p, const float* q, int64_t n) {
  double total = 0;
  for (int64_t i = 0; i < n; i += blockSize) {
    Vector sum[vectorsOf16] = {};
    forVectors(n - i < blockSize ? n - i : blockSize, [&](const auto& at, int v) __attribute__((always_inline)) {
      const Vector a = at(p + i), b = at(q + i);
      sum[v] += a == 0.0f ? b - b : a * logarithm<float>(b);
    });
    total += sumOf16(sum);
  }
  return 0 - total;
}

static double entropy(const float* p, int64_t n) { return crossEntropy(p, p, n); }

// Σ p log(p/q), in double precision throughout: if q is near p, the terms cancel almost wholly.
static double klDivergence(const float* p, const float* q, int64_t n) {
  typedef float Half __attribute__((vector_size(VECTOR_BYTES / 2), may_alias, aligned(4)));
  constexpr int step = lanes / 2;
  VectorDouble sum[vectorsOf16] = {};
  const auto term = [&](const float* at, const float* bt, int v) __attribute__((always_inline)) {
    const VectorDouble a = __builtin_convertvector(*(const Half*)at, VectorDouble);
    const VectorDouble b = __builtin_convertvector(*(const Half*)bt, VectorDouble);
    const VectorDouble logRatio = logarithm<double>(a / (b + 0.0));  // + 0: −0 would turn +∞ into −∞
    const VectorDouble nan = VectorDouble{} + __builtin_nan("");
    sum[v] += a == 0.0 ? b - b : a * (b < 0.0 ? nan : logRatio);
  };
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) UNROLL for (int v = 0; v < vectorsOf16; v++) term(p + i + v * step, q + i + v * step, v);
  if (i < n) {
    float a[8] = {}, b[8] = {};
    for (int64_t l = 0; i + l < n; l++) a[l] = p[i + l], b[l] = q[i + l];
    UNROLL for (int v = 0; v < vectorsOf16; v++) term(a + v * step, b + v * step, v);
  }
  double lane[8];
  UNROLL for (int v = 0; v < vectorsOf16; v++) UNROLL for (int l = 0; l < step; l++) lane[v * step + l] = sum[v][l];
  return ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

constexpr ProbabilityKernels probabilityKernels = {
    maximumOf, exponentialSums, softmax, logSoftmax, gradient, informationContent, entropy, crossEntropy, klDivergence};

}  // namespace
