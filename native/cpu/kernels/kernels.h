// The table of inner loops, one per instruction set; everything else of the CPU executor is compiled once.
// A table is data. Adding an instruction set takes a new kernels_<name>.cc and a line in CMakeLists.txt.
#pragma once
#include <stdint.h>

#include "../../formulas/optimizer_step.h"
#include "processor.h"

namespace margin_softmax::cpu {

// A matrix in column blocks: so many columns of every row one behind the other, then the next ones; the last block has
// what is left. Rows that many lists visit then lie close together (rows of 2 KiB would share few places in a cache).
constexpr int columnBlock = 128;

// Sums of few rows each: list l is lengths[l] terms from l·stride on.
struct Term {
  float coefficient;
  int32_t row;
};
struct TermLists {
  int64_t count, stride;
  int32_t* lengths;
  Term* terms;
};

// Memory that is fetched into the level-2 cache while something else is computed: what the thread reads next.
struct Prefetch {
  const void* from;
  int64_t lines;  // of 64 bytes
};

// What each row makes of its negatives, as formulas/negative.h has it in NegativeRow: arrays over the rows of a tile's
// panels. Null: they stay as they are.
struct NegativeRows {
  const float *threshold, *square, *linear, *constant, *ceiling;
};

// The widest panel that any table may have. Row counts are padded to it.
constexpr int maxLanes = 64;

// Panels: L = `lanes` batch rows side by side, so that a class's logits for L rows are contiguous.
//   packedInput  [panel][D][L]        embeddings, scaled so that a dot product with weight·scale is a logit
//   tile   [panel][tileStride][L]   logits, later gradients, of up to tileStride classes
//   packedInputGradient  [dimPanel][rows][L]  embeddings times the row's gradient factor, L dimensions side by side
struct Kernels {
  const char* name;
  ProcessorFeatures needs;  // what the processor must have to run this table
  int lanes;                // L; a multiple of 16 that divides maxLanes
  int vectorBytes;          // of the machine's vectors, for reporting

  // Sums of products; single precision over 16 virtual lanes, and double precision.
  float (*dot)(const float* a, const float* b, int64_t n);
  double (*dotDouble)(const float* a, const float* b, int64_t n);

  // tile[p][j][l] = scale[j] · Σ_d weight[j][d] · packedInput[p][d][l]  (+ bias[j] where bias is given)
  void (*logits)(const float* weight, int64_t dim, int64_t classes, const float* packedInput, int64_t panels,
                 const float* scale, const float* bias, float* tile, int64_t tileStride);
  // Online log-sum-exp: maximum[p][l] and sum[p][l] (of e^(z − maximum)) take in a tile's classes, z being what
  // `negatives` make of the tile. Where `mass` is given, mass[p·massStride + l] = an upper bound of the log of the
  // tile's own Σ e^z.
  void (*logSumExp)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                    const NegativeRows& negatives, float* maximum, float* sum, float* mass, int64_t massStride);
  // Per-lane sums Σ_j shares[j]·z_j, and maxima of the tile as it is, over its classes: out[p][l].
  void (*tileSum)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, const NegativeRows& negatives,
                  const float* shares, float* out);
  void (*tileMaximum)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, float* out);
  // tile[p][j][l] = replacement where it is above limit[p][l]
  void (*maskAbove)(float* tile, int64_t tileStride, int64_t classes, int64_t panels, const float* limit,
                    float replacement);
  // keys[p][j][l] = the cosine tile[p][j][l], held to [−1, 1], in steps from −1 on: rounded(cosine·steps) + steps, plus
  // `sameOffset` where the row's label [panels·L] is the class's [classes]; keys may be tile itself. steps <= 2^24
  void (*scoreKeys)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels, int32_t steps,
                    const int32_t* rowLabels, const int32_t* classLabels, int32_t sameOffset, int32_t* keys);
  // gradient[p][j][l] = (e^(z − maximum[p][l])·factor[p][l] − even[p][l]·shares[j]) · ∂z/∂tile · scale[j]; gradient may
  // be tile itself. Without label smoothing `even` is null.
  void (*probabilities)(const float* tile, int64_t tileStride, int64_t classes, int64_t panels,
                        const NegativeRows& negatives, const float* maximum, const float* factor, const float* even,
                        const float* shares, const float* scale, float* gradient);
  // out[j][dimPanels·L] (+)= Σ_i gradient[j][i] · packedInputGradient[i]
  void (*weightGradient)(const float* gradient, int64_t tileStride, int64_t classes, int64_t panels,
                         const float* packedInputGradient, int64_t inputRows, int64_t dimPanels, float* out,
                         bool accumulate);
  // out[p][D][L] (+)= Σ_j weight[j][d] · gradient[p][j][l]
  void (*inputGradient)(const float* weight, int64_t dim, int64_t classes, const float* gradient, int64_t tileStride,
                        int64_t panels, float* out, bool accumulate);

  // The same of narrow rows, in double precision: narrow_impl.h.
  void (*narrowLogits)(const float* weight, int64_t dim, int64_t classes, const double* packedInput, int64_t panels,
                       const double* inverseNorms, const double* ceilings, float* tile, int64_t tileStride);
  void (*narrowInputGradient)(const float* weight, int64_t dim, int64_t classes, const float* gradient,
                              int64_t tileStride, int64_t panels, double* out, bool accumulate);

  // As `probabilities` of negatives as they are, on the first `count` lanes, and 0 below a limit: sparse_impl.h.
  void (*filterInput)(const float* tile, float* out, int64_t tileStride, int64_t classes, int64_t count,
                      const float* maximum, const float* factor, const float* scale, const float* cost, float limit,
                      float* skipped, float weightLimit, float* skippedOfClasses);
  void (*filterWeight)(const float* tile, float* out, int64_t tileStride, int64_t classes, int64_t count,
                       const float* maximum, const float* factor, const float* scale, const float* cost, float limit);
  // What is not 0 of the first lists.count lanes of a panel: for each lane a list of classes.
  void (*listClasses)(const float* panel, int64_t classes, const TermLists& lists);
  // What is not 0 of a class, whose first panel is at `tile`, in the first `count` lanes: one list of places[lane],
  // with the coefficient times factors[lane]. Returns its length.
  int64_t (*listRows)(const float* tile, int64_t tileStride, int64_t count, const float* factors, const int32_t* places,
                      Term* terms);
  // out[outRows[l], or l][n] (+)= the sum of list l, for every list; the rows are [rows][n] in column blocks.
  void (*sumRows)(const TermLists& lists, const float* blocks, int64_t rows, int64_t n, float* out, int64_t outStride,
                  const int32_t* outRows, bool keep, const Prefetch* next, int nextCount);

  // out[i] = a[i] + factor · b[i]; `stream` writes past the caches (for outputs that exceed them)
  void (*addScaled)(float* out, const float* a, float factor, const float* b, int64_t n, bool stream);
  // out[i] = factor · a[i]
  void (*scaled)(float* out, const float* a, float factor, int64_t n);
  void (*accumulate)(float* sum, const float* term, int64_t n);
  // out = base·out + alpha·a + beta·b in double precision, rounded once; base is 0 or 1
  void (*axpby)(float* out, bool keep, double alpha, const float* a, double beta, const float* b, int64_t n);

  // Optimizer updates of one row, as PyTorch's documentation of SGD and AdamW defines them (see optimizer.h).
  void (*sgd)(float* weight, float* momentum, const float* gradient, int64_t n, const SgdStep& step);
  void (*adamW)(float* weight, float* first, float* second, const float* gradient, int64_t n, const AdamWStep& step);

  // to[i] = from[i], and back, to one of both neighbours at random: storage_impl.h.
  void (*widen)(const uint16_t* from, float* to, int64_t n);
  void (*roundStochastically)(const float* from, uint16_t* to, int64_t n, uint64_t key, uint64_t first);

  // Twelve independent chains of `rounds` vector multiply-adds on one core, to be timed: the benchmark's peak.
  float (*multiplyAdds)(int64_t rounds);

  const struct ProbabilityKernels* probability;  // probability_kernels.h
  const struct Bfloat16Kernels* bfloat16;        // bfloat16_kernels.h
};

// Every table compiled in, best first; and those that this processor can run.
struct KernelList {
  const Kernels* const* tables;
  int count;
};
KernelList availableKernels();
// The named table, or the best one for a null name; null where this machine has none of that name.
const Kernels* findKernels(const char* name);

}  // namespace margin_softmax::cpu
