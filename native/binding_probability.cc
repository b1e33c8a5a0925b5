// Probability functions and the cross-entropy of given logits: JavaScript request → problem → result. Always
// synchronous.
#include "binding.h"
#include "executor.h"

namespace margin_softmax::binding {
namespace {

// The rows of an array that holds a whole number of them.
int64_t rowsOf(Napi::Object request, const char* name, int64_t classes) {
  const int64_t length = static_cast<int64_t>(elements<float>(request.Get(name), name).length);
  if (classes < 1 || length % classes) throw Napi::RangeError::New(request.Env(), "Expected whole rows of classes");
  return length / classes;
}

struct MeasureJob : Job {
  MeasureProblem problem;
  std::string instructionSet;
  Status run() override { return executorOf(problem.execution.device)->measure(problem); }
  void fill(Napi::Object) const override {}
};

Napi::Value measure(const Napi::CallbackInfo& info) {
  Napi::Object request = info[0].As<Napi::Object>();
  auto job = std::make_unique<MeasureJob>();
  MeasureProblem& problem = job->problem;
  problem.measure = static_cast<Measure>(request.Get("measure").As<Napi::Number>().Int32Value());
  problem.classes = request.Get("classes").As<Napi::Number>().Int64Value();
  problem.rows = rowsOf(request, "p", problem.classes);
  const size_t rows = static_cast<size_t>(problem.rows), all = rows * static_cast<size_t>(problem.classes);
  const bool two = problem.measure == Measure::klDivergence || problem.measure == Measure::crossEntropy;
  const bool perRow = two || problem.measure == Measure::entropy;
  problem.p = job->input<float>(request.Get("p"), "p", all);
  if (two) problem.q = job->input<float>(request.Get("q"), "q", all);
  problem.out = elements<float>(request.Get("out"), "out", perRow ? rows : all).data;
  problem.execution = readExecution(request, *job, job->instructionSet);
  return perform(info.Env(), std::move(job));
}

struct CrossEntropyJob : Job {
  CrossEntropyProblem problem;
  std::string instructionSet;
  Status run() override { return executorOf(problem.execution.device)->crossEntropyLoss(problem); }
  void fill(Napi::Object result) const override { result["loss"] = problem.loss; }
};

Napi::Value crossEntropyLoss(const Napi::CallbackInfo& info) {
  Napi::Object request = info[0].As<Napi::Object>();
  auto job = std::make_unique<CrossEntropyJob>();
  CrossEntropyProblem& problem = job->problem;
  problem.classes = request.Get("classes").As<Napi::Number>().Int64Value();
  problem.rows = rowsOf(request, "logits", problem.classes);
  const size_t rows = static_cast<size_t>(problem.rows), classes = static_cast<size_t>(problem.classes);
  problem.logits = job->input<float>(request.Get("logits"), "logits", rows * classes);
  if (request.Get("labels").IsUndefined())
    problem.targets = job->input<float>(request.Get("targets"), "targets", rows * classes);
  else problem.labels = job->labels(request.Get("labels"), problem.rows, problem.classes);
  if (!request.Get("classWeights").IsUndefined())
    problem.classWeights = job->input<float>(request.Get("classWeights"), "classWeights", classes);
  if (!request.Get("gradOutput").IsUndefined())
    problem.gradOutput = job->input<float>(request.Get("gradOutput"), "gradOutput", rows);
  problem.reduction = static_cast<Reduction>(request.Get("reduction").As<Napi::Number>().Int32Value());
  problem.gradScale = request.Get("gradScale").As<Napi::Number>().DoubleValue();
  problem.labelSmoothing = request.Get("labelSmoothing").As<Napi::Number>().DoubleValue();
  problem.losses = elements<float>(request.Get("losses"), "losses", rows).data;
  problem.gradLogits = job->output<float>(request.Get("gradLogits"), "gradLogits", rows * classes);
  problem.execution = readExecution(request, *job, job->instructionSet);
  return perform(info.Env(), std::move(job));
}

}  // namespace

void exportProbability(Napi::Env env, Napi::Object exports) {
  exports["measure"] = Napi::Function::New(env, measure);
  exports["crossEntropyLoss"] = Napi::Function::New(env, crossEntropyLoss);
}

}  // namespace margin_softmax::binding
