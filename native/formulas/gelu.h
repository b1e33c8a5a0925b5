// The Gaussian error linear unit x·Φ(x) (Hendrycks and Gimpel 2016, arXiv:1606.08415), Φ the normal
// distribution function, and its slope Φ(x) + x·φ(x). By erfc, as erf cancels in the lower tail.
#pragma once
#include <cmath>

#include "host_device.h"

namespace margin_softmax {

struct GeluValue {
  double value, slope;
};

HOST_DEVICE inline GeluValue gelu(double x) {
  constexpr double inverseRoot2 = 0.70710678118654752440, inverseRoot2Pi = 0.39894228040143267794;
  const double below = 0.5 * std::erfc(-x * inverseRoot2);
  // At an infinite x the product would be NaN.
  const double density = inverseRoot2Pi * std::exp(-0.5 * x * x);
  return {below == 0 ? 0 : x * below, below + (density == 0 ? 0 : x * density)};
}

}  // namespace margin_softmax
