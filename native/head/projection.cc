#include "projection.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../core/random.h"

namespace margin_softmax {
namespace {

// The projection's execution is the CPU's, whatever the head's device and its precisions.
Execution here(Execution execution) {
  execution.device = cpuDevice;
  if (execution.precision == Precision::tf32) execution.precision = Precision::float32;
  return execution;
}

}  // namespace

int64_t Projection::trainedBytes() const {
  Layout layout(nullptr);
  layOutProjection<float>(shape_, layout, false);
  return layout.bytes();
}

ProjectionArrays<float> Projection::arraysIn(const Memory& memory) const {
  Layout layout(memory.as<char>());
  return layOutProjection<float>(shape_, layout, &memory == &numbers_);
}

Status Projection::allocate(const Optimizer& optimizer) {
  Layout layout(nullptr);
  layOutProjection<float>(shape_, layout, true);
  Status status = numbers_.take(cpuDevice, layout.bytes());
  if (status) status = gradients_.take(cpuDevice, trainedBytes());
  if (status) status = takeState(optimizer, [](int) { return false; }, state_);
  if (!status) return status;
  const ProjectionArrays<float> arrays = arraysIn(numbers_);
  const int64_t norm = shape_.batchNorm ? shape_.width() : 0;
  std::fill_n(arrays.scale, norm, 1.0f);
  std::fill_n(arrays.runningVariance, norm, 1.0f);
  return {};
}

void Projection::initialize(uint64_t seed) {
  const ProjectionArrays<float> arrays = arraysIn(numbers_);
  uint64_t drawn = 0;
  const auto draw = [&](float* values, int64_t count, int64_t inputs) {
    const double bound = 1 / std::sqrt(static_cast<double>(inputs));
    // Drawn from another stream than the class weights.
    for (int64_t i = 0; values && i < count; i++)
      values[i] = static_cast<float>((2 * uniform(randomBits(seed ^ 0x70726f6a65637400ull, drawn++)) - 1) * bound);
  };
  const int64_t width = shape_.width();
  draw(arrays.weight0, width * shape_.from, shape_.from);
  draw(arrays.bias0, width, shape_.from);
  draw(arrays.weight1, shape_.to * shape_.hidden, shape_.hidden);
  draw(arrays.bias1, shape_.to, shape_.hidden);
}

Status Projection::adopt(const Projection& from) {
  for (int i = 0; i < 2; i++)
    if (state_[i].bytes())
      if (Status status = state_[i].write(0, from.state_[i].as<char>(), state_[i].bytes()); !status) return status;
  return numbers_.write(0, from.numbers_.as<char>(), numbers_.bytes());
}

void Projection::release() {
  for (Memory* memory : {&numbers_, &gradients_, &state_[0], &state_[1]}) memory->release();
  scratch_ = Block();
  tape_.reset();
}

int64_t Projection::bytes() const {
  return numbers_.bytes() + gradients_.bytes() + state_[0].bytes() + state_[1].bytes();
}

Projection::Slice Projection::find(const char* name) const {
  const char* const mark = std::strstr(name, "State");
  const size_t stem = mark ? static_cast<size_t>(mark - name) : std::strlen(name);
  const Memory& memory = mark ? state_[mark[5] == '1'] : numbers_;
  if (!memory.bytes()) return {};
  const ProjectionArrays<float> arrays = arraysIn(memory);
  const int64_t width = shape_.width();
  struct Named {
    const char* name;
    float* values;
    int64_t length;
  };
  const Named all[] = {{"projectionWeight0", arrays.weight0, width * shape_.from},
                       {"projectionBias0", arrays.bias0, width},
                       {"projectionScale", arrays.scale, width},
                       {"projectionShift", arrays.shift, width},
                       {"projectionWeight1", arrays.weight1, shape_.to * shape_.hidden},
                       {"projectionBias1", arrays.bias1, shape_.to},
                       {"projectionMean", arrays.runningMean, width},
                       {"projectionVariance", arrays.runningVariance, width}};
  for (const Named& array : all)
    if (array.values && std::strlen(array.name) == stem && std::strncmp(name, array.name, stem) == 0)
      return {array.values, array.length};
  return {};
}

Status Projection::forward(const float* features, int64_t rows, bool training, uint64_t key,
                           const Execution& execution) {
  const int64_t activations = cpuProjection.activationBytes(shape_, rows, training);
  void* activationsAt = nullptr;
  const auto layOut = [&](Layout& layout) {
    embeddings_ = layout.take<float>(rows * shape_.to);
    gradEmbeddings_ = layout.take<float>(training ? rows * shape_.to : 0);
    activationsAt = layout.take<char>(activations);
  };
  Layout measure(nullptr);
  layOut(measure);
  if (scratch_.bytes() < measure.bytes()) {
    scratch_ = Block();
    scratch_ = Block::uninitialized(measure.bytes());
    if (!scratch_.as<void>()) return Status::outOfMemory("the projection", measure.bytes());
  }
  Layout place(scratch_.as<void>());
  layOut(place);
  ProjectionPass pass = passOf(features, rows, execution);
  pass.activations = activationsAt;
  pass.embeddings = embeddings_;
  tape_.reset();
  if (!training) return cpuProjection.forward(pass);
  pass.gradients = arraysIn(gradients_);
  pass.training = true;
  pass.dropoutKey = key;
  return cpuProjection.train(pass, tape_);
}

ProjectionPass Projection::passOf(const float* features, int64_t rows, const Execution& execution) const {
  ProjectionPass pass;
  pass.shape = shape_;
  pass.parameters = arraysIn(numbers_);
  pass.rows = rows;
  pass.features = features;
  pass.execution = here(execution);
  return pass;
}

Status Projection::embed(const float* features, int64_t rows, float* embeddings, const Execution& execution) const {
  const int64_t bytes = cpuProjection.activationBytes(shape_, rows, false);
  const Block activations = Block::uninitialized(bytes);
  if (bytes && !activations.as<void>()) return Status::outOfMemory("the projection", bytes);
  ProjectionPass pass = passOf(features, rows, execution);
  pass.activations = activations.as<void>();
  pass.embeddings = embeddings;
  return cpuProjection.forward(pass);
}

Status Projection::backward(float* gradInput, int64_t rows, const Execution& execution) {
  if (Status status = tape_->backward(gradEmbeddings_, gradInput); !status) return status;
  inputSquares_ = gradInput ? cpuProjection.squares(gradInput, rows * shape_.from, here(execution)) : 0;
  return {};
}

Status Projection::measure(const Execution& execution, double& squares) const {
  squares = cpuProjection.squares(gradients(), trainedCount(), here(execution));
  if (std::isfinite(squares)) return {};
  return {Failure::notFinite, "the gradient of the projection is not finite"};
}

Status Projection::update(const Optimizer& optimizer, int64_t step, double factor) {
  ProjectionUpdate update;
  update.optimizer = optimizer;
  update.step = step;
  update.values = numbers_.as<float>();
  update.gradients = gradients();
  for (int i = 0; i < optimizer.states(); i++) update.state[i] = state_[i].as<float>();
  update.count = trainedCount();
  update.factor = factor;
  return tape_->update(update);
}

}  // namespace margin_softmax
