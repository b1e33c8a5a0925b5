// The backward phase over what can matter: see negligible.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "step.h"

namespace margin_softmax::cpu {
namespace {

// The shares of what may be left out that a sample of the classes aims at: it may be wrong, and then the work was in
// vain.
constexpr double inputAim = 0.8, weightAim = 0.6;

// Between lists of a tile's classes: lists that grow side by side should not share a place in the cache.
constexpr int64_t listStride = 144;

// Rows [first, first + count) of a matrix into its column blocks.
void toBlocks(const float* matrix, int64_t rows, int64_t n, int64_t first, int64_t count, float* blocks) {
  for (int64_t d = 0; d < n; d += columnBlock, blocks += rows * columnBlock) {
    const int64_t width = std::min<int64_t>(columnBlock, n - d);
    for (int64_t i = first; i < first + count; i++)
      std::memcpy(blocks + i * width, matrix + i * n + d, width * sizeof(float));
  }
}

// A part of so many of what is upcoming.
Prefetch slice(Prefetch next, int64_t part, int64_t parts) {
  const int64_t from = next.lines * part / parts, to = next.lines * (part + 1) / parts;
  return {static_cast<const char*>(next.from) + from * 64, static_cast<int64_t>(to - from)};
}

}  // namespace

// What may be left out of both gradients, whichever are wanted: so that one's bits do not depend on the other.
// `minWeightNorm`: a lower bound of gradWeight's norm. For gradInput there is no cheap one (other classes may cancel the
// target's pull), so the targets' share stands in for it until the result is there.
NegligibleTerms::Limits Step::chooseLimits(double& minWeightNorm) {
  if (!negligible_.measureRows(states_)) return {};
  int64_t labels = 0;
  for (const int32_t* at = firstTarget(0); at != order_ + plan_.rows; at++)
    if (labels == 0 || labels_[labels - 1] != states_[*at].label)
      labels_[labels++] = static_cast<int32_t>(states_[*at].label);
  negligible_.chooseClasses(labels_, labels);
  forEach(negligible_.panels(), [&](int64_t panel, int thread) { boundPanel(panel, thread); });
  forEach(plan_.classTiles, [&](int64_t tile, int) { negligible_.boundTile(tile, inverseClassNorm_); });
  if (cancelled()) return {};
  minWeightNorm = minWeightGradientNorm();
  double squares = 0;
  for (int64_t i = 0; i < plan_.rows; i++) {
    const RowState& state = states_[i];
    if (state.label < 0 || state.inverseNorm == 0 || state.targetInverseNorm == 0) continue;
    const TargetShare pull = inputShare(state, normalized_, radial_);
    const double w = pull.weight / state.targetInverseNorm, x = pull.input / state.inverseNorm;
    squares += std::max(0.0, w * w + 2 * w * x * state.cosine + x * x);
  }
  return negligible_.choose(inputAim * problem_.negligible * std::sqrt(squares),
                            weightAim * problem_.negligible * minWeightNorm, negligible_.maxComputedShare());
}

void Step::boundPanel(int64_t panel, int thread) {
  negligible_.boundRows(kernels_, panel, states_, rowMaximum_, rowFactor_);
  float* probabilities = scratchOf(thread).tile;
  const int64_t first = panel * lanes_, chunk = first / plan_.chunkRows;
  float ones[Plan::maxTileClasses];
  std::fill_n(ones, Plan::maxTileClasses, 1.0f);
  const int64_t classes = negligible_.closeClasses(), atOnce = plan_.tileClasses;
  for (int64_t from = 0; from < classes && !cancelled(); from += atOnce) {
    const int64_t count = std::min(atOnce, classes - from);
    for (int64_t c = 0; c < count; c++) {
      const int64_t j = negligible_.closeClass(from + c), tile = j / plan_.tileClasses;
      float* out = probabilities + c * lanes_;
      if (const float* kept = keptTile(tile, chunk)) {
        const int64_t panelInChunk = (first - chunk * plan_.chunkRows) / lanes_;
        std::memcpy(out, kept + (panelInChunk * plan_.tileClasses + j % plan_.tileClasses) * lanes_,
                    lanes_ * sizeof(float));
        continue;
      }
      products_->panelLogits(weightRow(j, thread), 1, panel, inverseClassNorm_ + j, out);
      if (problem_.filters()) kernels_.maskAbove(out, plan_.tileClasses, 1, 1, rowLimit_ + first, maskedLogit);
      forTargets(j, 1, first, lanes_, [&](int64_t row, int64_t) { out[row - first] = maskedLogit; });
    }
    kernels_.probabilities(probabilities, plan_.tileClasses, count, 1, {}, rowMaximum_ + first, rowFactor_ + first,
                           nullptr, nullptr, ones, probabilities);
    negligible_.addClasses(panel, from, count, probabilities, inverseClassNorm_);
  }
  negligible_.closePanel(panel);
}

// A lower bound of the norm of gradWeight, from the classes of the batch: what their own rows pull, less what all
// others' could.
double Step::minWeightGradientNorm() {
  const int64_t dim = plan_.dim;
  float* pull = scratchOf(0).row;
  double squares = 0;
  for (int64_t l = 0; l < negligible_.labelClasses(); l++) {
    const int32_t label = negligible_.closeClass(l);
    const float* w = weightRow(label, 0);
    double rounding = 0;
    std::memset(pull, 0, dim * sizeof(float));
    forTargets(label, 1, 0, plan_.rows, [&](int64_t row, int64_t) {
      const RowState& state = states_[row];
      const TargetShare share = weightShare(state, normalized_);
      kernels_.axpby(pull, true, share.input, problem_.input + row * dim, share.weight, w, dim);
      rounding += 1e-6 * std::fabs(state.gradient * state.scale * state.error * state.slope);
    });
    const double others = (negligible_.labelSum(l) + rounding) * inverseClassNorm_[label];
    const double norm = std::sqrt(kernels_.dotDouble(pull, pull, dim)) - others;
    if (!(norm <= 0)) squares += norm * norm;  // NaN stays
  }
  return std::sqrt(squares);
}

// Half of a chunk's rows and more are as many as all of them: these need not be moved. Depends on nothing but the
// parts.
int64_t Step::roundToWholeChunk(int64_t chunk, int32_t* rows, int64_t count) const {
  const int64_t all = plan_.chunkSize(chunk);
  if (2 * count < all) return count;
  for (int64_t i = 0; i < all; i++) rows[i] = static_cast<int32_t>(i);
  return all;
}

// The logits of a chunk's active rows side by side, the same bits as `backward` has: kept, or computed again (`weights`
// is filled in where they had to be read). What belongs to these rows goes into scratch beside them.
const float* Step::gatherTile(int64_t tile, int64_t chunk, const int32_t* rows, int64_t count, int thread,
                              TileWeights& weights) const {
  const ThreadScratch scratch = scratchOf(thread);
  const int64_t first = chunk * plan_.chunkRows, classes = plan_.tileSize(tile);
  const int64_t firstClass = tile * plan_.tileClasses, panelFloats = plan_.tileClasses * lanes_;
  for (int64_t k = 0; k < roundUp(count, 16); k++) {
    const int64_t row = first + (k < count ? rows[k] : 0);
    scratch.maxima[k] = rowMaximum_[row];
    scratch.factors[k] = k < count ? rowFactor_[row] : 0;
    scratch.costs[k] = k < count ? negligible_.costs()[row] : 0;
  }
  const float* kept = keptTile(tile, chunk);
  const bool whole = count == plan_.chunkSize(chunk);
  if (kept && whole) return kept;
  if (kept) {
    for (int64_t from = 0; from < count; from += lanes_) {
      const int64_t here = std::min<int64_t>(lanes_, count - from), padded = roundUp(here, 16);
      int64_t offsets[maxLanes];
      for (int64_t k = 0; k < here; k++) offsets[k] = rows[from + k] / lanes_ * panelFloats + rows[from + k] % lanes_;
      float* out = scratch.tile + from / lanes_ * panelFloats;
      for (int64_t j = 0; j < classes; j++, out += lanes_) {
        for (int64_t k = 0; k < here; k++) out[k] = kept[j * lanes_ + offsets[k]];
        for (int64_t k = here; k < padded; k++) out[k] = 0;
      }
    }
    return scratch.tile;
  }
  if (!weights.weight) weights = tileWeights(tile, thread);
  if (whole) {
    computeTile(tileAt(tile, weights, chunk, thread), weights.bias, scratch.tile);
  } else {
    for (int64_t from = 0; from < count; from += lanes_) {
      const int64_t here = std::min<int64_t>(lanes_, count - from);
      int64_t chosen[maxLanes];
      for (int64_t k = 0; k < here; k++) chosen[k] = first + rows[from + k];
      float* out = scratch.tile + from / lanes_ * panelFloats;
      products_->rowLogits(weights.weight, classes, chosen, here, inverseClassNorm_ + firstClass, scratch.packedInput,
                           out);
      if (!problem_.filters()) continue;
      float limits[maxLanes] = {};
      for (int64_t k = 0; k < here; k++) limits[k] = rowLimit_[first + rows[from + k]];
      kernels_.maskAbove(out, plan_.tileClasses, classes, 1, limits, maskedLogit);
    }
  }
  // Targets as logits that the others leave without a probability, as they are where tiles are kept.
  forTargets(firstClass, classes, first, plan_.chunkSize(chunk), [&](int64_t row, int64_t label) {
    const int32_t* place = std::lower_bound(rows, rows + count, static_cast<int32_t>(row - first));
    if (place != rows + count && *place == row - first)
      *tileElement(scratch.tile, place - rows, label - firstClass) = maskedLogit;
  });
  return scratch.tile;
}

TermLists Step::listsOf(int thread, int64_t stride) const {
  float* lists = scratchOf(thread).lists;
  return {0, static_cast<int64_t>(stride), reinterpret_cast<int32_t*>(lists + 2 * listTerms),
          reinterpret_cast<Term*>(lists)};
}

// gradInput without what is below its limit, and what that and the weights' limit cost; a limit of 0 takes no part.
Step::Done Step::filteredInputGradient(const NegligibleTerms::Limits& limits, double minWeightNorm) {
  std::memset(skippedOfRows_, 0, plan_.classSlots * paddedRows_ * sizeof(double));
  forEach(plan_.slots(), [&](int64_t slot, int thread) { filteredInputGradientSlot(slot, thread, limits); });
  Done done;
  Omitted& result = problem_.omitted;
  if (limits.weight > 0 && wantsWeight()) {
    const double cost = negligible_.weightCost(skippedOfTiles_, plan_.rowSlots);
    done.weight = cost <= problem_.negligible * minWeightNorm;
    if (done.weight) result.gradWeight = cost / minWeightNorm;
  }
  if (filtersInputGradient(limits)) {
    forEach(paddedRows_ / lanes_, [&](int64_t panel, int) { finishFilteredRows(panel); });
    double squares = 0;
    for (int64_t i = 0; i < plan_.rows; i++) {
      const float* row = problem_.gradInput + i * plan_.dim;
      squares += kernels_.dotDouble(row, row, plan_.dim);
    }
    const double cost = negligible_.inputCost(skippedOfRows_, plan_.classSlots, paddedRows_),
                 least = std::sqrt(squares) - cost;
    done.input = cost <= problem_.negligible * least;
    if (done.input) result.gradInput = cost / least;
    // What was left out might matter after all: back to the targets' share, as it was.
    else forEach(plan_.rows, [&](int64_t row, int thread) { beginInputGradient(row, thread); });
  }
  if (done.input) addOmitted();
  return done;
}

// The products' sums of gradInput are [classSlots][N][D] here.
void Step::filteredInputGradientSlot(int64_t slot, int thread, const NegligibleTerms::Limits& limits) {
  const int64_t classSlot = slot / plan_.rowSlots, rowSlot = slot % plan_.rowSlots, dim = plan_.dim;
  const int64_t firstRow = plan_.firstChunk(rowSlot) * plan_.chunkRows;
  const int64_t lastRow = std::min(plan_.firstChunk(rowSlot + 1) * plan_.chunkRows, paddedRows_);
  const bool wanted = filtersInputGradient(limits);
  const float inputLimit = limits.input > 0 ? limits.input : HUGE_VALF,
              weightLimit = limits.weight > 0 ? limits.weight : HUGE_VALF;
  const ThreadScratch scratch = scratchOf(thread);
  float* partial = wanted ? products_->inputSums() + classSlot * paddedRows_ * dim : nullptr;
  if (wanted) std::memset(partial + firstRow * dim, 0, (lastRow - firstRow) * dim * sizeof(float));
  double* skippedOfRows = skippedOfRows_ + classSlot * paddedRows_;
  int32_t rows[Plan::maxChunkRows];
  float skipped[Plan::maxChunkRows], skippedOfClasses[Plan::maxTileClasses * 16];
  int64_t computed = 0;
  for (int64_t tile = plan_.firstTile(classSlot); tile < plan_.firstTile(classSlot + 1) && !cancelled(); tile++) {
    const int64_t classes = plan_.tileSize(tile);
    TileWeights weights{};
    float* packed = nullptr;  // the weights
    double skippedOfTile = 0;
    std::memset(skippedOfClasses, 0, sizeof skippedOfClasses);
    for (int64_t chunk = plan_.firstChunk(rowSlot); chunk < plan_.firstChunk(rowSlot + 1); chunk++) {
      const int64_t first = chunk * plan_.chunkRows;
      int64_t count = 0;
      for (int64_t i = first; i < first + plan_.chunkSize(chunk); i++) {
        const float input = negligible_.inputBound(tile, i), weight = negligible_.weightBound(tile, i);
        rows[count] = static_cast<int32_t>(i - first);
        count += !(input < inputLimit) || !(weight < weightLimit);
      }
      count = roundToWholeChunk(chunk, rows, count);
      for (int64_t i = first, k = 0; i < first + plan_.chunkSize(chunk); i++) {
        if (k < count && rows[k] == i - first) {
          k++;
          continue;
        }
        skippedOfRows[i] += negligible_.inputBound(tile, i);
        skippedOfTile += negligible_.weightBound(tile, i);
      }
      if (count == 0) continue;
      if (wanted && !weights.weight) weights = tileWeights(tile, thread);
      if (wanted && !packed) toBlocks(weights.weight, classes, dim, 0, classes, packed = scratch.classGradient);
      const float* logits = gatherTile(tile, chunk, rows, count, thread, weights);
      kernels_.filterInput(logits, scratch.tile, plan_.tileClasses, classes, count, scratch.maxima, scratch.factors,
                           inverseClassNorm_ + tile * plan_.tileClasses, scratch.costs, inputLimit, skipped,
                           weightLimit, skippedOfClasses);
      for (int64_t k = 0; k < count; k++) skippedOfRows[first + rows[k]] += skipped[k];
      for (int64_t from = 0; wanted && from < count; from += lanes_) {  // a list of classes for each row of a panel
        TermLists lists = listsOf(thread, listStride);
        lists.count = std::min<int64_t>(lanes_, count - from);
        kernels_.listClasses(scratch.tile + from * plan_.tileClasses, classes, lists);
        for (int64_t k = 0; k < lists.count; k++) computed += lists.lengths[k];
        const int64_t panel = from / lanes_, panels = panelsOf(chunk);
        const Prefetch next[] = {slice(nextWeights(tile), panel, panels),
                                 slice(keptLogits(tile + 1, chunk), panel, panels)};
        kernels_.sumRows(lists, packed, classes, dim, partial + first * dim, dim, rows + from, true, next, 2);
      }
    }
    double squares = 0;
    for (int64_t j = 0; j < classes; j++) {
      double sum = 0;
      for (int64_t l = 0; l < 16; l++) sum += skippedOfClasses[j * 16 + l];
      squares += sum * sum;
    }
    skippedOfTiles_[rowSlot * plan_.classTiles + tile] = skippedOfTile + std::sqrt(squares);
  }
  computed_[slot] = computed;
}

void Step::finishFilteredRows(int64_t panel) {
  const int64_t dim = plan_.dim, first = panel * lanes_, last = std::min(plan_.rows, first + lanes_);
  rowSquares_[panel] = 0;
  if (first >= last) return;
  float* sum = products_->inputSums() + first * dim;
  for (int64_t slot = 1; slot < plan_.classSlots; slot++)
    kernels_.accumulate(sum, sum + slot * paddedRows_ * dim, (last - first) * dim);
  for (int64_t i = first; i < last; i++) finishRow(i, sum + (i - first) * dim);
}

// After a sweep: adds what it left out to the share of both products.
void Step::addOmitted() {
  double computed = 0;
  for (int64_t slot = 0; slot < plan_.slots(); slot++) computed += static_cast<double>(computed_[slot]);
  const double products = (problem_.gradInput ? 1 : 0) + (wantsWeight() ? 1 : 0);
  const double all = static_cast<double>(plan_.rows) * static_cast<double>(plan_.classes);
  problem_.omitted.share += (1 - computed / all) / products;
}

void Step::filteredWeightGradient(float limit) {
  forEach(negligible_.panels(), [&](int64_t panel, int) {
    const int64_t first = panel * lanes_;
    toBlocks(problem_.input, plan_.rows, plan_.dim, first, std::min<int64_t>(lanes_, plan_.rows - first), inputBlocks_);
  });
  forEach(plan_.slots(), [&](int64_t slot, int thread) { filteredWeightGradientSlot(slot, thread, limit); });
  addOmitted();
}

void Step::filteredWeightGradientSlot(int64_t slot, int thread, float limit) {
  const int64_t classSlot = slot / plan_.rowSlots, rowSlot = slot % plan_.rowSlots, dim = plan_.dim;
  const bool whole = plan_.rowSlots == 1;
  const ThreadScratch scratch = scratchOf(thread);
  int32_t rows[Plan::maxChunkRows], places[Plan::maxChunkRows];
  float factors[Plan::maxChunkRows];
  int64_t computed = 0;
  for (int64_t tile = plan_.firstTile(classSlot); tile < plan_.firstTile(classSlot + 1) && !cancelled(); tile++) {
    const int64_t firstClass = tile * plan_.tileClasses, classes = plan_.tileSize(tile);
    float* classGradient =
        whole ? scratch.classGradient : partialWeight_ + (rowSlot * plan_.classes + firstClass) * paddedDim_;
    TileWeights weights{};
    bool empty = true;
    for (int64_t chunk = plan_.firstChunk(rowSlot); chunk < plan_.firstChunk(rowSlot + 1); chunk++) {
      const int64_t first = chunk * plan_.chunkRows;
      int64_t count = 0;
      for (int64_t i = first; i < first + plan_.chunkSize(chunk); i++) {
        rows[count] = static_cast<int32_t>(i - first);
        count += !(negligible_.weightBound(tile, i) < limit);
      }
      if (count == 0) continue;
      count = roundToWholeChunk(chunk, rows, count);
      const float* logits = gatherTile(tile, chunk, rows, count, thread, weights);
      kernels_.filterWeight(logits, scratch.tile, plan_.tileClasses, classes, count, scratch.maxima, scratch.factors,
                            inverseClassNorm_ + firstClass, scratch.costs, limit);
      for (int64_t k = 0; k < count; k++) {
        const RowState& state = states_[first + rows[k]];
        factors[k] = static_cast<float>(state.gradient * state.scale * state.inverseNorm);
        places[k] = static_cast<int32_t>(first) + rows[k];
      }
      TermLists lists = listsOf(thread, Plan::maxChunkRows);  // of rows, for each class of a few
      const int64_t most = listTerms / Plan::maxChunkRows;
      for (int64_t j0 = 0; j0 < classes; j0 += most) {
        lists.count = std::min(most, classes - j0);
        for (int64_t l = 0; l < lists.count; l++) {
          const int64_t length = kernels_.listRows(scratch.tile + (j0 + l) * lanes_, plan_.tileClasses, count, factors,
                                                   places, lists.terms + l * Plan::maxChunkRows);
          lists.lengths[l] = static_cast<int32_t>(length);
          computed += length;
        }
        const Prefetch next[] = {storedWeights(firstClass + j0, lists.count),
                                 slice(keptLogits(tile + 1, chunk), j0 / most, divideUp(classes, most))};
        kernels_.sumRows(lists, inputBlocks_, plan_.rows, dim, classGradient + j0 * paddedDim_, paddedDim_, nullptr,
                         !empty, next, 2);
      }
      empty = false;
    }
    if (whole) finishClasses(tile, thread, classGradient, empty);
    else if (empty) std::memset(classGradient, 0, classes * paddedDim_ * sizeof(float));
  }
  computed_[slot] = computed;
}

}  // namespace margin_softmax::cpu
