#include "step.h"

#include <algorithm>
#include <cstring>

namespace margin_softmax::cpu {

Step::Step(Problem& problem, const Kernels& kernels, int64_t firstRow, int64_t rows, const BatchWeights& weights)
    : problem_(problem),
      kernels_(kernels),
      plan_(rows, problem.dim, problem.classes, tileClassLimit(problem.execution.precision)),
      lanes_(kernels.lanes),
      firstRow_(firstRow),
      paddedRows_(roundUp(rows, maxLanes)),
      paddedDim_(roundUp(problem.dim, kernels.lanes)),
      normalized_(isNormalized(problem.margin)),
      radial_(scalesWithNorm(problem.margin)),
      weights_(weights),
      negligible_(plan_, lanes_),
      products_(makeProducts(problem, kernels, plan_, paddedRows_)),
      narrow_(problem.isNarrow() ? static_cast<NarrowProducts*>(products_.get()) : nullptr),
      negatives_(problem.margin, narrow_ ? 1 : 0),
      runUpdate_(problem.update ? RunUpdate(problem.update->optimizer, problem.update->step)
                                : RunUpdate(Optimizer{}, 1)),
      // Only in one pass over all rows: the error is relative to the norm of the whole gradient,
      // which no pass of several knows.
      // And only for untransformed negatives: negligible.h assumes ∂z/∂cos = s.
      skipsNegligible_(problem.negligible > 0 && products_->computesRows() && normalized_ && !negatives_.transform() &&
                       problem.labelSmoothing == 0 && rows == problem.rows && wantsGradient() && negligible_.fit()) {}

// Runs the phases. Within a phase every thread takes items (slots, tiles, blocks of rows) from a
// common counter, and an item owns what it writes; so nothing depends on the number of threads.
Status Step::run() {
  if (Status status = placeInWorkspace([this](Layout& layout) { layOut(layout); }); !status) return status;
  sortByLabel(problem_.labels + firstRow_, plan_.rows, plan_.classes, order_);
  // Prepare: 16 rows an item.
  forEach(paddedRows_ / 16, [&](int64_t block, int thread) { prepareRows(block, thread); });
  if (problem_.exchange && negatives_.transform())
    if (Status status = exchangeTargets(); !status) return status;
  for (int64_t j = 0; narrow_ && smooths() && j < plan_.classes; j++) allShares_ += shareOf(j);
  double scale = 0;
  for (int64_t i = 0; i < plan_.rows; i++) scale = std::max(scale, states_[i].scale);
  leastInverseNorm_ = leastInverseNorm(scale);
  // With several row slots a tile belongs to several items: norms come first. Else forward computes
  // them on its way.
  if (plan_.rowSlots > 1)
    forEach(plan_.classTiles, [&](int64_t tile, int thread) { scaleClasses(tile, tileWeights(tile, thread).weight); });
  forEach(plan_.slots(), [&](int64_t slot, int thread) { forward(slot, thread); });
  if (large_.found()) return Status::tooLarge(problem_.firstClass + problem_.rowOf(large_.place()));
  if (problem_.exchange)
    if (Status status = exchangeTotals(); !status) return status;
  forEach(roundUp(plan_.rows, lanes_) / 8, [&](int64_t block, int thread) {
    for (int64_t row = block * 8; row < block * 8 + 8; row++) reduceRow(row, thread);
  });
  if (Status status = collect(); !status) return status;
  if (wantsGradient()) {
    backwardPhase();
    if (problem_.statistics) {
      for (int64_t t = 0; wantsWeight() && t < plan_.classTiles; t++)
        problem_.statistics->gradientSquares += slotSquares_[t];
      for (int64_t p = 0; problem_.gradInput && p < paddedRows_ / lanes_; p++)
        problem_.statistics->inputGradientSquares += rowSquares_[p];
    }
  }
  if (cancelled()) return Status::abandoned();
  return {};
}

// Logits of a tile of classes × a chunk of rows, without the classes that the interclass filter
// excludes.
void Step::computeTile(const Tile& tile, const float* bias, float* out) const {
  products_->logits(tile, inverseClassNorm_ + tile.index * plan_.tileClasses, bias, out, nextWeights(tile.index));
  if (problem_.filters())
    kernels_.maskAbove(out, plan_.tileClasses, tile.classes, panelsOf(tile.chunk),
                       rowLimit_ + tile.chunk * plan_.chunkRows, maskedLogit);
}

// Forward, one slot: for every tile of the class slot, for every chunk of the row slot:
//
//   logits → with smoothing: Σ v·z per row → targets masked → running (maximum, Σ e^(z − maximum)) per row
//
// A kept tile is written in place and read again by the backward phase, with its targets masked
// already.
void Step::forward(int64_t slot, int thread) {
  const int64_t classSlot = slot / plan_.rowSlots, rowSlot = slot % plan_.rowSlots;
  const int64_t firstChunk = plan_.firstChunk(rowSlot), lastChunk = plan_.firstChunk(rowSlot + 1);
  const bool smoothing = smooths();
  float* maxima = maxima_ + classSlot * paddedRows_;
  float* sums = sums_ + classSlot * paddedRows_;
  double* logitSums = logitSums_ + (smoothing ? classSlot * paddedRows_ : 0);
  const int64_t firstRow = firstChunk * plan_.chunkRows;
  const int64_t lastRow = std::min(lastChunk * plan_.chunkRows, paddedRows_);
  for (int64_t i = firstRow; i < lastRow; i++) {
    maxima[i] = maskedLogit;
    sums[i] = 0;
    if (smoothing) logitSums[i] = 0;
  }
  negatives_.beginLargest(classSlot, firstRow, lastRow);
  const ThreadScratch scratch = scratchOf(thread);
  for (int64_t tile = plan_.firstTile(classSlot); tile < plan_.firstTile(classSlot + 1) && !cancelled(); tile++) {
    const TileWeights weights = tileWeights(tile, thread);
    if (plan_.rowSlots == 1) scaleClasses(tile, weights.weight);
    const int64_t classes = plan_.tileSize(tile), firstClass = tile * plan_.tileClasses;
    products_->packWeights(tileAt(tile, weights, firstChunk, thread), true, false);
    for (int64_t chunk = firstChunk; chunk < lastChunk; chunk++) {
      const int64_t first = chunk * plan_.chunkRows, panels = panelsOf(chunk);
      float* kept = keptTile(tile, chunk);
      float* logits = kept ? kept : scratch.tile;
      computeTile(tileAt(tile, weights, chunk, thread), weights.bias, logits);
      float ofRows[Plan::maxChunkRows];
      if (smoothing) {
        kernels_.tileSum(logits, plan_.tileClasses, classes, panels, negatives_.from(first), shares(tile), ofRows);
        for (int64_t i = 0; i < panels * lanes_; i++) logitSums[first + i] += ofRows[i];
      }
      forTargets(firstClass, classes, first, plan_.chunkSize(chunk), [&](int64_t row, int64_t label) {
        float* logit = tileElement(logits, row - first, label - firstClass);
        if (smoothing) logitSums[row] -= negatives_.logit(row, *logit) * shares(tile)[label - firstClass];
        *logit = maskedLogit;
      });
      negatives_.takeLargest(kernels_, logits, plan_.tileClasses, classes, panels, classSlot, first, ofRows);
      kernels_.logSumExp(logits, plan_.tileClasses, classes, panels, negatives_.from(first), maxima + first,
                         sums + first, skipsNegligible_ ? negligible_.masses(tile, first) : nullptr,
                         negligible_.massStride());
    }
  }
}

// [tileSize] what smoothing gives each class, relative to the others; ones without class weights.
const float* Step::shares(int64_t tile) const {
  return weights_.shares.empty() ? tileOfOnes.data() : weights_.shares.data() + tile * plan_.tileClasses;
}

// Reduces the class slots' maxima and sums of a row in slot order.
RowTotals Step::totalsOf(int64_t row) const {
  float maximum = maskedLogit;
  for (int64_t slot = 0; slot < plan_.classSlots; slot++) {
    const float m = maxima_[slot * paddedRows_ + row];
    if (!(m <= maximum)) maximum = m;  // NaN stays
  }
  const float largest = negatives_.largestOf(row, plan_.classSlots, maximum);
  const RowState& state = states_[row];
  RowTotals totals{maximum, largest, 0, 0, state.target, state.cosine};
  for (int64_t slot = 0; slot < plan_.classSlots && maximum != maskedLogit; slot++) {
    const int64_t at = slot * paddedRows_ + row;
    totals.sum += sums_[at] * std::exp(static_cast<double>(maxima_[at]) - maximum);
    if (smooths()) totals.logits += logitSums_[at];
  }
  if (narrow_ && maximum != maskedLogit) {
    totals.maximum += narrow_->ceiling(row);
    totals.largest += narrow_->ceiling(row);
    const double own = state.label >= 0 ? shareOf(state.label) : 0;
    if (smooths()) totals.logits += narrow_->ceiling(row) * (allShares_ - own);
  }
  return totals;
}

// Adds up the rows' totals over all processes. Ignored rows are sent, too: every process has the
// same rows, so the arrays stay aligned.
Status Step::exchangeTotals() {
  forEach(divideUp(plan_.rows, 8), [&](int64_t block, int) {
    for (int64_t row = block * 8; row < std::min(plan_.rows, block * 8 + 8); row++)
      totals_[row] = states_[row].label == ignoredLabel ? noTotals : totalsOf(row);
  });
  return problem_.exchange->reduceTotals(totals_, plan_.rows);
}

// Reduce, one row: the loss, and the factors that turn its logits into probabilities. Rows of the
// last panel beyond the batch get factors of 0.
void Step::reduceRow(int64_t row, int thread) {
  rowMaximum_[row] = rowFactor_[row] = rowGradients_[row] = 0;
  if (smooths()) rowEven_[row] = 0;
  if (row >= plan_.rows) return;
  RowState& state = states_[row];
  const int64_t global = firstRow_ + row;
  if (state.label == ignoredLabel) {
    if (problem_.gradInput) beginInputGradient(row, thread);
    problem_.losses[global] = 0;
    return;
  }
  const RowTotals totals = problem_.exchange ? totals_[row] : totalsOf(row);
  rowFactor_[row] = closeRow(state, totals, problem_.negativeWeight);
  if (smooths()) rowEven_[row] = static_cast<float>(state.weight.smoothing.even);
  rowMaximum_[row] = static_cast<float>(totals.maximum - (narrow_ ? narrow_->ceiling(row) : 0));
  rowGradients_[row] = static_cast<float>(state.gradient);
  problem_.losses[global] = static_cast<float>(state.weight.loss * state.loss);
  // The target's share is added now, with the weights that the forward pass saw. During the
  // backward phase an update may already have changed them.
  if (problem_.gradInput) beginInputGradient(row, thread);
}

// gradInput of a row begins with its target's share, or with 0 if it has no target here.
void Step::beginInputGradient(int64_t row, int thread) {
  const RowState& state = states_[row];
  const int64_t at = (firstRow_ + row) * plan_.dim;
  const TargetShare share = inputShare(state, normalized_, radial_);
  if (narrow_)
    narrow_->keepTarget(row, share, state.label < 0 ? nullptr : weightRow(state.label, thread), problem_.input + at);
  if (state.label < 0) {
    std::memset(problem_.gradInput + at, 0, plan_.dim * sizeof(float));
    return;
  }
  kernels_.axpby(problem_.gradInput + at, false, share.weight, weightRow(state.label, thread), share.input,
                 problem_.input + at, plan_.dim);
}

// Sums losses and statistics in row order. A loss that is not finite fails here, before an update
// changes anything.
Status Step::collect() {
  Statistics total;
  for (int64_t i = 0; i < plan_.rows; i++) {
    const RowState& state = states_[i];
    if (state.label == ignoredLabel) continue;
    if (problem_.trains() && !std::isfinite(state.loss))
      return {Failure::notFinite, "the loss is not finite", firstRow_ + i};
    lossSum_ += (problem_.reduction == Reduction::none ? state.gradient : state.weight.loss) * state.loss;
    total.accuracy += state.cosine > state.largestNegative;
    total.targetCosine += state.cosine;
    total.largestNegativeCosine += state.largestNegative;
  }
  if (problem_.statistics) {
    problem_.statistics->accuracy += total.accuracy;
    problem_.statistics->targetCosine += total.targetCosine;
    problem_.statistics->largestNegativeCosine += total.largestNegativeCosine;
  }
  return {};
}

}  // namespace margin_softmax::cpu
