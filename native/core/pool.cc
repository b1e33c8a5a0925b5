#include "pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#include "watch.h"

namespace margin_softmax::cpu {
namespace {

constexpr int spins = 4000;  // about 100 µs: the gap between two phases, or between two steps of a tight loop

// A ticket packs (generation, threads admitted, items left), so that a claim is one
// compare-and-swap and a thread that slept through a whole job can never claim from the wrong one.
constexpr int itemBits = 20, threadBits = 10;
constexpr uint64_t itemMask = (1ull << itemBits) - 1, threadMask = (1ull << threadBits) - 1;

}  // namespace

struct Pool::State {
  alignas(64) std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<int64_t> unfinished{0};
  alignas(64) std::atomic<int> sleeping{0};
  // Written before a ticket is published, read only after an item of it was claimed.
  Call call = nullptr;
  const void* body = nullptr;
  int64_t items = 0;
  std::mutex mutex;
  std::condition_variable wake;
  std::atomic<int> started{1};  // the caller is thread 0

  bool claim(int thread, int64_t& item) {
    uint64_t now = ticket.load(std::memory_order_acquire);
    for (;;) {
      const uint64_t left = now & itemMask;
      if (left == 0 || thread >= static_cast<int>((now >> itemBits) & threadMask)) return false;
      if (ticket.compare_exchange_weak(now, now - 1, std::memory_order_acq_rel, std::memory_order_acquire)) {
        item = items - static_cast<int64_t>(left);
        return true;
      }
    }
  }

  void drain(int thread) {
    int64_t item;
    while (claim(thread, item)) {
      call(body, item, thread);
      unfinished.fetch_sub(1, std::memory_order_acq_rel);
    }
  }
};

Pool::Pool() : state_(new State) {}

Pool& Pool::instance() {
  static Pool* pool = new Pool;
  return *pool;
}

void Pool::ensure(int threads) {
  for (int started = state_->started.load(); started < threads; started++) {
    try {
      std::thread(&Pool::work, this, started).detach();
    } catch (...) {
      return;  // the system gives no more threads: the existing ones do the work
    }
    state_->started.store(started + 1);
  }
}

void Pool::work(int thread) {
  State& s = *state_;
  for (;;) {
    s.drain(thread);
    const uint64_t seen = s.ticket.load(std::memory_order_acquire);
    bool changed = false;
    for (int i = 0; i < spins && !changed; i++) {
      pause();
      const uint64_t now = s.ticket.load(std::memory_order_acquire);
      changed = (now >> itemBits) != (seen >> itemBits);
    }
    if (changed) continue;
    std::unique_lock<std::mutex> lock(s.mutex);
    s.sleeping.fetch_add(1);
    s.wake.wait(lock, [&] { return (s.ticket.load() >> itemBits) != (seen >> itemBits); });
    s.sleeping.fetch_sub(1);
  }
}

void Pool::run(int threads, int64_t items, Call call, const void* body) {
  if (items <= 0) return;
  threads = static_cast<int>(std::min<int64_t>({threads, items, maxThreads}));
  if (threads <= 1) {
    for (int64_t item = 0; item < items; item++) call(body, item, 0);
    return;
  }
  State& s = *state_;
  ensure(threads);
  s.call = call;
  s.body = body;
  s.items = items;
  s.unfinished.store(items, std::memory_order_relaxed);
  const uint64_t generation = (s.ticket.load(std::memory_order_relaxed) >> (itemBits + threadBits)) + 1;
  const uint64_t ticket = (generation << (itemBits + threadBits)) | (static_cast<uint64_t>(threads) << itemBits) |
                          static_cast<uint64_t>(items);
  s.ticket.store(ticket);
  if (s.sleeping.load() > 0) {
    // Taking the mutex orders this wake-up after a thread's last look at the ticket.
    {
      std::lock_guard<std::mutex> lock(s.mutex);
    }
    s.wake.notify_all();
  }
  s.drain(0);
  for (int i = 0; s.unfinished.load(std::memory_order_acquire) != 0;) {
    pause();
    if (++i == spins) {
      i = 0;
      std::this_thread::yield();  // another job has the core that our last item waits for
    }
  }
}

namespace {

struct LockState {
  std::mutex mutex;
  std::condition_variable free;
  bool held = false;
};

// Never destroyed: a thread may still wait for it while the process ends.
LockState& lockState() {
  static LockState* const state = new LockState;
  return *state;
}

constexpr std::chrono::milliseconds betweenLooks(20);  // at `cancelled`

}  // namespace

PoolLock::PoolLock(const std::atomic<bool>* cancelled) {
  LockState& state = lockState();
  std::unique_lock<std::mutex> lock(state.mutex);
  while (state.held && !(cancelled && *cancelled)) {
    // By the system's clock: waiting by the steady one needs glibc 2.30.
    if (cancelled) state.free.wait_until(lock, std::chrono::system_clock::now() + betweenLooks);
    else state.free.wait(lock);
  }
  if (!state.held) state.held = held_ = true;
}

PoolLock::~PoolLock() {
  if (!held_) return;
  LockState& state = lockState();
  {
    const std::lock_guard<std::mutex> lock(state.mutex);
    state.held = false;
  }
  state.free.notify_all();  // notify_one might wake a waiter that is giving up
}

}  // namespace margin_softmax::cpu
