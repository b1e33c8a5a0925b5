// Verification: of pairs of embeddings, whether they belong together, judged by their cosine against a threshold. Every
// figure is exact for the scores: nothing is sampled, and no matrix of pairs is held.
//
// A score is a cosine in steps of 2^-24, the spacing of single precision just below 1 (and less than the rounding of
// the cosines themselves). So there are 2^25 + 1 scores, and hundreds of millions of pairs are counted score by score.
#pragma once
#include <cmath>
#include <cstdint>
#include <limits>

#include "problem.h"
#include "status.h"

namespace margin_softmax {

constexpr int32_t scoreSteps = 1 << 24;  // in a cosine of 1

// A score as a number of steps from −1 on: 0 to 2·scoreSteps. Halves are rounded away from 0, as the kernels do.
inline int32_t scoreBin(double cosine) {
  const double bounded = cosine < -1 ? -1 : cosine > 1 ? 1 : cosine;
  return static_cast<int32_t>(std::lround(bounded * scoreSteps)) + scoreSteps;
}
// Exact in single precision.
inline double scoreOf(int32_t bin) { return static_cast<double>(bin - scoreSteps) / scoreSteps; }

// Of scores from −1 to 1, for drawing; a score of 1 belongs to the last one.
constexpr int32_t histogramBins = 128;

// Pairs are all i < j of rows with labels, or those of a list.
struct VerificationProblem {
  int64_t rows = 0, dim = 0;
  const float* embeddings = nullptr;  // [N,D]
  const int32_t* labels = nullptr;    // [N], for all pairs; or null, and then
  int64_t pairs = 0;
  const int32_t* pairRows = nullptr;  // [P,2]; null: rows 2p and 2p + 1
  const uint8_t* same = nullptr;      // [P] 1: the pair belongs together
  int64_t folds = 0;                  // 0: none; else runs of the list, each of P/folds pairs
  int64_t limits = 0;
  const double* falseAcceptLimits = nullptr;  // [limits], ascending
  Execution execution;

  // Out.
  float* scores = nullptr;                                         // [P], or null: not wanted
  double *trueAcceptRates, *falseAcceptRates, *thresholds;         // [limits]
  double *foldAccuracies, *foldThresholds;                         // [folds]
  double *sameHistogram = nullptr, *differentHistogram = nullptr;  // [histogramBins]
  int64_t samePairs = 0, differentPairs = 0;
  double areaUnderCurve = 0, equalErrorRate = 0, equalErrorThreshold = 0, bestAccuracy = 0, bestThreshold = 0;
};

// Takes in the distinct scores from the highest to the lowest, with how many pairs have them, and fills in the figures.
// A pair is accepted if its score is at least the threshold; a threshold of ∞ accepts none.
class VerificationFigures {
 public:
  explicit VerificationFigures(VerificationProblem& problem) : problem_(problem) {}  // samePairs, differentPairs known
  void add(int32_t bin, int64_t same, int64_t different);
  void finish();

 private:
  double falseAcceptRate() const { return static_cast<double>(accepted_.different) / problem_.differentPairs; }
  double trueAcceptRate() const { return static_cast<double>(accepted_.same) / problem_.samePairs; }
  void settle(int64_t limit);
  void addArea(double term);

  VerificationProblem& problem_;
  struct {
    int64_t same = 0, different = 0;
  } accepted_;
  double threshold_ = std::numeric_limits<double>::infinity();
  double area_ = 0, areaRest_ = 0;  // twice the count of pairs of pairs in order, and what rounding took from it
  int64_t settled_ = 0, mostCorrect_ = -1;
  bool crossed_ = false;
};

namespace cpu {
Status verification(VerificationProblem& problem);
}

}  // namespace margin_softmax
