#include "executor.h"

#include <new>

#include "step.h"

namespace margin_softmax {
namespace cpu {

// A batch in one pass; a very long one in several, whose gradients of the weights add up.
static Status inPasses(Problem& problem) {
  const Kernels* kernels = findKernels(problem.execution.instructionSet);
  if (!kernels) return {Failure::unavailable, "this machine does not have that instruction set"};
  int64_t valid = 0;
  for (int64_t i = 0; i < problem.rows; i++) valid += problem.labels[i] >= 0;
  const bool mean = problem.reduction == Reduction::mean;
  const double divisor = mean ? static_cast<double>(valid) : 1;
  const double rowGradient = divisor == 0 ? 0 : problem.gradScale / divisor;
  const int64_t most = Plan::rowsAtOnce(problem.dim);
  // Several passes would need the sum of their gradients, a [C,D] array, before the update.
  if (problem.update && problem.rows > most)
    return {Failure::tooManyRows, "Expected at most " + std::to_string(most) + " rows of dim " +
                                      std::to_string(problem.dim) + " for one step but received " +
                                      std::to_string(problem.rows)};
  const Turn turn;
  double sum = 0;
  for (int64_t first = 0; first < problem.rows; first += most) {
    Step step(problem, *kernels, first, std::min(most, problem.rows - first), rowGradient);
    if (Status status = step.run(); !status) return status;
    sum += step.lossSum();
  }
  problem.loss = divisor == 0 ? 0 : sum / divisor;
  if (problem.statistics && valid) {
    problem.statistics->accuracy /= static_cast<double>(valid);
    problem.statistics->targetCosine /= static_cast<double>(valid);
    problem.statistics->largestOtherCosine /= static_cast<double>(valid);
  }
  return {};
}

Status loss(Problem& problem) {
  try {
    return inPasses(problem);
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the computation", 0);
  }
}

}  // namespace cpu

const Executor cpuExecutor = {"cpu", cpu::loss, cpu::topK};

}  // namespace margin_softmax
