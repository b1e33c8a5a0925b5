#include "request.h"

#include <cmath>

namespace margin_softmax::binding {

static Napi::Error mistaken(Napi::Value value, const char* what, const char* name) {
  return Napi::TypeError::New(value.Env(), std::string("Expected ") + what + " for " + name);
}

Request::Request(Napi::Value value, Job& job) : job_(&job) {
  if (!value.IsObject()) throw Napi::TypeError::New(value.Env(), "Expected a request");
  object_ = value.As<Napi::Object>();
}

bool Request::has(const char* name) const { return !get(name).IsUndefined(); }

double Request::number(const char* name) const {
  const Napi::Value value = get(name);
  if (!value.IsNumber()) throw mistaken(value, "a number", name);
  return value.As<Napi::Number>().DoubleValue();
}

int64_t Request::integer(const char* name, int64_t least, int64_t most) const {
  const double value = number(name);
  if (!(value >= static_cast<double>(least) && value <= static_cast<double>(most)) || value != std::floor(value))
    refuse("Expected an integer from " + std::to_string(least) + " to " + std::to_string(most) + " for " + name);
  return static_cast<int64_t>(value);
}

bool Request::flag(const char* name) const {
  const Napi::Value value = get(name);
  if (!value.IsBoolean()) throw mistaken(value, "true or false", name);
  return value.As<Napi::Boolean>();
}

std::string Request::text(const char* name) const {
  const Napi::Value value = get(name);
  if (!value.IsString()) throw mistaken(value, "a text", name);
  return value.As<Napi::String>().Utf8Value();
}

const int32_t* Request::indices(const char* name, int64_t count, int32_t least, int64_t end) const {
  const Span<int32_t> given = elements<int32_t>(get(name), name, static_cast<size_t>(count));
  const auto* copy = static_cast<const int32_t*>(job_->copyOf(given.data, given.length * sizeof(int32_t)));
  if (!copy) return nullptr;
  for (int64_t i = 0; i < count; i++)
    if (copy[i] < least || copy[i] >= end) refuse(std::string("Expected indices in range for ") + name);
  return copy;
}

}  // namespace margin_softmax::binding
