// The collectives, as messages straight from rank to rank. README.md has their numbers of bytes and
// rounds.
#include <algorithm>
#include <cstring>

#include "../core/sizes.h"
#include "group.h"
#include "reduce.h"

namespace margin_softmax::distributed {
namespace {

// Arrays up to this size are sent whole to every rank: one round instead of two.
constexpr int64_t smallBytes = 16 << 10;
// A rank's memory for received shares that it reduces, of all ranks together.
constexpr int64_t mostScratch = 16 << 20;

size_t at(int rank) { return static_cast<size_t>(rank); }

std::vector<int64_t> offsetsOf(const std::vector<int64_t>& counts) {
  std::vector<int64_t> offsets(counts.size() + 1, 0);
  for (size_t rank = 0; rank < counts.size(); rank++) offsets[rank + 1] = offsets[rank] + counts[rank];
  return offsets;
}

// FNV-1a.
uint64_t hash(const std::vector<int64_t>& counts) {
  uint64_t value = 14695981039346656037ull;
  for (const int64_t count : counts)
    for (int byte = 0; byte < 8; byte++)
      value = (value ^ (static_cast<uint64_t>(count) >> (8 * byte) & 255)) * 1099511628211ull;
  return value;
}

Record recordOf(Record::Operation operation, const char* purpose, int64_t count, Element element) {
  Record record;
  record.operation = operation;
  record.element = static_cast<int32_t>(element);
  record.count = count;
  copyText(purpose, record.purpose);
  return record;
}

}  // namespace

std::vector<int64_t> Group::evenCounts(int64_t total) const {
  std::vector<int64_t> counts;
  for (int rank = 0; rank < size(); rank++) counts.push_back(shareOf(total, rank, size()).count);
  return counts;
}

Status Group::exchangePieces(const std::vector<Piece>& send, const std::vector<Piece>& receive) {
  return exchange(send, receive, Kind::payload);
}

Status Group::barrier() { return agree(recordOf(Record::barrier, "", 0, Element::int8)); }

// The longest stretch of a share that is reduced at once, in elements.
int64_t Group::stretch(const std::vector<int64_t>& counts, Element element) const {
  const int64_t longest = *std::max_element(counts.begin(), counts.end());
  return std::min(longest, std::max<int64_t>(mostScratch / bytesOf(element) / size(), 1));
}

int64_t Group::scratchBytes(const std::vector<int64_t>& counts, Element element) const {
  return size() * stretch(counts, element) * bytesOf(element);
}

// Reduce-scatter. For every stretch: sends every other rank its part of `values`, receives all
// ranks' parts of this rank's share, and reduces them in rank order.
Status Group::reduceShares(const char* values, const std::vector<int64_t>& counts, void* mine, Element element,
                           ReduceOp reduceOp, const Block& scratch) {
  const int64_t bytes = bytesOf(element), step = stretch(counts, element);
  const std::vector<int64_t> offsets = offsetsOf(counts);
  const int64_t longest = *std::max_element(counts.begin(), counts.end());
  std::vector<Piece> send(counts.size()), receive(counts.size());
  std::vector<const void*> sources(counts.size());
  for (int64_t from = 0; from < longest; from += step) {
    const auto length = [&](int rank) { return std::clamp<int64_t>(counts[at(rank)] - from, 0, step); };
    for (int other = 0; other < size(); other++) {
      const char* start = values + (offsets[at(other)] + from) * bytes;
      char* kept = scratch.as<char>() + other * step * bytes;
      send[at(other)] = {const_cast<char*>(start), length(other) * bytes};
      receive[at(other)] = {kept, length(rank()) * bytes};
      sources[at(other)] = other == rank() ? start : kept;
    }
    if (Status status = exchangePieces(send, receive); !status) return status;
    reduce(sources, static_cast<char*>(mine) + from * bytes, length(rank()), element, reduceOp);
  }
  return {};
}

// Sends this rank's share to every other rank but `skipped`, which already has it.
Status Group::gatherShares(const void* mine, char* all, const std::vector<int64_t>& counts, Element element,
                           int skipped) {
  const int64_t bytes = bytesOf(element);
  const std::vector<int64_t> offsets = offsetsOf(counts);
  std::vector<Piece> send(counts.size()), receive(counts.size());
  for (int other = 0; other < size(); other++) {
    if (other != skipped) send[at(other)] = {const_cast<void*>(mine), counts[at(rank())] * bytes};
    if (rank() != skipped) receive[at(other)] = {all + offsets[at(other)] * bytes, counts[at(other)] * bytes};
  }
  char* own = all + offsets[at(rank())] * bytes;
  if (own != mine && counts[at(rank())]) std::memmove(own, mine, static_cast<size_t>(counts[at(rank())] * bytes));
  return exchangePieces(send, receive);
}

Status Group::allReduce(const char* purpose, void* values, int64_t count, Element element, ReduceOp reduceOp) {
  Record record = recordOf(Record::allReduce, purpose, count, element);
  record.reduceOp = static_cast<int32_t>(reduceOp);
  const int64_t bytes = count * bytesOf(element);
  const bool small = bytes <= smallBytes;
  const std::vector<int64_t> counts = evenCounts(count);
  Block scratch;
  const int64_t needed = small ? size() * bytes : scratchBytes(counts, element);
  if (Status status = taking(record, needed, scratch); !status || size() == 1) return status;
  if (!small) {
    char* const own = static_cast<char*>(values) + offsetsOf(counts)[at(rank())] * bytesOf(element);
    Status status = reduceShares(static_cast<char*>(values), counts, own, element, reduceOp, scratch);
    return status ? gatherShares(own, static_cast<char*>(values), counts, element, -1) : status;
  }
  std::vector<Piece> send(at(size()), {values, bytes}), receive(at(size()));
  std::vector<const void*> sources(at(size()));
  for (int other = 0; other < size(); other++) {
    receive[at(other)] = {scratch.as<char>() + other * bytes, bytes};
    sources[at(other)] = other == rank() ? values : receive[at(other)].data;
  }
  if (Status status = exchangePieces(send, receive); !status) return status;
  reduce(sources, values, count, element, reduceOp);
  return {};
}

Status Group::allGather(const char* purpose, const void* values, int64_t count, Element element, const Output& output) {
  const Record record = recordOf(Record::allGather, purpose, count, element);
  if (Status status = agree(record); !status) return status;
  std::vector<int64_t> counts;
  for (const Record& theirs : records_) counts.push_back(theirs.count);
  // The lengths are known only now, and memory for them may be refused. So the ranks agree a second
  // time.
  void* const all = output(counts);
  const int64_t bytes = offsetsOf(counts).back() * bytesOf(element);
  Status status = all ? agree(record, true) : refuse(purpose, Status::outOfMemory("a collective operation", bytes));
  return status ? gatherShares(values, static_cast<char*>(all), counts, element, -1) : status;
}

Status Group::reduceScatter(const char* purpose, const void* values, const std::vector<int64_t>& counts, void* mine,
                            Element element, ReduceOp reduceOp) {
  Record record = recordOf(Record::reduceScatter, purpose, offsetsOf(counts).back(), element);
  record.reduceOp = static_cast<int32_t>(reduceOp);
  record.counts = hash(counts);
  Block scratch;
  Status status = taking(record, scratchBytes(counts, element), scratch);
  if (!status) return status;
  return reduceShares(static_cast<const char*>(values), counts, mine, element, reduceOp, scratch);
}

Status Group::broadcast(const char* purpose, void* values, int64_t count, int root, Element element) {
  Record record = recordOf(Record::broadcast, purpose, count, element);
  record.root = root;
  if (Status status = agree(record); !status) return status;
  // The root sends a short array to every rank. Of a long one it sends each rank a share, which
  // that rank passes on: otherwise the root alone would send R − 1 times the array.
  const int64_t bytes = bytesOf(element);
  const bool whole = count * bytes <= smallBytes || size() == 2;
  char* const start = static_cast<char*>(values);
  std::vector<Piece> send(at(size())), receive(at(size()));
  for (int other = 0; other < size(); other++) {
    const Share share = shareOf(count, rank() == root ? other : rank(), size());
    const Piece piece = whole ? Piece{values, count * bytes} : Piece{start + share.from * bytes, share.count * bytes};
    if (rank() == root) send[at(other)] = piece;
    else if (other == root) receive[at(other)] = piece;
  }
  if (Status status = exchangePieces(send, receive); !status || whole) return status;
  const Share own = shareOf(count, rank(), size());
  return gatherShares(start + own.from * bytes, start, evenCounts(count), element, root);
}

}  // namespace margin_softmax::distributed
