// Finds the k best classes of each row with the loss's tiles; the B×C scores never exist at once.
//
//   for every slot (a run of class tiles × a chunk of rows): for every tile:
//     scores → each row's maximum → if it beats the row's worst candidate: look at the tile's classes
//   for every row: merge the slots' lists, sort
//
// Few rows take a kernel of their own, which reads the weights as fast as they come from memory (200,000
// classes of 128 dimensions: 3.5 ms where the panels took 20). It gives the same bits, so a row's result does not
// depend on the rows beside it.
//
// A candidate is better if its score is higher or, with equal scores, its class is lower. So the
// order of the slots does not matter.
#include <algorithm>
#include <cmath>
#include <new>

#include "executor.h"

namespace margin_softmax::cpu {
namespace {

struct Candidate {
  float score;
  int32_t index;
};

bool better(const Candidate& a, const Candidate& b) {
  return a.score != b.score ? a.score > b.score : a.index < b.index;
}

constexpr Candidate none{-HUGE_VALF, INT32_MAX};

class TopK {
 public:
  TopK(TopKProblem& problem, const Kernels& kernels, int64_t firstRow, int64_t rows)
      : problem_(problem),
        kernels_(kernels),
        plan_(rows, problem.dim, problem.classes),
        lanes_(kernels.lanes),
        few_(rows <= kernels.fewRows),
        fewStride_(roundUp(plan_.tileClasses, 16)),
        firstRow_(firstRow),
        paddedRows_(roundUp(rows, maxLanes)),
        // As many class slots as the lists of candidates leave room for.
        classSlots_(std::clamp<int64_t>(fixedBytes / 2 / (paddedRows_ * problem.k * 8), 1, plan_.classSlots)) {}

  Status run() {
    if (Status status = placeInWorkspace([this](Layout& layout) { layOut(layout); }); !status) return status;
    Pool& pool = Pool::instance();
    const int threads = problem_.execution.threads;
    pool.forEach(threads, paddedRows_ / 16, [&](int64_t item, int) { prepareRows(item); });
    pool.forEach(threads, classSlots_ * plan_.rowChunks, [&](int64_t slot, int thread) { search(slot, thread); });
    if (large_.found()) return Status::tooLarge(problem_.firstClass + large_.place());
    pool.forEach(threads, plan_.rows, [&](int64_t row, int) { merge(row); });
    return problem_.execution.isCancelled() ? Status::abandoned() : Status{};
  }

 private:
  void layOut(Layout& layout) {
    packedInput_ = layout.take<float>(paddedRows_ * plan_.dim);
    lists_ = layout.take<Candidate>(classSlots_ * paddedRows_ * problem_.k);
    tileFloats_ = few_ ? plan_.rows * fewStride_ : plan_.tileClasses * plan_.chunkRows;
    tiles_ = layout.take<float>(roundUp(tileFloats_, 16) * problem_.execution.threads);
    if (problem_.bfloat16Weight) weights_ = layout.take<float>(weightFloats() * problem_.execution.threads);
  }

  void prepareRows(int64_t block) {
    const int64_t first = block * 16, count = std::clamp<int64_t>(plan_.rows - first, 0, 16);
    const float* rows = problem_.input + (firstRow_ + first) * plan_.dim;
    double factors[16];
    for (int64_t i = 0; i < count; i++) {
      const float* x = rows + i * plan_.dim;
      factors[i] = problem_.normalized ? margin_softmax::inverseNorm(kernels_.dotDouble(x, x, plan_.dim)) : 1;
    }
    if (few_) {
      for (int64_t i = 0; i < count; i++)
        scaleRow(rows + i * plan_.dim, static_cast<float>(factors[i]), packedInput_ + (first + i) * plan_.dim);
    } else packInput(rows, plan_.dim, first, count, factors, lanes_, packedInput_);
  }

  // A factor of 0 gives zeros whatever the row holds, as in packInput.
  void scaleRow(const float* row, float factor, float* out) const {
    if (factor == 0) std::fill(out, out + plan_.dim, 0.0f);
    else kernels_.scaled(out, row, factor, plan_.dim);
  }

  int64_t weightFloats() const { return roundUp(plan_.tileClasses * plan_.dim, 16); }

  // A tile's weights, in place or, if they are stored in bfloat16, widened to this thread's memory
  // until the next call.
  const float* tileWeights(int64_t tile, int thread) const {
    const int64_t first = tile * plan_.tileClasses * plan_.dim;
    if (!problem_.bfloat16Weight) return problem_.weight + first;
    float* weights = weights_ + thread * weightFloats();
    kernels_.widen(problem_.bfloat16Weight + first, weights, plan_.tileSize(tile) * plan_.dim);
    return weights;
  }

  // Scores of a tile's classes with a chunk's rows, and bound[row] ≥ each of a row's. The norms are
  // computed with every chunk, while the weights are in the cache: a pass of their own would read all
  // weights once more.
  void score(int64_t tile, int64_t chunk, int thread, float* scores, float* bound) {
    const int64_t first = tile * plan_.tileClasses, classes = plan_.tileSize(tile);
    const float* weights = tileWeights(tile, thread);
    const float* bias = problem_.bias ? problem_.bias + first : nullptr;
    float inverseNorms[Plan::maxTileClasses];
    scaleRows(kernels_, weights, plan_.dim, classes, problem_.normalized, inverseNorms);
    if (problem_.normalized) reportLarge(inverseNorms, first, classes, leastInverseNorm(1), large_);
    if (few_) {
      kernels_.logitsOfFew(weights, plan_.dim, classes, packedInput_, plan_.rows, inverseNorms, bias, scores,
                           fewStride_, bound);
      return;
    }
    const int64_t panels = divideUp(plan_.chunkSize(chunk), lanes_);
    kernels_.logits(weights, plan_.dim, classes, packedInput_ + chunk * plan_.chunkRows * plan_.dim, panels,
                    inverseNorms, bias, scores, plan_.tileClasses, {});
    kernels_.tileMaximum(scores, plan_.tileClasses, classes, panels, bound);
  }

  // One slot. lists [rows of the chunk][k]: a row's list is a heap whose top is its worst
  // candidate.
  void search(int64_t slot, int thread) {
    const int64_t classSlot = slot / plan_.rowChunks, chunk = slot % plan_.rowChunks;
    const int64_t first = chunk * plan_.chunkRows, rows = plan_.chunkSize(chunk);
    float* tile = tiles_ + thread * roundUp(tileFloats_, 16);
    float best[Plan::maxChunkRows];  // of a tile, per row of the chunk
    Candidate* lists = lists_ + (classSlot * paddedRows_ + first) * problem_.k;
    std::fill(lists, lists + rows * problem_.k, none);
    for (int64_t t = plan_.classTiles * classSlot / classSlots_; t < plan_.classTiles * (classSlot + 1) / classSlots_;
         t++) {
      if (problem_.execution.isCancelled()) return;
      const int64_t firstClass = t * plan_.tileClasses, classes = plan_.tileSize(t);
      score(t, chunk, thread, tile, best);
      for (int64_t i = 0; i < rows; i++) {
        Candidate* list = lists + i * problem_.k;
        if (best[i] < list[0].score) continue;
        const float* scores =
            few_ ? tile + i * fewStride_ : tile + (i / lanes_) * plan_.tileClasses * lanes_ + i % lanes_;
        const int64_t apart = few_ ? 1 : lanes_;
        for (int64_t j = 0; j < classes; j++) {
          const Candidate candidate{scores[j * apart], static_cast<int32_t>(firstClass + j)};
          if (!better(candidate, list[0])) continue;
          std::pop_heap(list, list + problem_.k, better);
          list[problem_.k - 1] = candidate;
          std::push_heap(list, list + problem_.k, better);
        }
      }
    }
  }

  // Merges the other slots' candidates into slot 0's heap. An unfilled place becomes class −1.
  void merge(int64_t row) {
    Candidate* list = lists_ + row * problem_.k;
    for (int64_t slot = 1; slot < classSlots_; slot++) {
      const Candidate* other = lists_ + (slot * paddedRows_ + row) * problem_.k;
      for (int64_t i = 0; i < problem_.k; i++) {
        if (!better(other[i], list[0])) continue;
        std::pop_heap(list, list + problem_.k, better);
        list[problem_.k - 1] = other[i];
        std::push_heap(list, list + problem_.k, better);
      }
    }
    std::sort_heap(list, list + problem_.k, better);
    for (int64_t i = 0; i < problem_.k; i++) {
      problem_.indices[(firstRow_ + row) * problem_.k + i] = list[i].index == INT32_MAX ? -1 : list[i].index;
      problem_.scores[(firstRow_ + row) * problem_.k + i] = list[i].score;
    }
  }

  TopKProblem& problem_;
  const Kernels& kernels_;
  const Plan plan_;
  const int lanes_;
  const bool few_;  // rows, which are packed [rows][D]; their scores lie [rows][fewStride_]
  const int64_t fewStride_;
  const int64_t firstRow_, paddedRows_, classSlots_;
  int64_t tileFloats_ = 0;
  FirstPlace large_;  // class whose norm is too large
  float *packedInput_, *tiles_, *weights_ = nullptr;
  Candidate* lists_;  // [classSlots][N][k]
};

}  // namespace

Status topK(TopKProblem& problem) {
  const Kernels* kernels;
  const char* const named = problem.execution.instructionSet;
  if (Status status = chooseKernels(named, Precision::float32, kernels); !status) return status;
  // With long lists a pass takes fewer rows, so that the lists stay within the workspace.
  const int64_t byLists = std::max<int64_t>(64, fixedBytes / 4 / (problem.k * 8) / 64 * 64);
  const int64_t maxRows = std::min(Plan::rowsAtOnce(problem.dim), byLists);
  const PoolLock lock(problem.execution.cancelled);
  if (!lock) return Status::abandoned();
  for (int64_t first = 0; first < problem.rows; first += maxRows)
    if (Status status = TopK(problem, *kernels, first, std::min(maxRows, problem.rows - first)).run(); !status)
      return status;
  return {};
}

}  // namespace margin_softmax::cpu
