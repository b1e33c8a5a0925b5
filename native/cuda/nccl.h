// NCCL, found at run time and never linked: the few of its functions that are used, and a communicator over them that
// moves bytes between the GPUs of ranks. No sum is left to NCCL: its order would be the library's own.
#pragma once
#include <chrono>
#include <cstddef>
#include <string>
#include <vector>

#include "../core/device_exchange.h"
#include "device.h"

namespace margin_softmax::cuda {

// As in NCCL 2.14 and all later ones: values and layouts that are part of its binary interface.
namespace nccl {
enum Result : int { success = 0, invalidUsage = 5, remoteError = 6, inProgress = 7 };
constexpr int bytes = 1;  // ncclUint8
constexpr int oldestVersion = 21400;
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeefu;
  unsigned version = oldestVersion;  // of this layout: later libraries take their own defaults for what it lacks
  int blocking = 0;
};
using Handle = struct ncclComm*;
}  // namespace nccl

struct Nccl {
  int version = 0;
  std::string reason;  // why it can not be used; empty: it can
  nccl::Result (*getUniqueId)(ConnectionId* id) = nullptr;
  nccl::Result (*commInitRankConfig)(nccl::Handle* comm, int size, ConnectionId id, int rank,
                                     nccl::Config* config) = nullptr;
  nccl::Result (*send)(const void* from, size_t count, int type, int peer, nccl::Handle comm, cudaStream_t) = nullptr;
  nccl::Result (*recv)(void* to, size_t count, int type, int peer, nccl::Handle comm, cudaStream_t) = nullptr;
  nccl::Result (*groupStart)() = nullptr;
  nccl::Result (*groupEnd)() = nullptr;
  nccl::Result (*commGetAsyncError)(nccl::Handle comm, nccl::Result* error) = nullptr;
  nccl::Result (*commAbandon)(nccl::Handle comm) = nullptr;  // ends it and whatever it still does
  const char* (*getErrorString)(nccl::Result result) = nullptr;
  const char* (*getLastError)(nccl::Handle comm) = nullptr;
};

// The library in this file, opened once and kept. Empty: it is not to be used, and the reason says so.
const Nccl& openNccl(const std::string& file);

struct DevicePiece {
  void* data = nullptr;
  int64_t bytes = 0;
};

// One rank's end. Every wait has an end: a communicator that fails or takes too long is given up, here and, by its
// silence, on the other ranks. Never destroyed while it works: it lives as long as the process.
class Communicator {
 public:
  using Duration = std::chrono::milliseconds;

  Communicator(const Nccl& library, Device& device) : nccl_(library), device_(device) {}
  // A collective, as all that follow. The device is this thread's current one.
  Status open(int rank, int size, const ConnectionId& id, Duration patience);
  // send[j] goes to rank j, receive[j] comes from it, for every other rank j: [size] each, in device memory that
  // nothing else uses meanwhile. Done when it returns.
  Status exchange(const std::vector<DevicePiece>& send, const std::vector<DevicePiece>& receive, Duration patience);
  // From now on every call fails with this.
  Status giveUp(Status reason);

  int rank() const { return rank_; }
  int size() const { return size_; }

 private:
  Status wait(const char* what, bool work, Duration patience);
  Status failure(const char* what, nccl::Result result);
  nccl::Result state() const;

  const Nccl& nccl_;
  Device& device_;
  nccl::Handle comm_ = nullptr;
  cudaStream_t stream_ = nullptr;
  int rank_ = 0, size_ = 1;
  Status outcome_;  // well, or what it was given up for
};

extern const DeviceLink ncclLink;  // exchange.cu

}  // namespace margin_softmax::cuda
