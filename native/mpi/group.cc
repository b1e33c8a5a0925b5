#include "group.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <thread>

namespace margin_softmax::distributed {
namespace {

// A failing process waits this long for the others to report, before the launcher ends them.
constexpr std::chrono::milliseconds farewellTime(3500);
// The same if a rank did not answer: the others see the alarm at once, or not at all.
constexpr std::chrono::milliseconds alarmedTime(1000);

// Work of the group's own, once.
struct OwnTask : Task {
  explicit OwnTask(std::function<void()> work) : work(std::move(work)) {
    run = [](Task& task) {
      const std::unique_ptr<OwnTask> own(static_cast<OwnTask*>(&task));
      own->work();
    };
  }
  std::function<void()> work;
};

Status ending() { return {Failure::distributed, "Expected a group that goes on but this process is ending"}; }

}  // namespace

Group& Group::instance() {
  static Group* const group = new Group;
  return *group;
}

bool Group::post(Task& task) {
  const std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return false;
  if (!running_) {
    try {
      std::thread(&Group::work, this).detach();
    } catch (...) {
      return false;
    }
    running_ = true;
  }
  posted_.push(task);
  wake_.notify_one();
  return true;
}

void Group::work() {
  // An idle group polls MPI, which may still be sending, less and less often.
  const std::chrono::milliseconds soonest(1), latest(200);
  std::chrono::milliseconds idle = soonest;
  for (;;) {
    Task* task = nullptr;
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (wake_.wait_for(lock, idle, [this] { return !posted_.empty(); })) {
        task = posted_.pop();
      } else if (ended_) {
        return;
      }
    }
    if (task) {
      task->run(*task);
      idle = soonest;
    } else if (opened_) {
      transport_.progress();
      idle = std::min(2 * idle, latest);
    }
  }
}

Status Group::open(int launched) {
  Status status = transport_.open(launched);
  if (!status) return failing(status);
  records_.resize(static_cast<size_t>(size()));
  table_.rank = rank();
  table_.size = size();
  const std::lock_guard<std::mutex> lock(mutex_);
  opened_ = true;
  registerEnd();
  return {};
}

void Group::registerEnd() {
  if (registered_) return;
  registered_ = true;
  // Runs after the failure that ends the process was printed, and before MPI's own end.
  std::atexit([] { instance().endOfProcess(); });
}

Status Group::failing(Status status) {
  if (!status && failure_) failure_ = {Failure::distributed, status.message};
  return status;
}

Status Group::exchange(const std::vector<Piece>& send, const std::vector<Piece>& receive, Kind kind) {
  return failing(transport_.exchange(send, receive, kind, [this] { return place(); }));
}

// Returns where in the program the group is, in words.
std::string Group::place() {
  const std::lock_guard<std::mutex> lock(mutex_);
  return placeOf(current_) + " (call " + std::to_string(calls_) + " of the group)";
}

Group::Waiting Group::waiting() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!opened_) return {};
  }
  const Transport::Wait wait = transport_.waiting();
  if (wait.ranks.empty()) return {};
  const std::string where = place();
  const std::lock_guard<std::mutex> lock(mutex_);
  return {wait.time, namesOf(wait.ranks), where, calls_};
}

Status Group::agree(const Record& mine, bool again) {
  if (closed_) return ending();
  if (!failure_)
    return {Failure::distributed, "Expected a group that goes on but an earlier call failed: " + failure_.message};
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    current_ = mine;
    if (!again) calls_++;
  }
  std::vector<Piece> send(records_.size(), {const_cast<Record*>(&mine), sizeof mine}), receive;
  for (Record& record : records_) receive.push_back({&record, sizeof record});
  records_[static_cast<size_t>(rank())] = mine;
  if (Status status = exchange(send, receive, Kind::record); !status) return status;
  return failing(judge(records_, rank(), calls_));
}

Status Group::refuse(const char* purpose, const Status& reason) {
  if (!failure_ || closed_) return agree({});
  Record record;
  record.operation = Record::refusal;
  copyText(purpose, record.purpose);
  copyText(reason.message.c_str(), record.message);
  static_cast<void>(agree(record));
  return reason;
}

Status Group::taking(const Record& call, int64_t bytes, Block& block) {
  block = Block::uninitialized(bytes);
  if (block.as<void>()) return agree(call);
  return refuse(call.purpose, Status::outOfMemory("a collective operation", bytes));
}

void Group::leave(int code, int launched) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (!running_ && launched > 1) {
    late_ = true;
    registerEnd();
    lock.unlock();
    auto opening = std::make_unique<OwnTask>([this, launched] { static_cast<void>(open(launched)); });
    if (post(*opening)) opening.release();
    lock.lock();
  }
  if (!running_ || leaving_ || ended_) return;
  leaving_ = true;
  const auto hurry = [this, code] {
    if (code != 0) transport_.giveUpAt(Transport::Clock::now() + farewellTime);
  };
  if (!late_) hurry();
  posted_.push(*new OwnTask([this, code, hurry] {
    if (late_) hurry();
    Record record;
    record.operation = Record::leave;
    record.endCode = code;
    Status result = opened_ ? failure_ : Status{};
    if (opened_ && failure_) {
      result = agree(record);
      if (result && code == 0) {
        result = transport_.close();
        closed_ = true;
      }
    }
    const std::lock_guard<std::mutex> inner(mutex_);
    leftStatus_ = result;
    left_ = true;
    done_.notify_all();
  }));
  wake_.notify_one();
}

bool Group::left(std::chrono::milliseconds time, Status& status) {
  std::unique_lock<std::mutex> lock(mutex_);
  if (leaving_ && !done_.wait_for(lock, time, [this] { return left_; })) return false;
  status = leftStatus_;
  return true;
}

void Group::endOfProcess() {
  leave(1, 1);  // does nothing if the end was announced before
  if (closed_) return;
  auto finished = std::make_shared<bool>(false);
  std::unique_lock<std::mutex> lock(mutex_);
  // Other ranks may wait for this process even if it never opened the group.
  if (late_) done_.wait_for(lock, transport_.patience(), [this] { return left_; });
  if (!opened_) {  // MPI is still starting: no message can be sent yet
    ended_ = true;
    return;
  }
  transport_.giveUpAt(std::min(transport_.end(), Transport::Clock::now() + farewellTime));
  // Waits until all ranks have reported, because the launcher ends all of them when the first one
  // ends.
  posted_.push(*new OwnTask([this, finished] {
    Record mine;
    std::vector<Record> theirs(records_.size());
    std::vector<Piece> send(records_.size(), {&mine, sizeof mine}), receive;
    for (Record& record : theirs) receive.push_back({&record, sizeof record});
    if (transport_.abandoned()) std::this_thread::sleep_for(alarmedTime);
    else static_cast<void>(exchange(send, receive, Kind::farewell));
    const std::lock_guard<std::mutex> inner(mutex_);
    *finished = true;
    done_.notify_all();
  }));
  wake_.notify_one();
  done_.wait_until(lock, transport_.end() + farewellTime, [&] { return *finished; });
  ended_ = true;
}

}  // namespace margin_softmax::distributed
