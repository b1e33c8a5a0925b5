#include "bfloat16_choice.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <vector>

#include "bfloat16_kernels.h"
#include "processor.h"

namespace margin_softmax::cpu {
namespace {

// A tile whose operands stay in the level-1 and level-2 caches: some 10 µs.
constexpr int64_t dim = 256, classes = 48, rows = maxLanes;
// Packing, and what else a step in bfloat16 has more of, takes a tenth at the most.
constexpr double fastFrom = 1.1;

// Seconds, the shortest of a few: whatever else the machine does can only lengthen them.
template <class Body>
double shortest(const Body& body) {
  using Clock = std::chrono::steady_clock;
  double best = 1e9;
  for (int i = 0; i < 6; i++) {
    const Clock::time_point start = Clock::now();
    body();
    best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count());
  }
  return best;
}

double secondsOfFloat32(const Kernels& kernels) {
  std::vector<float> weight(classes * dim, 0.5f), input(rows * dim, 0.5f), scale(classes, 1.0f), tile(classes * rows);
  return shortest([&] {
    kernels.logits(weight.data(), dim, classes, input.data(), rows / kernels.lanes, scale.data(), nullptr, tile.data(),
                   classes, {});
  });
}

// The tile's logits in bfloat16, of numbers that every table is given alike.
class Trial {
 public:
  explicit Trial(const Kernels& kernels)
      : kernels_(kernels), sizes_(kernels.bfloat16->sizes(shape_)), memory_(sizes_.input + sizes_.weightRows + 128) {
    uint32_t bits = 1;
    for (float& x : weight_) {
      bits = bits * 1664525 + 1013904223;
      x = static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-31f;
    }
    char* input = aligned(memory_.data());
    packed_ = {input, nullptr, aligned(input + sizes_.input), nullptr, nullptr, nullptr};
    for (int64_t first = 0; first < rows; first += 16)
      kernels.bfloat16->packInput(shape_, weight_.data(), first, factors_.data(), factors_.data(), packed_);
    kernels.bfloat16->packWeights(shape_, weight_.data(), classes, packed_);
  }
  void multiply() {
    kernels_.bfloat16->logits(shape_, packed_, classes, 0, rows / kernels_.lanes, scale_.data(), nullptr, tile_.data(),
                              {});
  }
  // [panel][class][L]
  const std::vector<float>& tile() const { return tile_; }

 private:
  static char* aligned(char* at) { return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + 63) / 64 * 64); }

  static constexpr Bfloat16Shape shape_{dim, rows, classes, rows, 1};
  const Kernels& kernels_;
  const PackedSizes sizes_;
  std::vector<char> memory_;
  std::vector<float> weight_ = std::vector<float>(std::max<int64_t>(classes, rows) * dim);
  std::vector<float> factors_ = std::vector<float>(16, 0.5f), scale_ = std::vector<float>(classes, 1.0f);
  std::vector<float> tile_ = std::vector<float>(classes * rows);
  Packed packed_;
};

double secondsOfBfloat16(const Kernels& kernels) {
  Trial trial(kernels);
  return shortest([&] { trial.multiply(); });
}

// Whether tiles give the bits of the next table: no processor with tiles has been at hand, and wrong
// products must not go unnoticed on the first one.
bool multipliesRight(const Kernels& tiled) {
  const KernelList list = availableKernels();
  for (int i = 0; i < list.count; i++) {
    const Kernels& other = *list.tables[i];
    if (other.bfloat16->tiles || other.lanes != tiled.lanes) continue;
    Trial ours(tiled), theirs(other);
    ours.multiply();
    theirs.multiply();
    return std::memcmp(ours.tile().data(), theirs.tile().data(), ours.tile().size() * sizeof(float)) == 0;
  }
  return false;
}

// Tiles have 15 times the rate of the multiply-adds of floats: there is nothing to measure.
bool hasTiles(const Kernels& kernels) { return kernels.bfloat16->tiles; }

// Whether the system lets this process use the table's products, and they are right. Asks for the
// permission, the first time.
bool mayServe(const Kernels& kernels) {
  if (!hasTiles(kernels)) return true;
  static const bool serves = requestTiles() && multipliesRight(kernels);
  return serves;
}

Bfloat16Choice measure() {
  const KernelList list = availableKernels();
  const Kernels* fastest = nullptr;
  double seconds = 0;
  for (int i = 0; i < list.count; i++) {
    const Kernels& kernels = *list.tables[i];
    if (hasTiles(kernels)) continue;
    const double own = secondsOfBfloat16(kernels);
    if (!fastest || own < seconds) fastest = &kernels, seconds = own;
    if (!kernels.bfloat16->native) break;  // those after it have narrower vectors
  }
  const double ratio = secondsOfFloat32(*list.tables[0]) / seconds;
  return {fastest, fastest->bfloat16->native && ratio >= fastFrom, ratio};
}

std::atomic<bool> refused{false};

}  // namespace

const Bfloat16Choice& chooseBfloat16() {
  static const Bfloat16Choice choice = [] {
    const Kernels& best = *availableKernels().tables[0];
    if (hasTiles(best) && mayServe(best)) return Bfloat16Choice{&best, true, 0};
    refused = true;
    return measure();
  }();
  return choice;
}

Bfloat16Choice expectBfloat16() {
  const Kernels& best = *availableKernels().tables[0];
  if (hasTiles(best) && !refused) return {&best, true, 0};
  return chooseBfloat16();
}

const Kernels* findBfloat16Kernels(const char* name) {
  if (!name) return chooseBfloat16().kernels;
  const Kernels* kernels = findKernels(name);
  return kernels && mayServe(*kernels) ? kernels : nullptr;
}

}  // namespace margin_softmax::cpu
