#include "parts.h"

#include <cmath>
#include <cstring>

namespace margin_softmax::cpu {
namespace {

constexpr double underflow = 1.2e-38;  // what a u that became 0 may have been

// A row without direction takes nothing from other classes and gives them nothing.
bool counts(const RowState& state) { return state.label != ignoredLabel && state.inverseNorm != 0; }

}  // namespace

bool Parts::fit() const {
  const int64_t bytes = plan_.classTiles * roundUp(plan_.rows, 64) * 4;
  return plan_.dim >= leastDim && plan_.classTiles > 1 &&
         bytes <= std::max<int64_t>(16 << 20, plan_.classes * plan_.dim * 4 / 32);
}

void Parts::layOut(Layout& layout, int64_t paddedRows) {
  upper_ = layout.take<float>(paddedRows * plan_.classTiles);
  costs_ = layout.take<float>(paddedRows);
  ones_ = layout.take<float>(plan_.classTiles);
  totals_ = layout.take<double>(plan_.classTiles);
  inverse_ = layout.take<double>(paddedRows);
  largestScale_ = layout.take<float>(plan_.classTiles);
  rowSums_ = layout.take<float>(paddedRows * orders);
  classSums_ = layout.take<float>(panels() * sampledClasses() * orders);
  inputCounts_ = layout.take<double>(panels() * orders);
  weightCounts_ = layout.take<double>(panels() * orders);
}

bool Parts::measureRows(const RowState* states) {
  unit_ = 0;
  for (int64_t i = 0; i < plan_.rows; i++) {
    const RowState& state = states[i];
    if (!counts(state)) continue;
    unit_ = std::max(unit_, std::fabs(state.gradient * state.error) * state.scale);
    // Far from the ends of single precision, a class's coefficient of a row may be formed before it meets the row.
    const double factor = std::fabs(state.gradient) * state.scale * state.inverseNorm;
    if (factor != 0 && !(factor > 1e-18 && factor < 1e18)) return false;
  }
  std::fill_n(ones_, plan_.classTiles, 1.0f);
  return unit_ > 1e-18 && unit_ < 1e18;
}

// By the exponent and the highest bit of the fraction. NaN is of order 0, which is never left out.
constexpr int32_t lowBits = 22, unitOrder = 127 << 1;

int Parts::orderOf(float u) {
  int32_t bits;
  std::memcpy(&bits, &u, sizeof bits);
  return std::clamp(unitOrder - ((bits & 0x7fffffff) >> lowBits), 0, orders - 1);
}

float Parts::limitOf(int order) {
  const int32_t bits = (unitOrder - order + 1) << lowBits;
  float limit;
  std::memcpy(&limit, &bits, sizeof limit);
  return limit;
}

void Parts::weighRows(const Kernels& kernels, int64_t panel, const RowState* states, const float* maxima,
                      const float* factors) {
  const int64_t first = panel * lanes_;
  float scaled[64];
  const float zeros[64] = {};
  for (int64_t l = 0; l < lanes_; l++) {
    const RowState& state = states[first + l];
    const bool counted = first + l < plan_.rows && counts(state);
    const double cost = counted ? std::fabs(state.gradient) * state.scale / unit_ : 0;
    costs_[first + l] = static_cast<float>(cost);
    scaled[l] = static_cast<float>(cost * factors[first + l]);
    inverse_[first + l] = counted ? state.inverseNorm : 0;
  }
  // No part is more than all C classes at the maximum; where logits are too large to differ by less, that is all there
  // is to say. NaN stays.
  float* upper = upper_ + first * plan_.classTiles;
  const float most = static_cast<float>(std::log(static_cast<double>(plan_.classes))) + 1;
  for (int64_t t = 0; t < plan_.classTiles; t++)
    for (int64_t l = 0; l < lanes_; l++) {
      float& log = upper[t * lanes_ + l];
      log = std::min(log - maxima[first + l], most);
    }
  kernels.probabilities(upper, plan_.classTiles, plan_.classTiles, 1, zeros, scaled, 0, ones_, upper);
  std::memset(rowSums_ + first * orders, 0, lanes_ * orders * sizeof(float));
  std::memset(classSums_ + panel * sampledClasses() * orders, 0, sampledClasses() * orders * sizeof(float));
  std::memset(inputCounts_ + panel * orders, 0, orders * sizeof(double));
  std::memset(weightCounts_ + panel * orders, 0, orders * sizeof(double));
}

void Parts::weighTile(int64_t tile, const float* classScale) {
  double total = underflow * static_cast<double>(plan_.rows);
  for (int64_t i = 0; i < plan_.rows; i++) total += inputPart(tile, i);
  totals_[tile] = total;
  largestScale_[tile] = 0;
  for (int64_t j = 0; j < plan_.tileSize(tile); j++)
    largestScale_[tile] = std::max(largestScale_[tile], classScale[tile * plan_.tileClasses + j]);
}

void Parts::takeSample(int64_t panel, int64_t sample, const float* probabilities, const float* classScale) {
  const int64_t first = panel * lanes_, present = std::min<int64_t>(lanes_, plan_.rows - first);
  const int64_t classes = plan_.tileSize(sampledTile(sample)), perTile = divideUp(plan_.tileClasses, everyClass);
  double* count = inputCounts_ + panel * orders;
  for (int64_t l = 0; l < present; l++) {
    float* row = rowSums_ + (first + l) * orders;
    for (int64_t j = 0; j < classes; j++) {
      const float u = probabilities[j * lanes_ + l] * costs_[first + l];
      const int order = orderOf(u);
      row[order] += u;
      count[order]++;
    }
  }
  count = weightCounts_ + panel * orders;
  for (int64_t j = 0; j < classes; j += everyClass) {
    float* sums = classSums_ + (panel * sampledClasses() + sample * perTile + j / everyClass) * orders;
    for (int64_t l = 0; l < present; l++) {
      const float u = probabilities[j * lanes_ + l] * costs_[first + l] * classScale[j];
      const int order = orderOf(u);
      sums[order] += u;
      count[order]++;
    }
  }
}

Parts::Limits Parts::choose(double inputBudget, double weightBudget, double most) const {
  double input[orders] = {}, weight[orders] = {}, ofRows = 0, ofWeights = 0;  // classes that were sampled
  for (int64_t s = 0; s < samples(); s++) {
    ofRows += static_cast<double>(plan_.tileSize(sampledTile(s)));
    ofWeights += static_cast<double>(divideUp(plan_.tileSize(sampledTile(s)), everyClass));
  }
  for (int64_t i = 0; i < plan_.rows; i++) {
    double below = 0;
    for (int order = orders - 1; order >= 0; order--) {
      below += rowSums_[i * orders + order] * inverse_[i];
      input[order] += below * below;
    }
  }
  for (int64_t c = 0; c < sampledClasses(); c++) {
    double below = 0;
    for (int order = orders - 1; order >= 0; order--) {
      for (int64_t p = 0; p < panels(); p++) below += classSums_[(p * sampledClasses() + c) * orders + order];
      weight[order] += below * below;
    }
  }
  // What a sample is likely to miss, few large ones, is kept by the second condition: each alone costs little.
  const auto limit = [&](const double* squares, double more, double budget, double largest,
                         const double* counts) -> float {
    double all = 0, computed = 0;
    for (int64_t k = 0; k < panels() * orders; k++) all += counts[k];
    for (int order = 1; order < orders; order++) {
      for (int64_t p = 0; p < panels(); p++) computed += counts[p * orders + order - 1];
      if (computed > most * all) return 0;
      if (std::sqrt(squares[order]) * more * unit_ <= budget && limitOf(order) * largest * unit_ <= budget / 4)
        return limitOf(order);
    }
    return 0;
  };
  const double classes = static_cast<double>(plan_.classes);
  const double largest = *std::max_element(inverse_, inverse_ + plan_.rows);
  return {limit(input, classes / ofRows, inputBudget, largest, inputCounts_),
          limit(weight, std::sqrt(classes / ofWeights), weightBudget, 1, weightCounts_)};
}

double Parts::inputCost(const double* left, int64_t slots, int64_t stride) const {
  double squares = 0;
  for (int64_t i = 0; i < plan_.rows; i++) {
    double sum = underflow * static_cast<double>(plan_.classes);
    for (int64_t slot = 0; slot < slots; slot++) sum += left[slot * stride + i];
    squares += sum * inverse_[i] * (sum * inverse_[i]);
  }
  return std::sqrt(squares) * unit_ * slack;
}

double Parts::weightCost(const double* left, int64_t slots) const {
  double squares = 0;
  for (int64_t t = 0; t < plan_.classTiles; t++) {
    double sum = underflow * static_cast<double>(plan_.rows * plan_.tileClasses) * largestScale_[t];
    for (int64_t slot = 0; slot < slots; slot++) sum += left[slot * plan_.classTiles + t];
    squares += sum * sum;
  }
  return std::sqrt(squares) * unit_ * slack;
}

}  // namespace margin_softmax::cpu
