#include "executor.h"

#include <cstring>
#include <new>

#include "../core/batch.h"
#include "../core/block.h"
#include "kernels/bfloat16_choice.h"
#include "step/step.h"

namespace margin_softmax {
namespace cpu {

Status chooseKernels(const char* named, Precision precision, const Kernels*& kernels) {
  kernels = precision == Precision::bfloat16 ? findBfloat16Kernels(named) : findKernels(named);
  if (kernels) return {};
  if (findKernels(named))
    return {Failure::unavailable, "the system does not let this process use tiles, or they multiply wrongly here"};
  return {Failure::unavailable, "this machine does not have that instruction set"};
}

// Computes a batch in one pass, or a very long one in several, whose gradients of the weights add
// up.
static Status inPasses(Problem& problem) {
  const Kernels* kernels;
  const Execution& execution = problem.execution;
  if (Status status = chooseKernels(execution.instructionSet, execution.precision, kernels); !status) return status;
  const BatchWeights weights = weighBatch(problem);
  const int64_t maxRows = Plan::rowsAtOnce(problem.dim);
  // Several passes would need the sum of their gradients, a [C,D] array, before the update.
  if (problem.trains() && problem.rows > maxRows) return Status::tooManyRows(problem.rows, problem.dim, maxRows);
  const PoolLock lock(problem.execution.cancelled);
  if (!lock) return Status::abandoned();
  double sum = 0;
  for (int64_t first = 0; first < problem.rows; first += maxRows) {
    Step step(problem, *kernels, first, std::min(maxRows, problem.rows - first), weights);
    if (Status status = step.run(); !status) return status;
    sum += step.lossSum();
  }
  closeBatch(problem, weights, sum);
  return {};
}

Status loss(Problem& problem) {
  try {
    return inPasses(problem);
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the computation", 0);
  }
}

// On the CPU a head's arrays are ordinary memory, used in place.
static Status allocate(int, int64_t bytes, void*& memory) {
  Block block(bytes);
  memory = block.release();
  return memory ? Status{} : Status::outOfMemory("the head", bytes);
}

static void release(int, void* memory, int64_t bytes) { Block::adopt(memory, bytes); }

static Status copy(int, void* to, const void* from, int64_t bytes) {
  std::memcpy(to, from, static_cast<size_t>(bytes));
  return {};
}

static Status copyOut(int device, const void* memory, void* to, int64_t bytes) {
  return copy(device, to, memory, bytes);
}

}  // namespace cpu

const Executor cpuExecutor = {"cpu",         cpu::loss,    cpu::topK, cpu::measure, cpu::crossEntropyLoss,
                              cpu::allocate, cpu::release, cpu::copy, cpu::copyOut, nullptr};

}  // namespace margin_softmax
