// Turns a tile's negatives into logits (formulas/negative.h). The choice is made outside of the
// loops: `AsTheyAre` costs nothing, `Transformed` a compare, a few multiply-adds and a blend.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace {

using margin_softmax::cpu::NegativeRows;

// Both are made for the rows of one vector column, from its first row on.
struct AsTheyAre {
  INLINE_MEMBER AsTheyAre(const NegativeRows&, int64_t) {}
  INLINE_MEMBER Vector logit(Vector u) const { return u; }
  INLINE_MEMBER Vector gradient(Vector, Vector p) const { return p; }
};

struct Transformed {
  Vector threshold, square, linear, constant, ceiling;

  INLINE_MEMBER Transformed(const NegativeRows& rows, int64_t at)
      : threshold(load(rows.threshold + at)),
        square(load(rows.square + at)),
        linear(load(rows.linear + at)),
        constant(load(rows.constant + at)),
        ceiling(load(rows.ceiling + at)) {}
  // u > τ is false for NaN, which stays.
  INLINE_MEMBER Vector logit(Vector u) const {
    const Vector v = u + ceiling;
    return u > threshold ? u + ((square * v + linear) * v + constant) : u;
  }
  // ∂loss/∂u from p = ∂loss/∂logit.
  INLINE_MEMBER Vector gradient(Vector u, Vector p) const {
    return u > threshold ? p + p * ((square + square) * (u + ceiling) + linear) : p;
  }
};

}  // namespace
