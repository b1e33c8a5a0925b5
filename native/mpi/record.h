// What each rank tells every other one before a collective: what it is about to do. All of them hear the same and come
// to the same judgement.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../core/status.h"

namespace margin_softmax::distributed {

// The same layout on every rank: they run the same build.
struct Record {
  enum Operation : int32_t { barrier, allReduce, allGather, reduceScatter, broadcast, leave, refusal };
  int32_t operation = barrier;
  int32_t element = 0;
  int32_t reduceOp = 0;
  int32_t root = 0;
  int64_t count = 0;    // elements
  uint64_t counts = 0;  // a hash of the counts of each rank, where the call has them
  int32_t endCode = 0;  // of the process, for `leave`
  int32_t padding = 0;
  char purpose[32] = "";
  char message[184] = "";  // of a `refusal`: why this rank can not go on
};

// As much of the text as there is room for, and a zero.
template <size_t room>
void copyText(const char* text, char (&to)[room]) {
  const size_t length = std::min(std::strlen(text), room - 1);
  std::memcpy(to, text, length);
  to[length] = 0;
}

// Where in the program a rank waits for the others with this record: "in barrier()".
std::string placeOf(const Record& record);

// How the call goes on, as `rank` sees it: well, or a failure that names two ranks that disagree. `call` counts from 1.
Status judge(const std::vector<Record>& records, int rank, int64_t call);

}  // namespace margin_softmax::distributed
