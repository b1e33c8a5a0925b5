// Each PTX wrapper of gpu.cuh, one warp, against plain arithmetic on the host. The same file runs on the shim and,
// built with nvcc, on a GPU: the first thing to run there, because shim and kernels could share one misreading of PTX.
// Prints a line for each; the exit code counts those that are wrong.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

#include "../../native/cuda/gpu.cuh"

namespace {

int wrong = 0;

void report(const char* name, bool right) {
  std::printf("%s %s\n", right ? "ok" : "WRONG", name);
  wrong += !right;
}

// Small integers: every product and sum below is exact in bfloat16, tf32 and float32.
float pattern(int i) { return static_cast<float>((i * 37 + 11) % 17 - 8); }

template <class T>
struct OnDevice {
  T* data = nullptr;
  int count;
  explicit OnDevice(int n) : count(n) { cudaMalloc(reinterpret_cast<void**>(&data), n * sizeof(T)); }
  ~OnDevice() { cudaFree(data); }
  void set(const std::vector<T>& from) {
    cudaMemcpy(data, from.data(), from.size() * sizeof(T), cudaMemcpyHostToDevice);
  }
  std::vector<T> get() const {
    std::vector<T> to(count);
    cudaDeviceSynchronize();
    cudaMemcpy(to.data(), data, count * sizeof(T), cudaMemcpyDeviceToHost);
    return to;
  }
};

template <class... Parameters, class... Arguments>
void run(void (*kernel)(Parameters...), Arguments... arguments) {
  if (gpu::launch(kernel, dim3(1), dim3(32), 0, nullptr, arguments...) != cudaSuccess) report("launch", false);
}

struct Tiles {
  __align__(16) bf16 a[16 * 16];
  __align__(16) bf16 b[16 * 16];
};
struct Words {
  __align__(16) float a[16 * 8];
  __align__(16) float b[8 * 8];
};

// out[16][8] = a[16][16] · b, b stored as [n][k] or, transposed, as [k][n].
__global__ void productBf16(const float* a, const float* b, float* out, bool transposed) {
  GPU_SHARED(Tiles, shared);
  const int lane = threadIdx.x;
  for (int i = lane; i < 256; i += 32) shared.a[i] = __float2bfloat16(a[i]);
  for (int i = lane; i < 256; i += 32) shared.b[i] = __float2bfloat16(b[i]);
  __syncwarp();
  uint32_t left[4], right[4];
  gpu::ldmatrix4(left, shared.a + (lane % 16) * 16 + lane / 16 * 8);
  if (transposed) gpu::ldmatrix4Transposed(right, shared.b + (lane % 16) * 16 + lane / 16 * 8);
  else gpu::ldmatrix4(right, shared.b + (lane % 8 + lane / 16 * 8) * 16 + lane / 8 % 2 * 8);
  const uint32_t first[2] = {right[0], right[1]};
  float sums[4] = {1, 1, 1, 1};  // accumulates on what is there
  gpu::mmaBf16(sums, left, first);
  for (int i = 0; i < 4; i++) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

// out[16][8] = a[16][8] · b[n][k] in tf32, the fragments by ldmatrix on 32-bit words.
__global__ void productTf32(const float* a, const float* b, float* out) {
  GPU_SHARED(Words, shared);
  const int lane = threadIdx.x;
  for (int i = lane; i < 128; i += 32) shared.a[i] = a[i];
  for (int i = lane; i < 64; i += 32) shared.b[i] = b[i];
  __syncwarp();
  uint32_t left[4], right[4];
  gpu::ldmatrix4(left, shared.a + (lane % 16) * 8 + lane / 16 * 4);
  gpu::ldmatrix4(right, shared.b + (lane % 8) * 8 + lane / 8 % 2 * 4);
  const uint32_t first[2] = {right[0], right[1]};
  float sums[4] = {1, 1, 1, 1};
  gpu::mmaTf32(sums, left, first);
  for (int i = 0; i < 4; i++) out[(lane / 4 + i / 2 * 8) * 8 + lane % 4 * 2 + i % 2] = sums[i];
}

void products() {
  std::vector<float> a(256), b(256);
  for (int i = 0; i < 256; i++) a[i] = pattern(i), b[i] = pattern(i + 1000);
  OnDevice<float> left(256), right(256), out(128);
  left.set(a);
  right.set(b);
  const auto check = [&](const char* name, int depth, int stride, bool transposed) {
    const std::vector<float> got = out.get();
    bool right = true;
    for (int m = 0; m < 16; m++)
      for (int n = 0; n < 8; n++) {
        float sum = 1;
        for (int k = 0; k < depth; k++) sum += a[m * stride + k] * (transposed ? b[k * stride + n] : b[n * stride + k]);
        right = right && got[m * 8 + n] == sum;
      }
    report(name, right);
  };
  run(productBf16, left.data, right.data, out.data, false);
  check("ldmatrix4 and mmaBf16", 16, 16, false);
  run(productBf16, left.data, right.data, out.data, true);
  check("ldmatrix4Transposed and mmaBf16", 16, 16, true);
  run(productTf32, left.data, right.data, out.data);
  check("ldmatrix4 and mmaTf32", 8, 8, false);
}

__global__ void roundTf32(const float* in, float* out, int count) {
  for (int i = threadIdx.x; i < count; i += 32) out[i] = gpu::toTf32(in[i]);
}

// Ties away from zero, at bit 13 of the fraction.
void rounding() {
  std::vector<float> in, expected;
  for (int i = 0; i < 400; i++) {
    const float base = std::ldexp(1.0f + static_cast<float>(i % 100) / 1024.0f, i % 40 - 20) * (i % 2 ? -1 : 1);
    const float step = std::ldexp(std::fabs(base) >= std::ldexp(1.0f, i % 40 - 20) ? 1.0f : 0.5f, i % 40 - 20 - 10);
    const float quarter = step / 4;
    in.push_back(base), expected.push_back(base);
    in.push_back(base > 0 ? base + quarter : base - quarter), expected.push_back(base);
    in.push_back(base > 0 ? base + 2 * quarter : base - 2 * quarter);
    expected.push_back(base > 0 ? base + step : base - step);
  }
  OnDevice<float> from(static_cast<int>(in.size())), to(static_cast<int>(in.size()));
  from.set(in);
  run(roundTf32, from.data, to.data, from.count);
  report("toTf32", to.get() == expected);
}

__global__ void roundBf16(const float* in, float* out, int count) {
  for (int i = threadIdx.x; i < count; i += 32) out[i] = __bfloat162float(__float2bfloat16(in[i]));
}

void roundingBf16() {
  const std::vector<float> in = {1, 1.00390625f, 1.01171875f, -1.00390625f, 1.001953125f, 1.005859375f, 3e38f, 0, NAN};
  const std::vector<float> expected = {1, 1, 1.015625f, -1, 1, 1.0078125f, std::ldexp(226.0f, 120), 0};
  OnDevice<float> from(9), to(9);
  from.set(in);
  run(roundBf16, from.data, to.data, 9);
  const std::vector<float> got = to.get();
  bool right = std::isnan(got[8]);
  for (int i = 0; i < 8; i++) right = right && got[i] == expected[i];
  report("bfloat16 rounding", right);
}

struct Copies {
  __align__(16) float at[3][32 * 4];
};

// Three groups under way, waited for one by one; odd lanes copy nothing and must find zeros.
__global__ void copies(const float* in, float* out) {
  GPU_SHARED(Copies, shared);
  const int lane = threadIdx.x;
  for (int group = 0; group < 3; group++) {
    gpu::copyAsync16(&shared.at[group][lane * 4], in + group * 128 + lane * 4, lane % 2 == 0);
    gpu::commitCopies();
  }
  const auto store = [&](int group) {
    __syncwarp();
    for (int i = 0; i < 4; i++) out[group * 128 + lane * 4 + i] = shared.at[group][(lane ^ 1) * 4 + i];
  };
  gpu::waitCopies<2>();
  store(0);
  gpu::waitCopies<1>();
  store(1);
  gpu::waitCopies<0>();
  store(2);
}

void copying() {
  std::vector<float> in(384);
  for (int i = 0; i < 384; i++) in[i] = pattern(i) + 100;
  OnDevice<float> from(384), to(384);
  from.set(in);
  run(copies, from.data, to.data);
  const std::vector<float> got = to.get();
  bool right = true;
  for (int i = 0; i < 384; i++) {
    const int group = i / 128, lane = i % 128 / 4 ^ 1;
    right = right && got[i] == (lane % 2 ? 0 : in[group * 128 + lane * 4 + i % 4]);
  }
  report("copyAsync16, commitCopies and waitCopies", right);
}

__global__ void warpWide(float* out, double* sums) {
  const int lane = threadIdx.x;
  out[lane] = gpu::warpMax(static_cast<float>(lane * 5 % 32));
  out[32 + lane] = gpu::warpSum(static_cast<float>(lane));
  sums[lane] = gpu::warpSum(1e-9 * lane);
  out[64 + lane] = static_cast<float>(__shfl_xor_sync(0xffffffffu, lane, 5));
  out[96 + lane] = static_cast<float>(__popc(__ballot_sync(0xffffffffu, lane % 3 == 0)));
  gpu::storeStreaming(out + 128 + lane, gpu::loadStreaming(out + 64 + lane) + 1);
  out[160 + lane] = static_cast<float>(__syncthreads_or(lane == 7));
}

void wide() {
  OnDevice<float> out(192);
  OnDevice<double> sums(32);
  run(warpWide, out.data, sums.data);
  const std::vector<float> got = out.get();
  const std::vector<double> total = sums.get();
  bool right = true;
  for (int lane = 0; lane < 32; lane++)
    right = right && got[lane] == 31 && got[32 + lane] == 496 && std::fabs(total[lane] - 4.96e-7) < 1e-20 &&
            got[64 + lane] == static_cast<float>(lane ^ 5) && got[96 + lane] == 11 &&
            got[128 + lane] == static_cast<float>((lane ^ 5) + 1) && got[160 + lane] == 1;
  report("warp reductions, shuffles, votes and streaming accesses", right);
}

__global__ void pooled(float* out) {
  gpu::SharedPool pool;
  float* first = pool.take<float>(33);
  double* second = pool.take<double>(32);
  first[threadIdx.x] = static_cast<float>(threadIdx.x);
  second[threadIdx.x] = threadIdx.x * 2.0;
  __syncthreads();
  out[threadIdx.x] = first[31 - threadIdx.x] + static_cast<float>(second[31 - threadIdx.x]);
}

// More than 48 KiB, so that the launch has to ask for it.
void dynamicShared() {
  OnDevice<float> out(32);
  const bool launched = gpu::launch(pooled, dim3(1), dim3(32), 60 * 1024, nullptr, out.data) == cudaSuccess;
  const std::vector<float> got = out.get();
  bool right = launched;
  for (int i = 0; i < 32; i++) right = right && got[i] == static_cast<float>(3 * (31 - i));
  report("SharedPool beyond 48 KiB", right);
}

__global__ void powers(const float* in, float* out, uint32_t* packed) {
  const int lane = threadIdx.x;
  out[lane] = gpu::powerOfTwo(in[lane]);
  packed[lane] = gpu::packBf16(in[lane], out[lane]);
}

void specialFunctions() {
  std::vector<float> in(32);
  for (int i = 0; i < 32; i++) in[i] = -0.37f * static_cast<float>(i * i);  // down to -355.6
  in[30] = -HUGE_VALF;
  in[31] = NAN;
  OnDevice<float> from(32), to(32);
  OnDevice<uint32_t> packed(32);
  from.set(in);
  run(powers, from.data, to.data, packed.data);
  const std::vector<float> got = to.get();
  const std::vector<uint32_t> pairs = packed.get();
  const auto half = [](uint32_t word) {
    float value;
    word <<= 16;
    std::memcpy(&value, &word, 4);
    return value;
  };
  bool right = std::isnan(got[31]) && got[30] == 0 && got[0] == 1, rounded = std::isnan(half(pairs[31]));
  for (int i = 0; i < 31; i++) {
    const double exact = std::exp2(static_cast<double>(in[i]));
    right = right && std::fabs(got[i] - exact) <= 3e-7 * exact + 1.2e-38;
    const float low = half(pairs[i]), high = half(pairs[i] >> 16);
    rounded = rounded && (low == in[i] || std::fabs(low - in[i]) <= 0x1p-8f * std::fabs(in[i])) &&
              std::fabs(high - got[i]) <= 0x1p-8f * got[i];
  }
  report("powerOfTwo", right);
  report("packBf16", rounded);
}

struct Wide {
  float4 fours[32];
};

__global__ void sharedWords(float* out) {
  GPU_SHARED(Wide, shared);
  const int lane = threadIdx.x;
  const float x = static_cast<float>(lane);
  shared.fours[lane] = make_float4(x, x + 100, x + 200, x + 300);
  __syncthreads();
  const gpu::SharedAddress from = &shared.fours[31 - lane];
  const float4 four = gpu::loadShared128(from);
  out[lane] = four.x + four.y + four.z + four.w;
  out[32 + lane] = __uint_as_float(gpu::loadShared32(from + 8));
  out += 64 + lane * 4;
  gpu::storeStreaming(reinterpret_cast<float4*>(out), four);
  const float4 back = gpu::loadStreaming(reinterpret_cast<const float4*>(out));
  gpu::storeStreaming(reinterpret_cast<float4*>(out), make_float4(back.x, back.y, back.z, back.w + 1));
}

void sharedAccesses() {
  OnDevice<float> out(192);
  run(sharedWords, out.data);
  const std::vector<float> got = out.get();
  bool right = true;
  for (int lane = 0; lane < 32; lane++) {
    const float x = static_cast<float>(31 - lane);
    right = right && got[lane] == 4 * x + 600 && got[32 + lane] == x + 200 && got[64 + lane * 4] == x &&
            got[67 + lane * 4] == x + 301;
  }
  report("loadShared32, loadShared128 and streaming accesses of 16 bytes", right);
}

}  // namespace

int main() {
  products();
  rounding();
  roundingBf16();
  copying();
  wide();
  dynamicShared();
  specialFunctions();
  sharedAccesses();
  return wrong;
}
