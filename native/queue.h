// Asynchronous work runs on one thread of ours, first come, first served: each job uses every core by itself, and
// libuv's few threads stay free for files and names (a long job there delayed fs.stat by 570 ms).
#pragma once
#include <functional>

namespace margin_softmax {

// Runs `job` later on the queue's thread; false if the system gives no thread.
bool enqueue(std::function<void()> job);

}  // namespace margin_softmax
