// How a step's work is cut on a GPU: from the shape and the precision alone, so that sums are formed in the same order
// on every run.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../core/problem.h"
#include "../core/sizes.h"
#include "tile.cuh"

namespace margin_softmax::cuda {

// Kernels count classes in 32 bits, and the threads of a block may run beyond the last one.
constexpr int64_t mostClassesInAll = INT32_MAX - tileThreads;

struct Plan {
  // A chunk's class directions and gradients are written once and read once or twice, its weights read twice: 32 MB of
  // them stay in the level-2 cache of an H100 (50 MB) or an L4 (48 MB). More chunks than that costs launches, about 3 µs
  // each.
  static constexpr int64_t chunkBytes = int64_t{32} << 20;
  static constexpr int64_t mostClasses = 16384;
  // Blocks of the input gradient: one on each of a large GPU's 132 multiprocessors. Each has sums of its own, which are
  // read and written with every chunk: more blocks cost more of that than they gain.
  static constexpr int64_t wantedBlocks = 132;

  int64_t paddedRows, paddedDim, classes;
  int64_t chunk, chunks;  // classes of a chunk, a multiple of a tile
  int64_t inputSlots;     // shares of a chunk's classes in the sums of gradInput
  int terms, planes;

  // `rounds`: the operands are rounded below float32. `limit`: Execution::chunkClasses.
  Plan(int64_t rows, int64_t dim, int64_t c, int64_t elementBytes, bool rounds, int64_t limit)
      : paddedRows(roundUp(rows, tileSize)), paddedDim(roundUp(dim, 32)), classes(c) {
    terms = rounds && dim < correctionsBelow ? leadingAndCorrection : leadingOnly;
    planes = terms == leadingOnly ? 1 : 2;
    const int64_t perClass = planes * elementBytes * (paddedRows + paddedDim) + int64_t{sizeof(float)} * dim;
    const int64_t most = limit ? std::min(roundUp(limit, tileSize), mostClasses) : mostClasses;
    const int64_t affordable = std::clamp<int64_t>(chunkBytes / perClass / tileSize * tileSize, tileSize, most);
    chunk = std::min(affordable, roundUp(classes, tileSize));
    chunks = divideUp(classes, chunk);
    const int64_t outputs = paddedRows / tileSize * divideUp(paddedDim, tileSize);
    inputSlots = std::clamp<int64_t>(wantedBlocks / outputs, 1, std::min<int64_t>(16, chunk / tileSize));
  }
  int64_t chunkTiles() const { return chunk / tileSize; }
  int64_t firstClass(int64_t index) const { return index * chunk; }
  int64_t chunkSize(int64_t index) const { return std::min(chunk, classes - index * chunk); }
};

}  // namespace margin_softmax::cuda
