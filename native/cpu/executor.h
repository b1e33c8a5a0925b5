// Declarations that the files of the CPU executor share.
#pragma once
#include <atomic>

#include "../core/executor.h"
#include "../core/pool.h"
#include "../formulas/row.h"
#include "kernels/kernels.h"
#include "plan.h"
#include "workspace.h"

namespace margin_softmax::cpu {

Status loss(Problem& problem);
Status topK(TopKProblem& problem);

// Chooses the table of kernels: the one of this name or, without a name, what serves the precision best.
Status chooseKernels(const char* named, Precision precision, const Kernels*& kernels);

// An optimizer's step on runs of numbers, in place: its settings are computed once.
class RunUpdate {
 public:
  RunUpdate(const Optimizer& optimizer, int64_t step)
      : kind_(optimizer.kind), sgd_(sgdStep(optimizer)), adamW_(adamWStep(optimizer, step)) {}

  // The run begins at element `at` of the optimizer's state.
  void apply(const Kernels& kernels, float* values, int64_t at, float* const* state, const float* gradient,
             int64_t n) const {
    float* const first = state[0] ? state[0] + at : nullptr;
    if (kind_ == OptimizerKind::sgd) kernels.sgd(values, first, gradient, n, sgd_);
    else kernels.adamW(values, first, state[1] + at, gradient, n, adamW_);
  }

 private:
  OptimizerKind kind_;
  SgdStep sgd_;
  AdamWStep adamW_;
};

// Up to these norms, sums of products with directions of norm 1 do not overflow, and inverses are
// not denormal.
constexpr double largestNorm = 1e37, largestProduct = 1e38;
// The smallest 1/‖w‖ whose class can be multiplied with rows of this scale. (A class without a
// direction has 0.)
inline float leastInverseNorm(double scale) {
  return static_cast<float>(std::max(1 / largestNorm, scale / largestProduct));
}

// Keeps the smallest of the places that threads report, so that a message names the same one on
// every run.
class FirstPlace {
 public:
  void report(int64_t place) {
    int64_t smallest = place_;
    while (place < smallest && !place_.compare_exchange_weak(smallest, place)) {
    }
  }
  bool found() const { return place_ != none; }
  int64_t place() const { return place_; }

 private:
  static constexpr int64_t none = INT64_MAX;
  std::atomic<int64_t> place_{none};
};

// Reports those classes from `first` on whose norm is too large.
inline void reportLarge(const float* inverseNorms, int64_t first, int64_t count, float least, FirstPlace& large) {
  for (int64_t j = 0; j < count; j++)
    if (inverseNorms[j] > 0 && inverseNorms[j] < least) large.report(first + j);
}

// scales[j] = 1/‖row j‖ for rows of weights that are to be normalised, else 1.
void scaleRows(const Kernels& kernels, const float* rows, int64_t dim, int64_t count, bool normalized, float* scales);

// Writes `count` ≤ 16 rows, from a multiple of 16 on, times factors[i] into the [panel][D][L]
// layout; the rest of the 16 rows become zeros. A factor of 0 writes zeros whatever the row holds
// (it may be NaN).
void packInput(const float* rows, int64_t dim, int64_t first, int64_t count, const double* factors, int lanes,
               float* packedInput);

}  // namespace margin_softmax::cpu
