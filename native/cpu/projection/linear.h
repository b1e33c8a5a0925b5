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
#include <memory>

#include "../executor.h"

namespace margin_softmax::cpu {

class Linear {
 public:
  // `trains`: takes all memory that the gradients need, too, except for the workspace's.
  Linear(const Kernels& kernels, const Execution& execution, int64_t rows, int64_t from, int64_t to, bool trains);
  ~Linear();
  Linear(const Linear&) = delete;
  Linear& operator=(const Linear&) = delete;

  // All matrices are row-major. bias: [to] or null.
  Status forward(const float* input, const float* weight, const float* bias, float* output) const;
  // Grows the workspace to what the gradients need.
  Status reserve() const;
  Status weightGradient(const float* input, const float* gradOutput, float* gradWeight) const;
  Status inputGradient(const float* weight, const float* gradOutput, float* gradInput) const;

 private:
  class Work;
  Status placeWeightWork() const;

  const Kernels& kernels_;
  const Execution execution_;
  const int64_t rows_, from_, to_;
  const std::unique_ptr<Work> weightWork_, inputWork_;
};

}  // namespace margin_softmax::cpu
