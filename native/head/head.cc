// A head's work: the training step, evaluation and topK on its arrays.
#include "head.h"

#include <new>
#include <numeric>

#include "../core/batch.h"
#include "../core/random.h"

namespace margin_softmax {

constexpr uint64_t dropoutStream = 0x64726f706f757400ull;  // apart from the samples' and the rounding's

Margin Head::marginNow() const {
  const double steps = static_cast<double>(settings_.warmupSteps), iteration = static_cast<double>(iteration_);
  return atIteration(warmedUp(settings_.margin, iteration < steps ? iteration / steps : 1), iteration);
}

Execution Head::here(Execution execution) const {
  execution.device = settings_.device;
  execution.precision = settings_.precision;
  return execution;
}

// With a projection the caller's rows are features, and those of the step below are its embeddings.
Status Head::run(Problem& problem, bool train, double learningRate) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  if (!projection_) return runOnEmbeddings(problem, train, learningRate);
  const float* const features = problem.input;
  // Before memory is taken for features that the head would refuse.
  const int64_t mostRows = cpuProjection.rowsOfStep(settings_.dim);
  if (train && !sharding_ && settings_.device == cpuDevice && problem.rows > mostRows)
    return Status::tooManyRows(problem.rows, settings_.dim, mostRows);
  uint64_t dropoutKey = randomBits(settings_.seed ^ dropoutStream, iteration_);
  if (sharding_) dropoutKey = randomBits(dropoutKey, sharding_->group().rank);
  const Execution execution = here(problem.execution);
  if (Status status = projection_->forward(features, problem.rows, train, dropoutKey, execution); !status)
    return declined(status, false);
  gradFeatures_ = problem.gradInput;
  problem.input = projection_->embeddings();
  problem.gradInput = train ? projection_->gradEmbeddings() : nullptr;
  const Status status = runOnEmbeddings(problem, train, learningRate);
  problem.input = features;
  problem.gradInput = gradFeatures_;
  return status;
}

Status Head::runOnEmbeddings(Problem& problem, bool train, double learningRate) {
  problem.classes = problem.totalClasses = settings_.classes;
  problem.dim = settings_.dim;
  problem.firstClass = settings_.firstClass;
  problem.execution = here(problem.execution);
  problem.resident = true;
  problem.bfloat16Weight = bfloat16Of("weight");
  if (!problem.bfloat16Weight) problem.weight = weight_.as<float>();
  problem.bias = bias_.as<float>();
  problem.margin = marginNow();
  problem.labelSmoothing = settings_.labelSmoothing;
  problem.interclassFilter = settings_.interclassFilter;
  // AdamW divides each element of a gradient by its own size, so a bound of the norm means nothing
  // to it.
  problem.negligible = settings_.optimizer.kind == OptimizerKind::adamW ? 0 : settings_.negligible;
  Update update;
  if (train) {
    update.optimizer = settings_.optimizer;
    update.optimizer.learningRate = learningRate;
    update.step = iteration_ + 1 - settings_.optimizerStart;
    update.roundingKey = randomBits(~settings_.seed, iteration_);  // independent of the samples' stream
    for (int i = 0; i < 2; i++) {
      update.weightState[i] = weightState_[i].as<float>();
      update.biasState[i] = biasState_[i].as<float>();
    }
  }
  Status status;
  bool begun = false;  // whether the class weights were updated and the projection was not
  try {
    if (train && settings_.maxGradientNorm > 0) {
      status = computeClipped(problem, update, learningRate);
    } else {
      if (train) problem.update = &update;
      status = compute(problem, train, learningRate);
      if (status && train && projection_) {
        status = projectBack(problem);
        if (status) status = projection_->update(update.optimizer, update.step, 1);
        begun = !status;
      }
    }
  } catch (const std::bad_alloc&) {
    status = Status::outOfMemory("the step", 0);
    if (sharding_) status = sharding_->refuse(status);
  }
  problem.update = nullptr;
  if (status && train) iteration_++;
  const bool onDevice = status.failure == Failure::device || status.failure == Failure::distributed;
  if (begun || (onDevice && problem.updateBegun)) {
    release();
    status.message += "; the head held part of an update and was disposed of";
  }
  return status;
}

// The norm is known only after the whole gradient, which is not stored. So the gradient is computed
// twice: once for its norm and all results, once scaled for the update. The factor is that of
// PyTorch's clip_grad_norm_.
Status Head::computeClipped(Problem& problem, Update& update, double learningRate) {
  Problem spent = problem;
  problem.measuresGradient = true;
  if (Status status = compute(problem, true, learningRate); !status) return status;
  if (projection_)
    if (Status status = projectBack(problem); !status) return status;
  const double norm = std::sqrt(problem.statistics->gradientSquares);
  const double factor = std::isfinite(norm) ? std::min(1.0, settings_.maxGradientNorm / (norm + 1e-6)) : 0;
  Statistics statistics;
  spent.statistics = &statistics;
  spent.gradInput = nullptr;
  spent.gradScale *= factor;
  spent.update = &update;
  const Status status = compute(spent, true, learningRate);
  problem.updateBegun = spent.updateBegun;
  return status && projection_ ? projection_->update(update.optimizer, update.step, factor) : status;
}

// The gradients of the projection and of the features, from that of the embeddings. Every rank has the
// same projection: gradients are those of all ranks' rows, and moments the means of the ranks'.
Status Head::projectBack(Problem& problem) {
  Status status = projection_->backward(gradFeatures_, problem.rows, problem.execution);
  double inputSquares = projection_->inputSquares();
  if (sharding_) {
    status = status ? sharding_->sumOverRanks(projection_->gradients(), projection_->trainedCount())
                    : sharding_->refuse(status);
    const auto [moments, count] = projection_->moments();
    if (status && count) status = sharding_->sumOverRanks(moments, count);
    for (int64_t i = 0; i < count; i++) moments[i] /= sharding_->group().size;
    if (status) status = sharding_->sumOverRanks(&inputSquares, 1);
  }
  double squares = 0;
  if (status) status = projection_->measure(problem.execution, squares);
  if (!status) return status;
  problem.statistics->gradientSquares += squares;
  problem.statistics->inputGradientSquares = inputSquares;
  return {};
}

// Tells the other ranks that this one can not embed its rows. The group stays usable.
Status Head::declined(const Status& reason, bool topK) {
  if (!sharding_) return reason;
  std::string text = reason.message.c_str();
  if (reason.failure == Failure::notFinite)
    text =
        "Expected finite numbers for features but received one that is not finite in row " + std::to_string(reason.row);
  sharding_->decline(text, topK);
  return reason;
}

Status Head::embed(const float* features, int64_t rows, float* embeddings, const Execution& execution) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  return projection_->embed(features, rows, embeddings, here(execution));
}

Status Head::compute(Problem& problem, bool train, double learningRate) {
  const bool sampled = train && settings_.sampleRate < 1;
  if (!sharding_) {
    weighTargets(problem);
    const Status status = sampled ? sample(problem) : Status{};
    return status ? executorOf(settings_.device)->loss(problem) : status;
  }
  Problem all = problem;
  if (Status status = sharding_->gather(all, train, learningRate, iteration_); !status) return status;
  weighTargets(all);
  if (!sampled) sharding_->localizeLabels(all);
  else if (Status status = sample(all); !status) return sharding_->refuse(status);
  if (sampled && all.classWeights)
    if (Status status = sharding_->sumOverRanks(&all.classWeightSum, 1); !status) return status;
  return sharding_->run(all, problem);
}

// Looks up the rows' class weights. The labels must still be numbers among all processes' classes.
void Head::weighTargets(Problem& problem) {
  if (classWeights_.empty()) return;
  targetWeights_ = weightsOfTargets(classWeights_.data(), problem.labels, problem.rows);
  problem.targetWeights = targetWeights_.data();
  problem.classWeights = classWeights_.data() + settings_.firstClass;
  problem.classWeightSum = std::accumulate(classWeights_.begin(), classWeights_.end(), 0.0);
}

// Restricts the problem to a sample of the classes.
Status Head::sample(Problem& problem) {
  const ClassRange range = sharding_ ? sharding_->range() : ClassRange{0, settings_.classes, settings_.classes};
  Status status = sampleClasses(range, settings_.sampleRate, settings_.seed, iteration_, problem.labels, problem.rows,
                                problem.execution.threads, sample_);
  problem.sample = sample_.classes.data();
  problem.classes = static_cast<int64_t>(sample_.classes.size());
  problem.totalClasses = sample_.total;
  if (settings_.sampleCorrection && sample_.total > 1)
    problem.negativeWeight = static_cast<double>(range.total - 1) / static_cast<double>(sample_.total - 1);
  problem.labels = sample_.labels.data();
  if (!problem.classWeights) return status;
  problem.classWeightSum = 0;  // of this process's classes
  for (const int32_t j : sample_.classes) problem.classWeightSum += problem.classWeights[j];
  return status;
}

Status Head::topK(TopKProblem& problem) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  problem.execution = here(problem.execution);
  if (projection_) {
    if (Status status = projection_->forward(problem.input, problem.rows, false, 0, problem.execution); !status)
      return declined(status, true);
    problem.input = projection_->embeddings();
    problem.dim = settings_.dim;
  }
  problem.firstClass = settings_.firstClass;
  problem.resident = true;
  problem.bfloat16Weight = bfloat16Of("weight");
  if (!problem.bfloat16Weight) problem.weight = weight_.as<float>();
  problem.bias = bias_.as<float>();
  problem.normalized = isNormalized(settings_.margin);
  problem.classes = settings_.classes;
  if (!sharding_) return executorOf(settings_.device)->topK(problem);
  try {
    return sharding_->topK(problem);
  } catch (const std::bad_alloc&) {
    return sharding_->refuse(Status::outOfMemory("the best classes of all ranks' rows", 0));
  }
}

Status Head::decline(const std::string& reason, bool topK) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  try {
    return sharding_->decline(reason, topK);
  } catch (const std::bad_alloc&) {
    return sharding_->refuse(Status::outOfMemory("the reason", 0));
  }
}

}  // namespace margin_softmax
