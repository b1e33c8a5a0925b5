#include "trial.h"

#include <cmath>
#include <map>
#include <mutex>

namespace margin_softmax {
namespace {

// Odd sizes, several tiles of classes, one ignored row.
constexpr int64_t rows = 37, dim = 70, classes = 300;

struct Outcome {
  std::vector<float> losses, gradInput, gradWeight;
};

Status compute(int device, Precision precision, Outcome& outcome) {
  std::vector<float> input(rows * dim), weight(classes * dim);
  std::vector<int32_t> labels(rows);
  for (size_t i = 0; i < input.size(); i++) input[i] = static_cast<float>(std::sin(0.7 * static_cast<double>(i) + 1));
  for (size_t i = 0; i < weight.size(); i++) weight[i] = static_cast<float>(std::cos(1.3 * static_cast<double>(i)));
  for (int64_t i = 0; i < rows; i++) labels[i] = i == 5 ? -1 : static_cast<int32_t>(i * 37 % classes);
  outcome.losses.resize(rows);
  outcome.gradInput.resize(input.size());
  outcome.gradWeight.resize(weight.size());
  Problem problem;
  problem.rows = rows;
  problem.dim = dim;
  problem.classes = classes;
  problem.input = input.data();
  problem.weight = weight.data();
  problem.labels = labels.data();
  problem.margin = {kindOf(ArcFace::name), {16, 0.5}};
  problem.losses = outcome.losses.data();
  problem.gradInput = outcome.gradInput.data();
  problem.gradWeight = outcome.gradWeight.data();
  problem.execution.device = device;
  problem.execution.precision = precision;
  return executorOf(device)->loss(problem);
}

// ‖a − b‖ / ‖b‖, not below what is not a number.
double difference(const std::vector<float>& a, const std::vector<float>& b) {
  double square = 0, norm = 0;
  for (size_t i = 0; i < a.size(); i++) {
    square += (static_cast<double>(a[i]) - b[i]) * (static_cast<double>(a[i]) - b[i]);
    norm += static_cast<double>(b[i]) * b[i];
  }
  return std::sqrt(square / norm);
}

std::string tried(const DeviceState& device) {
  Outcome expected;
  if (const Status status = compute(cpuDevice, Precision::float32, expected); !status) return status.message.c_str();
  for (const Precision precision : {Precision::float32, Precision::tf32, Precision::bfloat16}) {
    if (!device.has(precision)) continue;
    Outcome outcome;
    if (const Status status = compute(device.index, precision, outcome); !status)
      return std::string("it failed its trial: ") + status.message.c_str();
    const double allowed = precision == Precision::float32 ? 1e-4 : 2e-2;
    for (const double off :
         {difference(outcome.losses, expected.losses), difference(outcome.gradInput, expected.gradInput),
          difference(outcome.gradWeight, expected.gradWeight)})
      if (!(off <= allowed)) return "it failed its trial: a result was off by " + std::to_string(off);
  }
  return "";
}

}  // namespace

std::string trialOf(const DeviceState& device) {
  static std::mutex* const mutex = new std::mutex;
  static auto* const reasons = new std::map<int, std::string>;
  const std::lock_guard<std::mutex> lock(*mutex);
  const auto known = reasons->find(device.index);
  if (known != reasons->end()) return known->second;
  return (*reasons)[device.index] = tried(device);
}

}  // namespace margin_softmax
