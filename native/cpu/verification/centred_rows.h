// Embeddings that point nearly the same way, minus their common part. Their cosines are so near 1
// that single precision can not tell them apart. With d_i = x_i/‖x_i‖ − m, m the mean of the
// normalized rows, and a_i = ‖d_i‖²/2,
//
//   1 − cos_ij = ‖d_i − d_j‖²/2 = a_i + a_j − d_i·d_j ≤ 4·max a
//
// has no term that is much larger than the result, so single precision suffices.
#pragma once
#include <cstdint>

#include "../../core/block.h"
#include "../../core/problem.h"

namespace margin_softmax::cpu {

class CentredRows {
 public:
  // Afterwards isNeeded() tells whether the rows are that close. Only then are the other results
  // valid.
  Status prepare(const float* rows, int64_t count, int64_t dim, const double* inverseNorms, const Execution& execution);

  bool isNeeded() const { return needed_; }
  // A power of two that 1 − cos_ij never exceeds; 2 if the rows are not that close.
  double span() const { return span_; }
  const float* rows() const { return rows_.as<float>(); }                  // d [N,D]
  const double* halfSquares() const { return halfSquares_.as<double>(); }  // a [N]

 private:
  static constexpr double widest = 1.0 / 16;  // gains 5 bits over cosines

  bool needed_ = false;
  double span_ = 2;
  Block rows_, halfSquares_, mean_;
};

}  // namespace margin_softmax::cpu
