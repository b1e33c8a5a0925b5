#include "step.h"

#include <algorithm>
#include <array>
#include <cstring>

namespace margin_softmax::cpu {

Step::Step(Problem& problem, const Kernels& kernels, int64_t firstRow, int64_t rows, const BatchWeights& weights)
    : problem_(problem),
      kernels_(kernels),
      plan_(rows, problem.dim, problem.classes, tileClassLimit(problem)),
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
      // In one pass over all rows: what several leave out could not be held against the sum of their gradients. The
      // bounds of negligible.h are those of negatives as they are, ∂z/∂cos = s.
      skipsNegligible_(problem.negligible > 0 && products_->computesRows() && normalized_ && !negatives_.transform() &&
                       problem.labelSmoothing == 0 && rows == problem.rows && wantsGradient() && negligible_.fit()) {}

Status Step::run() {
  if (Status status = placeInWorkspace([this](Layout& layout) { layOut(layout); }); !status) return status;
  sortByLabel(problem_.labels + firstRow_, plan_.rows, plan_.classes, order_);
  forEach(paddedRows_ / 16, [&](int64_t block, int thread) { prepareRows(block, thread); });
  if (problem_.exchange && negatives_.transform())
    if (Status status = exchangeTargets(); !status) return status;
  for (int64_t j = 0; narrow_ && smooths() && j < plan_.classes; j++) allShares_ += shareOf(j);
  double scale = 0;
  for (int64_t i = 0; i < plan_.rows; i++) scale = std::max(scale, states_[i].scale);
  leastInverseNorm_ = leastInverseNorm(scale);
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
  scratchStride_ = tileFloats() + classGradientFloats() + roundUp(paddedDim_, 16) + 64;
  if (copiesWeights()) scratchStride_ += roundUp(plan_.tileClasses * (dim + 1), 16);
  if (skipsNegligible_) scratchStride_ += dim * lanes_ + 3 * roundUp(plan_.chunkRows, 16) + 2 * listTerms + 64;
  scratchStride_ = roundUp(scratchStride_, pageFloats);
  scratch_ = layout.take<float>(scratchStride_ * problem_.execution.threads, pageFloats * sizeof(float));
  // Kept tiles come last and take what the budget has left: they pay only if there is a backward pass.
  const int64_t left = gradient ? problem_.execution.workspaceBytes - layout.bytes() : 0;
  keptTiles_ = std::clamp<int64_t>(left / (tileFloats() * 4), 0, plan_.classTiles * plan_.rowChunks);
  kept_ = layout.take<float>(keptTiles_ * tileFloats(), pageFloats * sizeof(float));
}

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

float* Step::keptTile(int64_t tile, int64_t chunk) const {
  const int64_t index = tile * plan_.rowChunks + chunk;
  return index < keptTiles_ ? kept_ + index * tileFloats() : nullptr;
}

float* Step::tileElement(float* tile, int64_t rowInChunk, int64_t classInTile) const {
  return tile + ((rowInChunk / lanes_) * plan_.tileClasses + classInTile) * lanes_ + rowInChunk % lanes_;
}

// The first row, in `order_`, of this label or a larger one.
const int32_t* Step::firstTarget(int64_t label) const {
  const int32_t* labels = problem_.labels + firstRow_;
  return std::lower_bound(order_, order_ + plan_.rows, label,
                          [labels](int32_t row, int64_t wanted) { return labels[row] < wanted; });
}

void packInput(const float* rows, int64_t dim, int64_t first, int64_t count, const double* factors, int lanes,
               float* packedInput) {
  float* out = packedInput + (first / lanes) * dim * lanes + first % lanes;
  constexpr int64_t block = 64;  // dimensions at a time: what is written to stays in the level-1 cache
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

// Each row's threshold needs the cosine of its target, which one of the processes has.
Status Step::exchangeTargets() {
  for (int64_t row = 0; row < plan_.rows; row++) {
    totals_[row] = noTotals;
    totals_[row].cosine = states_[row].cosine;  // 0 where it is elsewhere, or ignored
  }
  if (Status status = problem_.exchange->reduceTotals(totals_, plan_.rows); !status) return status;
  for (int64_t row = 0; row < plan_.rows; row++)
    if (states_[row].label != ignoredLabel)
      negatives_.set(row, negativesOf(problem_.margin, totals_[row].cosine), states_[row].scale);
  return {};
}

void scaleRows(const Kernels& kernels, const float* rows, int64_t dim, int64_t count, bool normalized, float* scales) {
  for (int64_t j = 0; j < count; j++) scales[j] = normalized ? inverseNorm(kernels, rows + j * dim, dim) : 1.0f;
}

// Class j's weights in place, or as floats where they are stored in bfloat16: in the memory of this thread's tile, to
// be read before the next.
float* Step::weightRow(int64_t j, int thread) const {
  const int64_t at = problem_.rowOf(j) * plan_.dim;
  if (!problem_.bfloat16Weight) return problem_.weight + at;
  float* row = scratchOf(thread).weights;
  kernels_.widen(problem_.bfloat16Weight + at, row, plan_.dim);
  return row;
}

// Puts a row back that weightRow gave. The random bits belong to the step, the class and the column, whatever the
// threads, the sample and the processes.
void Step::storeRow(int64_t j, const float* row) const {
  if (!problem_.bfloat16Weight) return;
  const int64_t dim = plan_.dim, at = problem_.rowOf(j);
  kernels_.roundStochastically(row, problem_.bfloat16Weight + at * dim, dim, problem_.update->roundingKey,
                               (problem_.update->firstClass + at) * divideUp(dim, 4));
}

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

Prefetch Step::keptLogits(int64_t tile, int64_t chunk) const {
  const float* kept = keptTile(tile, chunk);
  return {kept, kept ? static_cast<int64_t>(panelsOf(chunk) * plan_.tileClasses * lanes_ / 16) : 0};
}

void Step::computeTile(const Tile& tile, const float* bias, float* out) const {
  products_->logits(tile, inverseClassNorm_ + tile.index * plan_.tileClasses, bias, out, nextWeights(tile.index));
  if (problem_.filters())
    kernels_.maskAbove(out, plan_.tileClasses, tile.classes, panelsOf(tile.chunk),
                       rowLimit_ + tile.chunk * plan_.chunkRows, maskedLogit);
}

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

const float* Step::shares(int64_t tile) const {
  static const std::array<float, Plan::maxTileClasses> ones = [] {
    std::array<float, Plan::maxTileClasses> all;
    all.fill(1);
    return all;
  }();
  return weights_.shares.empty() ? ones.data() : weights_.shares.data() + tile * plan_.tileClasses;
}

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

// Rows that are ignored go along: every process has the same ones.
Status Step::exchangeTotals() {
  forEach(divideUp(plan_.rows, 8), [&](int64_t block, int) {
    for (int64_t row = block * 8; row < std::min(plan_.rows, block * 8 + 8); row++)
      totals_[row] =
          states_[row].label == ignoredLabel ? RowTotals{maskedLogit, maskedLogit, 0, 0, 0, 0} : totalsOf(row);
  });
  return problem_.exchange->reduceTotals(totals_, plan_.rows);
}

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
  // The target's share now, while its weights are what the forward pass saw: an update may change them soon.
  if (problem_.gradInput) beginInputGradient(row, thread);
}

// The target's share, and 0 without one.
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
