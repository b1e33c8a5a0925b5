// MarginHead's native half: an opaque handle, and functions on it.
#include <algorithm>
#include <cstring>

#include "binding_head.h"

namespace margin_softmax::binding {
namespace {

// The bytes of a head that the garbage collector has been told of: those of this process, and not
// of a GPU.
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

// JavaScript's hold on a head.
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

// Counts the bytes of a head that nobody else uses. Those of one that was disposed of go at the latest
// with the work that runs.
int64_t bytesHere(Head& head) {
  if (head.disposed() || head.settings().device != cpuDevice) return 0;
  const Head::Use use(head);
  return head.bytes();
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

// Work of a head. That of a sharded one runs on its group's thread, in the order of the group's
// other work.
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

Napi::Value create(const Napi::CallbackInfo& info) {
  return perform<CreateJob>(info, [&](CreateJob& job) {
    job.asynchronous = true;
    const Request request(info[0], job);
    HeadSettings settings = readHeadSettings(request);
    job.device = settings.device;
    const int64_t classes = settings.classes;
    if (request.has("group")) {
      const Collectives& group = groupOf(request.get("group"));
      const Share share = shareOf(classes, group.rank, group.size);
      if (share.count == 0) request.refuse("Expected a class for every rank");
      settings.firstClass = share.from;
      settings.classes = share.count;
      job.head = std::make_shared<Head>(settings);
      job.head->shard(group, classes, request.text("name"));
    } else {
      job.head = std::make_shared<Head>(settings);
    }
    if (request.has("classWeights")) {
      std::vector<float> weights = request.copy<float>("classWeights");
      if (static_cast<int64_t>(weights.size()) != classes) request.refuse("Expected a weight for every class");
      job.head->weighClasses(std::move(weights));
    }
    job.head->setIteration(request.integer("iteration"));
    job.random = request.flag("random");
    job.threads = readThreads(request);
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
    if (const auto teller = told.lock()) teller->tell(head->disposed() ? 0 : bytes);
  }
};

// change(head, request): takes on the request's settings, but for sizes, device, precision and
// storage.
Napi::Value change(const Napi::CallbackInfo& info) {
  return perform<ChangeJob>(info, [&](ChangeJob& job) {
    job.asynchronous = true;
    job.belongTo(info[0]);
    job.told = handleOf(info[0]).told;
    job.next = readHeadSettings({info[1], job});
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

// adopt(head, from, {kept, random, threads}): the classes `kept` of another head, and random
// weights for those after them.
Napi::Value adopt(const Napi::CallbackInfo& info) {
  return perform<AdoptJob>(info, [&](AdoptJob& job) {
    job.asynchronous = true;
    job.belongTo(info[0]);
    job.from = headOf(info[1]);
    const Request request(info[2], job);
    job.kept = request.copy<int32_t>("kept");
    job.random = request.flag("random");
    job.threads = readThreads(request);
    const HeadSettings &to = job.head->settings(), &from = job.from->settings();
    const auto exists = [&](int32_t j) { return j >= 0 && j < from.classes; };
    if (job.grouped || job.from->sharding() || job.head == job.from || to.device != from.device || to.dim != from.dim ||
        !(to.projection == from.projection) || to.bfloat16Weights != from.bfloat16Weights ||
        static_cast<int64_t>(job.kept.size()) > to.classes || !std::all_of(job.kept.begin(), job.kept.end(), exists))
      request.refuse("Expected classes of a head like this one");
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
    const Request request(info[1], job);
    job.asynchronous = request.flag("asynchronous");
    job.belongTo(info[0]);
    Problem& problem = job.problem;
    problem.rows = request.integer("rows", 1, largestSize);
    problem.dim = job.head->inputDim();
    problem.classes = job.head->totalClasses();
    readBatch(request, problem);
    problem.statistics = &job.statistics;
    problem.execution = readExecution(request, job.instructionSet);
    job.train = request.flag("train");
    job.learningRate = request.number("learningRate");
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
    const Request request(info[1], job);
    job.asynchronous = request.flag("asynchronous");
    job.ticket = request.number("ticket");
    job.belongTo(info[0]);
    readTopK(request, job.problem, job.instructionSet);
    if (job.problem.dim != job.head->inputDim() || job.problem.classes != job.head->totalClasses())
      request.refuse("Expected the head's sizes");
  });
}

struct EmbedJob : HeadJob {
  const float* features = nullptr;
  float* embeddings = nullptr;
  int64_t rows = 0;
  Execution execution;
  std::string instructionSet;
  Status work() override { return head->embed(features, rows, embeddings, execution); }
  void fill(Napi::Object) const override {}
};

// embed(head, request): the embeddings of features, of a head with a projection.
Napi::Value embed(const Napi::CallbackInfo& info) {
  return perform<EmbedJob>(info, [&](EmbedJob& job) {
    const Request request(info[1], job);
    job.asynchronous = request.flag("asynchronous");
    job.ticket = request.number("ticket");
    job.belongTo(info[0]);
    const HeadSettings& settings = job.head->settings();
    if (!settings.projection.from) request.refuse("Expected a head with a projection");
    job.rows = request.integer("rows", 1, largestSize);
    job.features = request.input<float>("input", static_cast<size_t>(job.rows * settings.projection.from));
    job.embeddings = request.output<float>("embeddings", static_cast<size_t>(job.rows * settings.dim));
    job.execution = readExecution(request, job.instructionSet);
  });
}

struct DeclineJob : HeadJob {
  std::string reason;
  bool topK = false;
  Status work() override { return head->decline(reason, topK); }
  void fill(Napi::Object) const override {}
};

// decline(head, reason, topK): in place of topK or step, where lib/ has refused the arguments of a
// sharded head's call.
Napi::Value decline(const Napi::CallbackInfo& info) {
  return perform<DeclineJob>(info, [&](DeclineJob& job) {
    job.asynchronous = true;
    job.belongTo(info[0]);
    if (!job.grouped) throw Napi::TypeError::New(info.Env(), "Expected a sharded head");
    job.reason = info[1].As<Napi::String>().Utf8Value();
    job.topK = info[2].ToBoolean();
  });
}

// copy(head, name, offset, array): part of a resident array to (read) or from (write) a
// Float32Array. Returns its length {length}, 0 where the head has no such array, or how the copy
// failed.
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

// Returns the bytes outside its heap that the garbage collector was told of, by heads and all else.
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
  addFunction<embed>(exports, "headEmbed");
  addFunction<decline>(exports, "headDecline");
  addFunction<readPart>(exports, "headRead");
  addFunction<writePart>(exports, "headWrite");
  addFunction<dispose>(exports, "headDispose");
  addFunction<disposed>(exports, "headDisposed");
  addFunction<iteration>(exports, "headIteration");
  addFunction<externalMemory>(exports, "externalMemory");
}

}  // namespace margin_softmax::binding
