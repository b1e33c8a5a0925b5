// verification: JavaScript request → VerificationProblem → result.
#include "../core/verification.h"
#include "request.h"

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
void readPairs(const Request& request, bool scored, VerificationProblem& problem) {
  const Span<const uint8_t> same = request.input<uint8_t>("same");
  problem.same = same.data;
  problem.pairs = static_cast<int64_t>(same.length);
  if (scored) problem.givenScores = request.input<double>("givenScores", same.length);
  else if (request.has("pairs")) problem.pairRows = request.indices("pairs", 2 * problem.pairs, 0, problem.rows);
  else if (problem.rows < 2 * problem.pairs) request.refuse("Expected two rows for each pair");
  const Span<double> accuracies = request.output<double>("foldAccuracies");
  if (accuracies.length > same.length) request.refuse("Expected at most as many folds as pairs");
  problem.folds = static_cast<int64_t>(accuracies.length);
  problem.foldAccuracies = accuracies.data;
  problem.foldThresholds = request.optionalOutput<double>("foldThresholds", accuracies.length);
  problem.scores = request.optionalOutput<double>("scores", same.length);
}

Napi::Value verification(const Napi::CallbackInfo& info) {
  return perform<VerificationJob>(info, [&](VerificationJob& job) {
    const Request request(info[0], job);
    job.asynchronous = request.flag("asynchronous");
    VerificationProblem& problem = job.problem;
    const bool scored = request.has("givenScores");
    if (!scored) {
      problem.rows = request.integer("rows", 1, largestSize);
      problem.dim = request.integer("dim", 1, largestSize);
      problem.embeddings = request.input<float>("embeddings", static_cast<size_t>(problem.rows * problem.dim));
    }
    if (scored || !request.has("labels")) readPairs(request, scored, problem);
    else problem.labels = request.input<int32_t>("labels", static_cast<size_t>(problem.rows));
    const Span<const double> limits = request.input<double>("limits");
    problem.limits = static_cast<int64_t>(limits.length);
    problem.falseAcceptLimits = limits.data;
    problem.trueAcceptRates = request.output<double>("trueAcceptRates", limits.length);
    problem.falseAcceptRates = request.output<double>("falseAcceptRates", limits.length);
    problem.thresholds = request.output<double>("thresholds", limits.length);
    problem.sameHistogram = request.output<double>("sameHistogram", histogramBins);
    problem.differentHistogram = request.output<double>("differentHistogram", histogramBins);
    problem.detectionCost = {request.number("pTarget"), request.number("cMiss"), request.number("cFalseAlarm")};
    problem.execution = readExecution(request, job.instructionSet);
    job.ticket = request.number("ticket");
  });
}

}  // namespace

void exportVerification(Napi::Object exports) { addFunction<verification>(exports, "verification"); }

}  // namespace margin_softmax::binding
