// Waiting for another thread without sleeping. A thread that sleeps is awake some 5 µs after it was called, on a virtual
// machine 40 to 90: as long as a small step takes. So who waits watches first, for at most 200 µs, and only where the
// last wait was as short. After a watch in vain it rests, each time twice as long, up to a second. So an idle program
// does nothing, and long waits, and those of a machine with more threads than cores, are slept through.
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

// Of one thread that waits, one wait after the other. It shares a mutex with those whom it waits for.
class Watch {
 public:
  // A wait begins. Called with the mutex.
  void begin() {
    begun_ = Clock::now();
    waiting_ = true;
    watching_ = worthwhile_ && begun_ >= rested_;
  }
  // What the thread waits for has come, whether it watches or sleeps. Called with the mutex.
  void end() {
    if (waiting_) worthwhile_ = Clock::now() - begun_ < most;
    waiting_ = false;
  }
  // Tells whether to go on watching. Called by the thread that waits, which has just looked whether it has come.
  bool goesOn(bool come) {
    if (!watching_) return false;
    const Clock::time_point now = Clock::now();
    if (now - begun_ < most) {
      if (come) rest_ = shortestRest;
      return !come;
    }
    watching_ = false;
    rested_ = now + rest_;
    rest_ = std::min(2 * rest_, longestRest);
    return false;
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::microseconds most{200};
  static constexpr std::chrono::milliseconds shortestRest{2}, longestRest{1000};

  Clock::time_point begun_, rested_;
  std::chrono::milliseconds rest_ = shortestRest;
  bool waiting_ = false, watching_ = false, worthwhile_ = false;
};

}  // namespace margin_softmax
