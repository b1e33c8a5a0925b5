// The cores that there are, and which of them computes: the one table that a new core is added to.
#pragma once
#include <climits>

#include "../core/problem.h"
#include "../core/status.h"
#include "cores/mma_sync.cuh"
#include "cores/multiply_add.cuh"

namespace margin_softmax::cuda {

// A core for one precision, on GPUs of compute capability `least` to `most` (90 for 9.0).
template <class CoreType, Precision corePrecision, int least, int most = INT_MAX>
struct CoreEntry {
  using Core = CoreType;
  static constexpr Precision precision = corePrecision;
  static bool runsOn(int capability) { return capability >= least && capability <= most; }
};
template <class... Entries>
struct CoreList {};

// The first one that fits computes, so the best stands first.
using Cores = CoreList<CoreEntry<MmaSyncCore<bf16>, Precision::bfloat16, 80>,  //
                       CoreEntry<MmaSyncCore<Tf32>, Precision::tf32, 80>,      //
                       CoreEntry<MultiplyAddCore, Precision::float32, 75>>;

// Whether one of the cores computes in this precision on such a GPU.
template <class... Entries>
bool holdsCore(CoreList<Entries...>, Precision precision, int capability) {
  return ((Entries::precision == precision && Entries::runsOn(capability)) || ...);
}

// Returns use(Core{}) of the core for this precision and GPU.
template <Precision precision, class Use, class... Entries>
Status withFirstCore(CoreList<Entries...>, int capability, const Use& use) {
  Status status{Failure::unavailable, "Expected a GPU that computes in this precision"};
  const auto uses = [&](auto entry) {
    using Entry = decltype(entry);
    if constexpr (Entry::precision == precision) {
      if (!Entry::runsOn(capability)) return false;
      status = use(typename Entry::Core{});
      return true;
    }
    return false;
  };
  (void)(uses(Entries{}) || ...);
  return status;
}
template <Precision precision, class Use>
Status withCore(int capability, const Use& use) {
  return withFirstCore<precision>(Cores{}, capability, use);
}
template <class Use>
Status withCore(Precision precision, int capability, const Use& use) {
  switch (precision) {
    case Precision::float32:
      return withCore<Precision::float32>(capability, use);
    case Precision::tf32:
      return withCore<Precision::tf32>(capability, use);
    case Precision::bfloat16:
      return withCore<Precision::bfloat16>(capability, use);
  }
  return {Failure::unavailable, "Expected a precision"};
}

}  // namespace margin_softmax::cuda
