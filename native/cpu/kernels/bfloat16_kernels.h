// The inner loops of the three products in bfloat16, one table per instruction set (kernels.h
// points to it).
//
// A bfloat16 is the upper half of a float. Operands are packed in pairs: two neighbors of the
// summed dimension in 32 bits, the first in the lower half.
//
//   bits 31 … 16    15 … 0
//      │ second │ first │      one lane of a vector, one step of two multiply-adds
//
// A product of pairs adds the second's product to the float sum, then the first's. Each is one
// fused multiply-add, rounded to nearest, with denormal inputs and outputs as 0: what vdpbf16ps
// does on Zen 4. Processors without it get the same bits from two fused multiply-adds of floats.
// (Products of two bfloat16 are exact in a float, so without fused multiply-adds only products
// below 2^-126 differ.)
//
// An operand has one plane or two (`planes`). The second holds the rounding errors of the first,
// rounded again; a product then has three terms: first·first, first·second, second·first.
#pragma once
#include "kernels.h"

namespace margin_softmax::cpu {

// Packed operands, L = the `lanes` of Kernels, P = those of this table. [2] is a pair, 32 bits.
// Planes of a tile's operands lie `…Plane` words of 16 bits apart.
//
//   of rows, packed once a step
//     packedInput          [panel of P rows][plane][pairs of D][P][2]
//     packedInputGradient  [panel of P dimensions][plane][pairs of rows][P][2]
//   of a tile's weights
//     weightRows    [plane][class][dimStride]                         rows in their order, for logits
//     weightPairs   [plane][dimStride/16][pairs of classes][16][2]    for inputGradient
//   of a tile's gradient
//     gradByClass   [plane][panel of L rows][class][L]                neighboring rows are pairs; for
//                                                                     weightGradient
//     gradByRow     [plane][panel of P rows][pairs of classes][P][2]  for inputGradient
struct PackedTile {
  uint16_t *weightRows, *weightPairs, *gradByClass, *gradByRow;
  int64_t weightRowsPlane, weightPairsPlane, gradByClassPlane, gradByRowPlane;  // in words of 16 bits
  int64_t dimStride;   // of both weight operands: D rounded up to a multiple of 16
  int64_t tileStride;  // of the tile of floats, in classes
  int64_t room;        // classes of an operand: tileStride rounded up to even
  int planes;
};

struct Bfloat16Kernels {
  bool native;  // the processor multiplies bfloat16
  int lanes;    // P; divides L

  // weight [classes][dim] → weightRows and weightPairs, whichever is not null
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
