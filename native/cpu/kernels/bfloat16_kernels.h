// The inner loops of the three products in bfloat16, one table per instruction set (kernels.h points to it).
//
// A bfloat16 is the upper half of a float. Operands are packed in pairs, two neighbours of the summed dimension in 32
// bits, the first in the lower half. A product of pairs adds the second's product to the float sum, then the first's,
// each in one fused multiply-add, to nearest, with denormal numbers taken and given as 0: what vdpbf16ps does on Zen 4.
// Where that instruction is missing two fused multiply-adds of floats give the same bits (products of two bfloat16 are
// exact in a float, so code without fused multiply-adds differs at most where a product is below 2^-126).
//
// Operands have one plane, or two (`planes`): what rounding left of the first is rounded again, and a product takes the
// three terms first·first, first·second, second·first.
#pragma once
#include "kernels.h"

namespace margin_softmax::cpu {

// Packed operands of a tile, L = the `lanes` of Kernels, P = those of this table. Parts lie one behind the other, each
// `…Part` words long.
//   packedInput    [panel of P rows][plane][pairs of D][P][2]
//   packedInputGradient    [panel of P dimensions][plane][pairs of rows][P][2]
//   rows     [plane][class][dimStride]                a class's weights in their order
//   columns  [plane][dimStride/16][pairs of classes][16][2]
//   gradByClass   [plane][panel of L rows][class][L]       the gradient in pairs of rows, times value
//   gradByRow    [plane][panel of P rows][pairs of classes][P][2]  the gradient in pairs of classes, times columns
struct PackedTile {
  uint16_t *weightRows, *weightPairs, *gradByClass, *gradByRow;
  int64_t weightRowsPlane, weightPairsPlane, gradByClassPlane, gradByRowPlane;  // in words of 16 bits
  int64_t dimStride;   // of rows and columns: D to the next multiple of 16
  int64_t tileStride;  // of the tile of floats, in classes
  int64_t room;        // classes of the packed operands: tileStride, made even
  int planes;
};

struct Bfloat16Kernels {
  bool native;  // the processor multiplies bfloat16
  int lanes;    // P; divides L

  // weight [classes][dim] → rows and columns, whichever is not null
  void (*packWeights)(const float* weight, int64_t dim, int64_t classes, const PackedTile& packed);
  // gradient [panel][tileStride][L] → gradByClass and gradByRow, whichever is not null
  void (*packGradient)(const float* gradient, int64_t classes, int64_t panels, const PackedTile& packed);

  // As their namesakes in Kernels, of packed operands.
  void (*logits)(const PackedTile& packed, int64_t dim, int64_t classes, const uint16_t* packedInput, int64_t panels,
                 const float* scale, const float* bias, float* tile, Prefetch next);
  void (*weightGradient)(const PackedTile& packed, int64_t classes, int64_t panels, const uint16_t* packedInputGradient,
                         int64_t inputRows, int64_t dimPanels, float* out, int64_t outStride, bool accumulate,
                         Prefetch next);
  void (*inputGradient)(const PackedTile& packed, int64_t dim, int64_t classes, int64_t panels, float* out,
                        bool accumulate, Prefetch next);
};

}  // namespace margin_softmax::cpu
