// Cuts a step's work on a GPU: from the shape, the precision and the core's tiles alone, so that sums are formed in
// the same order on every run.
#pragma once
#include <algorithm>
#include <cstdint>
#include <numeric>

#include "../core/problem.h"
#include "../core/sizes.h"
#include "operand.cuh"

namespace margin_softmax::cuda {

// Kernels count classes in 32 bits, and a block or a tile may run beyond the last one.
constexpr int64_t mostBeyond = 256;
constexpr int64_t mostClassesInAll = INT32_MAX - mostBeyond;

// A tile of a product: its outputs, and what the length of its sums is a multiple of. See tile.cuh.
struct TileShape {
  int64_t rows, columns, depth;
};
template <class Tile>
constexpr TileShape shapeOf() {
  return {Tile::rows, Tile::columns, Tile::depth};
}

// The tiles of a step's three products.
struct StepTiles {
  TileShape logits;  // batch × classes, sums over dimensions
  TileShape input;   // batch × dimensions, over classes
  TileShape weight;  // classes × dimensions, over the batch
};

struct Plan {
  // A chunk's class directions and gradients are written once and read once or twice, its weights read twice: 32 MB of
  // them stay in the level-2 cache of an H100 (50 MB) or an L4 (48 MB). More chunks than that costs launches, about 3 µs
  // each.
  static constexpr int64_t chunkBytes = int64_t{32} << 20;
  static constexpr int64_t mostClasses = 16384;
  // Rows of operands are whole 64 bytes or more, which every core reads.
  static constexpr int64_t dimUnit = 32;
  // Blocks of the input gradient: one on each of a large GPU's 132 multiprocessors. Each has sums of its own, which are
  // read and written with every chunk: more blocks cost more of that than they gain.
  static constexpr int64_t wantedBlocks = 132;

  StepTiles tiles;
  int64_t rowUnit, classUnit;  // batch and chunk are padded to multiples, which are whole tiles of every product
  int64_t paddedRows, paddedDim, classes;
  int64_t chunk, chunks;  // classes of a chunk, a multiple of classUnit
  int64_t inputSlots;     // shares of a chunk's classes in the sums of gradInput
  int terms, planes;

  // `rounds`: the operands are rounded below float32. `limit`: Execution::chunkClasses.
  Plan(int64_t rows, int64_t dim, int64_t c, const StepTiles& t, int64_t elementBytes, bool rounds, int64_t limit)
      : tiles(t),
        rowUnit(std::lcm(std::lcm(t.logits.rows, t.input.rows), t.weight.depth)),
        classUnit(std::lcm(std::lcm(t.logits.columns, t.weight.rows), t.input.depth)),
        paddedRows(roundUp(rows, rowUnit)),
        paddedDim(roundUp(dim, std::lcm(dimUnit, t.logits.depth))),
        classes(c) {
    terms = rounds && dim < correctionsBelow ? leadingAndCorrection : leadingOnly;
    planes = terms == leadingOnly ? 1 : 2;
    const int64_t perClass = planes * elementBytes * (paddedRows + paddedDim) + int64_t{sizeof(float)} * dim;
    const int64_t most = limit ? std::min(roundUp(limit, classUnit), mostClasses) : mostClasses;
    const int64_t affordable = std::clamp<int64_t>(chunkBytes / perClass / classUnit * classUnit, classUnit, most);
    chunk = std::min(affordable, roundUp(classes, classUnit));
    chunks = divideUp(classes, chunk);
    const int64_t outputs = inputRowTiles() * dimTiles(t.input);
    inputSlots = std::clamp<int64_t>(wantedBlocks / outputs, 1, std::min<int64_t>(16, chunkTiles()));
  }
  // Tiles of the logits along the batch, and along a chunk's classes.
  int64_t rowTiles() const { return paddedRows / tiles.logits.rows; }
  int64_t chunkTiles() const { return chunk / tiles.logits.columns; }
  int64_t inputRowTiles() const { return paddedRows / tiles.input.rows; }
  int64_t dimTiles(const TileShape& shape) const { return divideUp(paddedDim, shape.columns); }
  int64_t firstClass(int64_t index) const { return index * chunk; }
  int64_t chunkSize(int64_t index) const { return std::min(chunk, classes - index * chunk); }
  // Classes of a chunk that its tiles compute: as many in every product, so that none reads what no other has written.
  int64_t coveredClasses(int64_t index) const { return roundUp(chunkSize(index), classUnit); }
};

}  // namespace margin_softmax::cuda
