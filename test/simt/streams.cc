// A stream is a queue. By itself a launch runs at once and a copy before the next launch, but SIMT_STREAMS makes
// everything late, so that what lacks an order to something else shows:
//
//   late     nothing runs before somebody waits for its stream, or for a mark (event) that stands behind it
//   uneven   the same for the first stream of a device; the second one runs ahead as far as its waits allow
//
// The streams of a device belong to the one thread that has the device.
#include "streams.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

namespace simt {
namespace {

struct Task {
  Work work;             // or, where there is none,
  cudaStream_t awaited;  // the stream to wait for (null: a mark)
  uint64_t until;        // so many of its tasks
};

enum class Mode { atOnce, late, uneven };

Mode mode() {
  static const char* const value = std::getenv("SIMT_STREAMS");
  if (!value) return Mode::atOnce;
  return std::strcmp(value, "uneven") == 0 ? Mode::uneven : Mode::late;
}

}  // namespace

struct Queue {
  std::deque<Task> tasks;
  uint64_t given = 0, done = 0;
  bool eager = false;
};

namespace {

// A stream for each device that nobody made: the null stream.
struct Streams {
  SimtStream usual;
  Queue queue;
  std::vector<cudaStream_t> made;
  Streams() { usual.queue = &queue; }
};
Streams& streamsOf(int device) {
  static Streams* const all = new Streams[mostDevices];
  return all[device];
}
Queue& queueOf(cudaStream_t stream) { return *(stream ? stream : &streamsOf(currentDevice()).usual)->queue; }

void advance();

// Works a queue off, as far as its first `until` tasks.
void run(Queue& queue, uint64_t until) {
  while (queue.done < until) {
    const Task task = std::move(queue.tasks.front());
    queue.tasks.pop_front();
    if (task.work) task.work();
    else if (task.awaited) run(*task.awaited->queue, task.until);
    queue.done++;
    advance();
  }
}

// Eager queues go on until they have to wait.
void advance() {
  static thread_local bool advancing = false;
  if (mode() != Mode::uneven || advancing) return;
  advancing = true;
  for (cudaStream_t stream : streamsOf(currentDevice()).made) {
    Queue& queue = *stream->queue;
    while (queue.eager && !queue.tasks.empty()) {
      const Task& next = queue.tasks.front();
      if (next.awaited && next.awaited->queue->done < next.until) break;
      run(queue, queue.done + 1);
    }
  }
  advancing = false;
}

void give(Queue& queue, Task task) {
  queue.tasks.push_back(std::move(task));
  queue.given++;
  advance();
}

cudaError_t make(cudaStream_t* stream, bool eager) {
  *stream = new SimtStream;  // for as long as the process lives
  (*stream)->queue = new Queue;
  (*stream)->queue->eager = eager;
  streamsOf(currentDevice()).made.push_back(*stream);
  return cudaSuccess;
}

}  // namespace

cudaError_t giveTransfer(cudaStream_t stream, Work work) {
  give(queueOf(stream), {std::move(work), nullptr, 0});
  return cudaSuccess;
}

cudaError_t giveLaunch(cudaStream_t stream, Work work) {
  Queue& queue = queueOf(stream);
  if (const cudaError_t error = enterLaunch(); error != cudaSuccess) {
    forget(currentDevice());
    return error;
  }
  if (mode() != Mode::atOnce) return giveTransfer(stream, std::move(work));
  run(queue, queue.given);
  return work();
}

void drain(int device) {
  Streams& streams = streamsOf(device);
  run(streams.queue, streams.queue.given);
  for (cudaStream_t stream : streams.made) run(*stream->queue, stream->queue->given);
}

void forget(int device) {
  Streams& streams = streamsOf(device);
  const auto empty = [](Queue& queue) {
    queue.tasks.clear();
    queue.done = queue.given;
  };
  empty(streams.queue);
  for (cudaStream_t stream : streams.made) empty(*stream->queue);
}

}  // namespace simt

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return simt::make(stream, false); }

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned, int priority) {
  return simt::make(stream, priority < 0);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  while (stream && stream->underWay) std::this_thread::sleep_for(std::chrono::microseconds(100));
  if (const cudaError_t error = simt::enter("cudaStreamSynchronize", cudaErrorLaunchFailure, true);
      error != cudaSuccess) {
    simt::forget(simt::currentDevice());
    return error;
  }
  simt::Queue& queue = simt::queueOf(stream);
  simt::run(queue, queue.given);
  return simt::enter("", cudaSuccess, false);  // work that was late may have broken the device
}

cudaError_t cudaDeviceSynchronize() {
  simt::drain(simt::currentDevice());
  return cudaStreamSynchronize(nullptr);
}

struct SimtEvent {
  std::chrono::steady_clock::time_point at;
  cudaStream_t stream = nullptr;
  uint64_t until = 0;  // tasks of the stream
};

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new SimtEvent;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return cudaEventCreate(event); }

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  simt::Queue& queue = simt::queueOf(stream);
  simt::give(queue, {nullptr, nullptr, 0});
  event->stream = stream ? stream : &simt::streamsOf(simt::currentDevice()).usual;
  event->until = queue.given;
  event->at = std::chrono::steady_clock::now();
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->stream) simt::give(simt::queueOf(stream), {nullptr, event->stream, event->until});
  return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event->stream) simt::run(*event->stream->queue, event->until);
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->at - begin->at).count();
  return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
