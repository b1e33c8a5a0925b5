// Work that waits in a queue. The owner has its memory and queues only link it, so no queue fails
// for want of memory. Plain data: it crosses from one addon to another (collectives.h).
#pragma once

namespace margin_softmax {

struct Task {
  void (*run)(Task& task) = nullptr;
  Task* next = nullptr;  // in its list
};

// First in, first out. Not thread-safe: its owner has a mutex.
class TaskList {
 public:
  bool empty() const { return !first_; }

  void push(Task& task) {
    task.next = nullptr;
    (last_ ? last_->next : first_) = &task;
    last_ = &task;
  }

  // Removes and returns the first task; null if there is none.
  Task* pop() {
    Task* const task = first_;
    if (!task) return nullptr;
    first_ = task->next;
    if (!first_) last_ = nullptr;
    return task;
  }

  // Removes a task. False if it is not in the list.
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
