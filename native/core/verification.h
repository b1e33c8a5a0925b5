// Verification: decides for pairs of embeddings whether they belong together, by comparing scores
// with a threshold. Every result is exact for the scores: nothing is sampled, and no matrix of
// pairs is stored.
//
// All pairs of rows, hundreds of millions, are counted by score. Their scores are cosines in 2^25
// steps, as fine as single precision just below 1, and finer than the rounding of the cosines.
// Pairs of a list are sorted: by cosines in double precision, or by scores from the caller.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "problem.h"
#include "status.h"

namespace margin_softmax {

constexpr int32_t scoreSteps = 1 << 24;  // steps of a cosine from 0 to 1; bins are 0 to 2·scoreSteps

// The score of a bin, if bins cover 1 − span to 1. Exact if span is a power of two.
inline double scoreOf(int32_t bin, double span) { return 1 - span * (2 * scoreSteps - bin) / (2 * scoreSteps); }

// A listed pair's cosine in steps of 2^-40, halves away from 0. Double precision loses less in a
// product of thousands of numbers, so equal cosines are equal scores; single precision embeddings
// differ by more.
inline double listedScore(double cosine) {
  constexpr double steps = 1099511627776.0;
  const double bounded = cosine < -1 ? -1 : cosine > 1 ? 1 : cosine;
  return std::round(bounded * steps) / steps;
}

// Equal bins over the scores' range, for drawing. The highest score belongs to the last one.
constexpr int32_t histogramBins = 128;

// The detection cost of NIST's speaker recognition evaluations: cMiss·P(miss)·pTarget +
// cFalseAlarm·P(false alarm)·(1 − pTarget), divided by the cost of the better one of accepting all
// and accepting none.
struct DetectionCost {
  double pTarget = 0.01, cMiss = 1, cFalseAlarm = 1;

  double operator()(double missRate, double falseAlarmRate) const {
    const double misses = cMiss * pTarget, falseAlarms = cFalseAlarm * (1 - pTarget);
    return (misses * missRate + falseAlarms * falseAlarmRate) / (misses < falseAlarms ? misses : falseAlarms);
  }
};

// The pairs are all i < j of rows with labels, or a list, whose scores the caller may supply.
struct VerificationProblem {
  int64_t rows = 0, dim = 0;
  const float* embeddings = nullptr;  // [N,D], or null with givenScores
  const int32_t* labels = nullptr;    // [N], for all pairs; or null, and then
  int64_t pairs = 0;
  const int32_t* pairRows = nullptr;    // [P,2]; null: rows 2p and 2p + 1
  const double* givenScores = nullptr;  // [P]
  const uint8_t* same = nullptr;        // [P] 1: the pair belongs together
  int64_t folds = 0;                    // 0: none; else runs of the list, each of P/folds pairs
  int64_t limits = 0;
  const double* falseAcceptLimits = nullptr;  // [limits], ascending
  DetectionCost detectionCost;
  Execution execution;

  // Out.
  double* scores = nullptr;                                        // [P], or null: not wanted
  double *trueAcceptRates, *falseAcceptRates, *thresholds;         // [limits]
  double *foldAccuracies, *foldThresholds;                         // [folds]
  double *sameHistogram = nullptr, *differentHistogram = nullptr;  // [histogramBins]
  double histogramFrom = -1, histogramTo = 1;                      // where it begins and ends
  int64_t zeroRows = 0;                                            // embeddings without a direction
  int64_t samePairs = 0, differentPairs = 0;
  double areaUnderCurve = 0, ties = 0, equalErrorRate = 0, equalErrorThreshold = 0, bestAccuracy = 0, bestThreshold = 0,
         bestBalancedAccuracy = 0, bestBalancedThreshold = 0, minimumDetectionCost = 0,
         minimumDetectionCostThreshold = 0;
};

// Computes the results from the distinct scores, added from the highest to the lowest with their
// numbers of pairs. A pair is accepted if its score is at least the threshold; a threshold of ∞
// accepts none.
class VerificationFigures {
 public:
  // The problem has samePairs and differentPairs, both above 0, and the histogram's range.
  explicit VerificationFigures(VerificationProblem& problem);
  void add(double score, int64_t same, int64_t different);
  void finish();

 private:
  // A count of pairs of pairs, compensated: it exceeds what a double holds exactly from some 10^8
  // pairs on.
  struct Count {
    double sum = 0, rest = 0;
    void add(double term);
    double total() const { return sum + rest; }
  };

  double falseAcceptRate() const { return static_cast<double>(accepted_.different) / problem_.differentPairs; }
  double trueAcceptRate() const { return static_cast<double>(accepted_.same) / problem_.samePairs; }
  void settle(int64_t limit);
  void judgeThreshold();

  VerificationProblem& problem_;
  struct {
    int64_t same = 0, different = 0;
  } accepted_;
  double threshold_ = std::numeric_limits<double>::infinity();
  Count ordered_, tied_;  // twice the pairs of pairs in order, those of equal scores counting one half; the latter
  int64_t settled_ = 0, mostCorrect_ = -1;
  double mostGained_ = -1;  // of the balanced accuracy over accepting none, times samePairs·differentPairs
  bool crossed_ = false;
};

namespace cpu {
Status verification(VerificationProblem& problem);
}

}  // namespace margin_softmax
