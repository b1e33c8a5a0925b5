// The eight tile registers of Intel AMX, as far as products in bfloat16 need them: a tile is 16
// rows of 64 bytes.
//
// Tiles belong to a thread and cost a context switch, so they are configured where a product begins
// and released where it ends: nothing survives a call of other code, and no thread waits with tiles
// in use. Both together take 55 ns.
//
// The instructions are inline assembly, which no compiler flag has to allow. Where AMX_EMULATED is
// defined they are replaced by their definition (bfloat16_kernels.h): everything else of amx_impl.h
// then runs, and is tested, on any machine.
#pragma once
#include "simd.h"

namespace {

static_assert(lanes == 16, "a row of a tile is a vector");
constexpr int tileRows = 16;
constexpr int64_t tileHalves = 512;  // of 16 bits in a tile

#if defined(AMX_EMULATED)

class Tiles {
 public:
  // Nobody may rely on what a tile holds before it is loaded or zeroed.
  Tiles() {
    for (uint32_t (&tile)[tileRows][lanes] : tiles_)
      for (uint32_t (&row)[lanes] : tile)
        for (uint32_t& word : row) word = 0x7fffffff;  // NaN, and as a pair of bfloat16, too
  }

  template <int tile>
  INLINE_MEMBER void zero() {
    __builtin_memset(tiles_[tile], 0, sizeof tiles_[tile]);
  }
  template <int tile>
  INLINE_MEMBER void load(const void* from, int64_t strideBytes) {
    for (int r = 0; r < tileRows; r++) __builtin_memcpy(tiles_[tile][r], (const char*)from + r * strideBytes, 64);
  }
  template <int tile>
  INLINE_MEMBER void store(void* to, int64_t strideBytes) {
    for (int r = 0; r < tileRows; r++) __builtin_memcpy((char*)to + r * strideBytes, tiles_[tile][r], 64);
  }
  // sum += a·b. Denormal numbers count as 0 only while FlushDenormals lives.
  template <int sum, int a, int b>
  INLINE_MEMBER void multiply() {
    multiplyTiles((float (*)[lanes])tiles_[sum], tiles_[a], tiles_[b]);
  }

 private:
  // Every machine with AVX2 has these vectors; those of 64 bytes would be 15 times slower there.
  typedef float Eight __attribute__((vector_size(32), may_alias));
  typedef uint32_t EightPairs __attribute__((vector_size(32), may_alias));

  static __attribute__((noinline)) void multiplyTiles(float (*sum)[lanes], const uint32_t (*a)[lanes],
                                                      const uint32_t (*b)[lanes]) {
    constexpr int rows = 2, width = 8;  // four chains at once, for the multipliers' latency
    for (int column = 0; column < lanes; column += width) {
      for (int first = 0; first < tileRows; first += rows) {
        Eight even[rows] = {}, odd[rows] = {};
        for (int k = 0; k < 16; k++) {
          const EightPairs pairs = *(const EightPairs*)(b[k] + column);
          const Eight evenB = (Eight)(pairs << 16), oddB = (Eight)(pairs & 0xffff0000u);
          UNROLL for (int r = 0; r < rows; r++) {
            const EightPairs pair = (EightPairs){} + a[first + r][k];
            even[r] += (Eight)(pair << 16) * evenB;
            odd[r] += (Eight)(pair & 0xffff0000u) * oddB;
          }
        }
        UNROLL for (int r = 0; r < rows; r++) * (Eight*)(sum[first + r] + column) += even[r] + odd[r];
      }
    }
  }

  alignas(64) uint32_t tiles_[8][tileRows][lanes];
};

#else

class Tiles {
 public:
  INLINE_MEMBER Tiles() {
    struct {
      uint8_t palette = 1, start = 0, reserved[14] = {};
      uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};  // of a row
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } configuration;
    static_assert(sizeof configuration == 64, "as ldtilecfg reads it");
    asm volatile("ldtilecfg %0" ::"m"(configuration));
  }
  INLINE_MEMBER ~Tiles() { asm volatile("tilerelease" ::: "memory"); }

  template <int tile>
  INLINE_MEMBER void zero() {
    asm volatile("tilezero %%tmm%c0" ::"i"(tile));
  }
  template <int tile>
  INLINE_MEMBER void load(const void* from, int64_t strideBytes) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(from), "r"(strideBytes), "i"(tile) : "memory");
  }
  template <int tile>
  INLINE_MEMBER void store(void* to, int64_t strideBytes) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(to), "r"(strideBytes), "i"(tile) : "memory");
  }
  // sum += a·b
  template <int sum, int a, int b>
  INLINE_MEMBER void multiply() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(sum), "i"(a), "i"(b));
  }
};

#endif

}  // namespace
