// The list of two: every executor does the same work from the same Problem and gives results within rounding of the
// other.
#pragma once
#include "problem.h"
#include "status.h"

namespace margin_softmax {

struct Executor {
  const char* name;
  Status (*loss)(Problem& problem);
  Status (*topK)(TopKProblem& problem);
};

// Defined in cpu/.
extern const Executor cpuExecutor;

}  // namespace margin_softmax
