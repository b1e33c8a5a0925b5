#include "products.h"

#include "bfloat16.h"
#include "narrow.h"

namespace margin_softmax::cpu {

// These functions ask the same questions: a new kind of product goes into each.
int64_t tileClassLimit(Precision precision) {
  return precision == Precision::bfloat16 ? Plan::bfloat16Classes : Plan::floatClasses;
}

std::unique_ptr<Products> makeProducts(Precision precision, const Kernels& kernels, const Plan& plan,
                                       int64_t paddedRows) {
  if (precision == Precision::bfloat16) return std::make_unique<Bfloat16Products>(kernels, plan, paddedRows);
  return std::make_unique<Float32Products>(kernels, plan, paddedRows);
}

std::unique_ptr<Products> makeProducts(const Problem& problem, const Kernels& kernels, const Plan& plan,
                                       int64_t paddedRows) {
  if (problem.isNarrow()) return std::make_unique<NarrowProducts>(kernels, plan, paddedRows);
  return makeProducts(problem.execution.precision, kernels, plan, paddedRows);
}

}  // namespace margin_softmax::cpu
