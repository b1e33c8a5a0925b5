// Optimizers whose update is fused into the weight gradient's epilogue. Arithmetic as PyTorch's documentation of
// torch.optim.SGD (dampening 0) and torch.optim.AdamW (amsgrad false) defines it.
#pragma once
#include <cmath>
#include <cstdint>

namespace margin_softmax {

enum class OptimizerKind { sgd, adamW };

struct Optimizer {
  OptimizerKind kind = OptimizerKind::sgd;
  double learningRate = 0.1, weightDecay = 0;
  double momentum = 0;  // sgd
  bool nesterov = false;
  double beta1 = 0.9, beta2 = 0.999, epsilon = 1e-8;  // adamW

  // Arrays of the weights' shape that the optimizer keeps: momentum, or first and second moments.
  int states() const { return kind == OptimizerKind::adamW ? 2 : momentum != 0 ? 1 : 0; }
};

struct Update {
  Optimizer optimizer;
  int64_t step = 1;                            // counted from 1, for AdamW's bias correction
  float* weightState[2] = {nullptr, nullptr};  // [C,D] each
  float* biasState[2] = {nullptr, nullptr};    // [C] each
};

}  // namespace margin_softmax
