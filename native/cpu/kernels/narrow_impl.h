// Products of narrow rows (step.h) in double precision. The compiler turns the loops over lanes
// into vectors. Each element is one chain in a fixed order, so the bits do not depend on the vector
// width.
#pragma once
#include "kernels.h"
#include "simd.h"

namespace {

// tile[p][j][l] = Σ_d packedInput[p][d][l]·weight[j][d] · inverseNorms[j] − ceilings[p][l]
static void narrowLogits(const float* weight, int64_t dim, int64_t classes, const double* packedInput, int64_t panels,
                         const double* inverseNorms, const double* ceilings, float* tile, int64_t tileStride) {
  for (int64_t p = 0; p < panels; p++, packedInput += dim * panelLanes, ceilings += panelLanes)
    for (int64_t j = 0; j < classes; j++) {
      float* out = tile + (p * tileStride + j) * panelLanes;
      double sum[panelLanes] = {};
      for (int64_t d = 0; d < dim; d++) {
        const double w = weight[j * dim + d];
        for (int l = 0; l < panelLanes; l++) sum[l] += packedInput[d * panelLanes + l] * w;
      }
      for (int l = 0; l < panelLanes; l++) out[l] = static_cast<float>(sum[l] * inverseNorms[j] - ceilings[l]);
    }
}

// out[p][d][l] (+)= Σ_j weight[j][d]·gradient[p][j][l]
static void narrowInputGradient(const float* weight, int64_t dim, int64_t classes, const float* gradient,
                                int64_t tileStride, int64_t panels, double* out, bool accumulate) {
  for (int64_t p = 0; p < panels; p++)
    for (int64_t d = 0; d < dim; d++, out += panelLanes) {
      double sum[panelLanes];
      for (int l = 0; l < panelLanes; l++) sum[l] = accumulate ? out[l] : 0;
      for (int64_t j = 0; j < classes; j++) {
        const double w = weight[j * dim + d];
        const float* column = gradient + (p * tileStride + j) * panelLanes;
        for (int l = 0; l < panelLanes; l++) sum[l] += static_cast<double>(column[l]) * w;
      }
      for (int l = 0; l < panelLanes; l++) out[l] = sum[l];
    }
}

}  // namespace
