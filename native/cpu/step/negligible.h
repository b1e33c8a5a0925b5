// Which work of the backward pass can matter. Once a head is trained, most probabilities P_ij of other classes are far
// below what single precision resolves in the gradients. They are left out, and what that costs is bounded:
//
// With u_ij = |g_i|·s_i·P_ij, leaving out (i, j) takes at most
//   u_ij/‖x_i‖ from row i of gradInput   (projecting makes nothing longer), and
//   u_ij/‖w_j‖ from row j of gradWeight.
// gradInput goes without all u_ij below one limit, gradWeight without all u_ij/‖w_j‖ below another. Summed over what
// is left out, that costs at most
//   gradInput   √Σ_i (Σ_j u_ij/‖x_i‖)²
//   gradWeight  √Σ_j (Σ_i u_ij/‖w_j‖)²
// The limits are chosen by a sample of the classes; the costs are then added up over all of them, before anything
// depends on the choice.
//
// A part is a class tile × a row. The forward pass stores each part's mass, an upper bound of Σ e^z over its classes: a
// part whose Σ_j u_ij is below the limit costs no more than that and is not looked at again (for gradWeight: times the
// tile's largest 1/‖w_j‖, as a Frobenius norm).
// All sums are formed in an order that depends on the shape alone, so the choice is the same for any number of threads.
#pragma once
#include "../../core/layout.h"
#include "../executor.h"

namespace margin_softmax::cpu {

class NegligibleTerms {
 public:
  // What is left out of each product is below its limit, in units; 0: nothing may be.
  struct Limits {
    float input = 0, weight = 0;
  };

  NegligibleTerms(const Plan& plan, int lanes) : plan_(plan), lanes_(lanes) {}

  // Whether it can pay, from the shape alone: short rows cost less to multiply than to tell apart, few classes less than
  // a sample of them, and the masses must be few enough to be stored: at most 16 MiB, or a 32nd of the weights.
  bool fit() const;
  // Above this share of the probabilities, going over all of them is as fast: a sum of few rows runs at half of what the
  // multipliers could do, and telling which rows those are takes a time that does not depend on the dimension. Measured
  // break-even points: 7 % at 128, 13 % at 192, 20 % at 256, 40 % at 512.
  double maxComputedShare() const { return std::min(0.4, static_cast<double>(plan_.dim) / 1280); }
  void layOut(Layout& layout, int64_t paddedRows);

  // Where the forward pass stores the log masses of a tile's panels, `massStride` floats apart.
  float* masses(int64_t tile, int64_t firstRow) { return upperBounds_ + firstRow * plan_.classTiles + tile * lanes_; }
  int64_t massStride() const { return plan_.classTiles * lanes_; }

  // Then, in this order: the unit of u, the largest row's Σ_j u_ij (false: nothing to compare with), and the classes to
  // be looked at closely, of which `labels` (ascending) are some; each panel's parts; each tile's largest 1/‖w_j‖.
  bool measureRows(const RowState* states);
  void chooseClasses(const int32_t* labels, int64_t count);
  int64_t panels() const { return divideUp(plan_.rows, lanes_); }
  void boundRows(const Kernels& kernels, int64_t panel, const RowState* states, const float* maxima,
                 const float* factors);
  void boundTile(int64_t tile, const float* inverseClassNorm);

  // The classes to be looked at: of the batch, whose sums over all rows are wanted, then a sample, evenly spread.
  // Probabilities of a panel's rows in some of them: [count][L].
  int64_t labelClasses() const { return labels_; }
  int64_t closeClasses() const { return labels_ + samples(); }
  int32_t closeClass(int64_t at) const { return at < labels_ ? classes_[at] : sampledClass(at - labels_); }
  void addClasses(int64_t panel, int64_t first, int64_t count, const float* probabilities,
                  const float* inverseClassNorm);
  void closePanel(int64_t panel);     // after its last classes
  double labelSum(int64_t at) const;  // Σ_i u_ij of the class, at the most
  // The largest limits whose costs, as the sample has them, are within the budgets; 0 where more than the share
  // `most` of all (i, j) would be computed.
  Limits choose(double inputBudget, double weightBudget, double most) const;

  // What a row's P_ij is multiplied with to give u_ij in units.
  const float* costs() const { return costs_; }
  // Σ_j u_ij of a part in units, at the most; and that times the tile's largest 1/‖w_j‖.
  float inputBound(int64_t tile, int64_t row) const {
    return upperBounds_[(row / lanes_ * plan_.classTiles + tile) * lanes_ + row % lanes_];
  }
  float weightBound(int64_t tile, int64_t row) const { return inputBound(tile, row) * maxInverseNorms_[tile]; }
  // From the sums, in units, of what was left out: left[slots][stride ≥ rows] of each row; left[slots][tiles], as norms
  // of a tile's rows of gradWeight.
  double inputCost(const double* skipped, int64_t slots, int64_t stride) const;
  double weightCost(const double* skipped, int64_t slots) const;

 private:
  // Below, the backward pass is at most a few percent faster with 98 % left out, and up to twice as slow with 70 %.
  static constexpr int64_t minDim = 128, minWeights = 250'000;
  // u in orders of magnitude below the unit, two per power of two; the last holds all that is smaller.
  static constexpr int orders = 128;
  // Sampled classes, and those of them that are a sample for gradWeight, whose sums take a row of orders each.
  int64_t samples() const { return std::clamp<int64_t>(plan_.classes / 64, 64, 2048); }
  int64_t weightSamples() const { return divideUp(samples(), everySample()); }
  int64_t everySample() const { return divideUp(samples(), 256); }
  int32_t sampledClass(int64_t sample) const {
    return static_cast<int32_t>(plan_.classes * (2 * sample + 1) / (2 * samples()));
  }
  int64_t maxLabels() const { return std::min(plan_.rows, std::max<int64_t>(32, plan_.classes / 16)); }
  // Covers the rounding of the exponentials, of the row's sum and of all sums here.
  static constexpr double slack = 1.001;

  static int orderOf(float u);
  static float limitOf(int order);  // what lies below is of this order or a later one

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
