#include "score_list.h"

#include <algorithm>

#include "../../core/pool.h"
#include "../../core/sizes.h"

namespace margin_softmax::cpu {

Status ScoreList::prepare() {
  const int64_t bytes = problem_.pairs * static_cast<int64_t>(sizeof(Pair));
  block_ = Block::uninitialized(bytes);
  if (!block_.as<void>()) return Status::outOfMemory("the scores of the pairs", bytes);
  return {};
}

void ScoreList::put(int64_t p, double score) {
  // Folds are runs of the list, as in lists that are published in sets.
  const int64_t fold = problem_.folds ? p * problem_.folds / problem_.pairs : 0;
  begin()[p] = {score, static_cast<uint32_t>(fold), problem_.same[p] != 0};
  if (problem_.scores) problem_.scores[p] = score;
}

void ScoreList::measure() {
  problem_.samePairs = std::count_if(begin(), end(), isSame);
  problem_.differentPairs = problem_.pairs - problem_.samePairs;
  if (problem_.samePairs == 0 || problem_.differentPairs == 0) return;
  sort();
  // Cosines have the histogram of all cosines, unless that would be one column.
  constexpr double nearlyParallel = 15.0 / 16;
  if (problem_.givenScores || begin()->score > nearlyParallel) problem_.histogramFrom = begin()->score;
  if (problem_.givenScores) problem_.histogramTo = end()[-1].score;
  VerificationFigures figures(problem_);
  forScores([&](double score, const Pair* first, const Pair* last) {
    const int64_t same = std::count_if(first, last, isSame);
    figures.add(score, same, (last - first) - same);
  });
  figures.finish();
  for (int64_t fold = 0; fold < problem_.folds && !problem_.execution.isCancelled(); fold++) measureFold(fold);
}

// Sorts one run per thread, then merges runs two by two. The order of pairs with equal scores does
// not matter.
void ScoreList::sort() {
  constexpr int64_t leastRun = 4096;
  const auto before = [](const Pair& a, const Pair& b) { return a.score < b.score; };
  const int threads = problem_.execution.threads;
  const int64_t runs = std::min<int64_t>(threads, divideUp(problem_.pairs, leastRun));
  const auto boundary = [&](int64_t run) { return begin() + problem_.pairs * std::min(run, runs) / runs; };
  Pool& pool = Pool::instance();
  pool.forEach(threads, runs, [&](int64_t run, int) { std::sort(boundary(run), boundary(run + 1), before); });
  for (int64_t width = 1; width < runs; width *= 2)
    pool.forEach(threads, divideUp(runs, 2 * width), [&](int64_t item, int) {
      const int64_t run = item * 2 * width;
      std::inplace_merge(boundary(run), boundary(run + width), boundary(run + 2 * width), before);
    });
}

// Calls body(score, first, last) for the pairs of each distinct score, from the highest on.
template <class Body>
void ScoreList::forScores(const Body& body) const {
  for (const Pair* last = end(); last != begin();) {
    const double score = last[-1].score;
    const Pair* first = last;
    while (first != begin() && first[-1].score == score) first--;
    body(score, first, last);
    last = first;
  }
}

// Finds the threshold that is best on the other folds, and its accuracy on this one. Compares gains
// over accepting none.
void ScoreList::measureFold(int64_t fold) {
  int64_t otherFolds = 0, thisFold = 0, bestOtherFolds = 0, thisFoldAtBest = 0, ownDifferent = 0, ownPairs = 0;
  double threshold = std::numeric_limits<double>::infinity();
  forScores([&](double score, const Pair* first, const Pair* last) {
    for (const Pair* pair = first; pair != last; pair++) {
      const bool mine = pair->fold == fold;
      (mine ? thisFold : otherFolds) += pair->same ? 1 : -1;
      ownPairs += mine;
      ownDifferent += mine && !pair->same;
    }
    if (otherFolds <= bestOtherFolds) return;
    bestOtherFolds = otherFolds;
    thisFoldAtBest = thisFold;
    threshold = score;
  });
  problem_.foldAccuracies[fold] = static_cast<double>(ownDifferent + thisFoldAtBest) / static_cast<double>(ownPairs);
  problem_.foldThresholds[fold] = threshold;
}

}  // namespace margin_softmax::cpu
