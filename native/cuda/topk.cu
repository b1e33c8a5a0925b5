// The k best classes of each row on a GPU, in float32: which core computes their scores.
#include "../core/executor.h"
#include "cores.cuh"
#include "topk_launch.cuh"

namespace margin_softmax::cuda {

Status topK(TopKProblem& problem) {
  const DeviceLock lock(problem.execution.device);
  if (!lock.status()) return lock.status();
  Device& device = lock.device();
  return withCore<Precision::float32>(device.capability(),
                                      [&](auto core) { return TopK<decltype(core)>(device, problem).run(); });
}

}  // namespace margin_softmax::cuda
