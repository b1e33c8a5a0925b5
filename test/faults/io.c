// Preloaded (LD_PRELOAD) into a Node.js whose file operations are to fail: the n-th call that concerns a path with
// $FAULT_PATH in it fails with an error, or reads and writes only half. faults-io.test.ts compiles it.
//
//   $FAULT       serial:n:errno, or serial:n:short; another serial begins to count anew, and none is no fault
//   $FAULT_LOG   a file to which the call that fails is written, as its name
//
// The program sets $FAULT itself (process.env calls setenv), while no file operation runs.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { none = 0, shortened = -1 };

static long rawSyscall(long number, long a, long b, long c, long d, long e, long f) {
  static long (*real)(long, ...);
  if (!real) real = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
  return real(number, a, b, c, d, e, f);
}

static int concernsPath(const char* path) {
  const char* part = getenv("FAULT_PATH");
  return part && path && strstr(path, part) != NULL;
}

static int concernsFile(int file) {
  char link[64], name[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  const long length = rawSyscall(SYS_readlinkat, AT_FDCWD, (long)link, (long)name, sizeof name - 1, 0, 0);
  if (length < 0) return 0;
  name[length] = 0;
  return concernsPath(name);
}

static void report(const char* call) {
  const char* log = getenv("FAULT_LOG");
  if (!log) return;
  const long file = rawSyscall(SYS_openat, AT_FDCWD, (long)log, O_WRONLY | O_CREAT | O_APPEND, 0600, 0, 0);
  rawSyscall(SYS_write, file, (long)call, (long)strlen(call), 0, 0, 0);
  rawSyscall(SYS_close, file, 0, 0, 0, 0, 0);
}

// Chooses the fault of this call: none, shortened, or the errno to fail with.
static int fault(const char* call, int concerned, int canBeShort) {
  static long count, serial = -1;
  const char* given = getenv("FAULT");
  if (!given || !concerned) return none;
  char what[16] = "";
  long now, at;
  if (sscanf(given, "%ld:%ld:%15s", &now, &at, what) != 3) return none;
  const int shortens = !strcmp(what, "short");
  if (shortens && !canBeShort) return none;
  if (__atomic_exchange_n(&serial, now, __ATOMIC_SEQ_CST) != now) __atomic_store_n(&count, 0, __ATOMIC_SEQ_CST);
  if (__atomic_add_fetch(&count, 1, __ATOMIC_SEQ_CST) != at) return none;
  report(call);
  return shortens ? shortened : atoi(what);
}

#define REAL(name)               \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)
#define FAIL(call, concerned)                    \
  const int failure = fault(call, concerned, 0); \
  if (failure > 0) {                             \
    errno = failure;                             \
    return -1;                                   \
  }
#define FAIL_OR_SHORTEN(call)                             \
  const int failure = fault(call, concernsFile(file), 1); \
  if (failure > 0) {                                      \
    errno = failure;                                      \
    return -1;                                            \
  }                                                       \
  if (failure == shortened && length > 1) length /= 2

ssize_t write(int file, const void* bytes, size_t length) {
  REAL(write);
  FAIL_OR_SHORTEN("write");
  return real(file, bytes, length);
}
ssize_t pwrite(int file, const void* bytes, size_t length, off_t at) {
  REAL(pwrite);
  FAIL_OR_SHORTEN("pwrite");
  return real(file, bytes, length, at);
}
ssize_t pwrite64(int file, const void* bytes, size_t length, off64_t at) {
  REAL(pwrite64);
  FAIL_OR_SHORTEN("pwrite");
  return real(file, bytes, length, at);
}
ssize_t read(int file, void* bytes, size_t length) {
  REAL(read);
  FAIL_OR_SHORTEN("read");
  return real(file, bytes, length);
}
ssize_t pread(int file, void* bytes, size_t length, off_t at) {
  REAL(pread);
  FAIL_OR_SHORTEN("pread");
  return real(file, bytes, length, at);
}
ssize_t pread64(int file, void* bytes, size_t length, off64_t at) {
  REAL(pread64);
  FAIL_OR_SHORTEN("pread");
  return real(file, bytes, length, at);
}
// Several buffers at once: only failed, never shortened.
ssize_t writev(int file, const struct iovec* parts, int count) {
  REAL(writev);
  FAIL("writev", concernsFile(file));
  return real(file, parts, count);
}
ssize_t pwritev64(int file, const struct iovec* parts, int count, off64_t at) {
  REAL(pwritev64);
  FAIL("pwritev", concernsFile(file));
  return real(file, parts, count, at);
}
int fsync(int file) {
  REAL(fsync);
  FAIL("fsync", concernsFile(file));
  return real(file);
}
int ftruncate64(int file, off64_t length) {
  REAL(ftruncate64);
  FAIL("ftruncate", concernsFile(file));
  return real(file, length);
}
int fchmod(int file, mode_t mode) {
  REAL(fchmod);
  FAIL("fchmod", concernsFile(file));
  return real(file, mode);
}
int fchown(int file, uid_t user, gid_t group) {
  REAL(fchown);
  FAIL("fchown", concernsFile(file));
  return real(file, user, group);
}
int rename(const char* from, const char* to) {
  REAL(rename);
  FAIL("rename", concernsPath(to));
  return real(from, to);
}
int unlink(const char* path) {
  REAL(unlink);
  FAIL("unlink", concernsPath(path));
  return real(path);
}
ssize_t readlink(const char* path, char* name, size_t length) {
  REAL(readlink);
  FAIL("readlink", concernsPath(path));
  return real(path, name, length);
}
static int modeOf(int flags, va_list given) { return flags & (O_CREAT | O_TMPFILE) ? va_arg(given, int) : 0; }
#define OPENS(name)                            \
  int name(const char* path, int flags, ...) { \
    REAL(name);                                \
    FAIL("open", concernsPath(path));          \
    va_list given;                             \
    va_start(given, flags);                    \
    const int mode = modeOf(flags, given);     \
    va_end(given);                             \
    return real(path, flags, mode);            \
  }
OPENS(open)
OPENS(open64)
// Closes in any case, as Linux does.
static int failClose(int file) { return fault("close", concernsFile(file), 0); }
int close(int file) {
  REAL(close);
  const int failure = failClose(file);
  const int result = real(file);
  if (failure > 0) errno = failure;
  return failure > 0 ? -1 : result;
}
// libuv closes and stats through this.
long syscall(long number, ...) {
  va_list given;
  va_start(given, number);
  long a[6];
  for (int i = 0; i < 6; i++) a[i] = va_arg(given, long);
  va_end(given);
  int failure = none;
  if (number == SYS_close) failure = failClose((int)a[0]);
  if (number == SYS_statx) {
    const char* path = (const char*)a[1];
    failure = fault("statx", path && *path ? concernsPath(path) : concernsFile((int)a[0]), 0);
    if (failure > 0) {
      errno = failure;
      return -1;
    }
  }
  const long result = rawSyscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
  if (failure > 0) errno = failure;
  return failure > 0 ? -1 : result;
}
