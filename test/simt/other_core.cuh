// A core of another geometry than those of native/cuda/cores, for the shim alone: other tiles for each product, none of
// them square, fewer threads, no ring. The step's kernels are the same files; that they find right results with it
// shows that they ask their core for everything about a tile.
//
//   product           Tile         of a thread   threads
//   logits            32 × 32      4 × 4         64
//   input gradient    16 × 256     2 × 32        64
//   weight gradient   64 × 128     4 × 16        128       so a chunk's classes are padded to 64, not to a tile of logits
//
// Eight lanes share a row, and a warp's four rows of lanes lie below those of the warp before:
//
//   lane l of warp w   rows (4w + l/8)·threadRows + r   columns 16·(c/2) + 2·(l%8) + c%2
#pragma once
#include "../../native/cuda/tile.cuh"

namespace margin_softmax::cuda {

template <int tileRows, int tileColumns, int tileThreads>
struct OtherTile {
  static constexpr int rows = tileRows, columns = tileColumns, threads = tileThreads, blocks = 1;
  static constexpr int depth = 8;
  static constexpr int lanesOfRow = 8, warpsOfRow = 1;
  static constexpr int firstColumnLane = lanesOfRow, warpsOfColumn = threads / 32;
  static constexpr int threadRows = rows / (threads / lanesOfRow), threadColumns = columns / lanesOfRow;
  static constexpr bool pairsColumns = true;
  static constexpr int strips = 1;
  static constexpr unsigned sharedBytes = 40 << 10;
  static_assert((rows + columns) * depth * sizeof(float) <= sharedBytes);

  struct Sums {
    float value[threadRows][threadColumns];
    float& at(int r, int c) { return value[r][c]; }
  };
  static int row(int r) { return static_cast<int>(threadIdx.x) / lanesOfRow * threadRows + r; }
  static int column(int c) { return c / 2 * 2 * lanesOfRow + static_cast<int>(threadIdx.x) % lanesOfRow * 2 + c % 2; }
  static int warpInRow() { return 0; }
  static int warpInColumn() { return static_cast<int>(threadIdx.x) / 32; }
  static int inStrip(int r) { return row(r); }
  static int rowOfStrip(int, int place) { return place; }
};

template <class T>
struct OtherCore {
  using Element = T;
  static constexpr double logitUnit = 1;
  static float power(float exponent) { return std::exp(exponent); }

  template <Major aMajor, Major bMajor>
  using Shape =
      std::conditional_t<aMajor == Major::mn, OtherTile<64, 128, 128>,
                         std::conditional_t<bMajor == Major::mn, OtherTile<16, 256, 64>, OtherTile<32, 32, 64>>>;

  template <Major aMajor, Major bMajor>
  struct Tile : Shape<aMajor, bMajor> {
    using Base = Shape<aMajor, bMajor>;
    using Sums = typename Base::Sums;

    // Reads rows `first` to first + count of an operand, for eight k: [count][depth]. Columns that there are not are 0.
    template <Major major>
    static void stage(const Matrix<T>& from, int64_t plane, int64_t first, int count, int64_t k, float* to) {
      for (int i = threadIdx.x; i < count * Base::depth; i += Base::threads) {
        const int64_t mn = first + i / Base::depth, deep = k + i % Base::depth;
        const int64_t row = major == Major::k ? mn : deep, column = major == Major::k ? deep : mn;
        to[i] = column < from.columns ? Rounded<T>::back(from.data[plane + row * from.stride + column]) : 0;
      }
    }

    // For each term, and each eight k: both operands to shared memory, then each thread its sums.
    template <bool onePlane = false>
    static void multiply(const Matrix<T>& a, int64_t m0, const Matrix<T>& b, int64_t n0, int64_t kFirst, int64_t kLast,
                         int terms, void* staged, Sums& sums) {
      float* const left = static_cast<float*>(staged);
      float* const right = left + Base::rows * Base::depth;
      forEachRow<Tile>([&](int r, int) { forEachColumn<Tile>([&](int c, int) { sums.at(r, c) = 0; }); });
      for (int term = 0; term < terms; term++)
        for (int64_t k = kFirst; k < kLast; k += Base::depth) {
          stage<aMajor>(a, term == 2 ? a.plane : 0, m0, Base::rows, k, left);
          stage<bMajor>(b, term == 1 ? b.plane : 0, n0, Base::columns, k, right);
          __syncthreads();
          forEachRow<Tile>([&](int r, int row) {
            forEachColumn<Tile>([&](int c, int column) {
              for (int i = 0; i < Base::depth; i++)
                sums.at(r, c) = std::fma(left[row * Base::depth + i], right[column * Base::depth + i], sums.at(r, c));
            });
          });
          __syncthreads();
        }
    }
  };
};

}  // namespace margin_softmax::cuda
