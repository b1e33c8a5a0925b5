#define VECTOR_BYTES 32
#define BLOCK_ROWS 6
#define BLOCK_VECTORS 2
#define PAIR_ROWS 6
#define PAIR_VECTORS 2
#include "kernels_impl.h"

namespace margin_softmax::cpu {
extern const Kernels avx2Kernels;
const Kernels avx2Kernels = makeKernels("avx2", {features::fmaAvxOsxsave, features::avx2, 0, features::ymmState});
}  // namespace margin_softmax::cpu
