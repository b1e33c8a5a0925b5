// The inner loops of the backward products over a list of rows (parts.h): the rows that matter to a class tile stand
// side by side in a tile of their own, [panel][tileStride][L] as ever, and rows[k] says where in the chunk row k lies.
// Every output element is one chain of fused multiply-adds, in the order of the rows or of the classes.
#pragma once
#include "simd.h"

namespace {

constexpr int blockRows = BLOCK_ROWS;
constexpr int blockVectors = BLOCK_VECTORS;
constexpr int panelLanes = blockVectors * lanes;
static_assert(64 % panelLanes == 0, "row chunks are multiples of 64 rows");

// As `probabilities` without smoothing, on the first `count` lanes (rounded up to whole vectors) of a tile; in place.
static void activeProbabilities(float* tile, long tileStride, long classes, long count, const float* maxima,
                                const float* factors, const float* scale) {
  for (long k = 0; k < count; k += lanes) {
    const Vector most = load(maxima + k), factor = load(factors + k);
    float* column = tile + k / panelLanes * tileStride * panelLanes + k % panelLanes;
    for (long j = 0; j < classes; j++, column += panelLanes) {
      const Vector p = exponential<false>(load(column) - most);
      store(column, (p * factor) * broadcast(scale[j]));
    }
  }
}

template <int Rows, bool Accumulate>
static __attribute__((noinline)) void activeWeightBlock(const float* gradient, long panelStride, const int32_t* rows,
                                                        long count, const float* value, float* out, long outStride) {
  Vector sum[Rows][blockVectors];
  UNROLL for (int r = 0; r < Rows; r++) UNROLL for (int v = 0; v < blockVectors; v++) sum[r][v] = (Vector){};
  for (long first = 0; first < count; first += panelLanes, gradient += panelStride, rows += panelLanes) {
    const long steps = count - first < panelLanes ? count - first : panelLanes;
    for (long k = 0; k < steps; k++) {
      const float* vectors = value + (long)rows[k] * panelLanes;
      Vector b[blockVectors];
      UNROLL for (int v = 0; v < blockVectors; v++) b[v] = load(vectors + v * lanes);
      UNROLL for (int r = 0; r < Rows; r++) {
        const Vector a = broadcast(gradient[r * panelLanes + k]);
        UNROLL for (int v = 0; v < blockVectors; v++) sum[r][v] += a * b[v];
      }
    }
  }
  UNROLL for (int r = 0; r < Rows; r++) {
    UNROLL for (int v = 0; v < blockVectors; v++) {
      Vector x = sum[r][v];
      if (Accumulate) x += load(out + r * outStride + v * lanes);
      store(out + r * outStride + v * lanes, x);
    }
  }
}

template <int Rows, bool Accumulate>
static void activeWeightRest(long rest, const float* gradient, long panelStride, const int32_t* rows, long count,
                             const float* value, float* out, long outStride) {
  if constexpr (Rows > 0) {
    if (rest == Rows) activeWeightBlock<Rows, Accumulate>(gradient, panelStride, rows, count, value, out, outStride);
    else activeWeightRest<Rows - 1, Accumulate>(rest, gradient, panelStride, rows, count, value, out, outStride);
  }
}

template <bool Accumulate>
INLINE void activeWeightAll(const float* gradient, long tileStride, long classes, const int32_t* rows, long count,
                            const float* value, long valueRows, long dimPanels, float* out) {
  const long outStride = dimPanels * panelLanes, panelStride = tileStride * panelLanes;
  for (long d = 0; d < dimPanels; d++) {
    const float* values = value + d * valueRows * panelLanes;
    float* block = out + d * panelLanes;
    long j = 0;
    for (; j + blockRows <= classes; j += blockRows)
      activeWeightBlock<blockRows, Accumulate>(gradient + j * panelLanes, panelStride, rows, count, values,
                                               block + j * outStride, outStride);
    activeWeightRest<blockRows - 1, Accumulate>(classes - j, gradient + j * panelLanes, panelStride, rows, count,
                                                values, block + j * outStride, outStride);
  }
}

static void activeWeightGradient(const float* gradient, long tileStride, long classes, const int32_t* rows, long count,
                                 const float* value, long valueRows, long dimPanels, float* out, bool accumulate) {
  if (accumulate) activeWeightAll<true>(gradient, tileStride, classes, rows, count, value, valueRows, dimPanels, out);
  else activeWeightAll<false>(gradient, tileStride, classes, rows, count, value, valueRows, dimPanels, out);
}

// out[rows[r]][0 … Vectors·lanes) += Σ_j gradient[j][r] · weight[j][…]
template <int Rows, int Vectors>
static __attribute__((noinline)) void activeInputBlock(const float* gradient, const float* weight, long dim,
                                                       long classes, const int32_t* rows, float* out) {
  Vector sum[Rows][Vectors];
  UNROLL for (int r = 0; r < Rows; r++) UNROLL for (int v = 0; v < Vectors; v++) sum[r][v] = (Vector){};
  for (long j = 0; j < classes; j++) {
    Vector b[Vectors];
    UNROLL for (int v = 0; v < Vectors; v++) b[v] = load(weight + v * lanes);
    UNROLL for (int v = 0; v < Vectors; v++) __builtin_prefetch(weight + 4 * dim + v * lanes);
    UNROLL for (int r = 0; r < Rows; r++) {
      const Vector a = broadcast(gradient[r]);
      UNROLL for (int v = 0; v < Vectors; v++) sum[r][v] += a * b[v];
    }
    gradient += panelLanes;
    weight += dim;
  }
  UNROLL for (int r = 0; r < Rows; r++) {
    float* row = out + rows[r] * dim;
    UNROLL for (int v = 0; v < Vectors; v++) store(row + v * lanes, load(row + v * lanes) + sum[r][v]);
  }
}

template <int Rows, int Vectors>
static void activeInputRest(long rest, const float* gradient, const float* weight, long dim, long classes,
                            const int32_t* rows, float* out) {
  if constexpr (Rows > 0) {
    if (rest == Rows) activeInputBlock<Rows, Vectors>(gradient, weight, dim, classes, rows, out);
    else activeInputRest<Rows - 1, Vectors>(rest, gradient, weight, dim, classes, rows, out);
  }
}

template <int Vectors>
INLINE void activeInputColumns(const float* gradient, long tileStride, const float* weight, long dim, long classes,
                               const int32_t* rows, long count, float* out) {
  for (long first = 0; first < count; first += panelLanes, gradient += tileStride * panelLanes, rows += panelLanes) {
    const long here = count - first < panelLanes ? count - first : panelLanes;
    long r = 0;
    for (; r + blockRows <= here; r += blockRows)
      activeInputBlock<blockRows, Vectors>(gradient + r, weight, dim, classes, rows + r, out);
    activeInputRest<blockRows - 1, Vectors>(here - r, gradient + r, weight, dim, classes, rows + r, out);
  }
}

static void activeInputGradient(const float* weight, long dim, long classes, const float* gradient, long tileStride,
                                const int32_t* rows, long count, float* out) {
  long d = 0;
  for (; d + panelLanes <= dim; d += panelLanes)
    activeInputColumns<blockVectors>(gradient, tileStride, weight + d, dim, classes, rows, count, out + d);
  for (; d + lanes <= dim; d += lanes)
    activeInputColumns<1>(gradient, tileStride, weight + d, dim, classes, rows, count, out + d);
  for (; d < dim; d++)
    for (long k = 0; k < count; k++) {
      const float* column = gradient + k / panelLanes * tileStride * panelLanes + k % panelLanes;
      float sum = 0;
      for (long j = 0; j < classes; j++) sum = fused(column[j * panelLanes], weight[j * dim + d], sum);
      out[rows[k] * dim + d] += sum;
    }
}

}  // namespace
