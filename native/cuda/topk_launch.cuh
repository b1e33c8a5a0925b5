// Launches the kernels that find the k best classes of each row: tiles of scores, chunk by chunk, merged into the rows'
// lists.
#pragma once
#include "device.h"
#include "plan.h"
#include "scores.cuh"
#include "topk.cuh"

namespace margin_softmax::cuda {

template <class Core>
class TopK {
  using Tile = LogitTile<Core>;
  static constexpr int64_t scoreBytes = int64_t{32} << 20;  // of a chunk's scores: they stay in a large level-2 cache
  static constexpr int64_t listBytes = int64_t{64} << 20;
  static constexpr const char* doing = "find the best classes";

 public:
  TopK(Device& device, TopKProblem& problem) : device_(device), problem_(problem) {
    const int64_t byLists = listBytes / (problem.k * 16);
    rows_ = std::clamp<int64_t>(byLists / Tile::rows * Tile::rows, Tile::rows, 4096);
    rows_ = std::min(rows_, roundUp(problem.rows, Tile::rows));
    const int64_t limit = problem.execution.chunkClasses ? problem.execution.chunkClasses : problem.classes;
    chunk_ = std::min(scoreBytes / 4 / rows_ / Tile::columns * Tile::columns, roundUp(limit, Tile::columns));
    paddedDim_ = roundUp(problem.dim, std::lcm(Plan::dimUnit, Tile::depth));
  }

  Status run() {
    if (Status status = device_.placeInWorkspace([this](Layout& layout) { layOut(layout); }); !status) return status;
    if (!problem_.resident) {
      device_.upload(weight_, problem_.weight, problem_.classes * problem_.dim * 4);
      if (problem_.bias) device_.upload(bias_, problem_.bias, problem_.classes * 4);
    }
    for (int64_t first = 0; first < problem_.rows; first += rows_)
      if (Status status = search(first, std::min(rows_, problem_.rows - first)); !status) return status;
    return {};
  }

 private:
  void layOut(Layout& layout) {
    const int64_t classes = problem_.classes, lists = rows_ * problem_.k;
    input_ = layout.take<float>(rows_ * problem_.dim);
    weight_ = problem_.resident ? const_cast<float*>(problem_.weight) : layout.take<float>(classes * problem_.dim);
    bias_ = problem_.resident || !problem_.bias ? const_cast<float*>(problem_.bias) : layout.take<float>(classes);
    scores_.inputOperand = layout.take<float>(rows_ * paddedDim_);
    scores_.weightOperand = layout.take<float>(chunk_ * paddedDim_);
    scores_.scores = layout.take<float>(rows_ * chunk_);
    lists_.best = layout.take<uint64_t>(lists);
    lists_.spare = layout.take<uint64_t>(lists);
    lists_.indices = layout.take<int32_t>(lists);
    lists_.bestScores = layout.take<float>(lists);
  }

  void prepare(const float* from, int64_t count, int64_t padded, float* to) {
    device_.launch(doing, prepareVectors, dim3(static_cast<unsigned>(divideUp(padded, rowWarps))), rowWarps * 32, 0,
                   from, static_cast<int>(count), static_cast<int>(problem_.dim), static_cast<int>(padded),
                   static_cast<int>(paddedDim_), problem_.normalized, to);
  }

  Status search(int64_t first, int64_t rows) {
    const unsigned grid = static_cast<unsigned>(rows), rowTiles = static_cast<unsigned>(divideUp(rows, Tile::rows));
    const int64_t lists = rows * problem_.k;
    device_.upload(input_, problem_.input + first * problem_.dim, rows * problem_.dim * 4);
    prepare(input_, rows, rowTiles * Tile::rows, scores_.inputOperand);
    device_.clear(lists_.best, lists);
    lists_.k = problem_.k;
    lists_.scores = scores_.scores;
    scores_.paddedDim = static_cast<int>(paddedDim_);
    for (int64_t c = 0; c < problem_.classes; c += chunk_) {
      if (problem_.execution.isCancelled()) return Status::abandoned();
      const int64_t classes = std::min(chunk_, problem_.classes - c), tiles = divideUp(classes, Tile::columns);
      scores_.classes = lists_.classes = static_cast<int>(classes);
      scores_.stride = lists_.stride = static_cast<int>(tiles * Tile::columns);
      scores_.bias = bias_ ? bias_ + c : nullptr;
      lists_.firstClass = static_cast<int>(c);
      prepare(weight_ + c * problem_.dim, classes, tiles * Tile::columns, scores_.weightOperand);
      device_.launch(doing, scoreTile<Core>, dim3(rowTiles, static_cast<unsigned>(tiles)), Tile::threads,
                     Tile::sharedBytes, scores_);
      device_.launch(doing, mergeTopK, dim3(grid), topKThreads, 0, lists_);
    }
    device_.launch(doing, unpackTopK, dim3(grid), topKThreads, 0, lists_);
    device_.download(problem_.indices + first * problem_.k, lists_.indices, lists * 4);
    device_.download(problem_.scores + first * problem_.k, lists_.bestScores, lists * 4);
    return device_.finish(doing);
  }

  Device& device_;
  TopKProblem& problem_;
  int64_t rows_, chunk_, paddedDim_;  // of a pass, of a chunk, of an operand
  float *input_ = nullptr, *weight_ = nullptr, *bias_ = nullptr;
  ScoreData scores_{};
  TopKData lists_{};
};

}  // namespace margin_softmax::cuda
