// The three products in bfloat16, one table per instruction set (kernels.h points to it).
//
// A bfloat16 is the upper half of a float. Every table gives the bits of Intel's tile instruction
// tdpbf16ps, which this order of operations defines. The summed dimension K is cut into blocks of
// 32, the last one filled up with zeros; for each output and block
//
//   even = odd = +0
//   for k = 0 … 15:  even = fma(a[2k], b[2k], even),  odd = fma(a[2k + 1], b[2k + 1], odd)
//   sum = sum + (even + odd)
//
// Each operation rounds to nearest even, and denormal numbers count as 0, as operands and as
// results. `sum` begins with +0, or with what the product adds to. Infinities and NaN are as usual
// (which NaN it is may differ).
//
// Operands have one plane, or two: what rounding left of the first is rounded again. A block adds
// its product's terms one after the other, in the order of bfloat16Terms.
#pragma once
#include "kernels.h"

namespace margin_softmax::cpu {

constexpr int bfloat16Block = 32;  // of K
constexpr int maxPlanes = 2;

// The planes of A and of B that a term multiplies. From term to term one of both stays, so that its
// tiles are loaded once. The product of both second planes is left out: it is as small as what
// these were rounded by.
struct Bfloat16Term {
  int8_t a, b;
};
struct Bfloat16Terms {
  int count;
  Bfloat16Term term[3];
};
constexpr Bfloat16Terms bfloat16Terms[maxPlanes] = {
    {1, {{0, 0}}},
    {3, {{0, 1}, {0, 0}, {1, 0}}},
};

// Sizes that the products of one step share.
struct Bfloat16Shape {
  int64_t dim;                     // D
  int64_t paddedRows;              // N: the batch's rows, to a multiple of maxLanes
  int64_t tileClasses, chunkRows;  // of tiles of floats, [panel][tileClasses][L]; chunkRows is a multiple of maxLanes
  int planes;
};

// The bytes that packed operands take, or their places (aligned to 64 bytes; null where one is not
// wanted). Each is packed by the table that multiplies it, in a layout of its own:
// bfloat16_impl.h, amx_impl.h.
template <class T>
struct Bfloat16Operands {
  T input;          // B of the logits:         the batch's embeddings
  T inputGradient;  // B of the weights' gradient: the same, times the rows' gradient factors
  T weightRows;     // A of the logits:         the tile's weights
  T weightPairs;    // A of the inputs' gradient: the same, summed over classes
  T gradByClass;    // A of the weights' gradient: the tile's gradient, summed over rows
  T gradByRow;      // B of the inputs' gradient: the same, summed over classes
};
using PackedSizes = Bfloat16Operands<int64_t>;
using Packed = Bfloat16Operands<void*>;

struct Bfloat16Kernels {
  bool native;  // the processor multiplies bfloat16
  bool tiles;   // in tiles, for which the system's permission is needed

  PackedSizes (*sizes)(const Bfloat16Shape& shape);

  // Rows [first, first + 16), from a multiple of 16 on, times factors[16] → input and, where it is
  // not null, inputGradient. A factor of 0 packs zeros, whatever the row holds, and reads nothing
  // of it.
  void (*packInput)(const Bfloat16Shape& shape, const float* rows, int64_t first, const float* factors,
                    const float* gradientFactors, const Packed& packed);
  // weight [classes][D] → weightRows and weightPairs, whichever is not null
  void (*packWeights)(const Bfloat16Shape& shape, const float* weight, int64_t classes, const Packed& packed);
  // gradient [panel][tileClasses][L] → gradByClass and gradByRow, whichever is not null
  void (*packGradient)(const Bfloat16Shape& shape, const float* gradient, int64_t classes, int64_t panels,
                       const Packed& packed);

  // As their namesakes in Kernels, of packed operands and of the `panels` panels of rows from
  // `firstRow` on, a multiple of maxLanes. `next` is fetched meanwhile.
  void (*logits)(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t firstRow, int64_t panels,
                 const float* scale, const float* bias, float* tile, Prefetch next);
  // out[classes][D to the next multiple of L]
  void (*weightGradient)(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t firstRow,
                         int64_t panels, float* out, bool accumulate, Prefetch next);
  // out[panel][D][L]
  void (*inputGradient)(const Bfloat16Shape& shape, const Packed& packed, int64_t classes, int64_t panels, float* out,
                        bool accumulate, Prefetch next);
};

}  // namespace margin_softmax::cpu
