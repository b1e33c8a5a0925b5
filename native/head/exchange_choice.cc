// Chooses NCCL or host memory. Every rank gathers the capabilities of all and applies the same
// rule.
#include "exchange_choice.h"

#include <algorithm>
#include <chrono>
#include <cstring>

#include "../core/executor.h"

namespace margin_softmax {
namespace {

struct Opened {
  std::vector<std::string> gpus;  // [size]
  std::shared_ptr<DeviceExchange> exchange;
};
// Exchanges stay open until the process ends, as devices do. Only the group's thread uses the list.
std::vector<Opened>& allOpened() {
  static auto* const opened = new std::vector<Opened>;
  return *opened;
}

template <size_t room>
void copyText(const std::string& text, char (&to)[room]) {
  const size_t length = std::min(text.size(), room - 1);
  std::memcpy(to, text.data(), length);
  to[length] = 0;
}

std::string rankName(size_t rank) { return "rank " + std::to_string(rank); }

// Returns why these ranks can not exchange in device memory; empty if they can.
std::string obstacle(const std::vector<Peer>& peers) {
  if (peers.size() == 1) return "a group of one exchanges nothing";
  for (size_t rank = 0; rank < peers.size(); rank++)
    if (peers[rank].why[0]) return rankName(rank) + " " + peers[rank].why;
  for (size_t rank = 1; rank < peers.size(); rank++)
    if (peers[rank].version != peers[0].version)
      return "rank 0 has NCCL " + ncclVersionName(peers[0].version) + " and " + rankName(rank) + " has NCCL " +
             ncclVersionName(peers[rank].version);
  for (size_t rank = 1; rank < peers.size(); rank++)
    for (size_t other = 0; other < rank; other++)
      if (std::memcmp(peers[rank].gpu, peers[other].gpu, sizeof peers[rank].gpu) == 0)
        return "ranks " + std::to_string(other) + " and " + std::to_string(rank) +
               " compute on the same GPU, and NCCL wants one for each";
  return "";
}

// Collectives of the group, with failures as Status.
struct GroupCalls {
  const Collectives& group;
  const char* purpose;

  template <class T>
  Status gather(const T& mine, std::vector<T>& all) const {
    all.resize(static_cast<size_t>(group.size));
    const std::vector<int64_t> counts(all.size(), sizeof(T));
    CollectiveFailure failure;
    if (group.allGather(group.context, purpose, &mine, counts.data(), all.data(), Element::uint8, &failure)) return {};
    return {static_cast<Failure>(failure.failure), failure.message};
  }
  template <class T>
  Status fromFirst(T& value) const {
    CollectiveFailure failure;
    if (group.broadcast(group.context, purpose, &value, sizeof(T), 0, Element::uint8, &failure)) return {};
    return {static_cast<Failure>(failure.failure), failure.message};
  }
};

struct Report {
  int64_t milliseconds = 0;  // until the failure: the earliest one caused the others
  char message[400] = "";    // empty: no failure
};
struct Invitation {
  ConnectionId id;
  Report report;
};

// Opens an exchange on every rank, or on none; then the choice has the reason.
Status openTogether(const GroupCalls& calls, const DeviceLink& link, int device, const std::string& library,
                    ExchangeChoice& choice) {
  Invitation invitation;
  if (calls.group.rank == 0) copyText(link.identify(library, invitation.id).message.c_str(), invitation.report.message);
  Status status = calls.fromFirst(invitation);
  if (!status) return status;
  std::shared_ptr<DeviceExchange> exchange;
  Report mine = invitation.report;
  if (!mine.message[0]) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    status = link.open(device, library, calls.group.rank, calls.group.size, invitation.id, exchange);
    mine.milliseconds = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - start).count();
    copyText(status.message.c_str(), mine.message);
  }
  std::vector<Report> all;
  if (status = calls.gather(mine, all); !status) return status;
  const Report* first = nullptr;
  for (const Report& report : all)
    if (report.message[0] && (!first || report.milliseconds < first->milliseconds)) first = &report;
  if (!first) choice.exchange = exchange;
  else
    choice.reason =
        "NCCL did not pass its trial on " + rankName(static_cast<size_t>(first - all.data())) + ": " + first->message;
  return {};
}

}  // namespace

Status chooseExchange(const Collectives& group, const char* purpose, int device, const std::string& library,
                      ExchangeChoice& choice) {
  const GroupCalls calls{group, purpose};
  const DeviceLink* const link = executorOf(device)->link;
  Peer mine;
  if (link) mine = link->describe(device, library);
  else copyText("computes on the CPU", mine.why);
  std::vector<Peer> peers;
  if (Status status = calls.gather(mine, peers); !status) return status;
  choice = {nullptr, obstacle(peers)};
  if (!choice.reason.empty()) return {};
  std::vector<std::string> gpus;
  for (const Peer& peer : peers) gpus.emplace_back(peer.gpu, sizeof peer.gpu);
  for (const Opened& opened : allOpened())
    if (opened.gpus == gpus) choice.exchange = opened.exchange;
  if (!choice.exchange) {
    if (Status status = openTogether(calls, *link, device, library, choice); !status) return status;
    if (!choice.exchange) return {};
    allOpened().push_back({gpus, choice.exchange});
  }
  choice.reason = "every rank has a GPU of its own and NCCL " + ncclVersionName(mine.version);
  return {};
}

}  // namespace margin_softmax
