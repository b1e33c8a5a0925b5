// LD_PRELOAD: lets allocations of the addon fail: malloc and its kin (operator new comes through them), mmap, and the
// making of threads. Those of Node.js itself are left alone: V8 ends the process where it gets no memory.
//
// The file that $MARGIN_SOFTMAX_FAULTS names holds eight numbers of 8 bytes, which both sides read and write:
//   [0] which allocation from now on fails, 1 being the next; 0: none
//   [1] allocations seen since [0] was written (by who wrote it, set to 0)
//   [2] 1: every later one fails, too
//   [3] how many have failed
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { wanted, seen, onwards, failed };

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void*, size_t);
extern void* __libc_memalign(size_t, size_t);
static void* (*real_mmap)(void*, size_t, int, int, int, off_t);
static int (*real_pthread_create)(pthread_t*, const pthread_attr_t*, void* (*)(void*), void*);

static volatile int64_t* control;
static uintptr_t addon_begin, addon_end;

__attribute__((constructor)) static void begin(void) {
  real_mmap = dlsym(RTLD_NEXT, "mmap");
  real_pthread_create = dlsym(RTLD_NEXT, "pthread_create");
  const char* name = getenv("MARGIN_SOFTMAX_FAULTS");
  const int file = name ? open(name, O_RDWR | O_CLOEXEC) : -1;
  if (file < 0) return;
  void* memory = real_mmap(NULL, 64, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  if (memory != MAP_FAILED) control = memory;
  close(file);
}

static int look_for_addon(struct dl_phdr_info* info, size_t size, void* data) {
  (void)size, (void)data;
  if (!strstr(info->dlpi_name, "margin_softmax")) return 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
    const uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, to = from + info->dlpi_phdr[i].p_memsz;
    if (!addon_begin || from < addon_begin) addon_begin = from;
    if (to > addon_end) addon_end = to;
  }
  return 1;
}

// Whether an allocation that is asked for by the code at `caller` is to fail.
static int fails(const void* caller) {
  static __thread int inside;
  if (!control || !control[wanted] || inside) return 0;
  inside = 1;
  if (!addon_begin) dl_iterate_phdr(look_for_addon, NULL);
  int result = 0;
  if ((uintptr_t)caller >= addon_begin && (uintptr_t)caller < addon_end) {
    const int64_t number = __atomic_add_fetch(&control[seen], 1, __ATOMIC_SEQ_CST);
    result = number == control[wanted] || (control[onwards] && number > control[wanted]);
    if (result) __atomic_add_fetch(&control[failed], 1, __ATOMIC_SEQ_CST);
  }
  inside = 0;
  if (result) errno = ENOMEM;
  return result;
}

#define FAILS fails(__builtin_return_address(0))

void* malloc(size_t size) { return FAILS ? NULL : __libc_malloc(size); }
void* calloc(size_t count, size_t size) { return FAILS ? NULL : __libc_calloc(count, size); }
void* realloc(void* old, size_t size) { return FAILS ? NULL : __libc_realloc(old, size); }
void* aligned_alloc(size_t alignment, size_t size) { return FAILS ? NULL : __libc_memalign(alignment, size); }
int posix_memalign(void** to, size_t alignment, size_t size) {
  if (FAILS) return ENOMEM;
  *to = __libc_memalign(alignment, size);
  return *to ? 0 : ENOMEM;
}
void* mmap(void* at, size_t size, int protection, int flags, int file, off_t offset) {
  if (FAILS) return MAP_FAILED;
  return real_mmap ? real_mmap(at, size, protection, flags, file, offset) : MAP_FAILED;
}
int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) {
  return FAILS ? EAGAIN : real_pthread_create(thread, attributes, start, argument);
}
