// The backward phase over the parts that can matter: see parts.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "step.h"

namespace margin_softmax::cpu {
namespace {

// Above this share of the parts, going over all of them is as fast.
constexpr double mostActive = 0.6;

}  // namespace

// False where everything counts. For gradInput there is no cheap lower bound to start from (other classes may cancel
// the target's pull), so half of the targets' share stands in for one until the result is there.
bool Step::chooseParts(Parts::Choice& input, Parts::Choice& weight) {
  if (!parts_.measureRows(states_)) return false;
  forEach(parts_.panels(),
          [&](int64_t panel, int) { parts_.weighRows(kernels_, panel, states_, rowMaximum_, rowFactor_); });
  forEach(parts_.tileBlocks(), [&](int64_t block, int) { parts_.weighTiles(block, classScale_); });
  if (cancelled()) return false;
  LeftOut& result = problem_.leftOut;
  // A process's share of gradInput cannot be held against the sum of all processes'.
  if (problem_.gradInput && !problem_.exchange) {
    input = parts_.forInput(problem_.negligible * 0.5 * inputGradientNorm());
    if (input.share > mostActive) input = {};
  }
  if (wantsWeight()) {
    const double least = leastWeightGradient();
    weight = parts_.forWeight(problem_.negligible * least);
    if (weight.share > mostActive) weight = {};
    if (weight.limit > 0) result.gradWeight = weight.bound / least;
  }
  const double products = (problem_.gradInput ? 1 : 0) + (wantsWeight() ? 1 : 0);
  result.share = ((1 - input.share) + (1 - weight.share)) / products;
  return true;
}

// Of what stands in gradInput.
double Step::inputGradientNorm() {
  double squares = 0;
  for (int64_t i = 0; i < plan_.rows; i++) {
    const float* row = problem_.gradInput + i * plan_.dim;
    squares += kernels_.dotDouble(row, row, plan_.dim);
  }
  return std::sqrt(squares);
}

// A lower bound of the norm of gradWeight, from the classes of the batch: what their own rows pull, less what all
// others' could.
double Step::leastWeightGradient() {
  const int64_t dim = plan_.dim;
  float* pull = scratchOf(0).row;
  double squares = 0;
  for (const int32_t* at = firstTarget(0); at != order_ + plan_.rows;) {
    const int32_t label = states_[*at].label;
    const float* w = weightRow(label);
    double rounding = 0;
    std::memset(pull, 0, dim * sizeof(float));
    for (; at != order_ + plan_.rows && states_[*at].label == label; at++) {
      const RowState& state = states_[*at];
      const TargetShare share = weightShare(state, normalized_);
      kernels_.combine(pull, true, share.input, problem_.input + *at * dim, share.weight, w, dim);
      rounding += 1e-6 * std::fabs(state.gradient * state.scale * state.error * state.slope);
    }
    const double others = parts_.total(label / plan_.tileClasses) + rounding;
    const double norm = std::sqrt(kernels_.dotDouble(pull, pull, dim)) - others * classScale_[label];
    if (!(norm <= 0)) squares += norm * norm;  // NaN stays
  }
  return std::sqrt(squares);
}

// The probabilities of a chunk's active rows, side by side in a tile, as `backward` has them for all rows: the same
// logits, kept or computed again. `weights` is filled in where it was read.
const float* Step::activeTile(int64_t tile, int64_t chunk, const int32_t* rows, int64_t count, int thread,
                              TileWeights& weights) const {
  const ThreadScratch scratch = scratchOf(thread);
  const int64_t first = chunk * plan_.chunkRows, classes = plan_.tileSize(tile), dim = plan_.dim;
  const int64_t firstClass = tile * plan_.tileClasses, panelFloats = plan_.tileClasses * lanes_;
  const float* classScale = classScale_ + firstClass;
  if (const float* kept = keptTile(tile, chunk)) {
    for (int64_t from = 0; from < count; from += lanes_) {
      const int64_t here = std::min<int64_t>(lanes_, count - from), padded = roundUp(here, 16);
      int64_t offsets[64];
      for (int64_t k = 0; k < here; k++) offsets[k] = rows[from + k] / lanes_ * panelFloats + rows[from + k] % lanes_;
      float* out = scratch.tile + from / lanes_ * panelFloats;
      for (int64_t j = 0; j < classes; j++, out += lanes_) {
        for (int64_t k = 0; k < here; k++) out[k] = kept[j * lanes_ + offsets[k]];
        for (int64_t k = here; k < padded; k++) out[k] = 0;
      }
    }
  } else {
    if (!weights.weight) weights = tileWeights(tile, thread);
    for (int64_t from = 0; from < count; from += lanes_) {
      const int64_t here = std::min<int64_t>(lanes_, count - from);
      std::memset(scratch.query, 0, dim * lanes_ * sizeof(float));
      for (int64_t k = 0; k < here; k++) {
        const int64_t row = first + rows[from + k];
        const float* query = query_ + row / lanes_ * dim * lanes_ + row % lanes_;
        for (int64_t d = 0; d < dim; d++) scratch.query[d * lanes_ + k] = query[d * lanes_];
      }
      float* out = scratch.tile + from / lanes_ * panelFloats;
      kernels_.logits(weights.weight, dim, classes, scratch.query, 1, classScale, nullptr, out, plan_.tileClasses);
      if (!problem_.filters()) continue;
      float limits[64] = {};
      for (int64_t k = 0; k < here; k++) limits[k] = rowLimit_[first + rows[from + k]];
      kernels_.leaveOutAbove(out, plan_.tileClasses, classes, 1, limits, leftOut);
    }
  }
  for (int64_t k = 0; k < roundUp(count, 16); k++) {
    scratch.maxima[k] = k < count ? rowMaximum_[first + rows[k]] : 0;
    scratch.factors[k] = k < count ? rowFactor_[first + rows[k]] : 0;
  }
  kernels_.activeProbabilities(scratch.tile, plan_.tileClasses, classes, count, scratch.maxima, scratch.factors,
                               classScale);
  forTargets(firstClass, classes, first, plan_.chunkSize(chunk), [&](int64_t row, int64_t label) {
    const int32_t* place = std::lower_bound(rows, rows + count, static_cast<int32_t>(row - first));
    if (place != rows + count && *place == row - first)
      *tileElement(scratch.tile, place - rows, label - firstClass) = 0;
  });
  return scratch.tile;
}

// False, with the targets' share in gradInput as before, where what was left out might matter after all.
bool Step::activeInput(const Parts::Choice& choice) {
  forEach(plan_.slots(), [&](int64_t slot, int thread) { activeInput(slot, thread, choice.limit); });
  forEach(paddedRows_ / lanes_, [&](int64_t panel, int) { finishActiveRows(panel); });
  const double least = inputGradientNorm() - choice.bound;
  if (choice.bound <= problem_.negligible * least) {
    problem_.leftOut.gradInput = choice.bound / least;
    return true;
  }
  const double products = wantsWeight() ? 2 : 1;
  problem_.leftOut.share -= (1 - choice.share) / products;
  forEach(plan_.rows, [&](int64_t row, int) { beginInputGradient(row); });
  return false;
}

// partialInput_ is [classSlots][N][D] here.
void Step::activeInput(int64_t slot, int thread, float limit) {
  const int64_t classSlot = slot / plan_.rowSlots, rowSlot = slot % plan_.rowSlots, dim = plan_.dim;
  const int64_t firstRow = plan_.firstChunk(rowSlot) * plan_.chunkRows;
  const int64_t lastRow = std::min(plan_.firstChunk(rowSlot + 1) * plan_.chunkRows, paddedRows_);
  float* partial = partialInput_ + classSlot * paddedRows_ * dim;
  std::memset(partial + firstRow * dim, 0, (lastRow - firstRow) * dim * sizeof(float));
  int32_t rows[512];  // a chunk's, at most
  for (int64_t tile = plan_.firstTile(classSlot); tile < plan_.firstTile(classSlot + 1) && !cancelled(); tile++) {
    TileWeights weights{};
    for (int64_t chunk = plan_.firstChunk(rowSlot); chunk < plan_.firstChunk(rowSlot + 1); chunk++) {
      const int64_t count = parts_.active(tile, chunk, limit, rows);
      if (count == 0) continue;
      if (!weights.weight) weights = tileWeights(tile, thread);
      const float* gradient = activeTile(tile, chunk, rows, count, thread, weights);
      kernels_.activeInputGradient(weights.weight, dim, plan_.tileSize(tile), gradient, plan_.tileClasses, rows, count,
                                   partial + chunk * plan_.chunkRows * dim);
    }
  }
}

void Step::finishActiveRows(int64_t panel) {
  const int64_t dim = plan_.dim, first = panel * lanes_, last = std::min(plan_.rows, first + lanes_);
  rowSquares_[panel] = 0;
  if (first >= last) return;
  float* sum = partialInput_ + first * dim;
  for (int64_t slot = 1; slot < plan_.classSlots; slot++)
    kernels_.accumulate(sum, sum + slot * paddedRows_ * dim, (last - first) * dim);
  for (int64_t i = first; i < last; i++) finishRow(i, sum + (i - first) * dim);
}

void Step::activeWeight(int64_t slot, int thread, float limit) {
  const int64_t classSlot = slot / plan_.rowSlots, rowSlot = slot % plan_.rowSlots;
  const ThreadScratch scratch = scratchOf(thread);
  const bool whole = plan_.rowSlots == 1;
  int32_t rows[512];
  for (int64_t tile = plan_.firstTile(classSlot); tile < plan_.firstTile(classSlot + 1) && !cancelled(); tile++) {
    const int64_t firstClass = tile * plan_.tileClasses, classes = plan_.tileSize(tile);
    float* classGradient =
        whole ? scratch.classGradient : partialWeight_ + (rowSlot * plan_.classes + firstClass) * paddedDim_;
    TileWeights weights{};
    bool empty = true;
    for (int64_t chunk = plan_.firstChunk(rowSlot); chunk < plan_.firstChunk(rowSlot + 1); chunk++) {
      const int64_t count = parts_.active(tile, chunk, limit, rows);
      if (count == 0) continue;
      const float* gradient = activeTile(tile, chunk, rows, count, thread, weights);
      kernels_.activeWeightGradient(gradient, plan_.tileClasses, classes, rows, count,
                                    value_ + chunk * plan_.chunkRows * lanes_, paddedRows_, dimPanels_, classGradient,
                                    !empty);
      empty = false;
    }
    if (whole) finishClasses(tile, classGradient, empty);
    else if (empty) std::memset(classGradient, 0, classes * paddedDim_ * sizeof(float));
  }
}

}  // namespace margin_softmax::cpu
