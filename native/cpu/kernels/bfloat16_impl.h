// The inner loops of bfloat16_kernels.h, written once. With __AVX512BF16__ they use vdpbf16ps;
// without, fused multiply-adds of floats give the same bits.
//
// As in kernels_impl.h one microkernel serves all three products: PAIR_ROWS × PAIR_VECTORS
// accumulators, and a step is a pair. A product of operands with two planes has three terms, in
// this order:
//
//   term      rows     vectors
//   0         first    first
//   1         first    second      what rounding left of the vectors
//   2         second   first       what rounding left of the rows
#pragma once
#include "bfloat16_kernels.h"
#include "simd.h"
#include "sparse_impl.h"

namespace {

using margin_softmax::cpu::Bfloat16Kernels;
using margin_softmax::cpu::PackedTile;

constexpr int pairRows = PAIR_ROWS;
constexpr int pairVectors = PAIR_VECTORS;
constexpr int pairLanes = pairVectors * lanes;
static_assert(16 % pairRows == 0, "columns are packed 16 dimensions at a time");
static_assert(panelLanes % pairLanes == 0, "a panel of logits is so many panels of pairs");

typedef uint16_t VectorHalves __attribute__((vector_size(VECTOR_BYTES / 2), may_alias, aligned(2)));
typedef uint32_t VectorBitsUnaligned __attribute__((vector_size(VECTOR_BYTES), may_alias, aligned(2)));

// Pairs are 4 bytes that begin at any multiple of 2: typedefs above with a low alignment, memcpy
// here.
INLINE VectorBits loadBits(const uint16_t* from) { return *(const VectorBitsUnaligned*)from; }
INLINE void storeBits(uint16_t* to, VectorBits bits) { *(VectorBitsUnaligned*)to = bits; }
INLINE VectorBits loadWord(const uint16_t* from) {
  uint32_t word;
  __builtin_memcpy(&word, from, 4);
  return (VectorBits){} + word;
}

#if defined(__AVX512BF16__)

constexpr bool nativePairs = true;
typedef VectorBits Pairs;
INLINE Pairs pairs(VectorBits bits) { return bits; }
INLINE Vector addProducts(Vector sum, Pairs a, Pairs b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(b), "v"(a));
  return sum;
}
typedef VectorHalves Rounded;  // to nearest even
INLINE Rounded rounded(Vector x) {
  Rounded halves;
  asm("vcvtneps2bf16 %1, %0" : "=v"(halves) : "v"(x));
  return halves;
}
// Zero-extends to lanes of 32 bits: the value in the lower half.
INLINE VectorBits lower(Rounded halves) {
  VectorBits bits;
  asm("vpmovzxwd %1, %0" : "=v"(bits) : "v"(halves));
  return bits;
}
INLINE void storeHalves(uint16_t* to, Rounded halves) { *(VectorHalves*)to = halves; }

#else

constexpr bool nativePairs = false;
// Each half widened to a float by appending zeros. The second is added first, as the instruction
// does: the other order would give other bits.
struct Pairs {
  Vector first, second;
};
INLINE Pairs pairs(VectorBits bits) { return {(Vector)(bits << 16), (Vector)(bits & 0xffff0000u)}; }
INLINE Vector addProducts(Vector sum, const Pairs& a, const Pairs& b) {
  sum += a.second * b.second;
  sum += a.first * b.first;
  return sum;
}
typedef VectorBits Rounded;  // to nearest even, in the lower halves of the lanes
INLINE Rounded rounded(Vector x) {
  const VectorBits bits = (VectorBits)x, magnitude = bits & 0x7fffffffu;
  // Adding just under half, and one more if the last kept bit is odd, rounds ties to even.
  const VectorBits nearest = (bits + 0x7fffu + (bits >> 16 & 1)) >> 16;
  const VectorBits number = magnitude > 0x7f800000u ? (bits >> 16 | 0x40u) : nearest;  // NaN stays NaN
  return magnitude < 0x00800000u ? (bits >> 16 & 0x8000u) : number;
}
INLINE VectorBits lower(Rounded bits) { return bits; }
INLINE void storeHalves(uint16_t* to, Rounded bits) {
  *(VectorHalves*)to = __builtin_convertvector(bits, VectorHalves);
}

#endif

// While an object lives, this thread's floating-point unit takes and gives denormal numbers as 0,
// as vdpbf16ps always does. One in every kernel: elsewhere denormals count.
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

// Where a product's operands lie, in words of 16 bits: as Operands of kernels_impl.h, with a pair
// for a step, and the distance of the second plane of each.
struct PairOperands {
  const uint16_t* rows;
  int64_t rowStride, stepStride, rowOuterStride, rowPlane;
  const uint16_t* vectors;
  int64_t vectorOuterStride, vectorPlane;
  int64_t outerSteps, steps;
  int terms;
};

// Prefetches memory a line at a time, spread over about so many steps of a product.
class Prefetcher {
 public:
  INLINE_MEMBER Prefetcher(Prefetch next, int64_t steps)
      : interval(next.lines ? steps / next.lines + 1 : steps + 1), at_((const char*)next.from), left_(next.lines) {}
  INLINE_MEMBER void fetch() {
    if (left_ <= 0) return;
    __builtin_prefetch(at_, 0, 2);
    at_ += 64;
    left_--;
  }

  const int64_t interval;  // steps from one line to the next

 private:
  const char* at_;
  int64_t left_;
};

// One block: for every term, for every outer step, for every pair: a row's pair broadcast × a
// panel's pairs.
template <int Rows, bool Accumulate, bool Scaled>
static __attribute__((noinline)) void multiplyPairs(const PairOperands& o, float* out, int64_t outStride,
                                                    const float* rowScale, const float* bias, Prefetcher& prefetcher) {
  Vector sum[Rows][pairVectors];
  UNROLL for (int r = 0; r < Rows; r++) UNROLL for (int v = 0; v < pairVectors; v++) sum[r][v] = (Vector){};
  // The output is wanted at the end of a long loop: ask for its lines now.
  UNROLL for (int r = 0; r < Rows; r++) {
    UNROLL for (int v = 0; v < pairVectors; v++) __builtin_prefetch(out + r * outStride + v * lanes, 1, 3);
  }
  const int64_t rowStride = o.rowStride, stepStride = o.stepStride, steps = o.steps;
  for (int term = 0; term < o.terms; term++) {
    const uint16_t* termRows = o.rows + (term == 2 ? o.rowPlane : 0);
    const uint16_t* termVectors = o.vectors + (term == 1 ? o.vectorPlane : 0);
    for (int64_t outer = 0; outer < o.outerSteps; outer++) {
      const uint16_t* rows = termRows + outer * o.rowOuterStride;
      const uint16_t* vectors = termVectors + outer * o.vectorOuterStride;
      // An inner loop without a branch between two prefetches.
      for (int64_t k = 0; k < steps;) {
        prefetcher.fetch();
        for (const int64_t end = k + prefetcher.interval < steps ? k + prefetcher.interval : steps; k < end; k++) {
          Pairs b[pairVectors];
          UNROLL for (int v = 0; v < pairVectors; v++) b[v] = pairs(loadBits(vectors + v * lanes * 2));
          UNROLL for (int r = 0; r < Rows; r++) {
            const Pairs a = pairs(loadWord(rows + r * rowStride));
            UNROLL for (int v = 0; v < pairVectors; v++) sum[r][v] = addProducts(sum[r][v], a, b[v]);
          }
          rows += stepStride;
          vectors += pairLanes * 2;
        }
      }
    }
  }
  UNROLL for (int r = 0; r < Rows; r++) {
    UNROLL for (int v = 0; v < pairVectors; v++) {
      Vector x = sum[r][v];
      if (Scaled) x *= broadcast(rowScale[r]);
      if (Scaled && bias) x += broadcast(bias[r]);
      if (Accumulate) x += load(out + r * outStride + v * lanes);
      store(out + r * outStride + v * lanes, x);
    }
  }
}

template <int Rows, bool Accumulate, bool Scaled>
static void multiplyPairsRest(int64_t rest, const PairOperands& o, float* out, int64_t outStride, const float* rowScale,
                              const float* bias, Prefetcher& prefetcher) {
  if constexpr (Rows > 0) {
    if (rest == Rows) multiplyPairs<Rows, Accumulate, Scaled>(o, out, outStride, rowScale, bias, prefetcher);
    else multiplyPairsRest<Rows - 1, Accumulate, Scaled>(rest, o, out, outStride, rowScale, bias, prefetcher);
  }
}

// All rows of a product against one panel, a block of rows at a time, and the last ones by a lower
// block.
template <bool Accumulate, bool Scaled>
INLINE void multiplyAllPairs(int64_t rows, PairOperands o, float* out, int64_t outStride, const float* rowScale,
                             const float* bias, Prefetcher& prefetcher) {
  int64_t r = 0;
  for (; r + pairRows <= rows; r += pairRows) {
    multiplyPairs<pairRows, Accumulate, Scaled>(o, out, outStride, rowScale, bias, prefetcher);
    o.rows += pairRows * o.rowStride;
    out += pairRows * outStride;
    if (Scaled) rowScale += pairRows;
    if (Scaled && bias) bias += pairRows;
  }
  if (r < rows)
    multiplyPairsRest<pairRows - 1, Accumulate, Scaled>(rows - r, o, out, outStride, rowScale, bias, prefetcher);
}

constexpr int terms(const PackedTile& packed) { return packed.planes == 2 ? 3 : 1; }

// For every panel of P rows, for every block of classes: pairs of dimensions.
static void pairLogits(const PackedTile& packed, int64_t dim, int64_t classes, const uint16_t* packedInput,
                       int64_t panels, const float* scale, const float* bias, float* tile, Prefetch next) {
  const FlushDenormals flush;
  Prefetcher prefetcher(next, panels * (panelLanes / pairLanes) * (classes / pairRows) * ((dim + 1) / 2));
  const int64_t dimPairs = (dim + 1) / 2, inputPlane = dimPairs * pairLanes * 2;
  for (int64_t p = 0; p < panels * (panelLanes / pairLanes); p++) {
    const PairOperands o{packed.weightRows,
                         packed.dimStride,
                         2,
                         0,
                         packed.weightRowsPlane,
                         packedInput + p * packed.planes * inputPlane,
                         0,
                         inputPlane,
                         1,
                         dimPairs,
                         terms(packed)};
    const int64_t lane = p * pairLanes;
    float* out = tile + lane / panelLanes * packed.tileStride * panelLanes + lane % panelLanes;
    multiplyAllPairs<false, true>(classes, o, out, panelLanes, scale, bias, prefetcher);
  }
}

// For every panel of P dimensions, for every block of classes: panels of L rows × pairs of rows.
static void pairWeightGradient(const PackedTile& packed, int64_t classes, int64_t panels,
                               const uint16_t* packedInputGradient, int64_t inputRows, int64_t dimPanels, float* out,
                               int64_t outStride, bool accumulate, Prefetch next) {
  const FlushDenormals flush;
  Prefetcher prefetcher(next, dimPanels * (classes / pairRows) * panels * (panelLanes / 2));
  const int64_t inputGradientPlane = inputRows * pairLanes;
  for (int64_t d = 0; d < dimPanels; d++) {
    const PairOperands o{packed.gradByClass,
                         panelLanes,
                         2,
                         packed.room * panelLanes,
                         packed.gradByClassPlane,
                         packedInputGradient + d * packed.planes * inputGradientPlane,
                         (int64_t)panelLanes * pairLanes,
                         inputGradientPlane,
                         panels,
                         panelLanes / 2,
                         terms(packed)};
    float* panelOut = out + d * pairLanes;
    if (accumulate) multiplyAllPairs<true, false>(classes, o, panelOut, outStride, nullptr, nullptr, prefetcher);
    else multiplyAllPairs<false, false>(classes, o, panelOut, outStride, nullptr, nullptr, prefetcher);
  }
}

// For every panel of P rows, for every 16 dimensions (a block of weightPairs): pairs of classes.
static void pairInputGradient(const PackedTile& packed, int64_t dim, int64_t classes, int64_t panels, float* out,
                              bool accumulate, Prefetch next) {
  const int64_t stepsRoom = packed.room / 2, steps = (classes + 1) / 2;
  const FlushDenormals flush;
  Prefetcher prefetcher(next, panels * (panelLanes / pairLanes) * (dim / pairRows) * steps);
  for (int64_t p = 0; p < panels * (panelLanes / pairLanes); p++) {
    const int64_t lane = p * pairLanes;
    float* panelOut = out + lane / panelLanes * dim * panelLanes + lane % panelLanes;
    for (int64_t d = 0; d < dim; d += 16) {
      const PairOperands o{packed.weightPairs + d * packed.room,
                           2,
                           32,
                           0,
                           packed.weightPairsPlane,
                           packed.gradByRow + p * stepsRoom * pairLanes * 2,
                           0,
                           packed.gradByRowPlane,
                           1,
                           steps,
                           terms(packed)};
      const int64_t rows = dim - d < 16 ? dim - d : 16;
      float* rowsOut = panelOut + d * panelLanes;
      if (accumulate) multiplyAllPairs<true, false>(rows, o, rowsOut, panelLanes, nullptr, nullptr, prefetcher);
      else multiplyAllPairs<false, false>(rows, o, rowsOut, panelLanes, nullptr, nullptr, prefetcher);
    }
  }
}

// Loads up to a vector of floats; zeros beyond `count`.
INLINE Vector loadFew(const float* from, int64_t count) {
  if (count >= lanes) return load(from);
  float few[lanes] = {};
  for (int64_t i = 0; i < count; i++) few[i] = from[i];
  return load(few);
}

// Rounds two vectors that make pairs and calls body(first's bits, second's bits, plane): for plane
// 0 and, with two planes, for what rounding left.
template <class Body>
INLINE void forPlanes(Vector first, Vector second, int planes, const Body& body) {
  const Rounded a = rounded(first), b = rounded(second);
  body(a, b, 0);
  if (planes == 2) body(rounded(first - (Vector)(lower(a) << 16)), rounded(second - (Vector)(lower(b) << 16)), 1);
}

// For every pair of classes, for every vector of dimensions: both rows as they lie to weightRows,
// and interleaved to weightPairs. A last class without a partner is paired with zeros.
static void packWeights(const float* weight, int64_t dim, int64_t classes, const PackedTile& packed) {
  for (int64_t j = 0; j < classes; j += 2) {
    const float* w = weight + j * dim;
    const bool both = j + 1 < classes;
    uint16_t* rows = packed.weightRows ? packed.weightRows + j * packed.dimStride : nullptr;
    uint16_t* columns = packed.weightPairs ? packed.weightPairs + j * 16 : nullptr;
    for (int64_t d = 0; d < packed.dimStride; d += lanes) {
      const int64_t count = dim - d;
      forPlanes(loadFew(w + d, count), both ? loadFew(w + dim + d, count) : (Vector){}, packed.planes,
                [&](Rounded a, Rounded b, int plane) __attribute__((always_inline)) {
                  if (rows) {
                    storeHalves(rows + plane * packed.weightRowsPlane + d, a);
                    storeHalves(rows + plane * packed.weightRowsPlane + packed.dimStride + d, b);
                  }
                  if (columns)
                    storeBits(columns + plane * packed.weightPairsPlane + d / 16 * 16 * packed.room + d % 16 * 2,
                              lower(a) | lower(b) << 16);
                });
    }
  }
}

// For every panel of L rows, for every pair of classes, for every vector of rows: both classes as
// they lie to gradByClass, and interleaved to gradByRow.
static void packGradient(const float* gradient, int64_t classes, int64_t panels, const PackedTile& packed) {
  for (int64_t p = 0; p < panels; p++) {
    for (int64_t j = 0; j < classes; j += 2) {
      const float* g = gradient + (p * packed.tileStride + j) * panelLanes;
      const bool both = j + 1 < classes;
      uint16_t* gradByClass = packed.gradByClass ? packed.gradByClass + (p * packed.room + j) * panelLanes : nullptr;
      for (int v = 0; v < panelLanes; v += lanes) {
        const int64_t panel = (p * panelLanes + v) / pairLanes;
        uint16_t* gradByRow = packed.gradByRow ? packed.gradByRow + (panel * packed.room + j) * pairLanes : nullptr;
        forPlanes(load(g + v), both ? load(g + panelLanes + v) : (Vector){}, packed.planes,
                  [&](Rounded a, Rounded b, int plane) __attribute__((always_inline)) {
                    if (gradByClass) {
                      storeHalves(gradByClass + plane * packed.gradByClassPlane + v, a);
                      storeHalves(gradByClass + plane * packed.gradByClassPlane + panelLanes + v, b);
                    }
                    if (gradByRow)
                      storeBits(gradByRow + plane * packed.gradByRowPlane + v % pairLanes * 2, lower(a) | lower(b)
                                                                                                              << 16);
                  });
      }
    }
  }
}

constexpr Bfloat16Kernels bfloat16Kernels = {nativePairs, pairLanes,          packWeights,      packGradient,
                                             pairLogits,  pairWeightGradient, pairInputGradient};

}  // namespace
