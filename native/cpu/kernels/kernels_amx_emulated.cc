// The table of AMX on a machine without it, for tests: tile instructions by their definition,
// vectors of 64 bytes out of AVX2's. Nothing chooses it; a test asks for it by name.
#define VECTOR_BYTES 64
#define BLOCK_ROWS 6
#define BLOCK_VECTORS 4
#define BFLOAT16_TILES
#define AMX_EMULATED
#include "kernels_impl.h"

namespace margin_softmax::cpu {
extern const Kernels amx_emulatedKernels;
const Kernels amx_emulatedKernels =
    makeKernels("amx_emulated", {features::fmaAvxOsxsave, features::avx2, 0, features::ymmState}, true);
}  // namespace margin_softmax::cpu
