// Asynchronous work runs on threads of ours, one for each device, first come, first served: each job uses a whole
// device by itself, and libuv's few threads stay free for files and names (a long job there delayed fs.stat by 570 ms).
#pragma once
#include <functional>

namespace margin_softmax {

// Runs `job` later on the thread of this device (−1: the CPU); false if the system gives no thread.
bool enqueue(int device, std::function<void()> job);

}  // namespace margin_softmax
