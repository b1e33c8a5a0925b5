// The products in bfloat16: operands are rounded when they are packed. How they lie in memory is
// the table's affair (bfloat16_kernels.h).
#pragma once
#include "../kernels/bfloat16_kernels.h"
#include "products.h"

namespace margin_softmax::cpu {

class Bfloat16Products final : public Products {
 public:
  Bfloat16Products(const Kernels& kernels, const Plan& plan, int64_t paddedRows);

  void layOut(Layout& layout, int threads, bool weight, bool input) override;
  void packRows(const float* rows, int64_t first, int64_t count, const RowState* states) override;
  void packWeights(const Tile& tile, bool forLogits, bool forGradient) override;
  bool packsWeights() const override { return true; }
  void logits(const Tile& tile, const float* scale, const float* bias, float* out, Prefetch next) override;
  void packGradient(const Tile& tile, const float* gradient) override;
  void weightGradient(const Tile& tile, const float* gradient, float* out, bool accumulate, Prefetch next) override;
  void inputGradient(const Tile& tile, int64_t classSlot, const float* gradient, bool accumulate,
                     Prefetch next) override;

 private:
  // The batch's operands and this thread's.
  Packed packed(int thread) const;

  const Bfloat16Kernels& bfloat16_;
  const Bfloat16Shape shape_;
  Packed packed_{};           // with the first thread's operands
  int64_t threadStride_ = 0;  // bytes from one thread's operands to the next's
};

}  // namespace margin_softmax::cpu
