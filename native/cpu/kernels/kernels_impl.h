// The inner loops, written once. Each kernels_<instruction set>.cc compiles them with its own
// flags.
//
// One microkernel serves all three matrix products: a block of BLOCK_ROWS × BLOCK_VECTORS
// accumulators in registers, rows broadcast in place, vectors streamed from a packed panel.
//
//                   vectors of B, BLOCK_VECTORS a step
//                   ┌────┬────┬────┬────┐
//   rows of A       │    │    │    │    │ ← step k
//   ┌───┐           ├────┼────┼────┼────┤
//   │ a │ broadcast │ += │ += │ += │ += │   accumulators: row r, vector v
//   │ a │ broadcast │ += │ += │ += │ += │
//   └───┘           └────┴────┴────┴────┘
//
// Every output element is one chain of fused multiply-adds in k order, whatever the block and the
// vector width. Splitting k over several accumulators would break the equal bits of all instruction
// sets.
#pragma once
#include "few_rows_impl.h"
#include "kernels.h"
#include "narrow_impl.h"
#include "probability_impl.h"
#include "simd.h"
#include "softmax_impl.h"
#include "sparse_impl.h"
#include "storage_impl.h"
#if defined(BFLOAT16_TILES)
#include "amx_impl.h"
#else
#include "bfloat16_impl.h"
#endif

namespace {

using margin_softmax::adamWElement;
using margin_softmax::AdamWStep;
using margin_softmax::sgdElement;
using margin_softmax::SgdStep;
using margin_softmax::cpu::Kernels;
using margin_softmax::cpu::Prefetch;
using margin_softmax::cpu::ProcessorFeatures;
static_assert(margin_softmax::cpu::maxLanes % panelLanes == 0, "chunks of rows are multiples of maxLanes");
namespace features = margin_softmax::cpu::features;

// The places of a product's operands: A[r][k] = rows[r·rowStride + k·stepStride], and row k of B's
// panel begins at vectors + k·panelLanes. The k loop has two levels, outerSteps × steps, because in
// weightGradient k runs over the rows of a tile, which is cut in panels.
//
//   product          A, rows            k                    B, vectors
//   logits           weights            dimensions           packedInput
//   weightGradient   gradient           panels × rows        packedInputGradient
//   inputGradient    weights, as Aᵀ     classes              gradient
struct Operands {
  const float* rows;
  int64_t rowStride, stepStride, rowOuterStride;
  const float* vectors;
  int64_t vectorOuterStride;
  int64_t outerSteps, steps;
};

enum class Form {
  scaled,      // out[r][v] = rowScale[r]·Σ + bias[r]
  plain,       // out[r][v] = Σ, or += Σ
  neighbours,  // as plain, with rowStride 1: the rows of A lie side by side, and each step fetches a new cache line
};

// The bytes that a product prefetches, the same number of bytes at each of its `steps`: counting the steps to
// the next line would cost more.
struct Ahead {
  const char* at;
  int64_t advance;  // 0: nothing
  INLINE_MEMBER Ahead(Prefetch next, int64_t steps)
      : at((const char*)next.from), advance(next.lines && steps ? (next.lines * 64 + steps - 1) / steps : 0) {}
};

template <bool Value>
struct Constant {
  static constexpr bool value = Value;
};

// One block: Rows × blockVectors outputs over all k. Not inlined: the accumulators need all registers.
template <int Rows, bool Accumulate, Form form>
static __attribute__((noinline)) void multiply(const Operands& o, float* out, int64_t outStride, const float* rowScale,
                                               const float* bias, Ahead& ahead) {
  Vector sum[Rows][blockVectors];
  UNROLL for (int r = 0; r < Rows; r++) UNROLL for (int v = 0; v < blockVectors; v++) sum[r][v] = (Vector){};
  constexpr bool scaled = form == Form::scaled;
  const int64_t rowStride = form == Form::neighbours ? 1 : o.rowStride, stepStride = o.stepStride, steps = o.steps;
  // Sums that many rows share have left the caches near by.
  if (Accumulate) {
    UNROLL for (int r = 0; r < Rows; r++) {
      UNROLL for (int v = 0; v < blockVectors; v++) __builtin_prefetch(out + r * outStride + v * lanes, 1, 3);
    }
  }
  const auto run = [&](auto prefetches) __attribute__((always_inline)) {
    const char* next = ahead.at;
    const int64_t advance = ahead.advance;
    for (int64_t outer = 0; outer < o.outerSteps; outer++) {
      const float* rows = o.rows + outer * o.rowOuterStride;
      const float* vectors = o.vectors + outer * o.vectorOuterStride;
      for (int64_t k = 0; k < steps; k++) {
        Vector b[blockVectors];
        UNROLL for (int v = 0; v < blockVectors; v++) b[v] = load(vectors + v * lanes);
        UNROLL for (int r = 0; r < Rows; r++) {
          const Vector a = broadcast(rows[r * rowStride]);
          UNROLL for (int v = 0; v < blockVectors; v++) sum[r][v] += a * b[v];
        }
        // Each step reads another row of weights, too far apart for the hardware prefetcher: without
        // these two the product takes a fifth longer. The block's first and last row may lie on two
        // cache lines.
        if (form == Form::neighbours) {
          __builtin_prefetch(rows + 8 * stepStride);
          __builtin_prefetch(rows + 8 * stepStride + Rows - 1);
        }
        if constexpr (decltype(prefetches)::value) {
          __builtin_prefetch(next, 0, 2);
          next += advance;
        }
        rows += stepStride;
        vectors += panelLanes;
      }
    }
    if constexpr (decltype(prefetches)::value) ahead.at = next;
  };
  // Two copies of the loop, because a prefetch of nothing would cost what one of something does.
  // The last rows of a product are too few to need it.
  if constexpr (Rows == blockRows) {
    if (ahead.advance) run(Constant<true>{});
    else run(Constant<false>{});
  } else {
    run(Constant<false>{});
  }
  UNROLL for (int r = 0; r < Rows; r++) {
    UNROLL for (int v = 0; v < blockVectors; v++) {
      Vector x = sum[r][v];
      if (scaled) x *= broadcast(rowScale[r]);
      if (scaled && bias) x += broadcast(bias[r]);
      if (Accumulate) x += load(out + r * outStride + v * lanes);
      store(out + r * outStride + v * lanes, x);
    }
  }
}

// The last rows of a product: finds the block of exactly `rest` ≤ Rows rows.
template <int Rows, bool Accumulate, Form form>
static void multiplyRest(int64_t rest, const Operands& o, float* out, int64_t outStride, const float* rowScale,
                         const float* bias, Ahead& ahead) {
  if constexpr (Rows > 0) {
    if (rest == Rows) multiply<Rows, Accumulate, form>(o, out, outStride, rowScale, bias, ahead);
    else multiplyRest<Rows - 1, Accumulate, form>(rest, o, out, outStride, rowScale, bias, ahead);
  }
}

// All rows of a product against one panel, a block of rows at a time. The panel stays in the cache.
template <bool Accumulate, Form form>
INLINE void multiplyAll(int64_t rows, Operands o, float* out, int64_t outStride, const float* rowScale,
                        const float* bias, Ahead& ahead) {
  int64_t r = 0;
  for (; r + blockRows <= rows; r += blockRows) {
    multiply<blockRows, Accumulate, form>(o, out, outStride, rowScale, bias, ahead);
    o.rows += blockRows * o.rowStride;
    out += blockRows * outStride;
    if (form == Form::scaled) rowScale += blockRows;
    if (form == Form::scaled && bias) bias += blockRows;
  }
  if (r < rows) multiplyRest<blockRows - 1, Accumulate, form>(rows - r, o, out, outStride, rowScale, bias, ahead);
}

static void logits(const float* weight, int64_t dim, int64_t classes, const float* packedInput, int64_t panels,
                   const float* scale, const float* bias, float* tile, int64_t tileStride, Prefetch next) {
  Ahead ahead(next, panels * (classes / blockRows) * dim);
  for (int64_t p = 0; p < panels; p++) {
    const Operands o{weight, dim, 1, 0, packedInput + p * dim * panelLanes, 0, 1, dim};
    multiplyAll<false, Form::scaled>(classes, o, tile + p * tileStride * panelLanes, panelLanes, scale, bias, ahead);
  }
}

// For every panel of dimensions, for every block of classes: k over all rows of the chunk, panel by
// panel.
static void weightGradient(const float* gradient, int64_t tileStride, int64_t classes, int64_t panels,
                           const float* packedInputGradient, int64_t inputRows, int64_t dimPanels, float* out,
                           bool accumulate, Prefetch next) {
  Ahead ahead(next, dimPanels * (classes / blockRows) * panels * panelLanes);
  const int64_t outStride = dimPanels * panelLanes;
  for (int64_t d = 0; d < dimPanels; d++) {
    const Operands o{gradient,
                     panelLanes,
                     1,
                     tileStride * panelLanes,
                     packedInputGradient + d * inputRows * panelLanes,
                     (int64_t)panelLanes * panelLanes,
                     panels,
                     panelLanes};
    float* panelOut = out + d * panelLanes;
    if (accumulate) multiplyAll<true, Form::plain>(classes, o, panelOut, outStride, nullptr, nullptr, ahead);
    else multiplyAll<false, Form::plain>(classes, o, panelOut, outStride, nullptr, nullptr, ahead);
  }
}

// For every panel of rows, for every block of dimensions: k over the tile's classes. The weights
// are read as they lie, a block of dimensions from each class's row.
static void inputGradient(const float* weight, int64_t dim, int64_t classes, const float* gradient, int64_t tileStride,
                          int64_t panels, float* out, bool accumulate, Prefetch next) {
  Ahead ahead(next, panels * (dim / blockRows) * classes);
  for (int64_t p = 0; p < panels; p++) {
    const Operands o{weight, 1, dim, 0, gradient + p * tileStride * panelLanes, 0, 1, classes};
    float* panelOut = out + p * dim * panelLanes;
    if (accumulate) multiplyAll<true, Form::neighbours>(dim, o, panelOut, panelLanes, nullptr, nullptr, ahead);
    else multiplyAll<false, Form::neighbours>(dim, o, panelOut, panelLanes, nullptr, nullptr, ahead);
  }
}

static void squares(const float* rows, int64_t n, int64_t count, float* out) {
  for (int64_t j = 0; j < count; j++) out[j] = dot(rows + j * n, rows + j * n, n);
}

// Eight chains whatever the vector width. A product of two floats is exact in a double.
static double dotDouble(const float* a, const float* b, int64_t n) {
  double sum[8] = {};
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) UNROLL for (int l = 0; l < 8; l++) sum[l] += (double)a[i + l] * b[i + l];
  for (; i < n; i++) sum[i & 7] += (double)a[i] * b[i];
  return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
}

static void addScaled(float* out, const float* a, float factor, const float* b, int64_t n, bool stream) {
  const Vector f = broadcast(factor);
  int64_t i = 0;
  if (stream) {
    // Streaming stores need aligned addresses: single elements up to the first.
    for (; i < n && (uintptr_t)(out + i) % VECTOR_BYTES != 0; i++) out[i] = fused(factor, b[i], a[i]);
    for (; i + lanes <= n; i += lanes) storeStream(out + i, load(b + i) * f + load(a + i));
  }
  for (; i + lanes <= n; i += lanes) store(out + i, load(b + i) * f + load(a + i));
  for (; i < n; i++) out[i] = fused(factor, b[i], a[i]);
}

static void scaled(float* out, const float* a, float factor, int64_t n) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(out + i, load(a + i) * broadcast(factor));
  for (; i < n; i++) out[i] = a[i] * factor;
}

static void accumulate(float* sum, const float* term, int64_t n) {
  int64_t i = 0;
  for (; i + lanes <= n; i += lanes) store(sum + i, load(sum + i) + load(term + i));
  for (; i < n; i++) sum[i] += term[i];
}

static void axpby(float* out, bool keep, double alpha, const float* a, double beta, const float* b, int64_t n) {
  if (keep)
    for (int64_t i = 0; i < n; i++)
      out[i] = (float)fused(beta, (double)b[i], fused(alpha, (double)a[i], (double)out[i]));
  else
    for (int64_t i = 0; i < n; i++) out[i] = (float)fused(beta, (double)b[i], alpha * a[i]);
}

// Updates are written per element, and the compiler vectorizes them. No element depends on another,
// so the width changes no bit.
struct Fused {
  INLINE_MEMBER float operator()(float a, float b, float c) const { return fused(a, b, c); }
};

static void sgd(float* weight, float* momentum, const float* gradient, int64_t n, const SgdStep& settings) {
  const SgdStep step = settings;  // a local copy: a store through a float* might change the original
  if (momentum)
    for (int64_t i = 0; i < n; i++) weight[i] = sgdElement(weight[i], gradient[i], momentum[i], step, Fused{});
  else
    for (int64_t i = 0; i < n; i++) weight[i] = sgdElement(weight[i], gradient[i], step, Fused{});
}

static void adamW(float* weight, float* first, float* second, const float* gradient, int64_t n,
                  const AdamWStep& settings) {
  const AdamWStep step = settings;
  for (int64_t i = 0; i < n; i++) weight[i] = adamWElement(weight[i], gradient[i], first[i], second[i], step, Fused{});
}

static float multiplyAdds(int64_t rounds) {
  Vector sum[12];
  UNROLL for (int r = 0; r < 12; r++) sum[r] = broadcast((float)r);
  float factor = -0.999f, term = 0.5f;
  asm volatile("" : "+m"(factor), "+m"(term));  // unknown to the compiler, which would fold the chains away
  const Vector a = broadcast(factor), b = broadcast(term);
  for (int64_t k = 0; k < rounds; k++) UNROLL for (int r = 0; r < 12; r++) sum[r] = sum[r] * a + b;
  Vector total = {};
  UNROLL for (int r = 0; r < 12; r++) total += sum[r];
  return total[0];
}

constexpr Kernels makeKernels(const char* name, const ProcessorFeatures& needs, bool forTests = false) {
  return Kernels{name,
                 needs,
                 forTests,
                 panelLanes,
                 fewRows,
                 VECTOR_BYTES,
                 dot,
                 squares,
                 dotDouble,
                 logits,
                 logitsOfFew,
                 logSumExp,
                 tileSum,
                 tileMaximum,
                 maskAbove,
                 scoreKeys,
                 probabilities,
                 weightGradient,
                 inputGradient,
                 narrowLogits,
                 narrowInputGradient,
                 filterInput,
                 filterWeight,
                 listClasses,
                 listRows,
                 sumRows,
                 addScaled,
                 scaled,
                 accumulate,
                 axpby,
                 sgd,
                 adamW,
                 widen,
                 roundStochastically,
                 multiplyAdds,
                 &probabilityKernels,
                 &bfloat16Kernels};
}

}  // namespace
