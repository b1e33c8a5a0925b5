// One row's softmax, from the sums over its negatives. Host and device.
//
// The negatives are summed apart from the target: R = Σ_{j≠y} exp(z_j − z_y). The loss is log(1 +
// R), and P_y − 1 = −R/(1 + R). Neither cancels if R is small, where textbook float32 returns 0.
#pragma once
#include <cmath>

#include "host_device.h"

namespace margin_softmax {

constexpr double log2e = 1.44269504088896340736;

struct RowSoftmax {
  double loss;         // log Σ_j exp z_j − Σ_j t_j·z_j
  double negatives;    // Σ_{j≠y} P_j = R/(1 + R)
  double targetError;  // P_y − t_y: the target's share of the gradient
};

// Label smoothing gives a negative the target t_j = even·v_j, and leaves the row's class t_y = 1 −
// Σ_{j≠y} t_j. v_j is 1 without class weights.
struct Smoothing {
  double even = 0;       // 0: none, t_y = 1
  double negatives = 0;  // Σ_{j≠y} t_j
};

// `negatives` is log Σ_{j≠y} exp z_j, −∞ without negatives. `sumNegatives` is Σ_{j≠y} v_j·z_j, read
// only with smoothing.
HOST_DEVICE inline RowSoftmax rowSoftmax(double target, double negatives, double sumNegatives, Smoothing smoothing) {
  RowSoftmax row;
  const double difference = negatives - target;  // log R
  const double excess =
      difference > 0 ? difference + std::log1p(std::exp(-difference)) : std::log1p(std::exp(difference));
  row.loss = excess;
  row.negatives = difference > 0 ? 1 / (1 + std::exp(-difference)) : std::exp(difference) / (1 + std::exp(difference));
  row.targetError = -row.negatives;
  if (smoothing.even != 0) {
    row.loss += smoothing.negatives * target - smoothing.even * sumNegatives;
    row.targetError += smoothing.negatives;
  }
  return row;
}

}  // namespace margin_softmax
