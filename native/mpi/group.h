// The process's group of ranks: one thread on which all collectives run, in the order in which they were asked for, and
// what each rank tells the others before anything else: what it is about to do. A disagreement is an error everywhere.
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
  // The one of this process; never destroyed, as its thread may outlive everything.
  static Group& instance();

  // Has the task run on the group's thread. False once the group has ended, or if the system gives no thread.
  bool post(Task& task);

  // The rest but leave(), endOfProcess() and the plain getters: on the group's thread.
  Status open(int launched);
  Status barrier();
  Status allReduce(const char* purpose, void* values, int64_t count, Element element, ReduceOp reduceOp);
  // `output` is called with the number of elements of each rank, and returns where all of them go, or null.
  using Output = std::function<void*(const std::vector<int64_t>& counts)>;
  Status allGather(const char* purpose, const void* values, int64_t count, Element element, const Output& output);
  Status reduceScatter(const char* purpose, const void* values, const std::vector<int64_t>& counts, void* mine,
                       Element element, ReduceOp reduceOp);
  Status broadcast(const char* purpose, void* values, int64_t count, int root, Element element);
  // Takes part in the next call, whichever it is, but only to say that this rank can not go on.
  Status refuse(const char* purpose, const Status& reason);

  // When the process ends, on the JavaScript thread. After all that was posted before, tells the other ranks. With code
  // 0, `left` is to be asked until all of them have ended too; a rank that does something else instead is a failure on
  // every rank. With another code there is nothing to wait for. A process that never asked for the group, where others
  // may wait for it, joins to say so.
  void leave(int code, int launched);
  // Waits for the end of the leaving, but not longer than `time`. False: it goes on. True: `status` is how it ended.
  bool left(std::chrono::milliseconds time, Status& status);

  // Tells what the group waits for, in words; there are no names if it waits for nothing. From any thread.
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
  Status failure_;       // the first failure: the group is of no more use
  bool closed_ = false;  // by leave(): everything went well

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
