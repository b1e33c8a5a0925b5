// A small network below a head, trained with it: features [B,from] → embeddings [B,to].
//
//   1 layer    (dropout →) linear → (batch norm)
//   2 layers   linear → (batch norm) → GELU → (dropout) → linear
//
// Dropout stands before the last linear layer; the first one has no bias where batch norm follows.
// The arithmetic is that of PyTorch's modules of these names, with their constants.
#pragma once
#include <cstdint>
#include <memory>

#include "layout.h"
#include "optimizer.h"
#include "problem.h"
#include "status.h"

namespace margin_softmax {

struct ProjectionShape {
  int64_t from = 0, hidden = 0, to = 0;
  int layers = 1;
  bool batchNorm = false;
  double dropout = 0;  // share of the elements that a training step sets to 0

  // The length of the first linear layer's output.
  int64_t width() const { return layers == 2 ? hidden : to; }
  bool operator==(const ProjectionShape& other) const {
    return from == other.from && hidden == other.hidden && to == other.to && layers == other.layers &&
           batchNorm == other.batchNorm && dropout == other.dropout;
  }
};

// All numbers of a projection. Those that are trained come first.
template <class T>
struct ProjectionArrays {
  T* weight0;          // [width, from]
  T* bias0;            // [width]; null with batch norm
  T* scale;            // [width] γ of batch norm
  T* shift;            // [width] β
  T* weight1;          // [to, hidden]; null with one layer, as is bias1
  T* bias1;            // [to]
  T* runningMean;      // [width] of batch norm
  T* runningVariance;  // [width]
};

// Lays the trained arrays out in `layout`, and the running ones where they are wanted too.
template <class T>
ProjectionArrays<T> layOutProjection(const ProjectionShape& shape, Layout& layout, bool running) {
  const int64_t width = shape.width(), norm = shape.batchNorm ? width : 0, last = shape.layers == 2 ? shape.to : 0;
  ProjectionArrays<T> arrays;
  arrays.weight0 = layout.take<T>(width * shape.from);
  arrays.bias0 = layout.take<T>(shape.batchNorm ? 0 : width);
  arrays.scale = layout.take<T>(norm);
  arrays.shift = layout.take<T>(norm);
  arrays.weight1 = layout.take<T>(last * shape.hidden);
  arrays.bias1 = layout.take<T>(last);
  arrays.runningMean = layout.take<T>(running ? norm : 0);
  arrays.runningVariance = layout.take<T>(running ? norm : 0);
  return arrays;
}

// One pass over a batch. The caller has checked sizes and gives all memory but the workspace's.
struct ProjectionPass {
  ProjectionShape shape;
  ProjectionArrays<float> parameters{};
  int64_t rows = 0;
  const float* features = nullptr;  // [B,from]
  float* embeddings = nullptr;      // [B,to] out
  void* activations = nullptr;      // what lies between, `activationBytes` of it
  Execution execution;              // of the CPU

  // In training batch norm takes the batch's moments, and dropout is drawn from `dropoutKey`. In
  // evaluation there are the running moments, and no dropout.
  bool training = false;
  uint64_t dropoutKey = 0;
  ProjectionArrays<float> gradients{};  // of the parameters, for backward; without running ones
};

// The update of all trained numbers, and of the running moments by those of the batch.
struct ProjectionUpdate {
  Optimizer optimizer;
  int64_t step = 1;
  float* values = nullptr;               // [count] the trained numbers
  const float* gradients = nullptr;      // [count]
  float* state[2] = {nullptr, nullptr};  // [count] each
  int64_t count = 0;
  double factor = 1;  // of the gradients
};

// A training pass leaves this behind: its way back. It has taken all memory that this needs, so that
// nothing fails once the class weights are updated.
class ProjectionTape {
 public:
  virtual ~ProjectionTape() = default;
  // gradEmbeddings [B,to] is overwritten; gradInput [B,from], or null: not wanted.
  virtual Status backward(float* gradEmbeddings, float* gradInput) = 0;
  // [count] what `update` moves the running moments towards; none without batch norm.
  struct Moments {
    double* values = nullptr;
    int64_t count = 0;
  };
  virtual Moments moments() = 0;
  virtual Status update(const ProjectionUpdate& update) = 0;
};

// The table through which a head reaches its projection, as executor.h's for all else. So far the CPU
// alone computes one, for heads of every device.
struct ProjectionExecutor {
  // Rows of this many dimensions that a training step of a head on the CPU takes.
  int64_t (*rowsOfStep)(int64_t dim);
  int64_t (*activationBytes)(const ProjectionShape& shape, int64_t rows, bool training);
  // In evaluation.
  Status (*forward)(const ProjectionPass& pass);
  // In training. It fails where a row of features is not finite, or too large for single precision.
  Status (*train)(const ProjectionPass& pass, std::unique_ptr<ProjectionTape>& tape);
  // ‖values‖², with the same bits for any number of threads.
  double (*squares)(const float* values, int64_t count, const Execution& execution);
};
extern const ProjectionExecutor cpuProjection;

}  // namespace margin_softmax
