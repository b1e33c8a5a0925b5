// How the work of one batch is cut. From the shape alone, never from the thread count, the instruction set or the
// workspace, so that sums are formed in the same order, and give the same bits, however the work is run.
#pragma once
#include <algorithm>
#include <cstdint>

#include "../core/sizes.h"

namespace margin_softmax::cpu {

// What the fixed part of the workspace (everything but the kept tiles) is planned to stay within.
constexpr int64_t fixedBytes = int64_t{48} << 20;

// The B×C logits are a grid of tiles: class tiles × row chunks. A slot is a run of class tiles × a run of row chunks
// that one thread works through in order, with its own partial sums; slots are added in order at the end. Many classes:
// slots along the classes, and each tile's weight gradient is finished on the spot. Few classes: slots along the rows
// as well.
struct Plan {
  int64_t rows, dim, classes;
  int64_t tileClasses, classTiles, classSlots;
  int64_t chunkRows, rowChunks, rowSlots;

  // Classes of a tile: multiples of every block height, in float32 and in bfloat16. As many × 512 rows of logits and ×
  // 512 weights stay in a core's level-2 cache; a very long row gets fewer.
  static constexpr int64_t floatClasses = 126, bfloat16Classes = 128;
  // Arrays on the stack are as long as these: a tile's classes, a chunk's rows.
  static constexpr int64_t maxTileClasses = std::max(floatClasses, bfloat16Classes), maxChunkRows = 512;

  Plan(int64_t b, int64_t d, int64_t c, int64_t most = floatClasses) : rows(b), dim(d), classes(c) {
    tileClasses = std::min(classes, std::clamp<int64_t>(most * 4096 / std::max<int64_t>(dim, 1), 8, most));
    classTiles = divideUp(classes, tileClasses);
    const int64_t wantedRowSlots = classTiles >= 16 ? 1 : divideUp(16, classTiles);
    const int64_t partialWeights = classes * (dim + 32) * 4;
    const int64_t affordable = std::max<int64_t>(1, (fixedBytes / 4) / std::max<int64_t>(partialWeights, 1));
    const int64_t mostRowSlots = std::min({wantedRowSlots, affordable, divideUp(rows, 64)});
    chunkRows = std::min(maxChunkRows, roundUp(divideUp(rows, mostRowSlots), 64));
    rowChunks = divideUp(rows, chunkRows);
    rowSlots = std::min(mostRowSlots, rowChunks);
    // A slot is worth its partial sums from about 2^27 multiply-adds on: fewer slots for less work, but enough to
    // share.
    const int64_t worth = rows * dim * classes >> 27;
    const int64_t partialInputs = rows * (dim + 16) * 4;
    const int64_t room = std::max<int64_t>(1, (fixedBytes - 2 * partialInputs) / std::max<int64_t>(partialInputs, 1));
    classSlots = std::min({classTiles, std::clamp<int64_t>(worth, 16, 64), room});
  }

  // Rows of one pass over the classes: a longer batch is cut into several, so that the workspace stays bounded.
  static int64_t rowsAtOnce(int64_t dim) {
    return std::max(maxChunkRows, fixedBytes / (6 * 4 * (dim + 16)) / maxChunkRows * maxChunkRows);
  }

  // Where a class slot begins. Long slots shrink from 3/2 of the average to 1/2, so that threads end close to one
  // another.
  int64_t firstTile(int64_t classSlot) const {
    if (classTiles < 4 * classSlots) return classTiles * classSlot / classSlots;
    return classTiles * classSlot * (3 * classSlots - classSlot) / (2 * classSlots * classSlots);
  }
  int64_t firstChunk(int64_t rowSlot) const { return rowChunks * rowSlot / rowSlots; }
  int64_t slots() const { return classSlots * rowSlots; }
  int64_t tileSize(int64_t tile) const { return std::min(tileClasses, classes - tile * tileClasses); }
  int64_t chunkSize(int64_t chunk) const { return std::min(chunkRows, rows - chunk * chunkRows); }
};

}  // namespace margin_softmax::cpu
