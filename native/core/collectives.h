// The table of a process group's functions. The addon of native/mpi makes it, and JavaScript hands
// it to the main addon. Different compilers may have compiled the two: plain data and C calling
// conventions only, and failures are values. All arrays are in host memory; exchange from GPU to
// GPU does not pass through here (device_exchange.h).
#pragma once
#include <cstdint>

#include "task.h"

namespace margin_softmax {

// Element types, in Node-API's order of typed arrays. (`clamped` has no arithmetic.)
enum class Element : int32_t {
  int8,
  uint8,
  clamped,
  int16,
  uint16,
  int32,
  uint32,
  float32,
  float64,
  int64,
  uint64,
  count
};

inline int64_t bytesOf(Element element) {
  switch (element) {
    case Element::int16:
    case Element::uint16:
      return 2;
    case Element::int32:
    case Element::uint32:
    case Element::float32:
      return 4;
    case Element::float64:
    case Element::int64:
    case Element::uint64:
      return 8;
    default:
      return 1;
  }
}

enum class ReduceOp : int32_t { sum, max, min, count };

struct Share {
  int64_t from = 0, count = 0;
};

// Divides `total` items evenly over `size` ranks: the first (total mod size) ranks get one more.
inline Share shareOf(int64_t total, int rank, int size) {
  const int64_t each = total / size, more = total % size;
  return {rank * each + (rank < more ? rank : more), each + (rank < more ? 1 : 0)};
}

struct CollectiveFailure {
  int32_t failure = 0;  // a Failure of status.h; 0: none
  char message[1000] = "";
};

// The type tag of the JavaScript value that holds a table. A new layout or meaning gets a new tag.
constexpr uint64_t collectivesTag[2] = {0x6d617267696e2d73ull, 0x636f6c6c65637403ull};

struct Collectives {
  void* context;
  int32_t rank, size;

  // Runs the task on the group's only thread, after everything posted before. Work that every rank
  // posts in the same order runs in the same order. False if the group has ended.
  bool (*post)(void* context, Task* task);

  // Collectives, only within posted work. Every rank makes the same call with the same `purpose`
  // (at most 31 characters, for messages: "head 2"), or all fail. True: success. After a failure
  // every later call fails at once, with the same message. Sums are added in rank order, float32 in
  // double precision.

  // values [count], in place.
  bool (*allReduce)(void* context, const char* purpose, void* values, int64_t count, Element element, ReduceOp reduceOp,
                    CollectiveFailure* failure);
  // values [counts[rank]], all [Σ counts]; counts [size], the same on every rank.
  bool (*allGather)(void* context, const char* purpose, const void* values, const int64_t* counts, void* all,
                    Element element, CollectiveFailure* failure);
  // values [Σ counts], mine [counts[rank]]; counts [size], the same on every rank.
  bool (*reduceScatter)(void* context, const char* purpose, const void* values, const int64_t* counts, void* mine,
                        Element element, ReduceOp reduceOp, CollectiveFailure* failure);
  // values [count], from `root` to all ranks.
  bool (*broadcast)(void* context, const char* purpose, void* values, int64_t count, int32_t root, Element element,
                    CollectiveFailure* failure);
  // Replaces the next collective, whichever it is, on a rank that can not take part: every rank's
  // call fails with `message`. Returns false.
  bool (*refuse)(void* context, const char* purpose, const char* message, CollectiveFailure* failure);

  // Bytes that this rank has sent to others so far.
  int64_t (*bytesSent)(void* context);
};

}  // namespace margin_softmax
