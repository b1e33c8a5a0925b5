// Work that waits in a queue. Its owner makes room for it; queues only link it. So whatever exists can be queued, and
// no queue fails for want of memory. Plain data: it crosses from one addon to another (collectives.h).
#pragma once

namespace margin_softmax {

struct Task {
  void (*run)(Task& task) = nullptr;
  Task* next = nullptr;  // of its list
};

// First in, first out.
class TaskList {
 public:
  bool empty() const { return !first_; }

  void push(Task& task) {
    task.next = nullptr;
    (last_ ? last_->next : first_) = &task;
    last_ = &task;
  }

  // The first one, or null.
  Task* pop() {
    Task* const task = first_;
    if (!task) return nullptr;
    first_ = task->next;
    if (!first_) last_ = nullptr;
    return task;
  }

  // Takes it out. False: it is not in the list.
  bool remove(const Task& task) {
    Task* before = nullptr;
    for (Task* at = first_; at; before = at, at = at->next) {
      if (at != &task) continue;
      (before ? before->next : first_) = at->next;
      if (last_ == at) last_ = before;
      return true;
    }
    return false;
  }

 private:
  Task *first_ = nullptr, *last_ = nullptr;
};

}  // namespace margin_softmax
