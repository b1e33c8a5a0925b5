// Chooses how the ranks of a sharded head exchange rows: from GPU to GPU through NCCL where every
// rank can, else through host memory by the group's collectives.
#pragma once
#include <memory>
#include <string>

#include "../core/collectives.h"
#include "../core/device_exchange.h"

namespace margin_softmax {

// The choice, the same on every rank, and its reason.
struct ExchangeChoice {
  std::shared_ptr<DeviceExchange> exchange;  // null: through host memory
  std::string reason;
};

// A collective of `group` for `purpose`, on the group's thread. `library` is the file of NCCL;
// empty: do not use it. All heads on the same GPUs share one exchange.
Status chooseExchange(const Collectives& group, const char* purpose, int device, const std::string& library,
                      ExchangeChoice& choice);

}  // namespace margin_softmax
