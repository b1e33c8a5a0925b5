// How jobs run and report: see binding.h. Each addon of the project has this file.
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <unordered_set>

#include "binding.h"
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
    case Failure::distributed:
      return "ERR_DISTRIBUTED";
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
    if (!pending->job->post([this, pending] { work(pending); })) {
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

}  // namespace

void openEnvironment(Napi::Env env) { env.SetInstanceData(new Environment*(new Environment(env))); }

bool Job::post(std::function<void()> work) { return enqueue(device, std::move(work)); }

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

Napi::Value perform(Napi::Env env, std::unique_ptr<Job> job) {
  if (!job->prepared && !job->grouped) return resultOf(env, *job, job->prepared);
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

}  // namespace margin_softmax::binding
