// Cuts the work of one batch: from the shape alone, never from the thread count, the
// instruction set or the workspace. So sums are formed in the same order, with the same bits,
// however the work is run.
#pragma once
#include <algorithm>
#include <array>
#include <cstdint>

#include "../core/sizes.h"

namespace margin_softmax::cpu {

// The planned size of the fixed part of the workspace, which is everything but the kept tiles.
constexpr int64_t fixedBytes = int64_t{48} << 20;

// The B×C logits are a grid of class tiles × row chunks. A slot is a run of tiles × a run of
// chunks; one thread works through it in order and keeps partial sums of its own. Slots are added
// in order at the end.
//
//              classes →
//   rows   ┌─────────┬─────────┬─────────┐     classSlots = 3, rowSlots = 2: six slots
//    ↓     │ slot 0  │ slot 2  │ slot 4  │     each a grid of tiles × chunks
//          ├─────────┼─────────┼─────────┤
//          │ slot 1  │ slot 3  │ slot 5  │
//          └─────────┴─────────┴─────────┘
//
// Many classes: one row slot, so a tile's weight gradient is finished on the spot. Few classes:
// several.
struct Plan {
  int64_t rows, dim, classes;
  int64_t tileClasses, classTiles, classSlots;
  int64_t chunkRows, rowChunks, rowSlots;

  // Classes of a tile, in float32 and in bfloat16: multiples of every block height. A tile's logits
  // of 512 rows and its weights of 512 dimensions stay in a core's level-2 cache; longer rows get
  // fewer classes.
  static constexpr int64_t floatClasses = 126, bfloat16Classes = 128;
  // Lengths of arrays on the stack: a tile's classes, a chunk's rows.
  static constexpr int64_t maxTileClasses = std::max(floatClasses, bfloat16Classes), maxChunkRows = 512;

  Plan(int64_t b, int64_t d, int64_t c, int64_t limit = floatClasses) : rows(b), dim(d), classes(c) {
    tileClasses = std::min(classes, std::clamp<int64_t>(limit * 4096 / std::max<int64_t>(dim, 1), 8, limit));
    classTiles = divideUp(classes, tileClasses);
    const int64_t wantedRowSlots = classTiles >= 16 ? 1 : divideUp(16, classTiles);
    const int64_t partialWeights = classes * (dim + 32) * 4;
    const int64_t affordable = std::max<int64_t>(1, (fixedBytes / 4) / std::max<int64_t>(partialWeights, 1));
    const int64_t maxRowSlots = std::min({wantedRowSlots, affordable, divideUp(rows, 64)});
    chunkRows = std::min(maxChunkRows, roundUp(divideUp(rows, maxRowSlots), 64));
    rowChunks = divideUp(rows, chunkRows);
    rowSlots = std::min(maxRowSlots, rowChunks);
    // A slot pays for its partial sums from about 2^27 multiply-adds on. Less work gets fewer
    // slots, but at least 16, for threads to share.
    const int64_t worth = rows * dim * classes >> 27;
    const int64_t partialInputs = rows * (dim + 16) * 4;
    const int64_t room = std::max<int64_t>(1, (fixedBytes - 2 * partialInputs) / std::max<int64_t>(partialInputs, 1));
    classSlots = std::min({classTiles, std::clamp<int64_t>(worth, 16, 64), room});
  }

  // Rows of one pass over the classes. A longer batch takes several passes, so that the workspace
  // stays bounded.
  static int64_t rowsAtOnce(int64_t dim) {
    return std::max(maxChunkRows, fixedBytes / (6 * 4 * (dim + 16)) / maxChunkRows * maxChunkRows);
  }

  // The first tile of a class slot. Slots shrink from 3/2 of the average to 1/2, so that threads
  // end close together; slots of few tiles are equal.
  int64_t firstTile(int64_t classSlot) const {
    if (classTiles < 4 * classSlots) return classTiles * classSlot / classSlots;
    return classTiles * classSlot * (3 * classSlots - classSlot) / (2 * classSlots * classSlots);
  }
  int64_t firstChunk(int64_t rowSlot) const { return rowChunks * rowSlot / rowSlots; }
  int64_t slots() const { return classSlots * rowSlots; }
  int64_t tileSize(int64_t tile) const { return std::min(tileClasses, classes - tile * tileClasses); }
  int64_t chunkSize(int64_t chunk) const { return std::min(chunkRows, rows - chunk * chunkRows); }
};

// A factor of 1 for each class of a tile.
inline constexpr std::array<float, Plan::maxTileClasses> tileOfOnes = [] {
  std::array<float, Plan::maxTileClasses> ones{};
  for (float& one : ones) one = 1;
  return ones;
}();

}  // namespace margin_softmax::cpu
