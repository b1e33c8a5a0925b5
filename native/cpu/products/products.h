// The seam between a step and its three matrix products. An implementation owns its packed operands
// and multiplies a tile of classes with a chunk of rows:
//
//   logits           z_ij = (s_i x̂_i·w_j) · scale_j + bias_j
//   weightGradient   Σ_i A_ij · g_i s_i x̂_i      A: the tile's gradient, without the rows' factors
//   inputGradient    Σ_j A_ij · w_j
//
// A step chooses its products once (`makeProducts`) and never asks which they are. Adding a kind of
// product takes a class in a file of this folder and a line in makeProducts.
#pragma once
#include <memory>

#include "../../core/problem.h"
#include "../../formulas/row.h"
#include "../kernels/kernels.h"
#include "../plan.h"
#include "../workspace.h"

namespace margin_softmax::cpu {

// A tile of classes × a chunk of rows, computed by one thread.
struct Tile {
  int thread;
  int64_t index, classes;  // the tile's number and size
  int64_t chunk;
  const float* weight;  // [classes][D]
};

class Products {
 public:
  // `paddedRows`: the plan's rows, rounded up to a multiple of maxLanes.
  Products(const Kernels& kernels, const Plan& plan, int64_t paddedRows)
      : kernels_(kernels), plan_(plan), lanes_(kernels.lanes), paddedRows_(paddedRows) {}
  virtual ~Products() = default;
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Takes memory for the operands of the logits and of the wanted gradients.
  virtual void layOut(Layout& layout, int threads, bool weight, bool input) = 0;
  // Packs rows [first, first + 16), of which `count` exist: x_i·s_i/‖x_i‖ for the logits, times g_i
  // for weightGradient. A factor of 0 packs zeros whatever the row holds. `rows` points to row
  // `first`, `states` to its state.
  virtual void packRows(const float* rows, int64_t first, int64_t count, const RowState* states) = 0;
  // Called once a step for each tile, before its logits, with all its classes [classes][D].
  virtual void scaleClasses(int64_t /*tile*/, const float* /*weights*/) {}
  // Packs the tile's weights. They serve this thread until it packs those of its next tile.
  virtual void packWeights(const Tile&, bool /*forLogits*/, bool /*forGradient*/) {}
  // False if products read weights in place.
  virtual bool packsWeights() const { return false; }

  // out[panel][tileClasses][L]; `scale` and `bias` (or null) are [classes]. `next`, here and below,
  // is what the thread reads afterwards; it is prefetched meanwhile.
  virtual void logits(const Tile& tile, const float* scale, const float* bias, float* out, Prefetch next) = 0;
  // Packs the tile's gradient [panel][tileClasses][L] for the two products below, which also get it
  // unpacked.
  virtual void packGradient(const Tile&, const float* /*gradient*/) {}
  // out[classes][D rounded up to a multiple of L] (+)= the sum over the chunk's rows.
  virtual void weightGradient(const Tile& tile, const float* gradient, float* out, bool accumulate, Prefetch next) = 0;
  // Adds the sum over the tile's classes to the class slot's partial sum: `inputSums`, except in
  // narrow products.
  virtual void inputGradient(const Tile& tile, int64_t classSlot, const float* gradient, bool accumulate,
                             Prefetch next) = 0;

  // True if the two below exist; the filter of negligible terms needs them (filtered.cc).
  virtual bool computesRows() const { return false; }
  // Logits, without a bias, of one panel of rows or of `count` ≤ L rows, gathered in `packed`
  // [D][L], with `classes` rows of weights: out[classes][L].
  virtual void panelLogits(const float* /*weight*/, int64_t /*classes*/, int64_t /*panel*/, const float* /*scale*/,
                           float* /*out*/) {}
  virtual void rowLogits(const float* /*weight*/, int64_t /*classes*/, const int64_t* /*rows*/, int64_t /*count*/,
                         const float* /*scale*/, float* /*packed*/, float* /*out*/) {}

  // The class slots' partial sums of gradInput, [classSlots][panel][D][L]; null if gradInput is not
  // wanted.
  float* inputSums() const { return inputSums_; }

 protected:
  int64_t panels(int64_t chunk) const { return divideUp(plan_.chunkSize(chunk), lanes_); }
  int64_t firstRow(int64_t chunk) const { return chunk * plan_.chunkRows; }
  int64_t dimStride() const { return roundUp(plan_.dim, lanes_); }
  void layOutInputSums(Layout& layout, bool input) {
    inputSums_ = layout.take<float>(input ? plan_.classSlots * paddedRows_ * plan_.dim : 0);
  }
  float* inputSum(const Tile& tile, int64_t classSlot) const {
    return inputSums_ + (classSlot * paddedRows_ + firstRow(tile.chunk)) * plan_.dim;
  }

  const Kernels& kernels_;
  const Plan& plan_;
  const int lanes_;  // L
  const int64_t paddedRows_;

 private:
  float* inputSums_ = nullptr;
};

// The largest tile of these products, in classes: a multiple of their blocks' heights.
int64_t tileClassLimit(Precision precision);
// Makes the products for a problem's precision and shape.
std::unique_ptr<Products> makeProducts(const Problem& problem, const Kernels& kernels, const Plan& plan,
                                       int64_t paddedRows);
// The same for products that no margin follows, which no few dimensions make narrow.
std::unique_ptr<Products> makeProducts(Precision precision, const Kernels& kernels, const Plan& plan,
                                       int64_t paddedRows);

}  // namespace margin_softmax::cpu
