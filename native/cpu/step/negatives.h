// Holds each row's transform of its negatives (formulas/negative.h), if the margin has one.
// Otherwise nothing is held, and kernels take an empty NegativeRows, which leaves negatives as they
// are.
#pragma once
#include <algorithm>
#include <cfloat>

#include "../../core/layout.h"
#include "../../formulas/margin.h"
#include "../kernels/kernels.h"

namespace margin_softmax::cpu {

class Negatives {
 public:
  // `origin`: which cosine a tile's elements count from.
  Negatives(const Margin& margin, double origin) : transform_(transformsNegatives(margin)), origin_(origin) {}

  bool transform() const { return transform_; }

  void layOut(Layout& layout, int64_t rows, int64_t classSlots) {
    rows_ = rows;
    for (float** array : {&threshold_, &square_, &linear_, &constant_, &ceiling_})
      *array = layout.take<float>(transform_ ? rows : 0);
    largest_ = layout.take<float>(transform_ ? classSlots * rows : 0);
  }

  void set(int64_t row, const NegativeTransform& transform, double scale) {
    if (!transform_) return;
    const NegativeRow here = negativeRow(transform, scale, origin_);
    threshold_[row] = here.threshold;
    square_[row] = here.square;
    linear_[row] = here.linear;
    constant_[row] = here.constant;
    ceiling_[row] = here.ceiling;
  }
  // Sets the identity for a row that takes no part.
  void leave(int64_t row) { set(row, {}, 1); }

  // The transforms of the rows from this one on, for kernels.
  NegativeRows from(int64_t row) const {
    if (!transform_) return {};
    return {threshold_ + row, square_ + row, linear_ + row, constant_ + row, ceiling_ + row};
  }
  // A single element of the row.
  float logit(int64_t row, float u) const {
    if (!transform_) return u;
    return negativeLogit({threshold_[row], square_[row], linear_[row], constant_[row], ceiling_[row]}, u);
  }

  // The largest element of each row as tiles have it, by class slot: it cannot be told from the
  // largest logit.
  void beginLargest(int64_t classSlot, int64_t first, int64_t last) {
    if (transform_) std::fill(largest(classSlot, first), largest(classSlot, last), -FLT_MAX);
  }
  void takeLargest(const Kernels& kernels, const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                   int64_t classSlot, int64_t firstRow, float* scratch) {
    if (!transform_) return;
    kernels.tileMaximum(tile, tileStride, classes, panels, scratch);
    float* rows = largest(classSlot, firstRow);
    for (int64_t i = 0; i < panels * kernels.lanes; i++) rows[i] = std::max(rows[i], scratch[i]);
  }
  // Over all class slots; `maximum`, the largest logit, where negatives are as they are.
  float largestOf(int64_t row, int64_t classSlots, float maximum) const {
    if (!transform_) return maximum;
    float most = largest_[row];
    for (int64_t slot = 1; slot < classSlots; slot++) most = std::max(most, largest_[slot * rows_ + row]);
    return most;
  }

 private:
  float* largest(int64_t classSlot, int64_t row) { return largest_ + classSlot * rows_ + row; }

  const bool transform_;
  const double origin_;
  int64_t rows_ = 0;
  // NegativeRow of each row, an array for each of its numbers [N]: the kernels' lanes are rows.
  float *threshold_ = nullptr, *square_ = nullptr, *linear_ = nullptr, *constant_ = nullptr, *ceiling_ = nullptr;
  float* largest_ = nullptr;  // [classSlots][N]
};

}  // namespace margin_softmax::cpu
