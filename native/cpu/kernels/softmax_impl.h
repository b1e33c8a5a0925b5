// The inner loops over the logits of a tile: log-sum-exp, sums, maxima, masks, score keys, and the
// probabilities. All are vertical: a vector holds lanes of rows and walks down the tile's classes,
// so no sum crosses lanes.
#pragma once
#include "kernels.h"
#include "negative_impl.h"
#include "simd.h"

namespace {

// For every vector of lanes, calls body(its column in the tile, its index in a [panel][L] array). A
// column's classes lie panelLanes floats apart.
template <class Body>
INLINE void forColumns(const float* tile, int64_t tileStride, int64_t panels, const Body& body) {
  for (int64_t p = 0; p < panels; p++)
    for (int v = 0; v < panelLanes; v += lanes) body(tile + p * tileStride * panelLanes + v, p * panelLanes + v);
}

// Two chains, because one would wait for each comparison. Maxima are exact, so their order changes
// no bit.
template <class Negatives>
INLINE Vector columnMaximum(const float* column, int64_t classes, const Negatives& negatives) {
  Vector even = negatives.logit(load(column)), odd = even;
  int64_t j = 1;
  for (; j + 2 <= classes; j += 2) {
    even = maximum(even, negatives.logit(load(column + j * panelLanes)));
    odd = maximum(odd, negatives.logit(load(column + (j + 1) * panelLanes)));
  }
  if (j < classes) even = maximum(even, negatives.logit(load(column + j * panelLanes)));
  return maximum(even, odd);
}

template <class Negatives>
INLINE void logSumExpOf(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                        const NegativeRows& rows, float* maxima, float* sums, float* masses, int64_t massStride) {
  // exponential<false> gives 0 below e^-87.33 of the maximum. A mass is an upper bound, so it adds
  // what all those classes could have held.
  const Vector unseen = broadcast((float)classes * 1.3e-38f);
  forColumns(tile, tileStride, panels, [&](const float* column, int64_t at) __attribute__((always_inline)) {
    const Negatives negatives(rows, at);
    const Vector before = load(maxima + at);
    const Vector now = maximum(columnMaximum(column, classes, negatives), before);
    // Even and odd classes in two chains, on every instruction set: one chain, or four, would
    // change the bits.
    Vector even = {}, odd = {};
    int64_t j = 0;
    for (; j + 2 <= classes; j += 2) {
      even += exponential<false>(negatives.logit(load(column + j * panelLanes)) - now);
      odd += exponential<false>(negatives.logit(load(column + (j + 1) * panelLanes)) - now);
    }
    if (j < classes) even += exponential<false>(negatives.logit(load(column + j * panelLanes)) - now);
    store(sums + at, load(sums + at) * exponential<false>(before - now) + (even + odd));
    store(maxima + at, now);
    if (!masses) return;
    const Vector mass = logarithm<float>(even + odd + unseen), log = mass + now;
    // 3e-7 of each term covers the rounding of the sum, the logarithm and the addition.
    const Vector slack = maximum(mass, -mass) + maximum(now, -now);
    store(masses + at / panelLanes * massStride + at % panelLanes, log + slack * broadcast(3e-7f));
  });
}

static void logSumExp(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                      const NegativeRows& negatives, float* maxima, float* sums, float* masses, int64_t massStride) {
  const auto compute = negatives.threshold ? logSumExpOf<Transformed> : logSumExpOf<AsTheyAre>;
  compute(tile, tileStride, classes, panels, negatives, maxima, sums, masses, massStride);
}

template <class Negatives>
INLINE void tileSumOf(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, const NegativeRows& rows,
                      const float* shares, float* out) {
  forColumns(tile, tileStride, panels, [&](const float* column, int64_t at) __attribute__((always_inline)) {
    const Negatives negatives(rows, at);
    Vector sum = {};
    for (int64_t j = 0; j < classes; j++) sum += negatives.logit(load(column + j * panelLanes)) * broadcast(shares[j]);
    store(out + at, sum);
  });
}

static void tileSum(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                    const NegativeRows& negatives, const float* shares, float* out) {
  const auto compute = negatives.threshold ? tileSumOf<Transformed> : tileSumOf<AsTheyAre>;
  compute(tile, tileStride, classes, panels, negatives, shares, out);
}

static void tileMaximum(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, float* out) {
  forColumns(tile, tileStride, panels, [&](const float* column, int64_t at) __attribute__((always_inline)) {
    store(out + at, columnMaximum(column, classes, AsTheyAre({}, at)));
  });
}

static void maskAbove(float* tile, int64_t tileStride, int64_t classes, int64_t panels, const float* limit,
                      float replacement) {
  const Vector replaced = broadcast(replacement);
  forColumns(tile, tileStride, panels, [&](const float* column, int64_t at) __attribute__((always_inline)) {
    const Vector limits = load(limit + at);
    float* out = const_cast<float*>(column);
    for (int64_t j = 0; j < classes; j++) {
      const Vector z = load(column + j * panelLanes);
      store(out + j * panelLanes, z > limits ? replaced : z);
    }
  });
}

static void scoreKeys(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, int32_t steps,
                      const int32_t* rowLabels, const int32_t* classLabels, int32_t sameOffset, int32_t* keys) {
  const Vector one = broadcast(1.0f), factor = broadcast((float)steps);
  const VectorInt none = {};
  forColumns(tile, tileStride, panels, [&](const float* column, int64_t at) __attribute__((always_inline)) {
    const VectorInt labels = (VectorInt)load((const float*)(rowLabels + at));
    float* out = (float*)keys + (column - tile);
    for (int64_t j = 0; j < classes; j++) {
      const Vector cosine = -maximum(-maximum(load(column + j * panelLanes), -one), -one);
      const Vector scaled = cosine * factor;
      VectorInt score = __builtin_convertvector(scaled, VectorInt);  // towards 0; what is left is exact
      const Vector rest = scaled - __builtin_convertvector(score, Vector);
      score += (rest <= -0.5f) - (rest >= 0.5f);  // a comparison that holds is −1
      const VectorInt same = labels == none + classLabels[j];
      store(out + j * panelLanes, (Vector)(score + steps + (same & sameOffset)));
    }
  });
}

template <class Negatives, bool smooths>
INLINE void probabilitiesOf(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                            const NegativeRows& rows, const float* maxima, const float* factors, const float* even,
                            const float* shares, const float* scale, float* gradient) {
  forColumns(tile, tileStride, panels, [&](const float* column, int64_t at) __attribute__((always_inline)) {
    const Negatives negatives(rows, at);
    const Vector most = load(maxima + at), factor = load(factors + at), less = smooths ? load(even + at) : (Vector){};
    float* out = gradient + (column - tile);
    for (int64_t j = 0; j < classes; j++) {
      const Vector u = load(column + j * panelLanes);
      Vector p = exponential<false>(negatives.logit(u) - most) * factor;
      if (smooths) p -= less * broadcast(shares[j]);
      store(out + j * panelLanes, negatives.gradient(u, p) * broadcast(scale[j]));
    }
  });
}

static void probabilities(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                          const NegativeRows& negatives, const float* maxima, const float* factors, const float* even,
                          const float* shares, const float* scale, float* gradient) {
  const auto compute = negatives.threshold
                           ? (even ? probabilitiesOf<Transformed, true> : probabilitiesOf<Transformed, false>)
                           : (even ? probabilitiesOf<AsTheyAre, true> : probabilitiesOf<AsTheyAre, false>);
  compute(tile, tileStride, classes, panels, negatives, maxima, factors, even, shares, scale, gradient);
}

}  // namespace
