// What both front ends, a C++ compiler and nvcc, need to share a header of formulas.
#pragma once

#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__
#else
#define HOST_DEVICE
#endif
