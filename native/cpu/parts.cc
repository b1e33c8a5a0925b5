#include "parts.h"

#include <cmath>
#include <cstring>

namespace margin_softmax::cpu {

constexpr double underflow = 1.2e-38;  // what a u that became 0 may have been

// A row without direction takes nothing from other classes and gives them nothing.
static bool counts(const RowState& state) { return state.label != ignoredLabel && state.inverseNorm != 0; }

bool Parts::fit() const {
  const int64_t bytes = plan_.classTiles * roundUp(plan_.rows, 64) * 4;
  return bytes <= std::max<int64_t>(16 << 20, plan_.classes * plan_.dim * 4 / 32);
}

void Parts::layOut(Layout& layout, int64_t paddedRows) {
  upper_ = layout.take<float>(paddedRows * plan_.classTiles);
  factor_ = layout.take<float>(paddedRows);
  ones_ = layout.take<float>(plan_.classTiles);
  totals_ = layout.take<double>(plan_.classTiles);
  inverse_ = layout.take<double>(paddedRows);
  rowSums_ = layout.take<Sums>(panels());
  tileSums_ = layout.take<Sums>(tileBlocks());
}

bool Parts::measureRows(const RowState* states) {
  unit_ = 0;
  for (int64_t i = 0; i < plan_.rows; i++)
    if (counts(states[i])) unit_ = std::max(unit_, std::fabs(states[i].gradient * states[i].error) * states[i].scale);
  std::fill_n(ones_, plan_.classTiles, 1.0f);
  return unit_ > 0 && std::isfinite(unit_);
}

// By the exponent and the two highest bits of the fraction. NaN is of order 0, which is never left out.
constexpr int32_t lowBits = 21, unitOrder = 127 << 2;

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
  const int64_t first = panel * lanes_, present = std::min<int64_t>(lanes_, plan_.rows - first);
  for (int64_t l = 0; l < lanes_; l++) {
    const RowState& state = states[first + l];
    const bool counted = l < present && counts(state);
    factor_[first + l] =
        counted ? static_cast<float>(std::fabs(state.gradient) * state.scale / unit_ * factors[first + l]) : 0;
    inverse_[first + l] = counted ? state.inverseNorm : 0;
  }
  // No part is more than all C classes at the maximum; where logits are too large to differ by less, that is all there
  // is to say. NaN stays.
  float* upper = upper_ + first * plan_.classTiles;
  const float most = static_cast<float>(std::log(static_cast<double>(plan_.classes))) + 1, zeros[64] = {};
  for (int64_t t = 0; t < plan_.classTiles; t++)
    for (int64_t l = 0; l < lanes_; l++) {
      float& log = upper[t * lanes_ + l];
      log = std::min(log - maxima[first + l], most);
    }
  kernels.probabilities(upper, plan_.classTiles, plan_.classTiles, 1, zeros, factor_ + first, 0, ones_, upper);
  Sums& sums = rowSums_[panel];
  sums = {};
  for (int64_t l = 0; l < present; l++) {
    double row[orders] = {};
    for (int64_t t = 0; t < plan_.classTiles; t++) {
      const float u = upper[t * lanes_ + l];
      const int order = orderOf(u);
      row[order] += u;
      sums.counts[order]++;
    }
    double below = underflow * static_cast<double>(plan_.classTiles);
    for (int order = orders - 1; order >= 0; order--) {
      below += row[order];
      const double cost = below * inverse_[first + l];
      sums.squares[order] += cost * cost;
    }
  }
}

void Parts::weighTiles(int64_t block, const float* classScale) {
  Sums& sums = tileSums_[block];
  sums = {};
  const int64_t last = plan_.classTiles * (block + 1) / tileBlocks();
  for (int64_t t = plan_.classTiles * block / tileBlocks(); t < last; t++) {
    double tile[orders] = {};
    for (int64_t i = 0; i < plan_.rows; i++) {
      const float u = at(t, i);
      const int order = orderOf(u);
      tile[order] += u;
      sums.counts[order]++;
    }
    float inverse = 0;
    for (int64_t j = 0; j < plan_.tileSize(t); j++) inverse = std::max(inverse, classScale[t * plan_.tileClasses + j]);
    double below = underflow * static_cast<double>(plan_.rows);
    for (int order = orders - 1; order >= 0; order--) {
      below += tile[order];
      const double cost = below * inverse;
      sums.squares[order] += cost * cost;
    }
    totals_[t] = below;
  }
}

Parts::Choice Parts::choose(const Sums* sums, int64_t count, double budget) const {
  double computed = 0, all = 0;
  for (int64_t i = 0; i < count; i++)
    for (int order = 0; order < orders; order++) all += sums[i].counts[order];
  for (int order = 1; order < orders; order++) {
    double squares = 0;
    for (int64_t i = 0; i < count; i++) {
      squares += sums[i].squares[order];
      computed += sums[i].counts[order - 1];
    }
    const double bound = std::sqrt(squares) * unit_ * slack;
    if (bound <= budget) return {limitOf(order), bound, computed / all};
  }
  return {};
}

int64_t Parts::active(int64_t tile, int64_t chunk, float limit, int32_t* rows) const {
  const int64_t first = chunk * plan_.chunkRows, last = first + plan_.chunkSize(chunk);
  int64_t count = 0;
  for (int64_t i = first; i < last; i++) {
    rows[count] = static_cast<int32_t>(i - first);
    count += !(at(tile, i) < limit);
  }
  return count;
}

}  // namespace margin_softmax::cpu
