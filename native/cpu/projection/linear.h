// A linear layer on the CPU: the loss's products (products.h) of a batch with one weight matrix, whose
// rows take the place of classes.
//
//   forward          out = in·Wᵀ + b        [B,to]
//   weightGradient   ∂W = ∂outᵀ·in          [to,from]
//   inputGradient    ∂in = ∂out·W           [B,from]
//
// Every element is one chain of multiply-adds that the shape alone orders, so that the number of
// threads changes no bit. The caller holds the PoolLock.
#pragma once
#include "../executor.h"

namespace margin_softmax::cpu {

class Linear {
 public:
  Linear(const Kernels& kernels, const Execution& execution, int64_t rows, int64_t from, int64_t to)
      : kernels_(kernels), execution_(execution), rows_(rows), from_(from), to_(to) {}

  // All matrices are row-major. bias: [to] or null.
  Status forward(const float* input, const float* weight, const float* bias, float* output) const;
  Status weightGradient(const float* input, const float* gradOutput, float* gradWeight) const;
  Status inputGradient(const float* weight, const float* gradOutput, float* gradInput) const;

 private:
  class Work;

  const Kernels& kernels_;
  const Execution& execution_;
  const int64_t rows_, from_, to_;
};

}  // namespace margin_softmax::cpu
