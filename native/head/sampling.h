// Which classes take part in a training step (Partial FC, An et al. 2021 and 2022, arXiv:2010.05222 and 2203.15565):
// those that occur in the batch, always, and others at random. Time and memory go with the sample, not with the
// classes.
#pragma once
#include <cstdint>
#include <vector>

#include "../core/status.h"

namespace margin_softmax {

// The classes that one process holds: [first, first + count) of `total`. Without sharding, all of them.
struct ClassRange {
  int64_t first = 0, count = 0, total = 0;
  bool holds(int64_t label) const { return label >= first && label < first + count; }
};

struct ClassSample {
  std::vector<int32_t> classes;  // ascending, as places in the range
  std::vector<int32_t> labels;   // [B] each row's label as a place in `classes`, or as row.h's without one
  int64_t total = 0;             // of all ranges together
};

// ⌈rate·total⌉ classes, or the batch's where those are more: its own, and others without replacement, each as likely as
// any other. Depends on the seed, the step, the labels and the totals alone: shards agree on it without a word,
// whatever their number and threads. `labels`: [rows] of all shards' classes, −1 = ignored.
Status sampleClasses(const ClassRange& range, double rate, uint64_t seed, int64_t step, const int32_t* labels,
                     int64_t rows, int threads, ClassSample& sample);

}  // namespace margin_softmax
