// Launches the kernels with a block per row, and brings their rows to the device in pieces.
#pragma once
#include <algorithm>

#include "../core/sizes.h"
#include "device.h"
#include "row_reduce.cuh"

namespace margin_softmax::cuda {

// Rows of a piece: of at most 64 MB an array, so that four of them and their results stay below 256 MB.
inline int64_t rowsOfPiece(int64_t rows, int64_t classes) {
  constexpr int64_t pieceBytes = int64_t{64} << 20;
  return std::max<int64_t>(1, std::min(rows, pieceBytes / (classes * 4)));
}

struct RowLaunch {
  unsigned threads;
  int64_t keptCount;  // elements of a row that stay in shared memory: all, or whole batches

  // A batch a thread, from a warp up.
  RowLaunch(const Device& device, int64_t classes, bool keeps) {
    const int64_t wanted = roundUp(divideUp(classes, batchSize), 32);
    threads = static_cast<unsigned>(std::min<int64_t>(wanted, mostRowThreads));
    const int64_t room = (device.sharedMemoryPerBlock() - reservedShared) / 4, batch = threads * batchSize;
    keptCount = !keeps ? 0 : classes <= room ? classes : room / batch * batch;
  }
  size_t sharedBytes() const { return static_cast<size_t>(keptCount) * 4; }
};

}  // namespace margin_softmax::cuda
