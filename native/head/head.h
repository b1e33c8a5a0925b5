// Class weights and their optimizer state, resident in native memory, and the training step on them.
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "../core/executor.h"
#include "sharding.h"

namespace margin_softmax {

struct HeadSettings {
  int64_t classes = 0, dim = 0;  // of this process
  int64_t firstClass = 0;        // where a shard of the classes begins; 0 without sharding
  Margin margin;
  Optimizer optimizer;
  int64_t optimizerStart = 0;  // updates made when its state was zero
  bool bias = false;
  double labelSmoothing = 0;
  int64_t warmupSteps = 0;        // over which the margin grows from its neutral value
  double sampleRate = 1;          // of the classes that take part in a training step
  bool sampleCorrection = false;  // whether they stand for all of them in the softmax
  double interclassFilter = 1;    // see Problem
  double negligible = 0;          // see Problem
  double maxGradientNorm = 0;     // to which the gradient of weights and bias is clipped; 0: it is not
  uint64_t seed = 0;              // of the first weights and of the samples
  int device = cpuDevice;         // where the arrays lie and every step runs
  Precision precision = Precision::float32;
  bool bfloat16Weights = false;  // what the weights are stored in; on the CPU alone. The optimizer's state is float32.
};

class Head {
 public:
  explicit Head(const HeadSettings& settings) : settings_(settings) {}
  // Before any work: the classes are this process's share of a group's.
  void shard(const Collectives& group, int64_t totalClasses, std::string name) {
    sharding_ = std::make_unique<Sharding>(group, ClassRange{settings_.firstClass, settings_.classes, totalClasses},
                                           std::move(name));
  }
  // Before any work: what each class counts in the loss, [C] of all processes' classes.
  void weighClasses(std::vector<float> weights) { classWeights_ = std::move(weights); }
  // Decides, with all ranks, how a sharded head's rows go between them: on the group's thread.
  Status connect(const std::string& library) { return sharding_->connect(settings_.device, library); }
  const Sharding* sharding() const { return sharding_.get(); }
  int64_t totalClasses() const { return sharding_ ? sharding_->range().total : settings_.classes; }

  // Takes the memory: zeros everywhere.
  Status allocate();
  // Weights from a normal distribution (mean 0, standard deviation 0.01), reproducible from the seed for any thread
  // count and on every device.
  // From `firstRow` above 0 on, of a head that was grown, they are others than a new head has there.
  Status initialize(int threads, int64_t firstRow = 0);
  // Takes on how `next` trains: all but sizes, device, precision and storage. The optimizer's state is kept where the
  // next one has the same, else it begins at zero. A failure changes nothing.
  Status change(const HeadSettings& next);
  // Copies the classes `kept` of another head on the same device, ascending, with all that belongs to them, into this
  // head's first ones.
  Status adopt(Head& from, const std::vector<int32_t>& kept);
  // Gives the memory back: at once, or where work uses it as soon as that ends. Later work fails. Waits for nothing.
  void dispose();

  // The right to the arrays, for as long as it lives. Who lets go of it gives back what was disposed of meanwhile.
  class Use {
   public:
    explicit Use(Head& head) : head_(head) { head_.mutex_.lock(); }
    ~Use() {
      head_.mutex_.unlock();
      if (head_.disposed_) head_.letGo();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Head& head_;
  };

  // Fills in weights, margin and (for training) the update of `problem`, and runs it. A failure changes nothing; but
  // where a GPU fails in the middle of an update, the head is disposed of.
  Status run(Problem& problem, bool train, double learningRate);
  Status topK(TopKProblem& problem);
  // In place of either, on a sharded head's rank that can not make the call: the other ranks' calls fail with `reason`.
  Status decline(const std::string& reason, bool topK);

  // Length in elements of the named array (weight, bias, and the optimizer's states); 0: the head has none of that
  // name.
  int64_t length(const char* name);
  // Copies `count` elements of it from `offset` on, where they exist; weights stored in bfloat16 are rounded to nearest
  // on their way in. A number that would not be finite there is a failure, whose row is its class, before anything is
  // written. By who has the Use of the head.
  Status read(const char* name, int64_t offset, float* to, int64_t count);
  Status write(const char* name, int64_t offset, const float* from, int64_t count);
  int64_t bytes() const;  // by who has the Use of the head
  bool disposed() const { return disposed_; }
  int64_t iteration() const { return iteration_; }
  void setIteration(int64_t iteration) { iteration_ = iteration; }
  const HeadSettings& settings() const { return settings_; }

 private:
  void letGo();  // gives the memory back, unless somebody uses it: then that one does
  void release();
  Margin marginNow() const;
  Execution here(Execution execution) const;
  Status sample(Problem& problem);
  void weighTargets(Problem& problem);
  Status computeClipped(Problem& problem, Update& update, double learningRate);
  Status compute(Problem& problem, bool train, double learningRate);
  Memory* memoryOf(const char* name);
  uint16_t* bfloat16Of(const char* name);

  HeadSettings settings_;
  std::atomic<int64_t> iteration_{0};  // updates made
  std::atomic<bool> disposed_{false};
  std::unique_ptr<Sharding> sharding_;
  ClassSample sample_;                // of the step that runs; kept for its memory
  std::vector<float> classWeights_;   // [C] of all processes' classes; empty: all 1
  std::vector<float> targetWeights_;  // [B] of the step that runs
  Memory weight_, bias_, weightState_[2], biasState_[2];
  std::mutex mutex_;  // of Use
};

}  // namespace margin_softmax
