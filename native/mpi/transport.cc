#include "transport.h"

#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include <mpi.h>

#include <algorithm>
#include <thread>

namespace margin_softmax::distributed {
namespace {

// MPI counts in int.
constexpr int64_t largestMessage = int64_t{1} << 30;

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
  // This thread alone calls MPI, and counts as the main one, as it is the one that starts it.
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
  MPI_Comm_free(&communicator);
  const int code = MPI_Finalize();
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

// Others may compute for long before they send their record, and their cores are better left to them; a payload is on
// its way.
void Transport::pause(int round, Kind kind) const {
  using std::chrono::microseconds;
  const int eager = kind == Kind::payload ? 20000 : 500;
  if (round < eager) std::this_thread::yield();
  else std::this_thread::sleep_for(microseconds(std::min(20 + (round - eager) / 8, 250)));
}

Status Transport::exchange(const std::vector<Piece>& send, const std::vector<Piece>& receive, Kind kind) {
  if (givenUp()) return {Failure::distributed, "Expected a group that goes on but the process is ending"};
  std::vector<MPI_Request> requests;
  int code = MPI_SUCCESS;
  const auto inMessages = [&](const Piece& piece, auto start) {
    for (int64_t from = 0; from < piece.bytes && code == MPI_SUCCESS; from += largestMessage) {
      requests.push_back(MPI_REQUEST_NULL);
      const int bytes = static_cast<int>(std::min(largestMessage, piece.bytes - from));
      code = start(static_cast<char*>(piece.data) + from, bytes, &requests.back());
    }
  };
  const int tag = static_cast<int>(kind);
  // Each rank begins with its next one: nobody is sent to by all at once.
  for (int distance = 1; distance < size_; distance++) {
    const int from = (rank_ + size_ - distance) % size_;
    inMessages(receive[static_cast<size_t>(from)], [&](char* data, int bytes, MPI_Request* request) {
      return MPI_Irecv(data, bytes, MPI_BYTE, from, tag, communicator, request);
    });
  }
  for (int distance = 1; distance < size_; distance++) {
    const int to = (rank_ + distance) % size_;
    inMessages(send[static_cast<size_t>(to)], [&](char* data, int bytes, MPI_Request* request) {
      bytesSent_ += bytes;
      return MPI_Isend(data, bytes, MPI_BYTE, to, tag, communicator, request);
    });
  }
  if (code != MPI_SUCCESS) return failed("Sending to another rank", code);

  const int count = static_cast<int>(requests.size());
  std::vector<int> completed(requests.size());
  for (int left = count, round = 0; left > 0; round++) {
    int some = 0;
    code = MPI_Testsome(count, requests.data(), &some, completed.data(), MPI_STATUSES_IGNORE);
    if (code != MPI_SUCCESS) return failed("Receiving from another rank", code);
    if (some == MPI_UNDEFINED) break;
    left -= some;
    if (some > 0) round = 0;
    else if (givenUp())
      return {Failure::distributed, "Expected every rank to answer before the process ends but not all of them did"};
    else pause(round, kind);
  }
  return {};
}

}  // namespace margin_softmax::distributed
