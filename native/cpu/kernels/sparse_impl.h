// The inner loops of the filtered backward products (negligible.h): probabilities without
// negligible terms, lists of the terms that remain, sums of the listed rows. The rows that may
// matter to a tile of classes lie side by side in a tile of their own, [panel][tileStride][L].
#pragma once
#include "kernels.h"
#include "simd.h"

namespace {

using margin_softmax::cpu::Prefetch;
using margin_softmax::cpu::Term;
using margin_softmax::cpu::TermLists;

// filterInput and filterWeight compute `probabilities` without smoothing, on the first `count`
// lanes of a tile, rounded up to whole vectors. With u = cost·P, terms below the limit become 0.
// NaN stays: u < limit is false.
//
// For gradInput: skipped[lane] = Σ u of those. With it goes the account for gradWeight, where
// u·scale[j] counts: skippedOfClasses[j][16 lanes] += what is below weightLimit.
static void filterInput(const float* tile, float* out, int64_t tileStride, int64_t classes, int64_t count,
                        const float* maxima, const float* factors, const float* scale, const float* costs, float limit,
                        float* skipped, float weightLimit, float* skippedOfClasses) {
  const Vector least = broadcast(limit), leastWeight = broadcast(weightLimit), zero = {};
  for (int64_t k = 0; k < count; k += lanes) {
    const Vector most = load(maxima + k), factor = load(factors + k), cost = load(costs + k);
    Vector lost = {};
    const int64_t at = k / panelLanes * tileStride * panelLanes + k % panelLanes;
    const float* column = tile + at;
    float* to = out + at;
    float* lostHere = skippedOfClasses + k % 16;
    for (int64_t j = 0; j < classes; j++, column += panelLanes, to += panelLanes, lostHere += 16) {
      const Vector s = broadcast(scale[j]), p = exponential<false>(load(column) - most) * factor;
      const Vector u = p * cost, w = u * s;
      lost += u < least ? u : zero;
      store(to, u < least ? zero : p * s);
      store(lostHere, load(lostHere) + (w < leastWeight ? w : zero));
    }
    store(skipped + k, lost);
  }
}

// For gradWeight, where u·scale[j] counts.
static void filterWeight(const float* tile, float* out, int64_t tileStride, int64_t classes, int64_t count,
                         const float* maxima, const float* factors, const float* scale, const float* costs,
                         float limit) {
  const Vector least = broadcast(limit), zero = {};
  for (int64_t k = 0; k < count; k += lanes) {
    const Vector most = load(maxima + k), factor = load(factors + k), cost = load(costs + k);
    const int64_t at = k / panelLanes * tileStride * panelLanes + k % panelLanes;
    const float* column = tile + at;
    float* to = out + at;
    for (int64_t j = 0; j < classes; j++, column += panelLanes, to += panelLanes) {
      const Vector s = broadcast(scale[j]), p = exponential<false>(load(column) - most) * factor;
      store(to, p * cost * s < least ? zero : p * s);
    }
  }
}

// Bit l of the result: whether lane l < count of a class in a panel is not 0.
INLINE uint64_t presentLanes(const float* lane, int64_t count) {
  uint64_t present = 0;
  for (int64_t k = 0; k < count; k += lanes) present |= (uint64_t)notZero(load(lane + k)) << k;
  return count < 64 ? present & (((uint64_t)1 << count) - 1) : present;
}

// For every class of a panel, for every lane that is not 0: appends the class to the lane's list.
// Walking the set bits skips lanes without a term, which are most.
static void listClasses(const float* panel, int64_t classes, const TermLists& lists) {
  for (int64_t l = 0; l < lists.count; l++) lists.lengths[l] = 0;
  for (int64_t j = 0; j < classes; j++, panel += panelLanes)
    for (uint64_t present = presentLanes(panel, lists.count); present; present &= present - 1) {
      const int64_t l = __builtin_ctzll(present);
      lists.terms[l * lists.stride + lists.lengths[l]++] = {panel[l], (int32_t)j};
    }
}

// For every panel of one class, for every lane that is not 0: appends the row to the class's list.
static int64_t listRows(const float* tile, int64_t tileStride, int64_t count, const float* factors,
                        const int32_t* places, Term* terms) {
  const Term* const begin = terms;
  for (int64_t from = 0; from < count; from += panelLanes, tile += tileStride * panelLanes) {
    const int64_t here = count - from < panelLanes ? count - from : panelLanes;
    for (uint64_t present = presentLanes(tile, here); present; present &= present - 1) {
      const int64_t l = __builtin_ctzll(present);
      *terms++ = {tile[l] * factors[from + l], places[from + l]};
    }
  }
  return terms - begin;
}

using margin_softmax::cpu::columnBlock;
constexpr int sumVectors = columnBlock / lanes < 8 ? columnBlock / lanes : 8;

// out[Vectors·lanes] (+)= Σ coefficient·row over a list, with all sums in registers.
template <int Vectors>
INLINE void sumColumns(float* out, bool keep, const float* rows, int64_t stride, const Term* terms, int64_t count) {
  Vector sum[Vectors];
  UNROLL for (int v = 0; v < Vectors; v++) sum[v] = (Vector){};
  for (int64_t k = 0; k < count; k++) {
    const Vector a = broadcast(terms[k].coefficient);
    const float* row = rows + terms[k].row * stride;
    asm("" : "+r"(row));  // hides the address: GCC would keep one for each vector, more than it has registers
    UNROLL for (int v = 0; v < Vectors; v++) sum[v] += a * load(row + v * lanes);
  }
  UNROLL for (int v = 0; v < Vectors; v++) {
    if (keep) sum[v] += load(out + v * lanes);
    store(out + v * lanes, sum[v]);
  }
}

// Prefetches the turn-th of `turns` equal slices, so that all lines are on their way when the last
// list is done.
INLINE void prefetchSlice(const Prefetch* next, int count, int64_t turn, int64_t turns) {
  for (int i = 0; i < count; i++)
    for (int64_t line = next[i].lines * turn / turns; line < next[i].lines * (turn + 1) / turns; line++)
      __builtin_prefetch(static_cast<const char*>(next[i].from) + line * 64, 0, 2);
}

// For every column block, for every list: the sums of its rows over the block's columns, up to 8
// vectors at a time, then single vectors, then single elements.
static void sumRows(const TermLists& lists, const float* blocks, int64_t rows, int64_t n, float* out, int64_t outStride,
                    const int32_t* outRows, bool keep, const Prefetch* next, int nextCount) {
  int64_t turn = 0;
  const int64_t turns = (n + columnBlock - 1) / columnBlock * lists.count;
  for (int64_t first = 0; first < n; first += columnBlock, blocks += rows * columnBlock) {
    const int64_t width = n - first < columnBlock ? n - first : columnBlock;
    for (int64_t l = 0; l < lists.count; l++) {
      prefetchSlice(next, nextCount, turn++, turns);
      const int64_t length = lists.lengths[l];
      if (keep && length == 0) continue;
      const Term* terms = lists.terms + l * lists.stride;
      float* to = out + (outRows ? outRows[l] : l) * outStride + first;
      int64_t d = 0;
      for (; d + sumVectors * lanes <= width; d += sumVectors * lanes)
        sumColumns<sumVectors>(to + d, keep, blocks + d, width, terms, length);
      for (; d + lanes <= width; d += lanes) sumColumns<1>(to + d, keep, blocks + d, width, terms, length);
      for (; d < width; d++) {
        float sum = 0;
        for (int64_t k = 0; k < length; k++) sum = fused(terms[k].coefficient, blocks[terms[k].row * width + d], sum);
        to[d] = keep ? to[d] + sum : sum;
      }
    }
  }
}

}  // namespace
