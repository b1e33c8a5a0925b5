// Probability functions and the cross-entropy of given logits: JavaScript request → problem →
// result. Always synchronous.
#include "../core/executor.h"
#include "request.h"

namespace margin_softmax::binding {
namespace {

// The rows of `length` numbers, which must be whole rows of classes.
int64_t rowsOf(const Request& request, size_t length, int64_t classes) {
  if (static_cast<int64_t>(length) % classes) request.refuse("Expected whole rows of classes");
  return static_cast<int64_t>(length) / classes;
}

struct MeasureJob : Job {
  MeasureProblem problem;
  std::string instructionSet;
  Status work() override { return executorOf(problem.execution.device)->measure(problem); }
  void fill(Napi::Object) const override {}
};

Napi::Value measure(const Napi::CallbackInfo& info) {
  return perform<MeasureJob>(info, [&](MeasureJob& job) {
    const Request request(info[0], job);
    MeasureProblem& problem = job.problem;
    problem.measure = static_cast<Measure>(request.integer("measure", 0, static_cast<int>(Measure::logSoftmax)));
    problem.classes = request.integer("classes", 1, largestSize);
    const Span<const float> p = request.input<float>("p");
    problem.p = p.data;
    problem.rows = rowsOf(request, p.length, problem.classes);
    const bool two = problem.measure == Measure::klDivergence || problem.measure == Measure::crossEntropy;
    const bool perRow = two || problem.measure == Measure::entropy;
    if (two) problem.q = request.input<float>("q", p.length);
    problem.out = request.output<float>("out", perRow ? static_cast<size_t>(problem.rows) : p.length);
    problem.execution = readExecution(request, job.instructionSet);
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
    const Request request(info[0], job);
    CrossEntropyProblem& problem = job.problem;
    problem.classes = request.integer("classes", 1, largestSize);
    const Span<const float> logits = request.input<float>("logits");
    problem.logits = logits.data;
    problem.rows = rowsOf(request, logits.length, problem.classes);
    const size_t rows = static_cast<size_t>(problem.rows), classes = static_cast<size_t>(problem.classes);
    if (request.has("labels")) problem.labels = request.labels(problem.rows, problem.classes);
    else problem.targets = request.input<float>("targets", logits.length);
    problem.classWeights = request.optionalInput<float>("classWeights", classes);
    problem.gradOutput = request.optionalInput<float>("gradOutput", rows);
    problem.reduction = readReduction(request);
    problem.gradScale = request.number("gradScale");
    problem.labelSmoothing = request.number("labelSmoothing");
    problem.losses = request.output<float>("losses", rows);
    problem.gradLogits = request.optionalOutput<float>("gradLogits", logits.length);
    problem.execution = readExecution(request, job.instructionSet);
  });
}

}  // namespace

void exportProbability(Napi::Object exports) {
  addFunction<measure>(exports, "measure");
  addFunction<crossEntropyLoss>(exports, "crossEntropyLoss");
}

}  // namespace margin_softmax::binding
