#include "kernels.h"

#include <cstring>
#include <initializer_list>
#include <iterator>

#include "processor.h"

namespace margin_softmax::cpu {

// CMakeLists.txt writes the list: a line KERNELS(name) for each kernels_<name>.cc of this build,
// best first.
#define KERNELS(name) extern const Kernels name##Kernels;
#include "kernel_list.inc"
#undef KERNELS

namespace {

#define KERNELS(name) &name##Kernels,
constexpr const Kernels* allTables[] = {
#include "kernel_list.inc"
};
#undef KERNELS

// The tables that this processor can run, for tests or not.
template <bool forTests>
struct Available {
  const Kernels* tables[std::size(allTables)];
  int count = 0;
  Available() {
    for (const Kernels* table : allTables)
      if (table->forTests == forTests && processorHas(table->needs)) tables[count++] = table;
  }
  static KernelList list() {
    static const Available available;
    return {available.tables, available.count};
  }
};

}  // namespace

KernelList availableKernels() { return Available<false>::list(); }

KernelList testKernels() { return Available<true>::list(); }

const Kernels* findKernels(const char* name) {
  if (!name) return availableKernels().tables[0];
  for (const KernelList list : {availableKernels(), testKernels()})
    for (int i = 0; i < list.count; i++)
      if (std::strcmp(list.tables[i]->name, name) == 0) return list.tables[i];
  return nullptr;
}

}  // namespace margin_softmax::cpu
