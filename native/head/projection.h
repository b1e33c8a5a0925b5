// A head's projection: its numbers with their optimizer state, in this process's memory whatever the
// head's device, and what a step keeps between its passes. The caller holds the head's Use.
#pragma once
#include "../core/block.h"
#include "../core/memory.h"
#include "../core/projection.h"

namespace margin_softmax {

class Projection {
 public:
  explicit Projection(const ProjectionShape& shape) : shape_(shape) {}
  const ProjectionShape& shape() const { return shape_; }

  // Takes the memory: batch norm's scales and variances are 1, all else is 0.
  Status allocate(const Optimizer& optimizer);
  // Draws weights and biases of each linear layer evenly from ±1/√(its inputs), as torch.nn.Linear
  // does: the same for a seed.
  void initialize(uint64_t seed);
  // Takes zeroed state for another optimizer in `state`, or nothing where `keeps(i)`.
  template <class Keeps>
  Status takeState(const Optimizer& next, const Keeps& keeps, Memory* state) const {
    for (int i = 0; i < next.states(); i++)
      if (!keeps(i))
        if (Status status = state[i].take(cpuDevice, trainedBytes()); !status) return status;
    return {};
  }
  Memory& state(int i) { return state_[i]; }
  // Copies another one's numbers and state, which have the same shapes.
  Status adopt(const Projection& from);
  void release();
  int64_t bytes() const;

  // An array by the name that lib/ gives it: weight0, …, or weight0State1; null if there is none.
  struct Slice {
    float* values = nullptr;
    int64_t length = 0;
  };
  Slice find(const char* name) const;

  // Features of the problem's rows → embeddings, which stay until the next pass.
  Status forward(const float* features, int64_t rows, bool training, uint64_t key, const Execution& execution);
  float* embeddings() const { return embeddings_; }
  float* gradEmbeddings() const { return gradEmbeddings_; }
  // As forward, to the caller's memory, without training.
  Status embed(const float* features, int64_t rows, float* embeddings, const Execution& execution) const;
  // The gradients of the numbers and, unless gradInput is null, of the features.
  Status backward(float* gradInput, int64_t rows, const Execution& execution);
  // The numbers that ranks add up before the update: [count] gradients, and the batch's moments.
  float* gradients() const { return gradients_.as<float>(); }
  int64_t trainedCount() const { return gradients_.bytes() / 4; }
  ProjectionTape::Moments moments() const { return tape_->moments(); }
  // ‖gradients‖². Not finite ones fail.
  Status measure(const Execution& execution, double& squares) const;
  double inputSquares() const { return inputSquares_; }
  // Spends the gradients times `factor`.
  Status update(const Optimizer& optimizer, int64_t step, double factor);

 private:
  int64_t trainedBytes() const;
  ProjectionArrays<float> arraysIn(const Memory& memory) const;
  ProjectionPass passOf(const float* features, int64_t rows, const Execution& execution) const;

  const ProjectionShape shape_;
  Memory numbers_, gradients_, state_[2];
  Block scratch_;
  std::unique_ptr<ProjectionTape> tape_;  // of the step that runs
  float *embeddings_ = nullptr, *gradEmbeddings_ = nullptr;
  double inputSquares_ = 0;
};

}  // namespace margin_softmax
