// Streams and events: work in order, as late as the environment says and CUDA allows. See streams.cc.
#pragma once
#include <functional>

#include "runtime.h"

namespace simt {

using Work = std::function<cudaError_t()>;

// A copy or a fill: it waits for the stream's next launch, or until somebody waits for the stream.
cudaError_t giveTransfer(cudaStream_t stream, Work work);
// A launch: it runs now, or waits as well (SIMT_STREAMS).
cudaError_t giveLaunch(cudaStream_t stream, Work work);
// Does all that the device's streams still have to do.
void drain(int device);
// Forgets it, as a device that broke does.
void forget(int device);

}  // namespace simt
