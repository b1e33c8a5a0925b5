// Which work of the backward pass can matter. A part is a class tile × a batch row: what the classes of one tile add to
// a row's gradInput, and the row to theirs. Once a head is trained, the probabilities of most parts are far below what
// single precision resolves in the gradients. They are left out, and what that costs is bounded:
//
// The forward pass stores each part's mass, an upper bound of Σ e^z over its classes. With P_it = mass / row's sum and
// u_it = |g_i|·s_i·P_it, a part that is left out takes at most
//   u_it/‖x_i‖ from row i of gradInput              (projecting makes nothing longer), and
//   u_it/min‖w_j‖ from the tile's rows of gradWeight (their Frobenius norm; as Σ_j P_ij² ≤ (Σ_j P_ij)²).
// So leaving out all parts whose u_it is below a limit costs at most
//   gradInput   √Σ_i (Σ_t u_it/‖x_i‖)²
//   gradWeight  √Σ_t (Σ_i u_it/min‖w_j‖)²
// The limit is the largest, of four per power of two, whose cost stays within the budget. Sums are formed in an order
// that depends on the shape alone, so the choice is the same for any number of threads.
#pragma once
#include "../layout.h"
#include "executor.h"

namespace margin_softmax::cpu {

class Parts {
 public:
  // Of one product: what is left out, and at what cost.
  struct Choice {
    float limit = 0;   // parts below it, in units of the largest row's u, are left out
    double bound = 0;  // of the norm of what they hold
    double share = 1;  // of the parts that are computed
  };

  Parts(const Plan& plan, int lanes) : plan_(plan), lanes_(lanes) {}

  // Whether the masses are few enough to be stored: at most 16 MiB, or a 32nd of the weights.
  bool fit() const;
  void layOut(Layout& layout, int64_t paddedRows);

  // Where the forward pass stores the log masses of a tile's panels, `massStride` floats apart.
  float* masses(int64_t tile, int64_t firstRow) { return upper_ + firstRow * plan_.classTiles + tile * lanes_; }
  int64_t massStride() const { return plan_.classTiles * lanes_; }

  // Then, in this order: the largest row's Σ_t u_it (false: there is nothing to compare with), each panel's u_it, and
  // each tile block's sums.
  bool measureRows(const RowState* states);
  int64_t panels() const { return divideUp(plan_.rows, lanes_); }
  void weighRows(const Kernels& kernels, int64_t panel, const RowState* states, const float* maxima,
                 const float* factors);
  int64_t tileBlocks() const { return std::min<int64_t>(plan_.classTiles, 64); }
  void weighTiles(int64_t block, const float* classScale);

  // The largest limits whose cost is within the budget.
  Choice forInput(double budget) const { return choose(rowSums_, panels(), budget); }
  Choice forWeight(double budget) const { return choose(tileSums_, tileBlocks(), budget); }
  // Σ_i u_it of the tile.
  double total(int64_t tile) const { return totals_[tile] * unit_ * slack; }
  // The rows of a chunk whose part is not left out, as places in it; returns their number.
  int64_t active(int64_t tile, int64_t chunk, float limit, int32_t* rows) const;

 private:
  // u in orders of magnitude below the unit, four per power of two; the last holds all that is smaller.
  static constexpr int orders = 256;
  // Covers the rounding of the exponentials, of the row's sum and of all sums here.
  static constexpr double slack = 1.001;
  struct Sums {
    double squares[orders];  // of the cost of leaving out this order and all below
    double counts[orders];   // of the parts in this order
  };

  float at(int64_t tile, int64_t row) const {
    return upper_[(row / lanes_ * plan_.classTiles + tile) * lanes_ + row % lanes_];
  }
  static int orderOf(float u);
  static float limitOf(int order);  // what lies below is of this order or a later one
  Choice choose(const Sums* sums, int64_t count, double budget) const;

  const Plan& plan_;
  const int lanes_;
  double unit_ = 0;
  float* upper_;     // [panel][classTiles][L] log masses, then u_it/unit
  float* factor_;    // [N] |g_i|·s_i/unit/row's sum
  float* ones_;      // [classTiles]
  double* totals_;   // [classTiles] Σ_i u_it/unit
  double* inverse_;  // [N] 1/‖x_i‖
  Sums *rowSums_, *tileSums_;
};

}  // namespace margin_softmax::cpu
