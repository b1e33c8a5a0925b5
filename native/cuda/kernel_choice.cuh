// Chooses the instance of a kernel that computes a step: one for each combination of what is known before the launch, so
// that no kernel asks for it an element.
#pragma once
#include "backward.cuh"

namespace margin_softmax::cuda {

template <class Core>
struct KernelChoice {
  static auto forward(const StepRows& step) {
    if (step.negatives) return step.smooths ? forwardTile<Core, true, true> : forwardTile<Core, false, true>;
    return step.smooths ? forwardTile<Core, true, false> : forwardTile<Core, false, false>;
  }

  static auto gradient(const StepRows& step) { return step.normalized ? gradient<true>(step) : gradient<false>(step); }
  template <bool normalized>
  static auto gradient(const StepRows& step) {
    return step.smooths ? gradient<normalized, true>(step) : gradient<normalized, false>(step);
  }
  template <bool normalized, bool smooths>
  static auto gradient(const StepRows& step) {
    if constexpr (Rounded<typename Core::Element>::rounds)
      if (step.terms == leadingAndCorrection) return gradient<normalized, smooths, true>(step);
    return gradient<normalized, smooths, false>(step);
  }
  template <bool normalized, bool smooths, bool corrected>
  static auto gradient(const StepRows& step) {
    if constexpr (normalized)  // margins on cosines alone have negatives to transform
      if (step.negatives) return gradientTile<Core, normalized, smooths, corrected, true>;
    return gradientTile<Core, normalized, smooths, corrected, false>;
  }

  // Rows of whole vectors of four are read and written as such.
  static auto weight(const StepRows& step) { return step.dim % 4 == 0 ? weight<true>(step) : weight<false>(step); }
  template <bool aligned>
  static auto weight(const StepRows& step) {
    switch (step.weightUse) {
      case WeightUse::sgd:
        return weightGradient<Core, WeightUse::sgd, aligned>;
      case WeightUse::momentum:
        return weightGradient<Core, WeightUse::momentum, aligned>;
      case WeightUse::adamW:
        return weightGradient<Core, WeightUse::adamW, aligned>;
      default:
        return weightGradient<Core, WeightUse::gradient, aligned>;
    }
  }
};

}  // namespace margin_softmax::cuda
