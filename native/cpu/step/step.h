// One step of the fused algorithm on one batch: the phases, and the scratch that they share.
//
//   prepare    rows: norms, target cosines and margins in double precision; embeddings packed in panels
//   forward    slots: tiles of logits without the targets → running (maximum, sum) per row
//   reduce     rows: loss, probabilities' factors, and the target's share of gradInput, all in double precision
//   backward   slots: tiles again (kept or recomputed) → probabilities → both matrix products; a finished class's
//              gradient is projected, joined by its targets' share, and written out or spent on the update
//   finish     rows: partial gradInput added in slot order, projected, joined to the target's share
//
// The phases by file: prepare.cc, step.cc (forward, reduce), backward.cc (backward, finish).
//
// Where most terms of the backward phase are negligible (negligible.h), two filtered passes take
// its place (filtered.cc): one for gradInput, whose error is then compared with its bound, and one
// for the weights.
//
// Targets never enter a tile. Their logits are masked, and their gradients are added separately in
// double precision. This keeps losses near 0 and slopes near |cos| = 1 exact.
//
// Narrow rows (few dimensions) have their logits and gradInput computed in double precision. Few
// dimensions hold many near directions, whose gradients cancel in the projection. A logit's
// rounding grows with the scale and would be 3e-5 of what remains. Tiles of narrow rows hold logits
// relative to the row's ceiling, its scale, which no logit exceeds: floats are finest near 0.
#pragma once
#include <atomic>
#include <cfloat>

#include "../../core/batch.h"
#include "../../formulas/row.h"
#include "../executor.h"
#include "../products/narrow.h"
#include "negatives.h"
#include "negligible.h"

namespace margin_softmax::cpu {

// The value of a masked logit: below every other, and finite, so that differences to it stay
// numbers.
constexpr float maskedLogit = -FLT_MAX;

class Step {
 public:
  // Computes rows [firstRow, firstRow + rows) of the problem. Gradients of later passes are added
  // to those of earlier ones.
  Step(Problem& problem, const Kernels& kernels, int64_t firstRow, int64_t rows, const BatchWeights& weights);

  Status run();
  double lossSum() const { return lossSum_; }

 private:
  // A tile's classes in consecutive rows: in place, or copied to scratch where the step trains a
  // sample of the classes or stores them in bfloat16.
  struct TileWeights {
    const float* weight;  // [tileSize][D]
    const float* bias;    // [tileSize] or null
  };
  struct ThreadScratch {
    float *tile, *classGradient, *row, *weights, *bias;
    float *packedInput, *maxima, *factors, *costs;  // of a chunk's filtered rows: [D][L], [chunkRows] each
    float* lists;                                   // TermLists: listTerms terms, then their lengths
  };

  void layOut(Layout& layout);
  void prepareRows(int64_t block, int thread);
  Status exchangeTargets();
  TileWeights tileWeights(int64_t tile, int thread) const;
  void scaleClasses(int64_t tile, const float* weights);
  void forward(int64_t slot, int thread);
  RowTotals totalsOf(int64_t row) const;
  Status exchangeTotals();
  void reduceRow(int64_t row, int thread);
  void beginInputGradient(int64_t row, int thread);
  void backwardPhase();
  void backward(int64_t slot, int thread, bool input, bool weight);
  void addBiasGradient(const float* gradient, int64_t classes, int64_t firstRow, int64_t panels, bool accumulate,
                       float* out) const;
  void finishClasses(int64_t tile, int thread, float* gradients, bool empty = false);
  void reduceClasses(int64_t tile, int thread);
  void finishRows(int64_t panel, int thread);
  void finishRow(int64_t row, const float* sum);
  void finishNarrowRow(int64_t row);
  Status collect();

  struct Done {
    bool input = false, weight = false;
  };
  NegligibleTerms::Limits chooseLimits(double& minWeightNorm);
  // False where classes are sharded: no process knows the norm of the sum of all shares of
  // gradInput, which the error is a fraction of.
  bool filtersInputGradient(const NegligibleTerms::Limits& limits) const {
    return limits.input > 0 && problem_.gradInput && !problem_.exchange;
  }
  void boundPanel(int64_t panel, int thread);
  double minWeightGradientNorm();
  static constexpr int64_t listTerms = 64 * 144;  // capacity of all lists that are in use at once
  TermLists listsOf(int thread, int64_t stride) const;
  int64_t roundToWholeChunk(int64_t chunk, int32_t* rows, int64_t count) const;
  const float* gatherTile(int64_t tile, int64_t chunk, const int32_t* rows, int64_t count, int thread,
                          TileWeights& weights) const;
  Done filteredInputGradient(const NegligibleTerms::Limits& limits, double minWeightNorm);
  void filteredInputGradientSlot(int64_t slot, int thread, const NegligibleTerms::Limits& limits);
  void finishFilteredRows(int64_t panel);
  void filteredWeightGradient(float limit);
  void filteredWeightGradientSlot(int64_t slot, int thread, float limit);
  void addOmitted();

  Tile tileAt(int64_t tile, const TileWeights& weights, int64_t chunk, int thread) const {
    return {thread, tile, plan_.tileSize(tile), chunk, weights.weight};
  }
  void computeTile(const Tile& tile, const float* bias, float* out) const;
  // The stored weights of `count` classes; none if they are not contiguous (a sample).
  Prefetch storedWeights(int64_t first, int64_t count) const;
  // The stored weights of the next tile; none after the last.
  Prefetch nextWeights(int64_t tile) const;
  // The weights that are read after a tile's weightGradient.
  Prefetch weightsAfterGradient(int64_t tile, bool again) const;
  // A tile's kept logits; none if they are recomputed.
  Prefetch keptLogits(int64_t tile, int64_t chunk) const;
  bool recomputes(int64_t tile) const { return !keptTile(tile, plan_.rowChunks - 1); }
  bool copiesWeights() const { return problem_.sample || problem_.bfloat16Weight; }
  float* weightRow(int64_t j, int thread) const;
  void storeRow(int64_t j, const float* row) const;
  float* keptTile(int64_t tile, int64_t chunk) const;
  template <class Body>
  void forTargets(int64_t firstClass, int64_t classes, int64_t firstRow, int64_t rows, const Body& body) const;
  const int32_t* firstTarget(int64_t label) const;
  float* tileElement(float* tile, int64_t row, int64_t classInTile) const;
  int64_t panelsOf(int64_t chunk) const { return divideUp(plan_.chunkSize(chunk), lanes_); }
  bool wantsWeight() const { return problem_.wantsWeightGradient(); }
  bool wantsGradient() const { return wantsWeight() || problem_.gradInput; }
  bool smooths() const { return problem_.labelSmoothing != 0; }
  const float* shares(int64_t tile) const;  // v_j of the tile's classes
  double shareOf(int64_t j) const { return shares(j / plan_.tileClasses)[j % plan_.tileClasses]; }
  bool cancelled() const { return problem_.execution.isCancelled(); }
  // Tiles are whole pages apart. If a store and the next load share the last 12 bits of their
  // addresses, the processor waits for the store (probabilities took 27 µs a tile instead of 8).
  static constexpr int64_t pageFloats = 1024;
  int64_t tileFloats() const { return roundUp(plan_.tileClasses * plan_.chunkRows, pageFloats); }
  int64_t classGradientFloats() const { return roundUp(plan_.tileClasses * paddedDim_, 16); }
  template <class Body>
  void forEach(int64_t items, const Body& body) {
    Pool::instance().forEach(problem_.execution.threads, items, [&](int64_t item, int thread) {
      if (!cancelled()) body(item, thread);
    });
  }

  Problem& problem_;
  const Kernels& kernels_;
  const Plan plan_;
  const int lanes_;
  const int64_t firstRow_, paddedRows_, paddedDim_;
  const bool normalized_, radial_;
  const BatchWeights& weights_;
  double lossSum_ = 0;
  FirstPlace large_;            // class whose norm is too large
  float leastInverseNorm_ = 0;  // smallest 1/‖w‖ whose products stay finite
  NegligibleTerms negligible_;
  double *skippedOfRows_, *skippedOfTiles_;  // [classSlots][N], [rowSlots][classTiles] Σ u_ij skipped, in units
  float* inputBlocks_;                       // [rows][D] in column blocks
  int32_t* labels_;                          // [rows] the batch's classes
  int64_t* computed_;                        // [slots] how many (i, j) were computed
  const std::unique_ptr<Products> products_;
  NarrowProducts* const narrow_;  // products_ of narrow rows, which finish their rows themselves; else null
  double allShares_ = 0;          // Σ v_j of this process's classes; set for narrow rows with label smoothing
  Negatives negatives_;
  const RunUpdate runUpdate_;   // of the problem's update, where there is one
  const bool skipsNegligible_;  // whether negligible terms are skipped

  // Scratch, laid out in the workspace; N = paddedRows_.
  RowState* states_;                                // [N]
  RowTotals* totals_;                               // [N], only where classes are sharded
  int32_t* order_;                                  // [rows] rows by label, then by row
  float* inverseClassNorm_;                         // [C] 1/‖w_j‖, or 1
  float *maxima_, *sums_;                           // [classSlots][N]
  double* logitSums_;                               // [classSlots][N] Σ v·z, only with label smoothing
  float *rowMaximum_, *rowFactor_, *rowGradients_;  // [N] max, e^(max − lse), g
  float* rowEven_;                                  // [N] label smoothing's target for a negative of share 1
  float* rowLimit_;                                 // [N] largest logit that the interclass filter keeps
  float* partialWeight_;                            // [rowSlots][C][paddedDim], only with several row slots
  float* partialBias_;                              // [rowSlots][C]
  double* slotSquares_;                             // [classTiles] ‖gradient of the tile's classes‖²
  double* rowSquares_;                              // [panel]
  float* scratch_;                                  // ThreadScratch per thread
  float* kept_;                                     // [keptTiles] tiles
  int64_t keptTiles_ = 0, scratchStride_ = 0;

  ThreadScratch scratchOf(int thread) const;
};

// Calls body(row, class) for the rows of [firstRow, firstRow + rows) whose label is in [firstClass,
// firstClass + classes), in the order of class, then row.
template <class Body>
void Step::forTargets(int64_t firstClass, int64_t classes, int64_t firstRow, int64_t rows, const Body& body) const {
  const int32_t* labels = problem_.labels + firstRow_;
  for (const int32_t* at = firstTarget(firstClass); at != order_ + plan_.rows && labels[*at] < firstClass + classes;
       at++)
    if (*at >= firstRow && *at < firstRow + rows) body(*at, labels[*at]);
}

}  // namespace margin_softmax::cpu
