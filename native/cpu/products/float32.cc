#include "float32.h"

#include <algorithm>
#include <cstring>

#include "../executor.h"

namespace margin_softmax::cpu {

// packedInput [panel][D][L], packedInputGradient [dimPanel][paddedRows][L] (kernels.h).
void Float32Products::layOut(Layout& layout, int, bool weight, bool input) {
  packedInput_ = layout.take<float>(paddedRows_ * plan_.dim);
  layOutInputGradient(layout, weight);
  layOutInputSums(layout, input);
}

void Float32Products::layOutInputGradient(Layout& layout, bool weight) {
  packedInputGradient_ = layout.take<float>(weight ? paddedRows_ * dimStride() : 0);
}

void Float32Products::packRows(const float* rows, int64_t first, int64_t count, const RowState* states) {
  double factors[16];
  for (int64_t i = 0; i < count; i++) factors[i] = inputFactor(states[i]);
  packInput(rows, plan_.dim, first, count, factors, lanes_, packedInput_);
  packInputGradient(rows, first, count, states);
}

// For each of 16 rows, for each panel of L dimensions: L values times the row's gradient factor.
// The last panel's lanes beyond D are zeros, so that weightGradient can write whole vectors.
void Float32Products::packInputGradient(const float* rows, int64_t first, int64_t count, const RowState* states) const {
  if (!packedInputGradient_) return;
  const int64_t dim = plan_.dim;
  for (int64_t i = 0; i < 16; i++) {
    const float factor = i < count ? static_cast<float>(gradientFactor(states[i])) : 0;
    for (int64_t from = 0; from < dim; from += lanes_) {
      float* out = packedInputGradient_ + from * paddedRows_ + (first + i) * lanes_;
      const int64_t present = factor == 0 ? 0 : std::min<int64_t>(lanes_, dim - from);
      if (present) kernels_.scaled(out, rows + i * dim + from, factor, present);
      std::fill(out + present, out + lanes_, 0.0f);
    }
  }
}

void Float32Products::logits(const Tile& tile, const float* scale, const float* bias, float* out, Prefetch next) {
  kernels_.logits(tile.weight, plan_.dim, tile.classes, packedInput_ + firstRow(tile.chunk) * plan_.dim,
                  panels(tile.chunk), scale, bias, out, plan_.tileClasses,
                  tile.chunk + 1 == plan_.rowChunks ? worthwhile(next) : Prefetch{});
}

void Float32Products::weightGradient(const Tile& tile, const float* gradient, float* out, bool accumulate,
                                     Prefetch next) {
  kernels_.weightGradient(gradient, plan_.tileClasses, tile.classes, panels(tile.chunk),
                          packedInputGradient_ + firstRow(tile.chunk) * lanes_, paddedRows_, dimStride() / lanes_, out,
                          accumulate, worthwhile(next));
}

void Float32Products::inputGradient(const Tile& tile, int64_t classSlot, const float* gradient, bool accumulate,
                                    Prefetch next) {
  kernels_.inputGradient(tile.weight, plan_.dim, tile.classes, gradient, plan_.tileClasses, panels(tile.chunk),
                         inputSum(tile, classSlot), accumulate, worthwhile(next));
}

// The packed rows serve as they are: a panel is contiguous.
void Float32Products::panelLogits(const float* weight, int64_t classes, int64_t panel, const float* scale, float* out) {
  kernels_.logits(weight, plan_.dim, classes, packedInput_ + panel * lanes_ * plan_.dim, 1, scale, nullptr, out,
                  plan_.tileClasses, {});
}

void Float32Products::rowLogits(const float* weight, int64_t classes, const int64_t* rows, int64_t count,
                                const float* scale, float* packed, float* out) {
  const int64_t dim = plan_.dim;
  // Column by column into one panel; lanes beyond `count` stay 0. The same products in the same
  // order as in `logits`, so the same bits.
  std::memset(packed, 0, dim * lanes_ * sizeof(float));
  for (int64_t k = 0; k < count; k++) {
    const float* row = packedInput_ + rows[k] / lanes_ * dim * lanes_ + rows[k] % lanes_;
    for (int64_t d = 0; d < dim; d++) packed[d * lanes_ + k] = row[d * lanes_];
  }
  kernels_.logits(weight, dim, classes, packed, 1, scale, nullptr, out, plan_.tileClasses, {});
}

}  // namespace margin_softmax::cpu
