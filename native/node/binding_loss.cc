// marginLoss and topK: JavaScript request → Problem → result.
#include <numeric>

#include "../core/batch.h"
#include "../core/executor.h"
#include "request.h"

namespace margin_softmax::binding {
void fillLoss(Napi::Object result, const Problem& problem, const Statistics& statistics) {
  set(result, "loss", problem.loss);
  Napi::Object leftOut = Napi::Object::New(result.Env());
  set(leftOut, "share", problem.omitted.share);
  set(leftOut, "gradInput", problem.omitted.gradInput);
  set(leftOut, "gradWeight", problem.omitted.gradWeight);
  result.Set("leftOut", leftOut);
  if (!problem.statistics) return;
  set(result, "accuracy", statistics.accuracy);
  set(result, "targetCosine", statistics.targetCosine);
  set(result, "largestOtherCosine", statistics.largestNegativeCosine);
  set(result, "gradientNorm", std::sqrt(statistics.gradientSquares));
  set(result, "gradInputNorm", std::sqrt(statistics.inputGradientSquares));
}

void readBatch(const Request& request, Problem& problem) {
  const size_t rows = static_cast<size_t>(problem.rows), dim = static_cast<size_t>(problem.dim);
  problem.input = request.input<float>("input", rows * dim);
  problem.labels = request.labels(problem.rows, problem.classes);
  problem.gradOutput = request.optionalInput<float>("gradOutput", rows);
  problem.sampleWeights = request.optionalInput<float>("sampleWeights", rows);
  problem.reduction = readReduction(request);
  problem.gradScale = request.number("gradScale");
  problem.losses = request.output<float>("losses", rows);
  problem.gradInput = request.optionalOutput<float>("gradInput", rows * dim);
}

namespace {

struct LossJob : Job {
  Problem problem;
  Statistics statistics;
  std::string instructionSet;
  std::vector<float> targetWeights;
  Status work() override {
    if (problem.classWeights) {
      targetWeights = weightsOfTargets(problem.classWeights, problem.labels, problem.rows);
      problem.targetWeights = targetWeights.data();
      problem.classWeightSum = std::accumulate(problem.classWeights, problem.classWeights + problem.classes, 0.0);
    }
    return executorOf(problem.execution.device)->loss(problem);
  }
  void fill(Napi::Object result) const override { fillLoss(result, problem, statistics); }
};

Napi::Value loss(const Napi::CallbackInfo& info) {
  return perform<LossJob>(info, [&](LossJob& job) {
    const Request request(info[0], job);
    job.asynchronous = request.flag("asynchronous");
    Problem& problem = job.problem;
    problem.rows = request.integer("rows", 1, largestSize);
    problem.dim = request.integer("dim", 1, largestSize);
    problem.classes = problem.totalClasses = request.integer("classes", 1, largestSize);
    const size_t classes = static_cast<size_t>(problem.classes), weights = classes * static_cast<size_t>(problem.dim);
    // Only an update writes weights or bias, and there is none here.
    problem.weight = const_cast<float*>(request.input<float>("weight", weights));
    problem.bias = const_cast<float*>(request.optionalInput<float>("bias", classes));
    problem.classWeights = request.optionalInput<float>("classWeights", classes);
    readBatch(request, problem);
    problem.labelSmoothing = request.number("labelSmoothing");
    problem.negligible = request.number("negligible");
    problem.gradWeight = request.optionalOutput<float>("gradWeight", weights);
    problem.gradBias = request.optionalOutput<float>("gradBias", classes);
    // A copy of the bias that failed for want of memory says so itself.
    if (problem.gradBias && !problem.bias && job.prepared) request.refuse("Expected a bias for gradBias");
    problem.margin = readMargin(request);
    problem.execution = readExecution(request, job.instructionSet);
  });
}

struct TopKJob : Job {
  TopKProblem problem;
  std::string instructionSet;
  Status work() override { return executorOf(problem.execution.device)->topK(problem); }
  void fill(Napi::Object) const override {}
};

Napi::Value topK(const Napi::CallbackInfo& info) {
  return perform<TopKJob>(info, [&](TopKJob& job) {
    const Request request(info[0], job);
    job.asynchronous = request.flag("asynchronous");
    readTopK(request, job.problem, job.instructionSet);
    const size_t classes = static_cast<size_t>(job.problem.classes);
    job.problem.weight = request.input<float>("weight", classes * static_cast<size_t>(job.problem.dim));
    job.problem.bias = request.optionalInput<float>("bias", classes);
    job.problem.normalized = isNormalized(readMargin(request));
  });
}

}  // namespace

void readTopK(const Request& request, TopKProblem& problem, std::string& instructionSet) {
  problem.rows = request.integer("rows", 1, largestSize);
  problem.dim = request.integer("dim", 1, largestSize);
  problem.classes = request.integer("classes", 1, largestSize);
  problem.k = request.integer("k", 1, problem.classes);
  const size_t rows = static_cast<size_t>(problem.rows), k = static_cast<size_t>(problem.k);
  problem.input = request.input<float>("input", rows * static_cast<size_t>(problem.dim));
  problem.indices = request.output<int32_t>("indices", rows * k);
  problem.scores = request.output<float>("scores", rows * k);
  problem.execution = readExecution(request, instructionSet);
}

void exportLoss(Napi::Object exports) {
  addFunction<loss>(exports, "loss");
  addFunction<topK>(exports, "topK");
}

}  // namespace margin_softmax::binding
