// Messages between ranks; only this file knows MPI. Every message goes straight from one rank to
// another, so bytes can be counted, and no sum depends on an algorithm of the MPI library. Only
// opening and closing block. All other MPI calls are polled, so a wait can be given up.
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

// Kinds of messages. Messages of one kind between two ranks stay in order.
enum class Kind { record, payload, farewell, alarm };

// "rank 2", "ranks 1 and 3", "ranks 0, 1 and 3".
std::string namesOf(const std::vector<int>& ranks);

// Only the group's thread calls it, except for the readers of atomics.
class Transport {
 public:
  using Clock = std::chrono::steady_clock;

  // `launched` is the number of processes according to the launcher, at least 1.
  Status open(int launched);
  // Ends MPI together with all ranks.
  Status close();

  // Sends send[j] to rank j and receives receive[j] from it, for every other rank j: [size] each.
  // `place` is for messages. If a record or the next message of a payload does not arrive within
  // the patience, this rank tells the others, all fail with the same message, and MPI is not called
  // again.
  using Place = std::function<std::string()>;
  Status exchange(const std::vector<Piece>& send, const std::vector<Piece>& receive, Kind kind, const Place& place);

  // Polls MPI, so that it finishes sending while the group is idle.
  void progress();

  // Limits all waits to this time. A wait that ends so fails, and MPI is not called again.
  void giveUpAt(Clock::time_point time) { end_ = time.time_since_epoch().count(); }
  Clock::time_point end() const { return Clock::time_point(Clock::duration(end_)); }

  // Sets how long an exchange waits without receiving anything, a year at most. From any thread.
  static constexpr std::chrono::milliseconds longest = std::chrono::hours(24 * 365);
  void setPatience(std::chrono::milliseconds patience) { patience_ = std::min(patience, longest).count(); }
  std::chrono::milliseconds patience() const { return std::chrono::milliseconds(patience_); }

  // The time that the current exchange or the closing has waited, and the ranks that it waits for;
  // no ranks if nothing waits. Any thread may ask, after the opening.
  struct Wait {
    std::chrono::milliseconds time{0};
    std::vector<int> ranks;
  };
  Wait waiting() const;

  // True if MPI must not be called again, because a rank did not answer.
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
