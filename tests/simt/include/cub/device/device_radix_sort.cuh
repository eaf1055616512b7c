// cub's stable sort of pairs, by a sort of the host's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <vector>

namespace cub {

struct DeviceRadixSort {
  template <typename Key, typename Value>
  static int SortPairs(void* work, size_t& bytes, const Key* keys, Key* sorted_keys, const Value* values,
                       Value* sorted_values, int64_t count, int begin_bit, int end_bit, void*) {
    if (work == nullptr) {
      bytes = 1;
      return 0;
    }
    const Key bits = end_bit - begin_bit >= static_cast<int>(8 * sizeof(Key)) ? ~Key(0) : (Key(1) << (end_bit - begin_bit)) - 1;
    std::vector<int64_t> order(static_cast<size_t>(count));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
      return (keys[a] >> begin_bit & bits) < (keys[b] >> begin_bit & bits);
    });
    for (int64_t i = 0; i < count; ++i) {
      sorted_keys[i] = keys[order[static_cast<size_t>(i)]];
      sorted_values[i] = values[order[static_cast<size_t>(i)]];
    }
    return 0;
  }
};

}  // namespace cub
