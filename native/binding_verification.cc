// verification: JavaScript request → VerificationProblem → result.
#include "binding.h"
#include "verification.h"

namespace margin_softmax::binding {
namespace {

struct VerificationJob : Job {
  VerificationProblem problem;
  std::string instructionSet;
  std::vector<int32_t> pairRows;
  Status run() override { return cpu::verification(problem); }
  void fill(Napi::Object result) const override {
    result["samePairs"] = static_cast<double>(problem.samePairs);
    result["differentPairs"] = static_cast<double>(problem.differentPairs);
    result["areaUnderCurve"] = problem.areaUnderCurve;
    result["equalErrorRate"] = problem.equalErrorRate;
    result["equalErrorThreshold"] = problem.equalErrorThreshold;
    result["bestAccuracy"] = problem.bestAccuracy;
    result["bestThreshold"] = problem.bestThreshold;
  }
};

// Rows of pairs are indices into the embeddings: always copied, and checked in the copy (as Job::labels does).
void readPairs(Napi::Object request, VerificationJob& job) {
  VerificationProblem& problem = job.problem;
  problem.pairs = static_cast<int64_t>(elements<uint8_t>(request.Get("same"), "same").length);
  const size_t pairs = static_cast<size_t>(problem.pairs);
  problem.same = job.input<uint8_t>(request.Get("same"), "same", pairs);
  const Napi::Value rows = request.Get("pairs");
  if (rows.IsUndefined()) {
    if (problem.rows < 2 * problem.pairs) throw Napi::RangeError::New(request.Env(), "Expected two rows for each pair");
  } else {
    const Span<int32_t> given = elements<int32_t>(rows, "pairs", 2 * pairs);
    job.pairRows.assign(given.data, given.data + given.length);
    for (const int32_t row : job.pairRows)
      if (row < 0 || row >= problem.rows) throw Napi::RangeError::New(request.Env(), "Expected pairs of rows");
    problem.pairRows = job.pairRows.data();
  }
  problem.folds = static_cast<int64_t>(elements<double>(request.Get("foldAccuracies"), "foldAccuracies").length);
  if (problem.folds > problem.pairs) throw Napi::RangeError::New(request.Env(), "Expected at most as many folds");
  problem.foldAccuracies =
      job.output<double>(request.Get("foldAccuracies"), "foldAccuracies", static_cast<size_t>(problem.folds));
  problem.foldThresholds =
      job.output<double>(request.Get("foldThresholds"), "foldThresholds", static_cast<size_t>(problem.folds));
  problem.scores = job.output<float>(request.Get("scores"), "scores", pairs);
}

Napi::Value verification(const Napi::CallbackInfo& info) {
  Napi::Object request = info[0].As<Napi::Object>();
  auto job = std::make_unique<VerificationJob>();
  job->asynchronous = request.Get("asynchronous").ToBoolean();
  VerificationProblem& problem = job->problem;
  problem.rows = request.Get("rows").As<Napi::Number>().Int64Value();
  problem.dim = request.Get("dim").As<Napi::Number>().Int64Value();
  if (problem.rows < 1 || problem.rows > INT32_MAX || problem.dim < 1 || problem.dim > INT32_MAX)
    throw Napi::RangeError::New(info.Env(), "Expected sizes for rows and dim");
  const size_t rows = static_cast<size_t>(problem.rows);
  problem.embeddings =
      job->input<float>(request.Get("embeddings"), "embeddings", rows * static_cast<size_t>(problem.dim));
  if (request.Get("labels").IsUndefined()) readPairs(request, *job);
  else problem.labels = job->input<int32_t>(request.Get("labels"), "labels", rows);
  problem.limits = static_cast<int64_t>(elements<double>(request.Get("limits"), "limits").length);
  const size_t limits = static_cast<size_t>(problem.limits);
  problem.falseAcceptLimits = job->input<double>(request.Get("limits"), "limits", limits);
  problem.trueAcceptRates = job->output<double>(request.Get("trueAcceptRates"), "trueAcceptRates", limits);
  problem.falseAcceptRates = job->output<double>(request.Get("falseAcceptRates"), "falseAcceptRates", limits);
  problem.thresholds = job->output<double>(request.Get("thresholds"), "thresholds", limits);
  problem.sameHistogram = job->output<double>(request.Get("sameHistogram"), "sameHistogram", histogramBins);
  problem.differentHistogram =
      job->output<double>(request.Get("differentHistogram"), "differentHistogram", histogramBins);
  problem.execution = readExecution(request, *job, job->instructionSet);
  return perform(info.Env(), std::move(job));
}

}  // namespace

void exportVerification(Napi::Env env, Napi::Object exports) {
  exports["verification"] = Napi::Function::New(env, verification);
}

}  // namespace margin_softmax::binding
