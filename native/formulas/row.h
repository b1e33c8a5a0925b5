// What is known of one batch row, in double precision: the target's cosine and margin, the loss, and the factors with
// which the target enters both gradients. Host and device; every executor keeps the targets out of its tiles and adds
// their share by these.
#pragma once
#include <cstdint>

#include "margin.h"
#include "softmax.h"

namespace margin_softmax {

// A row whose norm is below this counts as zero: it has no direction, its cosines are 0 and so is its gradient.
constexpr double smallestNorm = 1e-30;

HOST_DEVICE inline double inverseNorm(double squares) {
  return squares < smallestNorm * smallestNorm ? 0 : 1 / std::sqrt(squares);
}

// What stands in the place of a row's label.
constexpr int32_t ignoredLabel = -1;    // the row takes no part
constexpr int32_t labelElsewhere = -2;  // its class belongs to another process (sharding): no target here

// What a row counts in the loss, and how its target is smoothed: batch.h makes it from the weights of rows and classes.
struct RowWeight {
  double loss = 1;  // factor of the row's loss
  Smoothing smoothing;
};

struct RowState {
  RowWeight weight;
  double inverseNorm, scale;          // 1/‖x‖ and s_i; 1 and 1 for raw scores
  double targetInverseNorm;           // 1/‖w_y‖
  double cosine, psi, slope, target;  // of the target; target = z_y
  double gradient;                    // g_i: the upstream gradient times weight.loss
  double error;                       // P_y − t_y
  double loss;                        // before it is multiplied with weight.loss
  double largestNegative;             // cosine, or raw score, as no margin changes it; −1 without other classes
  int64_t label;  // as wide as the rest: no padding, which a copy would read before anyone has written it
};

// A row before its target is known, from ‖x‖² (read for a margin that normalises).
HOST_DEVICE inline RowState rowWithoutTarget(const Margin& margin, int64_t label, double inputSquares,
                                             const RowWeight& weight, double upstream) {
  RowState state{};
  state.label = label;
  state.weight = weight;
  state.inverseNorm = state.scale = state.targetInverseNorm = 1;
  state.gradient = upstream * weight.loss;
  if (isNormalized(margin)) {
    state.inverseNorm = inverseNorm(inputSquares);
    state.scale = scaleOf(margin, state.inverseNorm == 0 ? 0 : std::sqrt(inputSquares));
  }
  return state;
}

// From x·w_y, ‖x‖², ‖w_y‖² (both read for a margin that normalises) and the target's bias.
HOST_DEVICE inline RowState targetRow(const Margin& margin, int64_t label, double product, double inputSquares,
                                      double weightSquares, double bias, const RowWeight& weight, double upstream) {
  RowState state = rowWithoutTarget(margin, label, inputSquares, weight, upstream);
  state.cosine = product;
  if (isNormalized(margin)) {
    state.targetInverseNorm = inverseNorm(weightSquares);
    state.cosine *= state.inverseNorm * state.targetInverseNorm;
  } else {
    state.cosine += bias;
  }
  const MarginValue value = evaluateMargin(margin, state.cosine);
  state.psi = value.psi;
  state.slope = value.slope;
  state.target = state.scale * value.psi;
  return state;
}

// What a row's other classes come to, and its target: where classes are sharded, the sums over all processes.
struct RowTotals {
  double maximum;         // the largest z; read only where sum is not 0
  double largest;         // the largest s·cos: it differs from `maximum` where the margin transforms negatives
  double sum;             // Σ e^(z − maximum); 0 without other classes
  double logits;          // Σ v·z, read only with smoothing
  double target, cosine;  // of the target; 0 where it is elsewhere
};

// Of a row without classes here.
constexpr RowTotals noTotals{-HUGE_VAL, -HUGE_VAL, 0, 0, 0, 0};

// One process's share of a row's sum, in terms of the largest maximum of all processes: such shares are added up.
HOST_DEVICE inline double sumAt(const RowTotals& totals, double maximum) {
  return totals.sum == 0 ? 0 : totals.sum * std::exp(totals.maximum - maximum);
}

// Takes in the other classes, each of which stands for `negativeWeight` of them. Returns the factor that makes
// e^(z − maximum) a probability.
HOST_DEVICE inline float closeRow(RowState& state, const RowTotals& totals, double negativeWeight) {
  const bool alone = totals.sum == 0;
  state.target = totals.target;
  state.cosine = totals.cosine;
  const RowSoftmax softmax =
      rowSoftmax(state.target, alone ? -HUGE_VAL : totals.maximum + std::log(negativeWeight * totals.sum),
                 totals.logits, state.weight.smoothing);
  state.loss = softmax.loss;
  state.error = softmax.targetError;
  state.largestNegative = alone ? -1 : totals.largest / (state.scale == 0 ? 1 : state.scale);
  return alone ? 0 : static_cast<float>(softmax.negatives / totals.sum);
}

// What an embedding is multiplied with to give logits with directions of classes; 0 for a row that takes no part.
HOST_DEVICE inline double inputFactor(const RowState& state) {
  return state.label == ignoredLabel ? 0 : state.scale * state.inverseNorm;
}
// The same with the upstream gradient: what Σ_i A_ij·(factor·x_i) takes.
HOST_DEVICE inline double gradientFactor(const RowState& state) { return state.gradient * inputFactor(state); }

// A gradient as multiples of the target's weights and of the embedding.
struct TargetShare {
  double weight, input;
};

// What the target adds to ∂L/∂x_i. `radial`: the scale is ‖x_i‖ itself.
HOST_DEVICE inline TargetShare inputShare(const RowState& state, bool normalized, bool radial) {
  const double share = state.gradient * state.scale * state.error * state.slope;
  if (!normalized) return {share, 0};
  const double along = -share * state.cosine + (radial ? state.gradient * state.error * state.target : 0);
  return {share * state.targetInverseNorm * state.inverseNorm,
          state.inverseNorm == 0 ? 0 : along * state.inverseNorm * state.inverseNorm};
}

// Factors of Σ_j A_ij·ŵ_j over the other classes, whose product with x_i is `product`, and of x_i: their sum is what the
// other classes add to ∂L/∂x_i of a margin that normalises.
struct InputProjection {
  double scale, along;
};
HOST_DEVICE inline InputProjection inputProjection(const RowState& state, double product, bool radial) {
  const double scale = state.gradient * state.scale * state.inverseNorm;
  return {scale, product * state.inverseNorm * state.inverseNorm * ((radial ? state.gradient : 0) - scale)};
}

// What the row adds to ∂L/∂w_y.
HOST_DEVICE inline TargetShare weightShare(const RowState& state, bool normalized) {
  const double share = state.gradient * state.scale * state.error * state.slope * state.targetInverseNorm;
  if (!normalized) return {0, share};
  return {-share * state.cosine * state.targetInverseNorm, share * state.inverseNorm};
}

}  // namespace margin_softmax
