// Chooses the limits of the filtered backward phase (filtered.cc) from a sample of the classes: see
// negligible.h.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "step.h"

namespace margin_softmax::cpu {
namespace {

// The fractions of the allowed error that the sample aims at. It estimates; if the error turns out
// larger than allowed, the filtered pass is discarded and everything is computed.
constexpr double inputAim = 0.8, weightAim = 0.6;

}  // namespace

// Chooses both limits even if only one gradient is wanted: asking for the other must not change its
// bits. Sets `minWeightNorm`, a lower bound of gradWeight's norm. gradInput has no cheap lower
// bound, since negatives may cancel the target's pull; the targets' share stands in for it until
// the result is there.
//
//   labels of the batch → for every panel of rows: bounds, then examined classes
//                       → for every tile: largest 1/‖w‖ → budgets → limits
NegligibleTerms::Limits Step::chooseLimits(double& minWeightNorm) {
  if (!negligible_.measureRows(states_)) return {};
  int64_t labels = 0;
  for (const int32_t* at = firstTarget(0); at != order_ + plan_.rows; at++)
    if (labels == 0 || labels_[labels - 1] != states_[*at].label)
      labels_[labels++] = static_cast<int32_t>(states_[*at].label);
  negligible_.chooseClasses(labels_, labels);
  forEach(negligible_.panels(), [&](int64_t panel, int thread) { boundPanel(panel, thread); });
  forEach(plan_.classTiles, [&](int64_t tile, int) { negligible_.boundTile(tile, inverseClassNorm_); });
  if (cancelled()) return {};
  minWeightNorm = minWeightGradientNorm();
  // ‖targets' share of gradInput‖²: of a·ŵ + b·x̂ it is a² + 2ab·cos + b².
  double squares = 0;
  for (int64_t i = 0; i < plan_.rows; i++) {
    const RowState& state = states_[i];
    if (state.label < 0 || state.inverseNorm == 0 || state.targetInverseNorm == 0) continue;
    const TargetShare pull = inputShare(state, normalized_, radial_);
    const double w = pull.weight / state.targetInverseNorm, x = pull.input / state.inverseNorm;
    squares += std::max(0.0, w * w + 2 * w * x * state.cosine + x * x);
  }
  return negligible_.choose(inputAim * problem_.negligible * std::sqrt(squares),
                            weightAim * problem_.negligible * minWeightNorm, negligible_.maxComputedShare());
}

// Bounds the cells of a panel of rows and adds its examined classes' probabilities, a tileful of
// classes at a time: out[count][L]. Kept tiles give the logits; other classes are multiplied again,
// one class × one panel.
void Step::boundPanel(int64_t panel, int thread) {
  negligible_.boundRows(kernels_, panel, states_, rowMaximum_, rowFactor_);
  float* probabilities = scratchOf(thread).tile;
  const int64_t first = panel * lanes_, chunk = first / plan_.chunkRows;
  const int64_t classes = negligible_.closeClasses(), atOnce = plan_.tileClasses;
  for (int64_t from = 0; from < classes && !cancelled(); from += atOnce) {
    const int64_t count = std::min(atOnce, classes - from);
    for (int64_t c = 0; c < count; c++) {
      const int64_t j = negligible_.closeClass(from + c), tile = j / plan_.tileClasses;
      float* out = probabilities + c * lanes_;
      if (const float* kept = keptTile(tile, chunk)) {
        const int64_t panelInChunk = (first - chunk * plan_.chunkRows) / lanes_;
        std::memcpy(out, kept + (panelInChunk * plan_.tileClasses + j % plan_.tileClasses) * lanes_,
                    lanes_ * sizeof(float));
        continue;
      }
      products_->panelLogits(weightRow(j, thread), 1, panel, inverseClassNorm_ + j, out);
      if (problem_.filters()) kernels_.maskAbove(out, plan_.tileClasses, 1, 1, rowLimit_ + first, maskedLogit);
      forTargets(j, 1, first, lanes_, [&](int64_t row, int64_t) { out[row - first] = maskedLogit; });
    }
    kernels_.probabilities(probabilities, plan_.tileClasses, count, 1, {}, rowMaximum_ + first, rowFactor_ + first,
                           nullptr, nullptr, tileOfOnes.data(), probabilities);
    negligible_.addClasses(panel, from, count, probabilities, inverseClassNorm_);
  }
  negligible_.closePanel(panel);
}

// Returns a lower bound of gradWeight's norm from the classes of the batch: the pull of a class's
// own rows, less the most that all rows with other labels could cancel.
double Step::minWeightGradientNorm() {
  const int64_t dim = plan_.dim;
  float* pull = scratchOf(0).row;
  double squares = 0;
  for (int64_t l = 0; l < negligible_.labelClasses(); l++) {
    const int32_t label = negligible_.closeClass(l);
    const float* w = weightRow(label, 0);
    double rounding = 0;
    std::memset(pull, 0, dim * sizeof(float));
    forTargets(label, 1, 0, plan_.rows, [&](int64_t row, int64_t) {
      const RowState& state = states_[row];
      const TargetShare share = weightShare(state, normalized_);
      kernels_.axpby(pull, true, share.input, problem_.input + row * dim, share.weight, w, dim);
      rounding += 1e-6 * std::fabs(state.gradient * state.scale * state.error * state.slope);
    });
    const double others = (negligible_.labelSum(l) + rounding) * inverseClassNorm_[label];
    const double norm = std::sqrt(kernels_.dotDouble(pull, pull, dim)) - others;
    if (!(norm <= 0)) squares += norm * norm;  // NaN stays
  }
  return std::sqrt(squares);
}

}  // namespace margin_softmax::cpu
