#include "score_counts.h"

#include <algorithm>
#include <cstring>
#include <new>

namespace margin_softmax::cpu {

Status ScoreCounts::prepare(int64_t pairs) {
  pairs_ = pairs;
  listed_ = pairs <= mostListed;
  wide_ = pairs >= int64_t{1} << 32;
  const int64_t bytes = listed_ ? std::max<int64_t>(pairs, 1) * 4 : (ranges << rangeBits) * (wide_ ? 8 : 4);
  block_ = listed_ ? Block::uninitialized(bytes) : Block(bytes);
  locks_.reset(new (std::nothrow) std::mutex[ranges]);
  if (!block_.as<void>() || !locks_) return Status::outOfMemory("the counts of scores", bytes);
  return {};
}

template <class Count>
void ScoreCounts::increment(const int32_t* keys, int64_t count) {
  Count* counters = block_.as<Count>();
  for (int64_t i = 0; i < count; i++) counters[keys[i]]++;
}

void ScoreCounts::add(int64_t range, const int32_t* keys, int64_t count) {
  if (count == 0) return;
  if (listed_) {
    const int64_t at = listLength_.fetch_add(count);
    std::memcpy(block_.as<int32_t>() + at, keys, static_cast<size_t>(count) * 4);
    return;
  }
  const std::lock_guard<std::mutex> lock(locks_[range]);
  used_[range] = true;
  if (wide_) increment<uint64_t>(keys, count);
  else increment<uint32_t>(keys, count);
}

void ScoreCounts::measureList(VerificationProblem& problem) {
  int32_t *keys = block_.as<int32_t>(), *end = keys + listLength_;
  std::sort(keys, end);
  const int32_t* firstSame = std::lower_bound(keys, end, sameOffset);
  problem.differentPairs = firstSame - keys;
  problem.samePairs = end - firstSame;
  if (problem.samePairs == 0 || problem.differentPairs == 0) return;
  VerificationFigures figures(problem);
  const int32_t *same = end, *different = firstSame;
  while (same != firstSame || different != keys) {
    const int32_t bin =
        std::max(same == firstSame ? -1 : same[-1] - sameOffset, different == keys ? -1 : different[-1]);
    const int32_t *sameBefore = same, *differentBefore = different;
    while (same != firstSame && same[-1] - sameOffset == bin) same--;
    while (different != keys && different[-1] == bin) different--;
    figures.add(scoreOf(bin, span_), sameBefore - same, differentBefore - different);
  }
  figures.finish();
}

template <class Count>
int64_t ScoreCounts::total(int64_t firstRange) const {
  int64_t sum = 0;
  for (int64_t range = firstRange; range < firstRange + kindRanges; range++) {
    if (!used_[range]) continue;
    const Count* counters = block_.as<Count>() + (range << rangeBits);
    for (int64_t i = 0; i < int64_t{1} << rangeBits; i++) sum += static_cast<int64_t>(counters[i]);
  }
  return sum;
}

template <class Count>
void ScoreCounts::walk(VerificationFigures& figures) const {
  for (int64_t range = kindRanges - 1; range >= 0; range--) {
    if (!used_[range] && !used_[kindRanges + range]) continue;
    const Count* different = block_.as<Count>() + (range << rangeBits);
    const Count* same = different + sameOffset;
    for (int64_t i = (int64_t{1} << rangeBits) - 1; i >= 0; i--)
      if (same[i] || different[i])
        figures.add(scoreOf(static_cast<int32_t>((range << rangeBits) + i), span_), static_cast<int64_t>(same[i]),
                    static_cast<int64_t>(different[i]));
  }
}

template <class Count>
void ScoreCounts::measureCounters(VerificationProblem& problem) {
  problem.differentPairs = total<Count>(0);
  problem.samePairs = total<Count>(kindRanges);
  if (problem.samePairs == 0 || problem.differentPairs == 0) return;
  VerificationFigures figures(problem);
  walk<Count>(figures);
  figures.finish();
}

void ScoreCounts::measure(VerificationProblem& problem, double span) {
  span_ = span;
  if (listed_) measureList(problem);
  else if (wide_) measureCounters<uint64_t>(problem);
  else measureCounters<uint32_t>(problem);
}

}  // namespace margin_softmax::cpu
