#include "processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace margin_softmax::cpu {

#if defined(__x86_64__)

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

// Registers that the system saves and restores when it switches threads (XCR0). Needs the
// processor's OSXSAVE, without which xgetbv is an illegal instruction.
uint64_t savedState() {
  uint32_t low, high;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  uint64_t saved = low | static_cast<uint64_t>(high) << 32;
#if defined(__APPLE__)
  saved |= features::zmmState;  // macOS begins to save these when a thread first uses them
#endif
  return saved;
}

ProcessorFeatures identify() {
  ProcessorFeatures has{};
  has.leaf1Ecx = cpuid(1, 0).ecx;
  if ((has.leaf1Ecx & features::fmaAvxOsxsave) != features::fmaAvxOsxsave) return has;
  has.savedState = savedState();
  const Registers extended = cpuid(7, 0);
  has.leaf7Ebx = extended.ebx;
  has.leaf7Edx = extended.edx;
  if (extended.eax >= 1) has.leaf7Subleaf1Eax = cpuid(7, 1).eax;
  return has;
}

}  // namespace

bool processorHas(const ProcessorFeatures& needs) {
  static const ProcessorFeatures has = identify();
  return (needs.leaf1Ecx & ~has.leaf1Ecx) == 0 && (needs.leaf7Ebx & ~has.leaf7Ebx) == 0 &&
         (needs.leaf7Subleaf1Eax & ~has.leaf7Subleaf1Eax) == 0 && (needs.savedState & ~has.savedState) == 0 &&
         (needs.leaf7Edx & ~has.leaf7Edx) == 0;
}

#else

bool processorHas(const ProcessorFeatures&) { return true; }

#endif

bool requestTiles() {
#if defined(__linux__) && defined(__x86_64__)
  constexpr int requestPermission = 0x1023, tileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  static const bool granted = syscall(SYS_arch_prctl, requestPermission, tileData) == 0;
  return granted;
#else
  return false;
#endif
}

}  // namespace margin_softmax::cpu
