// Launches a step's kernels in the order that step.cuh lists, and moves what goes up and down. What the core's tiles
// are like, it asks the core (tile.cuh) and the plan.
#pragma once
#include <type_traits>
#include <vector>

#include "../core/batch.h"
#include "backward.cuh"
#include "device.h"
#include "kernel_choice.cuh"
#include "narrow.cuh"
#include "plan.h"

namespace margin_softmax::cuda {

template <class Core>
class Step {
  using Element = typename Core::Element;
  using Logits = LogitTile<Core>;
  using Input = InputTile<Core>;
  using Weights = WeightTile<Core>;
  using Choice = KernelChoice<Core>;
  static_assert(std::lcm(std::lcm(Logits::columns, Weights::rows), narrowSide) <= mostBeyond &&
                    biasThreads <= mostBeyond,
                "see mostClassesInAll");

 public:
  Step(Device& device, Problem& problem)
      : device_(device),
        problem_(problem),
        narrow_(problem.isNarrow()),
        plan_(problem.rows, problem.dim, problem.classes, tiles(narrow_), sizeof(Element), Rounded<Element>::rounds,
              problem.execution.chunkClasses) {}

  Status run() {
    describe();
    if (Status status = device_.placeInWorkspace([this](Layout& layout) { layOut(layout); }); !status) return status;
    upload();
    launchRows("prepare the rows", prepareRows<Element>, data_.paddedRows);
    if (data_.negatives)
      if (Status status = placeNegatives(); !status) return status;
    for (int64_t c = 0; c < plan_.chunks && !cancelled(); c++) forward(c);
    launchRows("add up the rows", totalRows, data_.rows, data_.chunkTiles);
    if (problem_.exchange)
      if (Status status = exchange(); !status) return status;
    launchThreads("close the rows", closeRows, data_.rows);
    device_.launch("add up the losses", collectLosses, dim3(1), collectThreads, 0, data_);
    if (problem_.gradInput) targetInput();
    if (wantsWeight()) launchRows("add up the targets' gradients", targetGradients, data_.rows);
    // Backwards: the last chunks' operands are still there.
    for (int64_t c = plan_.chunks; wantsGradient() && c-- > 0 && !cancelled();) backward(c);
    if (problem_.gradInput) finishInput();
    if (wantsGradient())
      device_.launch("add up the gradients' squares", collectSquares, dim3(1), collectThreads, 0, data_);
    return download();
  }

 private:
  static StepTiles tiles(bool narrow) {
    const TileShape rows{narrowSide, narrowSide, 1}, inputs{narrowSide, Plan::dimUnit, narrowColumns};
    return {narrow ? rows : shapeOf<Logits>(), narrow ? inputs : shapeOf<Input>(), shapeOf<Weights>()};
  }

  bool wantsWeight() const { return problem_.wantsWeightGradient(); }
  bool wantsGradient() const { return wantsWeight() || problem_.gradInput; }
  bool cancelled() const { return problem_.execution.isCancelled(); }

  void describe() {
    StepData<Element>& data = data_;
    weights_ = weighBatch(problem_);
    data.rows = static_cast<int>(problem_.rows);
    data.dim = static_cast<int>(problem_.dim);
    data.classes = static_cast<int>(problem_.classes);
    data.paddedRows = static_cast<int>(plan_.paddedRows);
    data.paddedDim = static_cast<int>(plan_.paddedDim);
    data.chunk = static_cast<int>(plan_.chunk);
    data.rowTiles = static_cast<int>(plan_.rowTiles());
    data.chunkTiles = static_cast<int>(plan_.chunkTiles());
    data.gradientBlocks = static_cast<int>(plan_.chunk / Weights::rows * plan_.dimTiles(plan_.tiles.weight));
    data.biasBlocks = static_cast<int>(divideUp(plan_.chunk, biasThreads));
    data.inputSlots = static_cast<int>(plan_.inputSlots);
    data.terms = plan_.terms;
    data.normalized = isNormalized(problem_.margin);
    data.radial = scalesWithNorm(problem_.margin);
    data.perRowGradient = problem_.reduction == Reduction::none;
    data.rowGradient = weights_.rowGradient;
    data.negativeWeight = problem_.negativeWeight;
    data.smooths = problem_.labelSmoothing != 0;
    data.unweighted = weights_.unweighted;
    data.logitUnit = Core::logitUnit;
    data.margin = problem_.margin;
    data.interclassFilter = problem_.filters() ? static_cast<float>(problem_.interclassFilter) : HUGE_VALF;
    data.weightUse = WeightUse::none;
    if (const Update* update = problem_.update) {
      const Optimizer& optimizer = update->optimizer;
      data.sgd = sgdStep(optimizer);
      data.adamW = adamWStep(optimizer, update->step);
      data.weightUse = optimizer.kind == OptimizerKind::adamW ? WeightUse::adamW
                       : optimizer.states()                   ? WeightUse::momentum
                                                              : WeightUse::sgd;
      for (int i = 0; i < 2; i++) {
        data.weightState[i] = update->weightState[i];
        data.biasState[i] = update->biasState[i];
      }
    } else if (wantsWeight()) {
      data.weightUse = WeightUse::gradient;
    }
  }

  void layOut(Layout& layout) {
    StepData<Element>& data = data_;
    const int64_t rows = problem_.rows, dim = problem_.dim, classes = problem_.classes, padded = plan_.paddedRows;
    const int64_t tiles = plan_.chunkTiles(), planes = plan_.planes;
    const bool weight = wantsWeight(), gradient = wantsGradient();
    data.totals = layout.take<Totals>(1);
    input_ = problem_.rowsResident ? nullptr : layout.take<float>(rows * dim);
    labels_ = layout.take<int32_t>(padded);
    order_ = layout.take<int32_t>(rows);
    sorted_ = layout.take<int32_t>(rows);
    gradOutput_ = problem_.gradOutput ? layout.take<float>(rows) : nullptr;
    rowWeights_ = layout.take<RowWeight>(static_cast<int64_t>(weights_.rows.size()));
    shares_ = layout.take<float>(static_cast<int64_t>(weights_.shares.size()));
    data.weight = problem_.resident ? problem_.weight : layout.take<float>(classes * dim);
    data.bias = problem_.resident || !problem_.bias ? problem_.bias : layout.take<float>(classes);
    sample_ = problem_.sample ? layout.take<int32_t>(classes) : nullptr;
    data.sample = sample_;
    data.input = problem_.rowsResident ? problem_.input : input_;
    data.labels = labels_;
    data.order = order_;
    data.sorted = sorted_;
    data.gradOutput = gradOutput_;
    data.rowWeights = rowWeights_;
    data.shares = shares_;
    data.states = layout.take<RowState>(rows);
    data.totalsOfRows = layout.take<RowTotals>(rows);
    data.factors = layout.take<RowFactors>(padded);
    const bool transforms = transformsNegatives(problem_.margin);
    data.negatives = layout.take<NegativeTransform>(transforms ? padded : 0);
    data.largest = layout.take<float>(transforms ? tiles * padded : 0);
    data.inputOperand = layout.take<Element>(planes * padded * plan_.paddedDim);
    for (ClassOperand& operand : operands_)
      if (&operand == operands_ || plan_.chunks > 1)
        operand = {layout.take<Element>(narrow_ ? 0 : planes * plan_.chunk * plan_.paddedDim),
                   layout.take<double>(narrow_ ? plan_.chunk * dim : 0), layout.take<float>(plan_.chunk)};
    data.gradientOperand = gradient ? layout.take<Element>(planes * padded * plan_.chunk) : nullptr;
    data.extremes = layout.take<float2>(tiles * padded);
    data.logitSums = layout.take<double>(data.smooths ? tiles * padded : 0);
    data.columnSums = layout.take<float>(plan_.rowTiles() * plan_.chunk);
    data.targetPlaces = layout.take<int32_t>(plan_.chunk);
    const int64_t partials = problem_.gradInput ? plan_.inputSlots * padded * plan_.paddedDim : 0;
    data.partialInput = layout.take<float>(narrow_ ? 0 : partials);
    data.narrowInput = layout.take<double>(narrow_ ? partials : 0);
    data.narrowTarget = layout.take<double>(narrow_ && problem_.gradInput ? rows * dim : 0);
    data.targetGradient = weight ? layout.take<float>(rows * dim) : nullptr;
    data.gradientSquares = layout.take<double>(data.gradientBlocks);
    data.biasSquares = layout.take<double>(data.biasBlocks);
    data.rowSquares = layout.take<double>(rows);
    data.losses = layout.take<float>(rows);
    data.gradInput = problem_.rowsResident || !problem_.gradInput ? problem_.gradInput : layout.take<float>(rows * dim);
    data.gradWeight = problem_.gradWeight ? layout.take<float>(classes * dim) : nullptr;
    data.gradBias = problem_.gradBias ? layout.take<float>(classes) : nullptr;
  }

  void upload() {
    const int64_t rows = problem_.rows, dim = problem_.dim, classes = problem_.classes;
    hostLabels_.assign(problem_.labels, problem_.labels + rows);
    hostOrder_.resize(rows);
    sortByLabel(hostLabels_.data(), rows, classes, hostOrder_.data());
    for (const int32_t row : hostOrder_) hostSorted_.push_back(hostLabels_[row]);
    hostLabels_.resize(plan_.paddedRows, ignoredLabel);
    device_.upload(labels_, hostLabels_.data(), plan_.paddedRows * 4);
    device_.upload(order_, hostOrder_.data(), rows * 4);
    device_.upload(sorted_, hostSorted_.data(), rows * 4);
    if (input_) device_.upload(input_, problem_.input, rows * dim * 4);
    if (sample_) device_.upload(sample_, problem_.sample, classes * 4);
    if (gradOutput_) device_.upload(gradOutput_, problem_.gradOutput, rows * 4);
    if (rowWeights_) device_.upload(rowWeights_, weights_.rows.data(), rows * static_cast<int64_t>(sizeof(RowWeight)));
    if (shares_) device_.upload(shares_, weights_.shares.data(), classes * 4);
    if (!problem_.resident) {
      device_.upload(data_.weight, problem_.weight, classes * dim * 4);
      if (problem_.bias) device_.upload(data_.bias, problem_.bias, classes * 4);
    }
    device_.clear(data_.gradientSquares, data_.gradientBlocks);
    device_.clear(data_.biasSquares, data_.biasBlocks);
    if (data_.narrowInput) device_.clear(data_.narrowInput, plan_.inputSlots * plan_.paddedRows * plan_.paddedDim);
    for (int64_t c : {0, 1}) leaveChunk(c);  // ahead may begin once the inputs are there
  }

  static dim3 rowGrid(int64_t rows) { return dim3(static_cast<unsigned>(divideUp(rows, rowWarps))); }

  // A warp for each row.
  template <class Kernel, class... Arguments>
  void launchRows(const char* what, Kernel kernel, int64_t rows, Arguments... arguments) {
    device_.launch(what, kernel, rowGrid(rows), rowWarps * 32, 0, data_, arguments...);
  }

  // A thread for each row.
  template <class Kernel, class... Arguments>
  void launchThreads(const char* what, Kernel kernel, int64_t rows, Arguments... arguments) {
    device_.launch(what, kernel, dim3(static_cast<unsigned>(divideUp(rows, closeThreads))), closeThreads, 0, data_,
                   arguments...);
  }

  template <class Tile, class Kernel, class... Arguments>
  void launchTiles(const char* what, Kernel kernel, dim3 grid, Arguments... arguments) {
    device_.launch(what, kernel, grid, Tile::threads, Tile::sharedBytes, data_, arguments...);
  }
  // Tiles of the logits and of the weights' gradient that a chunk's classes fill.
  unsigned logitTiles(int64_t c) const {
    return static_cast<unsigned>(plan_.coveredClasses(c) / plan_.tiles.logits.columns);
  }
  unsigned weightTiles(int64_t c) const { return static_cast<unsigned>(plan_.coveredClasses(c) / Weights::rows); }
  unsigned dimTiles(const TileShape& shape) const { return static_cast<unsigned>(plan_.dimTiles(shape)); }

  // The kernels of narrow.cuh, in the tiles' places.
  void narrowLogits(int64_t c) {
    const int64_t classes = plan_.chunkSize(c);
    const auto kernel = data_.negatives ? narrowForward<true> : narrowForward<false>;
    device_.launch("compute the logits", kernel, dim3(data_.rowTiles, logitTiles(c)), narrowSide,
                   narrowTileBytes(problem_.dim), data_, static_cast<int>(plan_.firstClass(c)),
                   static_cast<int>(classes), c == 0);
  }

  void narrowGradients(int64_t c) {
    const int64_t classes = plan_.chunkSize(c), dim = problem_.dim;
    const unsigned tiles = logitTiles(c);
    if constexpr (std::is_same_v<Element, float>) {  // the only operands of narrow rows
      const auto kernel = data_.negatives ? narrowGradient<true> : narrowGradient<false>;
      device_.launch("compute the logits' gradient", kernel, dim3(data_.rowTiles, tiles), narrowSide,
                     narrowTileBytes(dim), data_, static_cast<int>(plan_.firstClass(c)), static_cast<int>(classes));
      if (problem_.gradInput)
        device_.launch("compute the input gradient", narrowInput, dim3(data_.rowTiles, data_.inputSlots),
                       narrowInputThreads, narrowInputBytes(dim), data_, static_cast<int>(tiles));
    }
  }

  void targetInput() {
    constexpr const char* what = "compute the targets' gradients";
    if (narrow_) launchRows(what, targetInputs<double>, data_.rows, data_.narrowTarget);
    else launchRows(what, targetInputs<float>, data_.rows, data_.gradInput);
  }

  void finishInput() {
    constexpr const char* what = "finish the input gradient";
    if (narrow_) launchRows(what, finishRows<double>, data_.rows, data_.narrowInput, data_.narrowTarget);
    else launchRows(what, finishRows<float>, data_.rows, data_.partialInput, data_.gradInput);
  }

  // The classes' directions lie in one of two operands: those of the next chunk are made, ahead, while the products read
  // the other one. What a chunk left there is overwritten once its products are done.
  void prepareChunk(int64_t c) {
    if (c < 0 || c >= plan_.chunks || operandOf(c).chunk == c) return;
    const bool alone = plan_.chunks == 1;
    const Device::Lane lane = alone ? Device::Lane::work : Device::Lane::ahead;
    if (!alone) device_.waitFor(lane, leftMark(c));
    hold(c);
    const auto launch = [&](auto kernel, dim3 grid, unsigned threads) {
      device_.launchOn(lane, "prepare the classes", kernel, grid, threads, 0, data_,
                       static_cast<int>(plan_.firstClass(c)), static_cast<int>(plan_.chunkSize(c)));
    };
    if (narrow_) launch(narrowClasses, dim3(static_cast<unsigned>(data_.chunkTiles)), narrowSide);
    else launch(prepareClasses<Element>, rowGrid(plan_.chunk), rowWarps * 32);
    if (!alone) device_.mark(lane, readyMark(c));
    operandOf(c).chunk = c;
  }
  void useChunk(int64_t c, int64_t next) {
    prepareChunk(c);
    prepareChunk(next);
    hold(c);
    if (plan_.chunks > 1) device_.waitFor(Device::Lane::work, readyMark(c));
  }
  void leaveChunk(int64_t c) {
    if (plan_.chunks > 1) device_.mark(Device::Lane::work, leftMark(c));
  }
  static int readyMark(int64_t c) { return static_cast<int>(c % 2); }
  static int leftMark(int64_t c) { return static_cast<int>(2 + c % 2); }

  struct ClassOperand {
    Element* directions = nullptr;
    double* narrow = nullptr;  // directions of narrow rows, in their place
    float* scales = nullptr;
    int64_t chunk = -1;  // whose
  };
  ClassOperand& operandOf(int64_t c) { return operands_[c % 2]; }
  void hold(int64_t c) {
    data_.weightOperand = operandOf(c).directions;
    data_.narrowWeight = operandOf(c).narrow;
    data_.classScale = operandOf(c).scales;
  }

  void forward(int64_t c) {
    useChunk(c, c + 1);
    const int classes = static_cast<int>(plan_.chunkSize(c));
    if (narrow_) narrowLogits(c);
    else
      launchTiles<Logits>("compute the logits", Choice::forward(data_), dim3(data_.rowTiles, logitTiles(c)),
                          static_cast<int>(plan_.firstClass(c)), classes, c == 0);
    leaveChunk(c);
  }

  void backward(int64_t c) {
    useChunk(c, c - 1);
    const int firstClass = static_cast<int>(plan_.firstClass(c)), classes = static_cast<int>(plan_.chunkSize(c));
    if (narrow_) narrowGradients(c);
    else
      launchTiles<Logits>("compute the logits' gradient", Choice::gradient(data_), dim3(data_.rowTiles, logitTiles(c)),
                          firstClass, classes);
    // First what reads the classes' weights once more, while the level-2 cache may still hold them.
    if (wantsWeight()) {
      if (device_.well()) problem_.updateBegun = problem_.update != nullptr;
      launchTiles<Weights>("compute the weight gradient", Choice::weight(data_),
                           dim3(dimTiles(plan_.tiles.weight), weightTiles(c)), firstClass, classes);
    }
    if (problem_.gradInput && !narrow_)
      launchTiles<Input>(
          "compute the input gradient", inputGradient<Core>,
          dim3(dimTiles(plan_.tiles.input), static_cast<unsigned>(plan_.inputRowTiles()), data_.inputSlots),
          static_cast<int>(logitTiles(c)), c == plan_.chunks - 1);
    if (wantsWeight() && problem_.bias)
      device_.launch("compute the bias gradient", biasGradient,
                     dim3(static_cast<unsigned>(divideUp(classes, biasThreads))), biasThreads, 0, data_, firstClass,
                     classes);
    leaveChunk(c);
  }

  // Places the rows' transforms of their negatives. They depend on the targets' cosines, which shards add up first.
  Status placeNegatives() {
    const bool exchanges = problem_.exchange != nullptr;
    if (exchanges) {
      launchThreads("gather the targets' cosines", targetCosines, data_.rows);
      if (Status status = exchange(); !status) return status;
    }
    launchThreads("place the negatives' thresholds", placeThresholds, data_.paddedRows, exchanges);
    return {};
  }

  // Shards of the classes meet here. What they tell each other goes from GPU to GPU, or the host carries it.
  Status exchange() {
    if (problem_.rowsResident) {
      const Status status = device_.finish("add up the rows");
      return status ? problem_.exchange->reduceTotals(data_.totalsOfRows, problem_.rows) : status;
    }
    std::vector<RowTotals> rows(problem_.rows);
    const int64_t bytes = problem_.rows * static_cast<int64_t>(sizeof(RowTotals));
    device_.download(rows.data(), data_.totalsOfRows, bytes);
    if (Status status = device_.finish("add up the rows"); !status) return status;
    if (Status status = problem_.exchange->reduceTotals(rows.data(), problem_.rows); !status) return status;
    device_.upload(data_.totalsOfRows, rows.data(), bytes);
    // A large copy is not staged, and the rows end with this function.
    return device_.finish("receive the rows' sums");
  }

  Status download() {
    const int64_t rows = problem_.rows, dim = problem_.dim, classes = problem_.classes;
    Totals totals;
    device_.download(&totals, data_.totals, sizeof(Totals));
    device_.download(problem_.losses, data_.losses, rows * 4);
    if (problem_.gradInput && !problem_.rowsResident)
      device_.download(problem_.gradInput, data_.gradInput, rows * dim * 4);
    if (problem_.gradWeight) device_.download(problem_.gradWeight, data_.gradWeight, classes * dim * 4);
    if (problem_.gradBias) device_.download(problem_.gradBias, data_.gradBias, classes * 4);
    if (Status status = device_.finish("compute the step"); !status) return status;
    if (cancelled()) return Status::abandoned();
    if (problem_.trains() && totals.notFinite >= 0)
      return {Failure::notFinite, "the loss is not finite", totals.notFinite};
    if (problem_.statistics)
      *problem_.statistics = {totals.accuracy, totals.targetCosine, totals.largestOther, totals.gradientSquares,
                              totals.inputGradientSquares};
    closeBatch(problem_, weights_, totals.loss);
    return {};
  }

  Device& device_;
  Problem& problem_;
  const bool narrow_;
  const Plan plan_;
  BatchWeights weights_;
  StepData<Element> data_{};
  ClassOperand operands_[2];
  // In the workspace, as what is uploaded into.
  float *input_ = nullptr, *gradOutput_ = nullptr, *shares_ = nullptr;
  RowWeight* rowWeights_ = nullptr;
  int32_t *labels_ = nullptr, *order_ = nullptr, *sorted_ = nullptr, *sample_ = nullptr;
  // The first three are made here, and live for as long as they may be on their way.
  std::vector<int32_t> hostLabels_, hostOrder_, hostSorted_;
};

}  // namespace margin_softmax::cuda
