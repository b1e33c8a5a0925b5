// Which vector instructions this processor has and its system keeps for each thread, by the instructions cpuid and xgetbv
// (Intel's manual, volume 1, section 14.3 and 15.2). Not by __builtin_cpu_supports: with clang for Visual Studio that needs
// a library which is not linked.
#pragma once

namespace margin_softmax::cpu {

#if defined(__x86_64__)
struct Processor {
  bool avx2;        // with fused multiply-adds
  bool avx512;      // avx2, and AVX-512 F, DQ, BW and VL
  bool avx512bf16;  // avx512, and its bfloat16 products
};

Processor identifyProcessor();
#endif

}  // namespace margin_softmax::cpu
