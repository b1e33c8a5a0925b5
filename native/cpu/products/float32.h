// Products in float32. Weights are read in place; embeddings are packed once a step.
#pragma once
#include "products.h"

namespace margin_softmax::cpu {

class Float32Products : public Products {
 public:
  using Products::Products;

  void layOut(Layout& layout, int threads, bool weight, bool input) override;
  void packRows(const float* rows, int64_t first, int64_t count, const RowState* states) override;
  void logits(const Tile& tile, const float* scale, const float* bias, float* out, Prefetch next) override;
  void weightGradient(const Tile& tile, const float* gradient, float* out, bool accumulate, Prefetch next) override;
  void inputGradient(const Tile& tile, int64_t classSlot, const float* gradient, bool accumulate,
                     Prefetch next) override;
  bool computesRows() const override { return true; }
  void panelLogits(const float* weight, int64_t classes, int64_t panel, const float* scale, float* out) override;
  void rowLogits(const float* weight, int64_t classes, const int64_t* rows, int64_t count, const float* scale,
                 float* packed, float* out) override;

 protected:
  void layOutInputGradient(Layout& layout, bool weight);
  void packInputGradient(const float* rows, int64_t first, int64_t count, const RowState* states) const;

 private:
  // Smaller weights stay in the caches anyhow.
  Prefetch worthwhile(Prefetch next) const { return plan_.classes * plan_.dim > int64_t{1} << 18 ? next : Prefetch{}; }

  float* packedInput_ = nullptr;          // [panel][D][L]
  float* packedInputGradient_ = nullptr;  // [dimPanel][N][L], only for weightGradient
};

}  // namespace margin_softmax::cpu
