// A projection's passes (core/projection.h) on the CPU. The linear layers are products of linear.h;
// what stands between them goes column by column, in double precision.
#include "../../core/projection.h"

#include <algorithm>
#include <cmath>
#include <new>

#include "../../core/random.h"
#include "../../formulas/gelu.h"
#include "linear.h"

namespace margin_softmax::cpu {
namespace {

// PyTorch's constants of BatchNorm1d.
constexpr double normEpsilon = 1e-5, normMomentum = 0.1;
// A row's norm up to which its products with the gradient of an embedding stay finite.
constexpr float largestFeatureSquares = 1e30f;
constexpr int64_t columnsAtOnce = 64;
constexpr int64_t elementsAtOnce = 4096;
// Rows of a pass that does not train, and whose rows need not know of one another.
constexpr int64_t rowsAtOnce = 2048;

// The arrays that forward keeps for backward. width: ProjectionShape::width().
struct Activations {
  float* dropped;            // [B,from] one layer with dropout: the features that are left
  float* hidden;             // [B,width] two layers: the input of the last one
  float* slope;              // [B,width] two layers: of GELU and dropout together
  float* normalized;         // [B,width] batch norm: before its scale
  double* moments;           // [2][width] means and unbiased variances of the batch
  double* inverseDeviation;  // [width]
};

Activations layOutActivations(const ProjectionShape& shape, int64_t rows, bool training, Layout& layout) {
  const int64_t wide = rows * shape.width(), kept = training ? wide : 0, norm = shape.batchNorm ? 1 : 0;
  const int64_t moments = training ? norm * shape.width() : 0;
  Activations at;
  at.dropped = layout.take<float>(training && shape.layers == 1 && shape.dropout > 0 ? rows * shape.from : 0);
  at.hidden = layout.take<float>(shape.layers == 2 ? wide : 0);
  at.slope = layout.take<float>(shape.layers == 2 ? kept : 0);
  at.normalized = layout.take<float>(norm * kept);
  at.moments = layout.take<double>(2 * moments);
  at.inverseDeviation = layout.take<double>(moments);
  return at;
}

// Some rows of a batch, or all of it: in training a pass stays until its update.
class Pass {
 public:
  Pass(const ProjectionPass& pass, const Kernels& kernels)
      : pass_(pass),
        shape_(pass_.shape),
        kernels_(kernels),
        width_(shape_.width()),
        first_(kernels, pass.execution, pass.rows, shape_.from, width_, pass.training),
        last_(kernels, pass.execution, pass.rows, shape_.hidden, shape_.to, pass.training && shape_.layers == 2) {
    Layout layout(pass.activations);
    at_ = layOutActivations(shape_, pass.rows, pass.training, layout);
  }

  Status forward() {
    if (pass_.execution.isCancelled()) return Status::abandoned();
    const ProjectionArrays<float>& parameters = pass_.parameters;
    const float* input = pass_.features;
    if (at_.dropped) {
      forElements(pass_.rows * shape_.from, [&](int64_t i) { at_.dropped[i] = input[i] * dropoutFactor(i); });
      input = at_.dropped;
    }
    float* const out = shape_.layers == 2 ? at_.hidden : pass_.embeddings;
    if (Status status = first_.forward(input, parameters.weight0, parameters.bias0, out); !status) return status;
    if (shape_.batchNorm) normalize(out);
    if (shape_.layers == 1) return {};
    activate(out);
    return last_.forward(out, parameters.weight1, parameters.bias1, pass_.embeddings);
  }

  // Grows the workspace to what backward needs.
  Status reserve() {
    const Status status = first_.reserve();
    return status && shape_.layers == 2 ? last_.reserve() : status;
  }

  Status backward(float* gradEmbeddings, float* gradInput) {
    float* gradient = gradEmbeddings;  // of the first linear layer's output
    if (shape_.layers == 2) {
      sumColumns(gradient, shape_.to, pass_.gradients.bias1);
      if (Status status = last_.weightGradient(at_.hidden, gradient, pass_.gradients.weight1); !status) return status;
      gradient = at_.hidden;  // nobody reads it any more
      if (Status status = last_.inputGradient(pass_.parameters.weight1, gradEmbeddings, gradient); !status)
        return status;
      forElements(pass_.rows * width_, [&](int64_t i) { gradient[i] *= at_.slope[i]; });
    }
    if (shape_.batchNorm) normalizeBack(gradient);
    else sumColumns(gradient, width_, pass_.gradients.bias0);
    const float* const input = at_.dropped ? at_.dropped : pass_.features;
    if (Status status = first_.weightGradient(input, gradient, pass_.gradients.weight0); !status || !gradInput)
      return status;
    if (Status status = first_.inputGradient(pass_.parameters.weight0, gradient, gradInput); !status) return status;
    if (at_.dropped) forElements(pass_.rows * shape_.from, [&](int64_t i) { gradInput[i] *= dropoutFactor(i); });
    return {};
  }

  ProjectionTape::Moments moments() const { return {at_.moments, at_.moments ? 2 * width_ : 0}; }

  Status update(const ProjectionUpdate& update) {
    const RunUpdate run(update.optimizer, update.step);
    forRuns(update.count, elementsAtOnce, [&](int64_t first, int64_t count) {
      float scaled[elementsAtOnce];
      const float* gradient = update.gradients + first;
      if (update.factor != 1) {
        kernels_.scaled(scaled, gradient, static_cast<float>(update.factor), count);
        gradient = scaled;
      }
      run.apply(kernels_, update.values + first, first, update.state, gradient, count);
    });
    if (!shape_.batchNorm) return {};
    for (int64_t j = 0; j < width_; j++) {
      move(pass_.parameters.runningMean[j], at_.moments[j]);
      move(pass_.parameters.runningVariance[j], at_.moments[width_ + j]);
    }
    return {};
  }

  Status checkFeatures() const {
    FirstPlace wrong;
    const auto squares = [&](int64_t row) {
      const float* features = pass_.features + row * shape_.from;
      return kernels_.dot(features, features, shape_.from);
    };
    forEach(divideUp(pass_.rows, 16), [&](int64_t block, int) {
      for (int64_t row = block * 16; row < std::min(pass_.rows, block * 16 + 16); row++)
        if (!(squares(row) <= largestFeatureSquares)) wrong.report(row);
    });
    if (!wrong.found()) return {};
    const float* const row = pass_.features + wrong.place() * shape_.from;
    if (!std::all_of(row, row + shape_.from, [](float x) { return std::isfinite(x); }))
      return {Failure::notFinite, "the features are not finite", wrong.place()};
    Status status{Failure::tooLarge, "Expected a norm of at most 1e15 for the features of row "};
    (status.message += wrong.place()) += " but received a larger one";
    return status;
  }

 private:
  static void move(float& running, double batch) {
    running = static_cast<float>((1 - normMomentum) * running + normMomentum * batch);
  }

  // GELU and dropout, in place; in training also their slope.
  void activate(float* values) const {
    const bool drops = pass_.training && shape_.dropout > 0;
    forElements(pass_.rows * width_, [&](int64_t i) {
      const GeluValue gelu = margin_softmax::gelu(values[i]);
      const double factor = drops ? dropoutFactor(i) : 1;
      values[i] = static_cast<float>(gelu.value * factor);
      if (pass_.training) at_.slope[i] = static_cast<float>(gelu.slope * factor);
    });
  }

  // 0, or what makes up for the others that are.
  float dropoutFactor(int64_t i) const {
    const bool drops = uniform(randomBits(pass_.dropoutKey, static_cast<uint64_t>(i))) < shape_.dropout;
    return drops ? 0.0f : static_cast<float>(1 / (1 - shape_.dropout));
  }

  // values [rows,width] → scale·(value − mean)/√(variance + ε) + shift
  void normalize(float* values) const {
    const int64_t rows = pass_.rows;
    const ProjectionArrays<float>& parameters = pass_.parameters;
    forRuns(width_, columnsAtOnce, [&](int64_t first, int64_t columns) {
      double mean[columnsAtOnce], variance[columnsAtOnce], inverse[columnsAtOnce];
      for (int64_t j = 0; j < columns && !pass_.training; j++) {
        mean[j] = parameters.runningMean[first + j];
        variance[j] = parameters.runningVariance[first + j];
      }
      if (pass_.training) {
        const double count = static_cast<double>(rows);
        sumRows(rows, columns, mean, [&](int64_t row, int64_t j) { return values[row * width_ + first + j]; });
        for (int64_t j = 0; j < columns; j++) mean[j] /= count;
        sumRows(rows, columns, variance, [&](int64_t row, int64_t j) {
          const double deviation = values[row * width_ + first + j] - mean[j];
          return deviation * deviation;
        });
        for (int64_t j = 0; j < columns; j++) variance[j] /= count;
      }
      for (int64_t j = 0; j < columns; j++) inverse[j] = 1 / std::sqrt(variance[j] + normEpsilon);
      for (int64_t row = 0; row < rows; row++)
        for (int64_t j = 0; j < columns; j++) {
          const int64_t i = row * width_ + first + j;
          const double normalized = (values[i] - mean[j]) * inverse[j];
          if (pass_.training) at_.normalized[i] = static_cast<float>(normalized);
          values[i] = static_cast<float>(normalized * parameters.scale[first + j] + parameters.shift[first + j]);
        }
      if (!pass_.training) return;
      const double unbiased = rows > 1 ? static_cast<double>(rows) / static_cast<double>(rows - 1) : 1;
      std::copy_n(mean, columns, at_.moments + first);
      for (int64_t j = 0; j < columns; j++) at_.moments[width_ + first + j] = variance[j] * unbiased;
      std::copy_n(inverse, columns, at_.inverseDeviation + first);
    });
  }

  // The gradient of what `normalize` made → of what it was given, in place. With n̂ what was
  // normalized and g = gradient·scale: (g − mean(g) − n̂·mean(g·n̂))/√(variance + ε), means over the batch.
  void normalizeBack(float* gradient) const {
    forRuns(width_, columnsAtOnce, [&](int64_t first, int64_t columns) {
      double shift[columnsAtOnce], scale[columnsAtOnce];
      const auto at = [&](int64_t row, int64_t j) { return row * width_ + first + j; };
      sumRows(pass_.rows, columns, shift, [&](int64_t row, int64_t j) { return gradient[at(row, j)]; });
      sumRows(pass_.rows, columns, scale, [&](int64_t row, int64_t j) {
        return static_cast<double>(gradient[at(row, j)]) * at_.normalized[at(row, j)];
      });
      const double rows = static_cast<double>(pass_.rows);
      for (int64_t row = 0; row < pass_.rows; row++)
        for (int64_t j = 0; j < columns; j++) {
          const double factor = pass_.parameters.scale[first + j] * at_.inverseDeviation[first + j];
          float& element = gradient[at(row, j)];
          element =
              static_cast<float>(factor * (element - shift[j] / rows - at_.normalized[at(row, j)] * (scale[j] / rows)));
        }
      for (int64_t j = 0; j < columns; j++) {
        pass_.gradients.shift[first + j] = static_cast<float>(shift[j]);
        pass_.gradients.scale[first + j] = static_cast<float>(scale[j]);
      }
    });
  }

  void sumColumns(const float* matrix, int64_t columns, float* out) const {
    forRuns(columns, columnsAtOnce, [&](int64_t first, int64_t count) {
      double sums[columnsAtOnce];
      sumRows(pass_.rows, count, sums, [&](int64_t row, int64_t j) { return matrix[row * columns + first + j]; });
      for (int64_t j = 0; j < count; j++) out[first + j] = static_cast<float>(sums[j]);
    });
  }

  template <class Element>
  static void sumRows(int64_t rows, int64_t columns, double* sums, const Element& element) {
    std::fill(sums, sums + columns, 0.0);
    for (int64_t row = 0; row < rows; row++)
      for (int64_t j = 0; j < columns; j++) sums[j] += element(row, j);
  }

  template <class Body>
  void forEach(int64_t items, const Body& body) const {
    Pool::instance().forEach(pass_.execution.threads, items, body);
  }
  // body(first, count) of runs of columns, or of elements
  template <class Body>
  void forRuns(int64_t count, int64_t atOnce, const Body& body) const {
    forEach(divideUp(count, atOnce), [&](int64_t item, int) {
      const int64_t first = item * atOnce;
      body(first, std::min(atOnce, count - first));
    });
  }
  template <class Body>
  void forElements(int64_t count, const Body& body) const {
    forRuns(count, elementsAtOnce, [&](int64_t first, int64_t block) {
      for (int64_t i = first; i < first + block; i++) body(i);
    });
  }

  const ProjectionPass pass_;
  const ProjectionShape& shape_;
  const Kernels& kernels_;
  const int64_t width_;
  const Linear first_, last_;  // with one layer there is no last one
  Activations at_;
};

// work(), with the pool.
template <class Work>
Status withPool(const Execution& execution, const Work& work) {
  try {
    const PoolLock lock(execution.cancelled);
    return lock ? work() : Status::abandoned();
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the projection", 0);
  }
}

class Tape : public ProjectionTape {
 public:
  Tape(const ProjectionPass& pass, const Kernels& kernels) : execution_(pass.execution), pass_(pass, kernels) {}

  Status forward() {
    return withPool(execution_, [&] {
      Status status = pass_.checkFeatures();
      if (status) status = pass_.forward();
      return status ? pass_.reserve() : status;
    });
  }
  Status backward(float* gradEmbeddings, float* gradInput) override {
    return withPool(execution_, [&] { return pass_.backward(gradEmbeddings, gradInput); });
  }
  Moments moments() override { return pass_.moments(); }
  Status update(const ProjectionUpdate& update) override {
    return withPool(execution_, [&] { return pass_.update(update); });
  }

 private:
  const Execution execution_;
  Pass pass_;
};

// Without training a pass takes the rows in parts, whose activations lie in one place.
int64_t activationBytes(const ProjectionShape& shape, int64_t rows, bool training) {
  Layout layout(nullptr);
  layOutActivations(shape, training ? rows : std::min(rows, rowsAtOnce), training, layout);
  return layout.bytes();
}

Status forward(const ProjectionPass& pass) {
  const Kernels* kernels;
  const Execution& execution = pass.execution;
  if (Status status = chooseKernels(execution.instructionSet, execution.precision, kernels); !status) return status;
  return withPool(pass.execution, [&]() -> Status {
    for (int64_t first = 0; first < pass.rows; first += rowsAtOnce) {
      ProjectionPass part = pass;
      part.rows = std::min(rowsAtOnce, pass.rows - first);
      part.features += first * pass.shape.from;
      part.embeddings += first * pass.shape.to;
      if (Status status = Pass(part, *kernels).forward(); !status) return status;
    }
    return {};
  });
}

Status train(const ProjectionPass& pass, std::unique_ptr<ProjectionTape>& tape) {
  const Kernels* kernels;
  const Execution& execution = pass.execution;
  if (Status status = chooseKernels(execution.instructionSet, execution.precision, kernels); !status) return status;
  try {
    auto made = std::make_unique<Tape>(pass, *kernels);
    const Status status = made->forward();
    tape = std::move(made);
    return status;
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the projection", 0);
  }
}

// On one thread, as it may not take memory: class weights have been updated.
double squares(const float* values, int64_t count, const Execution& execution) {
  const Kernels* kernels;
  chooseKernels(execution.instructionSet, execution.precision, kernels);  // as `train` did
  double sum = 0;
  for (int64_t first = 0; first < count; first += elementsAtOnce) {
    const float* const block = values + first;
    sum += kernels->dotDouble(block, block, std::min(elementsAtOnce, count - first));
  }
  return sum;
}

}  // namespace
}  // namespace margin_softmax::cpu

namespace margin_softmax {

const ProjectionExecutor cpuProjection = {cpu::Plan::rowsAtOnce, cpu::activationBytes, cpu::forward, cpu::train,
                                          cpu::squares};

}  // namespace margin_softmax
