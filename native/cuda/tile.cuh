// One block's share of a matrix product, out[m][n] = Σ_k a(m,k)·b(n,k), for 128 × 128 outputs: all three products of a
// step are made of it, in each precision, whichever way their operands lie in memory.
//
// Operands come through three stages of 64-byte slabs (32 bfloat16 or 16 float32 along k), copied asynchronously; the
// 48 KiB that takes need no opt-in and leave room for two blocks on every GPU since sm_75. 256 threads hold 8 × 8 sums
// each. Bytes and flops of a slab: 16 KiB in, 2·128·128·32 = 1 MFLOP out (half of that in float32), 64 flops a byte of
// L2 traffic in bfloat16, 32 in float32, while an H100 needs about 110 (mma.sync) and 12 (float32):
// README.md, "Resources", counts on from there.
//
// A matrix is stored with k along its rows (`Lies::along`), or with k down its columns (`Lies::across`). Both are read
// from shared memory without bank conflicts: 16-byte chunks are permuted by an exclusive or with bits of their row.
#pragma once
#include "gpu.cuh"

namespace margin_softmax::cuda {

constexpr int tileSize = 128, tileThreads = 256, slabBytes = 64, stages = 3;
constexpr int chunkBytes = 16;                                  // what one copy moves
constexpr int stageChunks = tileSize * slabBytes / chunkBytes;  // of one operand: 512, two for each thread
constexpr unsigned tileSharedBytes = 2 * stages * tileSize * slabBytes;
constexpr unsigned allLanes = 0xffffffffu;

enum class Lies { along, across };

// A matrix in the device's memory. Rows and stride are padded to whole tiles and slabs with zeros, so that no copy
// needs a bound but that across the columns (`columns`, a multiple of 8).
template <class Element>
struct Matrix {
  const Element* data;
  int64_t stride;  // elements from a row to the next
  int64_t plane;   // elements from the leading to the correcting part, see Terms
  int columns;
};

// Pairs: an element's rounded leading part, and what that leaves, rounded as well: twice the bits of fraction, and a
// product of pairs is three products.
constexpr int leadingOnly = 1, leadingAndCorrection = 3;

// A thread's 8 × 8 outputs, grouped as mma.sync wants them.
struct Sums {
  float value[4][4][4];
  __device__ float& at(int r, int c) { return value[r / 2][c / 2][r % 2 * 2 + c % 2]; }
};

template <class Element>
struct Slab {
  static constexpr int perChunk = chunkBytes / sizeof(Element);
  static constexpr int depth = slabBytes / sizeof(Element);  // along k

  // Where a chunk of a staged operand stands, in elements.
  template <Lies lies>
  __device__ static int at(int row, int chunk) {
    if (lies == Lies::along) return (row * 4 + (chunk ^ (row >> 1 & 3))) * perChunk;
    const int turn = sizeof(Element) == 2 ? row & 7 : (row & 3) << 1;
    return row * tileSize + (chunk ^ turn) * perChunk;
  }

  // Copies slab k0 of 128 rows (or columns) from `first` on.
  template <Lies lies>
  __device__ static void copy(Element* staged, const Matrix<Element>& matrix, int64_t plane, int64_t first,
                              int64_t k0) {
#pragma unroll
    for (int i = 0; i < stageChunks / tileThreads; i++) {
      const int index = threadIdx.x + i * tileThreads;
      constexpr int perRow = lies == Lies::along ? depth / perChunk : tileSize / perChunk;
      const int row = index / perRow, chunk = index % perRow;
      const int64_t matrixRow = lies == Lies::along ? first + row : k0 + row;
      const int64_t column = (lies == Lies::along ? k0 : first) + chunk * perChunk;
      const bool valid = lies == Lies::along || column < matrix.columns;
      const Element* from = matrix.data + plane + matrixRow * matrix.stride + (valid ? column : 0);
      gpu::copyAsync16(staged + at<lies>(row, chunk), from, valid);
    }
  }
};

// Products on the tensor cores: 8 warps of 64 × 32 outputs, two mma steps to a slab. bfloat16 and tf32 differ in the
// width of an element alone: in 32-bit registers their fragments along k are the same.
template <class T>
struct TensorCore {
  using Element = T;
  static constexpr int blocks = 2;                              // of a multiprocessor: at most 128 registers a thread
  static constexpr int lanesOfRow = 4, warpsOfRow = 4;          // that share a row of outputs
  static constexpr int firstColumnLane = 4, warpsOfColumn = 2;  // lanes 4, 8 and 16 apart share a column

  template <Lies>
  __device__ static int row(int r) {
    return threadIdx.x / 128 * 64 + r / 2 * 16 + r % 2 * 8 + threadIdx.x % 32 / 4;
  }
  template <Lies>
  __device__ static int column(int c) {
    return threadIdx.x / 32 % 4 * 32 + c / 2 * 8 + threadIdx.x % 4 * 2 + c % 2;
  }
  __device__ static int warpInRow() { return threadIdx.x / 32 % 4; }
  __device__ static int warpInColumn() { return threadIdx.x / 128; }

  template <Lies aLies, Lies bLies>
  __device__ static void multiply(const T* a, const T* b, Sums& sums) {
    const int warpRow = threadIdx.x / 128 * 64, warpColumn = threadIdx.x / 32 % 4 * 32;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      uint32_t left[4][4], right[4][2];
#pragma unroll
      for (int i = 0; i < 4; i++) leftFragment<aLies>(left[i], a, warpRow + i * 16, half);
#pragma unroll
      for (int j = 0; j < 4; j += 2) {
        uint32_t pair[4];
        rightFragments<bLies>(pair, b, warpColumn + j * 8, half);
        right[j][0] = pair[0], right[j][1] = pair[1], right[j + 1][0] = pair[2], right[j + 1][1] = pair[3];
      }
#pragma unroll
      for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
          if constexpr (sizeof(T) == 2) gpu::mmaBf16(sums.value[i][j], left[i], right[j]);
          else gpu::mmaTf32(sums.value[i][j], left[i], right[j]);
        }
    }
  }

 private:
  using S = Slab<T>;

  // 16 rows from `first` on, a quarter of the slab's chunks times two along k.
  template <Lies lies>
  __device__ static void leftFragment(uint32_t (&out)[4], const T* a, int first, int half) {
    const int lane = threadIdx.x % 32;
    if constexpr (lies == Lies::along) {
      gpu::ldmatrix4(out, a + S::template at<lies>(first + lane % 16, half * 2 + lane / 16));
    } else if constexpr (sizeof(T) == 2) {
      const int k = half * 16 + lane / 16 * 8 + lane % 8;
      gpu::ldmatrix4Transposed(out, a + S::template at<lies>(k, first / 8 + lane / 8 % 2));
    } else {
#pragma unroll
      for (int q = 0; q < 4; q++) out[q] = word(a, half * 8 + lane % 4 + q / 2 * 4, first + lane / 4 + q % 2 * 8);
    }
  }

  // Two fragments of 8 columns each from `first` on.
  template <Lies lies>
  __device__ static void rightFragments(uint32_t (&out)[4], const T* b, int first, int half) {
    const int lane = threadIdx.x % 32;
    if constexpr (lies == Lies::along) {
      gpu::ldmatrix4(out, b + S::template at<lies>(first + lane % 8 + lane / 16 * 8, half * 2 + lane / 8 % 2));
    } else if constexpr (sizeof(T) == 2) {
      const int k = half * 16 + lane / 8 % 2 * 8 + lane % 8;
      gpu::ldmatrix4Transposed(out, b + S::template at<lies>(k, first / 8 + lane / 16));
    } else {
#pragma unroll
      for (int q = 0; q < 4; q++) out[q] = word(b, half * 8 + lane % 4 + q % 2 * 4, first + lane / 4 + q / 2 * 8);
    }
  }

  // ldmatrix transposes 16-bit elements only: a 32-bit one is read by itself.
  __device__ static uint32_t word(const T* staged, int k, int column) {
    return *reinterpret_cast<const uint32_t*>(staged + S::template at<Lies::across>(k, column / 4) + column % 4);
  }
};

// Products with single-precision multiply-adds: 16 × 16 threads, four k at a time read as 16-byte words from either
// layout. Slower than tensor cores by an order of magnitude, and exact to float32 on every GPU.
struct MultiplyAddCore {
  using Element = float;
  static constexpr int blocks = 1;  // 64 sums and 64 operands a thread
  static constexpr int lanesOfRow = 16, warpsOfRow = 1;
  static constexpr int firstColumnLane = 16, warpsOfColumn = 8;

  template <Lies lies>
  __device__ static int row(int r) {
    return position<lies>(threadIdx.x / 16, r);
  }
  template <Lies lies>
  __device__ static int column(int c) {
    return position<lies>(threadIdx.x % 16, c);
  }
  __device__ static int warpInRow() { return 0; }
  __device__ static int warpInColumn() { return threadIdx.x / 32; }

  template <Lies aLies, Lies bLies>
  __device__ static void multiply(const float* a, const float* b, Sums& sums) {
#pragma unroll 1
    for (int chunk = 0; chunk < 4; chunk++) {
      float left[8][4], right[8][4];
      read<aLies>(left, a, threadIdx.x / 16, chunk);
      read<bLies>(right, b, threadIdx.x % 16, chunk);
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int r = 0; r < 8; r++)
#pragma unroll
          for (int c = 0; c < 8; c++) sums.at(r, c) = fmaf(left[r][k], right[c][k], sums.at(r, c));
    }
  }

 private:
  using S = Slab<float>;

  template <Lies lies>
  __device__ static int position(int thread, int i) {
    return lies == Lies::along ? thread + 16 * i : i / 4 * 64 + thread * 4 + i % 4;
  }

  template <Lies lies>
  __device__ static void read(float (&out)[8][4], const float* staged, int thread, int chunk) {
    if constexpr (lies == Lies::along) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float4 v = *reinterpret_cast<const float4*>(staged + S::at<lies>(position<lies>(thread, i), chunk));
        out[i][0] = v.x, out[i][1] = v.y, out[i][2] = v.z, out[i][3] = v.w;
      }
    } else {
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
          const float4 v = *reinterpret_cast<const float4*>(staged + S::at<lies>(chunk * 4 + k, i / 4 * 16 + thread));
          out[i][k] = v.x, out[i + 1][k] = v.y, out[i + 2][k] = v.z, out[i + 3][k] = v.w;
        }
    }
  }
};

// sums = Σ over k in [kFirst, kLast) (whole slabs) for rows m0… of a and n0… of b. `staged` is tileSharedBytes of
// shared memory; when this returns, nobody reads it any more.
template <class Core, Lies aLies, Lies bLies>
__device__ void multiplyTile(const Matrix<typename Core::Element>& a, int64_t m0,
                             const Matrix<typename Core::Element>& b, int64_t n0, int64_t kFirst, int64_t kLast,
                             int terms, typename Core::Element* staged, Sums& sums) {
  using Element = typename Core::Element;
  using S = Slab<Element>;
  constexpr int operand = tileSize * S::depth;
  const int slabs = static_cast<int>((kLast - kFirst) / S::depth), all = slabs * terms;
#pragma unroll
  for (int i = 0; i < 64; i++) sums.at(i / 8, i % 8) = 0;
  // The terms of a product of pairs: leading·leading, leading·correction, correction·leading.
  int next = 0, term = 0;
  const auto copyNext = [&](int stage) {
    const int64_t k = kFirst + static_cast<int64_t>(next) * S::depth;
    Element* to = staged + stage * 2 * operand;
    S::template copy<aLies>(to, a, term == 2 ? a.plane : 0, m0, k);
    S::template copy<bLies>(to + operand, b, term == 1 ? b.plane : 0, n0, k);
    if (++next == slabs) next = 0, term++;
  };
#pragma unroll
  for (int s = 0; s < stages - 1; s++) {
    if (s < all) copyNext(s);
    gpu::commitCopies();
  }
#pragma unroll 1
  for (int slab = 0; slab < all; slab++) {
    gpu::waitCopies<stages - 2>();
    __syncthreads();  // this slab has arrived for all, and all are done with the stage that is filled next
    if (slab + stages - 1 < all) copyNext((slab + stages - 1) % stages);
    gpu::commitCopies();
    const Element* stage = staged + slab % stages * 2 * operand;
    Core::template multiply<aLies, bLies>(stage, stage + operand, sums);
  }
  __syncthreads();
}

// Combines a thread's value of each of its 8 rows with those of the lanes that share the row.
template <class Core, class Combine>
__device__ float acrossRow(float value, Combine combine) {
#pragma unroll
  for (int distance = 1; distance < Core::lanesOfRow; distance *= 2)
    value = combine(value, __shfl_xor_sync(allLanes, value, distance));
  return value;
}

template <class Core>
__device__ float sumDownColumn(float value) {
#pragma unroll
  for (int distance = Core::firstColumnLane; distance < 32; distance *= 2)
    value += __shfl_xor_sync(allLanes, value, distance);
  return value;
}

}  // namespace margin_softmax::cuda
