// Probability functions over the last axis of a row-major array [rows, classes], and the cross-entropy of given logits.
// Natural logarithm. Sizes are checked; arrays have the lengths stated here.
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

namespace cpu {
Status measure(const MeasureProblem& problem);
Status crossEntropyLoss(CrossEntropyProblem& problem);
}  // namespace cpu

}  // namespace margin_softmax
