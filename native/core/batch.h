// Work on a batch as a whole that all executors share: the weights of rows in the loss, and their
// order by label.
#pragma once
#include <cstdint>
#include <vector>

#include "problem.h"

namespace margin_softmax {

struct BatchWeights {
  int64_t counted = 0;          // rows that are not ignored
  double divisor = 1;           // of the sum of losses; 0: no row has a weight
  double rowGradient = 0;       // upstream gradient of each row's loss, before gradOutput and the row's weight
  RowWeight unweighted;         // of every row, if `rows` is empty
  std::vector<RowWeight> rows;  // [B]
  std::vector<float> shares;    // [C] v_j of softmax.h; empty: all 1

  const RowWeight& of(int64_t row) const { return rows.empty() ? unweighted : rows[row]; }
};

// With the row's weight s and class weights w, a row's loss is (PyTorch's cross_entropy, times s)
//
//   s·(−(1 − ε)·w_y·log P_y − (ε/C)·Σ_j w_j·log P_j) = s·W·(log Σ_j e^z_j − Σ_j t_j·z_j),
//
//   W = (1 − ε)·w_y + (ε/C)·Σ_j w_j,   t_j = (ε/C)·w_j/W for j ≠ y,   t_y = 1 − Σ_{j≠y} t_j.
//
// So a row's loss and gradients share one factor, s·W. A mean's divisor is Σ s·w_y. May throw
// std::bad_alloc.
BatchWeights weighBatch(const Problem& problem);

// Sets the loss from the rows' sum, and turns the statistics' sums into means.
inline void closeBatch(Problem& problem, const BatchWeights& weights, double lossSum) {
  problem.loss = weights.divisor == 0 ? 0 : lossSum / weights.divisor;
  if (!problem.statistics || weights.counted == 0) return;
  Statistics& statistics = *problem.statistics;
  const double rows = static_cast<double>(weights.counted);
  statistics.accuracy /= rows;
  statistics.targetCosine /= rows;
  statistics.largestNegativeCosine /= rows;
}

// Returns each row's class weight; 0 for ignored rows. May throw std::bad_alloc.
std::vector<float> weightsOfTargets(const float* classWeights, const int32_t* labels, int64_t rows);

// order[rows] = the rows sorted by label, then by row. Rows without a label here (below 0) come
// first. May throw std::bad_alloc.
void sortByLabel(const int32_t* labels, int64_t rows, int64_t classes, int32_t* order);

}  // namespace margin_softmax
