// The trial of a GPU before its first use: two small steps on it must agree with the CPU's.
#pragma once
#include <string>

#include "executor.h"

namespace margin_softmax {

// Returns why the device failed its trial; empty if it passed. Each device is tried once per
// process. May throw std::bad_alloc.
std::string trialOf(const DeviceState& device);

}  // namespace margin_softmax
