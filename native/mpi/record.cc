#include "record.h"

#include <cstring>

#include "../core/collectives.h"

namespace margin_softmax::distributed {
namespace {

constexpr const char* operations[] = {"barrier", "allReduce", "allGather", "reduceScatter", "broadcast"};
constexpr const char* elements[] = {"Int8Array",    "Uint8Array",    "Uint8ClampedArray", "Int16Array",
                                    "Uint16Array",  "Int32Array",    "Uint32Array",       "Float32Array",
                                    "Float64Array", "BigInt64Array", "BigUint64Array"};
constexpr const char* combinations[] = {"sum", "max", "min"};

// The call, as a user would write it.
std::string callOf(const Record& record) {
  std::string call = operations[record.operation];
  if (record.operation != Record::barrier) {
    call += std::string("(") + elements[record.element];
    // Ranks may gather different lengths, so these are no part of the agreement.
    if (record.operation != Record::allGather) call += "(" + std::to_string(record.count) + ")";
    if (record.operation == Record::broadcast) call += ", root " + std::to_string(record.root);
    if (record.operation == Record::allReduce || record.operation == Record::reduceScatter)
      call += std::string(", '") + combinations[record.reduceOp] + "'";
    call += ")";
  } else {
    call += "()";
  }
  if (record.purpose[0]) call += std::string(" for ") + record.purpose;
  return call;
}

// Says what the rank did.
std::string deed(const Record& record) {
  if (record.operation == Record::leave) return "ended its process with code " + std::to_string(record.endCode);
  return "called " + callOf(record);
}

// Processes that end agree, whatever their codes.
bool same(const Record& a, const Record& b) {
  return a.operation == b.operation && a.element == b.element && a.reduceOp == b.reduceOp && a.root == b.root &&
         (a.count == b.count || a.operation == Record::allGather) && a.counts == b.counts &&
         std::strncmp(a.purpose, b.purpose, sizeof a.purpose) == 0;
}

std::string name(size_t rank) { return "rank " + std::to_string(rank); }

}  // namespace

std::string placeOf(const Record& record) {
  if (record.operation == Record::leave) return "at the end of the process";
  if (record.operation == Record::refusal) return "in a call that it can not make";
  return "in " + callOf(record);
}

Status judge(const std::vector<Record>& records, int rank, int64_t call) {
  const auto failed = [](const std::string& message) { return Status{Failure::distributed, message}; };
  for (size_t other = 0; other < records.size(); other++)
    if (records[other].operation == Record::refusal)
      return failed("Expected every rank to go on but " + name(other) + " could not: " + records[other].message);

  const Record& first = records[0];
  for (size_t other = 1; other < records.size(); other++) {
    if (same(first, records[other])) continue;
    const std::string one = deed(first);
    std::string another = deed(records[other]);
    if (one == another) another += " with other counts";
    return failed("Expected every rank to make the same call but rank 0 " + one + " and " + name(other) + " " +
                  another + " (call " + std::to_string(call) + " of the group, as " + name(static_cast<size_t>(rank)) +
                  " sees it)");
  }

  for (size_t other = 0; other < records.size(); other++)
    if (records[other].operation == Record::leave && records[other].endCode != 0)
      return failed("Expected every rank to end well but " + name(other) + " " + deed(records[other]));
  return {};
}

}  // namespace margin_softmax::distributed
