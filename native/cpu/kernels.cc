#include "kernels.h"

#include <cstring>

namespace margin_softmax::cpu {

extern const Kernels avx512bf16Kernels, avx512Kernels, avx2Kernels, neonKernels, portableKernels;

namespace {

struct Available {
  const Kernels* tables[4];
  int count = 0;
  Available() {
#if defined(__x86_64__)
    __builtin_cpu_init();
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
    if (avx512 && __builtin_cpu_supports("avx512bf16")) tables[count++] = &avx512bf16Kernels;
    if (avx512) tables[count++] = &avx512Kernels;
    if (avx2) tables[count++] = &avx2Kernels;
#elif defined(__aarch64__)
    tables[count++] = &neonKernels;
#endif
    tables[count++] = &portableKernels;
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
