// Exchange between the ranks of a sharded head from GPU to GPU. It needs a separate GPU and NCCL
// (cuda/nccl.h) on every rank; otherwise ranks exchange through host memory (collectives.h). Both
// add in rank order.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../formulas/row.h"
#include "status.h"

namespace margin_softmax {

// All calls but `begin` are collectives: every rank makes them in the same order, after a barrier
// of the group. They end in bounded time; after a failure every later call fails.
class DeviceExchange {
 public:
  virtual ~DeviceExchange() = default;

  // Takes memory for a step of rows[size], N in total, and copies this rank's rows, `mine`
  // [rows[rank],dim] on the host, to their place. The only call that may fail on one rank alone.
  virtual Status begin(const std::vector<int64_t>& rows, int64_t dim, const float* mine) = 0;
  virtual float* input() = 0;      // [N,dim], in device memory
  virtual float* gradInput() = 0;  // [N,dim], in device memory

  // Gathers every rank's rows in input().
  virtual Status gather() = 0;
  // Reduces totals [N] in device memory, in place, as TotalsExchange::reduceTotals. Within a step,
  // which holds the device.
  virtual Status reduceTotals(RowTotals* totals) = 0;
  // The same for totals on the host, of a rank without classes.
  virtual Status reduceTotalsFromHost(RowTotals* totals) = 0;
  // Σ over ranks of this rank's rows of gradInput() → mine [rows[rank],dim] on the host.
  virtual Status reduceScatter(float* mine) = 0;
};

// The NCCL of this machine.
struct NcclState {
  int version = 0;     // 22703 for 2.27.3; 0: none that could be used
  std::string reason;  // why there is none
};

// A rank's capabilities, from which every rank derives the choice.
struct Peer {
  int32_t version = 0;  // of NCCL, 22703 for 2.27.3; 0: none that could be used
  char gpu[16] = "";    // the GPU's UUID
  char why[236] = "";   // why there is none: completes "rank 1 …"
};
struct ConnectionId {
  char bytes[128] = "";
};

// Functions by which an executor's devices open an exchange (Executor::link).
struct DeviceLink {
  Peer (*describe)(int device, const std::string& library);
  // Called on rank 0; all ranks open with its id.
  Status (*identify)(const std::string& library, ConnectionId& id);
  // A collective. An exchange counts as open once it has passed a trial.
  Status (*open)(int device, const std::string& library, int rank, int size, const ConnectionId& id,
                 std::shared_ptr<DeviceExchange>& exchange);
};

// 22703 → "2.27.3".
inline std::string ncclVersionName(int version) {
  return std::to_string(version / 10000) + "." + std::to_string(version / 100 % 100) + "." +
         std::to_string(version % 100);
}

}  // namespace margin_softmax
