#include "bfloat16_products.h"

#include <algorithm>

#include "../bfloat16.h"
#include "../problem.h"

namespace margin_softmax::cpu {
namespace {

// x as its rounded value and, `part` words further, what that left.
void put(uint16_t* at, float x, int64_t part, int parts) {
  at[0] = rounded(x);
  if (parts == 2) at[part] = rounded(x - widened(at[0]));
}

}  // namespace

Bfloat16Products::Bfloat16Products(const Kernels& kernels, const Plan& plan, int64_t paddedRows)
    : kernels_(*kernels.bfloat16),
      plan_(plan),
      lanes_(kernels.lanes),
      pairLanes_(kernels_.lanes),
      parts_(plan.dim < correctionsBelow ? 2 : 1),
      paddedRows_(paddedRows),
      dimPairs_(divideUp(plan.dim, 2)),
      dimPanels_(divideUp(plan.dim, pairLanes_)) {}

void Bfloat16Products::layOut(Layout& layout, int threads, bool weight, bool input) {
  wantsWeight_ = weight;
  query_ = layout.take<uint16_t>(parts_ * paddedRows_ * dimPairs_ * 2);
  value_ = layout.take<uint16_t>(weight ? parts_ * dimPanels_ * paddedRows_ * pairLanes_ : 0);
  PackedTile& t = tile_;
  t.parts = parts_;
  t.dimStride = roundUp(plan_.dim, 16);
  t.tileStride = plan_.tileClasses;
  t.room = roundUp(plan_.tileClasses, 2);
  t.rowsPart = t.columnsPart = roundUp(t.room * t.dimStride, 32);
  t.acrossPart = t.alongPart = roundUp(t.room * plan_.chunkRows, 32);
  const int64_t rows = t.rowsPart * parts_, columns = input ? rows : 0;
  const int64_t across = weight ? t.acrossPart * parts_ : 0, along = input ? t.alongPart * parts_ : 0;
  threadStride_ = rows + columns + across + along;
  uint16_t* at = layout.take<uint16_t>(threadStride_ * threads);
  t.rows = at;
  t.columns = input ? at + rows : nullptr;
  t.across = weight ? at + rows + columns : nullptr;
  t.along = input ? at + rows + columns + across : nullptr;
}

PackedTile Bfloat16Products::packed(int thread) const {
  PackedTile t = tile_;
  for (uint16_t** operand : {&t.rows, &t.columns, &t.across, &t.along})
    if (*operand) *operand += thread * threadStride_;
  return t;
}

void Bfloat16Products::packRows(const float* rows, int64_t first, int64_t count, const double* queryFactors,
                                const double* valueFactors) const {
  const int64_t dim = plan_.dim, queryPart = dimPairs_ * pairLanes_ * 2, valuePart = paddedRows_ * pairLanes_;
  for (int64_t i = 0; i < 16; i++) {
    const int64_t row = first + i, panel = row / pairLanes_, lane = row % pairLanes_;
    const float factor = i < count ? static_cast<float>(queryFactors[i]) : 0;
    const float* x = rows + i * dim;
    uint16_t* out = query_ + panel * parts_ * queryPart + lane * 2;
    for (int64_t d = 0; d < dimPairs_ * 2; d++)
      put(out + d / 2 * pairLanes_ * 2 + d % 2, factor == 0 || d >= dim ? 0 : x[d] * factor, queryPart, parts_);
    if (!wantsWeight_) continue;
    const float valueFactor = i < count ? static_cast<float>(valueFactors[i]) : 0;
    for (int64_t d = 0; d < dimPanels_ * pairLanes_; d++)
      put(value_ + d / pairLanes_ * parts_ * valuePart + row / 2 * pairLanes_ * 2 + d % pairLanes_ * 2 + row % 2,
          valueFactor == 0 || d >= dim ? 0 : x[d] * valueFactor, valuePart, parts_);
  }
}

void Bfloat16Products::packWeights(const float* weight, int64_t classes, int thread, bool forLogits,
                                   bool forGradient) const {
  PackedTile t = packed(thread);
  if (!forLogits) t.rows = nullptr;
  if (!forGradient) t.columns = nullptr;
  if (t.rows || t.columns) kernels_.packWeights(weight, plan_.dim, classes, t);
}

void Bfloat16Products::logits(int thread, int64_t classes, int64_t chunk, const float* scale, const float* bias,
                              float* tile, Upcoming next) const {
  kernels_.logits(packed(thread), plan_.dim, classes, query_ + parts_ * chunk * plan_.chunkRows * dimPairs_ * 2,
                  panels(chunk), scale, bias, tile, next);
}

void Bfloat16Products::packGradient(int thread, int64_t classes, int64_t chunk, const float* gradient) const {
  kernels_.packGradient(gradient, classes, panels(chunk), packed(thread));
}

void Bfloat16Products::weightGradient(int thread, int64_t classes, int64_t chunk, float* out, int64_t outStride,
                                      bool accumulate, Upcoming next) const {
  kernels_.weightGradient(packed(thread), classes, panels(chunk), value_ + chunk * plan_.chunkRows * pairLanes_,
                          paddedRows_, dimPanels_, out, outStride, accumulate, next);
}

void Bfloat16Products::inputGradient(int thread, int64_t classes, int64_t chunk, float* out, bool accumulate,
                                     Upcoming next) const {
  kernels_.inputGradient(packed(thread), plan_.dim, classes, panels(chunk), out, accumulate, next);
}

}  // namespace margin_softmax::cpu
