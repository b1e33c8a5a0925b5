#include "processor.h"

#if defined(__x86_64__)

#include <cpuid.h>
#include <stdint.h>

namespace margin_softmax::cpu {
namespace {

struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// Zeros for a leaf that the processor does not have.
Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (!__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx)) return {};
  return r;
}

// Registers that the system saves and restores when it switches threads. Needs the processor's OSXSAVE.
uint64_t savedState() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low | static_cast<uint64_t>(high) << 32;
}

constexpr bool all(uint64_t value, uint64_t bits) { return (value & bits) == bits; }
constexpr uint64_t bit(int position) { return uint64_t{1} << position; }

}  // namespace

Processor identifyProcessor() {
  constexpr uint64_t fma = bit(12), osxsave = bit(27), avx = bit(28);                       // leaf 1, ecx
  constexpr uint64_t avx2 = bit(5), f = bit(16), dq = bit(17), bw = bit(30), vl = bit(31);  // leaf 7, ebx
  constexpr uint64_t bf16 = bit(5);                                                         // leaf 7.1, eax
  constexpr uint64_t ymm = bit(1) | bit(2), zmm = ymm | bit(5) | bit(6) | bit(7);           // of the saved state
  Processor processor{};
  const uint64_t basic = cpuid(1, 0).ecx;
  if (!all(basic, fma | osxsave | avx)) return processor;
  const uint64_t saved = savedState();
  const Registers extended = cpuid(7, 0);
#if defined(__APPLE__)
  const bool savesZmm = true;  // macOS begins to save these when a thread first uses them
#else
  const bool savesZmm = all(saved, zmm);
#endif
  processor.avx2 = all(saved, ymm) && all(extended.ebx, avx2);
  processor.avx512 = processor.avx2 && savesZmm && all(extended.ebx, f | dq | bw | vl);
  processor.avx512bf16 = processor.avx512 && extended.eax >= 1 && all(cpuid(7, 1).eax, bf16);
  return processor;
}

}  // namespace margin_softmax::cpu

#endif
