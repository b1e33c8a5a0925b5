#include "head.h"

#include <cstring>

#include "cpu/pool.h"

namespace margin_softmax {
namespace {

// Counter-based random bits (the finalizer of SplitMix64, Steele et al. 2014): element i needs no predecessor.
uint64_t randomBits(uint64_t seed, uint64_t i) {
  uint64_t z = seed * 0xd1342543de82ef95ull + (i + 1) * 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

double uniform(uint64_t bits) { return (static_cast<double>(bits >> 11) + 0.5) * 0x1p-53; }

constexpr double initialDeviation = 0.01;  // InsightFace's: only directions matter to a normalised margin

}  // namespace

Status Head::allocate() {
  const int64_t row = settings_.classes * 4, matrix = row * settings_.dim;
  const auto take = [](Block& block, int64_t bytes) {
    block = Block(bytes);
    return block.as<void>() != nullptr;
  };
  bool taken = take(weight_, matrix) && (!settings_.bias || take(bias_, row));
  for (int i = 0; i < settings_.optimizer.states(); i++)
    taken = taken && take(weightState_[i], matrix) && (!settings_.bias || take(biasState_[i], row));
  if (taken) return {};
  const int64_t bytes = (1 + settings_.optimizer.states()) * (matrix + (settings_.bias ? row : 0));
  dispose();
  return Status::outOfMemory("the head", bytes);
}

void Head::initialize(uint64_t seed, int threads) {
  float* weight = weight_.as<float>();
  const int64_t total = settings_.classes * settings_.dim, chunk = std::max<int64_t>(4096, (total / 4096 + 2) / 2 * 2);
  const cpu::Turn turn;
  cpu::Pool::instance().forEach(threads, (total + chunk - 1) / chunk, [&](int64_t item, int) {
    const int64_t end = std::min(total, (item + 1) * chunk);
    for (int64_t i = item * chunk; i < end; i += 2) {  // Box and Muller 1958: two at a time
      const double radius = initialDeviation * std::sqrt(-2 * std::log(uniform(randomBits(seed, i))));
      const double angle = 2 * pi * uniform(randomBits(seed, i + 1));
      weight[i] = static_cast<float>(radius * std::cos(angle));
      if (i + 1 < end) weight[i + 1] = static_cast<float>(radius * std::sin(angle));
    }
  });
}

void Head::dispose() {
  const std::lock_guard<std::mutex> lock(mutex_);
  disposed_ = true;
  for (Block* block : {&weight_, &bias_, &weightState_[0], &weightState_[1], &biasState_[0], &biasState_[1]})
    *block = Block();
}

Margin Head::marginNow() const {
  const double steps = static_cast<double>(settings_.warmupSteps), iteration = static_cast<double>(iteration_);
  return atIteration(warmedUp(settings_.margin, iteration < steps ? iteration / steps : 1), iteration);
}

Status Head::run(Problem& problem, bool train, double learningRate) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  problem.classes = settings_.classes;
  problem.dim = settings_.dim;
  problem.weight = weight_.as<float>();
  problem.bias = bias_.as<float>();
  problem.margin = marginNow();
  problem.labelSmoothing = settings_.labelSmoothing;
  Update update;
  if (train) {
    update.optimizer = settings_.optimizer;
    update.optimizer.learningRate = learningRate;
    update.step = iteration_ + 1;
    for (int i = 0; i < 2; i++) {
      update.weightState[i] = weightState_[i].as<float>();
      update.biasState[i] = biasState_[i].as<float>();
    }
    problem.update = &update;
  }
  const Status status = cpuExecutor.loss(problem);
  problem.update = nullptr;
  if (status && train) iteration_++;
  return status;
}

Status Head::topK(TopKProblem& problem) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  problem.weight = weight_.as<float>();
  problem.bias = bias_.as<float>();
  problem.normalized = isNormalized(settings_.margin);
  return cpuExecutor.topK(problem);
}

float* Head::array(const char* name, int64_t& length) {
  struct Named {
    const char* name;
    const Block& block;
    int64_t length;
  };
  const int64_t row = settings_.classes, matrix = row * settings_.dim;
  const Named arrays[] = {{"weight", weight_, matrix},
                          {"bias", bias_, row},
                          {"weightState0", weightState_[0], matrix},
                          {"weightState1", weightState_[1], matrix},
                          {"biasState0", biasState_[0], row},
                          {"biasState1", biasState_[1], row}};
  for (const Named& array : arrays) {
    if (std::strcmp(array.name, name) != 0) continue;
    length = array.length;
    return array.block.as<float>();
  }
  return nullptr;
}

int64_t Head::bytes() const {
  int64_t bytes = 0;
  for (const Block* block : {&weight_, &bias_, &weightState_[0], &weightState_[1], &biasState_[0], &biasState_[1]})
    bytes += block->bytes();
  return bytes;
}

}  // namespace margin_softmax
