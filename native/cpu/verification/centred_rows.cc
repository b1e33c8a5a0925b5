#include "centred_rows.h"

#include <algorithm>
#include <cmath>

#include "../../core/pool.h"
#include "../../core/sizes.h"

namespace margin_softmax::cpu {

Status CentredRows::prepare(const float* rows, int64_t count, int64_t dim, const double* inverseNorms,
                            const Execution& execution) {
  mean_ = Block::uninitialized(dim * 8);
  if (!mean_.as<void>()) return Status::outOfMemory("the mean of the embeddings", dim * 8);
  double* const mean = mean_.as<double>();
  Pool& pool = Pool::instance();
  // A run of dimensions at a time, the rows in their order: the same bits for any number of
  // threads.
  constexpr int64_t run = 64;
  pool.forEach(execution.threads, divideUp(dim, run), [&](int64_t item, int) {
    const int64_t first = item * run, end = std::min(dim, first + run);
    std::fill(mean + first, mean + end, 0.0);
    for (int64_t i = 0; i < count && !execution.isCancelled(); i++)
      for (int64_t d = first; d < end; d++) mean[d] += rows[i * dim + d] * inverseNorms[i];
    for (int64_t d = first; d < end; d++) mean[d] /= static_cast<double>(count);
  });
  double common = 0;
  for (int64_t d = 0; d < dim; d++) common += mean[d] * mean[d];
  // 1 − ‖m‖² is the mean of ‖d_i‖² = 2·a_i, which the largest one is not below.
  if (2 * (1 - common) > widest) return {};

  rows_ = Block::uninitialized(count * dim * 4);
  halfSquares_ = Block::uninitialized(count * 8);
  if (!rows_.as<void>() || !halfSquares_.as<void>())
    return Status::outOfMemory("the centred embeddings", count * (dim * 4 + 8));
  float* const centred = rows_.as<float>();
  double* const halfSquares = halfSquares_.as<double>();
  constexpr int64_t block = 16;
  pool.forEach(execution.threads, divideUp(count, block), [&](int64_t item, int) {
    for (int64_t i = item * block; i < std::min(count, (item + 1) * block) && !execution.isCancelled(); i++) {
      double squares = 0;
      for (int64_t d = 0; d < dim; d++) {
        const double rest = rows[i * dim + d] * inverseNorms[i] - mean[d];
        centred[i * dim + d] = static_cast<float>(rest);
        squares += rest * rest;
      }
      halfSquares[i] = squares / 2;
    }
  });
  if (execution.isCancelled()) return Status::abandoned();
  const double largest = 4 * *std::max_element(halfSquares, halfSquares + count);
  if (largest > widest) return {};
  needed_ = true;
  // Rows that are all alike have a span, too: single precision divides by it.
  constexpr double narrowest = 1.0 / (int64_t{1} << 60);
  for (span_ = narrowest; span_ < largest;) span_ *= 2;  // a power of 2, without exp2: it needs glibc 2.29
  return {};
}

}  // namespace margin_softmax::cpu
