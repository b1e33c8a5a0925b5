// The kernels of a step share one plain struct of sizes and device pointers, passed to each by value.
//
//   prepareRows      a warp per row      norms, target cosine and margin in double precision; embedding as an operand
//   placeThresholds  a thread per row    what becomes of its negatives, where the margin transforms them
//   per chunk of classes:
//     prepareClasses a warp per class    1/‖w‖; the class's direction as an operand
//     forwardTile    a tile per block    logits → running (maximum, sum) per row; no logit reaches device memory
//   totalRows        a warp per row      what its other classes come to; shards of the classes add that up
//   closeRows        a thread per row    loss, the probabilities' factors
//   targetInputs     a warp per row      the target's share of gradInput
//   targetGradients  a warp per row      the targets' share of gradWeight, a row per label of the batch
//   per chunk of classes:
//     prepareClasses again (its operand was overwritten by the next chunk's)
//     gradientTile   a tile per block    logits again → A = ∂loss/∂cosine, kept in the level-2 cache
//     inputGradient  a tile per block    partial gradInput += A·ŵ
//     weightGradient a tile per block    Aᵀ·x̂, projected, joined by its targets: written, or spent on the update
//   finishRows       a warp per row      partial gradInput added in order, projected, joined to the target's share
//
// Tiles are the core's (tile.cuh). Rows of few dimensions take narrow.cuh's kernels in their place.
//
// No sum is formed by atomics and each array has one writer per launch, so the same inputs give the same bits.
#pragma once
#include "../formulas/optimizer_step.h"
#include "../formulas/row.h"
#include "operand.cuh"

namespace margin_softmax::cuda {

// A left-out logit: below every other, and finite, so that differences to it stay numbers.
constexpr float leftOut = -3.402823466e38f;

// A row as the tiles see it: A = 2^(scale·cos + bias − maximum)·share − even. All logits are multiples of the core's
// logitUnit, ln 2 for those that raise 2 and not e to them.
struct alignas(16) RowFactors {
  float scale, maximum;
  float share, even;  // with the row's gradient in them; even: what label smoothing gives another class of share 1
};

struct Totals {
  double loss;  // Σ losses, or Σ gradOutput·losses
  double accuracy, targetCosine, largestOther;
  double gradientSquares, inputGradientSquares;
  int64_t notFinite;  // the first row whose loss is not finite, or −1; as wide as the rest: no padding goes down
};

enum class WeightUse { none, gradient, sgd, momentum, adamW };

// The part that does not depend on the operands' precision. Kernels that need no more take it alone.
struct StepRows {
  int rows, paddedRows, dim, paddedDim, classes;
  int chunk;           // classes of a chunk, padded to whole tiles
  int rowTiles;        // tiles of logits along the batch,
  int chunkTiles;      // and along a chunk's classes
  int gradientBlocks;  // of weightGradient, for a whole chunk
  int biasBlocks;      // of biasGradient
  int inputSlots;      // shares of a chunk's classes, each with a partial gradInput of its own
  int terms;           // leadingOnly or leadingAndCorrection
  bool normalized, radial, perRowGradient;
  bool smooths;  // the labels
  double rowGradient, negativeWeight;
  RowWeight unweighted;  // of each row, where rowWeights is null
  double logitUnit;
  Margin margin;

  const int32_t* sample;        // [classes] where their weights lie, or null: in order
  float interclassFilter;       // the largest cosine to another class that counts
  const float* input;           // [rows][dim]
  float* weight;                // [classes][dim]
  float* bias;                  // [classes] or null
  const int32_t* labels;        // [paddedRows], −1 from rows on
  const int32_t* order;         // [rows] rows by label, then by row
  const int32_t* sorted;        // [rows] their labels
  const float* gradOutput;      // [rows] or null
  const RowWeight* rowWeights;  // [rows] or null
  const float* shares;          // [classes] what label smoothing gives each beside the others; null: all 1

  RowState* states;              // [rows]
  RowTotals* totalsOfRows;       // [rows]
  RowFactors* factors;           // [paddedRows]
  NegativeTransform* negatives;  // [paddedRows]; null where the margin leaves negatives as they are
  float* classScale;             // [chunk] 1/‖w‖; 1 for raw scores
  float2* extremes;              // [chunkTiles][paddedRows] running maximum in logit units, and Σ e^(z − maximum)
  float* largest;           // [chunkTiles][paddedRows] running maximum of s·cos, only where negatives are transformed
  double* logitSums;        // [chunkTiles][paddedRows] Σ v·z in logit units, only with label smoothing
  float* columnSums;        // [rowTiles][chunk] Σ_i A·cos, or Σ_i A for raw scores
  int32_t* targetPlaces;    // [chunk] where the class's rows begin in `order`, or −1
  float* partialInput;      // [inputSlots][paddedRows][paddedDim]
  double* narrowInput;      // [inputSlots][paddedRows][paddedDim], zeros at first: of narrow rows in its place,
  double* narrowTarget;     // [rows][dim] the targets' share of their gradInput,
  double* narrowWeight;     // [dim][chunk] and the directions of a chunk's classes
  float* targetGradient;    // [rows][dim]: at the place in `order` of a label's first row
  double* gradientSquares;  // [gradientBlocks], zeros at first
  double* biasSquares;      // [biasBlocks], zeros at first
  double* rowSquares;       // [rows]
  Totals* totals;           // [1]

  float* losses;          // [rows]
  float* gradInput;       // [rows][dim] or null
  float* gradWeight;      // [classes][dim] or null
  float* gradBias;        // [classes] or null
  float* weightState[2];  // [classes][dim]
  float* biasState[2];    // [classes]
  WeightUse weightUse;
  SgdStep sgd;
  AdamWStep adamW;

  // The row of weight, bias and states that belongs to a class.
  __device__ int64_t rowOf(int label) const { return sample ? sample[label] : label; }
  __device__ float* weightRow(int label) const { return weight + rowOf(label) * dim; }
  __device__ float shareOf(int label) const { return shares ? shares[label] : 1; }
};

template <class Element>
struct StepData : StepRows {
  Element* inputOperand;     // [planes][paddedRows][paddedDim]
  Element* weightOperand;    // [planes][chunk][paddedDim]
  Element* gradientOperand;  // [planes][paddedRows][chunk]

  __host__ __device__ int64_t inputPlane() const { return static_cast<int64_t>(paddedRows) * paddedDim; }
  __host__ __device__ int64_t weightPlane() const { return static_cast<int64_t>(chunk) * paddedDim; }
  __host__ __device__ int64_t gradientPlane() const { return static_cast<int64_t>(paddedRows) * chunk; }
  __device__ Matrix<Element> inputs() const { return {inputOperand, paddedDim, inputPlane(), paddedDim}; }
  __device__ Matrix<Element> weights() const { return {weightOperand, paddedDim, weightPlane(), paddedDim}; }
  __device__ Matrix<Element> gradients() const { return {gradientOperand, chunk, gradientPlane(), chunk}; }
};

__device__ inline float multiplyAdd(float a, float b, float c) { return fmaf(a, b, c); }

}  // namespace margin_softmax::cuda
