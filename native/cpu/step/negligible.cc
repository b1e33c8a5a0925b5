#include "negligible.h"

#include <cmath>
#include <cstring>

namespace margin_softmax::cpu {
namespace {

constexpr double underflow = 1.2e-38;  // the largest u that single precision rounds to 0

// False for a row without direction: its negatives' gradients are 0, both ways.
bool counts(const RowState& state) { return state.label != ignoredLabel && state.inverseNorm != 0; }

}  // namespace

bool NegligibleTerms::fit() const {
  const int64_t bytes = plan_.classTiles * roundUp(plan_.rows, maxLanes) * 4;
  return plan_.dim >= minDim && plan_.classes * plan_.dim >= minWeights && plan_.classTiles > 1 &&
         bytes <= std::max<int64_t>(16 << 20, plan_.classes * plan_.dim * 4 / 32);
}

void NegligibleTerms::layOut(Layout& layout, int64_t paddedRows) {
  upperBounds_ = layout.take<float>(paddedRows * plan_.classTiles);
  costs_ = layout.take<float>(paddedRows);
  ones_ = layout.take<float>(plan_.classTiles);
  classes_ = layout.take<int32_t>(maxLabels());
  labelSums_ = layout.take<double>(panels() * maxLabels());
  inverse_ = layout.take<double>(paddedRows);
  maxInverseNorms_ = layout.take<float>(plan_.classTiles);
  rowSums_ = layout.take<float>(paddedRows * orders);
  classSums_ = layout.take<float>(panels() * weightSamples() * orders);
  inputSquares_ = layout.take<double>(panels() * orders);
  inputCounts_ = layout.take<double>(panels() * orders);
  weightCounts_ = layout.take<double>(panels() * orders);
}

bool NegligibleTerms::measureRows(const RowState* states) {
  unit_ = 0;
  for (int64_t i = 0; i < plan_.rows; i++) {
    const RowState& state = states[i];
    if (!counts(state)) continue;
    unit_ = std::max(unit_, std::fabs(state.gradient * state.error) * state.scale);
    // listRows multiplies a gradient by this factor before the row's values come in, so the product
    // of both must stay far from the ends of single precision.
    const double factor = std::fabs(state.gradient) * state.scale * state.inverseNorm;
    if (factor != 0 && !(factor > 1e-18 && factor < 1e18)) return false;
  }
  std::fill_n(ones_, plan_.classTiles, 1.0f);
  return unit_ > 1e-18 && unit_ < 1e18;
}

// The order of u is read from its bits: the exponent and the highest bit of the fraction. NaN has
// order 0, which is never skipped, so that a NaN reaches the gradients.
constexpr int32_t lowBits = 22, unitOrder = 127 << 1;

int NegligibleTerms::orderOf(float u) {
  int32_t bits;
  std::memcpy(&bits, &u, sizeof bits);
  return std::clamp(unitOrder - ((bits & 0x7fffffff) >> lowBits), 0, orders - 1);
}

float NegligibleTerms::limitOf(int order) {
  const int32_t bits = (unitOrder - order + 1) << lowBits;
  float limit;
  std::memcpy(&limit, &bits, sizeof limit);
  return limit;
}

void NegligibleTerms::boundRows(const Kernels& kernels, int64_t panel, const RowState* states, const float* maxima,
                                const float* factors) {
  const int64_t first = panel * lanes_;
  float scaled[maxLanes];
  const float zeros[maxLanes] = {};
  for (int64_t l = 0; l < lanes_; l++) {
    const RowState& state = states[first + l];
    const bool counted = first + l < plan_.rows && counts(state);
    const double cost = counted ? std::fabs(state.gradient) * state.scale / unit_ : 0;
    costs_[first + l] = static_cast<float>(cost);
    scaled[l] = static_cast<float>(cost * factors[first + l]);
    inverse_[first + l] = counted ? state.inverseNorm : 0;
  }
  // A cell holds no more than all C classes at the row's maximum. Where logits are so large that
  // their difference overflows or rounds, this is the only bound. NaN stays.
  float* upper = upperBounds_ + first * plan_.classTiles;
  const float largest = static_cast<float>(std::log(static_cast<double>(plan_.classes))) + 1;
  for (int64_t t = 0; t < plan_.classTiles; t++)
    for (int64_t l = 0; l < lanes_; l++) {
      float& log = upper[t * lanes_ + l];
      log = std::min(log - maxima[first + l], largest);
    }
  // From log masses to bounds of Σ_j u_ij, in place: e^(log mass − maximum)·(cost·factor).
  kernels.probabilities(upper, plan_.classTiles, plan_.classTiles, 1, {}, zeros, scaled, nullptr, nullptr, ones_,
                        upper);
  std::memset(rowSums_ + first * orders, 0, lanes_ * orders * sizeof(float));
  std::memset(classSums_ + panel * weightSamples() * orders, 0, weightSamples() * orders * sizeof(float));
  std::memset(inputCounts_ + panel * orders, 0, orders * sizeof(double));
  std::memset(weightCounts_ + panel * orders, 0, orders * sizeof(double));
}

void NegligibleTerms::boundTile(int64_t tile, const float* inverseClassNorm) {
  maxInverseNorms_[tile] = 0;
  for (int64_t j = 0; j < plan_.tileSize(tile); j++)
    maxInverseNorms_[tile] = std::max(maxInverseNorms_[tile], inverseClassNorm[tile * plan_.tileClasses + j]);
}

// Takes every label, or every k-th if examining all of them would cost more than it can save.
void NegligibleTerms::chooseClasses(const int32_t* labels, int64_t count) {
  const int64_t every = std::max<int64_t>(1, divideUp(count, maxLabels()));
  labels_ = 0;
  for (int64_t at = 0; at < count; at += every) classes_[labels_++] = labels[at];
}

void NegligibleTerms::addClasses(int64_t panel, int64_t first, int64_t count, const float* probabilities,
                                 const float* inverseClassNorm) {
  const int64_t firstRow = panel * lanes_, present = std::min<int64_t>(lanes_, plan_.rows - firstRow);
  const float* costs = costs_ + firstRow;
  for (int64_t at = first; at < first + count; at++, probabilities += lanes_) {
    if (at < labels_) {
      double sum = underflow * lanes_;
      for (int64_t l = 0; l < present; l++) sum += probabilities[l] * costs[l];
      labelSums_[panel * maxLabels() + at] = sum;
      continue;
    }
    // A sampled class: each u goes to the histogram of its row and of its panel.
    const int64_t sample = at - labels_;
    double* counts = inputCounts_ + panel * orders;
    for (int64_t l = 0; l < present; l++) {
      const float u = probabilities[l] * costs[l];
      const int order = orderOf(u);
      rowSums_[(firstRow + l) * orders + order] += u;
      counts[order]++;
    }
    if (sample % everySample()) continue;
    // Some of them sample gradWeight too: u/‖w_j‖ goes to the class's own histogram.
    float* sums = classSums_ + (panel * weightSamples() + sample / everySample()) * orders;
    const float scale = inverseClassNorm[sampledClass(sample)];
    counts = weightCounts_ + panel * orders;
    for (int64_t l = 0; l < present; l++) {
      const float u = probabilities[l] * costs[l] * scale;
      const int order = orderOf(u);
      sums[order] += u;
      counts[order]++;
    }
  }
}

// Per order: the squared error of the panel's rows if this order and all smaller ones were skipped.
void NegligibleTerms::closePanel(int64_t panel) {
  const int64_t first = panel * lanes_, last = std::min(plan_.rows, first + lanes_);
  double* squares = inputSquares_ + panel * orders;
  std::fill_n(squares, orders, 0.0);
  for (int64_t i = first; i < last; i++) {
    double below = 0;
    for (int order = orders - 1; order >= 0; order--) {
      below += rowSums_[i * orders + order] * inverse_[i];
      squares[order] += below * below;
    }
  }
}

double NegligibleTerms::labelSum(int64_t at) const {
  double sum = 0;
  for (int64_t panel = 0; panel < panels(); panel++) sum += labelSums_[panel * maxLabels() + at];
  return sum * unit_ * slack;
}

NegligibleTerms::Limits NegligibleTerms::choose(double inputBudget, double weightBudget, double maxShare) const {
  // Squared error of each gradient, as the sample has it, if an order and all smaller ones were
  // skipped.
  double input[orders] = {}, weight[orders] = {};
  for (int64_t p = 0; p < panels(); p++)
    for (int order = 0; order < orders; order++) input[order] += inputSquares_[p * orders + order];
  for (int64_t c = 0; c < weightSamples(); c++) {
    double below = 0;
    for (int order = orders - 1; order >= 0; order--) {
      for (int64_t p = 0; p < panels(); p++) below += classSums_[(p * weightSamples() + c) * orders + order];
      weight[order] += below * below;
    }
  }
  // Orders from large to small: the first whose estimated error is within the budget. A sample is
  // likely to miss the few largest terms; the second condition bounds each of them alone by a
  // quarter of the budget.
  const auto limit = [&](const double* squares, double more, double budget, double largest,
                         const double* counts) -> float {
    double all = 0, computed = 0;
    for (int64_t k = 0; k < panels() * orders; k++) all += counts[k];
    for (int order = 1; order < orders; order++) {
      for (int64_t p = 0; p < panels(); p++) computed += counts[p * orders + order - 1];
      if (computed > maxShare * all) return 0;
      if (std::sqrt(squares[order]) * more * unit_ <= budget && limitOf(order) * largest * unit_ <= budget / 4)
        return limitOf(order);
    }
    return 0;
  };
  const double classes = static_cast<double>(plan_.classes);
  const double largest = *std::max_element(inverse_, inverse_ + plan_.rows);
  return {limit(input, classes / static_cast<double>(samples()), inputBudget, largest, inputCounts_),
          limit(weight, std::sqrt(classes / static_cast<double>(weightSamples())), weightBudget, 1, weightCounts_)};
}

double NegligibleTerms::inputCost(const double* skipped, int64_t slots, int64_t stride) const {
  double squares = 0;
  for (int64_t i = 0; i < plan_.rows; i++) {
    double sum = underflow * static_cast<double>(plan_.classes);  // for every P_ij that was rounded to 0
    for (int64_t slot = 0; slot < slots; slot++) sum += skipped[slot * stride + i];
    squares += sum * inverse_[i] * (sum * inverse_[i]);
  }
  return std::sqrt(squares) * unit_ * slack;
}

double NegligibleTerms::weightCost(const double* skipped, int64_t slots) const {
  double squares = 0;
  for (int64_t t = 0; t < plan_.classTiles; t++) {
    double sum = underflow * static_cast<double>(plan_.rows * plan_.tileClasses) * maxInverseNorms_[t];
    for (int64_t slot = 0; slot < slots; slot++) sum += skipped[slot * plan_.classTiles + t];
    squares += sum * sum;
  }
  return std::sqrt(squares) * unit_ * slack;
}

}  // namespace margin_softmax::cpu
