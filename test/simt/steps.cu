// The executor's own kernels and launch code on the shim, against the formulas in double precision: what the sanitizers
// watch, and what must give the same bits in every order of fibres. Prints a line for each check and a hash of all
// bits; the exit code counts the checks that are wrong.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../native/core/executor.h"
#include "../../native/formulas/row.h"

namespace margin_softmax {
namespace {

int wrong = 0;
uint64_t hash = 1469598103934665603u;  // FNV-1a

void addToHash(const std::vector<float>& values) {
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    hash = (hash ^ bits) * 1099511628211u;
  }
}

void report(const std::string& name, double error, double allowed) {
  const bool right = error <= allowed;  // false for NaN
  std::printf("%s %s: %.2g\n", right ? "ok" : "WRONG", name.c_str(), error);
  wrong += !right;
}

// ‖a − b‖ / ‖b‖; ‖a‖ where b is zero.
double difference(const std::vector<float>& a, const std::vector<double>& b) {
  double square = 0, norm = 0;
  for (size_t i = 0; i < a.size(); i++) {
    square += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(square / (norm == 0 ? 1 : norm));
}

struct Batch {
  int64_t rows, dim, classes;
  Margin margin;
  std::vector<float> input, weight, bias;
  std::vector<int32_t> labels;

  Batch(int64_t b, int64_t d, int64_t c, int kind)
      : rows(b), dim(d), classes(c), input(b * d), weight(c * d), labels(b) {
    std::mt19937 generator(static_cast<unsigned>(b * 31 + d * 7 + c));
    std::normal_distribution<float> normal;
    margin.kind = kind;
    margin.parameters[0] = 16;  // the scale, where the margin has one
    margin.parameters[1] = 0.4;
    for (float& value : input) value = normal(generator);
    for (float& value : weight) value = normal(generator);
    for (int32_t& label : labels) label = static_cast<int32_t>(generator() % static_cast<unsigned>(c));
    if (b > 2) labels[1] = -1;
    if (isNormalized(margin)) return;
    bias.resize(c);
    for (float& value : bias) value = normal(generator);
    for (float& value : input) value *= 0.3f;
  }
};

// The formulas as they stand in a paper: every logit held, nothing rearranged.
struct Textbook {
  std::vector<double> losses, gradInput, gradWeight, gradBias;

  Textbook(const Batch& batch, double smoothing)
      : losses(batch.rows),
        gradInput(batch.input.size()),
        gradWeight(batch.weight.size()),
        gradBias(batch.bias.size()) {
    const bool normalized = isNormalized(batch.margin);
    const auto norm = [&](const float* v) {
      double squares = 0;
      for (int64_t d = 0; d < batch.dim; d++) squares += static_cast<double>(v[d]) * v[d];
      return normalized ? std::sqrt(squares) : 1;
    };
    double counted = 0;
    for (const int32_t label : batch.labels) counted += label >= 0;
    for (int64_t i = 0; i < batch.rows; i++) {
      const int32_t label = batch.labels[i];
      if (label < 0) continue;
      const float* x = &batch.input[i * batch.dim];
      const double length = norm(x), scale = scaleOf(batch.margin, length);
      std::vector<double> cosines(batch.classes), logits(batch.classes), lengths(batch.classes);
      double sum = 0, even = 0, slope = 1;
      for (int64_t j = 0; j < batch.classes; j++) {
        const float* w = &batch.weight[j * batch.dim];
        lengths[j] = norm(w);
        for (int64_t d = 0; d < batch.dim; d++) cosines[j] += static_cast<double>(x[d]) * w[d];
        cosines[j] /= length * lengths[j];
        const double score = cosines[j] + (batch.bias.empty() ? 0 : batch.bias[j]);
        logits[j] = scale * score;
        if (j == label) {
          const MarginValue value = evaluateMargin(batch.margin, score);
          logits[j] = scale * value.psi;
          slope = value.slope;
        }
        sum += std::exp(logits[j]);
        even += logits[j];
      }
      const double spread = smoothing / static_cast<double>(batch.classes);
      losses[i] = std::log(sum) - (1 - smoothing) * logits[label] - spread * even;
      for (int64_t j = 0; j < batch.classes; j++) {
        const double error = std::exp(logits[j]) / sum - (j == label ? 1 - smoothing : 0) - spread;
        const double a = error * scale * (j == label ? slope : 1) / counted;
        const float* w = &batch.weight[j * batch.dim];
        for (int64_t d = 0; d < batch.dim; d++) {
          const double xhat = x[d] / length, what = w[d] / lengths[j];
          gradInput[i * batch.dim + d] += a * (what - (normalized ? cosines[j] * xhat : 0)) / length;
          gradWeight[j * batch.dim + d] += a * (xhat - (normalized ? cosines[j] * what : 0)) / lengths[j];
        }
        if (!batch.bias.empty()) gradBias[j] += a;
      }
    }
  }
};

struct Case {
  int64_t rows, dim, classes;
  int kind;
  Precision precision;
  double smoothing = 0;
  int64_t chunk = 0;  // classes; 0: all of these are one

  std::string name() const {
    const char* const precisions[] = {"float32", "tf32", "bfloat16"};
    return std::to_string(rows) + "×" + std::to_string(dim) + "×" + std::to_string(classes) + " margin " +
           std::to_string(kind) + " " + precisions[static_cast<int>(precision)] +
           (chunk ? " in chunks of " + std::to_string(chunk) : "");
  }
  double allowed() const { return precision == Precision::float32 ? 1e-5 : 1e-2; }
};

Problem problemOf(const Case& step, Batch& batch, std::vector<float>& losses) {
  Problem problem;
  problem.rows = batch.rows;
  problem.dim = batch.dim;
  problem.classes = problem.totalClasses = batch.classes;
  problem.input = batch.input.data();
  problem.weight = batch.weight.data();
  problem.bias = batch.bias.empty() ? nullptr : batch.bias.data();
  problem.labels = batch.labels.data();
  problem.margin = batch.margin;
  problem.labelSmoothing = step.smoothing;
  problem.gradScale = 1;
  problem.losses = losses.data();
  problem.execution.device = 0;
  problem.execution.precision = step.precision;
  problem.execution.chunkClasses = step.chunk;
  return problem;
}

void stepAgrees(const Case& step) {
  Batch batch(step.rows, step.dim, step.classes, step.kind);
  const Textbook expected(batch, step.smoothing);
  std::vector<float> losses(step.rows), gradInput(batch.input.size()), gradWeight(batch.weight.size()),
      gradBias(batch.bias.size());
  Problem problem = problemOf(step, batch, losses);
  problem.gradInput = gradInput.data();
  problem.gradWeight = gradWeight.data();
  if (!gradBias.empty()) problem.gradBias = gradBias.data();
  const Status status = cudaExecutor.loss(problem);
  if (!status) std::printf("%s\n", status.message.c_str());
  report(step.name() + " losses", status ? difference(losses, expected.losses) : NAN, step.allowed());
  report(step.name() + " gradInput", difference(gradInput, expected.gradInput), step.allowed());
  report(step.name() + " gradWeight", difference(gradWeight, expected.gradWeight), step.allowed());
  if (!gradBias.empty()) report(step.name() + " gradBias", difference(gradBias, expected.gradBias), step.allowed());
  for (const auto* values : {&losses, &gradInput, &gradWeight, &gradBias}) addToHash(*values);
}

// An array in the device's memory.
class Resident {
 public:
  explicit Resident(const std::vector<float>& from) : count_(from.size()) {
    Status status = from.empty() ? Status{} : cudaExecutor.allocate(0, bytes(), memory_);
    if (status && memory_) status = cudaExecutor.upload(0, memory_, from.data(), bytes());
    report("a resident array", status ? 0 : NAN, 0);
  }
  Resident(const Resident&) = delete;
  ~Resident() { cudaExecutor.release(0, memory_, bytes()); }

  float* data() { return static_cast<float*>(memory_); }
  std::vector<float> read() const {
    std::vector<float> values(count_, NAN);
    if (memory_) cudaExecutor.download(0, memory_, values.data(), bytes());
    addToHash(values);
    return values;
  }

 private:
  int64_t bytes() const { return static_cast<int64_t>(count_) * 4; }
  size_t count_;
  void* memory_ = nullptr;
};

// (before − after) / learningRate: the direction that SGD took.
std::vector<float> moved(const std::vector<float>& before, const std::vector<float>& after, double learningRate) {
  std::vector<float> direction(after.size());
  for (size_t i = 0; i < after.size(); i++)
    direction[i] = static_cast<float>((static_cast<double>(before[i]) - after[i]) / learningRate);
  return direction;
}

// SGD on resident weights, whose direction is momentum · velocity + gradient.
void updateAgrees(const Case& step, double momentum) {
  Batch batch(step.rows, step.dim, step.classes, step.kind);
  const Textbook expected(batch, step.smoothing);
  std::vector<float> losses(step.rows), gradInput(batch.input.size());
  std::vector<float> velocity(momentum ? batch.weight.size() : 0), biasVelocity(momentum ? batch.bias.size() : 0);
  for (size_t i = 0; i < velocity.size(); i++) velocity[i] = 0.01f * batch.weight[velocity.size() - 1 - i];
  for (size_t i = 0; i < biasVelocity.size(); i++) biasVelocity[i] = 0.01f * batch.bias[biasVelocity.size() - 1 - i];
  Resident weight(batch.weight), bias(batch.bias), state(velocity), biasState(biasVelocity);
  Update update;
  update.optimizer.learningRate = 8;
  update.optimizer.momentum = momentum;
  update.weightState[0] = state.data();
  update.biasState[0] = biasState.data();
  Problem problem = problemOf(step, batch, losses);
  problem.weight = weight.data();
  problem.bias = bias.data();
  problem.resident = true;
  problem.gradInput = gradInput.data();
  problem.update = &update;
  const Status status = cudaExecutor.loss(problem);
  if (!status) std::printf("%s\n", status.message.c_str());
  const std::string what = step.name() + (momentum ? ", update with momentum" : ", update");
  report(what + ": losses", status ? difference(losses, expected.losses) : NAN, step.allowed());
  report(what + ": gradInput", difference(gradInput, expected.gradInput), step.allowed());
  for (const auto* values : {&losses, &gradInput}) addToHash(*values);
  const auto agrees = [&](const char* name, const std::vector<float>& before, const Resident& after,
                          std::vector<double> direction, const std::vector<float>& first, const Resident& last) {
    for (size_t i = 0; i < first.size(); i++) direction[i] += momentum * first[i];
    const double rounding = 1e-4;  // of what a weight moved by, beside the weight
    report(what + ": " + name, difference(moved(before, after.read(), update.optimizer.learningRate), direction),
           std::max(step.allowed(), rounding));
    if (!first.empty()) report(what + ": velocity of " + name, difference(last.read(), direction), step.allowed());
  };
  agrees("weight", batch.weight, weight, expected.gradWeight, velocity, state);
  if (!batch.bias.empty()) agrees("bias", batch.bias, bias, expected.gradBias, biasVelocity, biasState);
}

// Kernels count classes in 32 bits, a tile beyond the last one.
void refusesTooManyClasses() {
  Problem problem;
  problem.rows = problem.dim = 1;
  problem.classes = INT32_MAX;
  problem.execution.device = 0;
  report("too many classes", cudaExecutor.loss(problem).failure == Failure::tooLarge ? 0 : NAN, 0);
}

void rowsAgree(int64_t rows, int64_t classes) {
  std::vector<float> logits(rows * classes), out(logits.size()), losses(rows), gradient(logits.size());
  std::vector<int32_t> labels(rows);
  for (size_t i = 0; i < logits.size(); i++) logits[i] = static_cast<float>(4 * std::sin(1.7 * static_cast<double>(i)));
  for (int64_t i = 0; i < rows; i++) labels[i] = static_cast<int32_t>(i * 5 % classes);
  std::vector<double> softmax(logits.size()), expected(logits.size()), loss(rows);
  for (int64_t i = 0; i < rows; i++) {
    double sum = 0;
    for (int64_t j = 0; j < classes; j++) sum += std::exp(static_cast<double>(logits[i * classes + j]));
    for (int64_t j = 0; j < classes; j++) {
      softmax[i * classes + j] = std::exp(static_cast<double>(logits[i * classes + j])) / sum;
      expected[i * classes + j] = softmax[i * classes + j] - (j == labels[i]);
    }
    loss[i] = std::log(sum) - logits[i * classes + labels[i]];
  }
  MeasureProblem measure;
  measure.rows = rows;
  measure.classes = classes;
  measure.p = logits.data();
  measure.out = out.data();
  measure.execution.device = 0;
  const std::string what = std::to_string(rows) + "×" + std::to_string(classes);
  Status status = cudaExecutor.measure(measure);
  report(what + " softmax", status ? difference(out, softmax) : NAN, 1e-6);
  CrossEntropyProblem problem;
  problem.rows = rows;
  problem.classes = classes;
  problem.logits = logits.data();
  problem.labels = labels.data();
  problem.reduction = Reduction::sum;
  problem.losses = losses.data();
  problem.gradLogits = gradient.data();
  problem.execution.device = 0;
  status = cudaExecutor.crossEntropyLoss(problem);
  report(what + " cross-entropy", status ? difference(losses, loss) : NAN, 1e-6);
  report(what + " its gradient", difference(gradient, expected), 1e-6);
  for (const auto* values : {&out, &losses, &gradient}) addToHash(*values);
}

// In chunks of 256.
void topKAgrees(int64_t classes) {
  Batch batch(5, 20, classes, 3);
  const int64_t k = 7;
  std::vector<int32_t> indices(batch.rows * k);
  std::vector<float> scores(indices.size());
  std::vector<double> expected;
  TopKProblem problem;
  problem.rows = batch.rows;
  problem.dim = batch.dim;
  problem.classes = batch.classes;
  problem.k = k;
  problem.input = batch.input.data();
  problem.weight = batch.weight.data();
  problem.indices = indices.data();
  problem.scores = scores.data();
  problem.execution.device = 0;
  problem.execution.chunkClasses = 256;
  const Status status = cudaExecutor.topK(problem);
  for (int64_t i = 0; i < batch.rows; i++) {
    std::vector<double> cosines;
    for (int64_t j = 0; j < batch.classes; j++) {
      double product = 0, a = 0, b = 0;
      for (int64_t d = 0; d < batch.dim; d++) {
        const double x = batch.input[i * batch.dim + d], w = batch.weight[j * batch.dim + d];
        product += x * w, a += x * x, b += w * w;
      }
      cosines.push_back(product / std::sqrt(a * b));
    }
    std::sort(cosines.begin(), cosines.end(), [](double a, double b) { return a > b; });
    expected.insert(expected.end(), cosines.begin(), cosines.begin() + k);
  }
  report("the best classes", status ? difference(scores, expected) : NAN, 1e-6);
  addToHash(scores);
}

}  // namespace
}  // namespace margin_softmax

// `few`: each kind of kernel once, for ThreadSanitizer, to which every fibre of every launch is a new thread. `cores`:
// what depends on a core's tiles, for other_core.cu: several tiles and chunks in each precision, and short last ones.
int main(int count, char** words) {
  using namespace margin_softmax;
  const bool cores = count > 1 && std::strcmp(words[1], "cores") == 0;
  const bool few = cores || (count > 1 && std::strcmp(words[1], "few") == 0);
  setenv("SIMT_POISON", "1", 1);  // what a kernel reads and none has written is NaN, in every step
  // Each kind of kernel once: several chunks, an update, tensor cores, narrow rows.
  updateAgrees({7, 33, 129, 0, Precision::float32, 0.1, 128}, 0.9);
  stepAgrees({20, 136, 130, 3, Precision::bfloat16});
  stepAgrees({9, 3, 140, 2, Precision::float32, 0.1});
  rowsAgree(2, 1001);
  topKAgrees(few ? 300 : 1500);
  for (const Precision precision : {Precision::float32, Precision::tf32, Precision::bfloat16})
    if (cores) {
      stepAgrees({70, 136, 200, 0, precision, 0.1, 128});
      stepAgrees({37, 40, 225, 3, precision, 0, 64});
      updateAgrees({33, 300, 97, 0, precision, 0.1}, 0);
      updateAgrees({5, 34, 161, 3, precision, 0, 128}, 0.9);
    }
  if (!few) {
    refusesTooManyClasses();
    stepAgrees({7, 33, 129, 0, Precision::float32, 0.1, 128});
    stepAgrees({37, 70, 300, 3, Precision::tf32, 0, 128});
    stepAgrees({20, 136, 130, 0, Precision::bfloat16});
    updateAgrees({9, 33, 150, 3, Precision::float32}, 0);
    rowsAgree(4, 1001);
    stepAgrees({1, 1, 2, 0, Precision::float32});
    stepAgrees({37, 70, 300, 3, Precision::float32});
    stepAgrees({130, 20, 140, 5, Precision::float32, 0.1});
    stepAgrees({37, 70, 300, 3, Precision::bfloat16});
    stepAgrees({130, 2, 300, 3, Precision::float32, 0, 128});
    stepAgrees({5, 15, 17, 5, Precision::float32, 0.1});
    stepAgrees({128, 128, 2, 3, Precision::float32});  // an input that fills the staging memory of 64 KiB
    // Several chunks show what one can't: running maxima, sums of gradInput and targets' places that go on from chunk to chunk,
    // and a short last chunk.
    for (const Precision precision : {Precision::float32, Precision::tf32, Precision::bfloat16}) {
      stepAgrees({130, 136, 300, 0, precision, 0.1, 128});
      stepAgrees({140, 40, 641, 3, precision, 0, 256});
      updateAgrees({3, 128, 513, 0, precision, 0.1, 256}, 0);
      updateAgrees({129, 33, 300, 3, precision, 0, 128}, 0.9);
    }
    rowsAgree(3, 1);
    rowsAgree(1, 60001);
  }
  std::printf("hash %016llx\n", static_cast<unsigned long long>(hash));
  return wrong;
}
