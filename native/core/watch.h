// Waiting for another thread without sleeping. Waking a sleeping thread takes 5 µs, on a virtual
// machine 40 to 90 µs: as long as a small step. So a waiting thread watches first, for at most 200
// µs, and only if its last wait was as short. After a watch in vain it does not watch for a while,
// each time twice as long, up to a second. An idle program therefore uses no processor, and long
// waits, or those on a machine with more threads than cores, are slept through.
#pragma once
#include <algorithm>
#include <chrono>

namespace margin_softmax {

// Tells the processor that this thread only waits.
inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// The waits of one thread, one after the other. It shares a mutex with the threads that it waits
// for.
class Watch {
 public:
  // Begins a wait. The caller holds the mutex.
  void begin() {
    begun_ = Clock::now();
    waiting_ = true;
    watching_ = worthwhile_ && begun_ >= rested_;
  }
  // Ends the wait, whether the thread watches or sleeps. The caller holds the mutex.
  void end() {
    if (waiting_) worthwhile_ = Clock::now() - begun_ < longestWatch;
    waiting_ = false;
  }
  // True if the waiting thread should go on watching. It has just looked: `arrived` is what it saw.
  bool goesOn(bool arrived) {
    if (!watching_) return false;
    const Clock::time_point now = Clock::now();
    if (now - begun_ < longestWatch) {
      if (arrived) rest_ = shortestRest;
      return !arrived;
    }
    watching_ = false;
    rested_ = now + rest_;
    rest_ = std::min(2 * rest_, longestRest);
    return false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds longestWatch{200};
  static constexpr std::chrono::milliseconds shortestRest{2}, longestRest{1000};

  Clock::time_point begun_, rested_;
  std::chrono::milliseconds rest_ = shortestRest;
  bool waiting_ = false, watching_ = false, worthwhile_ = false;
};

}  // namespace margin_softmax
