// Steps behind a C interface, for executor.py: one step with its gradients, and training of weights that lie on the
// GPU.
#include <cstdio>

#include "../../native/core/executor.h"

using namespace margin_softmax;

// Mirrored by the class of that name in executor.py. Every member is eight bytes wide, so that no padding depends on
// a compiler.
struct Arguments {
  int64_t bytes;  // sizeof(Arguments) as the caller knows it
  int64_t rows, dim, classes, steps;
  int64_t reduction, precision, optimizer;  // as numbers of the enums
  int64_t parameterCount;
  const double* parameters;
  const char* margin;
  double labelSmoothing, learningRate, momentum, weightDecay, beta1, beta2, epsilon;
  const float* input;       // [steps][rows][dim]
  const int32_t* labels;    // [steps][rows]
  const float* gradOutput;  // [rows] or null
  float* weight;            // [classes][dim]; training changes it, the bias and the states in place
  float* bias;              // [classes] or null
  float* weightState[2];    // [classes][dim] or null
  float* biasState[2];      // [classes] or null
  float* losses;            // out, [steps][rows]
  float* gradInput;         // out, [rows][dim]: the last step's
  float* gradWeight;        // out, [classes][dim] or null
  float* gradBias;          // out, [classes] or null
  double loss;              // out: the last step's
  char message[400];        // out: why it failed
};

namespace {

Problem problemOf(const Arguments& given) {
  Problem problem;
  problem.rows = given.rows;
  problem.dim = given.dim;
  problem.classes = problem.totalClasses = given.classes;
  problem.input = given.input;
  problem.weight = given.weight;
  problem.bias = given.bias;
  problem.labels = given.labels;
  problem.gradOutput = given.gradOutput;
  problem.margin.kind = kindOf(given.margin);
  for (int64_t i = 0; i < given.parameterCount; i++) problem.margin.parameters[i] = given.parameters[i];
  problem.reduction = static_cast<Reduction>(given.reduction);
  problem.labelSmoothing = given.labelSmoothing;
  problem.losses = given.losses;
  problem.gradInput = given.gradInput;
  problem.execution.device = 0;
  problem.execution.precision = static_cast<Precision>(given.precision);
  return problem;
}

// An array of the caller's on the GPU. Null stays null.
class Resident {
 public:
  Resident(float* host, int64_t count) : host_(host), bytes_(count * 4) {
    if (!host) return;
    status_ = cudaExecutor.allocate(0, bytes_, memory_);
    if (status_) status_ = cudaExecutor.upload(0, memory_, host, bytes_);
  }
  ~Resident() {
    if (memory_) cudaExecutor.release(0, memory_, bytes_);
  }
  Resident(const Resident&) = delete;
  const Status& status() const { return status_; }
  float* device() const { return static_cast<float*>(memory_); }
  Status copyBack() const { return memory_ ? cudaExecutor.download(0, memory_, host_, bytes_) : Status{}; }

 private:
  float* host_;
  int64_t bytes_;
  void* memory_ = nullptr;
  Status status_;
};

Status train(Arguments& given) {
  const int64_t weights = given.classes * given.dim;
  const Resident weight(given.weight, weights), bias(given.bias, given.classes);
  const Resident weightState[] = {{given.weightState[0], weights}, {given.weightState[1], weights}};
  const Resident biasState[] = {{given.biasState[0], given.classes}, {given.biasState[1], given.classes}};
  const Resident* const all[] = {&weight, &bias, &weightState[0], &weightState[1], &biasState[0], &biasState[1]};
  for (const Resident* array : all)
    if (!array->status()) return array->status();

  Update update;
  update.optimizer.kind = static_cast<OptimizerKind>(given.optimizer);
  update.optimizer.learningRate = given.learningRate;
  update.optimizer.momentum = given.momentum;
  update.optimizer.weightDecay = given.weightDecay;
  update.optimizer.beta1 = given.beta1;
  update.optimizer.beta2 = given.beta2;
  update.optimizer.epsilon = given.epsilon;
  for (int i = 0; i < 2; i++) {
    update.weightState[i] = weightState[i].device();
    update.biasState[i] = biasState[i].device();
  }
  Problem problem = problemOf(given);
  problem.resident = true;
  problem.weight = weight.device();
  problem.bias = bias.device();
  problem.update = &update;
  for (int64_t i = 0; i < given.steps; i++) {
    update.step = i + 1;
    problem.input = given.input + i * given.rows * given.dim;
    problem.labels = given.labels + i * given.rows;
    problem.losses = given.losses + i * given.rows;
    if (Status status = cudaExecutor.loss(problem); !status) return status;
    given.loss = problem.loss;
  }
  for (const Resident* array : all)
    if (Status status = array->copyBack(); !status) return status;
  return {};
}

Status step(Arguments& given) {
  Problem problem = problemOf(given);
  problem.gradWeight = given.gradWeight;
  problem.gradBias = given.gradBias;
  const Status status = cudaExecutor.loss(problem);
  given.loss = problem.loss;
  return status;
}

int answer(Arguments& given, Status (*work)(Arguments&)) {
  const Status status = given.bytes == sizeof(Arguments)
                            ? work(given)
                            : Status{Failure::unavailable, "executor.py is of another version"};
  std::snprintf(given.message, sizeof given.message, "%s", status.message.c_str());
  return status ? 0 : 1;
}

}  // namespace

// Both return 0, or 1 with the reason in `message`.
extern "C" int margin_softmax_step(Arguments* arguments) { return answer(*arguments, step); }
extern "C" int margin_softmax_train(Arguments* arguments) { return answer(*arguments, train); }
