#include "narrow.h"

#include "../executor.h"

namespace margin_softmax::cpu {

// All of [panel][D][L] or [N], in doubles: at most 15 dimensions, so they are small.
void NarrowProducts::layOut(Layout& layout, int, bool weight, bool input) {
  const int64_t n = paddedRows_, dim = plan_.dim;
  packed_ = layout.take<double>(n * dim);
  ceilings_ = layout.take<double>(n);
  scale_ = layout.take<double>(plan_.classes);
  inputSums_ = layout.take<double>(input ? plan_.classSlots * n * dim : 0);
  target_ = layout.take<double>(input ? n * dim : 0);
  layOutInputGradient(layout, weight);
}

void NarrowProducts::packRows(const float* rows, int64_t first, int64_t count, const RowState* states) {
  const int64_t dim = plan_.dim;
  for (int64_t i = 0; i < 16; i++) {
    const int64_t row = first + i;
    const double factor = i < count ? inputFactor(states[i]) : 0;
    ceilings_[row] = i < count ? states[i].scale : 0;
    double* out = packed_ + row / lanes_ * dim * lanes_ + row % lanes_;
    for (int64_t d = 0; d < dim; d++) out[d * lanes_] = factor == 0 ? 0 : rows[i * dim + d] * factor;
  }
  packInputGradient(rows, first, count, states);
}

// 1/‖w_j‖ in double precision, which the step's own float would spoil.
void NarrowProducts::scaleClasses(int64_t tile, const float* weights) {
  const int64_t dim = plan_.dim;
  double* scales = scale_ + tile * plan_.tileClasses;
  for (int64_t j = 0; j < plan_.tileSize(tile); j++)
    scales[j] = margin_softmax::inverseNorm(kernels_.dotDouble(weights + j * dim, weights + j * dim, dim));
}

void NarrowProducts::logits(const Tile& tile, const float*, const float*, float* out, Prefetch) {
  kernels_.narrowLogits(tile.weight, plan_.dim, tile.classes, packed_ + firstRow(tile.chunk) * plan_.dim,
                        panels(tile.chunk), scale_ + tile.index * plan_.tileClasses, ceilings_ + firstRow(tile.chunk),
                        out, plan_.tileClasses);
}

void NarrowProducts::inputGradient(const Tile& tile, int64_t classSlot, const float* gradient, bool accumulate,
                                   Prefetch) {
  kernels_.narrowInputGradient(tile.weight, plan_.dim, tile.classes, gradient, plan_.tileClasses, panels(tile.chunk),
                               inputSums_ + (classSlot * paddedRows_ + firstRow(tile.chunk)) * plan_.dim, accumulate);
}

void NarrowProducts::keepTarget(int64_t row, const TargetShare& share, const float* weight, const float* input) const {
  const int64_t dim = plan_.dim;
  double* out = target_ + row * dim;
  for (int64_t d = 0; d < dim; d++) out[d] = weight ? share.weight * weight[d] + share.input * input[d] : 0;
}

void NarrowProducts::finishRow(int64_t row, const RowState& state, bool radial, const float* input, float* out) const {
  const int64_t dim = plan_.dim;
  // The class slots' sums in order; then the part along x_i is projected out and the target's share
  // added, rounded once.
  double sum[narrowBelow] = {}, product = 0;
  for (int64_t slot = 0; slot < plan_.classSlots; slot++) {
    const double* partial = inputSums_ + (slot * paddedRows_ + row / lanes_ * lanes_) * dim + row % lanes_;
    for (int64_t d = 0; d < dim; d++) sum[d] += partial[d * lanes_];
  }
  for (int64_t d = 0; d < dim; d++) product += sum[d] * input[d];
  const auto [scale, along] = inputProjection(state, product, radial);
  for (int64_t d = 0; d < dim; d++)
    out[d] = static_cast<float>(target_[row * dim + d] + scale * sum[d] + along * input[d]);
}

}  // namespace margin_softmax::cpu
