// What a step does otherwise for rows of few dimensions: see step.h.
#include <cstring>

#include "step.h"

namespace margin_softmax::cpu {

void Step::layOutNarrow(Layout& layout) {
  const int64_t n = paddedRows_, dim = plan_.dim, gradient = narrow_ && problem_.gradInput ? 1 : 0;
  narrowQuery_ = layout.take<double>(narrow_ ? n * dim : 0);
  ceilings_ = layout.take<double>(narrow_ ? n : 0);
  narrowScale_ = layout.take<double>(narrow_ ? plan_.classes : 0);
  narrowInput_ = layout.take<double>(gradient * plan_.classSlots * n * dim);
  narrowTarget_ = layout.take<double>(gradient * n * dim);
}

// As packQuery, with the rows' ceilings.
void Step::packNarrow(const float* rows, int64_t first, int64_t count, const double* factors) {
  const int64_t dim = plan_.dim;
  for (int64_t i = 0; i < 16; i++) {
    const int64_t row = first + i;
    const double factor = i < count ? factors[i] : 0;
    ceilings_[row] = i < count ? states_[row].scale : 0;
    double* out = narrowQuery_ + row / lanes_ * dim * lanes_ + row % lanes_;
    for (int64_t d = 0; d < dim; d++) out[d * lanes_] = factor == 0 ? 0 : rows[i * dim + d] * factor;
  }
}

void Step::scaleNarrowClasses(int64_t tile, const float* weights) {
  const int64_t dim = plan_.dim;
  double* scales = narrowScale_ + tile * plan_.tileClasses;
  for (int64_t j = 0; j < plan_.tileSize(tile); j++)
    scales[j] = margin_softmax::inverseNorm(kernels_.dotDouble(weights + j * dim, weights + j * dim, dim));
}

void Step::keepNarrowTarget(int64_t row, const TargetShare& share, const float* weight) {
  const int64_t dim = plan_.dim;
  const float* x = problem_.input + (firstRow_ + row) * dim;
  double* out = narrowTarget_ + row * dim;
  for (int64_t d = 0; d < dim; d++) out[d] = weight ? share.weight * weight[d] + share.input * x[d] : 0;
}

void Step::finishNarrowRow(int64_t row) {
  const RowState& state = states_[row];
  if (state.label == ignoredLabel) return;
  const int64_t dim = plan_.dim;
  const float* x = problem_.input + (firstRow_ + row) * dim;
  float* out = problem_.gradInput + (firstRow_ + row) * dim;
  double sum[narrowBelow] = {}, product = 0;
  for (int64_t slot = 0; slot < plan_.classSlots; slot++) {
    const double* partial = narrowInput_ + (slot * paddedRows_ + row / lanes_ * lanes_) * dim + row % lanes_;
    for (int64_t d = 0; d < dim; d++) sum[d] += partial[d * lanes_];
  }
  for (int64_t d = 0; d < dim; d++) product += sum[d] * x[d];
  const auto [scale, along] = inputProjection(state, product, radial_);
  for (int64_t d = 0; d < dim; d++)
    out[d] = static_cast<float>(narrowTarget_[row * dim + d] + scale * sum[d] + along * x[d]);
  if (problem_.statistics) rowSquares_[row / lanes_] += kernels_.dot(out, out, dim);
}

}  // namespace margin_softmax::cpu
