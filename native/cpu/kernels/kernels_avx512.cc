#define VECTOR_BYTES 64
#define BLOCK_ROWS 6
#define BLOCK_VECTORS 4
#define PAIR_ROWS 8
#define PAIR_VECTORS 2
#include "kernels_impl.h"

namespace margin_softmax::cpu {
extern const Kernels avx512Kernels;
const Kernels avx512Kernels = makeKernels("avx512");
}  // namespace margin_softmax::cpu
