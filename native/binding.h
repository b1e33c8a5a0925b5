// What the binding_*.cc files share: the only files that know Node-API. lib/ has explained every mistake to the user
// before a call arrives here; these checks are for memory safety alone, and their messages name a defect of lib/.
#pragma once
#include <napi.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "block.h"
#include "problem.h"
#include "status.h"

namespace margin_softmax::binding {

template <class T>
struct Span {
  T* data = nullptr;
  size_t length = 0;
  explicit operator bool() const { return data != nullptr; }
};

template <class T>
constexpr napi_typedarray_type arrayType();
template <>
constexpr napi_typedarray_type arrayType<float>() {
  return napi_float32_array;
}
template <>
constexpr napi_typedarray_type arrayType<double>() {
  return napi_float64_array;
}
template <>
constexpr napi_typedarray_type arrayType<int32_t>() {
  return napi_int32_array;
}
template <>
constexpr napi_typedarray_type arrayType<uint8_t>() {
  return napi_uint8_array;
}

// The elements of a typed array, also of a view over a SharedArrayBuffer. Undefined gives an empty span unless `length`
// demands elements; another type or another length throws.
template <class T>
Span<T> elements(Napi::Value value, const char* name) {
  if (value.IsUndefined() || value.IsNull()) return {};
  Napi::Env env = value.Env();
  if (!value.IsTypedArray()) throw Napi::TypeError::New(env, std::string("Expected a typed array for ") + name);
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, value, &type, &length, &data, nullptr, nullptr) != napi_ok ||
      type != arrayType<T>())
    throw Napi::TypeError::New(env, std::string("Expected another element type for ") + name);
  return {static_cast<T*>(data), length};
}

template <class T>
Span<T> elements(Napi::Value value, const char* name, size_t length) {
  Span<T> span = elements<T>(value, name);
  if (span.length != length || (length && !span.data))
    throw Napi::RangeError::New(value.Env(), std::string("Expected ") + std::to_string(length) + " elements for " +
                                                 name + " but received " + std::to_string(span.length));
  return span;
}

// A piece of work between the call that asked for it and the result that JavaScript gets. Run at once on the JavaScript
// thread, or later on the queue's; what it reads and writes stays alive and in place until it is destroyed.
class Job {
 public:
  virtual ~Job() = default;
  virtual Status run() = 0;                          // on any thread, without Node-API
  virtual void fill(Napi::Object result) const = 0;  // on the JavaScript thread, after a run that went well
  // Has asynchronous work run later, on the thread that it belongs to; false if the system gives no thread.
  virtual bool post(std::function<void()> work);

  // The elements of an array to be read. Synchronous work reads them in place. Asynchronous work must survive that the
  // caller transfers or resizes the buffer meanwhile, so it takes a copy, unless the buffer is shared: that can do
  // neither.
  template <class T>
  const T* input(Napi::Value value, const char* name, size_t length) {
    return static_cast<const T*>(keep(value, elements<T>(value, name, length).data, length * sizeof(T)));
  }
  // The elements of an array to be written, always in place: lib/ passes asynchronous work only arrays of its own.
  template <class T>
  T* output(Napi::Value value, const char* name, size_t length) {
    if (value.IsUndefined()) return nullptr;
    T* data = elements<T>(value, name, length).data;
    if (asynchronous) references_.push_back(Napi::Persistent(value.As<Napi::Object>()));
    return data;
  }

  // Labels are indices into the weights, the one input that memory safety depends on: always copied, and checked in the
  // copy, so that not even another thread that writes to a shared array can change them afterwards.
  const int32_t* labels(Napi::Value value, int64_t rows, int64_t classes);

  Status prepared;  // how reading the request went, apart from mistakes in it
  bool asynchronous = false;
  bool grouped = false;    // other processes wait for it: it runs even where it can only say that it was not prepared
  int device = cpuDevice;  // whose queue it waits in
  std::atomic<bool> cancelled{false};  // set from the JavaScript thread, read now and then by the work

 private:
  const void* keep(Napi::Value value, const void* data, size_t bytes);
  std::vector<int32_t> labels_;
  std::vector<Block> copies_;
  std::vector<Napi::ObjectReference> references_;
};

// Once per JavaScript environment, when the addon is loaded there: what asynchronous jobs need.
void openEnvironment(Napi::Env env);

// Runs the job and returns its result object {failure, message, row} or {…fill}; asynchronous work returns a promise of
// it.
Napi::Value perform(Napi::Env env, std::unique_ptr<Job> job);

// Common parts of a request object.
Margin readMargin(Napi::Object request);
int readDevice(Napi::Object request);
Precision readPrecision(Napi::Object request);
Napi::Object failureOf(Napi::Env env, const Status& status);
Execution readExecution(Napi::Object request, Job& job, std::string& instructionSet);

void readBatch(Napi::Object request, Job& job, Problem& problem);
void readTopK(Napi::Object request, Job& job, TopKProblem& problem, std::string& instructionSet);
void fillLoss(Napi::Object result, const Problem& problem, const Statistics& statistics);

// Each binding_<room>.cc adds its functions to the addon's exports.
void exportLoss(Napi::Env env, Napi::Object exports);
void exportHead(Napi::Env env, Napi::Object exports);
void exportProbability(Napi::Env env, Napi::Object exports);
void exportVerification(Napi::Env env, Napi::Object exports);

}  // namespace margin_softmax::binding
