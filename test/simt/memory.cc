// Shared memory in pieces with red zones, and copies that land as late as they may: see simt.h.
#include <sys/mman.h>

#include "engine.h"

namespace simt {

static char* handOut(char* at, size_t bytes) {
  if (addressSanitizer()) __asan_unpoison_memory_region(at, bytes);
  return at;
}

void* staticShared(const void* identity, size_t bytes, size_t alignment) {
  for (const StaticPiece& piece : running->statics)
    if (piece.identity == identity) return piece.at;
  if (running->staticTop + bytes > mostStatic || alignment > redZone)
    fault({"static shared memory", 0}, "%zu bytes beside %zu", bytes, running->staticTop);
  char* at = running->arena + arenaBytes / 2 + running->staticTop;
  running->staticTop += (bytes + redZone - 1) / redZone * redZone + redZone;
  {
    const Unwatched unwatched;
    running->statics.push_back({identity, at});
  }
  return handOut(at, bytes);
}

void* dynamicShared(size_t offset, size_t bytes, unsigned piece, Site site) {
  if (offset + bytes > running->sharedBytes)
    fault(site, "a piece of shared memory ends at %zu, but the launch asked for %zu bytes", offset + bytes,
          running->sharedBytes);
  return handOut(running->arena + offset + (piece + 1) * redZone, bytes);
}

// Everything poisoned; fresh addresses under ThreadSanitizer, so that no race with an earlier block is seen.
void resetArena(Block& block) {
  if (threadSanitizer() && block.arena) {
    munmap(block.arena, arenaBytes);
    block.arena = nullptr;
  }
  if (!block.arena) block.arena = static_cast<char*>(mapMemory(arenaBytes));
  if (addressSanitizer()) __asan_unpoison_memory_region(block.arena, arenaBytes);
  std::memset(block.arena, poisonByte, block.sharedBytes + 32 * redZone);
  std::memset(block.arena + arenaBytes / 2, poisonByte, mostStatic);
  if (addressSanitizer()) __asan_poison_memory_region(block.arena, arenaBytes);
  block.statics.clear();
  block.staticTop = 0;
}

// From now until the wait the destination is unusable, whenever the copy really lands: who reads too early, or had not
// finished reading, meets NaN.
void copyAsync(void* shared, const void* global, int bytes, bool valid, Site site) {
  if (reinterpret_cast<uintptr_t>(shared) % bytes || (valid && reinterpret_cast<uintptr_t>(global) % bytes))
    fault(site, "an asynchronous copy is not aligned to %d bytes", bytes);
  std::memset(shared, poisonByte, static_cast<size_t>(bytes));
  const Unwatched unwatched;
  running->current->copies.push_back({shared, global, static_cast<size_t>(bytes), valid});
}

void commitCopies() {
  const Unwatched unwatched;
  running->current->groups.push_back(running->current->copies.size());
}

void waitCopies(int pending) {
  auto& groups = running->current->groups;
  auto& copies = running->current->copies;
  if (static_cast<int>(groups.size()) <= pending) return;
  const size_t landed = groups.size() - static_cast<size_t>(pending), count = groups[landed - 1];
  for (size_t i = 0; i < count; i++) {
    if (copies[i].valid) std::memcpy(copies[i].to, copies[i].from, copies[i].bytes);
    else std::memset(copies[i].to, 0, copies[i].bytes);
  }
  const Unwatched unwatched;
  copies.erase(copies.begin(), copies.begin() + static_cast<ptrdiff_t>(count));
  groups.erase(groups.begin(), groups.begin() + static_cast<ptrdiff_t>(landed));
  for (size_t& end : groups) end -= count;
}

}  // namespace simt
