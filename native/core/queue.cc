#include "queue.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

#include "watch.h"

namespace margin_softmax {
namespace {

struct Queue {
  std::mutex mutex;
  std::condition_variable wake;
  TaskList tasks;
  std::atomic<bool> any{false};  // true if there are tasks; the watching thread reads it
  Watch watch;
  bool running = false;

  void work() {
    for (;;) {
      Task* const task = next();
      task->run(*task);
    }
  }

  Task* next() {
    std::unique_lock<std::mutex> lock(mutex);
    if (tasks.empty()) {
      watch.begin();
      lock.unlock();
      while (watch.goesOn(any)) pause();
      lock.lock();
      wake.wait(lock, [this] { return !tasks.empty(); });
    }
    Task* const task = tasks.pop();
    any = !tasks.empty();
    return task;
  }
};

// For the CPU and 64 GPUs. More GPUs would share the last one's thread.
constexpr int maxQueues = 65;

// Takes no memory when called, and is never destroyed: a queue's thread sleeps on it until the
// process ends.
Queue& queueOf(int device) {
  alignas(Queue) static unsigned char memory[maxQueues * sizeof(Queue)];
  static Queue* const queues = [] {
    for (int i = 0; i < maxQueues; i++) new (memory + i * sizeof(Queue)) Queue;
    return std::launder(reinterpret_cast<Queue*>(memory));
  }();
  return queues[std::clamp(device + 1, 0, maxQueues - 1)];
}

}  // namespace

bool enqueue(int device, Task& task) {
  Queue& queue = queueOf(device);
  const std::lock_guard<std::mutex> lock(queue.mutex);
  if (!queue.running) {
    try {
      std::thread(&Queue::work, &queue).detach();
    } catch (...) {
      return false;
    }
    queue.running = true;
  }
  queue.tasks.push(task);
  queue.any = true;
  queue.watch.end();
  queue.wake.notify_one();
  return true;
}

bool withdraw(int device, const Task& task) {
  Queue& queue = queueOf(device);
  const std::lock_guard<std::mutex> lock(queue.mutex);
  const bool removed = queue.tasks.remove(task);
  queue.any = !queue.tasks.empty();
  return removed;
}

}  // namespace margin_softmax
