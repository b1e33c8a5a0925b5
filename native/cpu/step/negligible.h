// Finds the terms of the backward pass that are negligible, and bounds the error of skipping them.
// In a trained head most negatives' probabilities P_ij are far below what single precision
// resolves.
//
// Let u_ij = |g_i|·s_i·P_ij. Skipping the pair (i, j) changes
//   row i of gradInput  by at most u_ij/‖x_i‖ (a projection lengthens nothing),
//   row j of gradWeight by at most u_ij/‖w_j‖.
// gradInput skips all u_ij below one limit, gradWeight all u_ij/‖w_j‖ below another. The errors,
// summed over the skipped pairs, are at most
//   gradInput   √Σ_i (Σ_j u_ij/‖x_i‖)²
//   gradWeight  √Σ_j (Σ_i u_ij/‖w_j‖)²
// A sample of the classes chooses the limits. The errors are then summed over all classes, before
// anything depends on the choice.
//
// A cell is a class tile × a row. The forward pass stores each cell's mass, an upper bound of Σ e^z
// over its classes. It bounds the cell's Σ_j u_ij; a cell whose bound is below the limit is skipped
// unseen. (For gradWeight the bound is multiplied by the tile's largest 1/‖w_j‖, as a Frobenius
// norm.)
//
// All sums are formed in an order that depends on the shape alone. So the choice is the same for
// any number of threads.
#pragma once
#include "../../core/layout.h"
#include "../executor.h"

namespace margin_softmax::cpu {

class NegligibleTerms {
 public:
  // Terms below the limit are skipped, in units of unit_; 0: none is.
  struct Limits {
    float input = 0, weight = 0;
  };

  NegligibleTerms(const Plan& plan, int lanes) : plan_(plan), lanes_(lanes) {}

  // True if skipping can pay, from the shape alone. Multiplying short rows is cheaper than telling
  // them apart, and few classes are cheaper than a sample of them. The masses must fit: at most 16
  // MiB, or a 32nd of the weights.
  bool fit() const;
  // The largest share of pairs that is worth computing apart. A sum of few rows runs at half the
  // speed of the full product, and finding the rows takes a time that does not depend on the
  // dimension. Measured:
  //
  //   dimension          128   192   256   512
  //   break-even share   7 %   13 %  20 %  40 %
  double maxComputedShare() const { return std::min(0.4, static_cast<double>(plan_.dim) / 1280); }
  void layOut(Layout& layout, int64_t paddedRows);

  // Log masses of a tile's panels from this row on, `massStride` floats apart: logSumExp writes
  // them.
  float* masses(int64_t tile, int64_t firstRow) { return upperBounds_ + firstRow * plan_.classTiles + tile * lanes_; }
  int64_t massStride() const { return plan_.classTiles * lanes_; }

  // The choice, call by call in this order. measureRows sets the unit of u, the largest row's Σ_j
  // u_ij; false if there is nothing to compare with. chooseClasses takes `labels` (ascending) and a
  // sample. boundRows bounds the cells of a panel, boundTile finds a tile's largest 1/‖w_j‖.
  bool measureRows(const RowState* states);
  void chooseClasses(const int32_t* labels, int64_t count);
  int64_t panels() const { return divideUp(plan_.rows, lanes_); }
  void boundRows(const Kernels& kernels, int64_t panel, const RowState* states, const float* maxima,
                 const float* factors);
  void boundTile(int64_t tile, const float* inverseClassNorm);

  // The classes to examine: the batch's labels, whose sums over all rows bound gradWeight from
  // below, then an evenly spread sample. addClasses takes the probabilities of a panel's rows,
  // [count][L].
  int64_t labelClasses() const { return labels_; }
  int64_t closeClasses() const { return labels_ + samples(); }
  int32_t closeClass(int64_t at) const { return at < labels_ ? classes_[at] : sampledClass(at - labels_); }
  void addClasses(int64_t panel, int64_t first, int64_t count, const float* probabilities,
                  const float* inverseClassNorm);
  void closePanel(int64_t panel);     // after its last classes
  double labelSum(int64_t at) const;  // upper bound of the class's Σ_i u_ij
  // The largest limits whose errors, estimated from the sample, are within the budgets; 0 if a
  // larger share of all (i, j) than `maxShare` would still be computed.
  Limits choose(double inputBudget, double weightBudget, double maxShare) const;

  // [N] the row's factor that turns P_ij into u_ij in units.
  const float* costs() const { return costs_; }
  // Upper bounds of a cell's Σ_j u_ij and of its Σ_j u_ij/‖w_j‖, in units.
  float inputBound(int64_t tile, int64_t row) const {
    return upperBounds_[(row / lanes_ * plan_.classTiles + tile) * lanes_ + row % lanes_];
  }
  float weightBound(int64_t tile, int64_t row) const { return inputBound(tile, row) * maxInverseNorms_[tile]; }
  // Bounds of both errors from what was skipped, in units: Σ_j u_ij of each row, [slots][stride ≥
  // rows], and norms of each tile's rows of gradWeight, [slots][tiles].
  double inputCost(const double* skipped, int64_t slots, int64_t stride) const;
  double weightCost(const double* skipped, int64_t slots) const;

 private:
  // Below, skipping 98 % gains a few percent at most, and skipping 70 % takes up to twice as long.
  static constexpr int64_t minDim = 128, minWeights = 250'000;
  // Histograms of u: orders of magnitude below the unit, two per power of two; the last holds all
  // below.
  static constexpr int orders = 128;
  // Sampled classes, and how many of them also sample gradWeight, at a row of `orders` sums each.
  int64_t samples() const { return std::clamp<int64_t>(plan_.classes / 64, 64, 2048); }
  int64_t weightSamples() const { return divideUp(samples(), everySample()); }
  int64_t everySample() const { return divideUp(samples(), 256); }
  int32_t sampledClass(int64_t sample) const {
    return static_cast<int32_t>(plan_.classes * (2 * sample + 1) / (2 * samples()));
  }
  int64_t maxLabels() const { return std::min(plan_.rows, std::max<int64_t>(32, plan_.classes / 16)); }
  // Covers the rounding of the exponentials, of the row's sum and of all sums here. Without it a
  // bound could be a rounding error too small.
  static constexpr double slack = 1.001;

  static int orderOf(float u);
  static float limitOf(int order);  // the u below which orders from this one on lie

  const Plan& plan_;
  const int lanes_;
  double unit_ = 0;
  float* upperBounds_;                       // [panel][classTiles][L] log masses, then Σ_j u_ij in units
  float *costs_, *ones_, *maxInverseNorms_;  // [N], [classTiles], [classTiles]
  int32_t* classes_;                         // [labels] of the batch
  int64_t labels_ = 0;
  double *labelSums_, *inverse_;         // [panel][labels] Σ u in units, [N] 1/‖x_i‖
  float *rowSums_, *classSums_;          // [N][orders], [panel][weightSamples][orders]: sampled u, by order
  double* inputSquares_;                 // [panel][orders] of what rows would lose with this order and all below
  double *inputCounts_, *weightCounts_;  // [panel][orders] of sampled (i, j)
};

}  // namespace margin_softmax::cpu
