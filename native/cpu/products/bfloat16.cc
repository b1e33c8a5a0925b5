#include "bfloat16.h"

#include "../../core/problem.h"

namespace margin_softmax::cpu {

Bfloat16Products::Bfloat16Products(const Kernels& kernels, const Plan& plan, int64_t paddedRows)
    : Products(kernels, plan, paddedRows),
      bfloat16_(*kernels.bfloat16),
      shape_{plan.dim, paddedRows, plan.tileClasses, plan.chunkRows, plan.dim < correctionsBelow ? 2 : 1} {}

void Bfloat16Products::layOut(Layout& layout, int threads, bool weight, bool input) {
  const PackedSizes sizes = bfloat16_.sizes(shape_);
  packed_.input = layout.take<char>(sizes.input);
  packed_.inputGradient = layout.take<char>(weight ? sizes.inputGradient : 0);
  // A thread's operands one behind the other, each from a new cache line on.
  int64_t bytes = 0;
  const auto place = [&](bool wanted, int64_t size) {
    const int64_t at = bytes;
    if (wanted) bytes += roundUp(size, 64);
    return at;
  };
  const int64_t weightRows = place(true, sizes.weightRows), weightPairs = place(input, sizes.weightPairs);
  const int64_t gradByClass = place(weight, sizes.gradByClass), gradByRow = place(input, sizes.gradByRow);
  threadStride_ = bytes;
  char* base = layout.take<char>(threadStride_ * threads);
  packed_.weightRows = base + weightRows;
  packed_.weightPairs = input ? base + weightPairs : nullptr;
  packed_.gradByClass = weight ? base + gradByClass : nullptr;
  packed_.gradByRow = input ? base + gradByRow : nullptr;
  layOutInputSums(layout, input);
}

Packed Bfloat16Products::packed(int thread) const {
  Packed p = packed_;
  for (void** operand : {&p.weightRows, &p.weightPairs, &p.gradByClass, &p.gradByRow})
    if (*operand) *operand = static_cast<char*>(*operand) + thread * threadStride_;
  return p;
}

void Bfloat16Products::packRows(const float* rows, int64_t first, int64_t count, const RowState* states) {
  float factors[16] = {}, gradientFactors[16] = {};
  for (int64_t i = 0; i < count; i++) {
    factors[i] = static_cast<float>(inputFactor(states[i]));
    gradientFactors[i] = static_cast<float>(gradientFactor(states[i]));
  }
  bfloat16_.packInput(shape_, rows, first, factors, gradientFactors, packed_);
}

void Bfloat16Products::packWeights(const Tile& tile, bool forLogits, bool forGradient) {
  Packed p = packed(tile.thread);
  if (!forLogits) p.weightRows = nullptr;
  if (!forGradient) p.weightPairs = nullptr;
  if (p.weightRows || p.weightPairs) bfloat16_.packWeights(shape_, tile.weight, tile.classes, p);
}

void Bfloat16Products::logits(const Tile& tile, const float* scale, const float* bias, float* out, Prefetch next) {
  bfloat16_.logits(shape_, packed(tile.thread), tile.classes, firstRow(tile.chunk), panels(tile.chunk), scale, bias,
                   out, next);
}

void Bfloat16Products::packGradient(const Tile& tile, const float* gradient) {
  bfloat16_.packGradient(shape_, gradient, tile.classes, panels(tile.chunk), packed(tile.thread));
}

void Bfloat16Products::weightGradient(const Tile& tile, const float*, float* out, bool accumulate, Prefetch next) {
  bfloat16_.weightGradient(shape_, packed(tile.thread), tile.classes, firstRow(tile.chunk), panels(tile.chunk), out,
                           accumulate, next);
}

void Bfloat16Products::inputGradient(const Tile& tile, int64_t classSlot, const float*, bool accumulate,
                                     Prefetch next) {
  bfloat16_.inputGradient(shape_, packed(tile.thread), tile.classes, panels(tile.chunk), inputSum(tile, classSlot),
                          accumulate, next);
}

}  // namespace margin_softmax::cpu
