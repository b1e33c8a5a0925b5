// The backward and finish phases of a step: see step.h.
#include <cstring>

#include "step.h"

namespace margin_softmax::cpu {
namespace {

// Larger outputs leave the caches before anyone reads them, so they are written past the caches (5
// to 10 % faster at B = 64).
constexpr int64_t streamedBytes = int64_t{16} << 20;

// Sets `factor` so that gradient + factor·weight is orthogonal to the weight. False if single
// precision might overflow or underflow on the way (norms of 1e10 and beyond), or if a NaN came in:
// then use double precision.
bool projection(const Kernels& kernels, const float* weight, const float* gradient, float inverseNorm, int64_t dim,
                float& factor) {
  factor = -(kernels.dot(weight, gradient, dim) * inverseNorm) * inverseNorm;
  return inverseNorm > 1e-10f && factor < 1e30f && factor > -1e30f;
}

}  // namespace

// Filtered passes first, if they may pay; then everything for the gradients that they did not
// finish. The weights' filtered pass comes last: the full pass may still read the weights that an
// update changes.
void Step::backwardPhase() {
  double minWeightNorm = 0;
  const NegligibleTerms::Limits limits = skipsNegligible_ ? chooseLimits(minWeightNorm) : NegligibleTerms::Limits{};
  Done done;
  if (filtersInputGradient(limits) || (limits.weight > 0 && wantsWeight()))
    done = filteredInputGradient(limits, minWeightNorm);
  const bool input = problem_.gradInput && !done.input, weight = wantsWeight() && !done.weight;
  if (input || weight) forEach(plan_.slots(), [&](int64_t slot, int t) { backward(slot, t, input, weight); });
  if (done.weight) filteredWeightGradient(limits.weight);
  if (plan_.rowSlots > 1 && wantsWeight())
    forEach(plan_.classTiles, [&](int64_t tile, int t) { reduceClasses(tile, t); });
  if (input) forEach(paddedRows_ / lanes_, [&](int64_t panel, int thread) { finishRows(panel, thread); });
}

// Backward, one slot: for every tile of the class slot, for every chunk of the row slot:
//
//   logits (kept, or recomputed) → A = ∂loss/∂logit without the rows' factors; targets 0
//     → weightGradient += Aᵀ·(g·x̂)   [classes][paddedDim]
//     → inputGradient  += A·w         into the class slot's partial sum
//
// After its last chunk a tile's gradient is complete if there is one row slot; it is finished while
// it is in the cache.
void Step::backward(int64_t slot, int thread, bool input, bool weight) {
  const int64_t classSlot = slot / plan_.rowSlots, rowSlot = slot % plan_.rowSlots;
  const int64_t firstChunk = plan_.firstChunk(rowSlot), lastChunk = plan_.firstChunk(rowSlot + 1);
  const int64_t firstTile = plan_.firstTile(classSlot), lastTile = plan_.firstTile(classSlot + 1);
  const ThreadScratch scratch = scratchOf(thread);
  const bool whole = plan_.rowSlots == 1;
  for (int64_t tile = firstTile; tile < lastTile && !cancelled(); tile++) {
    const int64_t firstClass = tile * plan_.tileClasses, classes = plan_.tileSize(tile);
    float* classGradient =
        whole ? scratch.classGradient : partialWeight_ + (rowSlot * plan_.classes + firstClass) * paddedDim_;
    float* biasGradient = partialBias_ + rowSlot * plan_.classes + firstClass;
    const TileWeights weights = tileWeights(tile, thread);
    products_->packWeights(tileAt(tile, weights, firstChunk, thread), recomputes(tile), problem_.gradInput);
    for (int64_t chunk = firstChunk; chunk < lastChunk; chunk++) {
      const int64_t first = chunk * plan_.chunkRows, panels = panelsOf(chunk);
      const Tile at = tileAt(tile, weights, chunk, thread);
      float* gradient = scratch.tile;
      const float* logits = keptTile(tile, chunk);
      if (!logits) {
        computeTile(at, weights.bias, gradient);
        logits = gradient;
      }
      kernels_.probabilities(logits, plan_.tileClasses, classes, panels, negatives_.from(first), rowMaximum_ + first,
                             rowFactor_ + first, smooths() ? rowEven_ + first : nullptr, shares(tile),
                             inverseClassNorm_ + firstClass, gradient);
      forTargets(firstClass, classes, first, plan_.chunkSize(chunk),
                 [&](int64_t row, int64_t label) { *tileElement(gradient, row - first, label - firstClass) = 0; });
      products_->packGradient(at, gradient);
      if (weight)
        products_->weightGradient(at, gradient, classGradient, chunk > firstChunk,
                                  weightsAfterGradient(tile, chunk > firstChunk));
      if (weight && problem_.bias) addBiasGradient(gradient, classes, first, panels, chunk > firstChunk, biasGradient);
      if (input)
        products_->inputGradient(
            at, classSlot, gradient, tile > firstTile,
            chunk + 1 < lastChunk ? keptLogits(tile, chunk + 1) : keptLogits(tile + 1, firstChunk));
    }
    if (whole && weight) finishClasses(tile, thread, classGradient);
  }
}

// out[j] (+)= Σ_i gradient[j][i]·g_i, 16 rows at a time. Whole panels would sum in another order on
// each instruction set, since L differs.
void Step::addBiasGradient(const float* gradient, int64_t classes, int64_t firstRow, int64_t panels, bool accumulate,
                           float* out) const {
  for (int64_t j = 0; j < classes; j++) {
    float sum = accumulate ? out[j] : 0;
    for (int64_t p = 0; p < panels; p++)
      for (int64_t l = 0; l < lanes_; l += 16)
        sum += kernels_.dot(gradient + (p * plan_.tileClasses + j) * lanes_ + l,
                            rowGradients_ + firstRow + p * lanes_ + l, 16);
    out[j] = sum;
  }
}

// Adds the row slots' partial sums of a tile in order, and finishes its classes.
void Step::reduceClasses(int64_t tile, int thread) {
  const int64_t firstClass = tile * plan_.tileClasses, classes = plan_.tileSize(tile);
  float* sum = partialWeight_ + firstClass * paddedDim_;
  for (int64_t slot = 1; slot < plan_.rowSlots; slot++) {
    kernels_.accumulate(sum, sum + slot * plan_.classes * paddedDim_, classes * paddedDim_);
    if (problem_.bias)
      kernels_.accumulate(partialBias_ + firstClass, partialBias_ + slot * plan_.classes + firstClass, classes);
  }
  finishClasses(tile, thread, sum);
}

// Finishes a tile's classes: projects each sum over the rows with other labels, adds its targets'
// share, and writes the gradient or spends it on the update. gradients [classes][paddedDim]; if
// `empty`, all sums are 0 and `gradients` is one row of scratch.
void Step::finishClasses(int64_t tile, int thread, float* gradients, bool empty) {
  const int64_t dim = plan_.dim, firstClass = tile * plan_.tileClasses, classes = plan_.tileSize(tile);
  const int32_t* labels = problem_.labels + firstRow_;
  const int32_t* target = firstTarget(firstClass);
  const int32_t* const end = order_ + plan_.rows;
  const bool direct = problem_.gradWeight && firstRow_ == 0;
  const bool stream = direct && !problem_.statistics && plan_.classes * dim * 4 > streamedBytes;
  double squares = 0;
  for (int64_t j = firstClass; j < firstClass + classes; j++) {
    float* sum = empty ? gradients : gradients + (j - firstClass) * paddedDim_;
    float* w = weightRow(j, thread);
    float* out = direct ? problem_.gradWeight + j * dim : sum;
    const bool hasTargets = target != end && labels[*target] == j;
    // Projection and copy to the output in one pass. A class with targets is not streamed: it is
    // read again below.
    float factor;
    if (empty) {
      std::memset(out, 0, dim * sizeof(float));
    } else if (normalized_ && projection(kernels_, w, sum, inverseClassNorm_[j], dim, factor)) {
      kernels_.addScaled(out, sum, factor, w, dim, stream && !hasTargets);
    } else if (normalized_) {
      const double scale = inverseClassNorm_[j];
      kernels_.axpby(out, false, 1, sum, -(kernels_.dotDouble(w, sum, dim) * scale) * scale, w, dim);
    } else if (out != sum) {
      std::memcpy(out, sum, dim * sizeof(float));
    }
    double biasSum = problem_.bias ? partialBias_[j] : 0;
    for (; target != end && labels[*target] == j; target++) {
      const RowState& state = states_[*target];
      const float* x = problem_.input + (firstRow_ + *target) * dim;
      const TargetShare share = weightShare(state, normalized_);
      kernels_.axpby(out, true, share.input, x, share.weight, w, dim);
      if (problem_.bias) biasSum += state.gradient * state.error;
    }
    // From here on the weights may change: the targets' share above has to be complete.
    const float biasGradient = static_cast<float>(biasSum);
    if (problem_.statistics) squares += kernels_.dot(out, out, dim) + static_cast<double>(biasGradient) * biasGradient;
    if (problem_.update) {
      const int64_t at = problem_.rowOf(j);
      const Update& update = *problem_.update;
      runUpdate_.apply(kernels_, w, at * dim, update.weightState, out, dim);
      storeRow(j, w);
      if (problem_.bias) runUpdate_.apply(kernels_, problem_.bias + at, at, update.biasState, &biasGradient, 1);
    }
    if (problem_.gradWeight && !direct) kernels_.accumulate(problem_.gradWeight + j * dim, out, dim);
    if (problem_.gradBias) problem_.gradBias[j] = biasGradient + (firstRow_ ? problem_.gradBias[j] : 0);
  }
  slotSquares_[tile] = squares;
}

// Finish, one panel of rows: adds the class slots' partial sums in order, projects, and adds to the
// target's share. The sums are [classSlots][panel][D][L]: a row's values lie L floats apart.
void Step::finishRows(int64_t panel, int thread) {
  const int64_t dim = plan_.dim;
  rowSquares_[panel] = 0;
  if (panel * lanes_ >= plan_.rows) return;
  const int64_t last = std::min(plan_.rows, (panel + 1) * lanes_);
  if (narrow_) {
    for (int64_t i = panel * lanes_; i < last; i++) finishNarrowRow(i);
    return;
  }
  float* sum = products_->inputSums() + panel * lanes_ * dim;
  for (int64_t slot = 1; slot < plan_.classSlots; slot++)
    kernels_.accumulate(sum, sum + slot * paddedRows_ * dim, dim * lanes_);
  float* v = scratchOf(thread).row;
  for (int64_t i = panel * lanes_; i < last; i++) {
    for (int64_t d = 0; d < dim; d++) v[d] = sum[d * lanes_ + i % lanes_];
    finishRow(i, v);
  }
}

void Step::finishNarrowRow(int64_t row) {
  if (states_[row].label == ignoredLabel) return;
  const int64_t at = (firstRow_ + row) * plan_.dim;
  float* out = problem_.gradInput + at;
  narrow_->finishRow(row, states_[row], radial_, problem_.input + at, out);
  if (problem_.statistics) rowSquares_[row / lanes_] += kernels_.dot(out, out, plan_.dim);
}

// Adds the negatives' share to a row's gradInput, and their part along x_i is projected out. sum[D]
// = Σ_j A_ij·w_j.
void Step::finishRow(int64_t row, const float* sum) {
  const RowState& state = states_[row];
  if (state.label == ignoredLabel) return;
  const int64_t dim = plan_.dim;
  const float* x = problem_.input + (firstRow_ + row) * dim;
  float* out = problem_.gradInput + (firstRow_ + row) * dim;
  if (normalized_) {
    const auto [scale, along] = inputProjection(state, kernels_.dotDouble(sum, x, dim), radial_);
    kernels_.axpby(out, true, scale, sum, along, x, dim);
  } else {
    kernels_.axpby(out, true, state.gradient, sum, 0, sum, dim);
  }
  if (problem_.statistics) rowSquares_[row / lanes_] += kernels_.dot(out, out, dim);
}

}  // namespace margin_softmax::cpu
