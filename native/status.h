// How native code says that something went wrong: as a value. Nothing in native/ prints, exits or throws past its
// caller.
#pragma once
#include <cstdint>
#include <string>
#include <utility>

namespace margin_softmax {

enum class Failure { none, outOfMemory, notFinite, cancelled, unavailable, disposed, tooManyRows, device, distributed };

struct Status {
  Failure failure = Failure::none;
  std::string message;
  int64_t row = -1;  // the batch row that the failure is about, if it is about one

  explicit operator bool() const { return failure == Failure::none; }  // true: all is well
  static Status outOfMemory(const char* purpose, int64_t bytes) {
    return {Failure::outOfMemory,
            "Expected " + std::to_string(bytes) + " bytes of memory for " + purpose + " but the system refused them"};
  }
};

}  // namespace margin_softmax
