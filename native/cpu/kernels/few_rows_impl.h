// Logits of few rows, for which a panel would be computed in vain. Lanes are classes: a square of
// weights is transposed in registers, and each of its columns serves all rows.
//
//              dimensions                     column k: the k-th dimension of `lanes` classes
//   class 0   │ a b c d │                     │ a │
//   class 1   │ e f g h │   → transposed →    │ e │ × input[r][k], broadcast → sums[r] of these classes
//   …
//
// Every logit is the chain of multiply-adds of `logits`, in the order of the dimensions: the same bits.
#pragma once
#include "kernels.h"
#include "transpose_impl.h"

namespace {

constexpr int fewRows = panelLanes / 2;

// Groups of `lanes` classes side by side: a row has one chain in each, and one alone would wait for
// itself.
constexpr int fewGroups = 4;

// For every run of classes: for every square of a group's classes × dimensions: for every row: k
// over the square's dimensions.
static void logitsOfFew(const float* weight, int64_t dim, int64_t classes, const float* input, int64_t rows,
                        const float* scale, const float* bias, float* out, int64_t stride, float* bound) {
  Vector best[fewRows];
  for (int64_t r = 0; r < rows; r++) best[r] = broadcast(-__builtin_inff());
  for (int64_t first = 0; first < classes; first += fewGroups * lanes) {
    const int64_t left = classes - first;
    const int groups = (int)(left < fewGroups * lanes ? (left + lanes - 1) / lanes : fewGroups);
    // The last group's missing classes are its last one, again.
    const float* at[fewGroups * lanes];
    for (int64_t i = 0; i < groups * lanes; i++) at[i] = weight + (first + (i < left ? i : left - 1)) * dim;
    Vector sums[fewGroups][fewRows];
    for (int g = 0; g < groups; g++)
      for (int64_t r = 0; r < rows; r++) sums[g][r] = (Vector){};
    int64_t d = 0;
    for (; d + lanes <= dim; d += lanes)
      for (int g = 0; g < groups; g++) {
        Vector square[lanes];
        UNROLL for (int i = 0; i < lanes; i++) square[i] = load(at[g * lanes + i] + d);
        transpose(square);
        const float* x = input + d;
        for (int64_t r = 0; r < rows; r++, x += dim) {
          Vector sum = sums[g][r];
          UNROLL for (int k = 0; k < lanes; k++) sum += broadcast(x[k]) * square[k];
          sums[g][r] = sum;
        }
      }
    for (; d < dim; d++)
      for (int g = 0; g < groups; g++) {
        float column[lanes];
        UNROLL for (int i = 0; i < lanes; i++) column[i] = at[g * lanes + i][d];
        for (int64_t r = 0; r < rows; r++) sums[g][r] += broadcast(input[r * dim + d]) * load(column);
      }
    for (int g = 0; g < groups; g++) {
      const int64_t j = first + g * lanes;
      for (int64_t r = 0; r < rows; r++) {
        Vector x = sums[g][r];
        x *= loadFew(scale + j, classes - j);
        if (bias) x += loadFew(bias + j, classes - j);
        store(out + r * stride + j, x);
        best[r] = maximum(x, best[r]);
      }
    }
  }
  for (int64_t r = 0; r < rows; r++) bound[r] = largestLane(best[r]);
}

}  // namespace
