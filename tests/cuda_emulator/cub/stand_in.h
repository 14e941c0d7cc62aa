// What the kernels use of CUB, whose own code is for GPUs only: the same results by
// std::stable_sort.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "cuda_emulator.h"

namespace cub {

struct NullType {};

template <class Key, class Value>
struct StandInPair {
  Key key;
  Value value;
};

// What the threads of a block hold, a thread's items next to each other; one thread sorts.
template <class Key, int threads, int items, class Value>
class StandInBlockSort {
 public:
  struct TempStorage {
    StandInPair<Key, Value> pairs[threads * items];
  };

 protected:
  explicit StandInBlockSort(TempStorage& storage) : pairs_(storage.pairs) {}

  template <class Less>
  void sort(Key* keys, Value* values, Less less) {
    using Pair = StandInPair<Key, Value>;
    const int first = static_cast<int>(threadIdx.x) * items;
    for (int n = 0; n < items; ++n)
      pairs_[first + n] = {keys[n], values == nullptr ? Value{} : values[n]};
    __syncthreads();
    if (threadIdx.x == 0)
      std::stable_sort(pairs_, pairs_ + threads * items,
                       [&](const Pair& one, const Pair& two) { return less(one.key, two.key); });
    __syncthreads();
    for (int n = 0; n < items; ++n) {
      keys[n] = pairs_[first + n].key;
      if (values != nullptr) values[n] = pairs_[first + n].value;
    }
  }

 private:
  StandInPair<Key, Value>* pairs_;
};

}  // namespace cub
