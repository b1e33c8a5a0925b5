// A head's content: its arrays and their first values, changes, and copies.
#include <algorithm>
#include <cstring>
#include <new>

#include "../core/block.h"
#include "../core/pool.h"
#include "../core/random.h"
#include "../formulas/bfloat16.h"
#include "head.h"

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
  if (status && projection_) status = projection_->allocate(settings_.optimizer);
  if (status && projection_) projection_->initialize(settings_.seed);
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
  if (projection_) projection_->release();
}

Status Head::change(const HeadSettings& next) {
  const Use use(*this);
  if (disposed_) return {Failure::disposed, "the head was disposed of"};
  const bool sameKind = next.optimizer.kind == settings_.optimizer.kind;
  const int states = next.optimizer.states();
  const auto keeps = [&](int i) { return sameKind && i < states && weightState_[i].bytes() != 0; };
  const int64_t row = settings_.classes * 4;
  Memory weightState[2], biasState[2], projectionState[2];
  for (int i = 0; i < states; i++) {
    if (keeps(i)) continue;
    Status status = weightState[i].take(settings_.device, row * settings_.dim);
    if (status && settings_.bias) status = biasState[i].take(settings_.device, row);
    if (!status) return status;
  }
  if (projection_)
    if (Status status = projection_->takeState(next.optimizer, keeps, projectionState); !status) return status;
  for (int i = 0; i < 2; i++) {
    if (keeps(i)) continue;
    if (projection_) projection_->state(i).swap(projectionState[i]);
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
  if (projection_)
    if (Status status = projection_->adopt(*from.projection_); !status) return status;
  const int64_t count = static_cast<int64_t>(kept.size());
  for (const char* name : arrayNames) {
    const Memory* const read = from.memoryOf(name);
    Memory* const write = memoryOf(name);
    if (!read || !write) continue;
    const int64_t row = read->bytes() / from.settings_.classes;
    // Each turn moves a run of classes that are consecutive in both heads.
    for (int64_t first = 0, last = 0; first < count; first = last) {
      for (last = first + 1; last < count && kept[last] == kept[last - 1] + 1;) last++;
      const Status status = move(*read, kept[first] * row, *write, first * row, (last - first) * row);
      if (!status) return status;
    }
  }
  return {};
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

Projection::Slice Head::projected(const char* name) const {
  return projection_ ? projection_->find(name) : Projection::Slice{};
}

int64_t Head::length(const char* name) {
  if (const Projection::Slice slice = projected(name); slice.values) return slice.length;
  const Memory* memory = memoryOf(name);
  return memory ? memory->bytes() / (bfloat16Of(name) ? 2 : 4) : 0;
}

Status Head::read(const char* name, int64_t offset, float* to, int64_t count) {
  if (const Projection::Slice slice = projected(name); slice.values) {
    std::copy_n(slice.values + offset, count, to);
    return {};
  }
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
  if (const Projection::Slice slice = projected(name); slice.values) {
    std::copy_n(from, count, slice.values + offset);
    return {};
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
  if (projection_) bytes += projection_->bytes();
  return bytes;
}

}  // namespace margin_softmax
