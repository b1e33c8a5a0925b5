// bfloat16, tf32, ldmatrix and mma.sync on the CPU. Lane l of a warp holds, with g = l / 4 and t = l % 4:
//
//   16-bit 8 × 8 matrix   row g, columns 2t and 2t + 1 (transposed: rows 2t and 2t + 1 of column g)
//   bf16 a (16 × 16)      rows g and g + 8 at columns 2t…, then the same at columns 8 + 2t…
//   bf16 b (16 × 8)       rows 2t… and 8 + 2t… of column g
//   tf32 a (16 × 8)       rows g and g + 8 at column t, then the same at column t + 4
//   tf32 b (8 × 8)        rows t and t + 4 of column g
//   d (16 × 8)            row g at columns 2t and 2t + 1, then row g + 8
//
// (PTX ISA, "Matrix fragments". conformance.cu checks these maps against plain arithmetic, on a GPU where there is
// one.)
#pragma once

struct __nv_bfloat16 {
  uint16_t bits;
};
inline float __bfloat162float(__nv_bfloat16 value) { return std::bit_cast<float>(uint32_t{value.bits} << 16); }
inline __nv_bfloat16 __float2bfloat16(float value) {  // to nearest, ties to even; NaN stays NaN
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return {static_cast<uint16_t>(value != value ? 0x7fff : (bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

namespace simt {

inline float toTf32(float value) {  // ties away from zero
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const bool finite = (bits & 0x7f800000u) != 0x7f800000u;
  return std::bit_cast<float>(finite ? (bits + 0x1000) & 0xffffe000u : bits);
}

struct MatrixRows {
  uint32_t row[4];  // this lane's 16 bytes
  uint32_t out[4];
};

template <bool transposed>
void combineMatrices(void* const* lanes, unsigned) {
  const auto at = [&](int lane) -> MatrixRows& { return *static_cast<MatrixRows*>(lanes[lane]); };
  for (int matrix = 0; matrix < 4; matrix++) {
    uint16_t m[8][8];
    for (int row = 0; row < 8; row++) std::memcpy(m[row], at(8 * matrix + row).row, 16);
    for (int lane = 0; lane < 32; lane++) {
      const int g = lane / 4, t = lane % 4 * 2;
      const uint32_t low = transposed ? m[t][g] : m[g][t], high = transposed ? m[t + 1][g] : m[g][t + 1];
      at(lane).out[matrix] = low | high << 16;
    }
  }
}

// Each lane reads its own row, so that the sanitizers see whose access it is.
template <bool transposed>
void loadMatrices(uint32_t (&out)[4], const void* row, Site site) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fault(site, "ldmatrix reads %p, which is not aligned to 16 bytes", row);
  MatrixRows rows;
  for (int i = 0; i < 4; i++) rows.row[i] = static_cast<const uint32_t*>(row)[i];
  warpCollective("ldmatrix", ~0u, &rows, combineMatrices<transposed>, site, true);
  std::memcpy(out, rows.out, sizeof(out));
}
inline void ldmatrix4(uint32_t (&out)[4], const void* row, SIMT_SITE_PARAMETER) { loadMatrices<false>(out, row, site); }
inline void ldmatrix4Transposed(uint32_t (&out)[4], const void* row, SIMT_SITE_PARAMETER) {
  loadMatrices<true>(out, row, site);
}

struct Fragments {
  float* d;
  const uint32_t *a, *b;
};

// d (16 × 8) += a (16 × depth) · b (depth × 8), the fragments gathered by `gather(lane, fragments, a, b)`.
template <int depth, class Gather>
void combineProduct(void* const* lanes, const Gather& gather) {
  float a[16][depth], b[depth][8], d[16][8];
  for (int lane = 0; lane < 32; lane++) {
    const Fragments& f = *static_cast<Fragments*>(lanes[lane]);
    gather(lane / 4, lane % 4, f, a, b);
    for (int i = 0; i < 4; i++) d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2] = f.d[i];
  }
  for (int m = 0; m < 16; m++)
    for (int k = 0; k < depth; k++)
      for (int n = 0; n < 8; n++) d[m][n] += a[m][k] * b[k][n];
  for (int lane = 0; lane < 32; lane++)
    for (int i = 0; i < 4; i++)
      static_cast<Fragments*>(lanes[lane])->d[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
}

inline void combineBf16(void* const* lanes, unsigned) {
  const auto half = [](uint32_t word, int h) { return std::bit_cast<float>((word >> 16 * h & 0xffff) << 16); };
  combineProduct<16>(lanes, [&](int g, int t, const Fragments& f, float (&a)[16][16], float (&b)[16][8]) {
    for (int i = 0; i < 4; i++)
      for (int h = 0; h < 2; h++) a[g + i % 2 * 8][i / 2 * 8 + 2 * t + h] = half(f.a[i], h);
    for (int i = 0; i < 2; i++)
      for (int h = 0; h < 2; h++) b[i * 8 + 2 * t + h][g] = half(f.b[i], h);
  });
}
inline void mmaBf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIMT_SITE_PARAMETER) {
  Fragments fragments{d, a, b};
  warpCollective("mma.m16n8k16.bf16", ~0u, &fragments, combineBf16, site, true);
}

inline void combineTf32(void* const* lanes, unsigned) {
  const auto value = [](uint32_t word) { return std::bit_cast<float>(word & 0xffffe000u); };  // the rest is ignored
  combineProduct<8>(lanes, [&](int g, int t, const Fragments& f, float (&a)[16][8], float (&b)[8][8]) {
    for (int i = 0; i < 4; i++) a[g + i % 2 * 8][i / 2 * 4 + t] = value(f.a[i]);
    for (int i = 0; i < 2; i++) b[i * 4 + t][g] = value(f.b[i]);
  });
}
inline void mmaTf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], SIMT_SITE_PARAMETER) {
  Fragments fragments{d, a, b};
  warpCollective("mma.m16n8k8.tf32", ~0u, &fragments, combineTf32, site, true);
}

}  // namespace simt
