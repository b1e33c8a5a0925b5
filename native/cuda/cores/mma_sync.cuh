// Products on the tensor cores by mma.sync, from sm_80 on, in bfloat16 and tf32. The two differ in the width of an
// element alone: in 32-bit registers their fragments along k are the same.
//
// Eight warps hold 64 × 32 outputs each:
//
//   column     0        32       64       96
//   row  0     warp 0   warp 1   warp 2   warp 3
//   row 64     warp 4   warp 5   warp 6   warp 7
//
// A warp's are 4 × 4 fragments of 16 × 8 (PTX ISA, "Matrix Fragments for mma.m16n8k16"), of which lane l holds
//
//   row l/4        columns 2·(l%4), 2·(l%4) + 1     value[i][j][0], [1]
//   row l/4 + 8    the same columns                 value[i][j][2], [3]
//
// so a thread's rows are 8 apart, and its columns come in pairs. A slab takes two steps of mma along k, its halves.
#pragma once
#include "slabs.cuh"

namespace margin_softmax::cuda {

template <class T>
struct MmaSyncCore {
  using Element = T;

  // The rounding of the products hides that of the exponential: 2^x by the special function unit.
  static constexpr double logitUnit = logTwo;
  __device__ static float power(float exponent) { return gpu::powerOfTwo(exponent); }

  struct Sums {
    float value[4][4][4];
    __device__ float& at(int r, int c) { return value[r / 2][c / 2][r % 2 * 2 + c % 2]; }
  };

 private:
  static constexpr int warpRows = 64, warpColumns = 32, warpsOfRow = 4;
  __device__ static int warpRow() { return threadIdx.x / (32 * warpsOfRow); }
  __device__ static int warpColumn() { return threadIdx.x / 32 % warpsOfRow; }

  // Reads an operand's fragments of 16 × 16 elements (8 along k in tf32) from a staged slab. What the exclusive or makes
  // of a lane's chunk differs with few bits of the fragment's place: those addresses are kept, the rest are constants.
  template <Major major, bool left>
  class Operand {
    using S = Slab<T, major>;
    static constexpr bool words = major == Major::mn && sizeof(T) == 4;  // ldmatrix transposes 16-bit elements only
    static constexpr int kept = major == Major::k ? 2 : words || left ? 4 : 2;

   public:
    __device__ Operand() {
      const int lane = threadIdx.x % 32, first = left ? warpRow() * warpRows : warpColumn() * warpColumns;
#pragma unroll
      for (int i = 0; i < kept; i++) {
        if constexpr (major == Major::k) {  // i: the half
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
      if constexpr (major == Major::k) {
        gpu::ldmatrix4(out, slab + places_[half] + i * 16 * S::rowBytes);
      } else if constexpr (!words) {
        gpu::ldmatrix4Transposed(out, slab + places_[i] + half * 16 * S::rowBytes);
      } else {
#pragma unroll
        for (int q = 0; q < 4; q++) {
          const int deeper = left ? q / 2 : q % 2, further = left ? q % 2 : q / 2;  // by 4 along k, by 8 across
          out[q] = gpu::loadShared32(slab + places_[further + i % 2 * 2] + i / 2 * 8 * S::chunkBytes +
                                     (half * 8 + deeper * 4) * S::rowBytes);
        }
      }
    }

   private:
    unsigned places_[kept];
  };

  // For each half of a slab: 4 fragments of a and 2 double ones of b are read, then multiplied each with each.
  template <Major aMajor, Major bMajor>
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
    Operand<aMajor, true> left_;
    Operand<bMajor, false> right_;
  };

 public:
  template <Major aMajor, Major bMajor>
  struct Tile : SlabTile<T> {
    using Sums = MmaSyncCore::Sums;
    static constexpr int blocks = 2;  // of a multiprocessor: at most 128 registers a thread
    static constexpr int lanesOfRow = 4, warpsOfRow = MmaSyncCore::warpsOfRow;
    static constexpr int firstColumnLane = 4, warpsOfColumn = 2;
    static constexpr bool pairsColumns = true;

    __device__ static int row(int r) { return warpRow() * warpRows + r / 2 * 16 + r % 2 * 8 + threadIdx.x % 32 / 4; }
    __device__ static int column(int c) { return warpColumn() * warpColumns + c / 2 * 8 + threadIdx.x % 4 * 2 + c % 2; }
    __device__ static int warpInRow() { return warpColumn(); }
    __device__ static int warpInColumn() { return warpRow(); }

    // Each warp hands over half of its rows: a strip is rows 0 to 31 of both rows of warps, the next one rows 32 to 63.
    static constexpr int strips = 2;
    __device__ static int inStrip(int r) { return row(r % 4) - warpRow() * (warpRows / strips); }
    __device__ static int rowOfStrip(int strip, int place) { return place / 32 * 64 + strip * 32 + place % 32; }

    template <bool onePlane = false>
    __device__ static void multiply(const Matrix<T>& a, int64_t m0, const Matrix<T>& b, int64_t n0, int64_t kFirst,
                                    int64_t kLast, int terms, void* staged, Sums& sums) {
      multiplySlabs<Reader<aMajor, bMajor>, aMajor, bMajor, onePlane>(a, m0, b, n0, kFirst, kLast, terms, staged, sums);
    }
  };
};

}  // namespace margin_softmax::cuda
