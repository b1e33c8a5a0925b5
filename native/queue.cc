#include "queue.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <new>
#include <thread>

namespace margin_softmax {
namespace {

struct Queue {
  std::mutex mutex;
  std::condition_variable wake;
  TaskList tasks;
  bool running = false;

  void work() {
    for (;;) {
      Task* task;
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [this] { return !tasks.empty(); });
        task = tasks.pop();
      }
      task->run(*task);
    }
  }
};

// No machine has more GPUs; any beyond would share the last one's thread.
constexpr int maxQueues = 65;

// Takes no memory, and is never destroyed: its thread sleeps on it until the process ends.
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
  queue.wake.notify_one();
  return true;
}

bool withdraw(int device, const Task& task) {
  Queue& queue = queueOf(device);
  const std::lock_guard<std::mutex> lock(queue.mutex);
  return queue.tasks.remove(task);
}

}  // namespace margin_softmax
