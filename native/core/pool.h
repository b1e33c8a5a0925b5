// The process's persistent threads. A job is cut into items; threads, the caller among them, claim
// items until none is left. Nothing waits for a thread that has not woken up yet: a late thread
// joins whatever phase runs, so a job of microseconds costs no wake-up latency. An item owns what
// it writes, so it does not matter which thread computes it.
#pragma once
#include <atomic>
#include <cstdint>

namespace margin_softmax::cpu {

class Pool {
 public:
  static constexpr int maxThreads = 1023;
  static constexpr int64_t maxItems = (1 << 20) - 1;

  // Never destroyed: its threads sleep on it until the process ends.
  static Pool& instance();

  // Calls body(item, thread) once for every item in [0, items), with thread < threads. One caller
  // at a time: PoolLock.
  template <class Body>
  void forEach(int threads, int64_t items, const Body& body) {
    run(
        threads, items, [](const void* b, int64_t item, int thread) { (*static_cast<const Body*>(b))(item, thread); },
        &body);
  }

 private:
  using Call = void (*)(const void* body, int64_t item, int thread);
  void run(int threads, int64_t items, Call call, const void* body);
  void ensure(int threads);
  void work(int thread);
  struct State;
  State* state_;
  Pool();
};

// Gives the pool and the cached workspace to one job. Jobs of other JavaScript threads wait.
class PoolLock {
 public:
  // Waits until the pool is free, or until `cancelled` is set.
  explicit PoolLock(const std::atomic<bool>* cancelled = nullptr);
  ~PoolLock();
  explicit operator bool() const { return held_; }
  PoolLock(const PoolLock&) = delete;
  PoolLock& operator=(const PoolLock&) = delete;

 private:
  bool held_ = false;
};

}  // namespace margin_softmax::cpu
