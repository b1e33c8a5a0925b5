// What every executor does with a batch as a whole: the weights of its rows in the loss, and its rows in the order of
// their labels.
#pragma once
#include <cstdint>

#include "problem.h"

namespace margin_softmax {

struct BatchWeights {
  int64_t counted = 0;     // rows that are not ignored
  double divisor = 1;      // of the sum of losses; 0: a mean over no rows
  double rowGradient = 0;  // upstream gradient of each row's loss, before gradOutput
};

inline BatchWeights weighBatch(const Problem& problem) {
  BatchWeights weights;
  for (int64_t i = 0; i < problem.rows; i++) weights.counted += problem.labels[i] != ignoredLabel;
  if (problem.reduction == Reduction::mean) weights.divisor = static_cast<double>(weights.counted);
  weights.rowGradient = weights.divisor == 0 ? 0 : problem.gradScale / weights.divisor;
  return weights;
}

// The loss from the rows' sum, and the statistics' means from their sums.
inline void closeBatch(Problem& problem, const BatchWeights& weights, double lossSum) {
  problem.loss = weights.divisor == 0 ? 0 : lossSum / weights.divisor;
  if (!problem.statistics || weights.counted == 0) return;
  Statistics& statistics = *problem.statistics;
  const double rows = static_cast<double>(weights.counted);
  statistics.accuracy /= rows;
  statistics.targetCosine /= rows;
  statistics.largestOtherCosine /= rows;
}

// order[rows]: rows by label, then by row; those without a label here (below 0) come first. May throw std::bad_alloc.
void sortByLabel(const int32_t* labels, int64_t rows, int64_t classes, int32_t* order);

}  // namespace margin_softmax
