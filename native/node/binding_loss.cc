// marginLoss and topK: JavaScript request → Problem → result.
#include <numeric>

#include "../core/batch.h"
#include "../core/executor.h"
#include "binding.h"

namespace margin_softmax::binding {
namespace {

int64_t size(Napi::Object request, const char* name) {
  const int64_t value = request.Get(name).As<Napi::Number>().Int64Value();
  if (value < 1 || value > INT32_MAX)
    throw Napi::RangeError::New(request.Env(), std::string("Expected a size for ") + name);
  return value;
}

}  // namespace

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

void readBatch(Napi::Object request, Job& job, Problem& problem) {
  const size_t rows = static_cast<size_t>(problem.rows), dim = static_cast<size_t>(problem.dim);
  problem.input = job.input<float>(request.Get("input"), "input", rows * dim);
  problem.labels = job.labels(request.Get("labels"), problem.rows, problem.classes);
  const Napi::Value gradOutput = request.Get("gradOutput");
  if (!gradOutput.IsUndefined()) problem.gradOutput = job.input<float>(gradOutput, "gradOutput", rows);
  const Napi::Value sampleWeights = request.Get("sampleWeights");
  if (!sampleWeights.IsUndefined()) problem.sampleWeights = job.input<float>(sampleWeights, "sampleWeights", rows);
  problem.reduction = static_cast<Reduction>(request.Get("reduction").As<Napi::Number>().Int32Value());
  problem.gradScale = request.Get("gradScale").As<Napi::Number>().DoubleValue();
  problem.losses = job.output<float>(request.Get("losses"), "losses", rows);
  problem.gradInput = job.output<float>(request.Get("gradInput"), "gradInput", rows * dim);
  if (!problem.losses) throw Napi::TypeError::New(request.Env(), "Expected an array for losses");
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
    Napi::Object request = info[0].As<Napi::Object>();
    job.asynchronous = request.Get("asynchronous").ToBoolean();
    Problem& problem = job.problem;
    problem.rows = size(request, "rows");
    problem.dim = size(request, "dim");
    problem.classes = problem.totalClasses = size(request, "classes");
    const size_t classes = static_cast<size_t>(problem.classes), weights = classes * static_cast<size_t>(problem.dim);
    // Only an update writes weights or bias, and there is none here.
    problem.weight = const_cast<float*>(job.input<float>(request.Get("weight"), "weight", weights));
    const Napi::Value bias = request.Get("bias");
    if (!bias.IsUndefined()) problem.bias = const_cast<float*>(job.input<float>(bias, "bias", classes));
    const Napi::Value classWeights = request.Get("classWeights");
    if (!classWeights.IsUndefined()) problem.classWeights = job.input<float>(classWeights, "classWeights", classes);
    readBatch(request, job, problem);
    problem.labelSmoothing = request.Get("labelSmoothing").As<Napi::Number>().DoubleValue();
    problem.negligible = request.Get("negligible").As<Napi::Number>().DoubleValue();
    problem.gradWeight = job.output<float>(request.Get("gradWeight"), "gradWeight", weights);
    problem.gradBias = job.output<float>(request.Get("gradBias"), "gradBias", classes);
    if (problem.gradBias && bias.IsUndefined()) throw Napi::TypeError::New(info.Env(), "Expected a bias for gradBias");
    problem.margin = readMargin(request);
    problem.execution = readExecution(request, job, job.instructionSet);
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
    Napi::Object request = info[0].As<Napi::Object>();
    job.asynchronous = request.Get("asynchronous").ToBoolean();
    readTopK(request, job, job.problem, job.instructionSet);
    const size_t classes = static_cast<size_t>(job.problem.classes);
    job.problem.weight =
        job.input<float>(request.Get("weight"), "weight", classes * static_cast<size_t>(job.problem.dim));
    const Napi::Value bias = request.Get("bias");
    if (!bias.IsUndefined()) job.problem.bias = job.input<float>(bias, "bias", classes);
    job.problem.normalized = isNormalized(readMargin(request));
  });
}

}  // namespace

void readTopK(Napi::Object request, Job& job, TopKProblem& problem, std::string& instructionSet) {
  problem.rows = size(request, "rows");
  problem.dim = size(request, "dim");
  problem.classes = size(request, "classes");
  problem.k = size(request, "k");
  if (problem.k > problem.classes)
    throw Napi::RangeError::New(request.Env(), "Expected at most as many as classes for k");
  const size_t rows = static_cast<size_t>(problem.rows), k = static_cast<size_t>(problem.k);
  problem.input = job.input<float>(request.Get("input"), "input", rows * static_cast<size_t>(problem.dim));
  problem.indices = job.output<int32_t>(request.Get("indices"), "indices", rows * k);
  problem.scores = job.output<float>(request.Get("scores"), "scores", rows * k);
  problem.execution = readExecution(request, job, instructionSet);
}

void exportLoss(Napi::Object exports) {
  addFunction<loss>(exports, "loss");
  addFunction<topK>(exports, "topK");
}

}  // namespace margin_softmax::binding
