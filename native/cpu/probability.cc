// Probability functions: rows are shared out among the threads; a long row is cut into chunks. The cut follows from the
// shape alone, and chunks are added in order, so the thread count changes no bit.
#include "../probability.h"

#include <cmath>
#include <limits>
#include <new>
#include <vector>

#include "kernels.h"
#include "plan.h"
#include "pool.h"
#include "probability_kernels.h"

namespace margin_softmax::cpu {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr int64_t chunkSize = 32768;       // 128 KB of logits: still in a core's level-2 cache when read again
constexpr int64_t itemSize = 16384;        // elements worth handing to a thread
constexpr int64_t streamBytes = 16 << 20;  // an output that large leaves the caches before anybody reads it

// A row's sums as its blocks and chunks come in, relative to the largest logit so far. Among the addends of Σ e^(z −
// max) the ones are counted apart from the rest, so that log1p(Σ − 1) keeps what is small beside the maximum.
struct RowSums {
  double maximum = -infinity;
  double ones = 0, rest = 0;
  double shares = 0;   // Σ a_j
  double deficit = 0;  // Σ a_j (max − z_j)

  // What to subtract from logits: −∞ − (−∞) would be NaN before the first finite logit has come.
  double shift() const { return maximum == -infinity ? 0 : maximum; }
  double total() const { return maximum == -infinity ? std::nan("") : ones + rest; }
  double totalLessOne() const { return maximum == -infinity ? std::nan("") : ones - 1 + rest; }

  void raise(double to) {
    if (!(to > maximum)) return;
    deficit += shares * (to - shift());
    rest = (ones + rest) * std::exp(maximum - to);
    ones = 0;
    maximum = to;
  }
  template <class Sums>
  void add(const Sums& sums) {
    ones += sums.ones;
    rest += sums.rest;
    shares += sums.shares;
    deficit += sums.deficit;
  }
  void merge(RowSums other) {
    raise(other.maximum);
    other.raise(maximum);
    add(other);
  }
};

RowSums sumsOf(const ProbabilityKernels& kernels, const float* z, int64_t n, Shares shares, bool weighted) {
  RowSums sums;
  for (int64_t i = 0; i < n; i += blockSize) {
    const long length = static_cast<long>(std::min<int64_t>(blockSize, n - i));
    sums.raise(kernels.maximum(z + i, length));
    BlockSums block;
    kernels.exponentialSums(z + i, length, static_cast<float>(sums.shift()), weighted ? &shares : nullptr, block);
    sums.add(block);
    if (shares.targets) shares.targets += length;
    if (shares.weights) shares.weights += length;
  }
  return sums;
}

// A [rows, classes] array in pieces: rows, or chunks of long rows.
class Pieces {
 public:
  Pieces(int64_t rows, int64_t classes, int threads)
      : rows_(rows), classes_(classes), chunks_(divideUp(classes, chunkSize)), threads_(threads) {}

  int64_t rows() const { return rows_; }
  int64_t perRow() const { return chunks_; }
  int64_t count() const { return rows_ * chunks_; }

  // body(piece, row, first class, classes)
  template <class Body>
  void forEach(const Body& body) const {
    const int64_t each = std::min(classes_, chunkSize);
    const int64_t grain = std::max({int64_t{1}, itemSize / each, divideUp(count(), Pool::maxItems)});
    Pool::instance().forEach(threads_, divideUp(count(), grain), [&](int64_t item, int) {
      const int64_t end = std::min(count(), (item + 1) * grain);
      for (int64_t piece = item * grain; piece < end; piece++) {
        const int64_t first = piece % chunks_ * chunkSize;
        body(piece, piece / chunks_, first, static_cast<long>(std::min(chunkSize, classes_ - first)));
      }
    });
  }

  // sums(row, first, n) → RowSums; finish(row, RowSums) → what a row's pieces need; write(that, row, first, n). A row
  // of one piece goes through all three while it is in cache.
  template <class Sums, class Finish, class Write>
  void overRows(const Sums& sums, const Finish& finish, const Write& write) const {
    if (chunks_ <= 1) {
      forEach(
          [&](int64_t, int64_t row, int64_t first, long n) { write(finish(row, sums(row, first, n)), row, first, n); });
      return;
    }
    std::vector<RowSums> partial(static_cast<size_t>(count()));
    forEach([&](int64_t piece, int64_t row, int64_t first, long n) { partial[piece] = sums(row, first, n); });
    using Finished = decltype(finish(0, RowSums{}));
    std::vector<Finished> finished;
    finished.reserve(static_cast<size_t>(rows_));
    for (int64_t row = 0; row < rows_; row++) {
      for (int64_t chunk = 1; chunk < chunks_; chunk++) partial[row * chunks_].merge(partial[row * chunks_ + chunk]);
      finished.push_back(finish(row, partial[row * chunks_]));
    }
    forEach([&](int64_t, int64_t row, int64_t first, long n) { write(finished[row], row, first, n); });
  }

 private:
  int64_t rows_, classes_, chunks_;
  int threads_;
};

bool streams(const float* in, const float* out, int64_t elements) {
  return in != out && elements * static_cast<int64_t>(sizeof(float)) > streamBytes;
}

const ProbabilityKernels* kernelsFor(const Execution& execution) {
  const Kernels* kernels = findKernels(execution.instructionSet);
  return kernels ? kernels->probability : nullptr;
}

Status unavailable() { return {Failure::unavailable, "this machine does not have that instruction set"}; }

// One number for each row: body(first element, elements) → double, added over the chunks.
template <class Body>
void reduceRows(const Pieces& pieces, int64_t classes, float* out, const Body& body) {
  if (pieces.perRow() == 1) {
    pieces.forEach(
        [&](int64_t, int64_t row, int64_t, long n) { out[row] = static_cast<float>(body(row * classes, n)); });
    return;
  }
  std::vector<double> partial(static_cast<size_t>(pieces.count()));
  pieces.forEach(
      [&](int64_t piece, int64_t row, int64_t first, long n) { partial[piece] = body(row * classes + first, n); });
  for (int64_t row = 0; row < pieces.rows(); row++) {
    double sum = 0;
    for (int64_t chunk = 0; chunk < pieces.perRow(); chunk++) sum += partial[row * pieces.perRow() + chunk];
    out[row] = static_cast<float>(sum);
  }
}

Status run(const MeasureProblem& problem) {
  const ProbabilityKernels* kernels = kernelsFor(problem.execution);
  if (!kernels) return unavailable();
  const int64_t classes = problem.classes;
  const float *p = problem.p, *q = problem.q;
  float* out = problem.out;
  const Turn turn;
  const Pieces pieces(problem.rows, classes, problem.execution.threads);
  const bool stream = streams(p, out, problem.rows * classes);

  const auto sums = [&](int64_t row, int64_t first, long n) {
    return sumsOf(*kernels, p + row * classes + first, n, {}, false);
  };
  struct Normalizer {
    float shift, value;
  };
  switch (problem.measure) {
    case Measure::informationContent:
      pieces.forEach([&](int64_t, int64_t row, int64_t first, long n) {
        const int64_t at = row * classes + first;
        kernels->informationContent(p + at, n, out + at, stream);
      });
      break;
    case Measure::entropy:
      reduceRows(pieces, classes, out, [&](int64_t at, long n) { return kernels->entropy(p + at, n); });
      break;
    case Measure::klDivergence:
      reduceRows(pieces, classes, out, [&](int64_t at, long n) { return kernels->klDivergence(p + at, q + at, n); });
      break;
    case Measure::crossEntropy:
      reduceRows(pieces, classes, out, [&](int64_t at, long n) { return kernels->crossEntropy(p + at, q + at, n); });
      break;
    case Measure::softmax:
      pieces.overRows(
          sums,
          [](int64_t, const RowSums& row) {
            return Normalizer{static_cast<float>(row.shift()), static_cast<float>(1 / row.total())};
          },
          [&](const Normalizer& by, int64_t row, int64_t first, long n) {
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
          [&](const Normalizer& by, int64_t row, int64_t first, long n) {
            const int64_t at = row * classes + first;
            kernels->logSoftmax(p + at, n, by.shift, by.value, out + at, stream);
          });
      break;
  }
  return {};
}

// loss_i = Σ_j a_j (lse_i − z_ij) with the shares a_j = w_j t_j; ∂loss_i/∂z_ij = (Σ_k a_k) P_ij − a_j.
// With labels, the smoothing's even share of every class is in the vectors, and the label's own share is added here.
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
    divisor_ = 1;
    if (p.reduction == Reduction::mean) divisor_ = totalWeight();
    const Pieces pieces(p.rows, p.classes, p.execution.threads);
    pieces.overRows([this](int64_t row, int64_t first, long n) { return sums(row, first, n); },
                    [this](int64_t row, const RowSums& s) { return finish(row, s); },
                    [this](const Gradient& by, int64_t row, int64_t first, long n) { write(by, row, first, n); });
    double sum = 0;
    const bool none = p.reduction == Reduction::none;
    for (int64_t row = 0; row < p.rows; row++)
      if (!ignored(row)) sum += none ? upstream(row) * losses_[row] : losses_[row];
    problem_.loss = divisor_ == 0 ? 0 : sum / divisor_;
  }

 private:
  // What the row's gradient is made of: factor·e^(z − shift) − scale·a_j, and the value at its label.
  struct Gradient {
    float shift, factor;
    double scale;
    float atLabel;
  };

  bool ignored(int64_t row) const { return problem_.labels && problem_.labels[row] < 0; }
  double weightOf(int64_t label) const { return problem_.classWeights ? problem_.classWeights[label] : 1.0; }

  double totalWeight() const {
    if (!problem_.labels) return static_cast<double>(problem_.rows);
    double sum = 0;
    for (int64_t row = 0; row < problem_.rows; row++)
      if (!ignored(row)) sum += weightOf(problem_.labels[row]);
    return sum;
  }

  double upstream(int64_t row) const {
    if (problem_.reduction == Reduction::none) return problem_.gradOutput ? problem_.gradOutput[row] : 1.0;
    return divisor_ == 0 ? 0 : problem_.gradScale / divisor_;
  }

  Shares sharesOf(int64_t row, int64_t first, double scale) const {
    Shares shares;
    if (!weighted_) return shares;
    if (problem_.targets) shares.targets = problem_.targets + row * problem_.classes + first;
    if (problem_.classWeights) shares.weights = problem_.classWeights + first;
    shares.keep = static_cast<float>(keep_ * scale);
    shares.add = static_cast<float>(even_ * scale);
    return shares;
  }

  RowSums sums(int64_t row, int64_t first, long n) const {
    if (ignored(row)) return {};
    return sumsOf(kernels_, problem_.logits + row * problem_.classes + first, n, sharesOf(row, first, 1), weighted_);
  }

  Gradient finish(int64_t row, const RowSums& s) {
    if (ignored(row)) {
      problem_.losses[row] = 0;
      return {};
    }
    const double g = upstream(row), total = s.total(), logTotal = std::log1p(s.totalLessOne());
    double shares = s.shares, loss = s.deficit;
    Gradient gradient{};
    if (problem_.labels) {
      const int64_t label = problem_.labels[row];
      const double own = keep_ * weightOf(label), even = even_ * weightOf(label);
      const double difference = problem_.logits[row * problem_.classes + label] - s.shift();  // ≤ 0
      const double others = difference == 0 ? s.totalLessOne() : total - std::exp(difference);
      shares += own;
      if (own != 0) loss -= own * difference;  // a share of 0 counts nothing, even of an infinite loss
      // shares·P − own − even with P − 1 = −others/total, which does not cancel where P is near 1
      gradient.atLabel = static_cast<float>(g * (s.shares - even - shares * (others / total)));
    }
    loss += shares * logTotal;
    losses_[row] = loss;
    problem_.losses[row] = static_cast<float>(loss);
    gradient.shift = static_cast<float>(s.shift());
    gradient.factor = static_cast<float>(g * shares / total);
    gradient.scale = g;
    return gradient;
  }

  void write(const Gradient& by, int64_t row, int64_t first, long n) const {
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
  const bool weighted_;       // whether the vectors carry shares
  const bool stream_;
  double divisor_ = 1;
  std::vector<double> losses_;  // [rows] before rounding
};

// Runs the work where memory may run out.
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
    const ProbabilityKernels* kernels = kernelsFor(problem.execution);
    if (!kernels) return unavailable();
    const Turn turn;
    CrossEntropy(problem, *kernels).run();
    return {};
  });
}

}  // namespace margin_softmax::cpu
