#include "head.h"

#include <cstring>
#include <new>
#include <numeric>

#include "../core/batch.h"
#include "../core/block.h"
#include "../core/pool.h"
#include "../core/random.h"
#include "../formulas/bfloat16.h"

namespace margin_softmax {
namespace {

// Returns the index of the first number that would be NaN or infinite when stored, as it is or
// rounded to bfloat16; `count` if there is none.
int64_t firstNotFinite(const float* numbers, int64_t count, bool asBfloat16) {
  constexpr int64_t block = 4096;  // tested as a whole first, in a loop that vectorizes
  const auto wrong = [&](int64_t i) {
    uint32_t bits;
    std::memcpy(&bits, numbers + i, sizeof bits);
    // Half a step above the largest bfloat16, numbers begin to be rounded to infinity.
    return (bits & 0x7f800000) == 0x7f800000 || (asBfloat16 && (bits & 0x7fff8000) >= 0x7f7f8000);
  };
  for (int64_t first = 0; first < count; first += block) {
    const int64_t last = std::min(count, first + block);
    bool any = false;
    for (int64_t i = first; i < last; i++) any |= wrong(i);
    for (int64_t i = first; any && i < last; i++)
      if (wrong(i)) return i;
  }
  return count;
}

constexpr const char* arrayNames[] = {"weight", "bias", "weightState0", "weightState1", "biasState0", "biasState1"};
constexpr double initialDeviation = 0.01;  // as InsightFace; only directions matter to a normalized margin

}  // namespace

Status Head::allocate() {
  const int64_t row = settings_.classes * 4, matrix = row * settings_.dim;
  const auto take = [&](Memory& memory, int64_t bytes) { return memory.take(settings_.device, bytes); };
  Status status = take(weight_, settings_.bfloat16Weights ? matrix / 2 : matrix);
  if (status && settings_.bias) status = take(bias_, row);
  for (int i = 0; status && i < settings_.optimizer.states(); i++) {
    status = take(weightState_[i], matrix);
    if (status && settings_.bias) status = take(biasState_[i], row);
  }
  if (!status) release();
  return status;
}

Status Head::initialize(int threads, int64_t firstRow) {
  // A class that takes the number of a removed one must not get the same initial weights.
  const uint64_t seed = firstRow ? randomBits(~settings_.seed, ~static_cast<uint64_t>(iteration_)) : settings_.seed;
  const int64_t start = firstRow * settings_.dim;
  const int64_t total = settings_.classes * settings_.dim, chunk = std::max<int64_t>(4096, (total / 4096 + 2) / 2 * 2);
  const int64_t before = settings_.firstClass * settings_.dim;  // elements of other processes
  const cpu::PoolLock lock;
  // put(i, x) for elements [first, last)
  const auto fill = [&](int64_t first, int64_t last, const auto& put) {
    cpu::Pool::instance().forEach(threads, (last - first + chunk - 1) / chunk, [&](int64_t item, int) {
      const int64_t begin = first + item * chunk, end = std::min(last, begin + chunk);
      // Box and Muller 1958: two normal numbers at a time, for an even element (counted over all
      // processes) and the next.
      for (int64_t i = begin - (before + begin) % 2; i < end; i += 2) {
        const double radius = initialDeviation * std::sqrt(-2 * std::log(uniform(randomBits(seed, before + i))));
        const double angle = 2 * pi * uniform(randomBits(seed, before + i + 1));
        if (i >= begin) put(i, static_cast<float>(radius * std::cos(angle)));
        if (i + 1 < end) put(i + 1, static_cast<float>(radius * std::sin(angle)));
      }
    });
  };
  if (settings_.device == cpuDevice) {
    if (uint16_t* halves = bfloat16Of("weight"))
      fill(start, total, [=](int64_t i, float x) { halves[i] = rounded(x); });
    else fill(start, total, [weight = weight_.as<float>()](int64_t i, float x) { weight[i] = x; });
    return {};
  }
  constexpr int64_t slab = 1 << 20;
  const Block staged(std::min(slab, total) * 4);
  if (!staged.as<float>()) return Status::outOfMemory("the first weights", std::min(slab, total) * 4);
  for (int64_t first = start; first < total; first += slab) {
    const int64_t last = std::min(total, first + slab);
    fill(first, last, [weight = staged.as<float>(), first](int64_t i, float x) { weight[i - first] = x; });
    if (Status status = weight_.write(first * 4, staged.as<float>(), (last - first) * 4); !status) return status;
  }
  return {};
}

void Head::dispose() {
  disposed_ = true;
  releaseIfIdle();
}

// If the mutex is held, its holder reads disposed_ after releasing it. So either this call or the
// holder's finds it free.
void Head::releaseIfIdle() {
  const std::unique_lock<std::mutex> lock(mutex_, std::try_to_lock);
  if (lock) release();
}

void Head::release() {
  disposed_ = true;
  for (Memory* memory : {&weight_, &bias_, &weightState_[0], &weightState_[1], &biasState_[0], &biasState_[1]})
    memory->release();
}

Status Head::change(const HeadSettings& next) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  const bool sameKind = next.optimizer.kind == settings_.optimizer.kind;
  const int states = next.optimizer.states();
  const auto keeps = [&](int i) { return sameKind && i < states && weightState_[i].bytes() != 0; };
  const int64_t row = settings_.classes * 4;
  Memory weightState[2], biasState[2];
  for (int i = 0; i < states; i++) {
    if (keeps(i)) continue;
    Status status = weightState[i].take(settings_.device, row * settings_.dim);
    if (status && settings_.bias) status = biasState[i].take(settings_.device, row);
    if (!status) return status;
  }
  for (int i = 0; i < 2; i++) {
    if (keeps(i)) continue;
    weightState_[i].swap(weightState[i]);
    biasState_[i].swap(biasState[i]);
  }
  settings_.margin = next.margin;
  settings_.optimizer = next.optimizer;
  settings_.optimizerStart = next.optimizerStart;
  settings_.labelSmoothing = next.labelSmoothing;
  settings_.warmupSteps = next.warmupSteps;
  settings_.sampleRate = next.sampleRate;
  settings_.sampleCorrection = next.sampleCorrection;
  settings_.interclassFilter = next.interclassFilter;
  settings_.negligible = next.negligible;
  settings_.maxGradientNorm = next.maxGradientNorm;
  settings_.seed = next.seed;
  return {};
}

Status Head::adopt(Head& from, const std::vector<int32_t>& kept) {
  const Use source(from), target(*this);
  if (from.disposed_ || disposed_) return {Failure::disposed, "the head was disposed of"};
  constexpr int64_t slab = 4 << 20;  // bytes at a time through host memory, from one place on a GPU to another
  const bool onCpu = settings_.device == cpuDevice;
  const Block staged(onCpu ? 0 : slab);
  if (!onCpu && !staged.as<char>()) return Status::outOfMemory("a copy of classes", slab);
  const auto move = [&](const Memory& read, int64_t at, Memory& write, int64_t to, int64_t bytes) -> Status {
    if (onCpu) return write.write(to, read.as<char>() + at, bytes);
    for (int64_t done = 0; done < bytes; done += slab) {
      const int64_t count = std::min(slab, bytes - done);
      if (Status status = read.read(at + done, staged.as<char>(), count); !status) return status;
      if (Status status = write.write(to + done, staged.as<char>(), count); !status) return status;
    }
    return {};
  };
  const int64_t count = static_cast<int64_t>(kept.size());
  for (const char* name : arrayNames) {
    const Memory* const read = from.memoryOf(name);
    Memory* const write = memoryOf(name);
    if (!read || !write) continue;
    const int64_t row = read->bytes() / from.settings_.classes;
    for (int64_t first = 0, last = 0; first < count;
         first = last) {  // a run of classes that are consecutive in both heads
      for (last = first + 1; last < count && kept[last] == kept[last - 1] + 1;) last++;
      const Status status = move(*read, kept[first] * row, *write, first * row, (last - first) * row);
      if (!status) return status;
    }
  }
  return {};
}

Margin Head::marginNow() const {
  const double steps = static_cast<double>(settings_.warmupSteps), iteration = static_cast<double>(iteration_);
  return atIteration(warmedUp(settings_.margin, iteration < steps ? iteration / steps : 1), iteration);
}

Execution Head::here(Execution execution) const {
  execution.device = settings_.device;
  execution.precision = settings_.precision;
  return execution;
}

Status Head::run(Problem& problem, bool train, double learningRate) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  problem.classes = problem.totalClasses = settings_.classes;
  problem.dim = settings_.dim;
  problem.firstClass = settings_.firstClass;
  problem.execution = here(problem.execution);
  problem.resident = true;
  problem.bfloat16Weight = bfloat16Of("weight");
  if (!problem.bfloat16Weight) problem.weight = weight_.as<float>();
  problem.bias = bias_.as<float>();
  problem.margin = marginNow();
  problem.labelSmoothing = settings_.labelSmoothing;
  problem.interclassFilter = settings_.interclassFilter;
  // AdamW divides each element of a gradient by its own size, so a bound of the norm means nothing
  // to it.
  problem.negligible = settings_.optimizer.kind == OptimizerKind::adamW ? 0 : settings_.negligible;
  Update update;
  if (train) {
    update.optimizer = settings_.optimizer;
    update.optimizer.learningRate = learningRate;
    update.step = iteration_ + 1 - settings_.optimizerStart;
    update.roundingKey = randomBits(~settings_.seed, iteration_);  // independent of the samples' stream
    update.firstClass = settings_.firstClass;
    for (int i = 0; i < 2; i++) {
      update.weightState[i] = weightState_[i].as<float>();
      update.biasState[i] = biasState_[i].as<float>();
    }
  }
  Status status;
  try {
    if (train && settings_.maxGradientNorm > 0) {
      status = computeClipped(problem, update, learningRate);
    } else {
      if (train) problem.update = &update;
      status = compute(problem, train, learningRate);
    }
  } catch (const std::bad_alloc&) {
    status = Status::outOfMemory("the step", 0);
    if (sharding_) status = sharding_->refuse(status);
  }
  problem.update = nullptr;
  if (status && train) iteration_++;
  if ((status.failure == Failure::device || status.failure == Failure::distributed) && problem.updateBegun) {
    release();
    status.message += "; the head held part of an update and was disposed of";
  }
  return status;
}

// The norm is known only after the whole gradient, which is not stored. So the gradient is computed
// twice: once for its norm and all results, once scaled for the update. The factor is that of
// PyTorch's clip_grad_norm_.
Status Head::computeClipped(Problem& problem, Update& update, double learningRate) {
  Problem spent = problem;
  problem.measuresGradient = true;
  if (Status status = compute(problem, true, learningRate); !status) return status;
  const double norm = std::sqrt(problem.statistics->gradientSquares);
  const double factor = std::isfinite(norm) ? std::min(1.0, settings_.maxGradientNorm / (norm + 1e-6)) : 0;
  Statistics statistics;
  spent.statistics = &statistics;
  spent.gradInput = nullptr;
  spent.gradScale *= factor;
  spent.update = &update;
  const Status status = compute(spent, true, learningRate);
  problem.updateBegun = spent.updateBegun;
  return status;
}

Status Head::compute(Problem& problem, bool train, double learningRate) {
  const bool sampled = train && settings_.sampleRate < 1;
  if (!sharding_) {
    weighTargets(problem);
    const Status status = sampled ? sample(problem) : Status{};
    return status ? executorOf(settings_.device)->loss(problem) : status;
  }
  Problem all = problem;
  if (Status status = sharding_->gather(all, train, learningRate, iteration_); !status) return status;
  weighTargets(all);
  if (!sampled) sharding_->localizeLabels(all);
  else if (Status status = sample(all); !status) return sharding_->refuse(status);
  if (sampled && all.classWeights)
    if (Status status = sharding_->sumOverRanks(all.classWeightSum); !status) return status;
  return sharding_->run(all, problem);
}

// Looks up the rows' class weights. The labels must still be numbers among all processes' classes.
void Head::weighTargets(Problem& problem) {
  if (classWeights_.empty()) return;
  targetWeights_ = weightsOfTargets(classWeights_.data(), problem.labels, problem.rows);
  problem.targetWeights = targetWeights_.data();
  problem.classWeights = classWeights_.data() + settings_.firstClass;
  problem.classWeightSum = std::accumulate(classWeights_.begin(), classWeights_.end(), 0.0);
}

// Restricts the problem to a sample of the classes.
Status Head::sample(Problem& problem) {
  const ClassRange range = sharding_ ? sharding_->range() : ClassRange{0, settings_.classes, settings_.classes};
  Status status = sampleClasses(range, settings_.sampleRate, settings_.seed, iteration_, problem.labels, problem.rows,
                                problem.execution.threads, sample_);
  problem.sample = sample_.classes.data();
  problem.classes = static_cast<int64_t>(sample_.classes.size());
  problem.totalClasses = sample_.total;
  if (settings_.sampleCorrection && sample_.total > 1)
    problem.negativeWeight = static_cast<double>(range.total - 1) / static_cast<double>(sample_.total - 1);
  problem.labels = sample_.labels.data();
  if (!problem.classWeights) return status;
  problem.classWeightSum = 0;  // of this process's classes
  for (const int32_t j : sample_.classes) problem.classWeightSum += problem.classWeights[j];
  return status;
}

Status Head::topK(TopKProblem& problem) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  problem.execution = here(problem.execution);
  problem.firstClass = settings_.firstClass;
  problem.resident = true;
  problem.bfloat16Weight = bfloat16Of("weight");
  if (!problem.bfloat16Weight) problem.weight = weight_.as<float>();
  problem.bias = bias_.as<float>();
  problem.normalized = isNormalized(settings_.margin);
  problem.classes = settings_.classes;
  if (!sharding_) return executorOf(settings_.device)->topK(problem);
  try {
    return sharding_->topK(problem);
  } catch (const std::bad_alloc&) {
    return sharding_->refuse(Status::outOfMemory("the best classes of all ranks' rows", 0));
  }
}

Status Head::decline(const std::string& reason, bool topK) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  try {
    return sharding_->decline(reason, topK);
  } catch (const std::bad_alloc&) {
    return sharding_->refuse(Status::outOfMemory("the reason", 0));
  }
}

Memory* Head::memoryOf(const char* name) {
  struct Named {
    const char* name;
    Memory* memory;
  };
  const Named arrays[] = {{"weight", &weight_},
                          {"bias", &bias_},
                          {"weightState0", &weightState_[0]},
                          {"weightState1", &weightState_[1]},
                          {"biasState0", &biasState_[0]},
                          {"biasState1", &biasState_[1]}};
  for (const Named& array : arrays)
    if (std::strcmp(array.name, name) == 0 && array.memory->bytes()) return array.memory;
  return nullptr;
}

uint16_t* Head::bfloat16Of(const char* name) {
  const Memory* memory = settings_.bfloat16Weights ? memoryOf(name) : nullptr;
  return memory == &weight_ ? memory->as<uint16_t>() : nullptr;
}

int64_t Head::length(const char* name) {
  const Memory* memory = memoryOf(name);
  return memory ? memory->bytes() / (bfloat16Of(name) ? 2 : 4) : 0;
}

Status Head::read(const char* name, int64_t offset, float* to, int64_t count) {
  if (const uint16_t* halves = bfloat16Of(name)) {
    std::transform(halves + offset, halves + offset + count, to, widened);
    return {};
  }
  return memoryOf(name)->read(offset * 4, to, count * 4);
}

Status Head::write(const char* name, int64_t offset, const float* from, int64_t count) {
  uint16_t* const halves = bfloat16Of(name);
  const int64_t wrong = firstNotFinite(from, count, halves != nullptr);
  if (wrong < count) {
    const bool oneAClass = std::strncmp(name, "bias", 4) == 0;
    return {Failure::notFinite, "a number is not finite", (offset + wrong) / (oneAClass ? 1 : settings_.dim)};
  }
  if (halves) {
    std::transform(from, from + count, halves + offset, rounded);
    return {};
  }
  return memoryOf(name)->write(offset * 4, from, count * 4);
}

int64_t Head::bytes() const {
  int64_t bytes = 0;
  for (const Memory* memory : {&weight_, &bias_, &weightState_[0], &weightState_[1], &biasState_[0], &biasState_[1]})
    bytes += memory->bytes();
  return bytes;
}

}  // namespace margin_softmax
