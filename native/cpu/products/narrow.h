// Products of narrow rows (few dimensions): logits and gradInput in double precision (why: step.h).
// weightGradient is float32's.
#pragma once
#include "float32.h"

namespace margin_softmax::cpu {

class NarrowProducts final : public Float32Products {
 public:
  using Float32Products::Float32Products;

  void layOut(Layout& layout, int threads, bool weight, bool input) override;
  void packRows(const float* rows, int64_t first, int64_t count, const RowState* states) override;
  void scaleClasses(int64_t tile, const float* weights) override;
  // Writes logits relative to the row's ceiling.
  void logits(const Tile& tile, const float* scale, const float* bias, float* out, Prefetch next) override;
  void inputGradient(const Tile& tile, int64_t classSlot, const float* gradient, bool accumulate,
                     Prefetch next) override;
  bool computesRows() const override { return false; }

  // The row's scale: an upper bound of its logits, since a cosine is at most 1.
  double ceiling(int64_t row) const { return ceilings_[row]; }
  // Stores the target's share of a row's gradInput, share.weight·weight + share.input·input; 0
  // without `weight`. It stays in double precision until finishRow, where most of it may cancel.
  void keepTarget(int64_t row, const TargetShare& share, const float* weight, const float* input) const;
  // out[D] = the row's gradInput: the class slots' sums in slot order, projected, plus the target's
  // share.
  void finishRow(int64_t row, const RowState& state, bool radial, const float* input, float* out) const;

 private:
  double* packed_ = nullptr;     // [panel][D][L]
  double* ceilings_ = nullptr;   // [N]
  double* scale_ = nullptr;      // [C] 1/‖w_j‖
  double* inputSums_ = nullptr;  // [classSlots][panel][D][L]
  double* target_ = nullptr;     // [N][D]
};

}  // namespace margin_softmax::cpu
