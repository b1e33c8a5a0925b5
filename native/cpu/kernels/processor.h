// Asks the processor which vector instructions it has, and whether the system saves their registers
// for each thread, by cpuid and xgetbv (Intel's manual, volume 1, sections 14.3 and 15.2).
// __builtin_cpu_supports would need a library that clang for Visual Studio does not link.
#pragma once
#include <stdint.h>

namespace margin_softmax::cpu {

// Bits that must be set, as cpuid and xgetbv give them. All 0: any processor of the build's
// architecture.
struct ProcessorFeatures {
  uint32_t leaf1Ecx, leaf7Ebx, leaf7Subleaf1Eax;
  uint64_t savedState;  // registers that the system saves, of XCR0
  uint32_t leaf7Edx = 0;
};

bool processorHas(const ProcessorFeatures& needs);

// Asks Linux (5.16 or newer) to let this process use AMX's tiles; the answer stays. Without
// permission the first tile instruction ends the process. Ask only when tiles are first to be used:
// from then on the system refuses every signal stack (sigaltstack) of the process that has no room
// for the 8 KB of tiles, and it refuses the permission while there is one.
bool requestTiles();

// The features that kernels_<name>.cc combine. No function: these files get instruction-set flags,
// so nothing that runs before the question is answered may be compiled there.
namespace features {
constexpr uint32_t fmaAvxOsxsave = 1u << 12 | 1u << 27 | 1u << 28;             // leaf 1, ecx
constexpr uint32_t avx2 = 1u << 5;                                             // leaf 7, ebx
constexpr uint32_t avx512 = avx2 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;  // F, DQ, BW, VL
constexpr uint32_t avx512bf16 = 1u << 5;                                       // leaf 7.1, eax
constexpr uint64_t ymmState = 1u << 1 | 1u << 2;                               // of XCR0
constexpr uint64_t zmmState = ymmState | 1u << 5 | 1u << 6 | 1u << 7;
constexpr uint32_t amx = 1u << 22 | 1u << 24;  // bfloat16 and tiles: leaf 7, edx
constexpr uint64_t tileState = zmmState | 1u << 17 | 1u << 18;
}  // namespace features

}  // namespace margin_softmax::cpu
