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
constexpr int chunkBytes = 16;                           // what one copy moves
constexpr unsigned operandBytes = tileSize * slabBytes;  // of a slab: 512 chunks, two for each thread
constexpr unsigned tileSharedBytes = 2 * stages * operandBytes;
constexpr unsigned allLanes = 0xffffffffu;
constexpr double logTwo = 0.693147180559945309417;

enum class Lies { along, across };

// A matrix in the device's memory. Rows and stride are padded to whole tiles and slabs with zeros, so that no copy
// needs a bound but that across the columns (`columns`, a multiple of 8).
template <class Element>
struct Matrix {
  const Element* data;
  int stride;     // elements from a row to the next
  int64_t plane;  // elements from the leading to the correcting part, see Terms
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

// How a slab of an operand is staged, and what a thread copies of it: two chunks, `halfBytes` apart.
template <class Element, Lies lies>
struct Slab {
  static constexpr int perChunk = chunkBytes / sizeof(Element);
  static constexpr int depth = slabBytes / sizeof(Element);  // along k
  static constexpr int chunksOfRow = lies == Lies::along ? depth / perChunk : tileSize / perChunk;
  static constexpr int rowBytes = chunksOfRow * chunkBytes;
  static constexpr int rowsOfHalf = tileThreads / chunksOfRow;  // that the block's first copies cover
  static constexpr unsigned halfBytes = operandBytes / 2;

  // Where a chunk stands, in bytes.
  __device__ static unsigned at(int row, int chunk) {
    const int turn = lies == Lies::along ? row >> 1 & 3 : sizeof(Element) == 2 ? row & 7 : (row & 3) << 1;
    return row * rowBytes + (chunk ^ turn) * chunkBytes;
  }
};

// A thread's part of an operand's copies, slab after slab. The rows of its two chunks are turned alike (see at), so one
// place and one address serve both.
template <class Element, Lies lies>
class SlabCopies {
  using S = Slab<Element, lies>;

 public:
  // Of 128 rows (or columns) from `first` on, beginning at k.
  __device__ SlabCopies(const Matrix<Element>& matrix, int64_t first, int64_t k)
      : place_(S::at(row(), chunk())),
        second_(S::rowsOfHalf * matrix.stride),
        advance_(lies == Lies::along ? S::depth : S::depth * matrix.stride) {
    const int64_t matrixRow = (lies == Lies::along ? first : k) + row();
    const int64_t column = (lies == Lies::along ? k : first) + chunk() * S::perChunk;
    valid_ = lies == Lies::along || column < matrix.columns;
    from_ = matrix.data + matrixRow * matrix.stride + (valid_ ? column : 0);
  }
  __device__ void copy(gpu::SharedAddress operand) const {
    gpu::copyAsync16(operand + place_, from_, valid_);
    gpu::copyAsync16(operand + place_ + S::halfBytes, from_ + second_, valid_);
  }
  __device__ void next() { from_ += advance_; }
  // To the first of these slabs, in the plane that lies `plane` elements on.
  __device__ void restart(int slabs, int64_t plane) { from_ += plane - static_cast<int64_t>(slabs) * advance_; }

 private:
  __device__ static int row() { return threadIdx.x / S::chunksOfRow; }
  __device__ static int chunk() { return threadIdx.x % S::chunksOfRow; }

  const Element* from_;
  unsigned place_;
  int second_, advance_;  // elements on to the other chunk, and to the next slab
  bool valid_;
};

// Products on the tensor cores: 8 warps of 64 × 32 outputs, two mma steps (halves) to a slab. bfloat16 and tf32 differ
// in the width of an element alone: in 32-bit registers their fragments along k are the same.
template <class T>
struct TensorCore {
  using Element = T;
  static constexpr int blocks = 2;                              // of a multiprocessor: at most 128 registers a thread
  static constexpr int lanesOfRow = 4, warpsOfRow = 4;          // that share a row of outputs
  static constexpr int firstColumnLane = 4, warpsOfColumn = 2;  // lanes 4, 8 and 16 apart share a column
  static constexpr bool pairsColumns = true;                    // outputs 2i and 2i + 1 of a row are neighbours

  // The rounding of the products hides that of the exponential: 2^x by the special function unit.
  static constexpr double logitUnit = logTwo;
  __device__ static float power(float exponent) { return gpu::powerOfTwo(exponent); }

  template <Lies>
  __device__ static int row(int r) {
    return threadIdx.x / 128 * 64 + r / 2 * 16 + r % 2 * 8 + threadIdx.x % 32 / 4;
  }
  template <Lies>
  __device__ static int column(int c) {
    return threadIdx.x / 32 % 4 * 32 + c / 2 * 8 + threadIdx.x % 4 * 2 + c % 2;
  }
  // Half of each thread's outputs, r from 4·strip on: the place of its row among the strip's 64, and that row.
  __device__ static int inStrip(int r) { return row<Lies::across>(r % 4) - threadIdx.x / 128 * 32; }
  __device__ static int rowOfStrip(int strip, int place) { return place / 32 * 64 + strip * 32 + place % 32; }
  __device__ static int warpInRow() { return threadIdx.x / 32 % 4; }
  __device__ static int warpInColumn() { return threadIdx.x / 128; }

  // Reads an operand's fragments of 16 × 16 elements (8 in tf32) from a staged slab. What the exclusive or makes of a
  // lane's chunk differs with few bits of the fragment's place: those addresses are kept, the rest are constants.
  template <Lies lies, bool left>
  class Operand {
    using S = Slab<T, lies>;
    static constexpr bool words = lies == Lies::across && sizeof(T) == 4;  // ldmatrix transposes 16-bit elements only
    static constexpr int kept = lies == Lies::along ? 2 : words || left ? 4 : 2;

   public:
    __device__ Operand() {
      const int lane = threadIdx.x % 32, first = left ? threadIdx.x / 128 * 64 : threadIdx.x / 32 % 4 * 32;
#pragma unroll
      for (int i = 0; i < kept; i++) {
        if constexpr (lies == Lies::along) {  // i: the half
          const int row = left ? lane % 16 : lane % 8 + lane / 16 * 8, chunk = left ? lane / 16 : lane / 8 % 2;
          places_[i] = S::at(first + row, i * 2 + chunk);
        } else if constexpr (!words) {  // i: the fragment
          const int k = (left ? lane / 16 : lane / 8 % 2) * 8 + lane % 8, chunk = left ? lane / 8 % 2 : lane / 16;
          places_[i] = S::at(k, first / 8 + i * 2 + chunk);
        } else {  // i: bits of the fragment's and the word's place across k
          places_[i] = S::at(lane % 4, first / 4 + i * 2 + lane / 16) + lane / 4 % 4 * sizeof(T);
        }
      }
    }
    // Fragment i (of rows 16i…, or of columns 16i… as two neighbours of 8) of this half of the slab.
    __device__ void read(gpu::SharedAddress slab, int i, int half, uint32_t (&out)[4]) const {
      if constexpr (lies == Lies::along) {
        gpu::ldmatrix4(out, slab + places_[half] + i * 16 * S::rowBytes);
      } else if constexpr (!words) {
        gpu::ldmatrix4Transposed(out, slab + places_[i] + half * 16 * S::rowBytes);
      } else {
#pragma unroll
        for (int q = 0; q < 4; q++) {
          const int deeper = left ? q / 2 : q % 2, further = left ? q % 2 : q / 2;  // by 4 along k, by 8 across
          out[q] = gpu::loadShared32(slab + places_[further + i % 2 * 2] + i / 2 * 8 * chunkBytes +
                                     (half * 8 + deeper * 4) * S::rowBytes);
        }
      }
    }

   private:
    unsigned places_[kept];
  };

  template <Lies aLies, Lies bLies>
  class Reader {
   public:
    __device__ void multiply(gpu::SharedAddress a, gpu::SharedAddress b, Sums& sums) const {
#pragma unroll
      for (int half = 0; half < 2; half++) {
        uint32_t left[4][4], right[4][2];
#pragma unroll
        for (int i = 0; i < 4; i++) left_.read(a, i, half, left[i]);
#pragma unroll
        for (int j = 0; j < 2; j++) {
          uint32_t pair[4];
          right_.read(b, j, half, pair);
          right[2 * j][0] = pair[0], right[2 * j][1] = pair[1];
          right[2 * j + 1][0] = pair[2], right[2 * j + 1][1] = pair[3];
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
    Operand<aLies, true> left_;
    Operand<bLies, false> right_;
  };
};

// Products with single-precision multiply-adds: 16 × 16 threads, four k at a time read as 16-byte words from either
// layout. Slower than tensor cores by an order of magnitude, and exact to float32 on every GPU.
struct MultiplyAddCore {
  using Element = float;
  static constexpr int blocks = 1;  // 64 sums and 64 operands a thread
  static constexpr int lanesOfRow = 16, warpsOfRow = 1;
  static constexpr int firstColumnLane = 16, warpsOfColumn = 8;
  static constexpr bool pairsColumns = false;

  static constexpr double logitUnit = 1;
  __device__ static float power(float exponent) { return expf(exponent); }

  template <Lies lies>
  __device__ static int row(int r) {
    return position<lies>(threadIdx.x / 16, r);
  }
  template <Lies lies>
  __device__ static int column(int c) {
    return position<lies>(threadIdx.x % 16, c);
  }
  __device__ static int inStrip(int r) { return row<Lies::across>(r % 4); }
  __device__ static int rowOfStrip(int strip, int place) { return strip * 64 + place; }
  __device__ static int warpInRow() { return 0; }
  __device__ static int warpInColumn() { return threadIdx.x / 32; }

  template <Lies aLies, Lies bLies>
  class Reader {
   public:
    __device__ void multiply(gpu::SharedAddress a, gpu::SharedAddress b, Sums& sums) const {
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
  };

 private:
  template <Lies lies>
  __device__ static int position(int thread, int i) {
    return lies == Lies::along ? thread + 16 * i : i / 4 * 64 + thread * 4 + i % 4;
  }

  template <Lies lies>
  __device__ static void read(float (&out)[8][4], gpu::SharedAddress slab, int thread, int chunk) {
    using S = Slab<float, lies>;
    if constexpr (lies == Lies::along) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float4 v = gpu::loadShared128(slab + S::at(position<lies>(thread, i), chunk));
        out[i][0] = v.x, out[i][1] = v.y, out[i][2] = v.z, out[i][3] = v.w;
      }
    } else {
#pragma unroll
      for (int k = 0; k < 4; k++)
#pragma unroll
        for (int i = 0; i < 8; i += 4) {
          const float4 v = gpu::loadShared128(slab + S::at(chunk * 4 + k, i / 4 * 16 + thread));
          out[i][k] = v.x, out[i + 1][k] = v.y, out[i + 2][k] = v.z, out[i + 3][k] = v.w;
        }
    }
  }
};

// sums = Σ over k in [kFirst, kLast) (whole slabs) for rows m0… of a and n0… of b. `staged` is tileSharedBytes of
// shared memory; when this returns, nobody reads it any more. `onePlane`: it is known that there is one term.
template <class Core, Lies aLies, Lies bLies, bool onePlane = false>
__device__ void multiplyTile(const Matrix<typename Core::Element>& a, int64_t m0,
                             const Matrix<typename Core::Element>& b, int64_t n0, int64_t kFirst, int64_t kLast,
                             int terms, typename Core::Element* staged, Sums& sums) {
  using Element = typename Core::Element;
  constexpr unsigned stageBytes = 2 * operandBytes, ringBytes = stages * stageBytes;
  const int slabs = static_cast<int>((kLast - kFirst) / Slab<Element, aLies>::depth), all = slabs * terms;
#pragma unroll
  for (int i = 0; i < 64; i++) sums.at(i / 8, i % 8) = 0;
  SlabCopies<Element, aLies> aCopies(a, m0, kFirst);
  SlabCopies<Element, bLies> bCopies(b, n0, kFirst);
  const typename Core::template Reader<aLies, bLies> reader;
  const gpu::SharedAddress ring = staged;
  // The terms of a product of pairs: leading·leading, leading·correction, correction·leading.
  int next = 0, term = 0;
  const auto copyNext = [&](unsigned stage) {
    aCopies.copy(ring + stage);
    bCopies.copy(ring + stage + operandBytes);
    aCopies.next();
    bCopies.next();
    if (onePlane || ++next < slabs) return;
    next = 0, term++;
    aCopies.restart(slabs, term == 2 ? a.plane : 0);
    bCopies.restart(slabs, term == 1 ? b.plane : -b.plane);
  };
  unsigned stage = 0;
#pragma unroll
  for (int s = 0; s < stages - 1; s++) {
    if (s < all) copyNext(s * stageBytes);
    gpu::commitCopies();
  }
#pragma unroll 1
  for (int slab = 0; slab < all; slab++) {
    gpu::waitCopies<stages - 2>();
    __syncthreads();  // this slab has arrived for all, and all are done with the stage that is filled next
    if (slab + stages - 1 < all) copyNext(stage == 0 ? ringBytes - stageBytes : stage - stageBytes);
    gpu::commitCopies();
    reader.multiply(ring + stage, ring + stage + operandBytes, sums);
    stage = stage == ringBytes - stageBytes ? 0 : stage + stageBytes;
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
