// Bytes between ranks: the only file that knows MPI. Every message goes straight from one rank to another, so what is
// sent is what is counted, and no sum is left to an algorithm of the MPI library. No call blocks but the opening and
// the closing: the rest are non-blocking calls that are asked after now and then, so a wait can be given up.
#pragma once
#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "../status.h"

namespace margin_softmax::distributed {

struct Piece {
  void* data = nullptr;
  int64_t bytes = 0;
};

// What a message belongs to. Messages of one kind between two ranks stay in order.
enum class Kind { record, payload, farewell };

// All of it is called from one thread, the group's, but for the atomics' readers.
class Transport {
 public:
  using Clock = std::chrono::steady_clock;

  // `launched`: the size that the launcher told, at least 1.
  Status open(int launched);
  // The regular end, together with all ranks.
  Status close();

  // send[j] goes to rank j, receive[j] comes from rank j, for every other rank j: [size] each.
  Status exchange(const std::vector<Piece>& send, const std::vector<Piece>& receive, Kind kind);

  // Lets MPI finish what it still sends, while nothing is asked of the group.
  void progress();

  // From now on waits end at this time, without success; then MPI is not called any more.
  void giveUpAt(Clock::time_point time) { end_ = time.time_since_epoch().count(); }
  Clock::time_point end() const { return Clock::time_point(Clock::duration(end_)); }

  int rank() const { return rank_; }
  int size() const { return size_; }
  const std::string& library() const { return library_; }
  int64_t bytesSent() const { return bytesSent_; }

 private:
  bool givenUp();
  void pause(int round, Kind kind) const;

  int rank_ = 0, size_ = 1;
  bool dead_ = false;
  std::string library_;
  std::atomic<int64_t> bytesSent_{0};
  std::atomic<Clock::rep> end_{Clock::time_point::max().time_since_epoch().count()};
};

}  // namespace margin_softmax::distributed
