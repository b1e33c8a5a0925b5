// A row of logits as its blocks come in, and what a loss makes of it: the arithmetic of softmax and of the
// cross-entropy of given logits, in double precision. Host and device.
#pragma once
#include <cmath>

#include "host_device.h"

namespace margin_softmax {

// Sums relative to the largest logit so far. Among the addends of Σ e^(z − max) the ones are counted apart from the
// rest, so that log1p(Σ − 1) keeps what is small beside the maximum.
struct RowSums {
  double maximum = -HUGE_VAL;
  double ones = 0, rest = 0;
  double shares = 0;   // Σ a_j
  double deficit = 0;  // Σ a_j (max − z_j)

  // What to subtract from logits: −∞ − (−∞) would be NaN before the first finite logit has come.
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

// A row's label, where it has one; its own share comes on top of the shares in the sums.
struct LabelledLogit {
  bool present;
  double logit, weight;
};

// loss = Σ_j a_j (lse − z_j), ∂loss/∂z_j = (Σ_k a_k) P_j − a_j, times the upstream gradient. `keep` and `even` are 1 −
// ε and ε/C.
HOST_DEVICE inline double closeLogits(const RowSums& s, LabelledLogit label, double keep, double even, double upstream,
                                      LogitGradient& gradient) {
  const double total = s.total(), logTotal = std::log1p(s.totalLessOne());
  double shares = s.shares, loss = s.deficit;
  gradient.atLabel = 0;
  if (label.present) {
    const double own = keep * label.weight, evenly = even * label.weight;
    const double difference = label.logit - s.shift();  // ≤ 0
    const double others = difference == 0 ? s.totalLessOne() : total - std::exp(difference);
    shares += own;
    if (own != 0) loss -= own * difference;  // a share of 0 counts nothing, even of an infinite loss
    // shares·P − own − evenly with P − 1 = −others/total, which does not cancel where P is near 1
    gradient.atLabel = static_cast<float>(upstream * (s.shares - evenly - shares * (others / total)));
  }
  gradient.shift = static_cast<float>(s.shift());
  gradient.factor = static_cast<float>(upstream * shares / total);
  gradient.scale = upstream;
  return loss + shares * logTotal;
}

}  // namespace margin_softmax
