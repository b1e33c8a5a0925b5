#include "sampling.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "../core/pool.h"
#include "../core/random.h"
#include "../core/sizes.h"
#include "../formulas/row.h"

namespace margin_softmax {
namespace {

// Sorts numbers in [0, limit): radix sort by 11 bits at a time.
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

// Returns the batch's classes, ascending, each once.
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
  const std::vector<int32_t> present = classesOf(labels, rows);
  const int64_t wanted = static_cast<int64_t>(std::ceil(rate * static_cast<double>(range.total)));
  sample.total = std::clamp<int64_t>(wanted, static_cast<int64_t>(present.size()), range.total);
  // After the batch's classes, take the first of a random order that are not among them. `end` is
  // how far along the order that is: it shrinks by one for each class of the batch that lies beyond
  // it.
  const RandomOrder order(randomBits(seed, static_cast<uint64_t>(step)), range.total);
  const auto isPresent = [&](int64_t j) {
    return std::binary_search(present.begin(), present.end(), static_cast<int32_t>(j));
  };
  int64_t end = sample.total, surplus = 0;
  for (const int32_t j : present) surplus += order.placeOf(j) >= end;
  while (surplus > 0) surplus -= !isPresent(order.at(--end));
  // Walk along the order or, if this process holds fewer classes than that, class by class.
  const bool along = end <= range.count;
  const int64_t candidates = along ? end : range.count;
  std::vector<int32_t>& classes = sample.classes;
  classes.resize(candidates);
  {
    constexpr int64_t block = 4096;
    const cpu::PoolLock lock;
    cpu::Pool::instance().forEach(threads, divideUp(candidates, block), [&](int64_t item, int) {
      for (int64_t i = item * block; i < std::min(candidates, (item + 1) * block); i++) {
        const int64_t j = along ? order.at(i) : range.first + i;
        const bool taken = along ? range.holds(j) : order.placeOf(j) < end;
        classes[i] = taken && !isPresent(j) ? static_cast<int32_t>(j - range.first) : -1;
      }
    });
  }
  classes.erase(std::remove(classes.begin(), classes.end(), -1), classes.end());
  for (const int32_t j : present)
    if (range.holds(j)) classes.push_back(static_cast<int32_t>(j - range.first));
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
