// The inner loops of the probability functions, one table per instruction set (kernels.h points to
// it).
#pragma once

namespace margin_softmax::cpu {

// The weight of each class in a row's loss: a_j = weights[j]·(keep·targets[j] + add). A null array
// counts as 1.
struct Shares {
  const float* targets = nullptr;
  const float* weights = nullptr;
  float keep = 0, add = 0;
};

// Sums over a block of logits z, with d = z − shift ≤ 0. Elements equal to the shift are counted
// separately, so that a small rest is not lost in rounding beside 1.
struct BlockSums {
  float ones;     // how many d = 0
  float rest;     // Σ_{d≠0} e^d
  float shares;   // Σ a_j, 0 without shares
  float deficit;  // Σ −a_j·d_j, 0 without shares; a class of share 0 adds 0 even where d = −∞
};

// Elements that are summed in single precision before a double takes over. Their 4 KB stay in the
// level-1 cache.
constexpr int64_t blockSize = 1024;

struct ProbabilityKernels {
  float (*maximum)(const float* z, int64_t n);
  // n ≤ blockSize; shares may be null
  void (*exponentialSums)(const float* z, int64_t n, float shift, const Shares* shares, BlockSums& out);

  // `stream` writes past the caches, for outputs that exceed them. out may be the input.
  // out = factor · e^(z − shift), gradually down to denormal numbers and 0
  void (*softmax)(const float* z, int64_t n, float shift, float factor, float* out, bool stream);
  // out = (z − shift) − logSum
  void (*logSoftmax)(const float* z, int64_t n, float shift, float logSum, float* out, bool stream);
  // out = factor · e^(z − shift) − a
  void (*gradient)(const float* z, int64_t n, float shift, float factor, const Shares& shares, float* out, bool stream);
  // out = −log p
  void (*informationContent)(const float* p, int64_t n, float* out, bool stream);

  // −Σ p log p, −Σ p log q and Σ p log(p/q) of any number of elements
  double (*entropy)(const float* p, int64_t n);
  double (*crossEntropy)(const float* p, const float* q, int64_t n);
  double (*klDivergence)(const float* p, const float* q, int64_t n);
};

}  // namespace margin_softmax::cpu
