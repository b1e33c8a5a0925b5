// The addon's entry, functions that describe it, and readers of what most requests have: see
// binding.h.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "../core/executor.h"
#include "../core/pool.h"
#include "../cpu/kernels/bfloat16_choice.h"
#include "../cpu/kernels/kernels.h"
#include "request.h"

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
    set(entry, "name", M::name);
    entry.Set("normalized", M::normalized);
    entry.Set("parameters", parameters);
    list.Set(position, entry);
  });
  return list;
}

template <cpu::KernelList (*tables)()>
Napi::Value namesOf(const Napi::CallbackInfo& info) {
  Napi::Array names = Napi::Array::New(info.Env());
  const cpu::KernelList list = tables();
  for (int i = 0; i < list.count; i++) names.Set(i, list.tables[i]->name);
  return names;
}

Napi::Value bfloat16(const Napi::CallbackInfo& info) {
  const cpu::Bfloat16Choice choice = cpu::expectBfloat16();
  Napi::Object result = Napi::Object::New(info.Env());
  set(result, "instructionSet", choice.kernels->name);
  result.Set("fast", choice.fast);
  result.Set("timesFloat32", choice.timesFloat32);
  return result;
}

Napi::Value cudaDevices(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  const int opened = info[0].IsUndefined() ? allDevices : info[0].As<Napi::Number>().Int32Value();
  const std::vector<DeviceState> states = margin_softmax::cudaDevices(opened);
  Napi::Array list = Napi::Array::New(env);
  for (size_t i = 0; i < states.size(); i++) {
    const DeviceState& state = states[i];
    Napi::Object entry = Napi::Object::New(env);
    set(entry, "index", state.index);
    set(entry, "name", state.name.c_str());
    entry.Set("usable", state.usable);
    set(entry, "reason", state.reason.c_str());
    set(entry, "computeCapability", state.computeCapability);
    set(entry, "memoryBytes", static_cast<double>(state.memoryBytes));
    set(entry, "freeBytes", static_cast<double>(state.freeBytes));
    set(entry, "driverVersion", state.driverVersion);
    entry.Set("tensorCores", state.has(Precision::bfloat16));
    list.Set(static_cast<uint32_t>(i), entry);
  }
  return list;
}

Napi::Value nccl(const Napi::CallbackInfo& info) {
  const NcclState state = ncclState(info[0].As<Napi::String>().Utf8Value());
  Napi::Object result = Napi::Object::New(info.Env());
  set(result, "version", state.version ? ncclVersionName(state.version).c_str() : "");
  set(result, "reason", state.reason.c_str());
  return result;
}

// Runs the fused multiply-adds that machinePeak times, and returns how many operations that were.
Napi::Value multiplyAdds(const Napi::CallbackInfo& info) {
  const int threads = info[0].As<Napi::Number>().Int32Value();
  const int64_t rounds = static_cast<int64_t>(info[1].As<Napi::Number>().Int64Value());
  const cpu::Kernels* kernels = cpu::findKernels(nullptr);
  {
    const cpu::PoolLock lock;
    cpu::Pool::instance().forEach(threads, threads, [&](int64_t, int) { kernels->multiplyAdds(rounds); });
  }
  return Napi::Number::New(info.Env(), 2.0 * 12 * (kernels->vectorBytes / 4) * static_cast<double>(rounds) * threads);
}

// preferHugePages(array), for an array that is going to be filled: see block.h.
Napi::Value preferHugePages(const Napi::CallbackInfo& info) {
  const Span<float> array = elements<float>(info[0], "array");
  margin_softmax::preferHugePages(array.data, static_cast<int64_t>(array.length * sizeof(float)));
  return info.Env().Undefined();
}

}  // namespace

int readDevice(const Request& request) {
  const int device = static_cast<int>(request.integer("device", cpuDevice, INT32_MAX));
  if (!executorOf(device)) request.refuse("Expected a device");
  return device;
}

Precision readPrecision(const Request& request) {
  return static_cast<Precision>(request.integer("precision", 0, static_cast<int>(Precision::bfloat16)));
}

namespace {

// On the pool's threads, unless another job has them: the JavaScript thread does not wait for its end.
// Most of the time goes into the new memory's pages, which threads take at the same time.
void copyOnPool(const Job::Copy& copy, int threads) {
  constexpr size_t part = size_t{2} << 20;  // a huge page
  const std::atomic<bool> givesUp{true};
  const cpu::PoolLock lock(&givesUp);
  const auto copyPart = [&](int64_t item, int) {
    const size_t at = static_cast<size_t>(item) * part;
    std::memcpy(static_cast<char*>(copy.to) + at, static_cast<const char*>(copy.from) + at,
                std::min(part, copy.bytes - at));
  };
  cpu::Pool::instance().forEach(lock ? threads : 1, static_cast<int64_t>((copy.bytes + part - 1) / part), copyPart);
}

}  // namespace

int readThreads(const Request& request) {
  const int threads = static_cast<int>(request.integer("threads", 1, cpu::Pool::maxThreads));
  request.job().copier = copyOnPool;
  request.job().copyThreads = threads;
  return threads;
}

Reduction readReduction(const Request& request) {
  return static_cast<Reduction>(request.integer("reduction", 0, static_cast<int>(Reduction::none)));
}

Margin readMargin(const Request& request) {
  Margin margin;
  margin.kind = static_cast<int>(request.integer("marginKind", 0, MarginList::count - 1));
  const std::vector<double> parameters = request.copy<double>("marginParameters");
  if (parameters.size() > maxMarginParameters) request.refuse("Expected the parameters of a margin");
  std::copy(parameters.begin(), parameters.end(), margin.parameters);
  return margin;
}

Execution readExecution(const Request& request, std::string& instructionSet) {
  Job& job = request.job();
  Execution execution;
  execution.device = job.device = readDevice(request);
  execution.precision = readPrecision(request);
  execution.threads = readThreads(request);
  execution.workspaceBytes = request.integer("workspace");
  if (request.has("instructionSet")) {
    instructionSet = request.text("instructionSet");
    execution.instructionSet = instructionSet.c_str();
  }
  execution.cancelled = &job.cancelled;
  return execution;
}

static void addAll(Napi::Object exports) {
  addFunction<look>(exports, "look");
  addFunction<cancel>(exports, "cancel");
  addFunction<margins>(exports, "margins");
  addFunction<namesOf<cpu::availableKernels>>(exports, "instructionSets");
  addFunction<namesOf<cpu::testKernels>>(exports, "emulatedInstructionSets");
  addFunction<bfloat16>(exports, "bfloat16");
  addFunction<cudaDevices>(exports, "cudaDevices");
  addFunction<nccl>(exports, "nccl");
  addFunction<multiplyAdds>(exports, "multiplyAdds");
  addFunction<preferHugePages>(exports, "preferHugePages");
  exportLoss(exports);
  exportHead(exports);
  exportProbability(exports);
  exportVerification(exports);
}

static Napi::Object initialize(Napi::Env env, Napi::Object exports) { return load(env, exports, addAll); }

NODE_API_MODULE(margin_softmax, initialize)

}  // namespace margin_softmax::binding
