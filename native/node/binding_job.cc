// Runs jobs and reports their results: see binding.h. Each addon of the project has this file.
#include <condition_variable>
#include <cstring>
#include <mutex>

#include "../core/collectives.h"
#include "../core/watch.h"
#include "binding.h"
#include "module.h"

namespace margin_softmax::binding {
namespace {

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
    case Failure::tooLarge:
      return "ERR_TOO_LARGE";
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

}  // namespace

// The addon's state in one JavaScript environment (the main thread's, or a Worker's). Jobs in
// flight belong to it. When the environment ends, those that have not begun leave their queues, and
// those that run are told to stop and are waited for: they write into memory that ends with it.
class Environment {
 public:
  explicit Environment(napi_env env) : env_(env) {
    napi_value name;
    check(napi_create_string_utf8(env, "margin-softmax", NAPI_AUTO_LENGTH, &name));
    check(napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, deliver, &wake_));
    check(napi_unref_threadsafe_function(env, wake_));
    check(napi_add_env_cleanup_hook(env, [](void* self) { static_cast<Environment*>(self)->close(); }, this));
  }

  static Environment& of(napi_env env) {
    void* environment = nullptr;
    napi_get_instance_data(env, &environment);
    return *static_cast<Environment*>(environment);
  }

  Napi::Value start(std::unique_ptr<Job> owned) {
    napi_value promise;
    check(napi_create_promise(env_, &owned->deferred_, &promise));
    Job* const job = owned.release();
    job->environment_ = this;
    job->run = [](Task& task) {
      Job& begun = static_cast<Job&>(task);
      begun.status_ = begun.cancelled ? Status::abandoned() : begun.outcome();
      begun.environment_->finish(begun);
    };
    if (!all_) napi_ref_threadsafe_function(env_, wake_);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (!all_) watch_.begin();
      job->after_ = all_;
      if (all_) all_->before_ = job;
      all_ = job;
      running_++;
    }
    if (!job->post()) {
      job->status_ = {Failure::outOfMemory, "Expected a thread for asynchronous work but the system refused one"};
      finish(*job);
    }
    return Napi::Value(env_, promise);
  }

  // On the JavaScript thread, as all that changes the list of jobs.
  void cancel(double ticket) {
    for (Job* job = all_; job; job = job->after_) {
      if (job->ticket != ticket) continue;
      job->cancelled = true;
      if (!job->withdraw()) return;  // it runs, and ends soon, or has run
      job->status_ = Status::abandoned();
      finish(*job);
      return;
    }
  }

  // Delivers what has finished, between two turns of the event loop: sooner than its thread would
  // wake up from sleep. Returns whether to look again at the next turn.
  bool look() {
    const bool again = all_ && watch_.goesOn(anyFinished_);
    if (again != looking_) {
      const std::lock_guard<std::mutex> lock(mutex_);
      looking_ = again && !firstFinished_;
    }
    if (!looking_) deliverAll();
    return looking_;
  }

 private:
  void check(napi_status status) const {
    if (status != napi_ok) throw Napi::Error::New(env_);
  }

  void finish(Job& job) {
    const std::lock_guard<std::mutex> lock(mutex_);
    job.nextFinished_ = nullptr;
    (lastFinished_ ? lastFinished_->nextFinished_ : firstFinished_) = &job;
    lastFinished_ = &job;
    anyFinished_ = true;
    watch_.end();
    if (!closed_ && !looking_) napi_call_threadsafe_function(wake_, nullptr, napi_tsfn_nonblocking);
    if (--running_ == 0) idle_.notify_all();
  }

  // On the JavaScript thread; without an environment where that ends, which close() knows.
  static void deliver(napi_env env, napi_value, void* context, void*) {
    if (env) static_cast<Environment*>(context)->deliverAll();
  }

  void deliverAll() {
    for (;;) {
      std::unique_ptr<Job> job;
      {
        const std::lock_guard<std::mutex> lock(mutex_);
        if (!firstFinished_) break;
        job.reset(firstFinished_);
        firstFinished_ = job->nextFinished_;
        if (!firstFinished_) lastFinished_ = nullptr;
        anyFinished_ = firstFinished_ != nullptr;
        if (job->after_) job->after_->before_ = job->before_;
        (job->before_ ? job->before_->after_ : all_) = job->after_;
      }
      const Napi::HandleScope scope(env_);
      settle(*job);
    }
    if (!all_) napi_unref_threadsafe_function(env_, wake_);
  }

  // Calls that fail say that JavaScript is ending: nobody waits for the promise any more.
  void settle(const Job& job) {
    try {
      napi_resolve_deferred(env_, job.deferred_, resultOf(env_, job, job.status_));
    } catch (const Napi::Error& error) {
      napi_reject_deferred(env_, job.deferred_, error.Value());
    } catch (const std::bad_alloc&) {
      napi_resolve_deferred(env_, job.deferred_, failureOf(env_, Status::outOfMemory("the result", 0)));
    }
  }

  void close() {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      closed_ = true;
      for (Job* job = all_; job; job = job->after_) {
        job->cancelled = true;
        if (job->withdraw()) running_--;
      }
      idle_.wait(lock, [this] { return running_ == 0; });
    }
    while (Job* job = all_) {
      all_ = job->after_;
      delete job;
    }
    napi_release_threadsafe_function(wake_, napi_tsfn_release);
    delete this;
  }

  const napi_env env_;
  napi_threadsafe_function wake_ = nullptr;
  std::mutex mutex_;
  std::condition_variable idle_;
  Job* all_ = nullptr;  // written on the JavaScript thread alone
  Job *firstFinished_ = nullptr, *lastFinished_ = nullptr;
  std::atomic<bool> anyFinished_{false};
  int running_ = 0;
  bool closed_ = false;
  Watch watch_;           // of the JavaScript thread, for its jobs
  bool looking_ = false;  // whether that one looks by itself, so that nobody need wake it; it alone writes this
};

Status Job::outcome() noexcept {
  try {
    return prepared ? work() : refuse(prepared);
  } catch (const std::bad_alloc&) {
    return Status::outOfMemory("the computation", 0);
  }
}

const void* Job::keep(Napi::Value value, const void* data, size_t bytes) {
  if (!data || bytes == 0) return data;
  if (asynchronous) {
    napi_value buffer;
    bool detachable = true;  // not a SharedArrayBuffer
    if (napi_get_typedarray_info(value.Env(), value, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok ||
        napi_is_arraybuffer(value.Env(), buffer, &detachable) != napi_ok || detachable) {
      void* const copy = blockFor(bytes);
      if (!copy) return nullptr;
      places_.push_back({value, data, bytes});
      copiesToMake_.push_back({copy, data, bytes});
      return copy;
    }
  }
  useInPlace(value, data, bytes);
  return data;
}

void* Job::blockFor(size_t bytes) {
  Block block = Block::uninitialized(static_cast<int64_t>(bytes));
  if (!block.as<void>()) {
    prepared = Status::outOfMemory("a copy of the inputs", static_cast<int64_t>(bytes));
    return nullptr;
  }
  copies_.push_back(std::move(block));
  return copies_.back().as<void>();
}

const void* Job::copyOf(const void* data, size_t bytes) {
  void* const copy = blockFor(bytes);
  if (copy && bytes) std::memcpy(copy, data, bytes);
  return copy;
}

void Job::makeCopies() {
  for (const Copy& copy : copiesToMake_) {
    if (copier) copier(copy, copyThreads);
    else std::memcpy(copy.to, copy.from, copy.bytes);
  }
  copiesToMake_.clear();
}

void Job::useInPlace(Napi::Value value, const void* data, size_t bytes) {
  places_.push_back({value, data, bytes});
  if (asynchronous) references_.push_back(Napi::Persistent(value.As<Napi::Object>()));
}

void Job::checkPlaces(Napi::Env env) const {
  for (const Place& place : places_) {
    void* data = nullptr;
    size_t length = 0;
    napi_typedarray_type type;
    napi_value buffer;
    size_t offset = 0;
    if (napi_get_typedarray_info(env, place.value, &type, &length, &data, &buffer, &offset) != napi_ok ||
        data != place.data || length * static_cast<size_t>(bytesOf(static_cast<Element>(type))) != place.bytes)
      throw Napi::TypeError::New(env, "Expected arrays that stay attached and of their length during the call");
  }
}

Napi::Value perform(Napi::Env env, std::unique_ptr<Job> job) {
  if (!job->prepared && !job->grouped) return failureOf(env, job->prepared);
  job->checkPlaces(env);
  if (job->prepared) job->makeCopies();
  if (job->asynchronous) return Environment::of(env).start(std::move(job));
  const Status status = job->outcome();
  return resultOf(env, *job, status);
}

Napi::Value look(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), Environment::of(info.Env()).look());
}

Napi::Value cancel(const Napi::CallbackInfo& info) {
  const double ticket = info[0].As<Napi::Number>().DoubleValue();
  if (ticket > 0) Environment::of(info.Env()).cancel(ticket);
  return info.Env().Undefined();
}

Napi::Object load(Napi::Env env, Napi::Object exports, void (*add)(Napi::Object exports)) {
  keepLoaded();
  try {
    napi_set_instance_data(env, std::make_unique<Environment>(env).release(), nullptr, nullptr);
    add(exports);
    return exports;
  } catch (const std::bad_alloc&) {
    const Status status = Status::outOfMemory("the native addon", 0);
    Napi::Error error = Napi::Error::New(env, status.message.c_str());
    set(error.Value(), "code", failureName(status.failure));
    throw error;
  }
}

// By Node-API's own calls: node-addon-api makes a std::string of each text that it sets. Those that
// fail leave the property out, with an exception that is JavaScript's.
void set(Napi::Object result, const char* name, double value) {
  napi_value number;
  if (napi_create_double(result.Env(), value, &number) == napi_ok)
    napi_set_named_property(result.Env(), result, name, number);
}

void set(Napi::Object result, const char* name, const char* value) {
  napi_value text;
  if (napi_create_string_utf8(result.Env(), value, NAPI_AUTO_LENGTH, &text) == napi_ok)
    napi_set_named_property(result.Env(), result, name, text);
}

Napi::Object failureOf(Napi::Env env, const Status& status) {
  Napi::Object result = Napi::Object::New(env);
  set(result, "failure", failureName(status.failure));
  set(result, "message", status.message.c_str());
  set(result, "row", static_cast<double>(status.row));
  return result;
}

}  // namespace margin_softmax::binding
