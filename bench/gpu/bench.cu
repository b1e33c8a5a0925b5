// Times one training step of a head whose weights and momentum lie on the GPU (ArcFace, SGD with momentum fused into
// the backward pass), and the cross-entropy of given logits. "ms on the GPU" is between events around the kernels,
// without the copies of the embeddings up and of their gradient down; "ms of the call" is what a caller waits. Medians
// of two runs over inputs that rotate; both begin with the same weights and must end with the same bits. "MB used" holds
// the workspace of the largest step so far, and the kernels' code, but not CUDA's context.
//
//   bench [repeats] [BxDxC | BxC …]    a step for three numbers, a cross-entropy for two
//
// Exits with 1 where something failed or the bits differed.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "../../native/core/executor.h"
#include "../../native/cuda/cross_entropy.cuh"
#include "../../native/cuda/device.h"
#include "../../native/cuda/row_launch.h"

using namespace margin_softmax;

namespace {

double now() {
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

struct Spread {
  double median, least, most;
};
Spread spreadOf(std::vector<double> times) {
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times.front(), times.back()};
}

uint32_t state = 1;
float uniform() {
  state = state * 1664525u + 1013904223u;
  return static_cast<float>(state >> 8) / 8388608.0f - 1;
}

struct DeviceArray {
  void* memory = nullptr;
  int64_t bytes;
  explicit DeviceArray(int64_t n) : bytes(n) {
    if (const Status status = cudaExecutor.allocate(0, n, memory); !status) std::printf("%s\n", status.message.c_str());
  }
  ~DeviceArray() {
    if (memory) cudaExecutor.release(0, memory, bytes);
  }
};

// Writes a slab of numbers over and over into device memory.
bool fill(const DeviceArray& array, const std::vector<float>& slab) {
  const int64_t slabBytes = static_cast<int64_t>(slab.size()) * 4;
  for (int64_t at = 0; at < array.bytes; at += slabBytes)
    if (!cudaExecutor.upload(0, static_cast<char*>(array.memory) + at, slab.data(),
                             std::min(array.bytes - at, slabBytes)))
      return false;
  return true;
}

uint64_t hashOf(const std::vector<float>& values, uint64_t hash) {  // FNV-1a
  for (const float value : values) {
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    hash = (hash ^ bits) * 1099511628211u;
  }
  return hash;
}

// With the context open, and before anything is allocated.
size_t freeAtFirst = 0;

size_t freeBytes() {
  const cuda::DeviceLock lock(0);
  size_t available = 0, total = 0;
  cudaMemGetInfo(&available, &total);
  return available;
}

// The events that time the device's own work, from here to the end of the scope.
struct Clock {
  cudaEvent_t begin, end;
  Clock() {
    const cuda::DeviceLock lock(0);
    cudaEventCreate(&begin);
    cudaEventCreate(&end);
    lock.device().timeWork(begin, end);
  }
  ~Clock() {
    const cuda::DeviceLock lock(0);
    lock.device().timeWork(nullptr, nullptr);
    cudaEventDestroy(begin);
    cudaEventDestroy(end);
  }
  double milliseconds() const {
    float elapsed = 0;
    cudaEventElapsedTime(&elapsed, begin, end);
    return elapsed;
  }
};

bool step(int64_t rows, int64_t dim, int64_t classes, Precision precision, const char* name, int repeats) {
  DeviceArray weight(classes * dim * 4), momentum(classes * dim * 4);
  if (!weight.memory || !momentum.memory) return false;
  const size_t slabLength = static_cast<size_t>(std::min<int64_t>(classes * dim, 1 << 22));
  std::vector<float> slab(slabLength), zeros(slabLength), last(slabLength);
  for (float& value : slab) value = uniform();
  constexpr int batches = 4;
  std::vector<float> input(static_cast<size_t>(batches * rows * dim)), gradInput(static_cast<size_t>(rows * dim)),
      losses(static_cast<size_t>(rows));
  std::vector<int32_t> labels(static_cast<size_t>(batches * rows));
  for (float& value : input) value = uniform();
  for (int32_t& label : labels) label = static_cast<int32_t>((uniform() + 1) / 2 * static_cast<float>(classes - 1));
  Update update;
  update.optimizer.learningRate = 1e-3;
  update.optimizer.momentum = 0.9;
  update.weightState[0] = static_cast<float*>(momentum.memory);
  Problem problem;
  problem.rows = rows;
  problem.dim = dim;
  problem.classes = problem.totalClasses = classes;
  problem.resident = true;
  problem.weight = static_cast<float*>(weight.memory);
  problem.margin = {kindOf(ArcFace::name), {64, 0.5}};
  problem.losses = losses.data();
  problem.gradInput = gradInput.data();
  problem.update = &update;
  problem.execution.device = 0;
  problem.execution.precision = precision;
  const Clock clock;
  std::vector<double> onGpu, wall;
  uint64_t hashes[2];
  for (uint64_t& hash : hashes) {
    if (!fill(weight, slab) || !fill(momentum, zeros)) return false;
    for (int i = -3; i < repeats; i++) {
      const int batch = (i + batches) % batches;
      problem.input = input.data() + batch * rows * dim;
      problem.labels = labels.data() + batch * rows;
      const double start = now();
      if (const Status status = cudaExecutor.loss(problem); !status) {
        std::printf("%s\n", status.message.c_str());
        return false;
      }
      const double elapsed = now() - start;
      if (i < 0) continue;
      onGpu.push_back(clock.milliseconds());
      wall.push_back(elapsed);
    }
    // Every weight of the steps before has a share in these.
    const int64_t lastBytes = static_cast<int64_t>(slabLength) * 4;
    if (!cudaExecutor.download(0, static_cast<char*>(weight.memory) + weight.bytes - lastBytes, last.data(), lastBytes))
      return false;
    hash = hashOf(last, hashOf(gradInput, hashOf(losses, 1469598103934665603u)));
  }
  const double used =
      static_cast<double>(freeAtFirst) - static_cast<double>(freeBytes()) - 2.0 * static_cast<double>(weight.bytes);
  const Spread gpu = spreadOf(onGpu), call = spreadOf(wall);
  const double tera = 8.0 * static_cast<double>(rows * dim * classes) / gpu.median / 1e9;
  const bool same = hashes[0] == hashes[1];
  std::printf("| margin-softmax %s | %lldx%lldx%lld | %.3f | %.3f | %.3f | %.3f | %.1f | %.0f | %s |\n", name,
              static_cast<long long>(rows), static_cast<long long>(dim), static_cast<long long>(classes), gpu.median,
              gpu.least, gpu.most, call.median, tera, used / 1e6, same ? "the same" : "OTHER");
  std::fflush(stdout);
  return same;
}

// Cross-entropy of logits that lie on the GPU, loss and gradient, beside a copy of as many bytes.
bool crossEntropy(int64_t rows, int64_t classes, int repeats) {
  const int64_t bytes = rows * classes * 4;
  DeviceArray logits(bytes), gradient(bytes), labels(rows * 4), upstream(rows * 8), losses(rows * 8);
  if (!logits.memory || !gradient.memory) return false;
  std::vector<float> row(static_cast<size_t>(classes));
  for (float& value : row) value = 8 * uniform();
  fill(logits, row);
  const cuda::DeviceLock lock(0);
  cuda::Device& device = lock.device();
  const cuda::RowLaunch how(device, classes, true);
  cuda::CrossEntropyData data{};
  data.classes = classes;
  data.keptCount = how.keptCount;
  data.logits = static_cast<float*>(logits.memory);
  data.labels = static_cast<int32_t*>(labels.memory);
  data.upstream = static_cast<double*>(upstream.memory);
  data.keep = 1;
  data.losses = static_cast<double*>(losses.memory);
  data.gradLogits = static_cast<float*>(gradient.memory);
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  const auto timed = [&](const auto& work) {
    std::vector<double> times;
    for (int i = -2; i < repeats; i++) {
      cudaEventRecord(begin, device.stream());
      work();
      cudaEventRecord(end, device.stream());
      if (!device.finish("be timed")) return Spread{};
      float milliseconds = 0;
      cudaEventElapsedTime(&milliseconds, begin, end);
      if (i >= 0) times.push_back(milliseconds);
    }
    return spreadOf(times);
  };
  const Spread kernel = timed([&] {
    device.launch("compute the cross-entropy", cuda::crossEntropyRows, dim3(static_cast<unsigned>(rows)), how.threads,
                  how.sharedBytes(), data);
  });
  const Spread copy = timed([&] {
    device.check(cudaMemcpyAsync(gradient.memory, logits.memory, static_cast<size_t>(bytes), cudaMemcpyDeviceToDevice,
                                 device.stream()),
                 "copy");
  });
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  if (kernel.median == 0 || copy.median == 0) return false;
  std::printf(
      "cross-entropy of %lldx%lld logits: %.3f ms (%.3f to %.3f); copying them: %.3f ms; %.0f %% of the copy's "
      "bandwidth\n",
      static_cast<long long>(rows), static_cast<long long>(classes), kernel.median, kernel.least, kernel.most,
      copy.median, 100 * copy.median / kernel.median);
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int repeats = count > 1 ? std::max(1, std::atoi(arguments[1])) : 20;
  std::vector<const char*> sizes(arguments + std::min(count, 2), arguments + count);
  if (sizes.empty()) sizes = {"128x512x10000", "512x512x100000", "1024x512x360000", "512x512x1000000", "4096x100000"};
  {
    const cuda::DeviceLock lock(0);
    if (!lock.status()) {
      std::printf("%s\n", lock.status().message.c_str());
      return 1;
    }
  }
  freeAtFirst = freeBytes();
  std::printf(
      "| contender | BxDxC | ms on the GPU | least | most | ms of the call | TFLOP/s (4 products) | MB used beyond "
      "weights and momentum | bits of two runs |\n");
  std::printf("|---|---|--:|--:|--:|--:|--:|--:|---|\n");
  bool well = true;
  for (const char* size : sizes) {
    long long rows, dim, classes;
    const int numbers = std::sscanf(size, "%lldx%lldx%lld", &rows, &dim, &classes);
    if (numbers == 3) {
      well &= step(rows, dim, classes, Precision::bfloat16, "bfloat16", repeats);
      well &= step(rows, dim, classes, Precision::tf32, "tf32", repeats);
      well &= step(rows, dim, classes, Precision::float32, "float32", repeats);
    } else if (numbers == 2) {
      well &= crossEntropy(rows, dim, repeats);
    } else {
      std::printf("Expected BxDxC or BxC but received %s\n", size);
      well = false;
    }
  }
  return well ? 0 : 1;
}
