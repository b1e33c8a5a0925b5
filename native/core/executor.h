// The executors, CPU and CUDA. Both solve the same problems, with results within rounding of each
// other. Problems refer to host memory, except for what a head keeps resident on its device.
#pragma once
#include <string>
#include <vector>

#include "device_exchange.h"
#include "probability.h"
#include "problem.h"
#include "status.h"

namespace margin_softmax {

struct Executor {
  const char* name;
  Status (*loss)(Problem& problem);
  Status (*topK)(TopKProblem& problem);
  Status (*measure)(const MeasureProblem& problem);
  Status (*crossEntropyLoss)(CrossEntropyProblem& problem);
  // Memory of a device for a head's arrays, zeroed; and copies to and from it.
  Status (*allocate)(int device, int64_t bytes, void*& memory);
  void (*release)(int device, void* memory, int64_t bytes);
  Status (*upload)(int device, void* memory, const void* from, int64_t bytes);
  Status (*download)(int device, const void* memory, void* to, int64_t bytes);
  const DeviceLink* link;  // null if devices can not exchange with each other
};

// Defined in cpu/ and cuda/.
extern const Executor cpuExecutor, cudaExecutor;

// The executor of this device; null for a GPU if this build has no CUDA.
const Executor* executorOf(int device);

// A GPU, or the reason why there is none.
struct DeviceState {
  int index = -1;
  std::string name;
  bool usable = false;
  std::string reason;         // why it is not usable; empty if it was not opened
  int computeCapability = 0;  // 90 for 9.0
  int64_t memoryBytes = 0, freeBytes = 0;
  int driverVersion = 0;    // of CUDA, 13000 for 13.0; 0: no driver
  bool precisions[3] = {};  // by Precision: whether it computes in this one

  bool has(Precision precision) const { return precisions[static_cast<int>(precision)]; }
};

constexpr int allDevices = -1;

// Lists every GPU, or one entry of index −1 if there is none. Only the GPU of index `opened`, or
// allDevices, is opened, which takes half a gigabyte of its memory, and tried the first time
// (trial.h). Others are neither usable nor know their free bytes.
std::vector<DeviceState> cudaDevices(int opened);

// The state of NCCL. `library` is its file, or empty for the system's.
NcclState ncclState(const std::string& library);

namespace cuda {
std::vector<DeviceState> listDevices(int opened);  // from the driver; usable: opened
NcclState findNccl(const std::string& library);
}  // namespace cuda

}  // namespace margin_softmax
