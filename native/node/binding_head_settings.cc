// Reads a head's settings.
#include "binding_head.h"

namespace margin_softmax::binding {
namespace {

Optimizer readOptimizer(const Request& request) {
  Optimizer optimizer;
  optimizer.learningRate = request.number("learningRate");
  optimizer.weightDecay = request.number("weightDecay");
  if (request.text("name") == "adamw") {
    optimizer.kind = OptimizerKind::adamW;
    optimizer.beta1 = request.number("beta1");
    optimizer.beta2 = request.number("beta2");
    optimizer.epsilon = request.number("epsilon");
  } else {
    optimizer.momentum = request.number("momentum");
    optimizer.nesterov = request.flag("nesterov");
  }
  return optimizer;
}

ProjectionShape readProjection(const Request& request, int64_t dim) {
  ProjectionShape shape;
  shape.from = request.integer("from", 1, largestSize);
  shape.hidden = request.integer("hidden", 1, largestSize);
  shape.to = request.integer("to", dim, dim);
  shape.layers = static_cast<int>(request.integer("layers", 1, 2));
  shape.batchNorm = request.flag("batchNorm");
  shape.dropout = request.number("dropout");
  return shape;
}

}  // namespace

HeadSettings readHeadSettings(const Request& request) {
  HeadSettings settings;
  settings.classes = request.integer("classes", 1, largestSize);
  settings.dim = request.integer("dim", 1, largestSize);
  settings.margin = readMargin(request);
  settings.optimizer = readOptimizer(request.part("optimizer"));
  settings.bias = request.flag("bias");
  settings.labelSmoothing = request.number("labelSmoothing");
  settings.device = readDevice(request);
  settings.precision = readPrecision(request);
  settings.bfloat16Weights = request.text("weightStorage") == "bfloat16";
  if (settings.bfloat16Weights && settings.device != cpuDevice)
    request.refuse("Expected the CPU for weights stored in bfloat16");
  settings.warmupSteps = request.integer("marginWarmupSteps");
  settings.sampleRate = request.number("sampleRate");
  settings.sampleCorrection = request.flag("sampleCorrection");
  settings.interclassFilter = request.number("interclassFilter");
  settings.negligible = request.number("negligible");
  settings.maxGradientNorm = request.number("maxGradientNorm");
  settings.seed = static_cast<uint64_t>(request.integer("seed", 0));
  settings.optimizerStart = request.integer("optimizerStart");
  if (request.has("projection")) settings.projection = readProjection(request.part("projection"), settings.dim);
  if (!(settings.sampleRate > 0 && settings.sampleRate <= 1))
    request.refuse("Expected a share of the classes for sampleRate");
  return settings;
}

}  // namespace margin_softmax::binding
