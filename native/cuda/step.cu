// A step on a GPU: which core computes it.
#include <new>
#include <string>

#include "../core/executor.h"
#include "cores.cuh"
#include "step_launch.cuh"

namespace margin_softmax::cuda {

bool hasCore(Precision precision, int capability) { return holdsCore(Cores{}, precision, capability); }

static Status run(Problem& problem) {
  if (problem.classes > mostClassesInAll)
    return {Failure::tooLarge, "Expected at most " + std::to_string(mostClassesInAll) +
                                   " classes on a GPU but received " + std::to_string(problem.classes)};
  const DeviceLock lock(problem.execution.device);
  if (!lock.status()) return lock.status();
  Device& device = lock.device();
  return withCore(problem.execution.precision, device.capability(),
                  [&](auto core) { return Step<decltype(core)>(device, problem).run(); });
}

Status loss(Problem& problem) {
  try {
    return run(problem);
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the computation", 0);
  }
}

}  // namespace margin_softmax::cuda
