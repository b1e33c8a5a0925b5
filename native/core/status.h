// Failures as values. Nothing in native/ prints, exits, or throws past its caller.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

namespace margin_softmax {

enum class Failure {
  none,
  outOfMemory,
  notFinite,
  cancelled,
  unavailable,
  disposed,
  tooManyRows,
  tooLarge,
  device,
  distributed
};

// A text of fixed capacity, so that running out of memory can be reported. Longer texts are cut
// off.
class Message {
 public:
  Message() { text_[0] = 0; }
  Message(const char* text) : Message() { *this += text; }
  Message(const std::string& text) : Message(text.c_str()) {}
  Message(const Message& other) : Message(other.text_) {}
  Message& operator=(const Message& other) {
    if (this != &other) {
      length_ = 0;
      *this += other.text_;
    }
    return *this;
  }

  Message& operator+=(const char* text) {
    const size_t count = std::min(std::strlen(text), sizeof text_ - 1 - length_);
    std::memcpy(text_ + length_, text, count);
    length_ += count;
    text_[length_] = 0;
    return *this;
  }
  Message& operator+=(int64_t number) {
    char digits[24] = "";
    char* at = digits + sizeof digits - 1;
    uint64_t rest = number < 0 ? 0 - static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
    do *--at = static_cast<char>('0' + rest % 10);
    while (rest /= 10);
    if (number < 0) *--at = '-';
    return *this += at;
  }

  friend Message operator+(Message before, const char* after) { return before += after; }
  friend Message operator+(const char* before, const Message& after) { return Message(before) += after.text_; }

  const char* c_str() const { return text_; }

 private:
  size_t length_ = 0;
  char text_[1000];  // as much as another rank's failure has (collectives.h)
};

struct Status {
  Failure failure = Failure::none;
  Message message;
  int64_t row = -1;  // the batch row that the failure is about, if it is about one

  explicit operator bool() const { return failure == Failure::none; }  // true: all is well

  // A class of a norm that single precision can't multiply with the rows.
  static Status tooLarge(int64_t classIndex) {
    Status status{
        Failure::tooLarge,
        "Expected a norm of at most 1e37, and of at most 1e38 divided by the scale, for the weights of class "};
    (status.message += classIndex) += " but received a larger one";
    return status;
  }
  // More rows than a training step on the CPU takes at once.
  static Status tooManyRows(int64_t rows, int64_t dim, int64_t most) {
    Status status{Failure::tooManyRows, "Expected at most "};
    ((status.message += most) += " rows of dim ") += dim;
    (status.message += " for one step but received ") += rows;
    return status;
  }
  static Status abandoned() { return {Failure::cancelled, "The work was abandoned"}; }
  // `bytes`: 0 where nobody knows how many. Takes no memory itself.
  static Status outOfMemory(const char* purpose, int64_t bytes) {
    Status status{Failure::outOfMemory, "Expected "};
    if (bytes) (status.message += bytes) += " bytes of ";
    ((status.message += "memory for ") += purpose) += " but the system refused ";
    status.message += bytes ? "them" : "it";
    return status;
  }
};

}  // namespace margin_softmax
