// Samples the classes of a training step (Partial FC, An et al. 2021 and 2022, arXiv:2010.05222 and
// 2203.15565): always those that occur in the batch, and random ones. Time and memory are
// proportional to the sample, not to the classes.
#pragma once
#include <cstdint>
#include <vector>

#include "../core/status.h"

namespace margin_softmax {

// The classes that one process holds: [first, first + count) of `total`. Without sharding, all of
// them.
struct ClassRange {
  int64_t first = 0, count = 0, total = 0;
  bool holds(int64_t label) const { return label >= first && label < first + count; }
};

struct ClassSample {
  std::vector<int32_t> classes;  // ascending, as places in the range
  std::vector<int32_t> labels;   // [B] each row's place in `classes`, or ignoredLabel, labelElsewhere
  int64_t total = 0;             // of all ranges together
};

// Draws ⌈rate·total⌉ classes, or all of the batch's if those are more: the batch's, and others
// without replacement, each with the same probability. The sample depends on the seed, the step,
// the labels and the total alone, so shards agree without communicating. `labels` [rows] are
// numbers among all shards' classes; −1 = ignored.
Status sampleClasses(const ClassRange& range, double rate, uint64_t seed, int64_t step, const int32_t* labels,
                     int64_t rows, int threads, ClassSample& sample);

}  // namespace margin_softmax
