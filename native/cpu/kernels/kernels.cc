#include "kernels.h"

#include <cstring>
#include <iterator>

#include "processor.h"

namespace margin_softmax::cpu {

extern const Kernels avx512bf16Kernels, avx512Kernels, avx2Kernels, neonKernels, portableKernels;

namespace {

struct Candidate {
  const Kernels* table;
  bool (*runsHere)();
};

#if defined(__x86_64__)
const Processor& processor() {
  static const Processor identified = identifyProcessor();
  return identified;
}
bool hasAvx2() { return processor().avx2; }
bool hasAvx512() { return processor().avx512; }
bool hasAvx512Bf16() { return processor().avx512bf16; }
#endif
bool always() { return true; }

// Every table of this build, best first.
constexpr Candidate candidates[] = {
#if defined(__x86_64__)
    {&avx512bf16Kernels, hasAvx512Bf16},
    {&avx512Kernels, hasAvx512},
    {&avx2Kernels, hasAvx2},
#elif defined(__aarch64__)
    {&neonKernels, always},
#endif
    {&portableKernels, always},
};

// Those that this processor can run.
struct Available {
  const Kernels* tables[std::size(candidates)];
  int count = 0;
  Available() {
    for (const Candidate& candidate : candidates)
      if (candidate.runsHere()) tables[count++] = candidate.table;
  }
};

}  // namespace

KernelList availableKernels() {
  static const Available available;
  return {available.tables, available.count};
}

const Kernels* findKernels(const char* name) {
  const KernelList list = availableKernels();
  for (int i = 0; i < list.count; i++)
    if (!name || std::strcmp(list.tables[i]->name, name) == 0) return list.tables[i];
  return nullptr;
}

}  // namespace margin_softmax::cpu
