// Fibres and what they wait for in each other: see engine.h.
#include "engine.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <new>

namespace simt {

thread_local Thread* self;
thread_local Block* running;

static int fromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : 0;
}

const Options& options() {
  static const Options fromStart{fromEnvironment("SIMT_ORDER"), fromEnvironment("SIMT_THREADS")};
  return fromStart;
}

void* mapMemory(size_t bytes) {
  void* at = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (at == MAP_FAILED) throw std::bad_alloc();
  return at;
}

// ---- switching ----

#if !defined(SIMT_UCONTEXT)
// Six registers and the stack pointer: six times as fast as swapcontext, which asks the system twice per switch.
asm(R"(.text
.globl margin_softmax_simt_switch
.hidden margin_softmax_simt_switch
.type margin_softmax_simt_switch,@function
margin_softmax_simt_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size margin_softmax_simt_switch,.-margin_softmax_simt_switch)");
extern "C" __attribute__((visibility("hidden"))) void margin_softmax_simt_switch(void** save, void* next);
#endif

static void finishSwitch() {
  if (!addressSanitizer()) return;
  const void* from;
  size_t size;
  __sanitizer_finish_switch_fiber(running->current->asanFakeStack, &from, &size);
  if (!running->main.stack) {
    running->main.stack = static_cast<char*>(const_cast<void*>(from));
    running->main.stackSize = size;
  }
}

void switchTo(Fibre* next) {
  Fibre* previous = running->current;
  if (next == previous) return;
  running->current = next;
  self = &next->thread;
  if (threadSanitizer()) __tsan_switch_to_fiber(next->tsanFibre, 1);  // 1: a switch synchronises nothing
  if (addressSanitizer()) __sanitizer_start_switch_fiber(&previous->asanFakeStack, next->stack, next->stackSize);
#if defined(SIMT_UCONTEXT)
  swapcontext(&previous->context, &next->context);
#else
  margin_softmax_simt_switch(&previous->stackPointer, next->stackPointer);
#endif
  finishSwitch();
}

static void runFibre() {
  finishSwitch();
  if (threadSanitizer()) __tsan_acquire(&running->arena);
  running->body(running->argument);
  Fibre* own = running->current;
  own->done = true;
  running->alive--;
  running->warps[own->thread.warp].ready &= ~(1u << own->thread.lane);
  switchTo(nextFibre());
}

void startFibre(Fibre& fibre) {
  if (!fibre.stack) fibre.stack = static_cast<char*>(mapMemory(stackBytes));
  if (addressSanitizer()) __asan_unpoison_memory_region(fibre.stack, stackBytes);
  fibre.asanFakeStack = nullptr;
  if (threadSanitizer() && !fibre.tsanFibre) fibre.tsanFibre = __tsan_create_fiber(0);
#if defined(SIMT_UCONTEXT)
  getcontext(&fibre.context);
  fibre.context.uc_stack.ss_sp = fibre.stack;
  fibre.context.uc_stack.ss_size = stackBytes;
  fibre.context.uc_link = nullptr;
  makecontext(&fibre.context, runFibre, 0);
#else
  void** top = reinterpret_cast<void**>(fibre.stack + stackBytes) - 8;  // six registers, a return address, padding
  for (int i = 0; i < 8; i++) top[i] = nullptr;
  top[6] = reinterpret_cast<void*>(&runFibre);
  fibre.stackPointer = top;
#endif
}

// ---- scheduling ----

void fault(Site site, const char* format, ...) {
  char text[400], whole[800];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(text, sizeof(text), format, arguments);
  va_end(arguments);
  const Thread& at = running->current->thread;
  const char* file = site.file ? std::strrchr(site.file, '/') : nullptr;
  std::snprintf(whole, sizeof(whole), "%s:%d: %s [block (%u,%u,%u) thread %u]", file ? file + 1 : site.file, site.line,
                text, at.block.x, at.block.y, at.block.z, at.linear);
  {
    const Unwatched unwatched;
    running->error = whole;
  }
  switchTo(&running->main);  // the block's fibres are abandoned
  __builtin_unreachable();
}

static void deadlock() {
  char text[300];
  int length = 0, exited = 0, shown = 0, lastLine = -1;
  Site site{"a kernel", 0};
  for (int i = 0; i < running->threads; i++) {
    const Fibre& fibre = running->fibres[i];
    exited += fibre.done;
    if (fibre.done || fibre.site.line == lastLine || ++shown > 4) continue;
    if (shown == 1) site = fibre.site;
    lastLine = fibre.site.line;
    length += std::snprintf(text + length, sizeof(text) - static_cast<size_t>(length),
                            " thread %u waits in %s of line %d;", fibre.thread.linear, fibre.waitsIn, lastLine);
  }
  fault(site, "deadlock:%s %d threads have exited", text, exited);
}

static int pickLane(uint32_t ready, int from) {
  if (options().order == 1) return 31 - std::countl_zero(ready);
  if (options().order >= 2) {
    running->random = running->random * 1664525u + 1013904223u;
    for (unsigned skip = (running->random >> 16) % std::popcount(ready); skip; skip--) ready &= ready - 1;
    return std::countr_zero(ready);
  }
  const uint32_t after = from < 31 ? ready & (~0u << (from + 1)) : 0;
  return std::countr_zero(after ? after : ready);
}

// Stays in a warp while it can run, so that warps drift as far apart as they may.
Fibre* nextFibre() {
  const Thread& own = running->current->thread;
  const int warps = static_cast<int>(running->warps.size()), order = options().order;
  int first = static_cast<int>(own.warp);
  if (order >= 2 && (running->random >> 20 & 7) == 0) first = static_cast<int>(running->random >> 24) % warps;
  for (int i = 0; i < warps; i++) {
    const int warp = order == 1 ? (first + warps - i) % warps : (first + i) % warps;
    const uint32_t ready = running->warps[warp].ready;
    if (ready) return &running->fibres[warp * 32 + pickLane(ready, warp == static_cast<int>(own.warp) ? own.lane : 31)];
  }
  if (running->alive) deadlock();
  return &running->main;
}

static void waitIn(const char* what, Site site) {
  Fibre* own = running->current;
  own->waitsIn = what;
  own->site = site;
  running->warps[own->thread.warp].ready &= ~(1u << own->thread.lane);
  switchTo(nextFibre());
  own->waitsIn = nullptr;
}

int blockBarrier(int vote, Site site) {
  Fibre* own = running->current;
  BlockBarrier& barrier = running->barrier;
  if (barrier.arrived == 0) barrier.site = site;
  else if (site.line != barrier.site.line || std::strcmp(site.file, barrier.site.file) != 0)
    fault(site, "divergent barrier: others of the block wait in the barrier of line %d", barrier.site.line);
  const unsigned phase = barrier.phase & 1;
  if (threadSanitizer()) __tsan_release(&barrier.tsanSync[phase]);
  barrier.arrived++;
  barrier.votes += vote != 0;
  barrier.waiting[own->thread.warp] |= 1u << own->thread.lane;
  // A thread that has exited never arrives: on a GPU that is undefined or a hang, here it is a fault.
  if (barrier.arrived == running->threads) {
    for (size_t warp = 0; warp < running->warps.size(); warp++) {
      running->warps[warp].ready |= barrier.waiting[warp];
      barrier.waiting[warp] = 0;
    }
    barrier.lastVotes = barrier.votes;
    barrier.arrived = barrier.votes = 0;
    barrier.phase++;
    if (options().order >= 2) switchTo(nextFibre());
  } else {
    waitIn("__syncthreads", site);
  }
  if (threadSanitizer()) __tsan_acquire(&barrier.tsanSync[phase]);
  return barrier.lastVotes;
}

void warpCollective(const char* what, unsigned mask, void* arguments, Combine combine, Site site, bool aligned) {
  Fibre* own = running->current;
  Warp& warp = running->warps[own->thread.warp];
  const unsigned lane = own->thread.lane, bit = 1u << lane;
  if (!(mask & bit)) fault(site, "lane %u calls %s with the mask %08x, which does not name it", lane, what, mask);
  warp.arguments[lane] = arguments;
  warp.mask[lane] = mask;
  warp.what[lane] = what;
  for (unsigned rest = warp.waiting; rest; rest &= rest - 1) {
    const int other = std::countr_zero(rest);
    if (!(mask >> other & 1) && !(warp.mask[other] & bit)) continue;
    const Fibre& waits = running->fibres[own->thread.warp * 32 + other];
    if (warp.mask[other] != mask)
      fault(site, "lane %u calls %s with the mask %08x but lane %d waits with %08x", lane, what, mask, other,
            warp.mask[other]);
    if (warp.what[other] != what || (aligned && waits.site.line != site.line))
      fault(site, "divergent warp: lane %u is in %s but lane %d waits in %s of line %d", lane, what, other,
            warp.what[other], waits.site.line);
    break;  // those who wait already agree with each other
  }
  if (((warp.waiting | bit) & mask) != mask) {
    warp.waiting |= bit;
    waitIn(what, site);
    return;
  }
  if (combine) {
    const Unwatched unwatched;
    combine(warp.arguments, mask);
  }
  warp.waiting &= ~mask;
  warp.ready |= mask;
}

void warpBarrier(unsigned mask, Site site) {
  Fibre* own = running->current;
  const unsigned hash = mask * 0x9e3779b1u >> 28;
  char* sync = &running->warps[own->thread.warp].tsanSync[hash][own->barrierParity[hash] ^= 1];
  if (threadSanitizer()) __tsan_release(sync);
  warpCollective("__syncwarp", mask, nullptr, nullptr, site, false);
  if (threadSanitizer()) __tsan_acquire(sync);
}

}  // namespace simt
