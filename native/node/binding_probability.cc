// Probability functions and the cross-entropy of given logits: JavaScript request → problem → result. Always
// synchronous.
#include "../core/executor.h"
#include "binding.h"

namespace margin_softmax::binding {
namespace {

// The rows of an array that holds a whole number of them.
int64_t rowsOf(Napi::Value array, const char* name, int64_t classes) {
  const int64_t length = static_cast<int64_t>(elements<float>(array, name).length);
  if (classes < 1 || length % classes) throw Napi::RangeError::New(array.Env(), "Expected whole rows of classes");
  return length / classes;
}

struct MeasureJob : Job {
  MeasureProblem problem;
  std::string instructionSet;
  Status work() override { return executorOf(problem.execution.device)->measure(problem); }
  void fill(Napi::Object) const override {}
};

Napi::Value measure(const Napi::CallbackInfo& info) {
  return perform<MeasureJob>(info, [&](MeasureJob& job) {
    Napi::Object request = info[0].As<Napi::Object>();
    MeasureProblem& problem = job.problem;
    problem.measure = static_cast<Measure>(request.Get("measure").As<Napi::Number>().Int32Value());
    problem.classes = request.Get("classes").As<Napi::Number>().Int64Value();
    const Napi::Value p = request.Get("p");
    problem.rows = rowsOf(p, "p", problem.classes);
    const size_t rows = static_cast<size_t>(problem.rows), all = rows * static_cast<size_t>(problem.classes);
    const bool two = problem.measure == Measure::klDivergence || problem.measure == Measure::crossEntropy;
    const bool perRow = two || problem.measure == Measure::entropy;
    problem.p = job.input<float>(p, "p", all);
    if (two) problem.q = job.input<float>(request.Get("q"), "q", all);
    problem.out = job.output<float>(request.Get("out"), "out", perRow ? rows : all);
    if (!problem.out && all) throw Napi::TypeError::New(info.Env(), "Expected an array for out");
    problem.execution = readExecution(request, job, job.instructionSet);
  });
}

struct CrossEntropyJob : Job {
  CrossEntropyProblem problem;
  std::string instructionSet;
  Status work() override { return executorOf(problem.execution.device)->crossEntropyLoss(problem); }
  void fill(Napi::Object result) const override { set(result, "loss", problem.loss); }
};

Napi::Value crossEntropyLoss(const Napi::CallbackInfo& info) {
  return perform<CrossEntropyJob>(info, [&](CrossEntropyJob& job) {
    Napi::Object request = info[0].As<Napi::Object>();
    CrossEntropyProblem& problem = job.problem;
    problem.classes = request.Get("classes").As<Napi::Number>().Int64Value();
    const Napi::Value logits = request.Get("logits"), labels = request.Get("labels");
    problem.rows = rowsOf(logits, "logits", problem.classes);
    const size_t rows = static_cast<size_t>(problem.rows), classes = static_cast<size_t>(problem.classes);
    problem.logits = job.input<float>(logits, "logits", rows * classes);
    if (!labels.IsUndefined()) problem.labels = job.labels(labels, problem.rows, problem.classes);
    else problem.targets = job.input<float>(request.Get("targets"), "targets", rows * classes);
    const Napi::Value weights = request.Get("classWeights"), gradOutput = request.Get("gradOutput");
    if (!weights.IsUndefined()) problem.classWeights = job.input<float>(weights, "classWeights", classes);
    if (!gradOutput.IsUndefined()) problem.gradOutput = job.input<float>(gradOutput, "gradOutput", rows);
    problem.reduction = static_cast<Reduction>(request.Get("reduction").As<Napi::Number>().Int32Value());
    problem.gradScale = request.Get("gradScale").As<Napi::Number>().DoubleValue();
    problem.labelSmoothing = request.Get("labelSmoothing").As<Napi::Number>().DoubleValue();
    problem.losses = job.output<float>(request.Get("losses"), "losses", rows);
    if (!problem.losses && rows) throw Napi::TypeError::New(info.Env(), "Expected an array for losses");
    problem.gradLogits = job.output<float>(request.Get("gradLogits"), "gradLogits", rows * classes);
    problem.execution = readExecution(request, job, job.instructionSet);
  });
}

}  // namespace

void exportProbability(Napi::Object exports) {
  addFunction<measure>(exports, "measure");
  addFunction<crossEntropyLoss>(exports, "crossEntropyLoss");
}

}  // namespace margin_softmax::binding
