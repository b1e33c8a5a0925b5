// The executor's step and search on other_core.cuh, in the place of native/cuda/step.cu and topk.cu: steps.cu checks them.
#include "other_core.cuh"

#include "../../native/core/executor.h"
#include "../../native/cuda/step_launch.cuh"
#include "../../native/cuda/topk_launch.cuh"

namespace margin_softmax::cuda {

bool hasCore(Precision, int) { return true; }

Status loss(Problem& problem) {
  if (problem.classes > mostClassesInAll) return {Failure::tooLarge, "too many classes"};
  const DeviceLock lock(problem.execution.device);
  if (!lock.status()) return lock.status();
  switch (problem.execution.precision) {
    case Precision::float32:
      return Step<OtherCore<float>>(lock.device(), problem).run();
    case Precision::tf32:
      return Step<OtherCore<Tf32>>(lock.device(), problem).run();
    case Precision::bfloat16:
      return Step<OtherCore<bf16>>(lock.device(), problem).run();
  }
  return {Failure::unavailable, "no precision"};
}

Status topK(TopKProblem& problem) {
  const DeviceLock lock(problem.execution.device);
  return lock.status() ? TopK<OtherCore<float>>(lock.device(), problem).run() : lock.status();
}

}  // namespace margin_softmax::cuda
