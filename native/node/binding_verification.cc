// verification: JavaScript request → VerificationProblem → result.
#include "../core/verification.h"
#include "binding.h"

namespace margin_softmax::binding {
namespace {

struct VerificationJob : Job {
  VerificationProblem problem;
  std::string instructionSet;
  Status work() override { return cpu::verification(problem); }
  void fill(Napi::Object result) const override {
    set(result, "samePairs", static_cast<double>(problem.samePairs));
    set(result, "differentPairs", static_cast<double>(problem.differentPairs));
    set(result, "zeroRows", static_cast<double>(problem.zeroRows));
    set(result, "areaUnderCurve", problem.areaUnderCurve);
    set(result, "ties", problem.ties);
    set(result, "equalErrorRate", problem.equalErrorRate);
    set(result, "equalErrorThreshold", problem.equalErrorThreshold);
    set(result, "bestAccuracy", problem.bestAccuracy);
    set(result, "bestThreshold", problem.bestThreshold);
    set(result, "bestBalancedAccuracy", problem.bestBalancedAccuracy);
    set(result, "bestBalancedThreshold", problem.bestBalancedThreshold);
    set(result, "minimumDetectionCost", problem.minimumDetectionCost);
    set(result, "minimumDetectionCostThreshold", problem.minimumDetectionCostThreshold);
    set(result, "histogramFrom", problem.histogramFrom);
    set(result, "histogramTo", problem.histogramTo);
  }
};

// Indices into the embeddings or the pairs' scores, and an answer for each pair.
void readPairs(Napi::Object request, VerificationJob& job) {
  VerificationProblem& problem = job.problem;
  const Napi::Value same = request.Get("same"), rows = request.Get("pairs"), given = request.Get("givenScores");
  problem.pairs = static_cast<int64_t>(elements<uint8_t>(same, "same").length);
  const size_t pairs = static_cast<size_t>(problem.pairs);
  problem.same = job.input<uint8_t>(same, "same", pairs);
  if (!given.IsUndefined()) problem.givenScores = job.input<double>(given, "givenScores", pairs);
  else if (!rows.IsUndefined()) problem.pairRows = job.indices(rows, "pairs", 2 * problem.pairs, 0, problem.rows);
  else if (problem.rows < 2 * problem.pairs)
    throw Napi::RangeError::New(request.Env(), "Expected two rows for each pair");
  const Napi::Value accuracies = request.Get("foldAccuracies");
  problem.folds = static_cast<int64_t>(elements<double>(accuracies, "foldAccuracies").length);
  if (problem.folds > problem.pairs) throw Napi::RangeError::New(request.Env(), "Expected at most as many folds");
  const size_t folds = static_cast<size_t>(problem.folds);
  problem.foldAccuracies = job.output<double>(accuracies, "foldAccuracies", folds);
  problem.foldThresholds = job.output<double>(request.Get("foldThresholds"), "foldThresholds", folds);
  problem.scores = job.output<double>(request.Get("scores"), "scores", pairs);
}

Napi::Value verification(const Napi::CallbackInfo& info) {
  return perform<VerificationJob>(info, [&](VerificationJob& job) {
    Napi::Object request = info[0].As<Napi::Object>();
    job.asynchronous = request.Get("asynchronous").ToBoolean();
    VerificationProblem& problem = job.problem;
    problem.rows = request.Get("rows").As<Napi::Number>().Int64Value();
    problem.dim = request.Get("dim").As<Napi::Number>().Int64Value();
    const Napi::Value labels = request.Get("labels"), wanted = request.Get("limits");
    const size_t rows = static_cast<size_t>(problem.rows);
    if (request.Get("givenScores").IsUndefined()) {
      if (problem.rows < 1 || problem.rows > INT32_MAX || problem.dim < 1 || problem.dim > INT32_MAX)
        throw Napi::RangeError::New(info.Env(), "Expected sizes for rows and dim");
      problem.embeddings =
          job.input<float>(request.Get("embeddings"), "embeddings", rows * static_cast<size_t>(problem.dim));
    }
    if (labels.IsUndefined() || !problem.embeddings) readPairs(request, job);
    else problem.labels = job.input<int32_t>(labels, "labels", rows);
    problem.limits = static_cast<int64_t>(elements<double>(wanted, "limits").length);
    const size_t limits = static_cast<size_t>(problem.limits);
    problem.falseAcceptLimits = job.input<double>(wanted, "limits", limits);
    problem.trueAcceptRates = job.output<double>(request.Get("trueAcceptRates"), "trueAcceptRates", limits);
    problem.falseAcceptRates = job.output<double>(request.Get("falseAcceptRates"), "falseAcceptRates", limits);
    problem.thresholds = job.output<double>(request.Get("thresholds"), "thresholds", limits);
    problem.sameHistogram = job.output<double>(request.Get("sameHistogram"), "sameHistogram", histogramBins);
    problem.differentHistogram =
        job.output<double>(request.Get("differentHistogram"), "differentHistogram", histogramBins);
    problem.detectionCost = {request.Get("pTarget").As<Napi::Number>().DoubleValue(),
                             request.Get("cMiss").As<Napi::Number>().DoubleValue(),
                             request.Get("cFalseAlarm").As<Napi::Number>().DoubleValue()};
    problem.execution = readExecution(request, job, job.instructionSet);
  });
}

}  // namespace

void exportVerification(Napi::Object exports) { addFunction<verification>(exports, "verification"); }

}  // namespace margin_softmax::binding
