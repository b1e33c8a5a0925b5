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
