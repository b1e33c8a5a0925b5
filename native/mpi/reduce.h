// Reduces arrays over ranks, element by element and always in rank order: the same bits on every
// run, with every MPI library.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../core/collectives.h"

namespace margin_softmax::distributed {

// float32 is added in double precision and rounded once; integers wrap, as typed arrays do.
template <class T>
using Sum = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;

// sources [ranks][count], out [count]; out may be one of the sources.
template <class T>
void reduceAs(const std::vector<const void*>& sources, void* out, int64_t count, ReduceOp reduceOp) {
  constexpr int64_t block = 512;
  const auto inBlocks = [&](auto first, auto join) {
    using Accumulator = decltype(first);
    Accumulator values[block];
    for (int64_t from = 0; from < count; from += block) {
      const int64_t length = std::min(block, count - from);
      for (size_t rank = 0; rank < sources.size(); rank++) {
        const T* source = static_cast<const T*>(sources[rank]) + from;
        if (rank == 0)
          for (int64_t i = 0; i < length; i++) values[i] = static_cast<Accumulator>(source[i]);
        else
          for (int64_t i = 0; i < length; i++) values[i] = join(values[i], static_cast<Accumulator>(source[i]));
      }
      T* to = static_cast<T*>(out) + from;
      for (int64_t i = 0; i < length; i++) to[i] = static_cast<T>(values[i]);
    }
  };
  // NaN stays, as in Math.max.
  if (reduceOp == ReduceOp::sum) inBlocks(Sum<T>{}, [](auto a, auto b) { return a + b; });
  else if (reduceOp == ReduceOp::max) inBlocks(T{}, [](T a, T b) { return a < b || b != b ? b : a; });
  else inBlocks(T{}, [](T a, T b) { return a > b || b != b ? b : a; });
}

inline void reduce(const std::vector<const void*>& sources, void* out, int64_t count, Element element,
                   ReduceOp reduceOp) {
  switch (element) {
    case Element::int8:
      return reduceAs<int8_t>(sources, out, count, reduceOp);
    case Element::int16:
      return reduceAs<int16_t>(sources, out, count, reduceOp);
    case Element::uint16:
      return reduceAs<uint16_t>(sources, out, count, reduceOp);
    case Element::int32:
      return reduceAs<int32_t>(sources, out, count, reduceOp);
    case Element::uint32:
      return reduceAs<uint32_t>(sources, out, count, reduceOp);
    case Element::float32:
      return reduceAs<float>(sources, out, count, reduceOp);
    case Element::float64:
      return reduceAs<double>(sources, out, count, reduceOp);
    case Element::int64:
      return reduceAs<int64_t>(sources, out, count, reduceOp);
    case Element::uint64:
      return reduceAs<uint64_t>(sources, out, count, reduceOp);
    default:
      return reduceAs<uint8_t>(sources, out, count, reduceOp);
  }
}

}  // namespace margin_softmax::distributed
