#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "cpu/pool.h"
#include "random.h"
#include "row.h"
#include "sizes.h"

namespace margin_softmax {
namespace {

// Sorts numbers from 0 to below `limit` by eleven bits at a time.
void sortNumbers(std::vector<int32_t>& numbers, int64_t limit) {
  constexpr int digitBits = 11, digits = 1 << digitBits;
  std::vector<int32_t> sorted(numbers.size());
  for (int shift = 0; shift < 31 && limit >> shift; shift += digitBits) {
    size_t start[digits + 1] = {};
    for (const int32_t n : numbers) start[(n >> shift & (digits - 1)) + 1]++;
    for (int d = 0; d < digits; d++) start[d + 1] += start[d];
    for (const int32_t n : numbers) sorted[start[n >> shift & (digits - 1)]++] = n;
    numbers.swap(sorted);
  }
}

// The batch's own classes, ascending, each once.
std::vector<int32_t> classesOf(const int32_t* labels, int64_t rows) {
  std::vector<int32_t> classes;
  for (int64_t i = 0; i < rows; i++)
    if (labels[i] >= 0) classes.push_back(labels[i]);
  std::sort(classes.begin(), classes.end());
  classes.erase(std::unique(classes.begin(), classes.end()), classes.end());
  return classes;
}

void draw(const ClassRange& range, double rate, uint64_t seed, int64_t step, const int32_t* labels, int64_t rows,
          int threads, ClassSample& sample) {
  const std::vector<int32_t> own = classesOf(labels, rows);
  const int64_t wanted = static_cast<int64_t>(std::ceil(rate * static_cast<double>(range.total)));
  sample.total = std::clamp<int64_t>(wanted, static_cast<int64_t>(own.size()), range.total);
  // The first classes of a random order, without the batch's own: as many as these leave room for.
  const RandomOrder order(randomBits(seed, static_cast<uint64_t>(step)), range.total);
  std::vector<int32_t>& classes = sample.classes;
  classes.resize(sample.total);
  {
    constexpr int64_t block = 4096;
    const cpu::Turn turn;
    cpu::Pool::instance().forEach(threads, divideUp(sample.total, block), [&](int64_t item, int) {
      for (int64_t i = item * block; i < std::min(sample.total, (item + 1) * block); i++) {
        const int32_t j = static_cast<int32_t>(order.at(i));
        classes[i] = std::binary_search(own.begin(), own.end(), j) ? -1 : j;
      }
    });
  }
  int64_t others = sample.total - static_cast<int64_t>(own.size()), kept = 0;
  const auto keep = [&](int64_t j) {
    if (range.holds(j)) classes[kept++] = static_cast<int32_t>(j - range.first);
  };
  for (int64_t i = 0; others > 0; i++) {
    if (classes[i] < 0) continue;
    keep(classes[i]);
    others--;
  }
  // Every class kept so far came from a place before those still to be read, so the rest of the array is free.
  classes.resize(kept + own.size());
  for (const int32_t j : own) keep(j);
  classes.resize(kept);
  sortNumbers(classes, range.count);
  sample.labels.resize(rows);
  for (int64_t i = 0; i < rows; i++) {
    int32_t& place = sample.labels[i];
    if (labels[i] == ignoredLabel) place = ignoredLabel;
    else if (!range.holds(labels[i])) place = labelElsewhere;
    else
      place = static_cast<int32_t>(std::lower_bound(classes.begin(), classes.end(), labels[i] - range.first) -
                                   classes.begin());
  }
}

}  // namespace

Status sampleClasses(const ClassRange& range, double rate, uint64_t seed, int64_t step, const int32_t* labels,
                     int64_t rows, int threads, ClassSample& sample) {
  try {
    draw(range, rate, seed, step, labels, rows, threads, sample);
    return {};
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the sample of the classes", static_cast<int64_t>(rate * range.total) * 8);
  }
}

}  // namespace margin_softmax
