// Operands: what the matrix products read, in the precision of the products, padded with zeros to whole tiles and slabs.
#pragma once
#include "gpu.cuh"

namespace margin_softmax::cuda {

// The index that runs along a stored row: `k`, that of the products' sums, or `mn`, that of their outputs.
//
//   Major::k    [m or n][k]    embeddings and class directions, where logits are wanted
//   Major::mn   [k][m or n]    the same arrays, where the sums run over the batch's rows or over the classes
enum class Major { k, mn };

// A matrix in the device's memory. Rows and stride are padded to whole tiles and slabs with zeros, so that no copy
// needs a bound but that of the columns in a product over Major::mn (`columns`, a multiple of 8).
template <class Element>
struct Matrix {
  const Element* data;
  int stride;     // elements from a row to the next
  int64_t plane;  // elements from the leading to the correcting part, see leadingAndCorrection
  int columns;
};

// Terms of a product. Pairs hold an element's rounded leading part, and what that leaves, rounded as well: twice the
// bits of fraction. Their product has three terms: leading·leading, leading·correction, correction·leading.
constexpr int leadingOnly = 1, leadingAndCorrection = 3;

// A value as an operand: rounded to nearest.
template <class Element>
struct Rounded;
template <>
struct Rounded<bf16> {
  static constexpr bool rounds = true;
  __device__ static bf16 of(float value) { return __float2bfloat16(value); }
  __device__ static float back(bf16 value) { return __bfloat162float(value); }
};
template <>
struct Rounded<float> {
  static constexpr bool rounds = false;
  __device__ static float of(float value) { return value; }
  __device__ static float back(float value) { return value; }
};

// tf32 travels as float32 with a shorter fraction: a type of its own, so that operands are rounded on the way in.
struct Tf32 {
  float value;
};
template <>
struct Rounded<Tf32> {
  static constexpr bool rounds = true;
  __device__ static Tf32 of(float value) { return {gpu::toTf32(value)}; }
  __device__ static float back(Tf32 value) { return value.value; }
};

// Writes a value into an operand; `plane` is Matrix::plane.
template <class Element>
__device__ void storeOperand(Element* at, int64_t plane, int terms, float value) {
  const Element leading = Rounded<Element>::of(value);
  *at = leading;
  if (terms == leadingAndCorrection) at[plane] = Rounded<Element>::of(value - Rounded<Element>::back(leading));
}

// Writes two neighbours, the first at an even place, and makes them what the products will see.
template <class Element>
__device__ void storeRounded(Element* at, float (&pair)[2]) {
  if constexpr (sizeof(Element) == 2) {
    const uint32_t packed = gpu::packBf16(pair[0], pair[1]);
    *reinterpret_cast<uint32_t*>(at) = packed;
    pair[0] = __uint_as_float(packed << 16);
    pair[1] = __uint_as_float(packed & 0xffff0000u);
  } else {
    for (int i = 0; i < 2; i++) pair[i] = Rounded<Element>::back(Rounded<Element>::of(pair[i]));
    *reinterpret_cast<float2*>(at) = make_float2(pair[0], pair[1]);
  }
}
template <bool corrected, class Element>
__device__ void storePair(Element* at, int64_t plane, float (&pair)[2]) {
  const float exact[2] = {pair[0], pair[1]};
  storeRounded(at, pair);
  if constexpr (corrected) {
    float rest[2] = {exact[0] - pair[0], exact[1] - pair[1]};
    storeRounded(at + plane, rest);
    for (int i = 0; i < 2; i++) pair[i] += rest[i];
  }
}

}  // namespace margin_softmax::cuda
