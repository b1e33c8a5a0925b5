// Exchanges rows from GPU to GPU (../core/device_exchange.h): NCCL moves the bytes, kernels add them in rank order,
// with the roundings of the path through host memory (../mpi/reduce.h).
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../core/collectives.h"
#include "nccl.h"

namespace margin_softmax::cuda {
namespace {

using Duration = Communicator::Duration;

constexpr unsigned threads = 256;
constexpr Duration trialPatience(20000);  // where the library sets up its connections

// A rank that has said that it takes part does so at once. What no network for GPUs is too slow for: 100 MB/s.
Duration patienceFor(int64_t bytes) { return Duration(5000 + bytes / 100000); }

// Σ over ranks: [size][count], of which the own piece lies apart → out [count].
__global__ void __launch_bounds__(threads)
    addRanks(const float* pieces, const float* own, int rank, int size, int64_t count, float* out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= count) return;
  double sum = 0;
  for (int other = 0; other < size; other++) {
    const float value = other == rank ? own[i] : pieces[other * count + i];
    sum = other == 0 ? static_cast<double>(value) : sum + value;
  }
  out[i] = static_cast<float>(sum);
}

// The same of rows' totals, in place of the own ones [count].
__global__ void __launch_bounds__(threads)
    addTotals(const RowTotals* pieces, RowTotals* own, int rank, int size, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * threads + threadIdx.x;
  if (i >= count) return;
  const auto of = [&](int other) { return other == rank ? own[i] : pieces[other * count + i]; };
  const auto greatest = [&](auto value) {
    double most = value(of(0));
    for (int other = 1; other < size; other++) {
      const double theirs = value(of(other));
      if (most < theirs || theirs != theirs) most = theirs;
    }
    return most;
  };
  const double maximum = greatest([](const RowTotals& totals) { return totals.maximum; });
  RowTotals total = of(0);
  total.sum = sumAt(total, maximum);
  total.maximum = maximum;
  total.largest = greatest([](const RowTotals& totals) { return totals.largest; });
  for (int other = 1; other < size; other++) {
    const RowTotals theirs = of(other);
    total.sum += sumAt(theirs, maximum);
    total.logits += theirs.logits;
    total.target += theirs.target;
    total.cosine += theirs.cosine;
  }
  own[i] = total;
}

dim3 gridOf(int64_t count) { return dim3(static_cast<unsigned>((count + threads - 1) / threads)); }

class NcclExchange : public DeviceExchange {
 public:
  NcclExchange(const Nccl& library, Device& device) : device_(device), communicator_(library, device) {}

  ~NcclExchange() override {
    communicator_.giveUp({Failure::disposed, "the exchange has ended"});
    const DeviceLock lock(device_.index());
    if (lock.status()) device_.release(memory_);
  }

  Status open(int rank, int size, const ConnectionId& id) { return communicator_.open(rank, size, id, trialPatience); }

  Status begin(const std::vector<int64_t>& rows, int64_t dim, const float* mine) override {
    const DeviceLock lock(device_.index());
    if (!lock.status()) return lock.status();
    rows_ = rows;
    dim_ = dim;
    allRows_ = firstRow_ = 0;
    for (int other = 0; other < size(); other++) {
      if (other == rank()) firstRow_ = allRows_;
      allRows_ += rows[at(other)];
    }
    const int64_t pieceBytes = std::max(longestShare() * static_cast<int64_t>(sizeof(RowTotals)), ownRows() * dim * 4);
    const auto layOut = [&](Layout layout) {
      input_ = layout.take<float>(allRows_ * dim);
      gradInput_ = layout.take<float>(allRows_ * dim);
      totals_ = layout.take<RowTotals>(allRows_);
      pieces_ = layout.take<char>(size() * pieceBytes);
      return layout.bytes();
    };
    if (const int64_t bytes = layOut(Layout(nullptr)); bytes > memoryBytes_) {
      device_.release(memory_);
      memory_ = nullptr;
      memoryBytes_ = 0;
      if (Status status = device_.allocate(bytes, "the rows of all ranks", memory_); !status) return status;
      memoryBytes_ = bytes;
    }
    layOut(Layout(memory_));
    device_.upload(input_ + firstRow_ * dim, mine, ownRows() * dim * 4);
    return device_.finish("receive its rows");
  }
  float* input() override { return input_; }
  float* gradInput() override { return gradInput_; }

  Status gather() override {
    const DeviceLock lock(device_.index());
    return lock.status() ? share(input_, rows_, dim_ * 4) : lock.status();
  }

  Status reduceTotals(RowTotals* totals) override {
    // Each rank adds up its share of the rows and hands it on: what a rank sends does not grow with their number.
    const int64_t bytes = sizeof(RowTotals);
    const std::vector<int64_t> shares = evenShares();
    Status status = deal(totals, shares, bytes);
    const int64_t count = shares[at(rank())], first = shareOf(allRows_, rank(), size()).from;
    if (status && count > 0)
      device_.launch("add up the ranks' rows", addTotals, gridOf(count), threads, 0,
                     reinterpret_cast<const RowTotals*>(pieces_), totals + first, rank(), size(), count);
    if (status) status = device_.finish("add up the ranks' rows");
    return status ? share(totals, shares, bytes) : status;
  }

  Status reduceTotalsFromHost(RowTotals* totals) override {
    const DeviceLock lock(device_.index());
    if (!lock.status()) return lock.status();
    const int64_t bytes = allRows_ * static_cast<int64_t>(sizeof(RowTotals));
    device_.upload(totals_, totals, bytes);
    Status status = device_.finish("receive the rows' sums");
    if (status) status = reduceTotals(totals_);
    if (!status) return status;
    device_.download(totals, totals_, bytes);
    return device_.finish("send the rows' sums");
  }

  Status reduceScatter(float* mine) override {
    const DeviceLock lock(device_.index());
    if (!lock.status()) return lock.status();
    Status status = deal(gradInput_, rows_, dim_ * 4);
    if (!status) return status;
    const int64_t count = ownRows() * dim_;
    float* const own = gradInput_ + firstRow_ * dim_;
    device_.launch("add up the input gradient", addRanks, gridOf(count), threads, 0,
                   reinterpret_cast<const float*>(pieces_), own, rank(), size(), count, own);
    device_.download(mine, own, count * 4);
    return device_.finish("add up the input gradient");
  }

  // Every operation on numbers whose results are known, before the first of them is used.
  Status tryOut();

 private:
  int rank() const { return communicator_.rank(); }
  int size() const { return communicator_.size(); }
  static size_t at(int rank) { return static_cast<size_t>(rank); }
  int64_t ownRows() const { return rows_[at(rank())]; }
  int64_t longestShare() const { return shareOf(allRows_, 0, size()).count; }
  std::vector<int64_t> evenShares() const {
    std::vector<int64_t> shares;
    for (int other = 0; other < size(); other++) shares.push_back(shareOf(allRows_, other, size()).count);
    return shares;
  }

  Status move(const std::vector<DevicePiece>& send, const std::vector<DevicePiece>& receive, int64_t bytes) {
    return communicator_.exchange(send, receive, tried_ ? patienceFor(bytes) : trialPatience);
  }

  // all[counts[0] | counts[1] | …], of elements of `bytes`: this rank's part goes to every other rank, whose parts
  // arrive in their places.
  Status share(void* all, const std::vector<int64_t>& counts, int64_t bytes) {
    std::vector<DevicePiece> parts;
    char* next = static_cast<char*>(all);
    for (const int64_t count : counts) {
      parts.push_back({next, count * bytes});
      next += count * bytes;
    }
    return move(std::vector<DevicePiece>(counts.size(), parts[at(rank())]), parts, next - static_cast<char*>(all));
  }

  // Each part of `all` goes to its rank; the other ranks' versions of this rank's part arrive in pieces_.
  Status deal(void* all, const std::vector<int64_t>& counts, int64_t bytes) {
    std::vector<DevicePiece> parts, pieces;
    char* next = static_cast<char*>(all);
    const int64_t own = counts[at(rank())] * bytes;
    for (size_t other = 0; other < counts.size(); other++) {
      parts.push_back({next, counts[other] * bytes});
      pieces.push_back({pieces_ + static_cast<int64_t>(other) * own, own});
      next += counts[other] * bytes;
    }
    return move(parts, pieces, next - static_cast<char*>(all));
  }

  Device& device_;
  Communicator communicator_;
  bool tried_ = false;
  // Sizes of the step at hand.
  std::vector<int64_t> rows_;
  int64_t dim_ = 0, allRows_ = 0, firstRow_ = 0;
  void* memory_ = nullptr;  // kept; holds what follows
  int64_t memoryBytes_ = 0;
  float *input_ = nullptr, *gradInput_ = nullptr;  // [N,dim]
  RowTotals* totals_ = nullptr;                    // [N]
  char* pieces_ = nullptr;                         // [size][this rank's part]
};

Status NcclExchange::tryOut() {
  constexpr int64_t dim = 3;
  const Status wrong{Failure::distributed, "Expected NCCL to bring what the ranks sent but received other numbers"};
  std::vector<int64_t> rows;
  int64_t all = 0, before = 0;
  for (int other = 0; other < size(); other++) {
    if (other == rank()) before = all;
    rows.push_back(1 + other % 3);
    all += rows.back();
  }
  // Element i of all ranks' rows is i; on rank r its gradient is (r + 1)·i, and row i's target r + i.
  const int64_t count = rows[at(rank())] * dim, first = before * dim;
  std::vector<float> mine(static_cast<size_t>(count)), input(static_cast<size_t>(all * dim)), gradient(input);
  for (size_t i = 0; i < mine.size(); i++) mine[i] = static_cast<float>(first) + static_cast<float>(i);
  for (size_t i = 0; i < gradient.size(); i++) gradient[i] = static_cast<float>(rank() + 1) * static_cast<float>(i);
  Status status = begin(rows, dim, mine.data());
  if (status) status = gather();
  if (!status) return status;
  {
    const DeviceLock lock(device_.index());
    if (!lock.status()) return lock.status();
    device_.download(input.data(), input_, all * dim * 4);
    device_.upload(gradInput_, gradient.data(), all * dim * 4);
    if (status = device_.finish("try NCCL"); !status) return status;
  }
  bool right = true;
  for (size_t i = 0; i < input.size(); i++) right = right && input[i] == static_cast<float>(i);
  std::vector<RowTotals> totals;
  const double ranks = size(), last = ranks - 1;
  for (int64_t i = 0; i < all; i++)
    totals.push_back({static_cast<double>(rank()), static_cast<double>(-rank()), std::exp(last - rank()), 1,
                      static_cast<double>(rank() + i), 2});
  if (status = reduceTotalsFromHost(totals.data()); !status) return status;
  for (int64_t i = 0; i < all; i++) {
    const RowTotals& total = totals[static_cast<size_t>(i)];
    right = right && total.maximum == last && total.largest == 0 && std::abs(total.sum - ranks) < 1e-9 * ranks &&
            total.logits == ranks && total.target == ranks * (last / 2 + static_cast<double>(i)) &&
            total.cosine == 2 * ranks;
  }
  if (status = reduceScatter(mine.data()); !status) return status;
  const double ofAll = ranks * (ranks + 1) / 2;
  for (size_t i = 0; i < mine.size(); i++)
    right = right && mine[i] == static_cast<float>(ofAll * static_cast<double>(first + static_cast<int64_t>(i)));
  tried_ = right;
  return right ? Status{} : communicator_.giveUp(wrong);
}

Peer describe(int device, const std::string& library) {
  Peer peer;
  const Nccl& nccl = openNccl(library);
  const auto because = [&](const std::string& why) {
    std::memcpy(peer.why, why.c_str(), std::min(why.size(), sizeof peer.why - 1));
    return peer;
  };
  if (!nccl.reason.empty()) return because(nccl.reason);
  cudaDeviceProp properties;
  if (const cudaError_t error = cudaGetDeviceProperties(&properties, device); error != cudaSuccess)
    return because("cannot tell which GPU it has: " + std::string(cudaGetErrorString(error)));
  peer.version = nccl.version;
  std::memcpy(peer.gpu, properties.uuid.bytes, sizeof peer.gpu);
  return peer;
}

Status identify(const std::string& library, ConnectionId& id) {
  const Nccl& nccl = openNccl(library);
  const nccl::Result result = nccl.getUniqueId(&id);
  if (result == nccl::success) return {};
  return {Failure::distributed, "Expected NCCL to begin but it reported " + std::string(nccl.getErrorString(result))};
}

Status open(int device, const std::string& library, int rank, int size, const ConnectionId& id,
            std::shared_ptr<DeviceExchange>& exchange) {
  std::shared_ptr<NcclExchange> opened;
  {
    const DeviceLock lock(device);
    if (!lock.status()) return lock.status();
    opened = std::make_shared<NcclExchange>(openNccl(library), lock.device());
    if (Status status = opened->open(rank, size, id); !status) return status;
  }
  exchange = opened;
  return opened->tryOut();
}

}  // namespace

const DeviceLink ncclLink = {describe, identify, open};

NcclState findNccl(const std::string& library) {
  const Nccl& nccl = openNccl(library);
  return {nccl.version, nccl.reason};
}

}  // namespace margin_softmax::cuda
