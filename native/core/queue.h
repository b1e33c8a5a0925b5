// Asynchronous work runs on threads of ours, one for each device, first come, first served: each job uses a whole
// device by itself, and libuv's few threads stay free for files and names (a long job there delayed fs.stat by 570 ms).
#pragma once
#include "task.h"

namespace margin_softmax {

// Runs the task later on the thread of this device (−1: the CPU). False if the system gives no thread. Never throws.
bool enqueue(int device, Task& task);

// Takes a task back that has not begun. False: it runs, or has run.
bool withdraw(int device, const Task& task);

}  // namespace margin_softmax
