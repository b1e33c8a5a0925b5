#include "trial.h"

#include <cmath>
#include <map>
#include <mutex>

#include "memory.h"

namespace margin_softmax {
namespace {

// Odd sizes and one ignored row.
struct Trial {
  int64_t rows, dim, classes;
  int64_t chunkClasses;
  bool updates;  // resident weights, in place of their gradient
};
constexpr Trial trials[] = {
    {37, 70, 300, 0, false},     // products of pairs of operands (correctionsBelow)
    {130, 136, 300, 128, true},  // what training does: several tiles each way, and several chunks
};

// weight: the gradient, or the change that an update made; momentum: after the update.
struct Outcome {
  std::vector<float> losses, gradInput, weight, momentum;
};

Status computeUpdated(Problem& problem, const std::vector<float>& before, Outcome& outcome) {
  const int device = problem.execution.device;
  const int64_t bytes = static_cast<int64_t>(before.size() * sizeof(float));
  Memory weight, momentum;
  Status status = weight.take(device, bytes);
  if (status) status = momentum.take(device, bytes);
  if (status) status = weight.write(0, before.data(), bytes);
  if (!status) return status;
  Update update;
  update.optimizer.learningRate = 10;  // large, so that the weights' change exceeds their rounding
  update.optimizer.momentum = 0.9;
  update.weightState[0] = momentum.as<float>();
  problem.weight = weight.as<float>();
  problem.resident = true;
  problem.update = &update;
  status = executorOf(device)->loss(problem);
  outcome.momentum.resize(before.size());
  if (status) status = weight.read(0, outcome.weight.data(), bytes);
  if (status) status = momentum.read(0, outcome.momentum.data(), bytes);
  // Compare the change. It is small relative to the weights, which would hide a wrong one.
  for (size_t i = 0; i < before.size(); i++) outcome.weight[i] -= before[i];
  return status;
}

Status compute(const Trial& trial, int device, Precision precision, Outcome& outcome) {
  std::vector<float> input(trial.rows * trial.dim), weight(trial.classes * trial.dim);
  std::vector<int32_t> labels(trial.rows);
  for (size_t i = 0; i < input.size(); i++) input[i] = static_cast<float>(std::sin(0.7 * static_cast<double>(i) + 1));
  for (size_t i = 0; i < weight.size(); i++) weight[i] = static_cast<float>(std::cos(1.3 * static_cast<double>(i)));
  for (int64_t i = 0; i < trial.rows; i++) labels[i] = i == 5 ? -1 : static_cast<int32_t>(i * 37 % trial.classes);
  outcome.losses.resize(trial.rows);
  outcome.gradInput.resize(input.size());
  outcome.weight.resize(weight.size());
  Problem problem;
  problem.rows = trial.rows;
  problem.dim = trial.dim;
  problem.classes = problem.totalClasses = trial.classes;
  problem.input = input.data();
  problem.weight = weight.data();
  problem.labels = labels.data();
  problem.margin = {kindOf(ArcFace::name), {16, 0.5}};
  problem.losses = outcome.losses.data();
  problem.gradInput = outcome.gradInput.data();
  problem.execution.device = device;
  problem.execution.precision = precision;
  problem.execution.chunkClasses = trial.chunkClasses;
  if (trial.updates) return computeUpdated(problem, weight, outcome);
  problem.gradWeight = outcome.weight.data();
  return executorOf(device)->loss(problem);
}

// ‖a − b‖ / ‖b‖; NaN if either holds one; 0 if both are empty.
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double square = 0, norm = 0;
  for (size_t i = 0; i < a.size(); i++) {
    square += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return a.empty() ? 0 : std::sqrt(square / norm);
}

std::string runTrial(const Trial& trial, const DeviceState& device) {
  Outcome expected;
  if (const Status status = compute(trial, cpuDevice, Precision::float32, expected); !status)
    return status.message.c_str();
  for (const Precision precision : {Precision::float32, Precision::tf32, Precision::bfloat16}) {
    if (!device.has(precision)) continue;
    Outcome outcome;
    if (const Status status = compute(trial, device.index, precision, outcome); !status)
      return std::string("it failed its trial: ") + status.message.c_str();
    const double allowed = precision == Precision::float32 ? 1e-4 : 2e-2;
    for (const auto array : {&Outcome::losses, &Outcome::gradInput, &Outcome::weight, &Outcome::momentum}) {
      const double off = difference(outcome.*array, expected.*array);
      if (!(off <= allowed)) return "it failed its trial: a result was off by " + std::to_string(off);
    }
  }
  return "";
}

std::string runTrial(const DeviceState& device) {
  for (const Trial& trial : trials)
    if (std::string reason = runTrial(trial, device); !reason.empty()) return reason;
  return "";
}

}  // namespace

std::string trialOf(const DeviceState& device) {
  static std::mutex* const mutex = new std::mutex;
  static auto* const reasons = new std::map<int, std::string>;
  const std::lock_guard<std::mutex> lock(*mutex);
  const auto earlier = reasons->find(device.index);
  if (earlier != reasons->end()) return earlier->second;
  return (*reasons)[device.index] = runTrial(device);
}

}  // namespace margin_softmax
