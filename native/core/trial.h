// A GPU is tried before it is trusted: two small steps on it must agree with the CPU's.
#pragma once
#include <string>

#include "executor.h"

namespace margin_softmax {

// Why this device failed its trial; empty if it passed. Tried once per process; may throw std::bad_alloc.
std::string trialOf(const DeviceState& device);

}  // namespace margin_softmax
