// Class weights and their optimizer state, resident in native memory, and the training step on
// them.
#pragma once
#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <vector>

#include "../core/executor.h"
#include "../core/memory.h"
#include "projection.h"
#include "sharding.h"

namespace margin_softmax {

struct HeadSettings {
  int64_t classes = 0, dim = 0;  // of this process
  int64_t firstClass = 0;        // number of this process's first class; 0 without sharding
  Margin margin;
  Optimizer optimizer;
  int64_t optimizerStart = 0;  // the update before which its state was zero
  bool bias = false;
  double labelSmoothing = 0;
  int64_t warmupSteps = 0;        // during which the margin grows from its neutral value
  double sampleRate = 1;          // share of the classes that take part in a training step
  bool sampleCorrection = false;  // true: the sampled negatives stand for all in the softmax
  double interclassFilter = 1;    // see Problem
  double negligible = 0;          // see Problem
  double maxGradientNorm = 0;     // limit of the norm of the weights' and biases' gradient; 0: none
  uint64_t seed = 0;              // seeds the initial weights and the samples
  int device = cpuDevice;         // where the arrays lie and every step runs
  Precision precision = Precision::float32;
  bool bfloat16Weights = false;  // storage of the weights, CPU only; the optimizer's state is float32
  ProjectionShape projection;    // below the head; from = 0: none
};

class Head {
 public:
  explicit Head(const HeadSettings& settings) : settings_(settings) {
    if (settings.projection.from) projection_ = std::make_unique<Projection>(settings.projection);
  }
  // Makes the classes this process's share of a group's. Call before any work.
  void shard(const Collectives& group, int64_t totalClasses, std::string name) {
    sharding_ = std::make_unique<Sharding>(group, ClassRange{settings_.firstClass, settings_.classes, totalClasses},
                                           std::move(name));
  }
  // Sets each class's weight in the loss, [C] of all processes' classes. Call before any work.
  void weighClasses(std::vector<float> weights) { classWeights_ = std::move(weights); }
  // Chooses, with all ranks, how a sharded head's ranks exchange rows. On the group's thread.
  Status connect(const std::string& library) { return sharding_->connect(settings_.device, library); }
  const Sharding* sharding() const { return sharding_.get(); }
  // The length of a row that a step is given: of features where there is a projection.
  int64_t inputDim() const { return projection_ ? projection_->shape().from : settings_.dim; }
  int64_t totalClasses() const { return sharding_ ? sharding_->range().total : settings_.classes; }

  // Takes the memory, all zeros.
  Status allocate();
  // Draws weights from a normal distribution (mean 0, standard deviation 0.01): the same for a seed
  // with any number of threads and on any device. Rows from `firstRow` > 0 on, of a head that has
  // grown, differ from a new head's.
  Status initialize(int threads, int64_t firstRow = 0);
  // Takes over all settings of `next` but sizes, device, precision and storage. State that both
  // optimizers have is kept; other state begins at zero. A failure changes nothing.
  Status change(const HeadSettings& next);
  // Copies the classes `kept` (ascending) of another head on the same device, with their biases and
  // optimizer state, to this head's first classes.
  Status adopt(Head& from, const std::vector<int32_t>& kept);
  // Gives the memory back: at once or, if work uses it, when that ends. Later work fails. Does not
  // wait.
  void dispose();

  // The right to use the arrays, while it lives. Its end gives the memory back if the head was
  // disposed of meanwhile.
  class Use {
   public:
    explicit Use(Head& head) : head_(head) { head_.mutex_.lock(); }
    ~Use() {
      head_.mutex_.unlock();
      if (head_.disposed_) head_.releaseIfIdle();
    }
    Use(const Use&) = delete;
    Use& operator=(const Use&) = delete;

   private:
    Head& head_;
  };

  // Fills in weights, margin and, for training, the update of `problem`, and runs it. A failure
  // changes nothing, unless a GPU fails in the middle of an update: that disposes of the head.
  Status run(Problem& problem, bool train, double learningRate);
  Status topK(TopKProblem& problem);
  // Computes the embeddings [rows,dim] of features, of a head with a projection.
  Status embed(const float* features, int64_t rows, float* embeddings, const Execution& execution);
  // Replaces run or topK on a rank of a sharded head that can not make the call: all ranks' calls
  // fail with `reason`.
  Status decline(const std::string& reason, bool topK);

  // Elements of the named array (weight, bias, or the optimizer's state); 0 if the head has none of
  // that name.
  int64_t length(const char* name);
  // Copy `count` elements of it from `offset` on, which must exist. Weights stored in bfloat16 are
  // rounded to nearest when they are written. A number that would not be finite fails before
  // anything is written; the failure's row is its class. The caller holds a Use.
  Status read(const char* name, int64_t offset, float* to, int64_t count);
  Status write(const char* name, int64_t offset, const float* from, int64_t count);
  int64_t bytes() const;  // by who has the Use of the head
  bool disposed() const { return disposed_; }
  int64_t iteration() const { return iteration_; }
  void setIteration(int64_t iteration) { iteration_ = iteration; }
  const HeadSettings& settings() const { return settings_; }

 private:
  void releaseIfIdle();  // gives the memory back; if a caller still uses the head, its last one does
  void release();
  Margin marginNow() const;
  Execution here(Execution execution) const;
  Status sample(Problem& problem);
  void weighTargets(Problem& problem);
  Status computeClipped(Problem& problem, Update& update, double learningRate);
  Status compute(Problem& problem, bool train, double learningRate);
  Status runOnEmbeddings(Problem& problem, bool train, double learningRate);
  Status projectBack(Problem& problem);
  Status declined(const Status& reason, bool topK);
  Memory* memoryOf(const char* name);
  uint16_t* bfloat16Of(const char* name);
  Projection::Slice projected(const char* name) const;

  HeadSettings settings_;
  std::atomic<int64_t> iteration_{0};  // updates made
  std::atomic<bool> disposed_{false};
  std::unique_ptr<Sharding> sharding_;
  std::unique_ptr<Projection> projection_;
  float* gradFeatures_ = nullptr;     // [B,from] of the current step, or null: not wanted
  ClassSample sample_;                // of the current step; a member so that its memory is reused
  std::vector<float> classWeights_;   // [C] of all processes' classes; empty: all 1
  std::vector<float> targetWeights_;  // [B] of the current step
  Memory weight_, bias_, weightState_[2], biasState_[2];
  std::mutex mutex_;  // of Use
};

}  // namespace margin_softmax
