#include "queue.h"

#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>

namespace margin_softmax {
namespace {

struct Queue {
  std::mutex mutex;
  std::condition_variable wake;
  std::deque<std::function<void()>> jobs;
  bool running = false;

  void work() {
    for (;;) {
      std::function<void()> job;
      {
        std::unique_lock<std::mutex> lock(mutex);
        wake.wait(lock, [this] { return !jobs.empty(); });
        job = std::move(jobs.front());
        jobs.pop_front();
      }
      job();
    }
  }
};

}  // namespace

bool enqueue(int device, std::function<void()> job) {
  // Never destroyed: their threads sleep on them until the process ends.
  static std::mutex* const mutex = new std::mutex;
  static auto* const queues = new std::map<int, Queue>;
  mutex->lock();
  Queue* const queue = &(*queues)[device];
  mutex->unlock();
  std::lock_guard<std::mutex> lock(queue->mutex);
  if (!queue->running) {
    try {
      std::thread(&Queue::work, queue).detach();
    } catch (...) {
      return false;
    }
    queue->running = true;
  }
  queue->jobs.push_back(std::move(job));
  queue->wake.notify_one();
  return true;
}

}  // namespace margin_softmax
