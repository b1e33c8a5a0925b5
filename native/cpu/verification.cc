// Scores of pairs. All pairs of rows: the loss's own tiles of cosines, turned into keys in place and counted. A list of
// pairs: each cosine in double precision by itself.
#include "../verification.h"

#include <algorithm>
#include <cmath>

#include "executor.h"
#include "score_counts.h"

namespace margin_softmax::cpu {
namespace {

constexpr int64_t block = 16;  // rows

// Fills inverse norms [N]; fails for the first row that holds a number that is not finite.
Status invertNorms(const VerificationProblem& problem, const Kernels& kernels, double* inverseNorms) {
  FirstPlace wrong;
  Pool::instance().forEach(problem.execution.threads, divideUp(problem.rows, block), [&](int64_t item, int) {
    for (int64_t i = item * block; i < std::min(problem.rows, (item + 1) * block); i++) {
      const float* row = problem.embeddings + i * problem.dim;
      const double squares = kernels.dotDouble(row, row, problem.dim);
      inverseNorms[i] = margin_softmax::inverseNorm(squares);
      if (!std::isfinite(squares)) wrong.report(i);
    }
  });
  if (!wrong.found()) return {};
  return {Failure::notFinite, "an embedding is not finite", wrong.place()};
}

// All pairs i < j. Rows i are packed, a run of them at a time; rows j are read in place.
class AllPairs {
 public:
  AllPairs(VerificationProblem& problem, const Kernels& kernels)
      : problem_(problem),
        kernels_(kernels),
        lanes_(kernels.lanes),
        runRows_(std::min(roundUp(problem.rows, chunkRows), std::min<int64_t>(Plan::rowsAtOnce(problem.dim), 65536))),
        tileRows_(Plan(chunkRows, problem.dim, problem.rows).tileClasses) {}

  Status run() {
    if (Status status = placeInWorkspace([this](Layout& layout) { layOut(layout); }); !status) return status;
    if (Status status = invertNorms(problem_, kernels_, inverseNorms_); !status) return status;
    for (int64_t i = 0; i < problem_.rows; i++) scale_[i] = static_cast<float>(inverseNorms_[i]);
    const int64_t rows = problem_.rows;
    if (Status status = counts_.prepare(rows * (rows - 1) / 2); !status) return status;
    Pool& pool = Pool::instance();
    const int threads = problem_.execution.threads;
    std::fill(lengths_, lengths_ + threads * ScoreCounts::ranges, 0);
    for (int64_t first = 0; first < rows; first += runRows_) {
      const int64_t count = std::min(runRows_, rows - first), chunks = divideUp(count, chunkRows);
      for (int64_t i = 0; i < runRows_; i++) runLabels_[i] = i < count ? problem_.labels[first + i] : 0;
      pool.forEach(threads, runRows_ / block, [&](int64_t item, int) { pack(first, count, item); });
      // Work items: a chunk of rows i × a strip of rows j.
      const int64_t strips = divideUp(rows - first, stripRows());
      pool.forEach(threads, chunks * strips, [&](int64_t item, int thread) {
        score(first, count, item % chunks, first + item / chunks * stripRows(), thread);
      });
      if (problem_.execution.isCancelled()) return Status::abandoned();
    }
    for (int thread = 0; thread < threads; thread++)
      for (int64_t range = 0; range < ScoreCounts::ranges; range++) flush(thread, range);
    counts_.measure(problem_);
    return {};
  }

 private:
  static constexpr int64_t chunkRows = 512, bufferLength = 512;
  int64_t stripRows() const { return 16 * tileRows_; }

  void layOut(Layout& layout) {
    const int64_t threads = problem_.execution.threads;
    query_ = layout.take<float>(runRows_ * problem_.dim);
    runLabels_ = layout.take<int32_t>(runRows_);
    inverseNorms_ = layout.take<double>(problem_.rows);
    scale_ = layout.take<float>(problem_.rows);
    tiles_ = layout.take<float>(threads * tileFloats());
    buffers_ = layout.take<int32_t>(threads * ScoreCounts::ranges * bufferLength);
    lengths_ = layout.take<int32_t>(threads * ScoreCounts::ranges);
  }
  int64_t tileFloats() const { return roundUp(tileRows_ * chunkRows, 16); }

  void pack(int64_t first, int64_t count, int64_t item) {
    const int64_t from = item * block, present = std::clamp<int64_t>(count - from, 0, block);
    packQuery(problem_.embeddings + (first + from) * problem_.dim, problem_.dim, from, present,
              inverseNorms_ + first + from, lanes_, query_);
  }

  void score(int64_t first, int64_t count, int64_t chunk, int64_t firstColumn, int thread) {
    const int64_t from = chunk * chunkRows, rows = std::min(chunkRows, count - from), panels = divideUp(rows, lanes_);
    const int64_t firstRow = first + from, lastColumn = std::min(firstColumn + stripRows(), problem_.rows);
    float* tile = tiles_ + thread * tileFloats();
    for (int64_t j = firstColumn; j < lastColumn && !problem_.execution.isCancelled(); j += tileRows_) {
      const int64_t columns = std::min(tileRows_, lastColumn - j);
      if (j + columns - 1 <= firstRow) continue;  // no j above any i
      kernels_.logits(problem_.embeddings + j * problem_.dim, problem_.dim, columns, query_ + from * problem_.dim,
                      panels, scale_ + j, nullptr, tile, tileRows_);
      int32_t* keys = reinterpret_cast<int32_t*>(tile);
      kernels_.scoreKeys(tile, tileRows_, columns, panels, scoreSteps, runLabels_ + from, problem_.labels + j,
                         ScoreCounts::sameOffset, keys);
      for (int64_t panel = 0; panel < panels; panel++)
        for (int64_t column = 0; column < columns; column++) {
          const int64_t above = std::min(j + column - firstRow, rows) - panel * lanes_;  // lanes with i < j
          const int32_t* at = keys + (panel * tileRows_ + column) * lanes_;
          for (int64_t lane = 0; lane < std::min<int64_t>(above, lanes_); lane++) put(thread, at[lane]);
        }
    }
  }

  void put(int thread, int32_t key) {
    const int64_t range = key >> ScoreCounts::rangeBits;
    int32_t& length = lengths_[thread * ScoreCounts::ranges + range];
    buffers_[(thread * ScoreCounts::ranges + range) * bufferLength + length++] = key;
    if (length == bufferLength) flush(thread, range);
  }

  void flush(int thread, int64_t range) {
    int32_t& length = lengths_[thread * ScoreCounts::ranges + range];
    counts_.add(range, buffers_ + (thread * ScoreCounts::ranges + range) * bufferLength, length);
    length = 0;
  }

  VerificationProblem& problem_;
  const Kernels& kernels_;
  const int lanes_;
  const int64_t runRows_, tileRows_;
  ScoreCounts counts_;
  float *query_, *scale_, *tiles_;
  int32_t *runLabels_, *buffers_, *lengths_;  // [run], [threads][ranges][bufferLength], [threads][ranges]
  double* inverseNorms_;
};

// The pairs of a list, by score: score bin in the upper half, then fold and kind.
class PairList {
 public:
  PairList(VerificationProblem& problem, const Kernels& kernels) : problem_(problem), kernels_(kernels) {}

  Status run() {
    if (Status status =
            placeInWorkspace([this](Layout& layout) { inverseNorms_ = layout.take<double>(problem_.rows); });
        !status)
      return status;
    if (Status status = invertNorms(problem_, kernels_, inverseNorms_); !status) return status;
    keys_ = Block::uninitialized(problem_.pairs * 8);
    if (!keys_.as<void>()) return Status::outOfMemory("the scores of the pairs", problem_.pairs * 8);
    constexpr int64_t most = 1 << 16;
    const int64_t itemPairs = std::max<int64_t>(256, divideUp(problem_.pairs, most));
    Pool::instance().forEach(problem_.execution.threads, divideUp(problem_.pairs, itemPairs), [&](int64_t item, int) {
      if (problem_.execution.isCancelled()) return;
      for (int64_t p = item * itemPairs; p < std::min(problem_.pairs, (item + 1) * itemPairs); p++) score(p);
    });
    if (problem_.execution.isCancelled()) return Status::abandoned();
    std::sort(begin(), end());
    measure();
    for (int64_t fold = 0; fold < problem_.folds && problem_.samePairs && problem_.differentPairs; fold++)
      measureFold(fold);
    return {};
  }

 private:
  uint64_t* begin() const { return keys_.as<uint64_t>(); }
  uint64_t* end() const { return begin() + problem_.pairs; }
  static int32_t binOf(uint64_t key) { return static_cast<int32_t>(key >> 32); }
  static bool isSame(uint64_t key) { return key & 1; }
  static int64_t foldOf(uint64_t key) { return static_cast<int64_t>((key & UINT32_MAX) >> 1); }

  void score(int64_t p) {
    const int64_t a = problem_.pairRows ? problem_.pairRows[2 * p] : 2 * p;
    const int64_t b = problem_.pairRows ? problem_.pairRows[2 * p + 1] : 2 * p + 1;
    const double product = kernels_.dotDouble(problem_.embeddings + a * problem_.dim,
                                              problem_.embeddings + b * problem_.dim, problem_.dim);
    const int32_t bin = scoreBin(product * inverseNorms_[a] * inverseNorms_[b]);
    // Folds as even as they come: the list's order decides, as in the lists that are published in sets.
    const uint64_t fold = problem_.folds ? static_cast<uint64_t>(p * problem_.folds / problem_.pairs) : 0;
    begin()[p] = static_cast<uint64_t>(bin) << 32 | fold << 1 | problem_.same[p];
    if (problem_.scores) problem_.scores[p] = static_cast<float>(scoreOf(bin));
  }

  // Calls body(bin, first, last) for the keys of each distinct score, from the highest on.
  template <class Body>
  void forScores(const Body& body) const {
    for (const uint64_t* last = end(); last != begin();) {
      const uint64_t* first = last;
      while (first != begin() && binOf(first[-1]) == binOf(last[-1])) first--;
      body(binOf(last[-1]), first, last);
      last = first;
    }
  }

  void measure() {
    problem_.samePairs = std::count_if(begin(), end(), isSame);
    problem_.differentPairs = problem_.pairs - problem_.samePairs;
    if (problem_.samePairs == 0 || problem_.differentPairs == 0) return;
    VerificationFigures figures(problem_);
    forScores([&](int32_t bin, const uint64_t* first, const uint64_t* last) {
      const int64_t same = std::count_if(first, last, isSame);
      figures.add(bin, same, (last - first) - same);
    });
    figures.finish();
  }

  // The threshold that is best on the other folds, and its accuracy on this one. Compared are differences to accepting
  // none.
  void measureFold(int64_t fold) {
    int64_t others = 0, own = 0, mostOthers = 0, ownAtMost = 0, ownDifferent = 0, ownPairs = 0;
    double threshold = std::numeric_limits<double>::infinity();
    forScores([&](int32_t bin, const uint64_t* first, const uint64_t* last) {
      for (const uint64_t* key = first; key != last; key++) {
        const bool mine = foldOf(*key) == fold;
        (mine ? own : others) += isSame(*key) ? 1 : -1;
        ownPairs += mine;
        ownDifferent += mine && !isSame(*key);
      }
      if (others <= mostOthers) return;
      mostOthers = others;
      ownAtMost = own;
      threshold = scoreOf(bin);
    });
    problem_.foldAccuracies[fold] = static_cast<double>(ownDifferent + ownAtMost) / static_cast<double>(ownPairs);
    problem_.foldThresholds[fold] = threshold;
  }

  VerificationProblem& problem_;
  const Kernels& kernels_;
  double* inverseNorms_ = nullptr;
  Block keys_;  // uint64_t [P]
};

}  // namespace

Status verification(VerificationProblem& problem) {
  const Kernels* kernels = findKernels(problem.execution.instructionSet);
  if (!kernels) return {Failure::unavailable, "this machine does not have that instruction set"};
  const Turn turn(problem.execution.cancelled);
  if (!turn) return Status::abandoned();
  return problem.labels ? AllPairs(problem, *kernels).run() : PairList(problem, *kernels).run();
}

}  // namespace margin_softmax::cpu
