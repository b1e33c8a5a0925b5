// Runs asynchronous work on one thread for each device, first come, first served. Each job uses a
// whole device, and libuv's few threads stay free for files and names (a long job there delayed
// fs.stat by 570 ms).
#pragma once
#include "task.h"

namespace margin_softmax {

// Runs the task later on the thread of this device (−1: the CPU). False if the system gives no
// thread. Does not throw.
bool enqueue(int device, Task& task);

// Withdraws a task that has not begun. False if it runs or has run.
bool withdraw(int device, const Task& task);

}  // namespace margin_softmax
