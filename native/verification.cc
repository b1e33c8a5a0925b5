// The figures of verification, from counts of pairs by score.
#include "verification.h"

namespace margin_softmax {

// Compensated: counts of pairs of pairs exceed what a double holds exactly from some 10^8 pairs on.
void VerificationFigures::addArea(double term) {
  const double sum = area_ + term;
  areaRest_ += area_ >= term ? (area_ - sum) + term : (term - sum) + area_;
  area_ = sum;
}

// What the last threshold does is the answer for this limit: the next one accepts too much.
void VerificationFigures::settle(int64_t limit) {
  problem_.trueAcceptRates[limit] = trueAcceptRate();
  problem_.falseAcceptRates[limit] = falseAcceptRate();
  problem_.thresholds[limit] = threshold_;
}

void VerificationFigures::add(int32_t bin, int64_t same, int64_t different) {
  const auto correct = [&] { return accepted_.same + problem_.differentPairs - accepted_.different; };
  if (mostCorrect_ < 0) {  // before the first score: none is accepted
    mostCorrect_ = correct();
    problem_.bestThreshold = threshold_;
  }
  // Equal scores count one half.
  addArea(static_cast<double>(different) * static_cast<double>(2 * accepted_.same + same));
  const double nextFalse = static_cast<double>(accepted_.different + different) / problem_.differentPairs;
  while (settled_ < problem_.limits && problem_.falseAcceptLimits[settled_] < nextFalse) settle(settled_++);

  const double before = falseAcceptRate() - (1 - trueAcceptRate()), falseBefore = falseAcceptRate();
  accepted_.same += same;
  accepted_.different += different;
  threshold_ = scoreOf(bin);
  const double after = falseAcceptRate() - (1 - trueAcceptRate());
  if (!crossed_ && after >= 0) {
    crossed_ = true;
    problem_.equalErrorRate = falseBefore + before / (before - after) * (falseAcceptRate() - falseBefore);
    problem_.equalErrorThreshold = threshold_;
  }
  if (correct() > mostCorrect_) {
    mostCorrect_ = correct();
    problem_.bestThreshold = threshold_;
  }
  const int32_t column = bin == 2 * scoreSteps ? histogramBins - 1 : bin / (2 * scoreSteps / histogramBins);
  problem_.sameHistogram[column] += static_cast<double>(same);
  problem_.differentHistogram[column] += static_cast<double>(different);
}

void VerificationFigures::finish() {
  while (settled_ < problem_.limits) settle(settled_++);
  const double same = static_cast<double>(problem_.samePairs), different = static_cast<double>(problem_.differentPairs);
  problem_.areaUnderCurve = (area_ + areaRest_) / 2 / (same * different);
  problem_.bestAccuracy = static_cast<double>(mostCorrect_) / (same + different);
}

}  // namespace margin_softmax
