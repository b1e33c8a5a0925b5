#define VECTOR_BYTES 16
#define BLOCK_ROWS 5
#define BLOCK_VECTORS 4
#define PAIR_ROWS 5
#define PAIR_VECTORS 4
#include "kernels_impl.h"

namespace margin_softmax::cpu {
extern const Kernels neonKernels;
const Kernels neonKernels = makeKernels("neon", {});
}  // namespace margin_softmax::cpu
