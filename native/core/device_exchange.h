// What the ranks of a sharded head exchange from GPU to GPU, in device memory: where each of them has a GPU of its own
// and finds NCCL (cuda/nccl.h). Everywhere else they exchange through host memory, by collectives.h. Sums are formed in
// rank order as there.
#pragma once
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "../formulas/row.h"
#include "status.h"

namespace margin_softmax {

// All calls but `begin` are collectives: every rank makes them in the same order, once it knows that all will (by a
// word over the group). They end in bounded time; after a failure every later call fails.
class DeviceExchange {
 public:
  virtual ~DeviceExchange() = default;

  // Memory for a step of rows[size], N in all, of `dim`, with this rank's own rows, `mine` [rows[rank],dim] on the
  // host, in their place among them. The one call that may fail on one rank alone.
  virtual Status begin(const std::vector<int64_t>& rows, int64_t dim, const float* mine) = 0;
  virtual float* input() = 0;      // [N,dim], in device memory
  virtual float* gradInput() = 0;  // [N,dim], in device memory

  // Every rank's rows into input().
  virtual Status gather() = 0;
  // totals [N] in device memory, in place, as TotalsExchange::reduceTotals. Within a step, which holds the device.
  virtual Status reduceTotals(RowTotals* totals) = 0;
  // The same for totals on the host, of a rank that computes no step.
  virtual Status reduceTotalsFromHost(RowTotals* totals) = 0;
  // Σ over ranks of this rank's rows of gradInput() → mine [rows[rank],dim] on the host.
  virtual Status reduceScatter(float* mine) = 0;
};

// What there is of NCCL here.
struct NcclState {
  int version = 0;     // 22703 for 2.27.3; 0: none that could be used
  std::string reason;  // why there is none
};

// What a rank brings to the decision.
struct Peer {
  int32_t version = 0;  // of NCCL, 22703 for 2.27.3; 0: none that could be used
  char gpu[16] = "";    // the GPU's UUID
  char why[236] = "";   // why there is none: completes "rank 1 …"
};
struct ConnectionId {
  char bytes[128] = "";
};

// A device executor's part in it (Executor::link).
struct DeviceLink {
  Peer (*describe)(int device, const std::string& library);
  // On one rank; the others open with what it says.
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
