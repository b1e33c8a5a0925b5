// The work of one call, as the binding hands it to an executor. The binding has checked sizes and
// lengths.
#pragma once
#include <atomic>
#include <cstdint>

#include "../formulas/row.h"
#include "optimizer.h"
#include "status.h"

namespace margin_softmax {

enum class Reduction { mean, sum, none };

struct Statistics {
  double accuracy = 0;               // share of rows whose target scores above all negatives, without margin
  double targetCosine = 0;           // mean over rows
  double largestNegativeCosine = 0;  // mean over rows of the largest cosine of a negative
  double gradientSquares = 0;        // ‖gradWeight‖² (+ ‖gradBias‖²)
  double inputGradientSquares = 0;   // ‖gradInput‖²
};

// The terms of the backward pass that were skipped as negligible (cpu/step/negligible.h).
struct Omitted {
  double share = 0;                      // of the terms of both products
  double gradInput = 0, gradWeight = 0;  // bounds of the errors, as multiples of the gradients' norms
};

// Precision of the matrix products; everything else is float32 or better. The CPU has no tf32.
enum class Precision { float32, tf32, bfloat16 };
// Below this dimension the rounding errors of a cosine's terms do not average out. A rounded
// operand is then accompanied by a second one, which holds its rounding errors.
constexpr int64_t correctionsBelow = 128;
// Below this dimension logits and gradInput need double precision (cpu/step/step.h).
constexpr int64_t narrowBelow = 16;

constexpr int cpuDevice = -1;

// Device, threads and memory of any work.
struct Execution {
  int device = cpuDevice;  // or the index of a GPU
  Precision precision = Precision::float32;
  int threads = 1;
  int64_t workspaceBytes = 0;                    // for tiles kept between the passes; other tiles are recomputed
  int64_t chunkClasses = 0;                      // limit of a GPU's chunk, for tests; 0: as its plan says
  const char* instructionSet = nullptr;          // null: the best available
  const std::atomic<bool>* cancelled = nullptr;  // set from another thread to abandon the work

  bool isCancelled() const { return cancelled && *cancelled; }
};

// Adds up the rows' totals of processes that hold different classes of one problem (sharding).
struct TotalsExchange {
  virtual ~TotalsExchange() = default;
  // rows[count], in place: from this process's totals to those of all processes. In device memory
  // if the problem is rowsResident.
  virtual Status reduceTotals(RowTotals* rows, int64_t count) = 0;
};

struct Problem {
  int64_t rows = 0, dim = 0, classes = 0;  // B, D, C
  bool resident = false;                   // weight, bias and the update's state are in device memory
  bool rowsResident = false;               // so are input and gradInput, and the totals of `exchange`
  const float* input = nullptr;            // [B,D]
  float* weight = nullptr;                 // [C,D]; written only by an update
  uint16_t* bfloat16Weight = nullptr;      // [C,D] instead of weight; only resident, only on the CPU
  float* bias = nullptr;                   // [C] or null; softmax only
  const int32_t* labels = nullptr;         // [B], or ignoredLabel, labelElsewhere
  const float* gradOutput = nullptr;       // [B] or null (all 1); read for Reduction::none
  // Weights of rows and classes in the loss, on the host; null: all 1. See weighBatch.
  const float* sampleWeights = nullptr;  // [B]
  const float* targetWeights = nullptr;  // [B] the class weight of each row's label, whichever process holds it
  const float* classWeights = nullptr;   // [C] as `weight`; read only with label smoothing
  double classWeightSum = 0;             // over the classes that take part, of all processes
  // The classes that take part (sampling.h), ascending; null: all. With a sample, `classes` is its
  // size, labels are places in it, and class j has row sample[j] of the resident arrays.
  const int32_t* sample = nullptr;     // [classes]
  int64_t firstClass = 0;              // number of this process's first class
  TotalsExchange* exchange = nullptr;  // null unless other processes hold more classes
  int64_t totalClasses = 0;            // of all processes; those that take part, with a sample. Always set
  double negativeWeight = 1;           // how many negatives each one that takes part stands for
  double interclassFilter = 1;         // masks negatives whose cosine exceeds it; 1: none
  double negligible = 0;               // allowed error, as a fraction of a gradient's norm; CPU only
  double gradScale = 1;                // upstream gradient of a mean or a sum
  Margin margin;
  Reduction reduction = Reduction::mean;
  double labelSmoothing = 0;

  double loss = 0;              // out
  float* losses = nullptr;      // [B]
  float* gradInput = nullptr;   // [B,D] or null: not wanted
  float* gradWeight = nullptr;  // [C,D] or null
  float* gradBias = nullptr;    // [C] or null
  Omitted omitted;              // out
  Statistics* statistics = nullptr;
  // Apply the gradients instead of writing them. A loss that is not finite fails first and changes
  // nothing.
  Update* update = nullptr;
  bool measuresGradient = false;  // computes the weights' gradient only for its norm, in `statistics`
  bool updateBegun = false;       // out, on failure: parameters may hold part of the update
  Execution execution;

  int64_t rowOf(int64_t j) const { return sample ? sample[j] : j; }
  bool wantsWeightGradient() const { return gradWeight || gradBias || update || measuresGradient; }
  // True if a loss that is not finite has to fail before anything changes.
  bool trains() const { return update || measuresGradient; }
  bool filters() const { return interclassFilter < 1; }
  bool isNarrow() const {
    return isNormalized(margin) && dim < narrowBelow && execution.precision == Precision::float32;
  }
};

// The k best classes of each row: by cosine, or by raw score for a margin that does not normalize.
struct TopKProblem {
  int64_t rows = 0, dim = 0, classes = 0, k = 0;
  bool resident = false;                     // weight and bias are in device memory
  const float* input = nullptr;              // [B,D]
  const float* weight = nullptr;             // [C,D]
  const uint16_t* bfloat16Weight = nullptr;  // [C,D] in its place, as in Problem
  const float* bias = nullptr;               // [C] or null
  int64_t firstClass = 0;                    // as in Problem
  bool normalized = true;
  int32_t* indices = nullptr;  // [B,k], best first; equal scores in class order
  float* scores = nullptr;     // [B,k]
  Execution execution;
};

}  // namespace margin_softmax
