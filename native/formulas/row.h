// The state of one batch row, in double precision: the target's cosine and margin, the loss, and
// the factors of the target in both gradients. Host and device. Every executor masks the targets in
// its tiles and adds their share by these formulas.
#pragma once
#include <cstdint>

#include "margin.h"
#include "softmax.h"

namespace margin_softmax {

// A row with a smaller norm counts as zero: it has no direction, and its cosines and its gradient
// are 0.
constexpr double smallestNorm = 1e-30;

HOST_DEVICE inline double inverseNorm(double squares) {
  return squares < smallestNorm * smallestNorm ? 0 : 1 / std::sqrt(squares);
}

// Values of a row's label that are no class here.
constexpr int32_t ignoredLabel = -1;    // the row takes no part
constexpr int32_t labelElsewhere = -2;  // another process holds its class (sharding): no target here

// A row's weight in the loss, and its label smoothing: batch.h derives it from the weights of rows
// and classes.
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
  double largestNegative;             // largest untransformed cosine or raw score of a negative, or −1
  int64_t label;                      // 64 bits: padding would be copied uninitialized
};

// Begins a row without its target, from ‖x‖² (read only by margins that normalize).
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

// Begins a row with its target, from x·w_y, ‖x‖², ‖w_y‖² (norms read only by margins that
// normalize) and the target's bias.
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

// A row's negatives, reduced to a few sums, and its target. With sharded classes: over all
// processes.
struct RowTotals {
  double maximum;         // the largest z; read only if sum is not 0
  double largest;         // the largest s·cos: not `maximum` if the margin transforms negatives
  double sum;             // Σ e^(z − maximum); 0 without negatives
  double logits;          // Σ v·z, read only with smoothing
  double target, cosine;  // of the target; 0 if another process holds it
};

// The totals of a row without classes here.
constexpr RowTotals noTotals{-HUGE_VAL, -HUGE_VAL, 0, 0, 0, 0};

// One process's sum relative to the maximum over all processes, so that the processes' sums can be
// added.
HOST_DEVICE inline double sumAt(const RowTotals& totals, double maximum) {
  return totals.sum == 0 ? 0 : totals.sum * std::exp(totals.maximum - maximum);
}

// Completes a row with its totals; each negative stands for `negativeWeight` of them. Returns the
// factor that turns e^(z − maximum) into a probability.
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

// The factor that turns x·ŵ into a logit, s_i/‖x_i‖; 0 for an ignored row.
HOST_DEVICE inline double inputFactor(const RowState& state) {
  return state.label == ignoredLabel ? 0 : state.scale * state.inverseNorm;
}
// The same times the upstream gradient: the factor of x_i in gradWeight's Σ_i A_ij·(factor·x_i).
HOST_DEVICE inline double gradientFactor(const RowState& state) { return state.gradient * inputFactor(state); }

// A gradient as multiples of the target's weights and of the embedding.
struct TargetShare {
  double weight, input;
};

// The target's share of ∂L/∂x_i. `radial`: the scale is ‖x_i‖ itself.
HOST_DEVICE inline TargetShare inputShare(const RowState& state, bool normalized, bool radial) {
  const double share = state.gradient * state.scale * state.error * state.slope;
  if (!normalized) return {share, 0};
  const double along = -share * state.cosine + (radial ? state.gradient * state.error * state.target : 0);
  return {share * state.targetInverseNorm * state.inverseNorm,
          state.inverseNorm == 0 ? 0 : along * state.inverseNorm * state.inverseNorm};
}

// The negatives' share of ∂L/∂x_i, for margins that normalize: scale·v + along·x_i with v = Σ_j
// A_ij·ŵ_j. `product` is v·x_i.
struct InputProjection {
  double scale, along;
};
HOST_DEVICE inline InputProjection inputProjection(const RowState& state, double product, bool radial) {
  const double scale = state.gradient * state.scale * state.inverseNorm;
  return {scale, product * state.inverseNorm * state.inverseNorm * ((radial ? state.gradient : 0) - scale)};
}

// The row's share of ∂L/∂w_y of its target's class.
HOST_DEVICE inline TargetShare weightShare(const RowState& state, bool normalized) {
  const double share = state.gradient * state.scale * state.error * state.slope * state.targetInverseNorm;
  if (!normalized) return {0, share};
  return {-share * state.cosine * state.targetInverseNorm, share * state.inverseNorm};
}

}  // namespace margin_softmax
