// Sums over a row of logits, block by block, and the losses computed from them: softmax, and the
// cross-entropy of given logits. In double precision; host and device.
#pragma once
#include <cmath>

#include "host_device.h"

namespace margin_softmax {

// Sums relative to the largest logit so far. Terms of Σ e^(z − max) that are 1 are counted
// separately, so that log1p(Σ − 1) keeps a rest that is small relative to 1.
struct RowSums {
  double maximum = -HUGE_VAL;
  double ones = 0, rest = 0;
  double shares = 0;   // Σ a_j
  double deficit = 0;  // Σ a_j (max − z_j)

  // The number to subtract from logits. Before the first finite logit it is 0, since −∞ − (−∞)
  // would be NaN.
  HOST_DEVICE double shift() const { return maximum == -HUGE_VAL ? 0 : maximum; }
  HOST_DEVICE double total() const { return maximum == -HUGE_VAL ? std::nan("") : ones + rest; }
  HOST_DEVICE double totalLessOne() const { return maximum == -HUGE_VAL ? std::nan("") : ones - 1 + rest; }

  HOST_DEVICE void raise(double to) {
    if (!(to > maximum)) return;
    deficit += shares * (to - shift());
    rest = (ones + rest) * std::exp(maximum - to);
    ones = 0;
    maximum = to;
  }
  template <class Sums>
  HOST_DEVICE void add(const Sums& sums) {
    ones += sums.ones;
    rest += sums.rest;
    shares += sums.shares;
    deficit += sums.deficit;
  }
  HOST_DEVICE void merge(RowSums other) {
    raise(other.maximum);
    other.raise(maximum);
    add(other);
  }
};

// A row's gradient: factor·e^(z − shift) − scale·a_j, and its value at the label.
struct LogitGradient {
  float shift, factor;
  double scale;
  float atLabel;
};

// A row's label, if it has one. Its share is not among the shares in the sums.
struct LabelledLogit {
  bool present;
  double logit, weight;
};

// loss = Σ_j a_j (lse − z_j), ∂loss/∂z_j = (Σ_k a_k) P_j − a_j, times the upstream gradient. `keep`
// and `even` are 1 − ε and ε/C.
HOST_DEVICE inline double closeLogits(const RowSums& s, LabelledLogit label, double keep, double even, double upstream,
                                      LogitGradient& gradient) {
  const double total = s.total(), logTotal = std::log1p(s.totalLessOne());
  double shares = s.shares, loss = s.deficit;
  gradient.atLabel = 0;
  if (label.present) {
    const double labelShare = keep * label.weight, evenly = even * label.weight;
    const double difference = label.logit - s.shift();  // ≤ 0
    const double negatives = difference == 0 ? s.totalLessOne() : total - std::exp(difference);
    shares += labelShare;
    if (labelShare != 0) loss -= labelShare * difference;  // a share of 0 adds 0, even if the difference is infinite
    // shares·P − labelShare − evenly, by way of P − 1 = −negatives/total, which does not cancel if
    // P is near 1
    gradient.atLabel = static_cast<float>(upstream * (s.shares - evenly - shares * (negatives / total)));
  }
  gradient.shift = static_cast<float>(s.shift());
  gradient.factor = static_cast<float>(upstream * shares / total);
  gradient.scale = upstream;
  return loss + shares * logTotal;
}

}  // namespace margin_softmax
