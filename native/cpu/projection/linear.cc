#include "linear.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "../products/products.h"

namespace margin_softmax::cpu {
namespace {

// Rows of a chunk where threads share the chunks: the widest panel.
constexpr int64_t sharedRows = maxLanes;

// `limit`: the largest tile. Chunks of few rows serve more threads; their order is fixed either way.
Plan planOf(int64_t rows, int64_t from, int64_t to, int64_t limit, int64_t chunkRows) {
  Plan plan(rows, from, to, limit);
  plan.chunkRows = std::min(chunkRows, roundUp(rows, sharedRows));
  plan.rowChunks = divideUp(rows, plan.chunkRows);
  plan.rowSlots = plan.classSlots = 1;
  return plan;
}

// The rows as they are: a factor of 1 for every product.
constexpr std::array<RowState, 16> plainRows = [] {
  std::array<RowState, 16> states{};
  for (RowState& state : states) state.inverseNorm = state.scale = state.gradient = 1;
  return states;
}();

}  // namespace

// One product: its plan, its packed operands, and each thread's tile [panel][tileClasses][L].
class Linear::Work {
 public:
  Work(const Linear& linear, const Plan& plan)
      : linear_(linear),
        plan_(plan),
        paddedRows_(roundUp(plan.rows, maxLanes)),
        lanes_(linear.kernels_.lanes),
        products_(makeProducts(linear.execution_.precision, linear.kernels_, plan_, paddedRows_)) {}

  // `outFloats` more of each thread, behind its tile.
  Status place(bool weight, bool input, int64_t outFloats = 0) {
    stride_ = roundUp(plan_.tileClasses * plan_.chunkRows, 16) + roundUp(outFloats, 16);
    return placeInWorkspace([&](Layout& layout) {
      products_->layOut(layout, threads(), weight, input);
      scratch_ = layout.take<float>(stride_ * threads());
    });
  }
  int threads() const { return linear_.execution_.threads; }
  template <class Body>
  void forEach(int64_t items, const Body& body) const {
    Pool::instance().forEach(threads(), items, body);
  }

  void packRows(const float* input) const {
    forEach(paddedRows_ / 16, [&](int64_t block, int) {
      const int64_t first = block * 16, count = std::clamp<int64_t>(plan_.rows - first, 0, 16);
      products_->packRows(input + std::min(first, plan_.rows) * plan_.dim, first, count, plainRows.data());
    });
  }
  Tile tileAt(int64_t index, int64_t chunk, const float* weight, int thread) const {
    const float* rows = weight ? weight + index * plan_.tileClasses * plan_.dim : nullptr;
    return {thread, index, plan_.tileSize(index), chunk, rows};
  }
  float* tileOf(int thread) const { return scratch_ + thread * stride_; }
  float* outOf(int thread) const { return tileOf(thread) + roundUp(plan_.tileClasses * plan_.chunkRows, 16); }

  // Calls body(element of the tile, element of the matrix [B,to]) for the rows that exist.
  template <class Body>
  void forElements(const Tile& tile, float* floats, const Body& body) const {
    const int64_t first = tile.chunk * plan_.chunkRows, column = tile.index * plan_.tileClasses;
    for (int64_t i = 0; i < plan_.chunkSize(tile.chunk); i++) {
      float* from = floats + i / lanes_ * plan_.tileClasses * lanes_ + i % lanes_;
      const int64_t at = (first + i) * linear_.to_ + column;
      for (int64_t j = 0; j < tile.classes; j++) body(from[j * lanes_], at + j);
    }
  }
  // Packs the tile's part of a gradient [B,to]; rows beyond the batch are zeros.
  float* packGradient(const Tile& tile, const float* gradOutput) const {
    float* const floats = tileOf(tile.thread);
    if (plan_.chunkSize(tile.chunk) % lanes_)
      std::memset(floats, 0,
                  divideUp(plan_.chunkSize(tile.chunk), lanes_) * plan_.tileClasses * lanes_ * sizeof(float));
    forElements(tile, floats, [&](float& element, int64_t at) { element = gradOutput[at]; });
    products_->packGradient(tile, floats);
    return floats;
  }

  const Linear& linear_;
  const Plan plan_;
  const int64_t paddedRows_;
  const int lanes_;
  const std::unique_ptr<Products> products_;
  float* scratch_ = nullptr;
  int64_t stride_ = 0;
};

namespace {

// For products whose threads share chunks.
Plan chunkPlan(const Execution& execution, int64_t rows, int64_t from, int64_t to) {
  return planOf(rows, from, to, tileClassLimit(execution.precision), sharedRows);
}

// For the weights' gradient, whose threads share the tiles: these are small.
Plan tilePlan(const Execution& execution, int64_t rows, int64_t from, int64_t to) {
  const int64_t block = execution.precision == Precision::bfloat16 ? 32 : 8;  // about the height of a product's block
  const int64_t limit = std::min(Plan::floatClasses, roundUp(divideUp(to, 16), block));
  return planOf(rows, from, to, limit, Plan::maxChunkRows);
}

}  // namespace

Linear::Linear(const Kernels& kernels, const Execution& execution, int64_t rows, int64_t from, int64_t to, bool trains)
    : kernels_(kernels),
      execution_(execution),
      rows_(rows),
      from_(from),
      to_(to),
      weightWork_(trains ? std::make_unique<Work>(*this, tilePlan(execution, rows, from, to)) : nullptr),
      inputWork_(trains ? std::make_unique<Work>(*this, chunkPlan(execution, rows, from, to)) : nullptr) {}

Linear::~Linear() = default;

Status Linear::reserve() const {
  const Status status = placeWeightWork();
  return status ? inputWork_->place(false, true) : status;
}

// With a tile's gradient [classes][D to the next multiple of L] of each thread.
Status Linear::placeWeightWork() const {
  return weightWork_->place(true, false, weightWork_->plan_.tileClasses * roundUp(from_, kernels_.lanes));
}

Status Linear::forward(const float* input, const float* weight, const float* bias, float* output) const {
  Work work(*this, chunkPlan(execution_, rows_, from_, to_));
  if (Status status = work.place(false, false); !status) return status;
  const Plan& plan = work.plan_;
  work.packRows(input);
  work.forEach(plan.classTiles * plan.rowChunks, [&](int64_t item, int thread) {
    const Tile tile = work.tileAt(item / plan.rowChunks, item % plan.rowChunks, weight, thread);
    float* const out = work.tileOf(thread);
    work.products_->packWeights(tile, true, false);
    work.products_->logits(tile, tileOfOnes.data(), bias ? bias + tile.index * plan.tileClasses : nullptr, out, {});
    work.forElements(tile, out, [&](float element, int64_t at) { output[at] = element; });
  });
  return {};
}

Status Linear::weightGradient(const float* input, const float* gradOutput, float* gradWeight) const {
  if (Status status = placeWeightWork(); !status) return status;
  Work& work = *weightWork_;
  const Plan& plan = work.plan_;
  const int64_t stride = roundUp(from_, kernels_.lanes);
  work.packRows(input);
  work.forEach(plan.classTiles, [&](int64_t index, int thread) {
    float* const sum = work.outOf(thread);
    for (int64_t chunk = 0; chunk < plan.rowChunks; chunk++) {
      const Tile tile = work.tileAt(index, chunk, nullptr, thread);
      work.products_->weightGradient(tile, work.packGradient(tile, gradOutput), sum, chunk > 0, {});
    }
    float* const out = gradWeight + index * plan.tileClasses * from_;
    for (int64_t j = 0; j < plan.tileSize(index); j++)
      std::memcpy(out + j * from_, sum + j * stride, from_ * sizeof(float));
  });
  return {};
}

// One thread adds up all tiles of a chunk.
Status Linear::inputGradient(const float* weight, const float* gradOutput, float* gradInput) const {
  Work& work = *inputWork_;
  if (Status status = work.place(false, true); !status) return status;
  const Plan& plan = work.plan_;
  const int lanes = kernels_.lanes;
  work.forEach(plan.rowChunks, [&](int64_t chunk, int thread) {
    for (int64_t index = 0; index < plan.classTiles; index++) {
      const Tile tile = work.tileAt(index, chunk, weight, thread);
      const float* gradient = work.packGradient(tile, gradOutput);
      work.products_->packWeights(tile, false, true);
      work.products_->inputGradient(tile, 0, gradient, index > 0, {});
    }
    const int64_t first = chunk * plan.chunkRows;
    const float* sums = work.products_->inputSums() + first * from_;  // [panel][D][L]
    // Few columns at a time, whose lines then serve all rows from the nearest cache.
    constexpr int64_t columns = 16;
    for (int64_t left = 0; left < from_; left += columns)
      for (int64_t i = 0; i < plan.chunkSize(chunk); i++) {
        const float* sum = sums + i / lanes * lanes * from_ + i % lanes;
        for (int64_t d = left; d < std::min(from_, left + columns); d++)
          gradInput[(first + i) * from_ + d] = sum[d * lanes];
      }
  });
  return {};
}

}  // namespace margin_softmax::cpu
