// avx512 with the processor's own products of bfloat16.
#define VECTOR_BYTES 64
#define BLOCK_ROWS 6
#define BLOCK_VECTORS 4
#define PAIR_ROWS 4
#define PAIR_VECTORS 4
#include "kernels_impl.h"

namespace margin_softmax::cpu {
extern const Kernels avx512bf16Kernels;
const Kernels avx512bf16Kernels =
    makeKernels("avx512bf16", {features::fmaAvxOsxsave, features::avx512, features::avx512bf16, features::zmmState});
}  // namespace margin_softmax::cpu
