// Bytes between ranks: the only file that knows MPI. Every message goes straight from one rank to another, so what is
// sent is what is counted, and no sum is left to an algorithm of the MPI library. No call blocks but the opening and
// the closing: the rest are non-blocking calls that are asked after now and then, so a wait can be given up.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "../core/status.h"

namespace margin_softmax::distributed {

struct Piece {
  void* data = nullptr;
  int64_t bytes = 0;
};

// What a message belongs to. Messages of one kind between two ranks stay in order.
enum class Kind { record, payload, farewell, alarm };

// "rank 2", "ranks 1 and 3", "ranks 0, 1 and 3".
std::string namesOf(const std::vector<int>& ranks);

// All of it is called from one thread, the group's, but for the atomics' readers.
class Transport {
 public:
  using Clock = std::chrono::steady_clock;

  // `launched`: the size that the launcher told, at least 1.
  Status open(int launched);
  // The regular end, together with all ranks.
  Status close();

  // send[j] goes to rank j, receive[j] comes from rank j, for every other rank j: [size] each. `place` tells in words what
  // for. When a record, or the next piece of a payload, has not come for as long as the patience lasts, this rank tells
  // the others, all fail with the same message, and MPI is not called any more.
  using Place = std::function<std::string()>;
  Status exchange(const std::vector<Piece>& send, const std::vector<Piece>& receive, Kind kind, const Place& place);

  // Lets MPI finish what it still sends, while nothing is asked of the group.
  void progress();

  // From now on waits end at this time, without success; then MPI is not called any more.
  void giveUpAt(Clock::time_point time) { end_ = time.time_since_epoch().count(); }
  Clock::time_point end() const { return Clock::time_point(Clock::duration(end_)); }

  // How long an exchange waits without anything coming, a year at the most. From any thread.
  static constexpr std::chrono::milliseconds longest = std::chrono::hours(24 * 365);
  void setPatience(std::chrono::milliseconds patience) { patience_ = std::min(patience, longest).count(); }
  std::chrono::milliseconds patience() const { return std::chrono::milliseconds(patience_); }

  // For how long the exchange that runs, or the closing, has waited, and for whom. No ranks: nothing waits. From any thread, once opened.
  struct Wait {
    std::chrono::milliseconds time{0};
    std::vector<int> ranks;
  };
  Wait waiting() const;

  // Whether MPI is of no more use, since a rank did not answer.
  bool abandoned() const { return abandoned_; }

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& library() const { return library_; }
  int64_t bytesSent() const { return bytesSent_; }

 private:
  struct Exchange;
  bool givenUp();
  void pause(int round, Kind kind) const;
  Status finish(Exchange& exchange, Kind kind, const Place& place);
  void waitsFrom(Clock::time_point since) { waitingSince_ = since.time_since_epoch().count(); }
  bool hearsAlarm(std::string& message);
  void raiseAlarm(const std::string& message, const Exchange& exchange);

  int rank_ = 0, size_ = 1;
  bool dead_ = false, abandoned_ = false;
  std::atomic<int64_t> patience_{longest.count()};  // milliseconds
  std::atomic<Clock::rep> waitingSince_{0};         // 0: nothing waits
  std::vector<std::atomic<int32_t>> pending_;       // [size]: messages to and from each rank
  std::string library_;
  std::atomic<int64_t> bytesSent_{0};
  std::atomic<Clock::rep> end_{Clock::time_point::max().time_since_epoch().count()};
};

}  // namespace margin_softmax::distributed
