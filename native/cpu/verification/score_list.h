// The pairs of a list, sorted by score: results of the whole list and of its folds.
#pragma once
#include <cstdint>

#include "../../core/block.h"
#include "../../core/verification.h"

namespace margin_softmax::cpu {

class ScoreList {
 public:
  explicit ScoreList(VerificationProblem& problem) : problem_(problem) {}

  Status prepare();
  // Sets the score of pair p. From any thread, each pair once.
  void put(int64_t p, double score);
  // After every pair was put: sets both kinds' totals and all results of the problem.
  void measure();

 private:
  struct Pair {
    double score;
    uint32_t fold;
    bool same;
  };
  static bool isSame(const Pair& pair) { return pair.same; }
  Pair* begin() const { return block_.as<Pair>(); }
  Pair* end() const { return begin() + problem_.pairs; }
  void sort();
  template <class Body>
  void forScores(const Body& body) const;
  void measureFold(int64_t fold);

  VerificationProblem& problem_;
  Block block_;
};

}  // namespace margin_softmax::cpu
