// The CUDA executor: the table of what it does.
#include "../core/executor.h"

#include "device.h"
#include "nccl.h"

namespace margin_softmax {
namespace cuda {

Status loss(Problem& problem);
Status topK(TopKProblem& problem);
Status measure(const MeasureProblem& problem);
Status crossEntropyLoss(CrossEntropyProblem& problem);

static Status allocate(int index, int64_t bytes, void*& memory) {
  const DeviceLock lock(index);
  if (!lock.status()) return lock.status();
  Device& device = lock.device();
  if (Status status = device.allocate(bytes, "the head", memory); !status) return status;
  device.clear(static_cast<char*>(memory), bytes);
  Status status = device.finish("clear memory");
  if (!status) device.release(memory);
  return status;
}

static void release(int index, void* memory, int64_t) {
  const DeviceLock lock(index);
  if (lock.status()) lock.device().release(memory);
}

static Status upload(int index, void* memory, const void* from, int64_t bytes) {
  const DeviceLock lock(index);
  if (!lock.status()) return lock.status();
  lock.device().upload(memory, from, bytes);
  return lock.device().finish("receive a head's numbers");
}

static Status download(int index, const void* memory, void* to, int64_t bytes) {
  const DeviceLock lock(index);
  if (!lock.status()) return lock.status();
  lock.device().download(to, memory, bytes);
  return lock.device().finish("send a head's numbers");
}

}  // namespace cuda

const Executor cudaExecutor = {"cuda",         cuda::loss,    cuda::topK,   cuda::measure,  cuda::crossEntropyLoss,
                               cuda::allocate, cuda::release, cuda::upload, cuda::download, &cuda::ncclLink};

}  // namespace margin_softmax
