// Times one training step of a head whose weights and momentum lie on the GPU (ArcFace, SGD with momentum fused into
// the backward pass), and the cross-entropy of given logits. CUDA events around whole calls, so copies of the
// embeddings up and of their gradient down are in the figures; wall time beside them. Medians over inputs that rotate.
//
//   bench [repeats] [BxDxC …]    with sizes given, the cross-entropy is a small one as well
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "../../native/cuda/cross_entropy.cuh"
#include "../../native/cuda/device.h"
#include "../../native/cuda/row_launch.h"
#include "../../native/executor.h"

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

void step(int64_t rows, int64_t dim, int64_t classes, Precision precision, const char* name, int repeats) {
  DeviceArray weight(classes * dim * 4), momentum(classes * dim * 4);
  if (!weight.memory || !momentum.memory) return;
  {
    std::vector<float> slab(static_cast<size_t>(std::min<int64_t>(classes * dim, 1 << 22)));
    for (float& value : slab) value = uniform();
    for (int64_t at = 0; at < classes * dim; at += static_cast<int64_t>(slab.size())) {
      const int64_t count = std::min(classes * dim - at, static_cast<int64_t>(slab.size()));
      cudaExecutor.upload(0, static_cast<float*>(weight.memory) + at, slab.data(), count * 4);
    }
  }
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
  problem.classes = classes;
  problem.resident = true;
  problem.weight = static_cast<float*>(weight.memory);
  problem.margin = {kindOf(ArcFace::name), {64, 0.5}};
  problem.losses = losses.data();
  problem.gradInput = gradInput.data();
  problem.update = &update;
  problem.execution.device = 0;
  problem.execution.precision = precision;
  cudaEvent_t begin, end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  const auto record = [](cudaEvent_t event) {
    const cuda::Turn turn(0);
    cudaEventRecord(event, turn.device().stream());
  };
  std::vector<double> onGpu, wall;
  for (int i = -3; i < repeats; i++) {
    const int batch = (i + batches) % batches;
    problem.input = input.data() + batch * rows * dim;
    problem.labels = labels.data() + batch * rows;
    record(begin);
    const double start = now();
    if (const Status status = cudaExecutor.loss(problem); !status) {
      std::printf("%s\n", status.message.c_str());
      return;
    }
    const double elapsed = now() - start;
    record(end);
    cudaEventSynchronize(end);
    float milliseconds = 0;
    cudaEventElapsedTime(&milliseconds, begin, end);
    if (i < 0) continue;
    onGpu.push_back(milliseconds);
    wall.push_back(elapsed);
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  size_t available = 0, total = 0;
  cudaMemGetInfo(&available, &total);
  const Spread gpu = spreadOf(onGpu), call = spreadOf(wall);
  const double tera = 8.0 * static_cast<double>(rows * dim * classes) / gpu.median / 1e9;
  std::printf("| margin-softmax %s | %lldx%lldx%lld | %.3f | %.3f | %.3f | %.3f | %.1f | %.0f |\n", name,
              static_cast<long long>(rows), static_cast<long long>(dim), static_cast<long long>(classes), gpu.median,
              gpu.least, gpu.most, call.median, tera,
              (static_cast<double>(total - available) - 2.0 * static_cast<double>(classes * dim) * 4) / 1e6);
  std::fflush(stdout);
}

// Cross-entropy of logits that lie on the GPU, loss and gradient, beside a copy of as many bytes.
void crossEntropy(int rows, int64_t classes, int repeats) {
  const int64_t bytes = rows * classes * 4;
  DeviceArray logits(bytes), gradient(bytes), labels(rows * 4), upstream(rows * 8), losses(rows * 8);
  if (!logits.memory || !gradient.memory) return;
  std::vector<float> row(static_cast<size_t>(classes));
  for (float& value : row) value = 8 * uniform();
  for (int i = 0; i < rows; i++)
    cudaExecutor.upload(0, static_cast<float*>(logits.memory) + i * classes, row.data(), classes * 4);
  const cuda::Turn turn(0);
  cuda::Device& device = turn.device();
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
  std::printf(
      "\ncross-entropy of %dx%lld logits: %.3f ms (%.3f to %.3f); copying them: %.3f ms; %.0f %% of the copy's "
      "bandwidth\n",
      rows, static_cast<long long>(classes), kernel.median, kernel.least, kernel.most, copy.median,
      100 * copy.median / kernel.median);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
}

}  // namespace

int main(int count, char** arguments) {
  const int repeats = count > 1 ? std::atoi(arguments[1]) : 20;
  std::vector<const char*> sizes(arguments + std::min(count, 2), arguments + count);
  if (sizes.empty()) sizes = {"128x512x10000", "512x512x100000", "1024x512x360000", "512x512x1000000"};
  std::printf(
      "| contender | BxDxC | ms on the GPU | least | most | ms of the call | TFLOP/s (4 products) | MB used beyond "
      "weights and momentum |\n");
  std::printf("|---|---|--:|--:|--:|--:|--:|--:|\n");
  for (const char* size : sizes) {
    long long rows, dim, classes;
    if (std::sscanf(size, "%lldx%lldx%lld", &rows, &dim, &classes) != 3) continue;
    step(rows, dim, classes, Precision::bfloat16, "bfloat16", repeats);
    step(rows, dim, classes, Precision::tf32, "tf32", repeats);
    step(rows, dim, classes, Precision::float32, "float32", repeats);
  }
  if (count <= 2) crossEntropy(4096, 100000, repeats);
  else crossEntropy(16, 1000, repeats);
  return 0;
}
