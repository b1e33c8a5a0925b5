// The work of one call, as the binding hands it to an executor. Sizes are checked; arrays have the lengths stated here.
#pragma once
#include <atomic>
#include <cstdint>

#include "../formulas/row.h"
#include "optimizer.h"
#include "status.h"

namespace margin_softmax {

enum class Reduction { mean, sum, none };

struct Statistics {
  double accuracy = 0;               // share of the rows whose target scores above every other class, without margin
  double targetCosine = 0;           // mean over rows
  double largestNegativeCosine = 0;  // mean over rows of the largest cosine to another class
  double gradientSquares = 0;        // ‖gradWeight‖² (+ ‖gradBias‖²)
  double inputGradientSquares = 0;   // ‖gradInput‖²
};

// What the backward pass left out because it cannot matter (cpu/step/negligible.h).
struct Omitted {
  double share = 0;                      // of the parts of the products
  double gradInput = 0, gradWeight = 0;  // bounds of the norm of what is missing, as multiples of the gradient's norm
};

// Of the matrix products; everything else is float32 or better. The CPU has no tf32.
enum class Precision { float32, tf32, bfloat16 };
// Below this dimension the rounding errors of a cosine's terms do not average out: a rounded operand takes along, as a
// second one, what its rounding left.
constexpr int64_t correctionsBelow = 128;
// Below this dimension float32 does not do for logits and gradInput (cpu/step/step.h).
constexpr int64_t narrowBelow = 16;

constexpr int cpuDevice = -1;

// How to run, for any work.
struct Execution {
  int device = cpuDevice;  // or the index of a GPU
  Precision precision = Precision::float32;
  int threads = 1;
  int64_t workspaceBytes = 0;                    // for tiles kept between the passes; the rest is computed again
  int64_t chunkClasses = 0;                      // of a GPU's chunk at most, for tests; 0: as its plan says
  const char* instructionSet = nullptr;          // null: the best one here
  const std::atomic<bool>* cancelled = nullptr;  // set from another thread to abandon the work

  bool isCancelled() const { return cancelled && *cancelled; }
};

// How processes that hold different classes of one problem (sharding) add up its rows.
struct TotalsExchange {
  virtual ~TotalsExchange() = default;
  // rows[count], in place: this process's on the way in, those of all processes together on the way out. In the
  // device's memory where the problem is rowsResident.
  virtual Status reduceTotals(RowTotals* rows, int64_t count) = 0;
};

struct Problem {
  int64_t rows = 0, dim = 0, classes = 0;  // B, D, C
  bool resident = false;                   // weight, bias and the update's state lie in the device's own memory
  bool rowsResident = false;               // so do input and gradInput, and what `exchange` is given
  const float* input = nullptr;            // [B,D]
  float* weight = nullptr;                 // [C,D]; written only by an update
  uint16_t* bfloat16Weight = nullptr;      // [C,D] in the place of weight: resident ones on the CPU may be stored so
  float* bias = nullptr;                   // [C] or null; softmax only
  const int32_t* labels = nullptr;         // [B], or ignoredLabel, labelElsewhere
  const float* gradOutput = nullptr;       // [B] or null (all 1); read for Reduction::none
  // What rows and classes count in the loss, on the host; null: all 1. See weighBatch.
  const float* sampleWeights = nullptr;  // [B]
  const float* targetWeights = nullptr;  // [B] the class weight of each row's label, wherever its class lies
  const float* classWeights = nullptr;   // [C] as `weight`; read with label smoothing only
  double classWeightSum = 0;             // of all classes that take part, of all processes
  // The classes that take part (sampling.h), ascending, or null: all of them. Where given, `classes` counts them,
  // labels are places in it, and what belongs to class j lies in row sample[j] of the resident arrays.
  const int32_t* sample = nullptr;     // [classes]
  int64_t firstClass = 0;              // of this process's among those of all, for messages
  TotalsExchange* exchange = nullptr;  // where the classes are one process's share
  int64_t totalClasses = 0;            // of all processes; those that take part, with a sample. Always set
  double negativeWeight = 1;           // how many other classes each that takes part stands for in a row's sum
  double interclassFilter = 1;         // a row leaves out other classes whose cosine to it exceeds this; 1: none
  double negligible = 0;               // what of a gradient's norm may be left out; the CPU alone does so
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
  Update* update =
      nullptr;  // takes the place of gradWeight and gradBias; not finite losses then fail before any change
  bool measuresGradient = false;  // the norm of the weights' gradient is wanted, in `statistics`, without either
  bool updateBegun = false;       // out, on failure: parameters may hold part of the update
  Execution execution;

  int64_t rowOf(int64_t j) const { return sample ? sample[j] : j; }
  bool wantsWeightGradient() const { return gradWeight || gradBias || update || measuresGradient; }
  // A loss that is not finite fails, before any change.
  bool trains() const { return update || measuresGradient; }
  bool filters() const { return interclassFilter < 1; }
  bool isNarrow() const {
    return isNormalized(margin) && dim < narrowBelow && execution.precision == Precision::float32;
  }
};

// The k best classes of each row: by cosine, or by raw score for a margin that does not normalise.
struct TopKProblem {
  int64_t rows = 0, dim = 0, classes = 0, k = 0;
  bool resident = false;                     // weight and bias lie in the device's own memory
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
