#define VECTOR_BYTES 64
#define BLOCK_ROWS 6
#define BLOCK_VECTORS 4
#define PAIR_ROWS 4
#define PAIR_VECTORS 4
#include "kernels_impl.h"

namespace margin_softmax::cpu {
extern const Kernels avx512Kernels;
const Kernels avx512Kernels = makeKernels("avx512", {features::fmaAvxOsxsave, features::avx512, 0, features::zmmState});
}  // namespace margin_softmax::cpu
