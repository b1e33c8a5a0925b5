#include "probability.cuh"

#include <new>
#include <vector>

#include "cross_entropy.cuh"
#include "row_launch.h"

namespace margin_softmax::cuda {
namespace {

constexpr const char* doing = "compute the probabilities";

Status measureIn(Device& device, const MeasureProblem& problem) {
  const int64_t classes = problem.classes, piece = rowsOfPiece(problem.rows, classes);
  const bool perRow = problem.measure == Measure::entropy || problem.measure == Measure::klDivergence ||
                      problem.measure == Measure::crossEntropy;
  const bool keeps = problem.measure == Measure::softmax || problem.measure == Measure::logSoftmax;
  float *p = nullptr, *q = nullptr, *out = nullptr;
  const auto layOut = [&](Layout& layout) {
    p = layout.take<float>(piece * classes);
    q = problem.q ? layout.take<float>(piece * classes) : p;
    out = layout.take<float>(piece * (perRow ? 1 : classes));
  };
  if (Status status = device.placeInWorkspace(layOut); !status) return status;
  const RowLaunch how(device, classes, keeps);
  for (int64_t first = 0; first < problem.rows; first += piece) {
    if (problem.execution.isCancelled()) return Status::abandoned();
    const int64_t rows = std::min(piece, problem.rows - first), width = perRow ? 1 : classes;
    device.upload(p, problem.p + first * classes, rows * classes * 4);
    if (problem.q) device.upload(q, problem.q + first * classes, rows * classes * 4);
    const MeasureData data{problem.measure, classes, how.keptCount, p, q, out};
    device.launch(doing, measureRows, dim3(static_cast<unsigned>(rows)), how.threads, how.sharedBytes(), data);
    device.download(problem.out + first * width, out, rows * width * 4);
    if (Status status = device.finish(doing); !status) return status;
  }
  return {};
}

Status crossEntropyIn(Device& device, CrossEntropyProblem& problem) {
  const int64_t classes = problem.classes, piece = rowsOfPiece(problem.rows, classes);
  const double divisor = divisorOf(problem);
  float *logits = nullptr, *targets = nullptr, *classWeights = nullptr, *gradLogits = nullptr;
  int32_t* labels = nullptr;
  double *upstream = nullptr, *losses = nullptr;
  const auto layOut = [&](Layout& layout) {
    logits = layout.take<float>(piece * classes);
    targets = problem.labels ? nullptr : layout.take<float>(piece * classes);
    labels = problem.labels ? layout.take<int32_t>(piece) : nullptr;
    classWeights = problem.classWeights ? layout.take<float>(classes) : nullptr;
    gradLogits = problem.gradLogits ? layout.take<float>(piece * classes) : nullptr;
    upstream = layout.take<double>(piece);
    losses = layout.take<double>(piece);
  };
  if (Status status = device.placeInWorkspace(layOut); !status) return status;
  if (classWeights) device.upload(classWeights, problem.classWeights, classes * 4);
  const RowLaunch how(device, classes, true);
  std::vector<double> given(piece), received(piece);
  double sum = 0;
  for (int64_t first = 0; first < problem.rows; first += piece) {
    if (problem.execution.isCancelled()) return Status::abandoned();
    const int64_t rows = std::min(piece, problem.rows - first), at = first * classes;
    for (int64_t i = 0; i < rows; i++) given[i] = upstreamOf(problem, divisor, first + i);
    device.upload(logits, problem.logits + at, rows * classes * 4);
    if (targets) device.upload(targets, problem.targets + at, rows * classes * 4);
    if (labels) device.upload(labels, problem.labels + first, rows * 4);
    device.upload(upstream, given.data(), rows * 8);
    const double smoothing = problem.labelSmoothing;
    const CrossEntropyData data{classes,  how.keptCount, logits,
                                labels,   targets,       classWeights,
                                upstream, 1 - smoothing, smoothing / static_cast<double>(classes),
                                losses,   gradLogits};
    device.launch("compute the cross-entropy", crossEntropyRows, dim3(static_cast<unsigned>(rows)), how.threads,
                  how.sharedBytes(), data);
    device.download(received.data(), losses, rows * 8);
    if (gradLogits) device.download(problem.gradLogits + at, gradLogits, rows * classes * 4);
    if (Status status = device.finish("compute the cross-entropy"); !status) return status;
    for (int64_t i = 0; i < rows; i++) {
      problem.losses[first + i] = static_cast<float>(received[i]);
      if (problem.labels && problem.labels[first + i] < 0) continue;
      sum += problem.reduction == Reduction::none ? given[i] * received[i] : received[i];
    }
  }
  problem.loss = divisor == 0 ? 0 : sum / divisor;
  return {};
}

}  // namespace

Status measure(const MeasureProblem& problem) {
  const DeviceLock lock(problem.execution.device);
  return lock.status() ? measureIn(lock.device(), problem) : lock.status();
}

Status crossEntropyLoss(CrossEntropyProblem& problem) {
  const DeviceLock lock(problem.execution.device);
  if (!lock.status()) return lock.status();
  try {
    return crossEntropyIn(lock.device(), problem);
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the sums of rows", 0);
  }
}

}  // namespace margin_softmax::cuda
