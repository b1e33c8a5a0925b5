// Declarations that the binding_*.cc files share. Only they know Node-API. lib/ has explained every
// mistake to the user before a call arrives here. The checks here are for memory safety; their
// messages mean a defect of lib/.
#pragma once
#include <napi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <string>
#include <vector>

#include "../core/block.h"
#include "../core/problem.h"
#include "../core/queue.h"
#include "../core/status.h"

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

// The elements of a typed array, also of one over a SharedArrayBuffer. Asks Node-API itself, no
// property that JavaScript can redefine. Undefined gives an empty span unless `length` demands
// elements; another type or length throws. The address is valid until JavaScript runs again, which
// reading a property may cause.
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

class Environment;

// One call's work. It runs at once on the JavaScript thread, or later on a queue's. Everything that
// it reads and writes stays alive and in place until it is destroyed.
//
// It is created with all the memory that its way takes: links for the queue and the environment,
// and room for its status. So from being queued until its promise settles, only the work itself can
// fail for want of memory.
class Job : public Task {
 public:
  virtual ~Job() = default;
  virtual Status work() = 0;                         // on any thread, without Node-API
  virtual void fill(Napi::Object result) const = 0;  // on the JavaScript thread, after successful work
  // Queues asynchronous work for its thread. False if the system gives no thread.
  virtual bool post() { return enqueue(device, *this); }
  // Withdraws it before it has begun. False if it is too late.
  virtual bool withdraw() { return margin_softmax::withdraw(device, *this); }
  // Tells other processes that wait for this work that it was not prepared.
  virtual Status refuse(const Status& reason) { return reason; }

  // Calls read(), which fills the job in from a request. If memory runs out in it, the job counts
  // as not prepared.
  template <class Read>
  void prepare(const Read& read) {
    try {
      read();
    } catch (const std::bad_alloc&) {
      prepared = Status::outOfMemory("the call", 0);
    }
  }
  // Does the work, or returns why the job was not prepared. Does not throw.
  Status outcome() noexcept;

  // Throws if an array that is used in place, or is to be copied, has moved since its address was taken:
  // reading a later property ran JavaScript, which detached or resized its buffer.
  void checkPlaces(Napi::Env env) const;

  // A copy to be made once the whole request is read.
  struct Copy {
    void* to;
    const void* from;
    size_t bytes;
  };
  // Makes the copies, with `copier` if it is set.
  void makeCopies();

  Status prepared;  // whether reading the request found memory
  bool asynchronous = false;
  bool grouped = false;    // other processes wait for it: it runs even if it was not prepared
  int device = cpuDevice;  // the device whose queue it waits in
  double ticket = 0;       // names asynchronous work that JavaScript may cancel; 0: none
  void (*copier)(const Copy& copy, int threads) = nullptr;
  int copyThreads = 1;                 // that the copier may use
  std::atomic<bool> cancelled{false};  // set on the JavaScript thread, polled by the work

 private:
  friend class Environment;
  friend class Request;
  struct Place {
    napi_value value;
    const void* data;
    size_t bytes;
  };
  // Each keeps an array or a copy of it until the job is destroyed; see Request.
  const void* keep(Napi::Value value, const void* data, size_t bytes);
  const void* copyOf(const void* data, size_t bytes);
  void* blockFor(size_t bytes);
  void useInPlace(Napi::Value value, const void* data, size_t bytes);

  std::vector<Block> copies_;
  std::vector<Copy> copiesToMake_;
  std::vector<Napi::ObjectReference> references_;
  std::vector<Place> places_;

  Job *before_ = nullptr, *after_ = nullptr;  // among the environment's jobs
  Job* nextFinished_ = nullptr;
  Environment* environment_ = nullptr;
  napi_deferred deferred_ = nullptr;
  Status status_;
};

// {failure, message, row}
Napi::Object failureOf(Napi::Env env, const Status& status);

// Runs the job and returns its result object {failure, message, row} or {…fill}; asynchronous work
// returns a promise of it.
Napi::Value perform(Napi::Env env, std::unique_ptr<Job> job);

// Makes a job, fills it in by read(job), and performs it.
template <class J, class Read>
Napi::Value perform(const Napi::CallbackInfo& info, const Read& read) {
  auto job = std::make_unique<J>();
  job->prepare([&] { read(*job); });
  return perform(info.Env(), std::move(job));
}

// look(): delivers the results of finished asynchronous work, and returns whether to look again at
// the next turn of the event loop (watch.h). Without it results are delivered too, as soon as their
// thread has woken up.
Napi::Value look(const Napi::CallbackInfo& info);

// cancel(ticket): ends asynchronous work early, with ERR_CANCELLED. Finished work keeps its result.
Napi::Value cancel(const Napi::CallbackInfo& info);

// Loads an addon into an environment: prepares for asynchronous jobs, then calls `add`, which adds
// the functions. Throws an Error with code ERR_OUT_OF_MEMORY if there is no memory for it.
Napi::Object load(Napi::Env env, Napi::Object exports, void (*add)(Napi::Object exports));

// result[name] = value, without allocating in C++.
void set(Napi::Object result, const char* name, double value);
void set(Napi::Object result, const char* name, const char* value);

// exports[name] = function; it returns a failure if memory runs out before it has made a job.
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  try {
    return function(info);
  } catch (const std::bad_alloc&) {
    return failureOf(info.Env(), Status::outOfMemory("the call", 0));
  }
}
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void addFunction(Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<guarded<function>>(exports.Env(), name));
}

// Makes an opaque JavaScript value that owns `value` until it is collected.
template <class T>
Napi::Value external(Napi::Env env, std::unique_ptr<T> value, const napi_type_tag& tag) {
  const auto finalize = [](napi_env, void* data, void*) { delete static_cast<T*>(data); };
  napi_value result;
  if (napi_create_external(env, value.get(), finalize, nullptr, &result) != napi_ok) throw Napi::Error::New(env);
  value.release();
  if (napi_type_tag_object(env, result, &tag) != napi_ok) throw Napi::Error::New(env);
  return Napi::Value(env, result);
}

void fillLoss(Napi::Object result, const Problem& problem, const Statistics& statistics);

// Each binding_<name>.cc adds its functions to the addon's exports.
void exportLoss(Napi::Object exports);
void exportHead(Napi::Object exports);
void exportProbability(Napi::Object exports);
void exportVerification(Napi::Object exports);

}  // namespace margin_softmax::binding
