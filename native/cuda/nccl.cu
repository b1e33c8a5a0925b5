#include "nccl.h"

#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#if defined(__linux__)
#include <dlfcn.h>
#endif

namespace margin_softmax::cuda {
namespace {

// The time that an abandoned communicator may take to end before its device counts as lost.
constexpr Communicator::Duration farewellTime(2000);

Nccl find(const std::string& file) {
  Nccl nccl;
  if (file.empty()) {
    nccl.reason = "is not to use NCCL: MARGIN_SOFTMAX_NCCL is off";
    return nccl;
  }
#if defined(__linux__)
  void* const library = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) {
    const char* text = dlerror();
    nccl.reason = "found no NCCL: " + std::string(text ? text : file);
    return nccl;
  }
  const auto take = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::decay_t<decltype(function)>>(dlsym(library, name));
    if (!function && nccl.reason.empty())
      nccl.reason = "found no NCCL that could be used: " + file + " has no " + std::string(name);
  };
  nccl::Result (*getVersion)(int*) = nullptr;
  take(getVersion, "ncclGetVersion");
  if (getVersion && getVersion(&nccl.version) == nccl::success && nccl.version < nccl::oldestVersion)
    nccl.reason = "has too old an NCCL: it is " + ncclVersionName(nccl.version) + ", 2.14 is needed";
  if (!nccl.reason.empty()) return nccl;
  take(nccl.getUniqueId, "ncclGetUniqueId");
  take(nccl.commInitRankConfig, "ncclCommInitRankConfig");
  take(nccl.send, "ncclSend");
  take(nccl.recv, "ncclRecv");
  take(nccl.groupStart, "ncclGroupStart");
  take(nccl.groupEnd, "ncclGroupEnd");
  take(nccl.commGetAsyncError, "ncclCommGetAsyncError");
  take(nccl.commAbandon, "ncclCommAbort");
  take(nccl.getErrorString, "ncclGetErrorString");
  take(nccl.getLastError, "ncclGetLastError");
#else
  nccl.reason = "found no NCCL: it is for Linux";
#endif
  return nccl;
}

// Gives way to others, the more the longer a wait takes.
void pause(int round) {
  if (round < 500) std::this_thread::yield();
  else std::this_thread::sleep_for(std::chrono::microseconds(std::min(20 + (round - 500) / 8, 250)));
}

bool underWay(nccl::Result result) { return result == nccl::success || result == nccl::inProgress; }

}  // namespace

const Nccl& openNccl(const std::string& file) {
  static std::mutex mutex;
  static auto* const opened = new std::map<std::string, Nccl>;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto known = opened->find(file);
  return known != opened->end() ? known->second : opened->emplace(file, find(file)).first->second;
}

Status Communicator::failure(const char* what, nccl::Result result) {
  std::string text = nccl_.getErrorString(result);
  if (const char* more = nccl_.getLastError(comm_); more && *more) text += ": " + std::string(more);
  return giveUp({Failure::distributed, "Expected NCCL " + ncclVersionName(nccl_.version) + " to " + what +
                                           " but it reported " + text + " (" + std::to_string(result) + ")"});
}

Status Communicator::giveUp(Status reason) {
  outcome_ = std::move(reason);
  if (!comm_) return outcome_;
  // It ends what hangs on the device, and may hang in doing so.
  auto done = std::make_shared<std::atomic<bool>>(false);
  const auto end = [done, abandon = nccl_.commAbandon, comm = comm_] {
    abandon(comm);
    *done = true;
  };
  comm_ = nullptr;
  const auto deadline = std::chrono::steady_clock::now() + farewellTime;
  try {
    std::thread(end).detach();
    for (int round = 0; !*done && std::chrono::steady_clock::now() < deadline; round++) pause(round);
  } catch (...) {  // no thread: it stays as it is
  }
  if (!*done) device_.lose({Failure::device, outcome_.message + "; what it had begun on the GPU does not end"});
  return outcome_;
}

// The communicator's state as the library reports it, or the error of asking.
nccl::Result Communicator::state() const {
  nccl::Result state = nccl::success;
  const nccl::Result asked = nccl_.commGetAsyncError(comm_, &state);
  return asked == nccl::success ? state : asked;
}

// Until NCCL is ready and, with `work`, the stream has done what it was given.
Status Communicator::wait(const char* what, bool work, Duration patience) {
  const auto deadline = std::chrono::steady_clock::now() + patience;
  for (int round = 0;; round++) {
    // Before the stream is asked all must lie on it; and an error may come up until it is done.
    const nccl::Result before = state();
    const cudaError_t error = work && before == nccl::success ? cudaStreamQuery(stream_) : cudaSuccess;
    const nccl::Result after = state();
    if (!underWay(before) || !underWay(after)) return failure(what, underWay(after) ? before : after);
    if (before == nccl::success) {
      if (error == cudaSuccess) return {};
      cudaGetLastError();  // also "not ready" is kept there, and the next launch would take it for its own failure
      if (error != cudaErrorNotReady)
        return giveUp({Failure::distributed,
                       "Expected NCCL to " + std::string(what) + " but the GPU reported " + cudaGetErrorString(error)});
    }
    if (std::chrono::steady_clock::now() >= deadline)
      return giveUp(
          {Failure::distributed, "Expected NCCL " + ncclVersionName(nccl_.version) + " to " + what + " within " +
                                     std::to_string(patience.count() / 1000) +
                                     " s but it does not end: a rank, its GPU or what connects them has stopped"});
    pause(round);
  }
}

Status Communicator::open(int rank, int size, const ConnectionId& id, Duration patience) {
  constexpr const char* what = "connect the ranks' GPUs";
  rank_ = rank;
  size_ = size;
  if (const cudaError_t error = cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking); error != cudaSuccess)
    return giveUp(
        {Failure::device, "Expected a stream but the GPU reported " + std::string(cudaGetErrorString(error))});
  nccl::Config config;
  const nccl::Result result = nccl_.commInitRankConfig(&comm_, size, id, rank, &config);
  if (!underWay(result)) return failure(what, result);
  return wait(what, false, patience);
}

Status Communicator::exchange(const std::vector<DevicePiece>& send, const std::vector<DevicePiece>& receive,
                              Duration patience) {
  constexpr const char* what = "exchange the ranks' rows";
  if (!outcome_) return outcome_;
  nccl::Result result = nccl_.groupStart();
  if (!underWay(result)) return failure(what, result);
  // Each rank begins with its next one: nobody is sent to by all at once.
  for (int distance = 1; distance < size_; distance++) {
    const int to = (rank_ + distance) % size_, from = (rank_ + size_ - distance) % size_;
    const DevicePiece &out = send[static_cast<size_t>(to)], &in = receive[static_cast<size_t>(from)];
    if (out.bytes && underWay(result))
      result = nccl_.send(out.data, static_cast<size_t>(out.bytes), nccl::bytes, to, comm_, stream_);
    if (in.bytes && underWay(result))
      result = nccl_.recv(in.data, static_cast<size_t>(in.bytes), nccl::bytes, from, comm_, stream_);
  }
  const nccl::Result ended = nccl_.groupEnd();  // also after a failure, or the library would wait for it
  if (!underWay(result)) return failure(what, result);
  if (!underWay(ended)) return failure(what, ended);
  return wait(what, true, patience);
}

}  // namespace margin_softmax::cuda
