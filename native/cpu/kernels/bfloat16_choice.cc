#include "bfloat16_choice.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
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
                   classes);
  });
}

double secondsOfBfloat16(const Kernels& kernels) {
  const Bfloat16Kernels& bfloat16 = *kernels.bfloat16;
  const Bfloat16Shape shape{dim, rows, classes, rows, 1};
  const PackedSizes sizes = bfloat16.sizes(shape);
  std::vector<char> memory(sizes.input + sizes.weightRows + 128);
  const auto aligned = [](char* at) {
    return reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(at) + 63) / 64 * 64);
  };
  char* input = aligned(memory.data());
  const Packed packed{input, nullptr, aligned(input + sizes.input), nullptr, nullptr, nullptr};
  const std::vector<float> weight(classes * dim, 0.5f), factors(16, 0.5f), scale(classes, 1.0f);
  std::vector<float> tile(classes * rows);
  for (int64_t first = 0; first < rows; first += 16)
    bfloat16.packInput(shape, weight.data(), first, factors.data(), factors.data(), packed);
  bfloat16.packWeights(shape, weight.data(), classes, packed);
  return shortest([&] {
    bfloat16.logits(shape, packed, classes, 0, rows / kernels.lanes, scale.data(), nullptr, tile.data(), {});
  });
}

// Tiles have 15 times the rate of the multiply-adds of floats: there is nothing to measure.
bool hasTiles(const Kernels& kernels) { return kernels.bfloat16->tiles; }

// Whether the system lets this process use the table's products. Asks for it, the first time.
bool isPermitted(const Kernels& kernels) { return !hasTiles(kernels) || requestTiles(); }

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
    if (hasTiles(best) && isPermitted(best)) return Bfloat16Choice{&best, true, 0};
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
  return kernels && isPermitted(*kernels) ? kernels : nullptr;
}

}  // namespace margin_softmax::cpu
