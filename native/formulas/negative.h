// A margin's transform of a negative's cosine c: φ(c) takes its place in the logit, z = s·φ(c). Host
// and device.
//
// Most margins leave negatives as they are, φ(c) = c. Some tell the hard negatives of a row, whose
// cosine exceeds a threshold τ, from the easy ones:
//
//   φ(c) = square·c² + linear·c + constant   φ'(c) = 2·square·c + linear   where c > τ
//   φ(c) = c                                 φ'(c) = 1                     elsewhere
//
// τ follows from the cosine of the row's target. Gradients take it as a constant, as the papers do.
//
// φ may jump at τ, and a hard negative may come out below an easy one: nothing can be inferred from
// φ(c) about c. So tiles that are kept for the backward pass hold cosines, and a row's largest
// cosine is tracked beside its largest logit.
#pragma once
#include "host_device.h"

namespace margin_softmax {

struct NegativeTransform {
  double threshold = HUGE_VAL;  // τ
  double square = 0, linear = 1, constant = 0;
};

// φ(c) and φ'(c). NaN exceeds no threshold and stays.
HOST_DEVICE inline double transformedCosine(const NegativeTransform& t, double c) {
  return c > t.threshold ? (t.square * c + t.linear) * c + t.constant : c;
}
HOST_DEVICE inline double transformedSlope(const NegativeTransform& t, double c) {
  return c > t.threshold ? 2 * t.square * c + t.linear : 1;
}

// The same for a row of a tile, whose elements are u = s·(c − origin): u > threshold gains
// (square·v + linear)·v + constant with v = u + ceiling = s·c. A sum to u, and not a polynomial of
// it: where the ceiling is far, as that of narrow rows may be, a product with u would round in its
// units.
struct NegativeRow {
  float threshold, square, linear, constant, ceiling;
};

HOST_DEVICE inline NegativeRow negativeRow(const NegativeTransform& t, double scale, double origin) {
  return {static_cast<float>((t.threshold - origin) * scale), static_cast<float>(t.square / scale),
          static_cast<float>(t.linear - 1), static_cast<float>(t.constant * scale), static_cast<float>(origin * scale)};
}

// u's logit z, and ∂z/∂u. What is masked lies below every threshold and stays; NaN exceeds none and
// stays.
HOST_DEVICE inline float negativeLogit(const NegativeRow& row, float u) {
  const float v = u + row.ceiling;
  return u > row.threshold ? u + ((row.square * v + row.linear) * v + row.constant) : u;
}
HOST_DEVICE inline float negativeSlope(const NegativeRow& row, float u) {
  return u > row.threshold ? 1 + (2 * row.square * (u + row.ceiling) + row.linear) : 1;
}

}  // namespace margin_softmax
