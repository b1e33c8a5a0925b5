// The inner loops of the three products in bfloat16, one table per instruction set (kernels.h points to it).
//
// A bfloat16 is the upper half of a float. Operands are packed in pairs, two neighbours of the summed dimension in 32
// bits, the first in the lower half. A product of pairs adds the second's product to the float sum, then the first's,
// each in one fused multiply-add, to nearest, with denormal numbers taken and given as 0: what vdpbf16ps does on Zen 4.
// Where that instruction is missing two fused multiply-adds of floats give the same bits (products of two bfloat16 are
// exact in a float, so code without fused multiply-adds differs at most where a product is below 2^-126).
//
// Operands have one part, or two (`parts`): what rounding left of the first is rounded again, and a product takes the
// three terms first·first, first·second, second·first.
#pragma once
#include "kernels.h"

namespace margin_softmax::cpu {

// Packed operands of a tile, L = the `lanes` of Kernels, P = those of this table. Parts lie one behind the other, each
// `…Part` words long.
//   query    [panel of P rows][part][pairs of D][P][2]
//   value    [panel of P dimensions][part][pairs of rows][P][2]
//   rows     [part][class][dimStride]                a class's weights in their order
//   columns  [part][dimStride/16][pairs of classes][16][2]
//   across   [part][panel of L rows][class][L]       the gradient in pairs of rows, times value
//   along    [part][panel of P rows][pairs of classes][P][2]  the gradient in pairs of classes, times columns
struct PackedTile {
  uint16_t *rows, *columns, *across, *along;
  int64_t rowsPart, columnsPart, acrossPart, alongPart;  // in words of 16 bits
  int64_t dimStride;                                     // of rows and columns: D to the next multiple of 16
  int64_t tileStride;                                    // of the tile of floats, in classes
  int64_t room;                                          // classes of the packed operands: tileStride, made even
  int parts;
};

struct Bfloat16Kernels {
  bool native;  // the processor multiplies bfloat16
  int lanes;    // P; divides L

  // weight [classes][dim] → rows and columns, whichever is not null
  void (*packWeights)(const float* weight, int64_t dim, int64_t classes, const PackedTile& packed);
  // gradient [panel][tileStride][L] → across and along, whichever is not null
  void (*packGradient)(const float* gradient, int64_t classes, int64_t panels, const PackedTile& packed);

  // As their namesakes in Kernels, of packed operands.
  void (*logits)(const PackedTile& packed, int64_t dim, int64_t classes, const uint16_t* query, int64_t panels,
                 const float* scale, const float* bias, float* tile, Upcoming next);
  void (*weightGradient)(const PackedTile& packed, int64_t classes, int64_t panels, const uint16_t* value,
                         int64_t valueRows, int64_t dimPanels, float* out, int64_t outStride, bool accumulate,
                         Upcoming next);
  void (*inputGradient)(const PackedTile& packed, int64_t dim, int64_t classes, int64_t panels, float* out,
                        bool accumulate, Upcoming next);
};

}  // namespace margin_softmax::cpu
