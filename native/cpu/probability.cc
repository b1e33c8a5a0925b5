// Probability functions. Threads share the rows; a long row is cut into chunks. The cut depends on
// the shape alone, and chunks are added in order, so the number of threads does not change a bit.
//
//   for every row: for every chunk: sums → merged in order → the row's numbers → for every chunk: write
//
// A row of one chunk goes through all three stages while it is in the cache.
#include "../core/probability.h"

#include <cmath>
#include <new>
#include <vector>

#include "../core/pool.h"
#include "../formulas/row_sums.h"
#include "executor.h"
#include "kernels/probability_kernels.h"
#include "plan.h"

namespace margin_softmax::cpu {
namespace {

constexpr int64_t chunkSize = 32768;       // 128 KB of logits: still in a core's level-2 cache when read again
constexpr int64_t itemSize = 16384;        // elements worth handing to a thread
constexpr int64_t streamBytes = 16 << 20;  // larger outputs leave the caches before anyone reads them

RowSums sumsOf(const ProbabilityKernels& kernels, const float* z, int64_t n, Shares shares, bool weighted) {
  RowSums sums;
  for (int64_t i = 0; i < n; i += blockSize) {
    const int64_t length = static_cast<int64_t>(std::min<int64_t>(blockSize, n - i));
    sums.raise(kernels.maximum(z + i, length));
    BlockSums block;
    kernels.exponentialSums(z + i, length, static_cast<float>(sums.shift()), weighted ? &shares : nullptr, block);
    sums.add(block);
    if (shares.targets) shares.targets += length;
    if (shares.weights) shares.weights += length;
  }
  return sums;
}

// The pieces of a [rows, classes] array: rows, or chunks of long rows.
class Pieces {
 public:
  Pieces(int64_t rows, int64_t classes, int threads)
      : rows_(rows), classes_(classes), chunks_(divideUp(classes, chunkSize)), threads_(threads) {}

  int64_t rows() const { return rows_; }
  int64_t perRow() const { return chunks_; }
  int64_t count() const { return rows_ * chunks_; }

  // Calls body(piece, row, first class, classes) for every piece.
  template <class Body>
  void forEach(const Body& body) const {
    const int64_t each = std::min(classes_, chunkSize);
    const int64_t grain = std::max({int64_t{1}, itemSize / each, divideUp(count(), Pool::maxItems)});
    Pool::instance().forEach(threads_, divideUp(count(), grain), [&](int64_t item, int) {
      const int64_t end = std::min(count(), (item + 1) * grain);
      for (int64_t piece = item * grain; piece < end; piece++) {
        const int64_t first = piece % chunks_ * chunkSize;
        body(piece, piece / chunks_, first, static_cast<int64_t>(std::min(chunkSize, classes_ - first)));
      }
    });
  }

  // For every row: sums(row, first, n) → RowSums of each piece, merged in order; finish(row,
  // RowSums) → the row's numbers; write(numbers, row, first, n) for each piece.
  template <class Sums, class Finish, class Write>
  void overRows(const Sums& sums, const Finish& finish, const Write& write) const {
    if (chunks_ <= 1) {
      forEach([&](int64_t, int64_t row, int64_t first, int64_t n) {
        write(finish(row, sums(row, first, n)), row, first, n);
      });
      return;
    }
    std::vector<RowSums> partial(static_cast<size_t>(count()));
    forEach([&](int64_t piece, int64_t row, int64_t first, int64_t n) { partial[piece] = sums(row, first, n); });
    using Finished = decltype(finish(0, RowSums{}));
    std::vector<Finished> finished;
    finished.reserve(static_cast<size_t>(rows_));
    for (int64_t row = 0; row < rows_; row++) {
      for (int64_t chunk = 1; chunk < chunks_; chunk++) partial[row * chunks_].merge(partial[row * chunks_ + chunk]);
      finished.push_back(finish(row, partial[row * chunks_]));
    }
    forEach([&](int64_t, int64_t row, int64_t first, int64_t n) { write(finished[row], row, first, n); });
  }

 private:
  int64_t rows_, classes_, chunks_;
  int threads_;
};

bool streams(const float* in, const float* out, int64_t elements) {
  return in != out && elements * static_cast<int64_t>(sizeof(float)) > streamBytes;
}

Status chooseKernels(const Execution& execution, const ProbabilityKernels*& kernels) {
  const Kernels* all = nullptr;
  const Status status = cpu::chooseKernels(execution.instructionSet, Precision::float32, all);
  kernels = status ? all->probability : nullptr;
  return status;
}

// Reduces each row to one number: body(first element, elements) → double, added over the chunks in
// order.
template <class Body>
void reduceRows(const Pieces& pieces, int64_t classes, float* out, const Body& body) {
  if (pieces.perRow() == 1) {
    pieces.forEach(
        [&](int64_t, int64_t row, int64_t, int64_t n) { out[row] = static_cast<float>(body(row * classes, n)); });
    return;
  }
  std::vector<double> partial(static_cast<size_t>(pieces.count()));
  pieces.forEach(
      [&](int64_t piece, int64_t row, int64_t first, int64_t n) { partial[piece] = body(row * classes + first, n); });
  for (int64_t row = 0; row < pieces.rows(); row++) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < pieces.perRow(); chunk++) sum += partial[row * pieces.perRow() + chunk];
    out[row] = static_cast<float>(sum);
  }
}

Status run(const MeasureProblem& problem) {
  const ProbabilityKernels* kernels;
  if (Status status = chooseKernels(problem.execution, kernels); !status) return status;
  const int64_t classes = problem.classes;
  const float *p = problem.p, *q = problem.q;
  float* out = problem.out;
  const PoolLock lock;
  const Pieces pieces(problem.rows, classes, problem.execution.threads);
  const bool stream = streams(p, out, problem.rows * classes);

  const auto sums = [&](int64_t row, int64_t first, int64_t n) {
    return sumsOf(*kernels, p + row * classes + first, n, {}, false);
  };
  struct Normalizer {
    float shift, value;
  };
  switch (problem.measure) {
    case Measure::informationContent:
      pieces.forEach([&](int64_t, int64_t row, int64_t first, int64_t n) {
        const int64_t at = row * classes + first;
        kernels->informationContent(p + at, n, out + at, stream);
      });
      break;
    case Measure::entropy:
      reduceRows(pieces, classes, out, [&](int64_t at, int64_t n) { return kernels->entropy(p + at, n); });
      break;
    case Measure::klDivergence:
      reduceRows(pieces, classes, out, [&](int64_t at, int64_t n) { return kernels->klDivergence(p + at, q + at, n); });
      break;
    case Measure::crossEntropy:
      reduceRows(pieces, classes, out, [&](int64_t at, int64_t n) { return kernels->crossEntropy(p + at, q + at, n); });
      break;
    case Measure::softmax:
      pieces.overRows(
          sums,
          [](int64_t, const RowSums& row) {
            return Normalizer{static_cast<float>(row.shift()), static_cast<float>(1 / row.total())};
          },
          [&](const Normalizer& by, int64_t row, int64_t first, int64_t n) {
            const int64_t at = row * classes + first;
            kernels->softmax(p + at, n, by.shift, by.value, out + at, stream);
          });
      break;
    case Measure::logSoftmax:
      pieces.overRows(
          sums,
          [](int64_t, const RowSums& row) {
            return Normalizer{static_cast<float>(row.shift()), static_cast<float>(std::log1p(row.totalLessOne()))};
          },
          [&](const Normalizer& by, int64_t row, int64_t first, int64_t n) {
            const int64_t at = row * classes + first;
            kernels->logSoftmax(p + at, n, by.shift, by.value, out + at, stream);
          });
      break;
  }
  return {};
}

// Cross-entropy with the shares a_j = w_j t_j of closeLogits. With labels, the kernels add the
// smoothing's even share of every class, and closeLogits adds the label's.
class CrossEntropy {
 public:
  CrossEntropy(CrossEntropyProblem& problem, const ProbabilityKernels& kernels)
      : problem_(problem),
        kernels_(kernels),
        keep_(1 - problem.labelSmoothing),
        even_(problem.labelSmoothing / static_cast<double>(problem.classes)),
        weighted_(!problem.labels || problem.labelSmoothing != 0),
        stream_(streams(problem.logits, problem.gradLogits, problem.rows * problem.classes)),
        losses_(static_cast<size_t>(problem.rows)) {}

  void run() {
    const CrossEntropyProblem& p = problem_;
    divisor_ = divisorOf(p);
    const Pieces pieces(p.rows, p.classes, p.execution.threads);
    pieces.overRows(
        [this](int64_t row, int64_t first, int64_t n) { return sums(row, first, n); },
        [this](int64_t row, const RowSums& s) { return finish(row, s); },
        [this](const LogitGradient& by, int64_t row, int64_t first, int64_t n) { write(by, row, first, n); });
    double sum = 0;
    const bool none = p.reduction == Reduction::none;
    for (int64_t row = 0; row < p.rows; row++)
      if (!ignored(row)) sum += none ? upstreamOf(p, divisor_, row) * losses_[row] : losses_[row];
    problem_.loss = divisor_ == 0 ? 0 : sum / divisor_;
  }

 private:
  bool ignored(int64_t row) const { return problem_.labels && problem_.labels[row] < 0; }
  Shares sharesOf(int64_t row, int64_t first, double scale) const {
    Shares shares;
    if (!weighted_) return shares;
    if (problem_.targets) shares.targets = problem_.targets + row * problem_.classes + first;
    if (problem_.classWeights) shares.weights = problem_.classWeights + first;
    shares.keep = static_cast<float>(keep_ * scale);
    shares.add = static_cast<float>(even_ * scale);
    return shares;
  }

  RowSums sums(int64_t row, int64_t first, int64_t n) const {
    if (ignored(row)) return {};
    return sumsOf(kernels_, problem_.logits + row * problem_.classes + first, n, sharesOf(row, first, 1), weighted_);
  }

  LogitGradient finish(int64_t row, const RowSums& s) {
    LogitGradient gradient{};
    if (ignored(row)) {
      problem_.losses[row] = 0;
      return gradient;
    }
    LabelledLogit label{};
    if (problem_.labels)
      label = {true, problem_.logits[row * problem_.classes + problem_.labels[row]],
               weightOf(problem_, problem_.labels[row])};
    losses_[row] = closeLogits(s, label, keep_, even_, upstreamOf(problem_, divisor_, row), gradient);
    problem_.losses[row] = static_cast<float>(losses_[row]);
    return gradient;
  }

  void write(const LogitGradient& by, int64_t row, int64_t first, int64_t n) const {
    if (!problem_.gradLogits) return;
    const int64_t at = row * problem_.classes + first;
    float* out = problem_.gradLogits + at;
    if (ignored(row)) {
      std::fill(out, out + n, 0.0f);
      return;
    }
    kernels_.gradient(problem_.logits + at, n, by.shift, by.factor, sharesOf(row, first, by.scale), out, stream_);
    if (!problem_.labels) return;
    const int64_t label = problem_.labels[row] - first;
    if (label >= 0 && label < n) out[label] = by.atLabel;
  }

  CrossEntropyProblem& problem_;
  const ProbabilityKernels& kernels_;
  const double keep_, even_;  // 1 − ε and ε/C
  const bool weighted_;       // true if the kernels add shares
  const bool stream_;
  double divisor_ = 1;
  std::vector<double> losses_;  // [rows] before rounding
};

// Runs work and turns running out of memory into a failure.
template <class Work>
Status guarded(const Work& work) {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the sums of rows", 0);
  }
}

}  // namespace

Status measure(const MeasureProblem& problem) {
  return guarded([&] { return run(problem); });
}

Status crossEntropyLoss(CrossEntropyProblem& problem) {
  return guarded([&]() -> Status {
    const ProbabilityKernels* kernels;
    if (Status status = chooseKernels(problem.execution, kernels); !status) return status;
    const PoolLock lock;
    CrossEntropy(problem, *kernels).run();
    return {};
  });
}

}  // namespace margin_softmax::cpu
