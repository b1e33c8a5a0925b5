// The table of inner loops, one per instruction set; everything else of the CPU executor is
// compiled once. A table is data. Adding an instruction set takes a new kernels_<name>.cc and a
// line in CMakeLists.txt.
#pragma once
#include <stdint.h>

#include "../../formulas/optimizer_step.h"
#include "processor.h"

namespace margin_softmax::cpu {

// A matrix [rows][n] in column blocks, [block][rows][columnBlock]: these columns of every row, then
// the next ones; the last block is narrower. Rows that many lists visit then lie close together.
// Rows 2 KiB apart would share few places in a cache.
constexpr int columnBlock = 128;

// Sums of few rows each. List l is the `lengths[l]` terms from l·stride on: Σ coefficient · row.
//
//   terms    | list 0: length 2        | list 1: length 3        |
//            | term term  –    –    –  | term term term  –    –  |      stride 5
struct Term {
  float coefficient;
  int32_t row;
};
struct TermLists {
  int64_t count, stride;
  int32_t* lengths;
  Term* terms;
};

// The rows' transforms of their negatives: formulas/negative.h's NegativeRow, as arrays over the
// rows of a tile's panels. Null pointers mean that negatives are not transformed.
struct NegativeRows {
  const float *threshold, *square, *linear, *constant, *ceiling;
};

// Memory that the thread reads next. A kernel prefetches it into the level-2 cache while it
// computes.
struct Prefetch {
  const void* from;
  int64_t lines;  // of 64 bytes
};

// The widest panel of any table. Row counts are padded to it.
constexpr int maxLanes = 64;

// Panels: L = `lanes` batch rows side by side, so that one load serves several rows, and a class's
// logits for L rows are contiguous. A tile of classes × rows in two panels:
//
//               rows 0 … L−1         rows L … 2L−1
//   class 0   │ ■ ■ ■ ■ ■ ■ ■ ■ │  │ ■ ■ ■ ■ ■ ■ ■ ■ │     a panel holds tileStride classes of L floats,
//   class 1   │ ■ ■ ■ ■ ■ ■ ■ ■ │  │ ■ ■ ■ ■ ■ ■ ■ ■ │     then the next panel begins
//
//   packedInput          [panel][D][L]           s_i/‖x_i‖·x_i: times weight·scale it gives a logit
//   packedInputGradient  [dimPanel][rows][L]     the same times g_i, with L dimensions side by side
//   tile                 [panel][tileStride][L]  logits, later gradients, of up to tileStride classes
struct Kernels {
  const char* name;
  ProcessorFeatures needs;  // what the processor must have to run this table
  bool forTests;            // imitates another machine's table: found by its name alone, never chosen
  int lanes;                // L; a multiple of 16 that divides maxLanes
  int fewRows;              // up to so many rows logitsOfFew is faster than logits
  int vectorBytes;          // of the machine's vectors, for reporting

  // Sums of products, in single precision over virtual lanes (simd.h) and in double precision.
  float (*dot)(const float* a, const float* b, int64_t n);
  // out[j] = ‖row j‖² of `count` rows: the bits of `dot`.
  void (*squares)(const float* rows, int64_t n, int64_t count, float* out);
  double (*dotDouble)(const float* a, const float* b, int64_t n);

  // tile[p][j][l] = scale[j] · Σ_d weight[j][d] · packedInput[p][d][l]  (+ bias[j], unless bias is null).
  // `next`, here and in the two other products, is prefetched meanwhile.
  void (*logits)(const float* weight, int64_t dim, int64_t classes, const float* packedInput, int64_t panels,
                 const float* scale, const float* bias, float* tile, int64_t tileStride, Prefetch next);
  // The same bits for `rows` ≤ fewRows rows, input[r][D], in less time: out[r·stride + j], and
  // bound[r] ≥ each of them. Writes whole vectors, so `stride` is a multiple of 16.
  void (*logitsOfFew)(const float* weight, int64_t dim, int64_t classes, const float* input, int64_t rows,
                      const float* scale, const float* bias, float* out, int64_t stride, float* bound);
  // Online log-sum-exp: updates maximum[p][l] and sum[p][l] = Σ e^(z − maximum) with a tile's
  // classes, where z are the transformed negatives. If `mass` is not null, mass[p·massStride + l] =
  // an upper bound of the log of this tile's Σ e^z.
  void (*logSumExp)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                    const NegativeRows& negatives, float* maximum, float* sum, float* mass, int64_t massStride);
  // out[p][l] = Σ_j shares[j]·z_j; and the maximum over the tile's classes, not transformed.
  void (*tileSum)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, const NegativeRows& negatives,
                  const float* shares, float* out);
  void (*tileMaximum)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, float* out);
  // tile[p][j][l] = replacement if it is above limit[p][l]. NaN stays.
  void (*maskAbove)(float* tile, int64_t tileStride, int64_t classes, int64_t panels, const float* limit,
                    float replacement);
  // keys[p][j][l] = rounded(cosine·steps) + steps, where the cosine is tile[p][j][l] clamped to
  // ±1; plus `sameOffset` if the row's label [panels·L] is the class's [classes]. keys may be tile
  // itself. steps ≤ 2^24
  void (*scoreKeys)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, int32_t steps,
                    const int32_t* rowLabels, const int32_t* classLabels, int32_t sameOffset, int32_t* keys);
  // gradient[p][j][l] = (e^(z − maximum[p][l])·factor[p][l] − even[p][l]·shares[j]) · scale[j].
  // gradient may be tile itself. `even` is null without label smoothing.
  void (*probabilities)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                        const NegativeRows& negatives, const float* maximum, const float* factor, const float* even,
                        const float* shares, const float* scale, float* gradient);
  // out[j][dimPanels·L] (+)= Σ_i gradient[j][i] · packedInputGradient[i]
  void (*weightGradient)(const float* gradient, int64_t tileStride, int64_t classes, int64_t panels,
                         const float* packedInputGradient, int64_t inputRows, int64_t dimPanels, float* out,
                         bool accumulate, Prefetch next);
  // out[p][D][L] (+)= Σ_j weight[j][d] · gradient[p][j][l]
  void (*inputGradient)(const float* weight, int64_t dim, int64_t classes, const float* gradient, int64_t tileStride,
                        int64_t panels, float* out, bool accumulate, Prefetch next);

  // The same for narrow rows, in double precision: narrow_impl.h.
  void (*narrowLogits)(const float* weight, int64_t dim, int64_t classes, const double* packedInput, int64_t panels,
                       const double* inverseNorms, const double* ceilings, float* tile, int64_t tileStride);
  void (*narrowInputGradient)(const float* weight, int64_t dim, int64_t classes, const float* gradient,
                              int64_t tileStride, int64_t panels, double* out, bool accumulate);

  // As `probabilities` of untransformed negatives without smoothing, on the first `count` lanes;
  // terms below a limit become 0: sparse_impl.h.
  void (*filterInput)(const float* tile, float* out, int64_t tileStride, int64_t classes, int64_t count,
                      const float* maximum, const float* factor, const float* scale, const float* cost, float limit,
                      float* skipped, float weightLimit, float* skippedOfClasses);
  void (*filterWeight)(const float* tile, float* out, int64_t tileStride, int64_t classes, int64_t count,
                       const float* maximum, const float* factor, const float* scale, const float* cost, float limit);
  // Lists the non-zero gradients of a panel's first lists.count lanes: for each lane (class,
  // gradient).
  void (*listClasses)(const float* panel, int64_t classes, const TermLists& lists);
  // Lists one class's non-zero gradients over the first `count` lanes as (places[lane],
  // factors[lane]·gradient), from its first panel at `tile` on. Returns how many.
  int64_t (*listRows)(const float* tile, int64_t tileStride, int64_t count, const float* factors, const int32_t* places,
                      Term* terms);
  // out[outRows[l]][n] (+)= the sum of list l, for every list; out[l] if outRows is null. `blocks`
  // are the rows [rows][n] in column blocks.
  void (*sumRows)(const TermLists& lists, const float* blocks, int64_t rows, int64_t n, float* out, int64_t outStride,
                  const int32_t* outRows, bool keep, const Prefetch* next, int nextCount);

  // out[i] = a[i] + factor·b[i]. `stream` writes past the caches, for outputs that exceed them.
  void (*addScaled)(float* out, const float* a, float factor, const float* b, int64_t n, bool stream);
  // out[i] = factor · a[i]
  void (*scaled)(float* out, const float* a, float factor, int64_t n);
  void (*accumulate)(float* sum, const float* term, int64_t n);
  // out = alpha·a + beta·b (+ out, if `keep`), in double precision, rounded once.
  void (*axpby)(float* out, bool keep, double alpha, const float* a, double beta, const float* b, int64_t n);

  // Optimizer updates of one row, as defined in formulas/optimizer_step.h. momentum is null without
  // momentum.
  void (*sgd)(float* weight, float* momentum, const float* gradient, int64_t n, const SgdStep& step);
  void (*adamW)(float* weight, float* first, float* second, const float* gradient, int64_t n, const AdamWStep& step);

  // bfloat16 → float, exactly; and back, rounded at random to one of both neighbours:
  // storage_impl.h.
  void (*widen)(const uint16_t* from, float* to, int64_t n);
  void (*roundStochastically)(const float* from, uint16_t* to, int64_t n, uint64_t key, uint64_t first);

  // Twelve independent chains of `rounds` vector multiply-adds. The benchmark times them for a
  // core's peak.
  float (*multiplyAdds)(int64_t rounds);

  const struct ProbabilityKernels* probability;  // probability_kernels.h
  const struct Bfloat16Kernels* bfloat16;        // bfloat16_kernels.h
};

// The tables of this build that this processor can run, best first.
struct KernelList {
  const Kernels* const* tables;
  int count;
};
KernelList availableKernels();
// The tables for tests that this processor can run.
KernelList testKernels();
// Returns the named table, or the best one if `name` is null; null if this processor has none of
// that name.
const Kernels* findKernels(const char* name);

}  // namespace margin_softmax::cpu
