// Only in prebuilt binaries for Linux with glibc (CMake: MARGIN_SOFTMAX_GLIBC_FLOOR): a binary that
// was linked on a new system loads on every system that Node.js itself runs on. Our code needs
// nothing of a new glibc, but the linker binds each function to the newest version of its symbol,
// and libstdc++, libgcc and cudart are linked in as the build machine has them. So each function
// below is defined again in this binary, hidden, and jumps to the oldest version that glibc still
// has. test/suites/install.test.ts reads the versions of the finished binary and names the symbol
// that is missing here.
#if defined(MARGIN_SOFTMAX_GLIBC_FLOOR)

#include <dlfcn.h>
#include <features.h>
#include <link.h>

#if defined(__x86_64__)
#define OLDEST "GLIBC_2.2.5"
#define OLDEST_DLMOPEN "GLIBC_2.3.4"
#define JUMP(to) "jmp " to "@PLT"
#elif defined(__aarch64__)
#define OLDEST "GLIBC_2.17"
#define OLDEST_DLMOPEN "GLIBC_2.17"
#define JUMP(to) "b " to
#else
#error "The oldest symbol versions of glibc are known here for x86_64 and aarch64 only"
#endif
// A jump, not a call: dlopen and dlsym look at who called them. A section of its own, so that the
// linker drops what is unused.
#define AT(name, version) \
  asm(".symver oldest_" #name ", " #name "@" version "\n" \
      ".pushsection .text." #name ", \"ax\", %progbits\n" \
      ".globl " #name "\n"                                \
      ".hidden " #name "\n"                               \
      ".type " #name ", %function\n"                      \
      #name ": " JUMP("oldest_" #name) "\n"               \
      ".size " #name ", . - " #name "\n"                  \
      ".popsection\n")
#define FLOOR(name) AT(name, OLDEST)

// From glibc 2.29 on the same results without the error handling of System V.
FLOOR(exp);
FLOOR(log);
FLOOR(pow);
// In libdl, libpthread and librt before glibc 2.34.
FLOOR(dlclose);
FLOOR(dlerror);
FLOOR(dlopen);
FLOOR(dlsym);
FLOOR(dlvsym);
AT(dlmopen, OLDEST_DLMOPEN);
FLOOR(pthread_create);
FLOOR(pthread_detach);
FLOOR(pthread_join);
FLOOR(pthread_kill);
FLOOR(pthread_once);
FLOOR(pthread_getspecific);
FLOOR(pthread_setspecific);
FLOOR(pthread_key_create);
FLOOR(pthread_key_delete);
FLOOR(__pthread_key_create);
FLOOR(pthread_condattr_setpshared);
FLOOR(pthread_mutex_trylock);
FLOOR(pthread_mutexattr_destroy);
FLOOR(pthread_mutexattr_init);
FLOOR(pthread_mutexattr_setpshared);
FLOOR(pthread_mutexattr_settype);
FLOOR(pthread_rwlock_destroy);
FLOOR(pthread_rwlock_init);
FLOOR(pthread_rwlock_rdlock);
FLOOR(pthread_rwlock_timedrdlock);
FLOOR(pthread_rwlock_timedwrlock);
FLOOR(pthread_rwlock_tryrdlock);
FLOOR(pthread_rwlock_trywrlock);
FLOOR(pthread_rwlock_unlock);
FLOOR(pthread_rwlock_wrlock);
FLOOR(pthread_rwlockattr_destroy);
FLOOR(pthread_rwlockattr_init);
FLOOR(pthread_rwlockattr_setpshared);
FLOOR(pthread_spin_destroy);
FLOOR(pthread_spin_init);
FLOOR(pthread_spin_lock);
FLOOR(pthread_spin_trylock);
FLOOR(pthread_spin_unlock);
FLOOR(sem_destroy);
FLOOR(sem_init);
FLOOR(sem_post);
FLOOR(sem_timedwait);
FLOOR(sem_trywait);
FLOOR(sem_wait);
FLOOR(shm_open);
FLOOR(shm_unlink);

// From 2.32 on: whether reference counts may do without atomic operations. They may not: we have
// threads.
extern "C" {
extern __attribute__((visibility("hidden"))) char __libc_single_threaded;
char __libc_single_threaded = 0;
}

#if __GLIBC_PREREQ(2, 35)
namespace {

struct Search {
  const char* address;
  dl_find_object* found;
};

// Whether `object` has the address; then also where its table of unwinding is.
int holds(dl_phdr_info* object, size_t, void* context) {
  Search* const search = static_cast<Search*>(context);
  const char* const base = reinterpret_cast<const char*>(object->dlpi_addr);
  const char* table = nullptr;
  bool inside = false;
  for (int i = 0; i < object->dlpi_phnum; i++) {
    const ElfW(Phdr) & segment = object->dlpi_phdr[i];
    const char* const start = base + segment.p_vaddr;
    if (segment.p_type == PT_GNU_EH_FRAME) table = start;
    if (segment.p_type != PT_LOAD || search->address < start || search->address >= start + segment.p_memsz) continue;
    inside = true;
    search->found->dlfo_map_start = const_cast<char*>(start);
    search->found->dlfo_map_end = const_cast<char*>(start + segment.p_memsz);
  }
  if (!inside || !table) return 0;
  search->found->dlfo_eh_frame = const_cast<char*>(table);
  return 1;
}

}  // namespace

// From 2.35 on: how libgcc finds the table that an exception is unwound by. This is what it did
// before, a little slower.
extern "C" __attribute__((visibility("hidden"))) int _dl_find_object(void* address, dl_find_object* found) {
  *found = {};
  Search search{static_cast<const char*>(address), found};
  return dl_iterate_phdr(holds, &search) == 1 ? 0 : -1;
}
#endif

#endif
