#include "kernels.h"

#include <cstring>
#include <iterator>

namespace margin_softmax::cpu {

extern const Kernels avx512bf16Kernels, avx512Kernels, avx2Kernels, neonKernels, portableKernels;

namespace {

struct Candidate {
  const Kernels* table;
  bool (*runsHere)();
};

#if defined(__x86_64__)
bool hasAvx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool hasAvx512() {
  return hasAvx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
}
bool hasAvx512Bf16() { return hasAvx512() && __builtin_cpu_supports("avx512bf16"); }
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
#if defined(__x86_64__)
    __builtin_cpu_init();
#endif
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
