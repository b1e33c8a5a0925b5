// A head whose classes are shared out over a group of processes: every rank holds a run of them, gathers the batches of
// all ranks, computes with its own classes, and the ranks add up what belongs together (model parallelism of the class
// weights: Deng et al. 2019, arXiv:1801.07698, section 2.3; An et al. 2021, arXiv:2010.05222). Per step, with N = Σ B:
//
//   all-gather       embeddings [N,D] and labels [N]
//   all-reduce       five numbers a row, in the middle of the step: how its softmax closes over all ranks' classes
//   reduce-scatter   gradInput [N,D] → each rank its own rows
//
// What travels does not grow with the number of classes. Weights and optimizer state stay where they are. It goes
// through host memory, or from GPU to GPU (core/device_exchange.h); what is small, and each word that all go on, always by
// the group.
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
  // `name`: of the head, for messages; the same on every rank.
  Sharding(const Collectives& group, const ClassRange& range, std::string name)
      : group_(group), range_(range), name_(std::move(name)), rows_(group.size) {}

  const Collectives& group() const { return group_; }
  const ClassRange& range() const { return range_; }

  // Decides, with all ranks, how this head's rows go between them. `library`: see chooseExchange.
  Status connect(int device, const std::string& library);
  const ExchangeChoice& exchange() const { return exchange_; }

  // Puts every rank's rows and labels (of all classes) in the place of this rank's. Fails, on every rank alike, where
  // the ranks ask for different things; `train`, `learningRate` and `iteration` are compared.
  Status gather(Problem& problem, bool train, double learningRate, int64_t iteration);
  // Adds up a number of each rank's.
  Status addUp(double& value) const;
  // Puts places among this rank's classes, or labelElsewhere, in the place of the gathered labels.
  void keepOwnLabels(Problem& problem);
  // Runs the gathered problem on this rank's classes (of a sample there may be none), and hands what belongs to this
  // rank's rows to `mine`, the problem as it was before `gather`.
  Status run(Problem& problem, Problem& mine);
  // The best classes of this rank's rows among those of all ranks.
  Status topK(TopKProblem& problem);

  // In place of `gather` or `topK`, on a rank that can not make the others' call: every rank's fails with `reason`, and the
  // group goes on.
  Status decline(const std::string& reason, bool topK);

  // Makes the next collective fail on every rank, because this one can not go on. Hands `reason` on.
  Status refuse(const Status& reason) const;

 private:
  struct Exchange;
  struct OnDevices;
  template <class Work>
  Status ask(const Work& work) const;
  Status gatherRows(int64_t mine, std::vector<int64_t> request, const char* const* names,
                    const std::string& reason = "");
  Status hearReasons(const std::string& mine) const;
  Status inItsBatch(Status status) const;
  Status gatherInputs(const float* input, int64_t dim);
  Status runWithoutClasses(Problem& problem) const;
  Status shareOut(Problem& problem, Problem& mine);
  Status barrier() const;
  Status shareFailure(Status status) const;

  Collectives group_;
  ClassRange range_;
  std::string name_;
  ExchangeChoice exchange_;
  std::vector<int64_t> rows_;  // [size] of each rank's batch
  int64_t allRows_ = 0, firstRow_ = 0;
  Block input_;  // [N,D], where rows go through host memory
  std::vector<int32_t> labels_;
  std::vector<float> sampleWeights_;
};

}  // namespace margin_softmax
