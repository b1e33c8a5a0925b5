// The list of two: every executor does the same work from the same problems and gives results within rounding of the
// other. Problems hold host memory, except what a head keeps resident where its device computes.
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
  // Memory of a device for a head's arrays, zeros at first, and copies to and from it.
  Status (*allocate)(int device, int64_t bytes, void*& memory);
  void (*release)(int device, void* memory, int64_t bytes);
  Status (*upload)(int device, void* memory, const void* from, int64_t bytes);
  Status (*download)(int device, const void* memory, void* to, int64_t bytes);
  const DeviceLink* link;  // null where devices have no way to each other
};

// Defined in cpu/ and cuda/.
extern const Executor cpuExecutor, cudaExecutor;

// The one that computes on this device: null where this build has no CUDA.
const Executor* executorOf(int device);

// A GPU, or why there is none.
struct DeviceState {
  int index = -1;
  std::string name;
  bool usable = false;
  std::string reason;         // why it is not; empty where nobody asked
  int computeCapability = 0;  // 90 for 9.0
  int64_t memoryBytes = 0, freeBytes = 0;
  int driverVersion = 0;  // of CUDA, 13000 for 13.0; 0: no driver

  bool has(Precision precision) const { return precision == Precision::float32 || computeCapability >= 80; }
};

constexpr int allDevices = -1;

// Every GPU; one entry of index −1 where there is none. Only the one of index `asked`, or all of them, is opened, which
// takes half a gigabyte of its memory, and tried (trial.h) the first time: no other one is usable or has free bytes.
std::vector<DeviceState> cudaDevices(int asked);

// NCCL as this build would use it; `library`: its file, or empty.
NcclState ncclState(const std::string& library);

namespace cuda {
std::vector<DeviceState> listDevices(int opened);  // what the driver says; usable: opened
NcclState findNccl(const std::string& library);
}  // namespace cuda

}  // namespace margin_softmax
