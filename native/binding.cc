// The addon's entry, what it tells of itself, and what most requests hold: see binding.h.
#include "binding.h"

#include "cpu/kernels.h"
#include "cpu/pool.h"
#include "executor.h"

namespace margin_softmax::binding {
namespace {

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

Napi::Value nccl(const Napi::CallbackInfo& info) {
  const NcclState state = ncclState(info[0].As<Napi::String>().Utf8Value());
  Napi::Object result = Napi::Object::New(info.Env());
  result["version"] = state.version ? ncclVersionName(state.version) : "";
  result["reason"] = state.reason;
  return result;
}

// Runs the fused multiply-adds that machinePeak times, and returns how many operations that were.
Napi::Value multiplyAdds(const Napi::CallbackInfo& info) {
  const int threads = info[0].As<Napi::Number>().Int32Value();
  const int64_t rounds = static_cast<int64_t>(info[1].As<Napi::Number>().Int64Value());
  const cpu::Kernels* kernels = cpu::findKernels(nullptr);
  {
    const cpu::Turn turn;
    cpu::Pool::instance().forEach(threads, threads, [&](int64_t, int) { kernels->multiplyAdds(rounds); });
  }
  return Napi::Number::New(info.Env(), 2.0 * 12 * (kernels->vectorBytes / 4) * static_cast<double>(rounds) * threads);
}

// An array that is going to be filled: see block.h.
void preferHugePages(const Napi::CallbackInfo& info) {
  const Span<float> array = elements<float>(info[0], "array");
  margin_softmax::preferHugePages(array.data, static_cast<int64_t>(array.length * sizeof(float)));
}

}  // namespace

const int32_t* Job::labels(Napi::Value value, int64_t rows, int64_t classes) {
  const Span<int32_t> given = elements<int32_t>(value, "labels", static_cast<size_t>(rows));
  labels_.assign(given.data, given.data + given.length);
  for (const int32_t label : labels_)
    if (label < -1 || label >= classes) throw Napi::RangeError::New(value.Env(), "Expected labels below classes");
  return labels_.data();
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
  openEnvironment(env);
  exports["margins"] = Napi::Function::New(env, margins);
  exports["instructionSets"] = Napi::Function::New(env, instructionSets);
  exports["cudaDevices"] = Napi::Function::New(env, cudaDevices);
  exports["nccl"] = Napi::Function::New(env, nccl);
  exports["multiplyAdds"] = Napi::Function::New(env, multiplyAdds);
  exports["preferHugePages"] = Napi::Function::New(env, preferHugePages);
  exportLoss(env, exports);
  exportHead(env, exports);
  exportProbability(env, exports);
  exportVerification(env, exports);
  return exports;
}

NODE_API_MODULE(margin_softmax, initialize)

}  // namespace margin_softmax::binding
