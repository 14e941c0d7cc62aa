// See stand_in.h.
#pragma once

#include "../stand_in.h"

namespace cub {

template <class Key, int threads, int items, class Value = NullType>
class BlockRadixSort : StandInBlockSort<Key, threads, items, Value> {
  using Base = StandInBlockSort<Key, threads, items, Value>;

 public:
  using typename Base::TempStorage;
  explicit BlockRadixSort(TempStorage& storage) : Base(storage) {}
  void SortBlockedToStriped(Key (&keys)[items]) {
    Base::sort(keys, nullptr, std::less<Key>(), Base::striped);
  }
  void SortBlockedToStriped(Key (&keys)[items], Value (&values)[items]) {
    Base::sort(keys, values, std::less<Key>(), Base::striped);
  }
};

}  // namespace cub
