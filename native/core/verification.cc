// The results of verification from counts of pairs by score.
#include "verification.h"

#include <algorithm>

namespace margin_softmax {

void VerificationFigures::Count::add(double term) {
  const double next = sum + term;
  rest += sum >= term ? (sum - next) + term : (term - next) + sum;
  sum = next;
}

VerificationFigures::VerificationFigures(VerificationProblem& problem) : problem_(problem) {
  problem_.minimumDetectionCost = std::numeric_limits<double>::infinity();
  judgeThreshold();  // the strictest one, which accepts none
}

// What the last threshold does is the answer for this limit: the next one accepts too much.
void VerificationFigures::settle(int64_t limit) {
  problem_.trueAcceptRates[limit] = trueAcceptRate();
  problem_.falseAcceptRates[limit] = falseAcceptRate();
  problem_.thresholds[limit] = threshold_;
}

// Whether this threshold is better than every stricter one, by each of the three measures.
void VerificationFigures::judgeThreshold() {
  const int64_t correct = accepted_.same + problem_.differentPairs - accepted_.different;
  if (correct > mostCorrect_) {
    mostCorrect_ = correct;
    problem_.bestThreshold = threshold_;
  }
  // As a difference of products, which is exact for fewer than 2^53 pairs of pairs, where rates are
  // rounded.
  const double gained = static_cast<double>(accepted_.same) * static_cast<double>(problem_.differentPairs) -
                        static_cast<double>(accepted_.different) * static_cast<double>(problem_.samePairs);
  if (gained > mostGained_) {
    mostGained_ = gained;
    problem_.bestBalancedAccuracy = (trueAcceptRate() + (1 - falseAcceptRate())) / 2;
    problem_.bestBalancedThreshold = threshold_;
  }
  const double cost = problem_.detectionCost(1 - trueAcceptRate(), falseAcceptRate());
  if (cost < problem_.minimumDetectionCost) {
    problem_.minimumDetectionCost = cost;
    problem_.minimumDetectionCostThreshold = threshold_;
  }
}

void VerificationFigures::add(double score, int64_t same, int64_t different) {
  // Equal scores count one half.
  ordered_.add(static_cast<double>(different) * static_cast<double>(2 * accepted_.same + same));
  tied_.add(static_cast<double>(different) * static_cast<double>(same));
  const double nextFalse = static_cast<double>(accepted_.different + different) / problem_.differentPairs;
  while (settled_ < problem_.limits && problem_.falseAcceptLimits[settled_] < nextFalse) settle(settled_++);

  const double before = falseAcceptRate() - (1 - trueAcceptRate()), falseBefore = falseAcceptRate();
  accepted_.same += same;
  accepted_.different += different;
  threshold_ = score;
  const double after = falseAcceptRate() - (1 - trueAcceptRate());
  if (!crossed_ && after >= 0) {
    crossed_ = true;
    problem_.equalErrorRate = falseBefore + before / (before - after) * (falseAcceptRate() - falseBefore);
    problem_.equalErrorThreshold = threshold_;
  }
  judgeThreshold();

  // By halves: the whole range may exceed what a double holds.
  const double from = problem_.histogramFrom / 2, share = (score / 2 - from) / (problem_.histogramTo / 2 - from);
  const int32_t column = share < 1 ? static_cast<int32_t>(share * histogramBins) : histogramBins - 1;
  problem_.sameHistogram[column] += static_cast<double>(same);
  problem_.differentHistogram[column] += static_cast<double>(different);
}

void VerificationFigures::finish() {
  while (settled_ < problem_.limits) settle(settled_++);
  const double same = static_cast<double>(problem_.samePairs), different = static_cast<double>(problem_.differentPairs);
  problem_.areaUnderCurve = ordered_.total() / 2 / (same * different);
  problem_.ties = tied_.total() / (same * different);
  problem_.bestAccuracy = static_cast<double>(mostCorrect_) / (same + different);
}

}  // namespace margin_softmax
