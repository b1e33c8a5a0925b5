// The executors of this build. Only this file asks whether there is CUDA.
#include "executor.h"
#include "trial.h"

namespace margin_softmax {

#if defined(MARGIN_SOFTMAX_CUDA)

const Executor* executorOf(int device) { return device == cpuDevice ? &cpuExecutor : &cudaExecutor; }

std::vector<DeviceState> cudaDevices(int opened) {
  std::vector<DeviceState> devices = cuda::listDevices(opened);
  for (DeviceState& device : devices) {
    if (!device.usable) continue;
    device.reason = trialOf(device);
    device.usable = device.reason.empty();
  }
  return devices;
}

NcclState ncclState(const std::string& library) { return cuda::findNccl(library); }

#else

const Executor* executorOf(int device) { return device == cpuDevice ? &cpuExecutor : nullptr; }

std::vector<DeviceState> cudaDevices(int) {
  DeviceState none;
  none.reason = "this build has no CUDA: build it where nvcc is found, with MARGIN_SOFTMAX_CUDA=on";
  return {none};
}

NcclState ncclState(const std::string&) { return {0, "has no CUDA"}; }

#endif

}  // namespace margin_softmax
