// See stand_in.h.
#pragma once

#include "../stand_in.h"

namespace cub {

template <class Key, int threads, int items, class Value = NullType>
class BlockMergeSort : StandInBlockSort<Key, threads, items, Value> {
  using Base = StandInBlockSort<Key, threads, items, Value>;

 public:
  using typename Base::TempStorage;
  explicit BlockMergeSort(TempStorage& storage) : Base(storage) {}
  template <class Less>
  void StableSort(Key (&keys)[items], Less less) {
    Base::sort(keys, nullptr, less);
  }
  template <class Less>
  void StableSort(Key (&keys)[items], Value (&values)[items], Less less) {
    Base::sort(keys, values, less);
  }
};

}  // namespace cub
