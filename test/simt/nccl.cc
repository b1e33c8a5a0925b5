// A stand-in for libnccl.so.2 where GPUs are the shim: what native/cuda/nccl.h calls, between processes of one machine,
// over sockets named by the unique id. Its own declarations, from NCCL's documentation, so that a misreading there
// would be noticed here; strict about what a caller must do: configuration, groups, one state at a time. Work is
// asynchronous as on a GPU: a group first is in progress, then lies on its stream, then is done.
//
//   NCCL_DOUBLE_VERSION=21300     the version that it says it is (default 22703)
//   NCCL_DOUBLE_FAIL=what:3       what goes wrong with the third group from now (with `init`: of the initialisations):
//       init, call   ncclCommInitRankConfig or ncclGroupEnd returns an error
//       async        an error is reported some time after the call
//       stall        nothing of the group is sent or ends
//       wrong        a byte arrives wrong
//       cut          the connections to the others break
//       die          the process is killed in the middle of it
#include <poll.h>
#include <signal.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "runtime.h"

namespace {

enum Result {
  success,
  unhandledCudaError,
  systemError,
  internalError,
  invalidArgument,
  invalidUsage,
  remoteError,
  inProgress
};

struct UniqueId {
  char internal[128];
};

struct Config {
  size_t size;
  unsigned magic, version;
  int blocking;
};

struct Transfer {
  char* data;
  uint64_t bytes;
  int peer;
  bool outgoing;
};

std::string planned(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

// Whether NCCL_DOUBLE_FAIL makes this one of `occasion` go wrong, and how. Counted anew when the value changes.
std::string fault(bool initialisation) {
  static std::string last;
  static int count = 0;
  const std::string plan = planned("NCCL_DOUBLE_FAIL");
  if (plan != last) count = 0;
  last = plan;
  const std::string what = plan.substr(0, plan.find(':'));
  if (what.empty() || initialisation != (what == "init")) return "";
  return ++count == std::atoi(plan.c_str() + what.size() + 1) ? what : "";
}

}  // namespace

struct ncclComm {
  int rank, size;
  std::string id;
  std::vector<int> peers;  // [size] connected sockets
  std::vector<Transfer> group;
  cudaStream_t stream = nullptr;
  std::atomic<Result> state{inProgress};
  std::atomic<bool> abandoned{false};
  std::atomic<int> threads{0};
};

namespace {

thread_local int depth = 0;
thread_local ncclComm* grouped = nullptr;
thread_local Result failed = success;

sockaddr_un addressOf(const std::string& id, int rank, socklen_t& length) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string name = id + "-" + std::to_string(rank);
  std::memcpy(address.sun_path + 1, name.data(), name.size());  // of Linux's abstract names: no file
  length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

// Each rank listens, connects to those before it, and is connected to by those after it.
Result connectAll(ncclComm& comm) {
  const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  socklen_t length;
  sockaddr_un address = addressOf(comm.id, comm.rank, length);
  if (bind(listener, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener, comm.size) != 0)
    return systemError;
  for (int other = 0; other < comm.rank; other++) {
    const int peer = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    address = addressOf(comm.id, other, length);
    while (connect(peer, reinterpret_cast<sockaddr*>(&address), length) != 0) {
      if (comm.abandoned) return internalError;
      usleep(1000);
    }
    if (write(peer, &comm.rank, sizeof comm.rank) != sizeof comm.rank) return systemError;
    comm.peers[static_cast<size_t>(other)] = peer;
  }
  for (int left = comm.size - 1 - comm.rank; left > 0;) {
    pollfd ready{listener, POLLIN, 0};
    if (comm.abandoned) return internalError;
    if (poll(&ready, 1, 10) < 1) continue;
    const int peer = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
    int other = -1;
    if (read(peer, &other, sizeof other) != sizeof other || other <= comm.rank || other >= comm.size)
      return systemError;
    comm.peers[static_cast<size_t>(other)] = peer;
    left--;
  }
  close(listener);
  return success;
}

// All transfers of a group at once; those between two ranks in one direction in the order of the calls.
Result moveAll(ncclComm& comm, const std::vector<Transfer>& group) {
  // Each message is its length and its bytes, so that ranks that disagree are noticed.
  std::vector<std::vector<std::pair<char*, uint64_t>>> out(comm.peers.size()), in(comm.peers.size());
  std::vector<uint64_t> lengths(group.size()), said(group.size());
  for (size_t i = 0; i < group.size(); i++) {
    lengths[i] = group[i].bytes;
    auto& queue = (group[i].outgoing ? out : in)[static_cast<size_t>(group[i].peer)];
    queue.push_back({reinterpret_cast<char*>(group[i].outgoing ? &lengths[i] : &said[i]), sizeof(uint64_t)});
    queue.push_back({group[i].data, group[i].bytes});
  }
  for (;;) {
    std::vector<pollfd> waiting;
    for (size_t peer = 0; peer < comm.peers.size(); peer++) {
      const short events = static_cast<short>((in[peer].empty() ? 0 : POLLIN) | (out[peer].empty() ? 0 : POLLOUT));
      if (events) waiting.push_back({comm.peers[peer], events, 0});
    }
    if (waiting.empty()) break;
    if (comm.abandoned) return internalError;
    if (poll(waiting.data(), waiting.size(), 10) < 1) continue;
    for (size_t peer = 0; peer < comm.peers.size(); peer++)
      for (const pollfd& ready : waiting) {
        if (ready.fd != comm.peers[peer]) continue;
        const auto advance = [&](auto& queue, bool outgoing) {
          auto& [data, bytes] = queue.front();
          const ssize_t moved = outgoing ? send(ready.fd, data, bytes, MSG_DONTWAIT | MSG_NOSIGNAL)
                                         : recv(ready.fd, data, bytes, MSG_DONTWAIT);
          if (moved < 0) return errno == EAGAIN || errno == EINTR;
          if (moved == 0) return false;
          data += moved;
          bytes -= static_cast<uint64_t>(moved);
          if (bytes == 0) queue.erase(queue.begin());
          return true;
        };
        if ((ready.revents & (POLLIN | POLLHUP | POLLERR)) && !in[peer].empty() && !advance(in[peer], false))
          return remoteError;
        if ((ready.revents & (POLLOUT | POLLERR)) && !out[peer].empty() && !advance(out[peer], true))
          return remoteError;
      }
  }
  for (size_t i = 0; i < group.size(); i++)
    if (!group[i].outgoing && said[i] != lengths[i]) return invalidUsage;
  return success;
}

// Work beside the caller's thread, after it has been seen to be in progress.
template <class Work>
void beside(ncclComm& comm, const Work& work) {
  comm.state = inProgress;
  comm.threads++;
  std::thread([&comm, work] {
    usleep(500);
    work();
    comm.threads--;
  }).detach();
}

Result enqueue(const void* data, size_t count, int type, int peer, ncclComm* comm, cudaStream_t stream, bool outgoing) {
  if (!comm || depth == 0 || type != 1 || !data || count == 0 || !stream) return failed = invalidUsage;
  if (peer < 0 || peer >= comm->size || peer == comm->rank) return failed = invalidArgument;
  if (comm->state != success || (grouped && grouped != comm)) return failed = invalidUsage;
  if (comm->stream && comm->stream != stream) return failed = invalidUsage;
  grouped = comm;
  comm->stream = stream;
  comm->group.push_back({static_cast<char*>(const_cast<void*>(data)), count, peer, outgoing});
  return success;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default")))

API Result ncclGetVersion(int* version) {
  const std::string given = planned("NCCL_DOUBLE_VERSION");
  *version = given.empty() ? 22703 : std::atoi(given.c_str());
  return success;
}

API Result ncclGetUniqueId(UniqueId* id) {
  unsigned char random[8];
  if (getrandom(random, sizeof random, 0) != sizeof random) return systemError;
  std::memset(id->internal, 0, sizeof id->internal);
  std::string name = "nccl-double-";
  for (const unsigned char byte : random) name += "0123456789abcdef"[byte % 16];
  std::memcpy(id->internal, name.data(), name.size());
  return success;
}

API Result ncclCommInitRankConfig(ncclComm** out, int size, UniqueId id, int rank, Config* config) {
  const bool good =
      config && config->magic == 0xcafebeef && config->version >= 21400 && config->size >= 24 && config->blocking == 0;
  if (!good || size < 1 || rank < 0 || rank >= size) return invalidArgument;
  if (!fault(true).empty()) return systemError;
  auto* comm = new ncclComm{rank, size, id.internal, std::vector<int>(static_cast<size_t>(size), -1), {}};
  *out = comm;
  beside(*comm, [comm] { comm->state = connectAll(*comm); });
  return inProgress;
}

API Result ncclGroupStart() {
  depth++;
  return success;
}

API Result ncclSend(const void* from, size_t count, int type, int peer, ncclComm* comm, cudaStream_t stream) {
  return enqueue(from, count, type, peer, comm, stream, true);
}

API Result ncclRecv(void* to, size_t count, int type, int peer, ncclComm* comm, cudaStream_t stream) {
  return enqueue(to, count, type, peer, comm, stream, false);
}

API Result ncclGroupEnd() {
  if (depth == 0) return invalidUsage;
  if (--depth > 0) return success;
  ncclComm* const comm = grouped;
  const Result before = failed;
  grouped = nullptr;
  failed = success;
  if (before != success) return before;
  if (!comm) return success;
  std::vector<Transfer> group;
  group.swap(comm->group);
  const std::string wrong = fault(false);
  if (wrong == "call") return systemError;
  comm->stream->underWay++;
  beside(*comm, [comm, group, wrong] {
    comm->state = success;  // it is on the stream
    usleep(500);
    if (wrong == "die") kill(getpid(), SIGKILL);
    for (const int peer : comm->peers)
      if (wrong == "cut" && peer >= 0) shutdown(peer, SHUT_RDWR);
    if (wrong == "stall" || wrong == "async") {
      if (wrong == "async") comm->state = systemError;
      while (!comm->abandoned) usleep(1000);
    }
    const Result result = comm->abandoned ? internalError : moveAll(*comm, group);
    if (wrong == "wrong")
      for (const Transfer& transfer : group)
        if (!transfer.outgoing) transfer.data[transfer.bytes / 2] ^= 0x40;
    if (result != success) {
      comm->state = result;
      while (!comm->abandoned) usleep(1000);
    }
    comm->stream->underWay--;
  });
  return inProgress;
}

API Result ncclCommGetAsyncError(ncclComm* comm, Result* error) {
  *error = comm->state;
  return success;
}

API Result ncclCommAbort(ncclComm* comm) {
  comm->abandoned = true;
  while (comm->threads) usleep(1000);
  for (const int peer : comm->peers)
    if (peer >= 0) close(peer);
  delete comm;
  return success;
}

API const char* ncclGetErrorString(Result result) {
  constexpr const char* names[] = {
      "no error",         "unhandled cuda error", "unhandled system error", "internal error",
      "invalid argument", "invalid usage",        "remote process exited",  "in progress"};
  return names[result];
}

API const char* ncclGetLastError(ncclComm*) { return ""; }
