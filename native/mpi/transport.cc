#include "transport.h"

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <cstring>
#include <thread>

namespace margin_softmax::distributed {
namespace {

// MPI counts in int.
constexpr int64_t largestMessage = int64_t{1} << 30;

// The length of an alarm, a text with its zero: short enough for MPI to send at once.
constexpr int alarmBytes = 512;
// A rank that raises an alarm goes on polling MPI this long, so that the alarm is sent.
constexpr std::chrono::milliseconds alarmTime(300);
// A waiting rank looks for an alarm once in so many rounds, about 60 times a second.
constexpr int alarmRounds = 64;

MPI_Comm communicator = MPI_COMM_NULL;

Status failed(const char* what, int code) {
  char text[MPI_MAX_ERROR_STRING] = "";
  int length = 0;
  MPI_Error_string(code, text, &length);
  return {Failure::distributed, std::string(what) + " failed: " + std::string(text, static_cast<size_t>(length))};
}

std::string libraryName() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = "";
  int length = 0;
  MPI_Get_library_version(text, &length);
  std::string name(text, static_cast<size_t>(length));
  name.resize(std::min(name.size(), name.find_first_of(",\n")));
  for (char& letter : name)
    if (letter == '\t') letter = ' ';
  return name;
}

}  // namespace

Status Transport::open(int launched) {
  int initialized = 0;
  MPI_Initialized(&initialized);
  if (initialized)
    return {Failure::distributed, "Expected to be the first to start MPI in this process but it is started already"};
  // Only this thread calls MPI. It initializes MPI, so MPI counts it as the main thread.
  int provided = MPI_THREAD_SINGLE;
  int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided);
  if (code != MPI_SUCCESS) return failed("MPI_Init_thread", code);
  library_ = libraryName();
  if (provided < MPI_THREAD_FUNNELED)
    return {Failure::distributed, "Expected an MPI library for threads but received " + library_};
  if (code = MPI_Comm_dup(MPI_COMM_WORLD, &communicator); code != MPI_SUCCESS) return failed("MPI_Comm_dup", code);
  MPI_Comm_set_errhandler(communicator, MPI_ERRORS_RETURN);
  MPI_Comm_rank(communicator, &rank_);
  MPI_Comm_size(communicator, &size_);
  pending_ = std::vector<std::atomic<int32_t>>(static_cast<size_t>(size_));
  if (launched > size_)
    return {Failure::distributed, "Expected a group of the " + std::to_string(launched) +
                                      " processes that were started together but MPI knows " + std::to_string(size_) +
                                      ": this mpirun is not of the MPI that the addon was built with (" + library_ +
                                      "). Use that MPI's mpirun, or build the addon again with this one's"};
  return {};
}

Status Transport::close() {
  if (givenUp()) return {Failure::distributed, "Expected to end MPI in time but the group was given up"};
  dead_ = true;
  for (int other = 0; other < size_; other++) pending_[static_cast<size_t>(other)] = other != rank_;
  waitsFrom(Clock::now());
  MPI_Comm_free(&communicator);
  const int code = MPI_Finalize();
  waitingSince_ = 0;
  return code == MPI_SUCCESS ? Status{} : failed("MPI_Finalize", code);
}

bool Transport::givenUp() {
  dead_ = dead_ || Clock::now() >= end();
  return dead_;
}

void Transport::progress() {
  if (size_ == 1 || givenUp()) return;
  int there = 0;
  MPI_Iprobe(MPI_ANY_SOURCE, static_cast<int>(Kind::farewell), communicator, &there, MPI_STATUS_IGNORE);
}

// Ranks may compute for long before they send a record, so a wait for one sleeps and leaves them
// the cores. A payload is already on its way, so a wait for it yields.
void Transport::pause(int round, Kind kind) const {
  using std::chrono::microseconds;
  const int eager = kind == Kind::payload ? 20000 : 500;
  if (round < eager) std::this_thread::yield();
  else std::this_thread::sleep_for(microseconds(std::min(20 + (round - eager) / 8, 250)));
}

// The messages of an exchange: requests[i] is a message with rank peers[i].
struct Transport::Exchange {
  std::vector<MPI_Request> requests;
  std::vector<int> peers;
  int code = MPI_SUCCESS;
  size_t receives = 0;  // how many of the first are receives
};

Status Transport::exchange(const std::vector<Piece>& send, const std::vector<Piece>& receive, Kind kind,
                           const Place& place) {
  if (givenUp()) return {Failure::distributed, "Expected a group that goes on but the process is ending"};
  Exchange all;
  const auto inMessages = [&](const Piece& piece, int peer, auto start) {
    for (int64_t from = 0; from < piece.bytes && all.code == MPI_SUCCESS; from += largestMessage) {
      all.requests.push_back(MPI_REQUEST_NULL);
      all.peers.push_back(peer);
      const int bytes = static_cast<int>(std::min(largestMessage, piece.bytes - from));
      all.code = start(static_cast<char*>(piece.data) + from, bytes, &all.requests.back());
    }
  };
  const int tag = static_cast<int>(kind);
  // Each rank begins with the next rank, so that not all send to the same one at once.
  for (int distance = 1; distance < size_; distance++) {
    const int from = (rank_ + size_ - distance) % size_;
    inMessages(receive[static_cast<size_t>(from)], from, [&](char* data, int bytes, MPI_Request* request) {
      return MPI_Irecv(data, bytes, MPI_BYTE, from, tag, communicator, request);
    });
  }
  all.receives = all.requests.size();
  for (int distance = 1; distance < size_; distance++) {
    const int to = (rank_ + distance) % size_;
    inMessages(send[static_cast<size_t>(to)], to, [&](char* data, int bytes, MPI_Request* request) {
      bytesSent_ += bytes;
      return MPI_Isend(data, bytes, MPI_BYTE, to, tag, communicator, request);
    });
  }
  if (all.code != MPI_SUCCESS) return failed("Sending to another rank", all.code);
  for (const int peer : all.peers) pending_[static_cast<size_t>(peer)]++;
  const Status status = finish(all, kind, place);
  waitingSince_ = 0;
  for (std::atomic<int32_t>& messages : pending_) messages = 0;
  return status;
}

Status Transport::finish(Exchange& exchange, Kind kind, const Place& place) {
  const int count = static_cast<int>(exchange.requests.size());
  std::vector<int> completed(exchange.requests.size());
  Clock::time_point since = Clock::now();
  waitsFrom(since);
  for (int left = count, round = 0; left > 0; round++) {
    int some = 0;
    const int code = MPI_Testsome(count, exchange.requests.data(), &some, completed.data(), MPI_STATUSES_IGNORE);
    if (code != MPI_SUCCESS) return failed("Receiving from another rank", code);
    if (some == MPI_UNDEFINED) break;
    left -= some;
    if (some > 0) {
      for (int i = 0; i < some; i++) pending_[static_cast<size_t>(exchange.peers[static_cast<size_t>(completed[i])])]--;
      round = 0;
      if (kind == Kind::payload) waitsFrom(since = Clock::now());
      continue;
    }
    if (givenUp())
      return {Failure::distributed, "Expected every rank to answer before the process ends but not all of them did"};
    std::string alarm;
    const bool looks = round % alarmRounds == alarmRounds - 1 && kind != Kind::farewell;
    const bool hears = looks && hearsAlarm(alarm);
    if (looks && !hears && Clock::now() - since >= patience()) {
      const auto seconds = std::chrono::duration_cast<std::chrono::seconds>(Clock::now() - since).count();
      alarm = "Expected " + namesOf(waiting().ranks) + " to answer but rank " + std::to_string(rank_) + " has waited " +
              std::to_string(seconds) + " s " + place();
      raiseAlarm(alarm, exchange);
    }
    if (!alarm.empty()) {
      dead_ = abandoned_ = true;
      return {Failure::distributed, alarm};
    }
    pause(round, kind);
  }
  return {};
}

bool Transport::hearsAlarm(std::string& message) {
  int there = 0;
  MPI_Status from;
  const int tag = static_cast<int>(Kind::alarm);
  if (MPI_Iprobe(MPI_ANY_SOURCE, tag, communicator, &there, &from) != MPI_SUCCESS || !there) return false;
  char text[alarmBytes] = "";
  if (MPI_Recv(text, alarmBytes, MPI_BYTE, from.MPI_SOURCE, tag, communicator, MPI_STATUS_IGNORE) != MPI_SUCCESS)
    return false;
  text[alarmBytes - 1] = 0;
  message = text;
  return true;
}

// Sends every other rank an alarm, and cancels all receives: their memory may be freed before the
// messages arrive.
void Transport::raiseAlarm(const std::string& message, const Exchange& exchange) {
  static char text[alarmBytes];  // static: MPI may still send it after this function returns
  std::strncpy(text, message.c_str(), alarmBytes - 1);
  std::vector<MPI_Request> requests;
  for (int other = 0; other < size_; other++) {
    if (other == rank_) continue;
    requests.push_back(MPI_REQUEST_NULL);
    MPI_Isend(text, alarmBytes, MPI_BYTE, other, static_cast<int>(Kind::alarm), communicator, &requests.back());
  }
  for (size_t i = 0; i < exchange.receives; i++) {
    requests.push_back(exchange.requests[i]);
    if (requests.back() != MPI_REQUEST_NULL) MPI_Cancel(&requests.back());
  }
  const Clock::time_point end = Clock::now() + alarmTime;
  for (int done = 0; !done && Clock::now() < end;) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

Transport::Wait Transport::waiting() const {
  Wait wait;
  const Clock::rep since = waitingSince_;
  if (since == 0) return wait;
  wait.time =
      std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now().time_since_epoch() - Clock::duration(since));
  for (size_t rank = 0; rank < pending_.size(); rank++)
    if (pending_[rank] > 0) wait.ranks.push_back(static_cast<int>(rank));
  return wait;
}

std::string namesOf(const std::vector<int>& ranks) {
  std::string names = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); i++)
    names += (i == 0 ? "" : i + 1 == ranks.size() ? " and " : ", ") + std::to_string(ranks[i]);
  return names;
}

}  // namespace margin_softmax::distributed
