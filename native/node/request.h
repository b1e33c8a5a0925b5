// The bindings' reader of a request. That is the object in which lib/ hands over the arguments of a
// native function. It has no prototype and every name that is read here, so reading runs no JavaScript.
#pragma once
#include "binding.h"

namespace margin_softmax::binding {

// One call reads one property, once. It throws where the property has another type, or another
// value than memory safety allows. Arrays belong to the job from then on, which keeps what it reads
// and writes alive and in place.
class Request {
 public:
  Request(Napi::Value value, Job& job);

  // True if the property has a value other than undefined.
  bool has(const char* name) const;
  // A whole number from `least` to `most`.
  int64_t integer(const char* name, int64_t least = -largestInteger, int64_t most = largestInteger) const;
  double number(const char* name) const;
  bool flag(const char* name) const;
  std::string text(const char* name) const;
  // An object within this one.
  Request part(const char* name) const { return {get(name), *job_}; }
  // Any other property; the caller checks it.
  Napi::Value get(const char* name) const { return object_.Get(name); }

  // An array to be read, with this many elements or as many as it has. Synchronous work reads it in
  // place. Asynchronous work must survive that the caller transfers or resizes the buffer
  // meanwhile, so it takes a copy, unless the buffer is shared: that can do neither.
  template <class T>
  const T* input(const char* name, size_t length) const {
    const Napi::Value value = get(name);
    return keep(value, elements<T>(value, name, length));
  }
  template <class T>
  Span<const T> input(const char* name) const {
    const Napi::Value value = get(name);
    const Span<T> span = elements<T>(value, name);
    return {keep(value, span), span.length};
  }
  // A null pointer for undefined.
  template <class T>
  const T* optionalInput(const char* name, size_t length) const {
    const Napi::Value value = get(name);
    return value.IsUndefined() ? nullptr : keep(value, elements<T>(value, name, length));
  }

  // An array to be written, always in place: lib/ passes asynchronous work only arrays of its own.
  template <class T>
  T* output(const char* name, size_t length) const {
    const Napi::Value value = get(name);
    return useInPlace(value, elements<T>(value, name, length));
  }
  template <class T>
  Span<T> output(const char* name) const {
    const Napi::Value value = get(name);
    const Span<T> span = elements<T>(value, name);
    return {useInPlace(value, span), span.length};
  }
  template <class T>
  T* optionalOutput(const char* name, size_t length) const {
    const Napi::Value value = get(name);
    return value.IsUndefined() ? nullptr : useInPlace(value, elements<T>(value, name, length));
  }

  // A copy of a small array, of any length; empty for undefined.
  template <class T>
  std::vector<T> copy(const char* name) const {
    const Span<T> span = elements<T>(get(name), name);
    return {span.data, span.data + span.length};
  }

  // Indices are the one input that memory safety depends on: always copied, and checked in the
  // copy, so that not even another thread that writes to a shared array can change them afterwards.
  // Each is from `least` to below `end`.
  const int32_t* indices(const char* name, int64_t count, int32_t least, int64_t end) const;
  const int32_t* labels(int64_t rows, int64_t classes) const { return indices("labels", rows, ignoredLabel, classes); }

  Job& job() const { return *job_; }
  [[noreturn]] void refuse(const std::string& expected) const { throw Napi::RangeError::New(object_.Env(), expected); }

 private:
  static constexpr int64_t largestInteger = int64_t{1} << 53;  // up to here a double is the integer that it says

  template <class T>
  const T* keep(Napi::Value value, Span<T> span) const {
    return static_cast<const T*>(job_->keep(value, span.data, span.length * sizeof(T)));
  }
  template <class T>
  T* useInPlace(Napi::Value value, Span<T> span) const {
    if (span.data) job_->useInPlace(value, span.data, span.length * sizeof(T));
    return span.data;
  }

  Napi::Object object_;
  Job* job_;
};

constexpr int64_t largestSize = INT32_MAX;  // of a dimension: labels are 32-bit integers

// Readers of the parts that several requests have.
Margin readMargin(const Request& request);
int readDevice(const Request& request);
Precision readPrecision(const Request& request);
int readThreads(const Request& request);
Reduction readReduction(const Request& request);
Execution readExecution(const Request& request, std::string& instructionSet);
void readBatch(const Request& request, Problem& problem);
void readTopK(const Request& request, TopKProblem& problem, std::string& instructionSet);

}  // namespace margin_softmax::binding
