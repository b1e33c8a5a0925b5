// The addon's entry, what it tells of itself, and how jobs run and report: see binding.h.
#include "binding.h"

#include <condition_variable>
#include <cstring>
#include <mutex>
#include <unordered_set>

#include "cpu/kernels.h"
#include "cpu/pool.h"
#include "executor.h"
#include "queue.h"

namespace margin_softmax::binding {
namespace {

struct Pending {
  Pending(Napi::Env env, std::unique_ptr<Job> work)
      : job(std::move(work)), deferred(Napi::Promise::Deferred::New(env)) {}
  std::unique_ptr<Job> job;
  Napi::Promise::Deferred deferred;
  Status status;
};

const char* failureName(Failure failure) {
  switch (failure) {
    case Failure::outOfMemory:
      return "ERR_OUT_OF_MEMORY";
    case Failure::notFinite:
      return "ERR_NOT_FINITE";
    case Failure::cancelled:
      return "ERR_CANCELLED";
    case Failure::unavailable:
      return "ERR_UNAVAILABLE";
    case Failure::disposed:
      return "ERR_DISPOSED";
    case Failure::tooManyRows:
      return "ERR_TOO_MANY_ROWS";
    case Failure::device:
      return "ERR_CUDA";
    case Failure::none:
      break;
  }
  return "";
}

Napi::Object resultOf(Napi::Env env, const Job& job, const Status& status) {
  if (!status) return failureOf(env, status);
  Napi::Object result = Napi::Object::New(env);
  job.fill(result);
  return result;
}

// The addon's state in one JavaScript environment (the main thread's, or a Worker's). Jobs in flight belong to it. When
// the environment ends, maybe in the middle of a job, the jobs are told to stop and are waited for: they write into
// memory that ends with it.
class Environment {
 public:
  explicit Environment(Napi::Env env) : env_(env) {
    wake_ = Napi::ThreadSafeFunction::New(env, Napi::Function(), "margin-softmax", 0, 1, [](Napi::Env) {});
    wake_.Unref(env);
    napi_add_env_cleanup_hook(env, [](void* self) { static_cast<Environment*>(self)->close(); }, this);
  }

  Napi::Value start(std::unique_ptr<Job> job) {
    auto* pending = new Pending(env_, std::move(job));
    Napi::Promise promise = pending->deferred.Promise();
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      all_.insert(pending);
      running_++;
    }
    if (all_.size() == 1) wake_.Ref(env_);
    if (!enqueue(pending->job->device, [this, pending] { work(pending); })) {
      pending->status = {Failure::outOfMemory, "Expected a thread for asynchronous work but the system refused one"};
      finish(pending);
    }
    return promise;
  }

 private:
  void work(Pending* pending) {
    if (!pending->job->cancelled) pending->status = pending->job->run();
    finish(pending);
  }

  void finish(Pending* pending) {
    const std::lock_guard<std::mutex> lock(mutex_);
    finished_.push_back(pending);
    if (!closed_) {
      wake_.NonBlockingCall(this, [](Napi::Env env, Napi::Function, Environment* self) {
        if (env != nullptr) self->deliver(env);
      });
    }
    if (--running_ == 0) idle_.notify_all();
  }

  void deliver(Napi::Env env) {
    std::vector<Pending*> ready;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      ready.swap(finished_);
      for (Pending* pending : ready) all_.erase(pending);
    }
    if (all_.empty()) wake_.Unref(env);
    for (Pending* pending : ready) {
      const Napi::HandleScope scope(env);
      const std::unique_ptr<Pending> owner(pending);
      pending->deferred.Resolve(resultOf(env, *pending->job, pending->status));
    }
  }

  void close() {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      closed_ = true;
      for (Pending* pending : all_) pending->job->cancelled = true;
      idle_.wait(lock, [this] { return running_ == 0; });
    }
    for (Pending* pending : all_) delete pending;
    wake_.Release();
    delete this;
  }

  Napi::Env env_;
  Napi::ThreadSafeFunction wake_;
  std::mutex mutex_;
  std::condition_variable idle_;
  std::unordered_set<Pending*> all_;
  std::vector<Pending*> finished_;
  int running_ = 0;
  bool closed_ = false;
};

Napi::Value margins(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  Napi::Array list = Napi::Array::New(env);
  forEachMargin(MarginList{}, [&](int position, auto margin) {
    using M = decltype(margin);
    Napi::Object entry = Napi::Object::New(env);
    Napi::Array parameters = Napi::Array::New(env);
    for (int i = 0; i < M::count; i++) parameters.Set(i, M::parameters[i].name);
    entry["name"] = M::name;
    entry["normalized"] = M::normalized;
    entry["parameters"] = parameters;
    list.Set(position, entry);
  });
  return list;
}

Napi::Value instructionSets(const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  const cpu::KernelList list = cpu::availableKernels();
  for (int i = 0; i < list.count; i++) names.Set(i, list.tables[i]->name);
  return names;
}

Napi::Value cudaDevices(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const std::vector<DeviceState> states = margin_softmax::cudaDevices();
  Napi::Array list = Napi::Array::New(env);
  for (size_t i = 0; i < states.size(); i++) {
    const DeviceState& state = states[i];
    Napi::Object entry = Napi::Object::New(env);
    entry["index"] = state.index;
    entry["name"] = state.name;
    entry["usable"] = state.usable;
    entry["reason"] = state.reason;
    entry["computeCapability"] = state.computeCapability;
    entry["memoryBytes"] = static_cast<double>(state.memoryBytes);
    entry["freeBytes"] = static_cast<double>(state.freeBytes);
    entry["driverVersion"] = state.driverVersion;
    entry["tensorCores"] = state.has(Precision::bfloat16);
    list.Set(static_cast<uint32_t>(i), entry);
  }
  return list;
}

// Runs the fused multiply-adds that machinePeak times, and returns how many operations that were.
Napi::Value multiplyAdds(const Napi::CallbackInfo& info) {
  const int threads = info[0].As<Napi::Number>().Int32Value();
  const long rounds = static_cast<long>(info[1].As<Napi::Number>().Int64Value());
  const cpu::Kernels* kernels = cpu::findKernels(nullptr);
  {
    const cpu::Turn turn;
    cpu::Pool::instance().forEach(threads, threads, [&](int64_t, int) { kernels->multiplyAdds(rounds); });
  }
  return Napi::Number::New(info.Env(), 2.0 * 12 * (kernels->vectorBytes / 4) * static_cast<double>(rounds) * threads);
}

}  // namespace

const void* Job::keep(Napi::Value value, const void* data, size_t bytes) {
  if (!asynchronous || !data || bytes == 0) return data;
  Napi::Object buffer = value.As<Napi::Object>().Get("buffer").As<Napi::Object>();
  if (!buffer.IsArrayBuffer()) {  // a SharedArrayBuffer: the view keeps its memory in place
    references_.push_back(Napi::Persistent(value.As<Napi::Object>()));
    return data;
  }
  Block copy = Block::uninitialized(static_cast<int64_t>(bytes));
  if (!copy.as<void>()) {
    prepared = Status::outOfMemory("a copy of the inputs", static_cast<int64_t>(bytes));
    return nullptr;
  }
  std::memcpy(copy.as<void>(), data, bytes);
  copies_.push_back(std::move(copy));
  return copies_.back().as<void>();
}

const int32_t* Job::labels(Napi::Value value, int64_t rows, int64_t classes) {
  const Span<int32_t> given = elements<int32_t>(value, "labels", static_cast<size_t>(rows));
  labels_.assign(given.data, given.data + given.length);
  for (const int32_t label : labels_)
    if (label < -1 || label >= classes) throw Napi::RangeError::New(value.Env(), "Expected labels below classes");
  return labels_.data();
}

Napi::Value perform(Napi::Env env, std::unique_ptr<Job> job) {
  if (!job->prepared) return resultOf(env, *job, job->prepared);
  if (job->asynchronous) return (*env.GetInstanceData<Environment*>())->start(std::move(job));
  const Status status = job->run();
  return resultOf(env, *job, status);
}

Napi::Object failureOf(Napi::Env env, const Status& status) {
  Napi::Object result = Napi::Object::New(env);
  result["failure"] = failureName(status.failure);
  result["message"] = status.message;
  result["row"] = static_cast<double>(status.row);
  return result;
}

int readDevice(Napi::Object request) {
  const int device = request.Get("device").As<Napi::Number>().Int32Value();
  if (device < cpuDevice || !executorOf(device)) throw Napi::RangeError::New(request.Env(), "Expected a device");
  return device;
}

Precision readPrecision(Napi::Object request) {
  const int precision = request.Get("precision").As<Napi::Number>().Int32Value();
  if (precision < 0 || precision > static_cast<int>(Precision::bfloat16))
    throw Napi::RangeError::New(request.Env(), "Expected a precision");
  return static_cast<Precision>(precision);
}

Margin readMargin(Napi::Object request) {
  Margin margin;
  margin.kind = request.Get("marginKind").As<Napi::Number>().Int32Value();
  const Span<double> parameters = elements<double>(request.Get("marginParameters"), "marginParameters");
  if (margin.kind < 0 || margin.kind >= MarginList::count || parameters.length > maxMarginParameters)
    throw Napi::RangeError::New(request.Env(), "Expected the kind and parameters of a margin");
  for (size_t i = 0; i < parameters.length; i++) margin.parameters[i] = parameters.data[i];
  return margin;
}

Execution readExecution(Napi::Object request, Job& job, std::string& instructionSet) {
  Execution execution;
  execution.device = job.device = readDevice(request);
  execution.precision = readPrecision(request);
  execution.threads = request.Get("threads").As<Napi::Number>().Int32Value();
  execution.workspaceBytes = request.Get("workspace").As<Napi::Number>().Int64Value();
  const Napi::Value forced = request.Get("instructionSet");
  if (forced.IsString()) {
    instructionSet = forced.As<Napi::String>().Utf8Value();
    execution.instructionSet = instructionSet.c_str();
  }
  if (execution.threads < 1 || execution.threads > cpu::Pool::maxThreads)
    throw Napi::RangeError::New(request.Env(), "Expected 1 to 1023 threads");
  execution.cancelled = &job.cancelled;
  return execution;
}

static Napi::Object initialize(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment*(new Environment(env)));
  exports["margins"] = Napi::Function::New(env, margins);
  exports["instructionSets"] = Napi::Function::New(env, instructionSets);
  exports["cudaDevices"] = Napi::Function::New(env, cudaDevices);
  exports["multiplyAdds"] = Napi::Function::New(env, multiplyAdds);
  exportLoss(env, exports);
  exportHead(env, exports);
  exportProbability(env, exports);
  return exports;
}

NODE_API_MODULE(margin_softmax, initialize)

}  // namespace margin_softmax::binding
