// The prepare phase, and what all phases read through: scratch memory, packed rows, a tile's
// weights.
//
// The workspace holds, one array after the other (step.h has their shapes):
//
//   rows          states_, totals_, order_, the products' packed rows, maxima … rowLimit_
//   classes       inverseClassNorm_, partialWeight_, partialBias_
//   negligible    only if terms are skipped: bounds, histograms, sums of skipped terms, inputBlocks_
//   scratch_      [threads][scratchStride_]
//   kept_         [keptTiles_][tileFloats()] logits of the first tiles, as many as the budget has room for
#include <algorithm>
#include <cstring>

#include "step.h"

namespace margin_softmax::cpu {

void Step::layOut(Layout& layout) {
  const int64_t n = paddedRows_, dim = plan_.dim, classes = plan_.classes;
  const bool weight = wantsWeight(), gradient = wantsGradient();
  states_ = layout.take<RowState>(n);
  totals_ = layout.take<RowTotals>(problem_.exchange ? n : 0);
  order_ = layout.take<int32_t>(n);
  products_->layOut(layout, problem_.execution.threads, weight, problem_.gradInput);
  inverseClassNorm_ = layout.take<float>(classes);
  maxima_ = layout.take<float>(plan_.classSlots * n);
  sums_ = layout.take<float>(plan_.classSlots * n);
  logitSums_ = layout.take<double>(smooths() ? plan_.classSlots * n : 0);
  rowMaximum_ = layout.take<float>(n);
  rowFactor_ = layout.take<float>(n);
  rowGradients_ = layout.take<float>(n);
  rowEven_ = layout.take<float>(smooths() ? n : 0);
  rowLimit_ = layout.take<float>(problem_.filters() ? n : 0);
  negatives_.layOut(layout, n, plan_.classSlots);
  const bool partial = weight && plan_.rowSlots > 1;
  partialWeight_ = layout.take<float>(partial ? plan_.rowSlots * classes * paddedDim_ : 0);
  partialBias_ = layout.take<float>(weight && problem_.bias ? plan_.rowSlots * classes : 0);
  slotSquares_ = layout.take<double>(plan_.classTiles);
  rowSquares_ = layout.take<double>(n / lanes_);
  if (skipsNegligible_) negligible_.layOut(layout, n);
  skippedOfRows_ = layout.take<double>(skipsNegligible_ ? plan_.classSlots * n : 0);
  skippedOfTiles_ = layout.take<double>(skipsNegligible_ ? plan_.rowSlots * plan_.classTiles : 0);
  inputBlocks_ = layout.take<float>(skipsNegligible_ && weight ? plan_.rows * dim : 0);
  labels_ = layout.take<int32_t>(skipsNegligible_ ? plan_.rows : 0);
  computed_ = layout.take<int64_t>(skipsNegligible_ ? plan_.slots() : 0);
  // A thread's scratch, as scratchOf cuts it:
  //   [tile][class gradients][row][weights | bias][gathered rows | maxima | factors | costs][lists]
  scratchStride_ = tileFloats() + classGradientFloats() + roundUp(paddedDim_, 16) + 64;
  if (copiesWeights()) scratchStride_ += roundUp(plan_.tileClasses * (dim + 1), 16);
  if (skipsNegligible_) scratchStride_ += dim * lanes_ + 3 * roundUp(plan_.chunkRows, 16) + 2 * listTerms + 64;
  scratchStride_ = roundUp(scratchStride_, pageFloats);
  scratch_ = layout.take<float>(scratchStride_ * problem_.execution.threads, pageFloats * sizeof(float));
  // Kept tiles come last and take the rest of the budget. They pay only if there is a backward
  // pass.
  const int64_t left = gradient ? problem_.execution.workspaceBytes - layout.bytes() : 0;
  keptTiles_ = std::clamp<int64_t>(left / (tileFloats() * 4), 0, plan_.classTiles * plan_.rowChunks);
  kept_ = layout.take<float>(keptTiles_ * tileFloats(), pageFloats * sizeof(float));
}

// Cuts a thread's scratch as layOut has measured it: change both together.
Step::ThreadScratch Step::scratchOf(int thread) const {
  float* base = scratch_ + thread * scratchStride_;
  float* gradient = base + tileFloats();
  float* row = gradient + classGradientFloats();
  float* weights = row + roundUp(paddedDim_, 16) + 64;
  float* packedInput = weights + (copiesWeights() ? roundUp(plan_.tileClasses * (plan_.dim + 1), 16) : 0);
  float* maxima = packedInput + plan_.dim * lanes_;
  return {base,
          gradient,
          row,
          weights,
          weights + plan_.tileClasses * plan_.dim,
          packedInput,
          maxima,
          maxima + roundUp(plan_.chunkRows, 16),
          maxima + 2 * roundUp(plan_.chunkRows, 16),
          maxima + 3 * roundUp(plan_.chunkRows, 16)};
}

// The tiles kept are the first ones in the order of forward, so that the budget alone decides
// which.
float* Step::keptTile(int64_t tile, int64_t chunk) const {
  const int64_t index = tile * plan_.rowChunks + chunk;
  return index < keptTiles_ ? kept_ + index * tileFloats() : nullptr;
}

// tile [panel][tileClasses][L]: L rows side by side, class by class.
float* Step::tileElement(float* tile, int64_t rowInChunk, int64_t classInTile) const {
  return tile + ((rowInChunk / lanes_) * plan_.tileClasses + classInTile) * lanes_ + rowInChunk % lanes_;
}

// Finds the first row in `order_` whose label is this one or larger.
const int32_t* Step::firstTarget(int64_t label) const {
  const int32_t* labels = problem_.labels + firstRow_;
  return std::lower_bound(order_, order_ + plan_.rows, label,
                          [labels](int32_t row, int64_t wanted) { return labels[row] < wanted; });
}

void packInput(const float* rows, int64_t dim, int64_t first, int64_t count, const double* factors, int lanes,
               float* packedInput) {
  float* out = packedInput + (first / lanes) * dim * lanes + first % lanes;
  // A block of dimensions for all 16 rows, then the next. The lines that 16 rows share stay in the
  // level-1 cache until they are full; row by row each would be loaded 16 times.
  constexpr int64_t block = 64;
  for (int64_t from = 0; from < dim; from += block) {
    const int64_t to = std::min(dim, from + block);
    for (int64_t i = 0; i < 16; i++) {
      const float factor = i < count ? static_cast<float>(factors[i]) : 0;
      if (factor == 0)
        for (int64_t d = from; d < to; d++) out[d * lanes + i] = 0;
      else
        for (int64_t d = from; d < to; d++) out[d * lanes + i] = rows[i * dim + d] * factor;
    }
  }
}

// Prepares 16 rows: norm, scale, target cosine and margin in double precision, then the packed
// operands.
void Step::prepareRows(int64_t block, int thread) {
  const int64_t dim = plan_.dim, first = block * 16;
  const int64_t count = std::clamp<int64_t>(plan_.rows - first, 0, 16);
  const float* rows = problem_.input + (firstRow_ + first) * dim;
  if (problem_.filters()) std::fill_n(rowLimit_ + first, 16, 0.0f);
  for (int64_t i = 0; i < 16; i++) negatives_.leave(first + i);
  for (int64_t i = 0; i < count; i++) {
    RowState& state = states_[first + i];
    const float* x = rows + i * dim;
    state = RowState{};
    state.label = problem_.labels[firstRow_ + first + i];
    if (state.label == ignoredLabel) continue;
    const int64_t global = firstRow_ + first + i;
    const double upstream = weights_.rowGradient * (problem_.gradOutput ? problem_.gradOutput[global] : 1);
    const RowWeight& weight = weights_.of(global);
    const double inputSquares = normalized_ ? kernels_.dotDouble(x, x, dim) : 0;
    if (state.label == labelElsewhere) {
      state = rowWithoutTarget(problem_.margin, state.label, inputSquares, weight, upstream);
    } else {
      const float* w = weightRow(state.label, thread);
      state = targetRow(problem_.margin, state.label, kernels_.dotDouble(x, w, dim), inputSquares,
                        normalized_ ? kernels_.dotDouble(w, w, dim) : 0,
                        problem_.bias ? problem_.bias[problem_.rowOf(state.label)] : 0, weight, upstream);
    }
    negatives_.set(first + i, negativesOf(problem_.margin, state.cosine), state.scale);
    if (problem_.filters())
      rowLimit_[first + i] = static_cast<float>((problem_.interclassFilter - (narrow_ ? 1 : 0)) * state.scale);
  }
  products_->packRows(rows, first, count, states_ + first);
}

// Each row's threshold depends on its target's cosine, which one of the processes has.
Status Step::exchangeTargets() {
  for (int64_t row = 0; row < plan_.rows; row++) {
    totals_[row] = noTotals;
    totals_[row].cosine = states_[row].cosine;  // 0 if another process holds it, or if ignored
  }
  if (Status status = problem_.exchange->reduceTotals(totals_, plan_.rows); !status) return status;
  for (int64_t row = 0; row < plan_.rows; row++)
    if (states_[row].label != ignoredLabel)
      negatives_.set(row, negativesOf(problem_.margin, totals_[row].cosine), states_[row].scale);
  return {};
}

// In single precision; through double precision if the squares could leave its range.
void scaleRows(const Kernels& kernels, const float* rows, int64_t dim, int64_t count, bool normalized, float* scales) {
  if (!normalized) {
    std::fill(scales, scales + count, 1.0f);
    return;
  }
  kernels.squares(rows, dim, count, scales);
  for (int64_t j = 0; j < count; j++) {
    const float squares = scales[j], *row = rows + j * dim;
    scales[j] = squares > 1e-24f && squares < 1e30f ? 1.0f / std::sqrt(squares)
                                                    : static_cast<float>(inverseNorm(kernels.dotDouble(row, row, dim)));
  }
}

// Returns class j's weights, in place or, if they are stored in bfloat16, widened in this thread's
// scratch: read them before the next call overwrites them.
float* Step::weightRow(int64_t j, int thread) const {
  const int64_t at = problem_.rowOf(j) * plan_.dim;
  if (!problem_.bfloat16Weight) return problem_.weight + at;
  float* row = scratchOf(thread).weights;
  kernels_.widen(problem_.bfloat16Weight + at, row, plan_.dim);
  return row;
}

// Stores a row that weightRow returned, rounded stochastically. Its random bits depend on the step,
// the class and the column alone: threads, sample and processes must not change them.
void Step::storeRow(int64_t j, const float* row) const {
  if (!problem_.bfloat16Weight) return;
  const int64_t dim = plan_.dim, at = problem_.rowOf(j);
  kernels_.roundStochastically(row, problem_.bfloat16Weight + at * dim, dim, problem_.update->roundingKey,
                               (problem_.firstClass + at) * divideUp(dim, 4));
}

// A tile's weights and biases: in place; widened from bfloat16; or gathered row by row from a
// sample's places.
Step::TileWeights Step::tileWeights(int64_t tile, int thread) const {
  const int64_t first = tile * plan_.tileClasses, dim = plan_.dim;
  const float* bias = problem_.bias ? problem_.bias + first : nullptr;
  if (!copiesWeights()) return {problem_.weight + first * dim, bias};
  const ThreadScratch scratch = scratchOf(thread);
  if (!problem_.sample) {
    kernels_.widen(problem_.bfloat16Weight + first * dim, scratch.weights, plan_.tileSize(tile) * dim);
    return {scratch.weights, bias};
  }
  for (int64_t j = 0; j < plan_.tileSize(tile); j++) {
    const int64_t at = problem_.rowOf(first + j) * dim;
    if (problem_.bfloat16Weight) kernels_.widen(problem_.bfloat16Weight + at, scratch.weights + j * dim, dim);
    else std::memcpy(scratch.weights + j * dim, problem_.weight + at, dim * sizeof(float));
    if (problem_.bias) scratch.bias[j] = problem_.bias[problem_.rowOf(first + j)];
  }
  return {scratch.weights, problem_.bias ? scratch.bias : nullptr};
}

// Computes 1/‖w_j‖ of a tile's classes, and notes the first class whose norm is too large to
// multiply with.
void Step::scaleClasses(int64_t tile, const float* weights) {
  const int64_t first = tile * plan_.tileClasses, classes = plan_.tileSize(tile);
  scaleRows(kernels_, weights, plan_.dim, classes, normalized_, inverseClassNorm_ + first);
  products_->scaleClasses(tile, weights);
  if (normalized_) reportLarge(inverseClassNorm_ + first, first, classes, leastInverseNorm_, large_);
}

Prefetch Step::storedWeights(int64_t first, int64_t count) const {
  if (problem_.sample) return {};
  const int64_t at = first * plan_.dim, floats = count * plan_.dim;
  if (problem_.bfloat16Weight) return {problem_.bfloat16Weight + at, static_cast<int64_t>(floats / 32)};
  return {problem_.weight + at, static_cast<int64_t>(floats / 16)};
}

Prefetch Step::nextWeights(int64_t tile) const {
  return tile + 2 > plan_.classTiles ? Prefetch{} : storedWeights((tile + 1) * plan_.tileClasses, plan_.tileClasses);
}

// Where weights are read in place and logits were kept, the tile's own: gradInput is the first to read
// them. Otherwise they have been read for the logits or copied.
Prefetch Step::weightsAfterGradient(int64_t tile, bool again) const {
  if (products_->packsWeights()) return nextWeights(tile);
  if (again || recomputes(tile) || copiesWeights()) return {};
  return storedWeights(tile * plan_.tileClasses, plan_.tileSize(tile));
}

Prefetch Step::keptLogits(int64_t tile, int64_t chunk) const {
  const float* kept = keptTile(tile, chunk);
  return {kept, kept ? static_cast<int64_t>(panelsOf(chunk) * plan_.tileClasses * lanes_ / 16) : 0};
}

}  // namespace margin_softmax::cpu
