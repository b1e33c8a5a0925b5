// The record of a collective that every rank sends all others before it. All ranks judge the same
// records by the same rule.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "../core/status.h"

namespace margin_softmax::distributed {

// Sent as bytes: all ranks run the same build, so the layout is the same.
struct Record {
  enum Operation : int32_t { barrier, allReduce, allGather, reduceScatter, broadcast, leave, refusal };
  int32_t operation = barrier;
  int32_t element = 0;
  int32_t reduceOp = 0;
  int32_t root = 0;
  int64_t count = 0;    // elements
  uint64_t counts = 0;  // hash of each rank's count, if the call has them
  int32_t endCode = 0;  // of the process, for `leave`
  int32_t padding = 0;
  char purpose[32] = "";
  char message[184] = "";  // of a `refusal`: its reason
};

// Copies as much of the text as fits, and a zero.
template <size_t room>
void copyText(const char* text, char (&to)[room]) {
  const size_t length = std::min(std::strlen(text), room - 1);
  std::memcpy(to, text, length);
  to[length] = 0;
}

// The place in the program where a rank waits with this record: "in barrier()".
std::string placeOf(const Record& record);

// Judges the records for `rank`: success, or a failure that names two ranks that disagree. `call`
// counts from 1.
Status judge(const std::vector<Record>& records, int rank, int64_t call);

}  // namespace margin_softmax::distributed
