// The shim's inside: fibres, warps and the block that a thread of the system is running. Compiled without sanitizers;
// their run-times are found through weak symbols, so that one object serves plain, ASan and TSan builds.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "simt.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#define SIMT_UCONTEXT 1
#endif

extern "C" {
#define WEAK __attribute__((weak))
WEAK void __sanitizer_start_switch_fiber(void**, const void*, size_t);
WEAK void __sanitizer_finish_switch_fiber(void*, const void**, size_t*);
WEAK void __asan_poison_memory_region(const volatile void*, size_t);
WEAK void __asan_unpoison_memory_region(const volatile void*, size_t);
WEAK void* __tsan_get_current_fiber();
WEAK void* __tsan_create_fiber(unsigned);
WEAK void __tsan_destroy_fiber(void*);
WEAK void __tsan_switch_to_fiber(void*, unsigned);
WEAK void __tsan_acquire(void*);
WEAK void __tsan_release(void*);
WEAK void AnnotateIgnoreReadsBegin(const char*, int);
WEAK void AnnotateIgnoreReadsEnd(const char*, int);
WEAK void AnnotateIgnoreWritesBegin(const char*, int);
WEAK void AnnotateIgnoreWritesEnd(const char*, int);
#undef WEAK
}

namespace simt {

inline bool addressSanitizer() { return __asan_poison_memory_region != nullptr; }
inline bool threadSanitizer() { return __tsan_create_fiber != nullptr; }

constexpr size_t stackBytes = 256 << 10;
constexpr size_t arenaBytes = 1 << 20;  // of a block's shared memory: dynamic in the lower half, static in the upper
constexpr size_t redZone = 256;         // behind each piece
constexpr size_t mostStatic = 48 << 10, mostShared = 227 << 10;  // an H100's
constexpr int poisonByte = 0xff;                                 // NaN as float and bfloat16, −1 as an integer

// The engine's own bookkeeping is no memory traffic of the kernel.
struct Unwatched {
  Unwatched() {
    if (threadSanitizer()) AnnotateIgnoreReadsBegin("", 0), AnnotateIgnoreWritesBegin("", 0);
  }
  ~Unwatched() {
    if (threadSanitizer()) AnnotateIgnoreReadsEnd("", 0), AnnotateIgnoreWritesEnd("", 0);
  }
};

struct PendingCopy {
  void* to;
  const void* from;
  size_t bytes;
  bool valid;
};

struct Fibre {
  Thread thread{};
  char* stack = nullptr;
  size_t stackSize = stackBytes;
  void* stackPointer = nullptr;
#if defined(SIMT_UCONTEXT)
  ucontext_t context;
#endif
  void *tsanFibre = nullptr, *asanFakeStack = nullptr;
  const char* waitsIn = nullptr;  // null while it can run
  Site site{};
  bool done = false;
  uint8_t barrierParity[16] = {};   // of warp barriers, by a hash of their mask
  std::vector<PendingCopy> copies;  // asynchronous copies under way
  std::vector<size_t> groups;       // copies.size() at each commit
};

struct Warp {
  uint32_t ready = 0, waiting = 0;
  void* arguments[32];
  unsigned mask[32];
  const char* what[32];
  char tsanSync[16][2];
};

// The barrier of a whole block. Two sanitizer objects, used in turn: a thread that runs ahead must not release into the one that
// others are still to acquire.
struct BlockBarrier {
  int arrived = 0, votes = 0, lastVotes = 0;
  unsigned phase = 0;
  Site site{};
  std::vector<uint32_t> waiting;  // lanes, by warp
  char tsanSync[2];
};

struct StaticPiece {
  const void* identity;
  char* at;
};

struct Block {
  std::vector<Fibre> fibres;  // of which the first `threads` are in use
  int threads = 0;
  std::vector<Warp> warps;
  BlockBarrier barrier;
  Fibre main;  // the system's own stack
  Fibre* current = nullptr;
  int alive = 0;
  unsigned random = 1;
  char* arena = nullptr;
  size_t staticTop = 0, sharedBytes = 0;
  std::vector<StaticPiece> statics;
  void (*body)(void*) = nullptr;
  void* argument = nullptr;
  std::string error;
};
extern thread_local Block* running;

void switchTo(Fibre* next);
Fibre* nextFibre();
void startFibre(Fibre& fibre);
void* mapMemory(size_t bytes);
void resetArena(Block& block);

}  // namespace simt
