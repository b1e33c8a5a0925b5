// A head whose classes are sharded over a group of processes. Every rank holds a run of the
// classes, gathers the batches of all ranks, and computes with its own classes; the ranks then
// reduce what belongs together (model parallelism of the class weights: Deng et al. 2019,
// arXiv:1801.07698, section 2.3; An et al. 2021, arXiv:2010.05222). Each step, with N = Σ B:
//
//   all-gather       embeddings [N,D] and labels [N]
//   all-reduce       six numbers a row, in the middle of the step: its softmax's totals over all ranks' classes;
//                    before them, where a margin transforms its negatives, once more for the targets' cosines
//   reduce-scatter   gradInput [N,D] → each rank its own rows
//
// The traffic does not grow with the number of classes; weights and optimizer state stay where they
// are. Large arrays go through host memory or from GPU to GPU (core/device_exchange.h). Small ones
// and barriers always use the group.
#pragma once
#include <string>
#include <vector>

#include "../core/block.h"
#include "../core/executor.h"
#include "exchange_choice.h"
#include "sampling.h"

namespace margin_softmax {

class Sharding {
 public:
  // `name` is the head's, for messages; the same on every rank.
  Sharding(const Collectives& group, const ClassRange& range, std::string name)
      : group_(group), range_(range), name_(std::move(name)), rows_(group.size) {}

  const Collectives& group() const { return group_; }
  const ClassRange& range() const { return range_; }

  // Chooses, with all ranks, how this head's ranks exchange rows. `library`: see chooseExchange.
  Status connect(int device, const std::string& library);
  const ExchangeChoice& exchange() const { return exchange_; }

  // Replaces this rank's rows and labels (numbers among all classes) by those of all ranks. Fails
  // on every rank if the ranks ask for different things: `train`, `learningRate`, `iteration` and
  // the wanted arrays are compared.
  Status gather(Problem& problem, bool train, double learningRate, int64_t iteration);
  // Replaces [count] numbers by their sums over the ranks, in rank order: the same bits on each.
  Status sumOverRanks(double* values, int64_t count) const;
  Status sumOverRanks(float* values, int64_t count) const;
  // Replaces the gathered labels by places among this rank's classes, or labelElsewhere.
  void localizeLabels(Problem& problem);
  // Runs the gathered problem on this rank's classes (a sample may hold none of them). Writes the
  // results of this rank's rows to `mine`, the problem before `gather`.
  Status run(Problem& problem, Problem& mine);
  // Finds the best classes of this rank's rows among all ranks' classes.
  Status topK(TopKProblem& problem);

  // Replaces `gather` or `topK` on a rank that can not make the call: it fails on every rank with
  // `reason`. The group stays usable.
  Status decline(const std::string& reason, bool topK);

  // Makes the next collective fail on every rank, because this one can not take part. Returns
  // `reason`.
  Status refuse(const Status& reason) const;

 private:
  struct Exchange;
  struct OnDevices;
  template <class Work>
  Status collective(const Work& work) const;
  Status allReduce(void* values, int64_t count, Element element, ReduceOp reduceOp) const;
  Status gatherRows(int64_t mine, std::vector<int64_t> request, const char* const* names,
                    const std::string& reason = "");
  Status gatherReasons(const std::string& mine) const;
  Status nameRankAndRow(Status status) const;
  Status gatherInputs(const float* input, int64_t dim);
  Status runWithoutClasses(Problem& problem) const;
  Status scatterResults(Problem& problem, Problem& mine);
  Status barrier() const;
  Status shareFailure(Status status) const;

  Collectives group_;
  ClassRange range_;
  std::string name_;
  ExchangeChoice exchange_;
  std::vector<int64_t> rows_;  // [size] rows of each rank's batch
  int64_t allRows_ = 0, firstRow_ = 0;
  Block input_;  // [N,D], if rows go through host memory
  std::vector<int32_t> labels_;
  std::vector<float> sampleWeights_;
};

}  // namespace margin_softmax
