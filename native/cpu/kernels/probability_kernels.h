// The inner loops of the probability functions, one table per instruction set (kernels.h points to it).
#pragma once

namespace margin_softmax::cpu {

// How much each class of a row counts in a loss: a_j = weights[j]·(keep·targets[j] + add). Null arrays count as 1.
struct Shares {
  const float* targets = nullptr;
  const float* weights = nullptr;
  float keep = 0, add = 0;
};

// Sums over a block of logits z, with d = z − shift ≤ 0. The elements equal to the shift are counted apart, so that
// what the others add to 1 is not lost in rounding where it is small.
struct BlockSums {
  float ones;     // how many d = 0
  float rest;     // Σ_{d≠0} e^d
  float shares;   // Σ a_j, 0 without shares
  float deficit;  // Σ −a_j·d_j, 0 without shares; a class of share 0 adds 0 even where d = −∞
};

constexpr int64_t blockSize =
    1024;  // elements summed in single precision before a double takes over; 4 KB stay in cache

struct ProbabilityKernels {
  float (*maximum)(const float* z, int64_t n);
  // n ≤ blockSize; shares may be null
  void (*exponentialSums)(const float* z, int64_t n, float shift, const Shares* shares, BlockSums& out);

  // `stream` writes past the caches, for outputs that exceed them. out may be the input itself.
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
