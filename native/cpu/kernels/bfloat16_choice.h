// Chooses the table that serves products in bfloat16 where none was named. All give the same bits, so it is a
// question of speed alone, and measured: vdpbf16ps has twice the rate of float32's multiply-adds on
// one processor, and half of it on another.
#pragma once
#include "kernels.h"

namespace margin_softmax::cpu {

struct Bfloat16Choice {
  const Kernels* kernels;
  bool fast;            // at least as fast as float32, for 128 dimensions and more
  double timesFloat32;  // the measured rate of its products, relative to float32's; 0 where nothing was measured
};

// Measures the first time, which takes some 0.2 ms, and asks for the permission to use tiles. Tiles whose
// products differ from the next table's are not used.
const Bfloat16Choice& chooseBfloat16();
// The same as far as it is known without asking for that permission.
Bfloat16Choice expectBfloat16();

// The named table, or the fastest one for a null name. Null where this machine has none of that
// name, or may not use it.
const Kernels* findBfloat16Kernels(const char* name);

}  // namespace margin_softmax::cpu
