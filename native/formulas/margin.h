// The margins. Each is a function of the target's cosine, c → (ψ(c), ψ'(c)), in double precision.
// Host and device.
//
// Only B of the B·C logits carry a margin, so it is evaluated B times, never in a hot loop. A
// margin may also transform a row's negatives (negative.h): its `negatives` is evaluated B times,
// too. Executors know nothing else about a margin. To add one: a struct here and its name in
// `MarginList` at the end, a factory in lib/margins.ts, a row in test/support/margins.ts. Its
// position in the list is its kind.
#pragma once
#include <cmath>
#include <cstring>

#include "negative.h"

namespace margin_softmax {

struct MarginValue {
  double psi;    // ψ(c): what takes the cosine's place in the target's logit
  double slope;  // ψ'(c)
};

// A parameter's name, and the neutral value at which a margin's warm-up starts. NaN: no part of the
// warm-up.
struct MarginParameter {
  const char* name;
  double neutral = __builtin_nan("");
};

constexpr double pi = 3.14159265358979323846;

// √(1 − c²), at least 1e-7. Double-precision dot products resolve no smaller angle, and the floor
// keeps every slope finite at |c| = 1: what it multiplies there, ŵ − c·x̂, is zero to within 1e-16,
// so the gradient is zero as well.
HOST_DEVICE inline double sineOf(double cosine) {
  const double square = (1 - cosine) * (1 + cosine);
  return square > 1e-14 ? std::sqrt(square) : 1e-7;
}

// cos(θ + m) from c = cos θ.
HOST_DEVICE inline MarginValue angularMargin(double cosine, double margin) {
  const double sine = sineOf(cosine), exactSine = std::sqrt((1 - cosine) * (1 + cosine));
  return {cosine * std::cos(margin) - exactSine * std::sin(margin),
          std::cos(margin) + std::sin(margin) * cosine / sine};
}

// Plain softmax: raw dot products, plus a bias if there is one. No normalization, hence no cosine
// and no margin.
struct Softmax {
  static constexpr const char* name = "softmax";
  static constexpr bool normalized = false;
  static constexpr int count = 0;
  static constexpr MarginParameter parameters[] = {{nullptr}};
  HOST_DEVICE static double scale(const double*, double) { return 1; }
  HOST_DEVICE static MarginValue evaluate(const double*, double score) { return {score, 1}; }
};

// NormFace, "modified softmax" (Wang et al. 2017): scaled cosines.
struct NormFace {
  static constexpr const char* name = "normface";
  static constexpr bool normalized = true;
  static constexpr int count = 1;
  static constexpr MarginParameter parameters[] = {{"scale"}};
  HOST_DEVICE static double scale(const double* p, double) { return p[0]; }
  HOST_DEVICE static MarginValue evaluate(const double*, double cosine) { return {cosine, 1}; }
};

// CosFace (Wang et al. 2018), AM-softmax: cos θ − m.
struct CosFace {
  static constexpr const char* name = "cosface";
  static constexpr bool normalized = true;
  static constexpr int count = 2;
  static constexpr MarginParameter parameters[] = {{"scale"}, {"margin", 0}};
  HOST_DEVICE static double scale(const double* p, double) { return p[0]; }
  HOST_DEVICE static MarginValue evaluate(const double* p, double cosine) { return {cosine - p[1], 1}; }
};

// ArcFace (Deng et al. 2019): cos(θ + m); beyond π − m, where that would rise again, the line c −
// m·sin m.
struct ArcFace {
  static constexpr const char* name = "arcface";
  static constexpr bool normalized = true;
  static constexpr int count = 3;
  static constexpr MarginParameter parameters[] = {{"scale"}, {"margin", 0}, {"easyMargin"}};
  HOST_DEVICE static double scale(const double* p, double) { return p[0]; }
  HOST_DEVICE static MarginValue evaluate(const double* p, double cosine) { return withLine(cosine, p[1], p[2] != 0); }
  HOST_DEVICE static MarginValue withLine(double cosine, double margin, bool easy) {
    if (cosine > (easy ? 0 : std::cos(pi - margin))) return angularMargin(cosine, margin);
    return {easy ? cosine : cosine - margin * std::sin(pi - margin), 1};
  }
};

// The combined margin of the ArcFace paper: cos(m1·θ + m2) − m3.
struct Combined {
  static constexpr const char* name = "combined";
  static constexpr bool normalized = true;
  static constexpr int count = 4;
  static constexpr MarginParameter parameters[] = {{"scale"}, {"m1", 1}, {"m2", 0}, {"m3", 0}};
  HOST_DEVICE static double scale(const double* p, double) { return p[0]; }
  HOST_DEVICE static MarginValue evaluate(const double* p, double cosine) {
    const double angle = p[1] * std::acos(cosine) + p[2];
    return {std::cos(angle) - p[3], p[1] * std::sin(angle) / sineOf(cosine)};
  }
};

// SphereFace, A-softmax (Liu et al. 2017): the monotone continuation of cos(mθ), (−1)^k·cos(mθ) −
// 2k on [kπ/m, (k+1)π/m], blended with cos θ by λ, which anneals with the iteration. scale 0 stands
// for the embedding's norm.
struct SphereFace {
  static constexpr const char* name = "sphereface";
  static constexpr bool normalized = true;
  static constexpr int count = 7;
  static constexpr MarginParameter parameters[] = {{"scale"}, {"m"},         {"base"},     {"gamma"},
                                                   {"power"}, {"lambdaMin"}, {"iteration"}};
  static constexpr int iteration = 6;  // which parameter a head counts up
  HOST_DEVICE static double scale(const double* p, double norm) { return p[0] != 0 ? p[0] : norm; }
  HOST_DEVICE static double lambda(const double* p) {
    const double annealed = p[2] * std::pow(1 + p[3] * p[6], -p[4]);
    return annealed > p[5] ? annealed : p[5];
  }
  HOST_DEVICE static MarginValue evaluate(const double* p, double cosine) {
    const int m = static_cast<int>(p[1]);
    // Chebyshev's recurrences: T_m(c) = cos(mθ), and T'_m = m·U_{m−1}, without an angle.
    double t = 1, tNext = cosine, u = 0, uNext = 1;
    for (int i = 0; i < m; i++) {
      const double tAfter = 2 * cosine * tNext - t, uAfter = 2 * cosine * uNext - u;
      t = tNext, tNext = tAfter;
      u = uNext, uNext = uAfter;
    }
    // At θ = π the last piece, k = m − 1, goes on: ψ has no value of its own there.
    if (cosine != cosine) return {cosine, cosine};  // NaN has no k
    int k = static_cast<int>(m * std::acos(cosine) / pi);
    if (m > 0 && k > m - 1) k = m - 1;
    const double sign = k % 2 ? -1 : 1, weight = 1 / (1 + lambda(p));
    return {cosine + (sign * t - 2 * k - cosine) * weight, 1 + (sign * m * u - 1) * weight};
  }
};

// MV-Softmax (Wang et al. 2020), support-vector guided: CosFace (kind 0) or cos(θ + m) (kind 1) for
// the target; negatives beyond that, whatever easyMargin says, are hard and count more: c + t, or
// adaptive (1 + t)·c + t.
struct MVSoftmax {
  static constexpr const char* name = "mvsoftmax";
  static constexpr bool normalized = true;
  static constexpr int count = 6;
  static constexpr MarginParameter parameters[] = {{"scale"},    {"margin", 0},  {"t", 0},
                                                   {"adaptive"}, {"easyMargin"}, {"kind"}};
  HOST_DEVICE static double scale(const double* p, double) { return p[0]; }
  HOST_DEVICE static MarginValue hardest(const double* p, double cosine) {
    return p[5] != 0 ? angularMargin(cosine, p[1]) : MarginValue{cosine - p[1], 1};
  }
  HOST_DEVICE static MarginValue evaluate(const double* p, double cosine) {
    const bool easy = p[4] != 0 && !(cosine > 0);
    return easy ? MarginValue{cosine, 1} : hardest(p, cosine);
  }
  HOST_DEVICE static NegativeTransform negatives(const double* p, double cosine) {
    return {hardest(p, cosine).psi, 0, p[3] != 0 ? 1 + p[2] : 1, p[2]};
  }
};

// CurricularFace (Huang et al. 2020): ArcFace, whose hard negatives, those beyond cos(θ + m), enter
// as c·(t + c): at first they count less than they are and, as t grows with the targets' cosines,
// more.
struct CurricularFace {
  static constexpr const char* name = "curricularface";
  static constexpr bool normalized = true;
  static constexpr int count = 3;
  static constexpr MarginParameter parameters[] = {{"scale"}, {"margin", 0}, {"t"}};
  HOST_DEVICE static double scale(const double* p, double) { return p[0]; }
  HOST_DEVICE static MarginValue evaluate(const double* p, double cosine) {
    return ArcFace::withLine(cosine, p[1], false);
  }
  HOST_DEVICE static NegativeTransform negatives(const double* p, double cosine) {
    return {angularMargin(cosine, p[1]).psi, 1, p[2], 0};
  }
};

template <class... Margins>
struct MarginListOf {
  static constexpr int count = sizeof...(Margins);
};
using MarginList = MarginListOf<Softmax, NormFace, CosFace, ArcFace, Combined, SphereFace, MVSoftmax, CurricularFace>;

constexpr int maxMarginParameters = 8;

// A margin as executors carry it: plain bytes, to be copied to a device as they are.
struct Margin {
  int kind = 0;  // position in MarginList
  double parameters[maxMarginParameters] = {};
};

// Calls visit(position, margin struct) for each margin of the list.
template <class... Margins, class Visit>
HOST_DEVICE inline void forEachMargin(MarginListOf<Margins...>, const Visit& visit) {
  int position = 0;
  (visit(position++, Margins{}), ...);
}

template <class... Margins>
int kindOf(MarginListOf<Margins...>, const char* name) {
  int kind = 0, found = -1;
  ((found = std::strcmp(Margins::name, name) == 0 ? kind : found, kind++), ...);
  return found;
}

// The kind of the margin of this name; −1 without one.
inline int kindOf(const char* name) { return kindOf(MarginList{}, name); }

// Calls visit(margin struct) for the one of this kind.
template <class Visit>
HOST_DEVICE inline void visitMargin(int kind, const Visit& visit) {
  forEachMargin(MarginList{}, [&](int position, auto margin) {
    if (position == kind) visit(margin);
  });
}

HOST_DEVICE inline bool isNormalized(const Margin& margin) {
  bool normalized = true;
  visitMargin(margin.kind, [&](auto m) { normalized = decltype(m)::normalized; });
  return normalized;
}

// s_i of a row whose embedding has this norm.
HOST_DEVICE inline double scaleOf(const Margin& margin, double norm) {
  double scale = 1;
  visitMargin(margin.kind, [&](auto m) { scale = decltype(m)::scale(margin.parameters, norm); });
  return scale;
}

// Whether s_i is ‖x_i‖ itself, so that the loss has a gradient along the embedding.
HOST_DEVICE inline bool scalesWithNorm(const Margin& margin) {
  return isNormalized(margin) && scaleOf(margin, 1) != scaleOf(margin, 2);
}

HOST_DEVICE inline double heldToCosines(double value) { return value > 1 ? 1 : value < -1 ? -1 : value; }

HOST_DEVICE inline MarginValue evaluateMargin(const Margin& margin, double cosine) {
  MarginValue value{cosine, 1};
  visitMargin(margin.kind, [&](auto m) {
    if (decltype(m)::normalized) cosine = heldToCosines(cosine);
    value = decltype(m)::evaluate(margin.parameters, cosine);
  });
  return value;
}

// Finds the margins that say what becomes of negatives. These take a scale of their own: the gradient of a
// scale that is the embedding's norm would want Σ_j P_ij·φ(c_ij), which nobody adds up.
template <class M>
HOST_DEVICE constexpr auto hasNegatives(int) -> decltype(M::negatives(nullptr, 0.0), true) {
  static_assert(M::normalized, "raw scores have no cosines");
  return true;
}
template <class M>
HOST_DEVICE constexpr bool hasNegatives(int64_t) {
  return false;
}

HOST_DEVICE inline bool transformsNegatives(const Margin& margin) {
  bool transforms = false;
  visitMargin(margin.kind, [&](auto m) { transforms = hasNegatives<decltype(m)>(0); });
  return transforms;
}

// The transform of the negatives of a row with this cosine of the target.
HOST_DEVICE inline NegativeTransform negativesOf(const Margin& margin, double targetCosine) {
  NegativeTransform transform;
  visitMargin(margin.kind, [&](auto m) {
    if constexpr (hasNegatives<decltype(m)>(0))
      transform = decltype(m)::negatives(margin.parameters, heldToCosines(targetCosine));
  });
  return transform;
}

// The margin at a point of its warm-up: each parameter goes from its neutral value to its own as
// fraction goes 0 → 1.
HOST_DEVICE inline Margin warmedUp(Margin margin, double fraction) {
  visitMargin(margin.kind, [&](auto m) {
    for (int i = 0; i < decltype(m)::count; i++) {
      const double neutral = decltype(m)::parameters[i].neutral;
      if (neutral == neutral && fraction < 1)
        margin.parameters[i] = neutral + (margin.parameters[i] - neutral) * fraction;
    }
  });
  return margin;
}

template <class M>
HOST_DEVICE constexpr auto iterationParameter(int) -> decltype(M::iteration) {
  return M::iteration;
}
template <class M>
HOST_DEVICE constexpr int iterationParameter(int64_t) {
  return -1;
}

// The margin at a training iteration, where it depends on one.
HOST_DEVICE inline Margin atIteration(Margin margin, double iteration) {
  visitMargin(margin.kind, [&](auto m) {
    constexpr int parameter = iterationParameter<decltype(m)>(0);
    if (parameter >= 0) margin.parameters[parameter < 0 ? 0 : parameter] += iteration;
  });
  return margin;
}

}  // namespace margin_softmax
