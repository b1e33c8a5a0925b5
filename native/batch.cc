#include "batch.h"

#include <algorithm>
#include <vector>

namespace margin_softmax {

void sortByLabel(const int32_t* labels, int64_t rows, int64_t classes, int32_t* order) {
  if (classes <= 4 * rows) {  // few classes: count them
    constexpr int32_t least = labelElsewhere;
    std::vector<int32_t> start(classes - least + 1, 0);
    for (int64_t i = 0; i < rows; i++) start[labels[i] - least + 1]++;
    for (int64_t j = 1; j <= classes - least; j++) start[j] += start[j - 1];
    for (int64_t i = 0; i < rows; i++) order[start[labels[i] - least]++] = static_cast<int32_t>(i);
    return;
  }
  for (int64_t i = 0; i < rows; i++) order[i] = static_cast<int32_t>(i);
  std::sort(order, order + rows,
            [labels](int32_t a, int32_t b) { return labels[a] != labels[b] ? labels[a] < labels[b] : a < b; });
}

}  // namespace margin_softmax
