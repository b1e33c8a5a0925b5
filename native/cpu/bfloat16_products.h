// The three products of a step in bfloat16: their operands' memory, and who packs what when. The step (step.h) asks it
// instead of `Kernels` where Precision::bfloat16 is wanted; all else of a step is the same code in float32 and double.
#pragma once
#include <optional>

#include "bfloat16_kernels.h"
#include "kernels.h"
#include "plan.h"
#include "workspace.h"

namespace margin_softmax::cpu {

class Bfloat16Products {
 public:
  Bfloat16Products(const Kernels& kernels, const Plan& plan, int64_t paddedRows);

  // The operands that the gradients wanted need, for so many threads.
  void layOut(Layout& layout, int threads, bool weight, bool input);

  // Rows [first, first + 16), of which `count` exist, times their factors; a factor of 0 packs zeros whatever the row
  // holds. `rows` points to row `first`.
  void packRows(const float* rows, int64_t first, int64_t count, const double* queryFactors,
                const double* valueFactors) const;
  // A tile's weights [classes][D], for what this thread computes until it packs the next: logits, inputGradient.
  void packWeights(const float* weight, int64_t classes, int thread, bool forLogits, bool forGradient) const;

  // Of a chunk of rows; arguments as in Kernels. `next`: what is read next, to be fetched meanwhile: weights that lie
  // in memory, or kept logits.
  void logits(int thread, int64_t classes, int64_t chunk, const float* scale, const float* bias, float* tile,
              Upcoming next) const;
  // Reads the tile's gradient for the two products below.
  void packGradient(int thread, int64_t classes, int64_t chunk, const float* gradient) const;
  void weightGradient(int thread, int64_t classes, int64_t chunk, float* out, int64_t outStride, bool accumulate,
                      Upcoming next) const;
  void inputGradient(int thread, int64_t classes, int64_t chunk, float* out, bool accumulate, Upcoming next) const;

 private:
  int64_t panels(int64_t chunk) const { return divideUp(plan_.chunkSize(chunk), lanes_); }
  PackedTile packed(int thread) const;

  const Bfloat16Kernels& kernels_;
  const Plan& plan_;
  const int lanes_, pairLanes_, parts_;  // L, P; 2 where operands have corrections
  const int64_t paddedRows_, dimPairs_, dimPanels_;
  bool wantsWeight_ = false;                      // whether gradWeight's operands are packed
  PackedTile tile_{};                             // the first thread's
  int64_t threadStride_ = 0;                      // from one thread's operands to the next's
  uint16_t *query_ = nullptr, *value_ = nullptr;  // bfloat16_kernels.h
};

}  // namespace margin_softmax::cpu
