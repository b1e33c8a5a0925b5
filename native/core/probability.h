// Probability functions over the last axis of a row-major array [rows, classes], and the
// cross-entropy of given logits. Logarithms are natural. The binding has checked sizes and lengths.
#pragma once
#include <cstdint>

#include "problem.h"
#include "status.h"

namespace margin_softmax {

enum class Measure { informationContent, entropy, klDivergence, crossEntropy, softmax, logSoftmax };

struct MeasureProblem {
  Measure measure = Measure::softmax;
  int64_t rows = 0, classes = 0;
  const float* p = nullptr;  // [rows,classes]: probabilities, or logits of a softmax
  const float* q = nullptr;  // [rows,classes], read by klDivergence and crossEntropy
  float* out = nullptr;  // [rows] of entropy, klDivergence and crossEntropy; else [rows,classes], which may be p itself
  Execution execution;
};

struct CrossEntropyProblem {
  int64_t rows = 0, classes = 0;
  const float* logits = nullptr;        // [rows,classes]
  const int32_t* labels = nullptr;      // [rows], −1 = ignored; or null, and then
  const float* targets = nullptr;       // [rows,classes] probabilities
  const float* classWeights = nullptr;  // [classes] or null (all 1)
  const float* gradOutput = nullptr;    // [rows] or null (all 1); read for Reduction::none
  double gradScale = 1;                 // upstream gradient of a mean or a sum
  Reduction reduction = Reduction::mean;
  double labelSmoothing = 0;

  double loss = 0;              // out
  float* losses = nullptr;      // [rows]
  float* gradLogits = nullptr;  // [rows,classes] or null: not wanted; may be logits itself
  Execution execution;
};

// The weight of a class in a loss, the divisor of the sum of losses, and the upstream gradient of a
// row's loss.
inline double weightOf(const CrossEntropyProblem& problem, int64_t label) {
  return problem.classWeights ? problem.classWeights[label] : 1.0;
}

inline double divisorOf(const CrossEntropyProblem& problem) {
  if (problem.reduction != Reduction::mean) return 1;
  if (!problem.labels) return static_cast<double>(problem.rows);
  double sum = 0;
  for (int64_t row = 0; row < problem.rows; row++)
    if (problem.labels[row] >= 0) sum += weightOf(problem, problem.labels[row]);
  return sum;
}

inline double upstreamOf(const CrossEntropyProblem& problem, double divisor, int64_t row) {
  if (problem.reduction == Reduction::none) return problem.gradOutput ? problem.gradOutput[row] : 1.0;
  return divisor == 0 ? 0 : problem.gradScale / divisor;
}

namespace cpu {
Status measure(const MeasureProblem& problem);
Status crossEntropyLoss(CrossEntropyProblem& problem);
}  // namespace cpu

}  // namespace margin_softmax
