// Sorts what the threads of a block hold, by CUB: keys alone, or with where they were before.
#pragma once

#include <cub/block/block_merge_sort.cuh>
#include <cub/block/block_radix_sort.cuh>

#include "launch.h"

namespace dpslice::cuda {

using Place = uint16_t;  // a place among the items of a block

// The n-th item of a thread is number threadIdx.x * items + n before the sort, and of rank(n)
// afterwards. Equal keys stay in order. A barrier belongs between two sorts in the same storage.
template <class Key, int threads, int items>
class BlockSort;

// Few digits: by radix.
template <int threads, int items>
class BlockSort<uint32_t, threads, items> {
  using Alone = cub::BlockRadixSort<uint32_t, threads, items>;
  using Placed = cub::BlockRadixSort<uint32_t, threads, items, Place>;

 public:
  union Storage {
    typename Alone::TempStorage alone;
    typename Placed::TempStorage placed;
  };
  __device__ static void sort(Storage& storage, uint32_t (&keys)[items]) {
    Alone(storage.alone).SortBlockedToStriped(keys);
  }
  __device__ static void sort(Storage& storage, uint32_t (&keys)[items], Place (&places)[items]) {
    Placed(storage.placed).SortBlockedToStriped(keys, places);
  }
  __device__ static int rank(int n) { return n * threads + static_cast<int>(threadIdx.x); }
};

// As many again, and merging costs the same.
template <int threads, int items>
class BlockSort<uint64_t, threads, items> {
  using Alone = cub::BlockMergeSort<uint64_t, threads, items>;
  using Placed = cub::BlockMergeSort<uint64_t, threads, items, Place>;
  struct Less {
    __device__ bool operator()(uint64_t one, uint64_t two) const { return one < two; }
  };

 public:
  union Storage {
    typename Alone::TempStorage alone;
    typename Placed::TempStorage placed;
  };
  __device__ static void sort(Storage& storage, uint64_t (&keys)[items]) {
    Alone(storage.alone).StableSort(keys, Less());
  }
  __device__ static void sort(Storage& storage, uint64_t (&keys)[items], Place (&places)[items]) {
    Placed(storage.placed).StableSort(keys, places, Less());
  }
  __device__ static int rank(int n) { return static_cast<int>(threadIdx.x) * items + n; }
};

}  // namespace dpslice::cuda
