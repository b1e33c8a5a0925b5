// Element by element over ranks, always in rank order: the same bits from run to run, whatever the MPI library does.
#pragma once
#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

#include "../head/collectives.h"

namespace margin_softmax::distributed {

// float32 is added in double precision and rounded once; integers wrap, as typed arrays do.
template <class T>
using Sum = std::conditional_t<std::is_floating_point_v<T>, double, uint64_t>;

// sources [ranks][count], out [count]; out may be one of the sources.
template <class T>
void combineAs(const std::vector<const void*>& sources, void* out, int64_t count, Combination combination) {
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
  // A value that is not a number stays, as in Math.max.
  if (combination == Combination::sum) inBlocks(Sum<T>{}, [](auto a, auto b) { return a + b; });
  else if (combination == Combination::max) inBlocks(T{}, [](T a, T b) { return a < b || b != b ? b : a; });
  else inBlocks(T{}, [](T a, T b) { return a > b || b != b ? b : a; });
}

inline void combine(const std::vector<const void*>& sources, void* out, int64_t count, Element element,
                    Combination combination) {
  switch (element) {
    case Element::int8:
      return combineAs<int8_t>(sources, out, count, combination);
    case Element::int16:
      return combineAs<int16_t>(sources, out, count, combination);
    case Element::uint16:
      return combineAs<uint16_t>(sources, out, count, combination);
    case Element::int32:
      return combineAs<int32_t>(sources, out, count, combination);
    case Element::uint32:
      return combineAs<uint32_t>(sources, out, count, combination);
    case Element::float32:
      return combineAs<float>(sources, out, count, combination);
    case Element::float64:
      return combineAs<double>(sources, out, count, combination);
    case Element::int64:
      return combineAs<int64_t>(sources, out, count, combination);
    case Element::uint64:
      return combineAs<uint64_t>(sources, out, count, combination);
    default:
      return combineAs<uint8_t>(sources, out, count, combination);
  }
}

}  // namespace margin_softmax::distributed
