// What the files of the CPU executor share.
#pragma once
#include "../executor.h"
#include "../row.h"
#include "kernels.h"
#include "plan.h"
#include "pool.h"
#include "workspace.h"

namespace margin_softmax::cpu {

Status loss(Problem& problem);
Status topK(TopKProblem& problem);

// 1/‖row‖ in single precision; where squares could leave its range, by way of double precision.
inline float inverseNorm(const Kernels& kernels, const float* row, int64_t n) {
  const float squares = kernels.dot(row, row, n);
  if (squares > 1e-24f && squares < 1e30f) return 1.0f / std::sqrt(squares);
  return static_cast<float>(margin_softmax::inverseNorm(kernels.dotDouble(row, row, n)));
}

// scales[j] = 1/‖row j‖ for rows of weights that are to be normalised, else 1.
void scaleRows(const Kernels& kernels, const float* rows, int64_t dim, int64_t count, bool normalized, float* scales);

// Writes `count` rows (at most 16, from a multiple of 16 on) into the [panel][D][L] layout, times factors[i]; rows
// beyond those given, up to 16, become zeros. A factor of 0 writes zeros whatever the row holds.
void packQuery(const float* rows, int64_t dim, int64_t first, int64_t count, const double* factors, int lanes,
               float* query);

}  // namespace margin_softmax::cpu
