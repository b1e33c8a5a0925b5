// Scores of pairs.
//
//   all pairs   the loss's tiles of cosines → keys, in place → counted. If all rows point nearly the same way, the tiles
//               hold their differences (centred_rows.h).
//   a list      each cosine separately, in double precision
#include "../../core/verification.h"

#include <algorithm>
#include <cmath>

#include "../executor.h"
#include "centred_rows.h"
#include "score_counts.h"
#include "score_list.h"

namespace margin_softmax::cpu {
namespace {

constexpr int64_t block = 16;  // rows

// Computes inverse norms [N] and counts the zero rows. Fails at the first row with a number that is
// not finite.
Status invertNorms(VerificationProblem& problem, const Kernels& kernels, double* inverseNorms) {
  FirstPlace wrong;
  Pool::instance().forEach(problem.execution.threads, divideUp(problem.rows, block), [&](int64_t item, int) {
    if (problem.execution.isCancelled()) return;
    for (int64_t i = item * block; i < std::min(problem.rows, (item + 1) * block); i++) {
      const float* row = problem.embeddings + i * problem.dim;
      const double squares = kernels.dotDouble(row, row, problem.dim);
      inverseNorms[i] = margin_softmax::inverseNorm(squares);
      if (!std::isfinite(squares)) wrong.report(i);
    }
  });
  if (problem.execution.isCancelled()) return Status::abandoned();
  if (wrong.found()) return {Failure::notFinite, "an embedding is not finite", wrong.place()};
  problem.zeroRows = std::count(inverseNorms, inverseNorms + problem.rows, 0.0);
  return {};
}

// All pairs i < j. Runs of rows i are packed in panels; rows j are read in place:
//
//   for every run of rows i: for every item (a chunk of the run × a strip of rows j): tiles → keys → buffers by range
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
    if (Status status =
            centred_.prepare(problem_.embeddings, problem_.rows, problem_.dim, inverseNorms_, problem_.execution);
        !status)
      return status;
    if (centred_.isNeeded()) {
      scaleCentred();
      problem_.histogramFrom = 1 - centred_.span();
    } else
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
    counts_.measure(problem_, centred_.span());
    return {};
  }

 private:
  static constexpr int64_t chunkRows = 512, bufferLength = 512;
  int64_t stripRows() const { return 16 * tileRows_; }

  void layOut(Layout& layout) {
    const int64_t threads = problem_.execution.threads;
    packedInput_ = layout.take<float>(runRows_ * problem_.dim);
    runLabels_ = layout.take<int32_t>(runRows_);
    inverseNorms_ = layout.take<double>(problem_.rows);
    scale_ = layout.take<float>(problem_.rows);
    rowTerms_ = layout.take<float>(roundUp(problem_.rows, runRows_));
    columnTerms_ = layout.take<float>(problem_.rows);
    tiles_ = layout.take<float>(threads * tileFloats());
    buffers_ = layout.take<int32_t>(threads * ScoreCounts::ranges * bufferLength);
    lengths_ = layout.take<int32_t>(threads * ScoreCounts::ranges);
  }
  int64_t tileFloats() const { return roundUp(tileRows_ * chunkRows, 16); }

  const float* operands() const { return centred_.isNeeded() ? centred_.rows() : problem_.embeddings; }

  // A tile holds places from −1 to 1 in the scores' span: 1 − 2·(1 − cos)/span, with the three
  // terms of 1 − cos.
  void scaleCentred() {
    const double factor = 2 / centred_.span();
    for (int64_t i = 0; i < problem_.rows; i++) {
      const double term = factor * centred_.halfSquares()[i];
      inverseNorms_[i] = std::sqrt(factor);
      scale_[i] = static_cast<float>(inverseNorms_[i]);
      rowTerms_[i] = static_cast<float>(term);
      columnTerms_[i] = static_cast<float>(1 - term);
    }
    std::fill(rowTerms_ + problem_.rows, rowTerms_ + roundUp(problem_.rows, runRows_), 0.0f);
  }

  void pack(int64_t first, int64_t count, int64_t item) {
    const int64_t from = item * block, present = std::clamp<int64_t>(count - from, 0, block);
    packInput(operands() + (first + from) * problem_.dim, problem_.dim, from, present, inverseNorms_ + first + from,
              lanes_, packedInput_);
  }

  void score(int64_t first, int64_t count, int64_t chunk, int64_t firstColumn, int thread) {
    const int64_t from = chunk * chunkRows, rows = std::min(chunkRows, count - from), panels = divideUp(rows, lanes_);
    const int64_t firstRow = first + from, lastColumn = std::min(firstColumn + stripRows(), problem_.rows);
    float* tile = tiles_ + thread * tileFloats();
    for (int64_t j = firstColumn; j < lastColumn && !problem_.execution.isCancelled(); j += tileRows_) {
      const int64_t columns = std::min(tileRows_, lastColumn - j);
      if (j + columns - 1 <= firstRow) continue;  // no j above any i
      kernels_.logits(operands() + j * problem_.dim, problem_.dim, columns, packedInput_ + from * problem_.dim, panels,
                      scale_ + j, centred_.isNeeded() ? columnTerms_ + j : nullptr, tile, tileRows_, {});
      if (centred_.isNeeded()) subtractRowTerms(rowTerms_ + firstRow, columns, panels, tile);
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

  void subtractRowTerms(const float* terms, int64_t columns, int64_t panels, float* tile) const {
    for (int64_t panel = 0; panel < panels; panel++)
      for (int64_t column = 0; column < columns; column++)
        for (int lane = 0; lane < lanes_; lane++)
          tile[(panel * tileRows_ + column) * lanes_ + lane] -= terms[panel * lanes_ + lane];
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
  CentredRows centred_;
  ScoreCounts counts_;
  float *packedInput_, *scale_, *rowTerms_, *columnTerms_, *tiles_;
  int32_t *runLabels_, *buffers_, *lengths_;  // [run], [threads][ranges][bufferLength], [threads][ranges]
  double* inverseNorms_;
};

// The pairs of a list: cosines in double precision, or the caller's scores.
class ListedPairs {
 public:
  ListedPairs(VerificationProblem& problem, const Kernels& kernels)
      : problem_(problem), kernels_(kernels), list_(problem) {}

  Status run() {
    if (Status status = problem_.givenScores ? refuseWhatIsNotFinite() : prepareNorms(); !status) return status;
    if (Status status = list_.prepare(); !status) return status;
    constexpr int64_t maxItems = 1 << 16;
    const int64_t itemPairs = std::max<int64_t>(256, divideUp(problem_.pairs, maxItems));
    Pool::instance().forEach(problem_.execution.threads, divideUp(problem_.pairs, itemPairs), [&](int64_t item, int) {
      if (problem_.execution.isCancelled()) return;
      for (int64_t p = item * itemPairs; p < std::min(problem_.pairs, (item + 1) * itemPairs); p++)
        list_.put(p, problem_.givenScores ? problem_.givenScores[p] : cosine(p));
    });
    if (problem_.execution.isCancelled()) return Status::abandoned();
    list_.measure();
    if (problem_.execution.isCancelled()) return Status::abandoned();
    return {};
  }

 private:
  Status prepareNorms() {
    if (Status status =
            placeInWorkspace([this](Layout& layout) { inverseNorms_ = layout.take<double>(problem_.rows); });
        !status)
      return status;
    return invertNorms(problem_, kernels_, inverseNorms_);
  }

  Status refuseWhatIsNotFinite() const {
    for (int64_t p = 0; p < problem_.pairs; p++)
      if (!std::isfinite(problem_.givenScores[p])) return {Failure::notFinite, "a score is not finite", p};
    return {};
  }

  double cosine(int64_t p) const {
    const int64_t a = problem_.pairRows ? problem_.pairRows[2 * p] : 2 * p;
    const int64_t b = problem_.pairRows ? problem_.pairRows[2 * p + 1] : 2 * p + 1;
    const double product = kernels_.dotDouble(problem_.embeddings + a * problem_.dim,
                                              problem_.embeddings + b * problem_.dim, problem_.dim);
    return listedScore(product * inverseNorms_[a] * inverseNorms_[b]);
  }

  VerificationProblem& problem_;
  const Kernels& kernels_;
  double* inverseNorms_ = nullptr;
  ScoreList list_;
};

}  // namespace

Status verification(VerificationProblem& problem) {
  const Kernels* kernels;
  const char* const named = problem.execution.instructionSet;
  if (Status status = chooseKernels(named, Precision::float32, kernels); !status) return status;
  const PoolLock lock(problem.execution.cancelled);
  if (!lock) return Status::abandoned();
  return problem.labels ? AllPairs(problem, *kernels).run() : ListedPairs(problem, *kernels).run();
}

}  // namespace margin_softmax::cpu
