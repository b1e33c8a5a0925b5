#include "sharding.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "../core/batch.h"

namespace margin_softmax {
namespace {

std::vector<int64_t> times(std::vector<int64_t> counts, int64_t factor) {
  for (int64_t& count : counts) count *= factor;
  return counts;
}

// The names, for messages, of what ranks compare before a step or an evaluation, and before a topK.
constexpr const char* stepNames[] = {"call (step or evaluate)", "choice of gradInput", "learningRate", "iteration",
                                     "choice of sampleWeights"};
constexpr const char* topKNames[] = {"call (topK)", "k"};
constexpr int64_t declined = -1;  // number of rows of a rank that can not make the call

}  // namespace

// Calls work(failure), a collective of the group, and returns its failure as a Status.
template <class Work>
Status Sharding::collective(const Work& work) const {
  CollectiveFailure failure;
  if (work(&failure)) return {};
  return {static_cast<Failure>(failure.failure), failure.message};
}

Status Sharding::refuse(const Status& reason) const {
  collective([&](CollectiveFailure* failure) {
    return group_.refuse(group_.context, name_.c_str(), reason.message.c_str(), failure);
  });
  return reason;
}

// Waits for all ranks: a broadcast of nothing. Returns the first failing rank's error, if any.
Status Sharding::barrier() const {
  char nothing = 0;
  return collective([&](CollectiveFailure* failure) {
    return group_.broadcast(group_.context, name_.c_str(), &nothing, 0, 0, Element::uint8, failure);
  });
}

// Returns `status`. If it is a failure of this rank's device, tells the other ranks first, so that
// none waits.
Status Sharding::shareFailure(Status status) const { return status ? status : refuse(status); }

Status Sharding::connect(int device, const std::string& library) {
  return chooseExchange(group_, name_.c_str(), device, library, exchange_);
}

// One all-gather: learns each rank's number of rows, and checks that all ranks request the same.
// `names` names the entries of `request`. A rank that declines passes `declined` rows and its
// `reason`.
Status Sharding::gatherRows(int64_t mine, std::vector<int64_t> request, const char* const* names,
                            const std::string& reason) {
  request.insert(request.begin(), mine);
  const int64_t length = static_cast<int64_t>(request.size());
  const std::vector<int64_t> counts(group_.size, length);
  std::vector<int64_t> all(group_.size * length);
  const Status status = collective([&](CollectiveFailure* failure) {
    return group_.allGather(group_.context, name_.c_str(), request.data(), counts.data(), all.data(), Element::int64,
                            failure);
  });
  if (!status) return status;
  allRows_ = firstRow_ = 0;
  for (int rank = 0; rank < group_.size; rank++) rows_[rank] = all[rank * length];
  if (std::count(rows_.begin(), rows_.end(), declined)) return gatherReasons(reason);
  for (int rank = 0; rank < group_.size; rank++) {
    const int64_t* theirs = all.data() + rank * length;
    for (int64_t i = 1; i < length; i++)
      if (theirs[i] != all[i])
        return {Failure::distributed, "Expected the same " + std::string(names[i - 1]) + " on every rank of " + name_ +
                                          " but ranks 0 and " + std::to_string(rank) + " differ"};
    if (rank < group_.rank) firstRow_ += theirs[0];
    allRows_ += theirs[0];
  }
  return {};
}

// Gathers the reasons of the ranks that declined, and returns the first one as every rank's
// failure.
Status Sharding::gatherReasons(const std::string& mine) const {
  constexpr size_t room = sizeof CollectiveFailure::message;  // longer reasons are cut off
  std::vector<int64_t> counts(group_.size);
  for (int rank = 0; rank < group_.size; rank++) counts[rank] = rows_[rank] == declined ? room : 0;
  std::vector<char> reason(room), all(room * std::count(rows_.begin(), rows_.end(), declined));
  mine.copy(reason.data(), room - 1);
  const Status status = collective([&](CollectiveFailure* failure) {
    return group_.allGather(group_.context, name_.c_str(), reason.data(), counts.data(), all.data(), Element::uint8,
                            failure);
  });
  if (!status) return status;
  const auto first = std::find(rows_.begin(), rows_.end(), declined) - rows_.begin();
  return {Failure::distributed,
          "Expected every rank to go on but rank " + std::to_string(first) + " could not: " + all.data()};
}

Status Sharding::decline(const std::string& reason, bool topK) {
  const size_t compared = topK ? std::size(topKNames) : std::size(stepNames);
  return gatherRows(declined, std::vector<int64_t>(compared), topK ? topKNames : stepNames, reason);
}

Status Sharding::gatherInputs(const float* input, int64_t dim) {
  if (input_.bytes() < allRows_ * dim * 4) input_ = Block::uninitialized(allRows_ * dim * 4);
  if (!input_.as<float>()) return refuse(Status::outOfMemory("the rows of all ranks", allRows_ * dim * 4));
  return collective([&](CollectiveFailure* failure) {
    return group_.allGather(group_.context, name_.c_str(), input, times(rows_, dim).data(), input_.as<float>(),
                            Element::float32, failure);
  });
}

Status Sharding::gather(Problem& problem, bool train, double learningRate, int64_t iteration) {
  int64_t rate;
  std::memcpy(&rate, &learningRate, sizeof rate);
  const bool weighted = problem.sampleWeights;
  Status status = gatherRows(problem.rows, {train, problem.gradInput != nullptr, rate, iteration, weighted}, stepNames);
  DeviceExchange* const devices = exchange_.exchange.get();
  if (status)
    status = devices ? shareFailure(devices->begin(rows_, problem.dim, problem.input))
                     : gatherInputs(problem.input, problem.dim);
  if (!status) return status;
  labels_.resize(allRows_);
  status = collective([&](CollectiveFailure* failure) {
    return group_.allGather(group_.context, name_.c_str(), problem.labels, rows_.data(), labels_.data(), Element::int32,
                            failure);
  });
  if (status && weighted) {
    sampleWeights_.resize(allRows_);
    status = collective([&](CollectiveFailure* failure) {
      return group_.allGather(group_.context, name_.c_str(), problem.sampleWeights, rows_.data(), sampleWeights_.data(),
                              Element::float32, failure);
    });
    problem.sampleWeights = sampleWeights_.data();
  }
  if (status && devices) status = shareFailure(devices->gather());
  problem.rows = allRows_;
  problem.rowsResident = devices != nullptr;
  problem.input = devices ? devices->input() : input_.as<float>();
  problem.labels = labels_.data();
  return status;
}

Status Sharding::allReduce(void* values, int64_t count, Element element, ReduceOp reduceOp) const {
  return collective([&](CollectiveFailure* failure) {
    return group_.allReduce(group_.context, name_.c_str(), values, count, element, reduceOp, failure);
  });
}

Status Sharding::sumOverRanks(double* values, int64_t count) const {
  return allReduce(values, count, Element::float64, ReduceOp::sum);
}

Status Sharding::sumOverRanks(float* values, int64_t count) const {
  return allReduce(values, count, Element::float32, ReduceOp::sum);
}

void Sharding::localizeLabels(Problem& problem) {
  for (int32_t& label : labels_)
    if (label != ignoredLabel)
      label = range_.holds(label) ? static_cast<int32_t>(label - range_.first) : labelElsewhere;
  problem.labels = labels_.data();
  problem.totalClasses = range_.total;
}

// Reduces totals through host memory: first the maxima, then the sums relative to them, which can
// be added.
struct Sharding::Exchange : TotalsExchange {
  explicit Exchange(const Sharding& owner) : sharding(owner) {}

  Status reduceTotals(RowTotals* rows, int64_t count) override {
    std::vector<double> maxima(count * 2), sums(count * 4);
    for (int64_t i = 0; i < count; i++) {
      maxima[2 * i] = rows[i].maximum;
      maxima[2 * i + 1] = rows[i].largest;
    }
    if (Status status = sharding.allReduce(maxima.data(), count * 2, Element::float64, ReduceOp::max); !status)
      return status;
    for (int64_t i = 0; i < count; i++) {
      const double mine[] = {sumAt(rows[i], maxima[2 * i]), rows[i].logits, rows[i].target, rows[i].cosine};
      std::copy(mine, mine + 4, sums.begin() + i * 4);
    }
    if (Status status = sharding.sumOverRanks(sums.data(), count * 4); !status) return status;
    for (int64_t i = 0; i < count; i++)
      rows[i] = {maxima[2 * i], maxima[2 * i + 1], sums[i * 4], sums[i * 4 + 1], sums[i * 4 + 2], sums[i * 4 + 3]};
    return {};
  }

  const Sharding& sharding;
};

// Reduces totals in the memory of the ranks' devices.
struct Sharding::OnDevices : TotalsExchange {
  OnDevices(const Sharding& owner, bool fromHost) : sharding(owner), fromHost(fromHost) {}

  Status reduceTotals(RowTotals* rows, int64_t) override {
    if (Status status = sharding.barrier(); !status) return status;
    DeviceExchange& devices = *sharding.exchange_.exchange;
    return sharding.shareFailure(fromHost ? devices.reduceTotalsFromHost(rows) : devices.reduceTotals(rows));
  }

  const Sharding& sharding;
  const bool fromHost;
};

namespace {

// Runs a step on a rank that holds none of its sampled classes: all totals come from the other
// ranks.
Status withoutClasses(Problem& problem) {
  const BatchWeights weights = weighBatch(problem);
  std::vector<RowTotals> totals(problem.rows, noTotals);
  if (transformsNegatives(problem.margin)) {  // the other ranks ask for the targets' cosines first
    if (Status status = problem.exchange->reduceTotals(totals.data(), problem.rows); !status) return status;
    std::fill(totals.begin(), totals.end(), noTotals);
  }
  if (Status status = problem.exchange->reduceTotals(totals.data(), problem.rows); !status) return status;
  double sum = 0;
  for (int64_t i = 0; i < problem.rows; i++) {
    problem.losses[i] = 0;
    if (problem.labels[i] == ignoredLabel) continue;
    double squares = 0;
    for (int64_t d = 0; d < problem.dim; d++) {
      const double x = problem.input[i * problem.dim + d];
      squares += x * x;
    }
    const RowWeight& weight = weights.of(i);
    RowState state = rowWithoutTarget(problem.margin, labelElsewhere, squares, weight, weights.rowGradient);
    closeRow(state, totals[i], problem.negativeWeight);
    if (problem.trains() && !std::isfinite(state.loss)) return {Failure::notFinite, "the loss is not finite", i};
    problem.losses[i] = static_cast<float>(weight.loss * state.loss);
    sum += weight.loss * state.loss;
    problem.statistics->accuracy += state.cosine > state.largestNegative;
    problem.statistics->targetCosine += state.cosine;
    problem.statistics->largestNegativeCosine += state.largestNegative;
  }
  if (problem.gradInput) std::memset(problem.gradInput, 0, problem.rows * problem.dim * sizeof(float));
  closeBatch(problem, weights, sum);
  return {};
}

}  // namespace

// The same if the rows lie on devices: computed on the host, since there is nothing to multiply.
Status Sharding::runWithoutClasses(Problem& problem) const {
  if (!problem.rowsResident) return withoutClasses(problem);
  const Executor& executor = *executorOf(problem.execution.device);
  const int device = problem.execution.device;
  const int64_t bytes = problem.rows * problem.dim * 4;
  std::vector<float> rows(problem.rows * problem.dim);
  if (Status status = executor.download(device, problem.input, rows.data(), bytes); !status) return status;
  OnDevices exchange(*this, true);
  Problem host = problem;
  host.exchange = &exchange;
  host.input = rows.data();
  host.gradInput = nullptr;
  const Status status = withoutClasses(host);
  problem.loss = host.loss;
  if (!status || !problem.gradInput) return status;
  std::fill(rows.begin(), rows.end(), 0.0f);
  return executor.upload(device, problem.gradInput, rows.data(), bytes);
}

// Rewrites a failure in a row of all ranks' rows: names the rank and the row of its batch.
Status Sharding::nameRankAndRow(Status status) const {
  int rank = 0;
  int64_t row = status.row;
  while (row >= rows_[rank]) row -= rows_[rank++];
  status.row = -1;
  status.message = "Expected finite numbers for embeddings but received a loss that is not finite in row ";
  ((status.message += row) += " of rank ") += rank;
  return status;
}

Status Sharding::run(Problem& problem, Problem& mine) {
  Exchange exchange(*this);
  OnDevices onDevices(*this, false);
  DeviceExchange* const devices = exchange_.exchange.get();
  problem.exchange = devices ? static_cast<TotalsExchange*>(&onDevices) : &exchange;
  std::vector<float> losses(allRows_);
  const int64_t bytes = problem.gradInput && !devices ? allRows_ * problem.dim * 4 : 0;
  const Block gradInput = Block::uninitialized(bytes);
  if (bytes && !gradInput.as<float>()) return refuse(Status::outOfMemory("the gradients of all ranks' rows", bytes));
  problem.losses = losses.data();
  if (problem.gradInput) problem.gradInput = devices ? devices->gradInput() : gradInput.as<float>();
  Status status = problem.classes ? executorOf(problem.execution.device)->loss(problem) : runWithoutClasses(problem);
  problem.exchange = nullptr;
  mine.updateBegun = problem.updateBegun;
  // A loss that is not finite fails on every rank by itself. A failure of this rank alone must be
  // shared.
  if (status.failure == Failure::notFinite) return nameRankAndRow(status);
  if (!status) return status.failure == Failure::distributed ? status : refuse(status);
  mine.loss = problem.loss;
  mine.updateBegun = problem.update != nullptr;  // until the last collective has succeeded
  std::copy_n(losses.begin() + firstRow_, mine.rows, mine.losses);
  return scatterResults(problem, mine);
}

// Reduces and scatters gradInput, each rank its own rows, and sums the statistics over ranks.
Status Sharding::scatterResults(Problem& problem, Problem& mine) {
  const int64_t dim = problem.dim;
  double squares[2] = {problem.statistics->gradientSquares, 0};
  if (problem.gradInput) {
    Status status;
    if (!problem.rowsResident)
      status = collective([&](CollectiveFailure* failure) {
        return group_.reduceScatter(group_.context, name_.c_str(), problem.gradInput, times(rows_, dim).data(),
                                    mine.gradInput, Element::float32, ReduceOp::sum, failure);
      });
    else if (status = barrier(); status) status = shareFailure(exchange_.exchange->reduceScatter(mine.gradInput));
    if (!status) return status;
    for (int64_t i = 0; i < mine.rows * dim; i++)
      squares[1] += static_cast<double>(mine.gradInput[i]) * mine.gradInput[i];
  }
  const Status status = sumOverRanks(squares, 2);
  problem.statistics->gradientSquares = squares[0];
  problem.statistics->inputGradientSquares = squares[1];
  return status;
}

Status Sharding::topK(TopKProblem& problem) {
  Status status = gatherRows(problem.rows, {-1, problem.k}, topKNames);
  if (status) status = gatherInputs(problem.input, problem.dim);
  if (!status) return status;
  struct Candidate {
    float score;
    int32_t index;
  };
  const int64_t k = problem.k, localK = std::min(k, range_.count);
  TopKProblem all = problem;
  std::vector<int32_t> indices(allRows_ * localK);
  std::vector<float> scores(allRows_ * localK);
  all.rows = allRows_;
  all.input = input_.as<float>();
  all.k = localK;
  all.indices = indices.data();
  all.scores = scores.data();
  status = executorOf(problem.execution.device)->topK(all);
  if (!status) return refuse(status);
  // candidates [N][k] of this rank, gathered [size][N][k]. A rank with fewer than k classes fills
  // up with worse ones.
  std::vector<Candidate> candidates(allRows_ * k, {-HUGE_VALF, INT32_MAX}), gathered(allRows_ * k * group_.size);
  for (int64_t i = 0; i < allRows_ * localK; i++)
    candidates[i / localK * k + i % localK] = {scores[i], static_cast<int32_t>(indices[i] + range_.first)};
  const std::vector<int64_t> counts(group_.size, allRows_ * k);
  status = collective([&](CollectiveFailure* failure) {
    return group_.allGather(group_.context, name_.c_str(), candidates.data(), counts.data(), gathered.data(),
                            Element::uint64, failure);
  });
  if (!status) return status;
  std::vector<Candidate> row(k * group_.size);
  for (int64_t i = 0; i < problem.rows; i++) {
    for (int rank = 0; rank < group_.size; rank++)
      std::copy_n(gathered.begin() + (rank * allRows_ + firstRow_ + i) * k, k, row.begin() + rank * k);
    std::sort(row.begin(), row.end(), [](const Candidate& a, const Candidate& b) {
      return a.score != b.score ? a.score > b.score : a.index < b.index;
    });
    for (int64_t j = 0; j < k; j++) {
      problem.indices[i * k + j] = row[j].index;
      problem.scores[i * k + j] = row[j].score;
    }
  }
  return {};
}

}  // namespace margin_softmax
