#include "batch.h"

#include <algorithm>
#include <vector>

namespace margin_softmax {

BatchWeights weighBatch(const Problem& problem) {
  BatchWeights weights;
  const double classes = static_cast<double>(problem.totalClasses), even = problem.labelSmoothing / classes;
  const bool weighsClasses = problem.classWeights && problem.labelSmoothing != 0;
  const double sum = weighsClasses ? problem.classWeightSum : classes;  // Σ_j w_j
  const double unit = sum / classes;                                    // w_j = unit·v_j, so that v_j is near 1
  // A row's weight from its s and w_y.
  const auto weigh = [&](double sample, double target) {
    const double all = (1 - problem.labelSmoothing) * target + even * sum;
    RowWeight row{sample * all, {}};
    if (all != 0) row.smoothing = {even * unit / all, even * (sum - target) / all};
    return row;
  };
  weights.unweighted = weigh(1, 1);
  const bool weighted = problem.sampleWeights || problem.targetWeights;
  if (weighted) weights.rows.resize(problem.rows);
  double divisor = 0;
  for (int64_t i = 0; i < problem.rows; i++) {
    if (problem.labels[i] == ignoredLabel) continue;
    weights.counted++;
    const double sample = problem.sampleWeights ? problem.sampleWeights[i] : 1;
    const double target = problem.targetWeights ? problem.targetWeights[i] : 1;
    divisor += sample * target;
    if (weighted) weights.rows[i] = weigh(sample, target);
  }
  if (problem.reduction == Reduction::mean) weights.divisor = divisor;
  weights.rowGradient = weights.divisor == 0 ? 0 : problem.gradScale / weights.divisor;
  if (weighsClasses) {
    weights.shares.resize(problem.classes);
    for (int64_t j = 0; j < problem.classes; j++)
      weights.shares[j] = unit == 0 ? 0 : static_cast<float>(problem.classWeights[problem.rowOf(j)] / unit);
  }
  return weights;
}

std::vector<float> weightsOfTargets(const float* classWeights, const int32_t* labels, int64_t rows) {
  std::vector<float> weights(rows);
  for (int64_t i = 0; i < rows; i++) weights[i] = labels[i] < 0 ? 0 : classWeights[labels[i]];
  return weights;
}

void sortByLabel(const int32_t* labels, int64_t rows, int64_t classes, int32_t* order) {
  if (classes <= 4 * rows) {  // few classes: count them
    constexpr int32_t least = labelElsewhere;
    std::vector<int32_t> start(classes - least + 1, 0);
    for (int64_t i = 0; i < rows; i++) start[labels[i] - least + 1]++;
    for (int64_t j = 1; j <= classes - least; j++) start[j] += start[j - 1];
    for (int64_t i = 0; i < rows; i++) order[start[labels[i] - least]++] = static_cast<int32_t>(i);
    return;
  }
  for (int64_t i = 0; i < rows; i++) order[i] = static_cast<int32_t>(i);
  std::sort(order, order + rows,
            [labels](int32_t a, int32_t b) { return labels[a] != labels[b] ? labels[a] < labels[b] : a < b; });
}

}  // namespace margin_softmax
