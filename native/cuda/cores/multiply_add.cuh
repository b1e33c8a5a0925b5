// Products with single-precision multiply-adds, on every GPU. Slower than tensor cores by an order of magnitude, and
// exact to float32.
//
// 256 threads stand as 16 × 16: thread t has rows by t / 16 and columns by t % 16. Which ones depends on how the operand
// lies, so that 16-byte words of either layout are read without bank conflicts:
//
//   Major::k     t, t + 16, t + 32, … t + 112        a word is four k of one row: threads side by side read rows
//                                                    side by side, which Slab permutes
//   Major::mn    4t to 4t + 3, 64 + 4t to 64 + 4t + 3   a word is four rows of one k: threads side by side read words
//                                                    side by side
#pragma once
#include "slabs.cuh"

namespace margin_softmax::cuda {

struct MultiplyAddCore {
  using Element = float;

  static constexpr double logitUnit = 1;
  __device__ static float power(float exponent) { return expf(exponent); }

  struct Sums {
    float value[8][8];
    __device__ float& at(int r, int c) { return value[r][c]; }
  };

 private:
  // Place i of the eight that a thread of sixteen has of an operand's rows.
  template <Major major>
  __device__ static int position(int thread, int i) {
    return major == Major::k ? thread + 16 * i : i / 4 * 64 + thread * 4 + i % 4;
  }

  // For each four k of a slab: 8 × 4 elements of both operands are read, then multiplied each with each.
  template <Major aMajor, Major bMajor>
  class Reader {
   public:
    __device__ void multiply(gpu::SharedAddress a, gpu::SharedAddress b, Sums& sums) const {
#pragma unroll 1
      for (int chunk = 0; chunk < 4; chunk++) {
        float left[8][4], right[8][4];
        read<aMajor>(left, a, threadIdx.x / 16, chunk);
        read<bMajor>(right, b, threadIdx.x % 16, chunk);
#pragma unroll
        for (int k = 0; k < 4; k++)
#pragma unroll
          for (int r = 0; r < 8; r++)
#pragma unroll
            for (int c = 0; c < 8; c++) sums.at(r, c) = fmaf(left[r][k], right[c][k], sums.at(r, c));
      }
    }
  };

  template <Major major>
  __device__ static void read(float (&out)[8][4], gpu::SharedAddress slab, int thread, int chunk) {
    using S = Slab<float, major>;
    if constexpr (major == Major::k) {
#pragma unroll
      for (int i = 0; i < 8; i++) {
        const float4 v = gpu::loadShared128(slab + S::at(position<major>(thread, i), chunk));
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

 public:
  template <Major aMajor, Major bMajor>
  struct Tile : SlabTile<float> {
    using Sums = MultiplyAddCore::Sums;
    static constexpr int blocks = 1;  // of a multiprocessor: 64 sums and 64 operands a thread
    static constexpr int lanesOfRow = 16, warpsOfRow = 1;
    static constexpr int firstColumnLane = 16, warpsOfColumn = 8;
    static constexpr bool pairsColumns = bMajor == Major::mn;

    __device__ static int row(int r) { return position<aMajor>(threadIdx.x / 16, r); }
    __device__ static int column(int c) { return position<bMajor>(threadIdx.x % 16, c); }
    __device__ static int warpInRow() { return 0; }
    __device__ static int warpInColumn() { return threadIdx.x / 32; }

    // A strip is one half of the tile's rows, of which a thread has four where they lie as Major::mn.
    static constexpr int strips = 2;
    __device__ static int inStrip(int r) { return row(r % 4); }
    __device__ static int rowOfStrip(int strip, int place) { return strip * 64 + place; }

    template <bool onePlane = false>
    __device__ static void multiply(const Matrix<float>& a, int64_t m0, const Matrix<float>& b, int64_t n0,
                                    int64_t kFirst, int64_t kLast, int terms, void* staged, Sums& sums) {
      multiplySlabs<Reader<aMajor, bMajor>, aMajor, bMajor, onePlane>(a, m0, b, n0, kFirst, kLast, terms, staged, sums);
    }
  };
};

}  // namespace margin_softmax::cuda
