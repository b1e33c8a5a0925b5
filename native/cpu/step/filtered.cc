// The backward phase without its negligible terms (negligible.h).
//
//   filteredInputGradient    sums the exact error of both filters over all classes; writes gradInput
//   filteredWeightGradient   only if that error is within bounds: the optimizer consumes gradWeight at once,
//                            so the decision has to be made before
//
// In both a class tile × a row chunk goes through four stages:
//
//   bounds of cells   → rows[count], those rows of the chunk that may matter to the tile
//   gatherTile        → their logits side by side, in a tile of fewer rows
//   filterInput/…     → probabilities, 0 below the limit
//   listClasses/…     → lists of the terms that are not 0, which sumRows multiplies and adds
//
// A row whose cell is skipped is not read again. So the work is proportional to what is left.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "step.h"

namespace margin_softmax::cpu {
namespace {

// Terms from one list to the next, a list for each row of a panel. No power of two: lists that grow
// side by side would share a place in the cache.
constexpr int64_t listStride = 144;

// Copies rows [first, first + count) of a matrix [rows][n] to column blocks,
// [block][rows][columnBlock]: the layout that sumRows reads (why: kernels.h).
void toBlocks(const float* matrix, int64_t rows, int64_t n, int64_t first, int64_t count, float* blocks) {
  for (int64_t d = 0; d < n; d += columnBlock, blocks += rows * columnBlock) {
    const int64_t width = std::min<int64_t>(columnBlock, n - d);
    for (int64_t i = first; i < first + count; i++)
      std::memcpy(blocks + i * width, matrix + i * n + d, width * sizeof(float));
  }
}

// The part-th of `parts` equal slices of a prefetch.
Prefetch slice(Prefetch next, int64_t part, int64_t parts) {
  const int64_t from = next.lines * part / parts, to = next.lines * (part + 1) / parts;
  return {static_cast<const char*>(next.from) + from * 64, static_cast<int64_t>(to - from)};
}

}  // namespace

// If half the rows or more can matter, takes the whole chunk: gathering would cost more than it
// saves. Depends on the bounds alone, so both passes decide alike.
int64_t Step::roundToWholeChunk(int64_t chunk, int32_t* rows, int64_t count) const {
  const int64_t all = plan_.chunkSize(chunk);
  if (2 * count < all) return count;
  for (int64_t i = 0; i < all; i++) rows[i] = static_cast<int32_t>(i);
  return all;
}

// Returns the logits of `count` rows of a chunk side by side, [panel][tileClasses][L], with the
// same bits as `backward` has: copied from a kept tile, or computed again (then `weights` is set to
// what was read). Gathers their maxima, factors and costs in scratch, in the same order. Lanes
// beyond `count` get a factor of 0.
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
    // For every panel of gathered rows: where each lane's column begins in the kept tile, then
    // class by class.
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
    // For every panel of gathered rows: pack their embeddings [D][L], multiply them with the tile's
    // weights.
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
  // Mask the targets, as `forward` did in kept tiles.
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

// Computes gradInput without the terms below its limit, and the error of both limits. A limit of 0
// takes no part. Done says which of both gradients is within bounds; the other one is computed in
// full by `backward`.
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
    // Too much was skipped: back to the targets' share, which `backward` adds to.
    else forEach(plan_.rows, [&](int64_t row, int thread) { beginInputGradient(row, thread); });
  }
  if (done.input) addOmitted();
  return done;
}

// One slot: for every tile of the class slot, for every chunk of the row slot, the four stages
// (head of file). inputSums is [classSlots][N][D] here, a row at a time, where `backward` has
// panels.
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
    float* packed = nullptr;  // the tile's weights in column blocks, made for the first chunk that needs them
    double skippedOfTile = 0;
    std::memset(skippedOfClasses, 0, sizeof skippedOfClasses);
    for (int64_t chunk = plan_.firstChunk(rowSlot); chunk < plan_.firstChunk(rowSlot + 1); chunk++) {
      const int64_t first = chunk * plan_.chunkRows;
      // Rows that may matter to either gradient. Not `<` on the kept side: NaN has to stay.
      int64_t count = 0;
      for (int64_t i = first; i < first + plan_.chunkSize(chunk); i++) {
        const float input = negligible_.inputBound(tile, i), weight = negligible_.weightBound(tile, i);
        rows[count] = static_cast<int32_t>(i - first);
        count += !(input < inputLimit) || !(weight < weightLimit);
      }
      count = roundToWholeChunk(chunk, rows, count);
      // All others cost what their cells' bounds say.
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
    // The tile's error in gradWeight: of skipped cells, and of skipped terms by class, whose norms
    // add in squares.
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

// Adds the class slots' partial sums of a panel's rows in order, and finishes the rows.
void Step::finishFilteredRows(int64_t panel) {
  const int64_t dim = plan_.dim, first = panel * lanes_, last = std::min(plan_.rows, first + lanes_);
  rowSquares_[panel] = 0;
  if (first >= last) return;
  float* sum = products_->inputSums() + first * dim;
  for (int64_t slot = 1; slot < plan_.classSlots; slot++)
    kernels_.accumulate(sum, sum + slot * paddedRows_ * dim, (last - first) * dim);
  for (int64_t i = first; i < last; i++) finishRow(i, sum + (i - first) * dim);
}

// After a pass: adds the share of its product that was skipped.
void Step::addOmitted() {
  double computed = 0;
  for (int64_t slot = 0; slot < plan_.slots(); slot++) computed += static_cast<double>(computed_[slot]);
  const double products = (problem_.gradInput ? 1 : 0) + (wantsWeight() ? 1 : 0);
  const double all = static_cast<double>(plan_.rows) * static_cast<double>(plan_.classes);
  problem_.omitted.share += (1 - computed / all) / products;
}

// gradWeight without the terms below its limit. The embeddings go to column blocks first, once for
// all slots.
void Step::filteredWeightGradient(float limit) {
  forEach(negligible_.panels(), [&](int64_t panel, int) {
    const int64_t first = panel * lanes_;
    toBlocks(problem_.input, plan_.rows, plan_.dim, first, std::min<int64_t>(lanes_, plan_.rows - first), inputBlocks_);
  });
  forEach(plan_.slots(), [&](int64_t slot, int thread) { filteredWeightGradientSlot(slot, thread, limit); });
  addOmitted();
}

// One slot, as above; but a list belongs to a class and names rows, and a finished tile goes on to
// finishClasses. `empty`: no row matters to any class of the tile so far, and its gradient has not
// been written.
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
      // A few classes at a time, with a list of rows each, as long as a chunk at most.
      TermLists lists = listsOf(thread, Plan::maxChunkRows);
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
