// The binding of the process group, in an addon of its own, which alone needs MPI.
// lib/distributed.ts has explained mistakes before a call arrives here.
#include <algorithm>
#include <cstring>

#include "../../mpi/group.h"
#include "../request.h"

namespace margin_softmax::binding {
namespace {

using distributed::Group;

constexpr napi_type_tag valuesTag = {0x6d617267696e2d73ull, 0x76616c7565730001ull};

// A job on the group's thread, in the order of the calls.
struct GroupJob : Job {
  GroupJob() { asynchronous = grouped = true; }
  bool post() override { return Group::instance().post(*this); }
  bool withdraw() override { return false; }
  Status refuse(const Status& reason) override { return Group::instance().refuse("", reason); }
};

struct OpenJob : GroupJob {
  int launched = 1;
  Status work() override { return Group::instance().open(launched); }
  void fill(Napi::Object result) const override {
    Napi::Env env = result.Env();
    Group& group = Group::instance();
    set(result, "rank", group.rank());
    set(result, "size", group.size());
    set(result, "library", group.library().c_str());
    auto table = Napi::External<Collectives>::New(env, group.table());
    const napi_type_tag tag = {collectivesTag[0], collectivesTag[1]};
    table.TypeTag(&tag);
    result.Set("table", table);
  }
};

struct CollectiveJob : GroupJob {
  std::string operation;
  Element element = Element::uint8;
  ReduceOp reduceOp = ReduceOp::sum;
  int root = 0;
  int64_t count = 0;
  std::vector<int64_t> counts;
  void* values = nullptr;  // [count]: the caller's if it is shared, else a copy
  Block copy;
  Napi::ObjectReference shared;
  std::shared_ptr<Block> result = std::make_shared<Block>();
  int64_t length = -1;  // elements of the result; −1 if the caller's array has it

  Status work() override {
    Group& group = Group::instance();
    if (operation == "barrier") return group.barrier();
    if (operation == "allReduce") return inPlace(group.allReduce("", values, count, element, reduceOp));
    if (operation == "broadcast") return inPlace(group.broadcast("", values, count, root, element));
    if (operation == "allGather")
      return group.allGather("", values, count, element, [this](const std::vector<int64_t>& each) {
        int64_t total = 0;
        for (const int64_t one : each) total += one;
        return take(total);
      });
    if (counts.empty())
      for (int rank = 0; rank < group.size(); rank++) counts.push_back(shareOf(count, rank, group.size()).count);
    if (!take(counts[static_cast<size_t>(group.rank())]))
      return group.refuse("", Status::outOfMemory("a collective operation", length * bytesOf(element)));
    return group.reduceScatter("", values, counts, result->as<void>(), element, reduceOp);
  }

  void* take(int64_t elements) {
    length = elements;
    *result = Block::uninitialized(length * bytesOf(element));
    return result->as<void>();
  }

  Status inPlace(Status status) {
    if (!shared.IsEmpty()) return status;
    *result = std::move(copy);
    length = count;
    return status;
  }

  // JavaScript makes an array of this length, unless it has one, and calls take(values, array).
  void fill(Napi::Object filled) const override {
    if (length < 0) return;
    filled.Set("values", external(filled.Env(), std::make_unique<Block>(std::move(*result)), valuesTag));
    set(filled, "length", static_cast<double>(length));
  }
};

Napi::Value open(const Napi::CallbackInfo& info) {
  return perform<OpenJob>(info, [&](OpenJob& job) { job.launched = info[0].As<Napi::Number>().Int32Value(); });
}

// Copies the array's elements. A shared array is used in place, since it can not be detached.
void readArray(CollectiveJob& job, Napi::Value value, bool wanted) {
  Napi::Env env = value.Env();
  napi_typedarray_type type;
  size_t length = 0, offset = 0;
  void* data = nullptr;
  napi_value buffer;
  if (!value.IsTypedArray() || napi_get_typedarray_info(env, value, &type, &length, &data, &buffer, &offset) != napi_ok)
    throw Napi::TypeError::New(env, "Expected a typed array");
  job.element = static_cast<Element>(type);
  job.count = static_cast<int64_t>(length);
  const size_t bytes = length * static_cast<size_t>(bytesOf(job.element));
  if (!Napi::Value(env, buffer).IsArrayBuffer()) {
    job.shared = Napi::Persistent(value.As<Napi::Object>());
    job.values = data;
    return;
  }
  job.copy = Block::uninitialized(static_cast<int64_t>(bytes));
  job.values = job.copy.as<void>();
  if (!job.values) job.prepared = Status::outOfMemory("a copy of an array", static_cast<int64_t>(bytes));
  else if (wanted && bytes) std::memcpy(job.values, data, bytes);
}

Napi::Value collective(const Napi::CallbackInfo& info) {
  const Group& group = Group::instance();
  return perform<CollectiveJob>(info, [&](CollectiveJob& job) {
    const Request request(info[0], job);
    job.operation = request.text("operation");
    if (job.operation == "barrier") return;
    job.root = static_cast<int>(request.integer("root", 0, group.size() - 1));
    const int last = static_cast<int>(ReduceOp::count) - 1;
    job.reduceOp = static_cast<ReduceOp>(request.integer("combination", 0, last));
    readArray(job, request.get("array"), job.operation != "broadcast" || job.root == group.rank());
    const std::vector<double> counts = request.copy<double>("counts");
    int64_t total = 0;
    for (const double count : counts) {
      if (!(count >= 0 && count <= static_cast<double>(job.count))) request.refuse("Expected counts");
      job.counts.push_back(static_cast<int64_t>(count));
      total += job.counts.back();
    }
    if (!counts.empty() && (counts.size() != static_cast<size_t>(group.size()) || total != job.count))
      request.refuse("Expected counts of the array");
  });
}

// take(values, array): moves a result to an array of its length, and frees it.
Napi::Value take(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  if (!info[0].IsExternal() || !info[0].As<Napi::External<Block>>().CheckTypeTag(&valuesTag))
    throw Napi::TypeError::New(env, "Expected the values of a collective");
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_typedarray_info(env, info[1], &type, &length, &data, nullptr, nullptr) != napi_ok)
    throw Napi::TypeError::New(env, "Expected a typed array");
  const Block values = std::move(*info[0].As<Napi::External<Block>>().Data());
  const int64_t bytes = static_cast<int64_t>(length) * bytesOf(static_cast<Element>(type));
  if (bytes > values.bytes()) throw Napi::RangeError::New(env, "Expected as many elements as there are values");
  if (bytes) std::memcpy(data, values.as<void>(), static_cast<size_t>(bytes));
  return env.Undefined();
}

// Converts a number that may be infinite.
std::chrono::milliseconds milliseconds(Napi::Value value) {
  const double longest = static_cast<double>(distributed::Transport::longest.count());
  return std::chrono::milliseconds(
      static_cast<int64_t>(std::clamp(value.As<Napi::Number>().DoubleValue(), 0.0, longest)));
}

Napi::Value leave(const Napi::CallbackInfo& info) {
  Group::instance().leave(info[0].As<Napi::Number>().Int32Value(), info[1].As<Napi::Number>().Int32Value());
  return info.Env().Undefined();
}

// left(milliseconds): the outcome of leave(), or undefined if it has not ended yet.
Napi::Value left(const Napi::CallbackInfo& info) {
  Status status;
  if (!Group::instance().left(milliseconds(info[0]), status)) return info.Env().Undefined();
  return status ? Napi::Object::New(info.Env()) : failureOf(info.Env(), status);
}

Napi::Value setPatience(const Napi::CallbackInfo& info) {
  Group::instance().setPatience(milliseconds(info[0]));
  return info.Env().Undefined();
}

// Returns what the group waits for, or undefined.
Napi::Value waiting(const Napi::CallbackInfo& info) {
  const Group::Waiting wait = Group::instance().waiting();
  if (wait.names.empty()) return info.Env().Undefined();
  Napi::Object result = Napi::Object::New(info.Env());
  set(result, "milliseconds", static_cast<double>(wait.time.count()));
  set(result, "ranks", wait.names.c_str());
  set(result, "place", wait.place.c_str());
  set(result, "call", static_cast<double>(wait.call));
  return result;
}

Napi::Value bytesSent(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(Group::instance().bytesSent()));
}

}  // namespace

static void addAll(Napi::Object exports) {
  addFunction<open>(exports, "open");
  addFunction<collective>(exports, "collective");
  addFunction<take>(exports, "take");
  addFunction<leave>(exports, "leave");
  addFunction<left>(exports, "left");
  addFunction<setPatience>(exports, "setPatience");
  addFunction<waiting>(exports, "waiting");
  addFunction<bytesSent>(exports, "bytesSent");
}

static Napi::Object initialize(Napi::Env env, Napi::Object exports) { return load(env, exports, addAll); }

NODE_API_MODULE(margin_softmax_mpi, initialize)

}  // namespace margin_softmax::binding
