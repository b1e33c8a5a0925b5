// Optimizers, whose update is fused into the weight gradient's epilogue: their settings, and those
// of one step.
#pragma once
#include <cmath>
#include <cstdint>

#include "../formulas/optimizer_step.h"

namespace margin_softmax {

enum class OptimizerKind { sgd, adamW };

struct Optimizer {
  OptimizerKind kind = OptimizerKind::sgd;
  double learningRate = 0.1, weightDecay = 0;
  double momentum = 0;  // sgd
  bool nesterov = false;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;  // adamW

  // The number of arrays of the weights' shape that the optimizer keeps: momentum, or first and second
  // moments.
  int states() const { return kind == OptimizerKind::adamW ? 2 : momentum != 0 ? 1 : 0; }
};

struct Update {
  Optimizer optimizer;
  int64_t step = 1;                            // counted from 1, for AdamW's bias correction
  float* weightState[2] = {nullptr, nullptr};  // [C,D] each
  float* biasState[2] = {nullptr, nullptr};    // [C] each
  uint64_t roundingKey = 0;                    // of this step's random bits, for weights stored in bfloat16
};

inline SgdStep sgdStep(const Optimizer& optimizer) {
  return {static_cast<float>(optimizer.learningRate), static_cast<float>(optimizer.momentum),
          static_cast<float>(optimizer.weightDecay), optimizer.nesterov};
}

inline AdamWStep adamWStep(const Optimizer& optimizer, int64_t step) {
  const double t = static_cast<double>(step);
  return {static_cast<float>(optimizer.learningRate),
          static_cast<float>(optimizer.beta1),
          static_cast<float>(optimizer.beta2),
          static_cast<float>(optimizer.epsilon),
          static_cast<float>(optimizer.weightDecay),
          static_cast<float>(1 - optimizer.beta1),
          static_cast<float>(1 - optimizer.beta2),
          static_cast<float>(1 - std::pow(optimizer.beta1, t)),
          static_cast<float>(std::sqrt(1 - std::pow(optimizer.beta2, t)))};
}

}  // namespace margin_softmax
