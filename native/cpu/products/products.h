// The seam between a step and its three matrix products. An implementation holds the packed operands, says when they are
// packed, and multiplies a tile of classes with a chunk of rows:
//
//   logits           z_ij = (x̂_i·w_j) · scale_j + bias_j
//   weightGradient   Σ_i A_ij · g_i s_i x̂_i      A: the tile's gradient, without the rows' factors
//   inputGradient    Σ_j A_ij · w_j
//
// A step chooses its products once (`makeProducts`) and never asks which they are. To add some: a class in a file beside
// float32_products.h, and a line in makeProducts.
#pragma once
#include <memory>

#include "../../core/problem.h"
#include "../../formulas/row.h"
#include "../kernels/kernels.h"
#include "../plan.h"
#include "../workspace.h"

namespace margin_softmax::cpu {

// A tile of classes × a chunk of rows, in the hands of one thread.
struct Tile {
  int thread;
  int64_t index, classes;  // of the tile; how many it has
  int64_t chunk;
  const float* weight;  // [classes][D]
};

class Products {
 public:
  // `paddedRows`: the rows of the plan, to a multiple of maxLanes.
  Products(const Kernels& kernels, const Plan& plan, int64_t paddedRows)
      : kernels_(kernels), plan_(plan), lanes_(kernels.lanes), paddedRows_(paddedRows) {}
  virtual ~Products() = default;
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  // Takes memory for the operands of the logits and of the gradients that are wanted.
  virtual void layOut(Layout& layout, int threads, bool weight, bool input) = 0;
  // Packs rows [first, first + 16), of which `count` exist: x_i·s_i/‖x_i‖ for the logits, times g_i for weightGradient.
  // A factor of 0 packs zeros whatever the row holds. `rows` points to row `first`, `states` to its state.
  virtual void packRows(const float* rows, int64_t first, int64_t count, const RowState* states) = 0;
  // Takes what it needs of all classes of a tile [classes][D] in their order, once a step.
  virtual void scaleClasses(int64_t /*tile*/, const float* /*weights*/) {}
  // Packs the tile's weights for the products that this thread computes until it packs the next tile's.
  virtual void packWeights(const Tile&, bool /*forLogits*/, bool /*forGradient*/) {}

  // out[panel][tileClasses][L]; `scale` and `bias` (or null) are [classes]. `next`, here and below: what the thread
  // reads afterwards, to be fetched meanwhile.
  virtual void logits(const Tile& tile, const float* scale, const float* bias, float* out, Prefetch next) = 0;
  // Packs the tile's gradient [panel][tileClasses][L] for the two products below, which take it, too.
  virtual void packGradient(const Tile&, const float* /*gradient*/) {}
  // out[classes][D to the next multiple of L] (+)= the sum over the chunk's rows.
  virtual void weightGradient(const Tile& tile, const float* gradient, float* out, bool accumulate, Prefetch next) = 0;
  // (+)= the sum over the tile's classes, into the class slot's partial sum: `inputSums`, but for narrow products.
  virtual void inputGradient(const Tile& tile, int64_t classSlot, const float* gradient, bool accumulate,
                             Prefetch next) = 0;

  // Whether the two below are there: they tell what is negligible (negligible.h).
  virtual bool computesRows() const { return false; }
  // Logits of one panel of rows, or of `count` rows, at most L, which are gathered in `packed` [D][L], with `classes`
  // rows of weights: out[classes][L], without a bias.
  virtual void panelLogits(const float* /*weight*/, int64_t /*classes*/, int64_t /*panel*/, const float* /*scale*/,
                           float* /*out*/) {}
  virtual void rowLogits(const float* /*weight*/, int64_t /*classes*/, const int64_t* /*rows*/, int64_t /*count*/,
                         const float* /*scale*/, float* /*packed*/, float* /*out*/) {}

  // The class slots' partial sums of gradInput [classSlots][panel][D][L]; null where none are wanted.
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

// How many classes a tile of these products has at the most: a multiple of their blocks' heights.
int64_t tileClassLimit(const Problem& problem);
// The products of a problem's precision and shape.
std::unique_ptr<Products> makeProducts(const Problem& problem, const Kernels& kernels, const Plan& plan,
                                       int64_t paddedRows);

}  // namespace margin_softmax::cpu
