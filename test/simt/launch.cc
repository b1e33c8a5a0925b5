// Launches: a grid's blocks, one after the other on each thread of the system.
#include <sys/mman.h>

#include <memory>
#include <mutex>
#include <thread>

#include "engine.h"

namespace simt {
namespace {

thread_local std::string faultOfLastLaunch;

void runBlock(Block& block, uint3 index, dim3 grid, dim3 size, size_t sharedBytes) {
  const int count = static_cast<int>(size.x * size.y * size.z), warps = (count + 31) / 32;
  block.sharedBytes = sharedBytes;
  resetArena(block);
  block.error.clear();
  block.alive = count;
  block.random = static_cast<unsigned>(options().order) + index.x * 7919 + index.y * 104729;
  block.barrier = BlockBarrier{};
  block.barrier.waiting.resize(warps);
  block.warps.assign(warps, Warp{});
  if (block.fibres.size() < static_cast<size_t>(count)) block.fibres.resize(count);
  block.threads = count;
  // One sanitizer fibre serves another thread of each block, or races between equal threads of two blocks would hide.
  for (int i = 0; threadSanitizer() && i < count; i++) {
    std::swap(block.fibres[i].stack, block.fibres[(i + 33) % count].stack);
    std::swap(block.fibres[i].tsanFibre, block.fibres[(i + 33) % count].tsanFibre);
  }
  for (unsigned i = 0; i < static_cast<unsigned>(count); i++) {
    Fibre& fibre = block.fibres[i];
    fibre.thread = {{i % size.x, i / size.x % size.y, i / size.x / size.y}, index, size, grid, i % 32, i / 32, i};
    fibre.done = false;
    fibre.waitsIn = nullptr;
    fibre.copies.clear();
    fibre.groups.clear();
    block.warps[i / 32].ready |= 1u << i % 32;
    startFibre(fibre);
  }
  block.main.stack = nullptr;  // of whichever thread runs the block now
  block.main.thread.lane = 31;
  block.current = &block.main;
  if (threadSanitizer()) {
    block.main.tsanFibre = __tsan_get_current_fiber();
    __tsan_release(&block.arena);
  }
  switchTo(nextFibre());
  block.current = nullptr;
  self = nullptr;
}

// Blocks wait here for the next launch: fresh stacks for hundreds of fibres would cost more than a small kernel. Never
// destroyed: threads may still work while the process ends.
struct Idle {
  std::mutex mutex;
  std::vector<std::unique_ptr<Block>> blocks;
};
Idle& idle() {
  static Idle* const idle = new Idle;
  return *idle;
}

std::unique_ptr<Block> takeBlock() {
  const std::lock_guard<std::mutex> lock(idle().mutex);
  if (idle().blocks.empty()) return std::make_unique<Block>();
  std::unique_ptr<Block> block = std::move(idle().blocks.back());
  idle().blocks.pop_back();
  return block;
}

// Under ThreadSanitizer the launcher sees all that the fibres did, those abandoned by a fault included, and fibres end
// with their launch: another's must not seem to follow them.
void giveBack(std::unique_ptr<Block> block) {
  for (Fibre& fibre : block->fibres) {
    if (!fibre.tsanFibre) continue;
    __tsan_switch_to_fiber(fibre.tsanFibre, 1);
    __tsan_release(&block->main);
  }
  if (!threadSanitizer()) {
    const std::lock_guard<std::mutex> lock(idle().mutex);
    idle().blocks.push_back(std::move(block));
    return;
  }
  __tsan_switch_to_fiber(block->main.tsanFibre, 1);
  __tsan_acquire(&block->main);
  for (Fibre& fibre : block->fibres) {
    if (fibre.stack) munmap(fibre.stack, stackBytes);
    if (fibre.tsanFibre) __tsan_destroy_fiber(fibre.tsanFibre);
  }
  if (block->arena) munmap(block->arena, arenaBytes);
}

}  // namespace

const char* lastFault() { return faultOfLastLaunch.c_str(); }

cudaError_t launchBody(void (*body)(void*), void* argument, dim3 grid, dim3 size, size_t sharedBytes) {
  faultOfLastLaunch.clear();
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z, threads = uint64_t{size.x} * size.y * size.z;
  if (!blocks || !threads || threads > 1024 || grid.y > 65535 || grid.z > 65535 || sharedBytes > mostShared)
    return cudaErrorInvalidConfiguration;
  if (skipsWork()) return cudaGetLastError();
  std::atomic<uint64_t> nextBlock{0};
  std::mutex mutex;
  std::string error;
  const auto work = [&] {
    std::unique_ptr<Block> owned = takeBlock();
    Block& block = *(running = owned.get());
    block.body = body;
    block.argument = argument;
    for (uint64_t i; (i = nextBlock.fetch_add(1)) < blocks;) {
      const uint64_t at = options().order == 1 ? blocks - 1 - i : i;
      const uint3 index = {static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
                           static_cast<unsigned>(at / grid.x / grid.y)};
      runBlock(block, index, grid, size, sharedBytes);
      if (block.error.empty()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (error.empty()) error = block.error;
      nextBlock = blocks;
    }
    running = nullptr;
    const Unwatched unwatched;
    giveBack(std::move(owned));
  };
  const unsigned wanted = threadSanitizer()   ? 1
                          : options().threads ? static_cast<unsigned>(options().threads)
                                              : std::max(1u, std::thread::hardware_concurrency());
  std::vector<std::thread> others;
  for (uint64_t i = 1; i < std::min<uint64_t>(wanted, blocks); i++) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  if (error.empty()) return cudaGetLastError();  // as after a launch in gpu.cuh: also an earlier call's
  faultOfLastLaunch = error;
  return leaveLaunch(cudaErrorLaunchFailure);
}

}  // namespace simt
