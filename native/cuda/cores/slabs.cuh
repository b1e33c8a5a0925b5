// The geometry and the pipeline that mma_sync.cuh and multiply_add.cuh share: 128 × 128 outputs, operands by way of a
// ring in shared memory. A core with another geometry or pipeline does without this file.
//
// Operands come through three stages of 64-byte slabs (32 bfloat16 or 16 float32 along k), copied asynchronously; the
// 48 KiB that takes need no opt-in and leave room for two blocks on every GPU since sm_75. 256 threads hold 8 × 8 sums
// each. Bytes and flops of a slab: 16 KiB in, 2·128·128·32 = 1 MFLOP out (half of that in float32), 64 flops a byte of
// L2 traffic in bfloat16, 32 in float32, while an H100 needs about 110 (mma.sync) and 12 (float32):
// ../README.md, "Resources", counts on from there.
//
//   shared memory   stage 0: a's slab, b's slab | stage 1: a's, b's | stage 2: a's, b's       each slab 8 KiB
#pragma once
#include "../tile.cuh"

namespace margin_softmax::cuda {

template <class Element>
struct SlabTile {
  static constexpr int rows = 128, columns = 128, threads = 256;
  static constexpr int threadRows = 8, threadColumns = 8;
  static constexpr int slabBytes = 64, stages = 3;  // more stages would need an opt-in, and cost a block on sm_86
  static constexpr int chunkBytes = 16;             // what one copy moves
  static constexpr int depth = slabBytes / sizeof(Element);
  static constexpr unsigned operandBytes = rows * slabBytes;  // of a slab: 512 chunks, two for each thread
  static constexpr unsigned sharedBytes = 2 * stages * operandBytes;
};

// The layout of an operand's slab in shared memory, in chunks of 16 bytes:
//
//   Major::k     128 rows of m or n, 4 chunks along k       chunk j of row i stands at i·4 + (j ^ bits 1, 2 of i)
//   Major::mn    depth rows of k, 16 or 32 chunks along m   chunk j of row i stands at i·16 + (j ^ bits 0 to 2 of i) in
//                or n                                       16-bit elements, at i·32 + (j ^ 2·bits 0, 1 of i) in 32-bit
//
// Without the exclusive or the eight rows that ldmatrix reads at once would meet two of the banks' eight groups, or
// one: four or eight turns for each of them. So would the columns of 32-bit words that tf32 reads.
template <class Element, Major major>
struct Slab : SlabTile<Element> {
  using Tile = SlabTile<Element>;
  static constexpr int perChunk = Tile::chunkBytes / sizeof(Element);
  static constexpr int chunksOfRow = major == Major::k ? Tile::depth / perChunk : Tile::rows / perChunk;
  static constexpr int rowBytes = chunksOfRow * Tile::chunkBytes;
  static constexpr int rowsOfHalf = Tile::threads / chunksOfRow;  // that the block's first copies cover
  static constexpr unsigned halfBytes = Tile::operandBytes / 2;

  // The place of a chunk, in bytes.
  __device__ static unsigned at(int row, int chunk) {
    const int permutation = major == Major::k ? row >> 1 & 3 : sizeof(Element) == 2 ? row & 7 : (row & 3) << 1;
    return row * rowBytes + (chunk ^ permutation) * Tile::chunkBytes;
  }
};

// A thread's part of an operand's copies, slab after slab: two chunks, `halfBytes` apart. Their rows are permuted alike
// (see at), so one place and one address serve both.
template <class Element, Major major>
class SlabCopies {
  using S = Slab<Element, major>;

 public:
  // Copies 128 rows (or columns) from `first` on, beginning at k.
  __device__ SlabCopies(const Matrix<Element>& matrix, int64_t first, int64_t k)
      : place_(S::at(row(), chunk())),
        second_(S::rowsOfHalf * matrix.stride),
        advance_(major == Major::k ? S::depth : S::depth * matrix.stride) {
    const int64_t matrixRow = (major == Major::k ? first : k) + row();
    const int64_t column = (major == Major::k ? k : first) + chunk() * S::perChunk;
    valid_ = major == Major::k || column < matrix.columns;
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

// sums = Σ over k in [kFirst, kLast) (whole slabs) for rows m0… of a and n0… of b. `staged` is SlabTile::sharedBytes of
// shared memory; when this returns, nobody reads it any more. `onePlane`: it is known that there is one term. `Reader`
// multiplies a slab: reader.multiply(a, b, sums), addresses in shared memory.
//
// Slab i is multiplied from stage i % 3 while slabs i + 1 and i + 2 are on their way.
template <class Reader, Major aMajor, Major bMajor, bool onePlane, class Element, class Sums>
__device__ void multiplySlabs(const Matrix<Element>& a, int64_t m0, const Matrix<Element>& b, int64_t n0,
                              int64_t kFirst, int64_t kLast, int terms, void* staged, Sums& sums) {
  using Tile = SlabTile<Element>;
  constexpr int stages = Tile::stages;
  constexpr unsigned stageBytes = 2 * Tile::operandBytes, ringBytes = stages * stageBytes;
  const int slabs = static_cast<int>((kLast - kFirst) / Tile::depth), all = slabs * terms;
#pragma unroll
  for (int r = 0; r < Tile::threadRows; r++)
#pragma unroll
    for (int c = 0; c < Tile::threadColumns; c++) sums.at(r, c) = 0;
  SlabCopies<Element, aMajor> aCopies(a, m0, kFirst);
  SlabCopies<Element, bMajor> bCopies(b, n0, kFirst);
  const Reader reader;
  const gpu::SharedAddress ring = staged;
  // The terms of a product of pairs: leading·leading, leading·correction, correction·leading.
  int next = 0, term = 0;
  const auto copyNext = [&](unsigned stage) {
    aCopies.copy(ring + stage);
    bCopies.copy(ring + stage + Tile::operandBytes);
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
    reader.multiply(ring + stage, ring + stage + Tile::operandBytes, sums);
    stage = stage == ringBytes - stageBytes ? 0 : stage + stageBytes;
  }
  __syncthreads();
}

}  // namespace margin_softmax::cuda
