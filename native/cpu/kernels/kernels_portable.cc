#define VECTOR_BYTES 16
#define BLOCK_ROWS 3
#define BLOCK_VECTORS 4
#define PAIR_ROWS 3
#define PAIR_VECTORS 4
#include "kernels_impl.h"

namespace margin_softmax::cpu {
extern const Kernels portableKernels;
const Kernels portableKernels = makeKernels("portable", {});
}  // namespace margin_softmax::cpu
