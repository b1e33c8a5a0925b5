#include "bfloat16.h"

#include <algorithm>

#include "../../core/problem.h"
#include "../../formulas/bfloat16.h"

namespace margin_softmax::cpu {
namespace {

// Writes x rounded, and `plane` words further the rounding error, rounded.
void put(uint16_t* at, float x, int64_t plane, int planes) {
  at[0] = rounded(x);
  if (planes == 2) at[plane] = rounded(x - widened(at[0]));
}

}  // namespace

Bfloat16Products::Bfloat16Products(const Kernels& kernels, const Plan& plan, int64_t paddedRows)
    : Products(kernels, plan, paddedRows),
      bfloat16_(*kernels.bfloat16),
      pairLanes_(bfloat16_.lanes),
      planes_(plan.dim < correctionsBelow ? 2 : 1),
      dimPairs_(divideUp(plan.dim, 2)),
      dimPanels_(divideUp(plan.dim, pairLanes_)) {}

// Rows are packed once and shared. Each thread has operands of its own for a tile, one after the
// other:
//
//   [weightRows][weightPairs][gradByClass][gradByRow]    each planes × …Plane words; unwanted ones take none
//
// Planes are multiples of 32 words, a cache line: packing one never writes to a line of the next.
void Bfloat16Products::layOut(Layout& layout, int threads, bool weight, bool input) {
  packedInput_ = layout.take<uint16_t>(planes_ * paddedRows_ * dimPairs_ * 2);
  packedInputGradient_ = layout.take<uint16_t>(weight ? planes_ * dimPanels_ * paddedRows_ * pairLanes_ : 0);
  PackedTile& t = tile_;
  t.planes = planes_;
  t.dimStride = roundUp(plan_.dim, 16);
  t.tileStride = plan_.tileClasses;
  t.room = roundUp(plan_.tileClasses, 2);
  t.weightRowsPlane = t.weightPairsPlane = roundUp(t.room * t.dimStride, 32);
  t.gradByClassPlane = t.gradByRowPlane = roundUp(t.room * plan_.chunkRows, 32);
  const int64_t rows = t.weightRowsPlane * planes_, columns = input ? rows : 0;
  const int64_t gradByClass = weight ? t.gradByClassPlane * planes_ : 0,
                gradByRow = input ? t.gradByRowPlane * planes_ : 0;
  threadStride_ = rows + columns + gradByClass + gradByRow;
  uint16_t* at = layout.take<uint16_t>(threadStride_ * threads);
  t.weightRows = at;
  t.weightPairs = input ? at + rows : nullptr;
  t.gradByClass = weight ? at + rows + columns : nullptr;
  t.gradByRow = input ? at + rows + columns + gradByClass : nullptr;
  layOutInputSums(layout, input);
}

PackedTile Bfloat16Products::packed(int thread) const {
  PackedTile t = tile_;
  for (uint16_t** operand : {&t.weightRows, &t.weightPairs, &t.gradByClass, &t.gradByRow})
    if (*operand) *operand += thread * threadStride_;
  return t;
}

// Scalar code, once a step: rows × D elements, against rows × D × classes in the products.
//
//   packedInput          pairs of dimensions: (d, d + 1) of a row in 32 bits
//   packedInputGradient  pairs of rows: (i, i + 1) of a dimension in 32 bits
//
// Odd ends are paired with zeros.
void Bfloat16Products::packRows(const float* rows, int64_t first, int64_t count, const RowState* states) {
  const int64_t dim = plan_.dim, inputPlane = dimPairs_ * pairLanes_ * 2, inputGradientPlane = paddedRows_ * pairLanes_;
  for (int64_t i = 0; i < 16; i++) {
    const int64_t row = first + i, panel = row / pairLanes_, lane = row % pairLanes_;
    const float factor = i < count ? static_cast<float>(inputFactor(states[i])) : 0;
    const float* x = rows + i * dim;
    uint16_t* out = packedInput_ + panel * planes_ * inputPlane + lane * 2;
    for (int64_t d = 0; d < dimPairs_ * 2; d++)
      put(out + d / 2 * pairLanes_ * 2 + d % 2, factor == 0 || d >= dim ? 0 : x[d] * factor, inputPlane, planes_);
    if (!packedInputGradient_) continue;
    const float gradFactor = i < count ? static_cast<float>(gradientFactor(states[i])) : 0;
    for (int64_t d = 0; d < dimPanels_ * pairLanes_; d++)
      put(packedInputGradient_ + d / pairLanes_ * planes_ * inputGradientPlane + row / 2 * pairLanes_ * 2 +
              d % pairLanes_ * 2 + row % 2,
          gradFactor == 0 || d >= dim ? 0 : x[d] * gradFactor, inputGradientPlane, planes_);
  }
}

void Bfloat16Products::packWeights(const Tile& tile, bool forLogits, bool forGradient) {
  PackedTile t = packed(tile.thread);
  // Null: the kernel does not write it.
  if (!forLogits) t.weightRows = nullptr;
  if (!forGradient) t.weightPairs = nullptr;
  if (t.weightRows || t.weightPairs) bfloat16_.packWeights(tile.weight, plan_.dim, tile.classes, t);
}

void Bfloat16Products::logits(const Tile& tile, const float* scale, const float* bias, float* out, Prefetch next) {
  bfloat16_.logits(packed(tile.thread), plan_.dim, tile.classes,
                   packedInput_ + planes_ * firstRow(tile.chunk) * dimPairs_ * 2, panels(tile.chunk), scale, bias, out,
                   next);
}

void Bfloat16Products::packGradient(const Tile& tile, const float* gradient) {
  bfloat16_.packGradient(gradient, tile.classes, panels(tile.chunk), packed(tile.thread));
}

void Bfloat16Products::weightGradient(const Tile& tile, const float*, float* out, bool accumulate, Prefetch next) {
  bfloat16_.weightGradient(packed(tile.thread), tile.classes, panels(tile.chunk),
                           packedInputGradient_ + firstRow(tile.chunk) * pairLanes_, paddedRows_, dimPanels_, out,
                           dimStride(), accumulate, next);
}

void Bfloat16Products::inputGradient(const Tile& tile, int64_t classSlot, const float*, bool accumulate,
                                     Prefetch next) {
  bfloat16_.inputGradient(packed(tile.thread), plan_.dim, tile.classes, panels(tile.chunk), inputSum(tile, classSlot),
                          accumulate, next);
}

}  // namespace margin_softmax::cpu
