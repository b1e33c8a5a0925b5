// Counts pairs by score: in a sorted list if they are few, by a counter for every score if they are
// many. Whole numbers give the same sum in any order, so threads share the counters.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>

#include "../../core/block.h"
#include "../../core/sizes.h"
#include "../../core/verification.h"

namespace margin_softmax::cpu {

class ScoreCounts {
 public:
  // A key is a pair's score and whether it belongs together. A range of keys shares a lock; its
  // counters stay in a core's level-2 cache while a buffer of keys is added.
  static constexpr int rangeBits = 17;
  static constexpr int64_t kindRanges = (2 * int64_t{scoreSteps} >> rangeBits) + 1, ranges = 2 * kindRanges;
  static constexpr int32_t sameOffset = static_cast<int32_t>(kindRanges << rangeBits);
  // 16 MiB of list.
  static constexpr int64_t mostListed = int64_t{1} << 22;

  Status prepare(int64_t pairs);
  // Adds keys of one range. From any thread.
  void add(int64_t range, const int32_t* keys, int64_t count);
  // Sets both kinds' totals and all results of the problem. Scores cover 1 − span to 1.
  void measure(VerificationProblem& problem, double span);

 private:
  template <class Count>
  void increment(const int32_t* keys, int64_t count);
  template <class Count>
  int64_t total(int64_t firstRange) const;
  template <class Count>
  void walk(VerificationFigures& figures) const;
  void measureList(VerificationProblem& problem);
  template <class Count>
  void measureCounters(VerificationProblem& problem);

  int64_t pairs_ = 0;
  double span_ = 2;
  bool listed_ = false, wide_ = false;  // wide: counters of 64 bits, for 2^32 pairs or more
  Block block_;
  std::atomic<int64_t> listLength_{0};
  std::unique_ptr<std::mutex[]> locks_;  // [ranges]
  bool used_[ranges] = {};
};

}  // namespace margin_softmax::cpu
