// MarginHead's native half: an opaque handle, and functions on it.
#include <algorithm>
#include <cstring>

#include "../head/head.h"
#include "binding.h"

namespace margin_softmax::binding {
namespace {

// The bytes of a head that the garbage collector has been told of: those of this process, and not of a GPU.
class ToldBytes {
 public:
  explicit ToldBytes(Napi::Env env) : env_(env) {}
  ~ToldBytes() { tell(0); }
  ToldBytes(const ToldBytes&) = delete;
  ToldBytes& operator=(const ToldBytes&) = delete;

  void tell(int64_t bytes) {
    int64_t now;
    napi_adjust_external_memory(env_, bytes - told_, &now);
    told_ = bytes;
  }

 private:
  const Napi::Env env_;
  int64_t told_ = 0;
};

// What JavaScript holds of a head.
struct Handle {
  const std::shared_ptr<Head> head;
  const std::shared_ptr<ToldBytes> told;  // by this alone, so that it goes where its environment may be called
};

constexpr napi_type_tag headTag = {0x6d617267696e2d73ull, 0x6f66746d61782d68ull};

const Handle& handleOf(Napi::Value value) {
  if (!value.IsExternal() || !value.As<Napi::External<Handle>>().CheckTypeTag(&headTag))
    throw Napi::TypeError::New(value.Env(), "Expected a native head");
  return *value.As<Napi::External<Handle>>().Data();
}

const std::shared_ptr<Head>& headOf(Napi::Value value) { return handleOf(value).head; }

// Of a head that nobody else uses. Those of one that was disposed of go at the latest with the work that runs.
int64_t bytesHere(Head& head) {
  if (head.disposed() || head.settings().device != cpuDevice) return 0;
  const Head::Use use(head);
  return head.bytes();
}

Optimizer readOptimizer(Napi::Object request) {
  const auto number = [&](const char* name) { return request.Get(name).As<Napi::Number>().DoubleValue(); };
  Optimizer optimizer;
  optimizer.learningRate = number("learningRate");
  optimizer.weightDecay = number("weightDecay");
  if (request.Get("name").As<Napi::String>().Utf8Value() == "adamw") {
    optimizer.kind = OptimizerKind::adamW;
    optimizer.beta1 = number("beta1");
    optimizer.beta2 = number("beta2");
    optimizer.epsilon = number("epsilon");
  } else {
    optimizer.momentum = number("momentum");
    optimizer.nesterov = request.Get("nesterov").ToBoolean();
  }
  return optimizer;
}

// The table of a process group (collectives.h), which another addon made.
const Collectives& groupOf(Napi::Value value) {
  const napi_type_tag tag = {collectivesTag[0], collectivesTag[1]};
  if (!value.IsExternal() || !value.As<Napi::External<Collectives>>().CheckTypeTag(&tag))
    throw Napi::TypeError::New(value.Env(),
                               "Expected a process group of this version's own addon for group (npx margin-softmax "
                               "build --distributed makes it)");
  return *value.As<Napi::External<Collectives>>().Data();
}

// Work of a head. That of a sharded one runs on its group's thread, in the order of the group's other work.
struct HeadJob : Job {
  std::shared_ptr<Head> head;
  void belongTo(Napi::Value value) {
    head = headOf(value);
    device = head->settings().device;
    grouped = head->sharding() != nullptr;
  }
  Status refuse(const Status& reason) override { return grouped ? head->sharding()->refuse(reason) : reason; }
  bool post() override {
    if (!grouped) return Job::post();
    const Collectives& group = head->sharding()->group();
    // Where the group has ended it runs elsewhere, and hears that from the group.
    return group.post(group.context, this) || Job::post();
  }
  bool withdraw() override { return !grouped && Job::withdraw(); }
};

struct CreateJob : Job {
  std::shared_ptr<Head> head;
  bool random = false;
  int threads = 1;
  Status work() override {
    if (Status status = head->allocate(); !status) return status;
    return random ? head->initialize(threads) : Status{};
  }
  void fill(Napi::Object result) const override {
    Napi::Env env = result.Env();
    auto told = std::make_shared<ToldBytes>(env);
    told->tell(bytesHere(*head));
    result.Set("head", external(env, std::make_unique<Handle>(Handle{head, std::move(told)}), headTag));
    set(result, "firstClass", static_cast<double>(head->settings().firstClass));
    set(result, "ownClasses", static_cast<double>(head->settings().classes));
  }
};

HeadSettings readSettings(Napi::Object request) {
  const auto text = [&](const char* name) { return request.Get(name).As<Napi::String>().Utf8Value(); };
  const auto number = [&](const char* name) { return request.Get(name).As<Napi::Number>().DoubleValue(); };
  const auto integer = [&](const char* name) { return request.Get(name).As<Napi::Number>().Int64Value(); };
  HeadSettings settings;
  settings.classes = integer("classes");
  settings.dim = integer("dim");
  if (settings.classes < 1 || settings.dim < 1 || settings.classes > INT32_MAX || settings.dim > INT32_MAX)
    throw Napi::RangeError::New(request.Env(), "Expected sizes for classes and dim");
  settings.margin = readMargin(request);
  settings.optimizer = readOptimizer(request.Get("optimizer").As<Napi::Object>());
  settings.bias = request.Get("bias").ToBoolean();
  settings.labelSmoothing = number("labelSmoothing");
  settings.device = readDevice(request);
  settings.precision = readPrecision(request);
  settings.bfloat16Weights = text("weightStorage") == "bfloat16";
  if (settings.bfloat16Weights && settings.device != cpuDevice)
    throw Napi::RangeError::New(request.Env(), "Expected the CPU for weights stored in bfloat16");
  settings.warmupSteps = integer("marginWarmupSteps");
  settings.sampleRate = number("sampleRate");
  settings.sampleCorrection = request.Get("sampleCorrection").ToBoolean();
  settings.interclassFilter = number("interclassFilter");
  settings.negligible = number("negligible");
  settings.maxGradientNorm = number("maxGradientNorm");
  settings.seed = static_cast<uint64_t>(integer("seed"));
  settings.optimizerStart = integer("optimizerStart");
  if (!(settings.sampleRate > 0 && settings.sampleRate <= 1))
    throw Napi::RangeError::New(request.Env(), "Expected a share of the classes for sampleRate");
  return settings;
}

Napi::Value create(const Napi::CallbackInfo& info) {
  return perform<CreateJob>(info, [&](CreateJob& job) {
    job.asynchronous = true;
    Napi::Object request = info[0].As<Napi::Object>();
    HeadSettings settings = readSettings(request);
    job.device = settings.device;
    const int64_t classes = settings.classes;
    const Napi::Value table = request.Get("group");
    if (!table.IsUndefined()) {
      const Collectives& group = groupOf(table);
      const Share share = shareOf(classes, group.rank, group.size);
      if (share.count == 0) throw Napi::RangeError::New(info.Env(), "Expected a class for every rank");
      settings.firstClass = share.from;
      settings.classes = share.count;
      job.head = std::make_shared<Head>(settings);
      job.head->shard(group, classes, request.Get("name").As<Napi::String>().Utf8Value());
    } else {
      job.head = std::make_shared<Head>(settings);
    }
    const Napi::Value weights = request.Get("classWeights");
    if (!weights.IsUndefined()) {
      const Span<float> span = elements<float>(weights, "classWeights", static_cast<size_t>(classes));
      job.head->weighClasses({span.data, span.data + span.length});
    }
    job.head->setIteration(request.Get("iteration").As<Napi::Number>().Int64Value());
    job.random = request.Get("random").ToBoolean();
    job.threads = request.Get("threads").As<Napi::Number>().Int32Value();
  });
}

struct ChangeJob : HeadJob {
  HeadSettings next;
  std::weak_ptr<ToldBytes> told;
  int64_t bytes = 0;
  Status work() override {
    const Status status = head->change(next);
    bytes = bytesHere(*head);
    return status;
  }
  void fill(Napi::Object) const override {
    if (const auto known = told.lock()) known->tell(head->disposed() ? 0 : bytes);
  }
};

// change(head, request): takes on the request's settings, but for sizes, device, precision and storage.
Napi::Value change(const Napi::CallbackInfo& info) {
  return perform<ChangeJob>(info, [&](ChangeJob& job) {
    job.asynchronous = true;
    job.belongTo(info[0]);
    job.told = handleOf(info[0]).told;
    job.next = readSettings(info[1].As<Napi::Object>());
  });
}

struct AdoptJob : HeadJob {
  std::shared_ptr<Head> from;
  std::vector<int32_t> kept;
  bool random = false;
  int threads = 1;
  Status work() override {
    if (Status status = head->adopt(*from, kept); !status) return status;
    return random ? head->initialize(threads, static_cast<int64_t>(kept.size())) : Status{};
  }
  void fill(Napi::Object) const override {}
};

// adopt(head, from, {kept, random, threads}): the classes `kept` of another head, and random weights for those after
// them.
Napi::Value adopt(const Napi::CallbackInfo& info) {
  return perform<AdoptJob>(info, [&](AdoptJob& job) {
    job.asynchronous = true;
    job.belongTo(info[0]);
    job.from = headOf(info[1]);
    Napi::Object request = info[2].As<Napi::Object>();
    const Span<int32_t> kept = elements<int32_t>(request.Get("kept"), "kept");
    job.kept.assign(kept.data, kept.data + kept.length);
    job.random = request.Get("random").ToBoolean();
    job.threads = request.Get("threads").As<Napi::Number>().Int32Value();
    const HeadSettings &to = job.head->settings(), &from = job.from->settings();
    const auto known = [&](int32_t j) { return j >= 0 && j < from.classes; };
    if (job.grouped || job.from->sharding() || job.head == job.from || to.device != from.device || to.dim != from.dim ||
        to.bfloat16Weights != from.bfloat16Weights || static_cast<int64_t>(job.kept.size()) > to.classes ||
        !std::all_of(job.kept.begin(), job.kept.end(), known))
      throw Napi::RangeError::New(info.Env(), "Expected classes of a head like this one");
  });
}

struct ConnectJob : HeadJob {
  std::string library;
  Status work() override { return head->connect(library); }
  void fill(Napi::Object result) const override {
    const ExchangeChoice& choice = head->sharding()->exchange();
    set(result, "exchange", choice.exchange ? "nccl" : "mpi");
    set(result, "reason", choice.reason.c_str());
  }
};

// connect(head, library): for a sharded head, before its first work.
Napi::Value connect(const Napi::CallbackInfo& info) {
  return perform<ConnectJob>(info, [&](ConnectJob& job) {
    job.asynchronous = true;
    job.belongTo(info[0]);
    if (!job.grouped) throw Napi::TypeError::New(info.Env(), "Expected a sharded head");
    job.library = info[1].As<Napi::String>().Utf8Value();
  });
}

struct StepJob : HeadJob {
  Problem problem;
  Statistics statistics;
  bool train = false;
  double learningRate = 0;
  std::string instructionSet;
  int64_t iteration = 0;
  Status work() override {
    const Status status = head->run(problem, train, learningRate);
    iteration = head->iteration();
    return status;
  }
  void fill(Napi::Object result) const override {
    fillLoss(result, problem, statistics);
    set(result, "iteration", static_cast<double>(iteration));
  }
};

Napi::Value step(const Napi::CallbackInfo& info) {
  return perform<StepJob>(info, [&](StepJob& job) {
    Napi::Object request = info[1].As<Napi::Object>();
    job.asynchronous = request.Get("asynchronous").ToBoolean();
    job.belongTo(info[0]);
    Problem& problem = job.problem;
    problem.rows = request.Get("rows").As<Napi::Number>().Int64Value();
    problem.dim = job.head->settings().dim;
    problem.classes = job.head->totalClasses();
    readBatch(request, job, problem);
    problem.statistics = &job.statistics;
    problem.execution = readExecution(request, job, job.instructionSet);
    job.train = request.Get("train").ToBoolean();
    job.learningRate = request.Get("learningRate").As<Napi::Number>().DoubleValue();
  });
}

struct HeadTopKJob : HeadJob {
  TopKProblem problem;
  std::string instructionSet;
  Status work() override { return head->topK(problem); }
  void fill(Napi::Object) const override {}
};

Napi::Value topK(const Napi::CallbackInfo& info) {
  return perform<HeadTopKJob>(info, [&](HeadTopKJob& job) {
    Napi::Object request = info[1].As<Napi::Object>();
    job.asynchronous = request.Get("asynchronous").ToBoolean();
    job.belongTo(info[0]);
    readTopK(request, job, job.problem, job.instructionSet);
    const HeadSettings& settings = job.head->settings();
    if (job.problem.dim != settings.dim || job.problem.classes != job.head->totalClasses())
      throw Napi::RangeError::New(info.Env(), "Expected the head's sizes");
  });
}

struct DeclineJob : HeadJob {
  std::string reason;
  bool topK = false;
  Status work() override { return head->decline(reason, topK); }
  void fill(Napi::Object) const override {}
};

// decline(head, reason, topK): in place of topK or step, where lib/ has refused the arguments of a sharded head's call.
Napi::Value decline(const Napi::CallbackInfo& info) {
  return perform<DeclineJob>(info, [&](DeclineJob& job) {
    job.asynchronous = true;
    job.belongTo(info[0]);
    if (!job.grouped) throw Napi::TypeError::New(info.Env(), "Expected a sharded head");
    job.reason = info[1].As<Napi::String>().Utf8Value();
    job.topK = info[2].ToBoolean();
  });
}

// copy(head, name, offset, array): part of a resident array to (read) or from (write) a Float32Array. Returns its
// length {length}, 0 where the head has no such array, or how the copy failed.
Napi::Value copy(const Napi::CallbackInfo& info, bool read) {
  Napi::Env env = info.Env();
  Head& head = *headOf(info[0]);
  const Head::Use use(head);
  const std::string name = info[1].As<Napi::String>().Utf8Value();
  const int64_t length = head.length(name.c_str());
  Napi::Object result = Napi::Object::New(env);
  set(result, "length", static_cast<double>(length));
  if (length == 0 || info[3].IsUndefined()) return result;
  const int64_t offset = info[2].As<Napi::Number>().Int64Value();
  const Span<float> part = elements<float>(info[3], "part");
  const int64_t count = static_cast<int64_t>(part.length);
  if (offset < 0 || count > length || offset > length - count)
    throw Napi::RangeError::New(env, "Expected a part of the array");
  if (count == 0) return result;
  const Status status =
      read ? head.read(name.c_str(), offset, part.data, count) : head.write(name.c_str(), offset, part.data, count);
  return status ? result : failureOf(env, status);
}

Napi::Value readPart(const Napi::CallbackInfo& info) { return copy(info, true); }
Napi::Value writePart(const Napi::CallbackInfo& info) { return copy(info, false); }

Napi::Value dispose(const Napi::CallbackInfo& info) {
  const Handle& handle = handleOf(info[0]);
  handle.head->dispose();
  handle.told->tell(0);
  return info.Env().Undefined();
}

Napi::Value disposed(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), headOf(info[0])->disposed());
}

Napi::Value iteration(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(headOf(info[0])->iteration()));
}

// What the garbage collector knows of memory outside its heap, heads and all else.
Napi::Value externalMemory(const Napi::CallbackInfo& info) {
  int64_t bytes = 0;
  napi_adjust_external_memory(info.Env(), 0, &bytes);
  return Napi::Number::New(info.Env(), static_cast<double>(bytes));
}

}  // namespace

void exportHead(Napi::Object exports) {
  addFunction<create>(exports, "headCreate");
  addFunction<connect>(exports, "headConnect");
  addFunction<change>(exports, "headChange");
  addFunction<adopt>(exports, "headAdopt");
  addFunction<step>(exports, "headStep");
  addFunction<topK>(exports, "headTopK");
  addFunction<decline>(exports, "headDecline");
  addFunction<readPart>(exports, "headRead");
  addFunction<writePart>(exports, "headWrite");
  addFunction<dispose>(exports, "headDispose");
  addFunction<disposed>(exports, "headDisposed");
  addFunction<iteration>(exports, "headIteration");
  addFunction<externalMemory>(exports, "externalMemory");
}

}  // namespace margin_softmax::binding
