// One step behind a C interface, for golden.py: returns 0, or 1 with the reason in `message`.
#include <cstdio>

#include "../../native/executor.h"

using namespace margin_softmax;

extern "C" int margin_softmax_step(int64_t rows, int64_t dim, int64_t classes, const float* input, float* weight,
                                   float* bias, const int32_t* labels, const float* gradOutput, const char* margin,
                                   const double* parameters, int parameterCount, int reduction, double labelSmoothing,
                                   int precision, double* loss, float* losses, float* gradInput, float* gradWeight,
                                   float* gradBias, char* message, int messageBytes) {
  Problem problem;
  problem.rows = rows;
  problem.dim = dim;
  problem.classes = classes;
  problem.input = input;
  problem.weight = weight;
  problem.bias = bias;
  problem.labels = labels;
  problem.gradOutput = gradOutput;
  problem.margin.kind = kindOf(margin);
  for (int i = 0; i < parameterCount; i++) problem.margin.parameters[i] = parameters[i];
  problem.reduction = static_cast<Reduction>(reduction);
  problem.labelSmoothing = labelSmoothing;
  problem.losses = losses;
  problem.gradInput = gradInput;
  problem.gradWeight = gradWeight;
  problem.gradBias = gradBias;
  problem.execution.device = 0;
  problem.execution.precision = static_cast<Precision>(precision);
  const Status status = cudaExecutor.loss(problem);
  *loss = problem.loss;
  std::snprintf(message, static_cast<size_t>(messageBytes), "%s", status.message.c_str());
  return status ? 0 : 1;
}
