// Checks the host's side of a GPU: copies go through staging memory, kernels say what they prefer, and a device is lost
// while others use it. Prints a line for each check; the exit code counts the checks that are wrong.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "../../native/cuda/device.h"

namespace margin_softmax::cuda {
namespace {

int wrong = 0;
void report(const char* name, bool right) {
  std::printf("%s %s\n", right ? "ok" : "WRONG", name);
  wrong += !right;
}

__global__ void touches() {}

constexpr int64_t pinned = 64 << 10;  // what may be pinned here

// An array in the device's memory, and what was and is to be on the host.
struct Array {
  std::vector<char> sent, received;
  void* memory = nullptr;

  Array(Device& device, int64_t bytes, char first) : sent(bytes), received(bytes) {
    for (char& value : sent) value = first++;
    report("memory", static_cast<bool>(device.allocate(bytes, "a test", memory)));
  }
  void upload(Device& device) { device.upload(memory, sent.data(), static_cast<int64_t>(sent.size())); }
  void download(Device& device) { device.download(received.data(), memory, static_cast<int64_t>(sent.size())); }
  bool arrived() const { return received == sent; }
};

void launchEmpty(Device& device, size_t sharedBytes) { device.launch("do nothing", touches, dim3(1), 32, sharedBytes); }

// Staged copies arrive with `finish`, others as soon as the stream does them: a launch makes it do so.
void copiesAreStaged() {
  const DeviceLock lock(0);
  report("a device that may pin 64 KiB opens", static_cast<bool>(lock.status()));
  Device& device = lock.device();
  Array first(device, 40000, 1), second(device, 20000, 2), third(device, 30000, 3), large(device, pinned + 1, 4);
  first.upload(device);
  second.upload(device);
  first.download(device);  // in the room of its own upload
  second.download(device);
  launchEmpty(device, 0);
  report("downloads take the uploads' room", !first.arrived() && !second.arrived());
  report("copies end well", static_cast<bool>(device.finish("copy")));
  report("what went up comes down", first.arrived() && second.arrived());

  first.received.assign(first.sent.size(), 0);
  first.upload(device);
  first.download(device);
  second.upload(device);  // neither over what goes up nor where the first one comes down
  third.upload(device);   // there is no room left
  second.received.assign(second.sent.size(), 0);
  second.download(device);
  third.download(device);
  large.upload(device);
  large.download(device);
  launchEmpty(device, 0);
  report("what exceeds the staging memory goes past it", third.arrived() && large.arrived());
  report("copies end well", static_cast<bool>(device.finish("copy")));
  report("up and down in turns", first.arrived() && second.arrived());
  for (const Array* array : {&first, &second, &third, &large}) device.release(array->memory);
}

void kernelsPreferSharedMemory() {
  const DeviceLock lock(0);
  const auto* kernel = reinterpret_cast<const void*>(touches);
  report("a kernel prefers nothing", simt::carveoutOf(kernel) == cudaSharedmemCarveoutDefault);
  launchEmpty(lock.device(), 1024);
  report("one with shared memory prefers that", simt::carveoutOf(kernel) == cudaSharedmemCarveoutMaxShared);
  setenv("SIMT_FAIL", "cudaFuncSetAttribute:1", 1);
  launchEmpty(lock.device(), 1024);
  unsetenv("SIMT_FAIL");
  report("and says so once", lock.device().well());
}

void aDeviceIsLostBesideItsWork() {
  Device& device = DeviceLock(1).device();
  const Status reason{Failure::device, "it hangs"};
  std::thread other([&] { device.lose(reason); });
  for (int i = 0; i < 100; i++) const DeviceLock lock(1);
  other.join();
  report("a lost device stays lost", std::string(DeviceLock(1).status().message.c_str()) == "it hangs");
}

void tooLittleCanBePinned() {
  setenv("SIMT_PINNED", "1000", 1);
  report("a device without pinned memory does not open", !DeviceLock(2).status());
}

}  // namespace
}  // namespace margin_softmax::cuda

int main() {
  using namespace margin_softmax::cuda;
  setenv("SIMT_DEVICES", "3", 1);
  setenv("SIMT_PINNED", std::to_string(pinned).c_str(), 1);
  copiesAreStaged();
  kernelsPreferSharedMemory();
  aDeviceIsLostBesideItsWork();
  tooLittleCanBePinned();
  return wrong;
}
