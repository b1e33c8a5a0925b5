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
#include "../layout.h"
#include "executor.h"

namespace margin_softmax::cpu {

class Parts {
 public:
  // What is left out of each product is below its limit, in units; 0: nothing may be.
  struct Limits {
    float input = 0, weight = 0;
  };

  Parts(const Plan& plan, int lanes) : plan_(plan), lanes_(lanes) {}

  // Whether it can pay: short rows cost less to multiply than to tell apart, and the masses must be few enough to be
  // stored: at most 16 MiB, or a 32nd of the weights.
  bool fit() const;
  void layOut(Layout& layout, int64_t paddedRows);

  // Where the forward pass stores the log masses of a tile's panels, `massStride` floats apart.
  float* masses(int64_t tile, int64_t firstRow) { return upper_ + firstRow * plan_.classTiles + tile * lanes_; }
  int64_t massStride() const { return plan_.classTiles * lanes_; }

  // Then, in this order: the unit of u, the largest row's Σ_j u_ij (false: nothing to compare with); each panel's
  // parts; each tile's total and largest 1/‖w_j‖.
  bool measureRows(const RowState* states);
  int64_t panels() const { return divideUp(plan_.rows, lanes_); }
  void weighRows(const Kernels& kernels, int64_t panel, const RowState* states, const float* maxima,
                 const float* factors);
  void weighTile(int64_t tile, const float* classScale);
  double total(int64_t tile) const { return totals_[tile] * unit_ * slack; }  // Σ_i Σ_{j in tile} u_ij

  // The sampled tiles, and what a panel's rows have in one: probabilities[classes][L].
  int64_t samples() const { return std::min<int64_t>(divideUp(plan_.classTiles, 8), mostSamples); }
  int64_t sampledTile(int64_t sample) const { return plan_.classTiles * (2 * sample + 1) / (2 * samples()); }
  void takeSample(int64_t panel, int64_t sample, const float* probabilities, const float* classScale);
  // The largest limits whose costs, as the sample has them, are within the budgets; 0 where more than the share
  // `most` of all (i, j) would be computed.
  Limits choose(double inputBudget, double weightBudget, double most) const;

  // What a row's P_ij is multiplied with to give u_ij in units.
  const float* costs() const { return costs_; }
  // Σ_j u_ij of a part in units, at the most; and that times the tile's largest 1/‖w_j‖.
  float inputPart(int64_t tile, int64_t row) const {
    return upper_[(row / lanes_ * plan_.classTiles + tile) * lanes_ + row % lanes_];
  }
  float weightPart(int64_t tile, int64_t row) const { return inputPart(tile, row) * largestScale_[tile]; }
  // From the sums, in units, of what was left out: left[slots][stride ≥ rows] of each row; left[slots][tiles], as norms
  // of a tile's rows of gradWeight.
  double inputCost(const double* left, int64_t slots, int64_t stride) const;
  double weightCost(const double* left, int64_t slots) const;

 private:
  // u in orders of magnitude below the unit, two per power of two; the last holds all that is smaller.
  static constexpr int64_t leastDim = 64;
  static constexpr int orders = 128, mostSamples = 16;
  static constexpr int64_t everyClass = 8;  // of a sampled tile is a sample for gradWeight
  // Covers the rounding of the exponentials, of the row's sum and of all sums here.
  static constexpr double slack = 1.001;

  int64_t sampledClasses() const { return samples() * divideUp(plan_.tileClasses, everyClass); }
  static int orderOf(float u);
  static float limitOf(int order);  // what lies below is of this order or a later one

  const Plan& plan_;
  const int lanes_;
  double unit_ = 0;
  float* upper_;                          // [panel][classTiles][L] log masses, then Σ_j u_ij in units
  float *costs_, *ones_, *largestScale_;  // [N], [classTiles], [classTiles]
  double *totals_, *inverse_;             // [classTiles] in units, [N] 1/‖x_i‖
  float *rowSums_, *classSums_;           // [N][orders], [panel][sampledClasses][orders]: sampled u, by order
  double *inputCounts_, *weightCounts_;   // [panel][orders] of sampled (i, j)
};

}  // namespace margin_softmax::cpu
