// The optimizers' arithmetic on one element, shared by all instruction sets and the GPU. As PyTorch
// documents torch.optim.SGD (dampening 0) and torch.optim.AdamW (amsgrad false), with fused
// multiply-adds.
//
// `multiplyAdd(a, b, c)` is the caller's a·b + c. Templates on the caller's own types, and no
// header included: inner loops compiled for an instruction set may include this (see
// cpu/kernels/simd.h).
#pragma once
#include "host_device.h"

namespace margin_softmax {

struct SgdStep {
  float learningRate, momentum, weightDecay;
  bool nesterov;
};
struct AdamWStep {
  float learningRate, beta1, beta2, epsilon, weightDecay;
  float rest1, rest2;                  // 1 − β, rounded once: of β = 0.999 in float32 it would be 1.3e-5 off
  float correction1, correction2Root;  // 1 − β1^t and √(1 − β2^t)
};

template <class MultiplyAdd>
HOST_DEVICE inline float sgdElement(float weight, float gradient, const SgdStep& step, MultiplyAdd multiplyAdd) {
  return multiplyAdd(-step.learningRate, multiplyAdd(step.weightDecay, weight, gradient), weight);
}

template <class MultiplyAdd>
HOST_DEVICE inline float sgdElement(float weight, float gradient, float& momentum, const SgdStep& step,
                                    MultiplyAdd multiplyAdd) {
  const float decayed = multiplyAdd(step.weightDecay, weight, gradient);
  const float velocity = momentum = multiplyAdd(step.momentum, momentum, decayed);
  const float direction = step.nesterov ? multiplyAdd(step.momentum, velocity, decayed) : velocity;
  return multiplyAdd(-step.learningRate, direction, weight);
}

template <class MultiplyAdd>
HOST_DEVICE inline float adamWElement(float weight, float gradient, float& first, float& second, const AdamWStep& step,
                                      MultiplyAdd multiplyAdd) {
  const float rate = step.learningRate / step.correction1, root = 1.0f / step.correction2Root;
  const float keep = 1.0f - step.learningRate * step.weightDecay;
  const float m = first = multiplyAdd(step.beta1, first, step.rest1 * gradient);
  const float v = second = multiplyAdd(step.beta2, second, (step.rest2 * gradient) * gradient);
  return multiplyAdd(weight, keep, -rate * m / multiplyAdd(__builtin_sqrtf(v), root, step.epsilon));
}

}  // namespace margin_softmax
