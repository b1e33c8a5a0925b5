// The process's group of ranks. All collectives run on one thread, in the order in which they were
// posted. Before each one every rank tells all others what it is about to do, so a disagreement is
// an error on every rank.
#pragma once
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <vector>

#include "../core/block.h"
#include "../core/collectives.h"
#include "../core/status.h"
#include "../core/task.h"
#include "record.h"
#include "transport.h"

namespace margin_softmax::distributed {

class Group {
 public:
  // This process's group; never destroyed, because its thread may outlive everything.
  static Group& instance();

  // Runs the task on the group's thread. False if the group has ended, or if the system gives no
  // thread.
  bool post(Task& task);

  // On the group's thread: all below but leave(), endOfProcess() and the getters.
  Status open(int launched);
  Status barrier();
  Status allReduce(const char* purpose, void* values, int64_t count, Element element, ReduceOp reduceOp);
  // Calls `output` with each rank's number of elements; it returns the memory for all of them, or
  // null.
  using Output = std::function<void*(const std::vector<int64_t>& counts)>;
  Status allGather(const char* purpose, const void* values, int64_t count, Element element, const Output& output);
  Status reduceScatter(const char* purpose, const void* values, const std::vector<int64_t>& counts, void* mine,
                       Element element, ReduceOp reduceOp);
  Status broadcast(const char* purpose, void* values, int64_t count, int root, Element element);
  // Takes part in the next call, whichever it is, only to tell the others that this rank can not go
  // on.
  Status refuse(const char* purpose, const Status& reason);

  // Announces the end of the process to the other ranks, after all posted work. On the JavaScript
  // thread. With code 0, ask `left` until all of them have ended too; a rank that does something
  // else is a failure on every rank. With another code there is nothing to wait for. A process that
  // never opened the group joins briefly, since others may wait for it.
  void leave(int code, int launched);
  // Waits up to `time` for the end that leave() began. False: not yet. True: `status` is the
  // outcome.
  bool left(std::chrono::milliseconds time, Status& status);

  // Returns what the group waits for, in words; no names if it does not wait. From any thread.
  struct Waiting {
    std::chrono::milliseconds time{0};
    std::string names;  // of the ranks
    std::string place;  // in the program
    int64_t call = 0;
  };
  Waiting waiting();
  void setPatience(std::chrono::milliseconds patience) { transport_.setPatience(patience); }

  int rank() const { return transport_.rank(); }
  int size() const { return transport_.size(); }
  int64_t bytesSent() const { return transport_.bytesSent(); }
  const std::string& library() const { return transport_.library(); }
  Collectives* table() { return &table_; }

 private:
  Group();
  void work();
  Status agree(const Record& mine, bool again = false);
  Status taking(const Record& call, int64_t bytes, Block& block);
  Status failing(Status status);
  Status exchange(const std::vector<Piece>& send, const std::vector<Piece>& receive, Kind kind);
  std::string place();
  void registerEnd();
  void endOfProcess();

  Status exchangePieces(const std::vector<Piece>& send, const std::vector<Piece>& receive);
  Status reduceShares(const char* values, const std::vector<int64_t>& counts, void* mine, Element element,
                      ReduceOp reduceOp, const Block& scratch);
  Status gatherShares(const void* mine, char* all, const std::vector<int64_t>& counts, Element element, int skipped);
  int64_t stretch(const std::vector<int64_t>& counts, Element element) const;
  int64_t scratchBytes(const std::vector<int64_t>& counts, Element element) const;
  std::vector<int64_t> evenCounts(int64_t total) const;

  Transport transport_;
  Collectives table_;
  std::vector<Record> records_;  // [size]: what every rank said last
  Record current_;               // this rank's; written under the mutex, as is `calls_`
  int64_t calls_ = 0;
  Status failure_;       // the first failure, after which the group is unusable
  bool closed_ = false;  // by leave(), after a success

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  TaskList posted_;
  bool running_ = false;
  bool opened_ = false;
  bool registered_ = false;
  bool late_ = false;  // opened by leave() only
  bool leaving_ = false, left_ = false;
  Status leftStatus_;
  bool ended_ = false;
};

}  // namespace margin_softmax::distributed
