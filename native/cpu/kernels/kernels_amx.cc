// avx512bf16 with the products of bfloat16 on tiles. Sapphire Rapids was the first to have them.
#define VECTOR_BYTES 64
#define BLOCK_ROWS 6
#define BLOCK_VECTORS 4
#define BFLOAT16_TILES
#include "kernels_impl.h"

namespace margin_softmax::cpu {
extern const Kernels amxKernels;
const Kernels amxKernels = makeKernels(
    "amx", {features::fmaAvxOsxsave, features::avx512, features::avx512bf16, features::tileState, features::amx});
}  // namespace margin_softmax::cpu
