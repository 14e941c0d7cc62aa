// See stand_in.h. The memory that is asked for is written to, and results are in the other buffer.
#pragma once

#include <cstring>

#include "../stand_in.h"

namespace cub {

template <class T>
struct DoubleBuffer {
  DoubleBuffer(T* current, T* alternate) : d_buffers{current, alternate} {}
  T* Current() { return d_buffers[selector]; }
  T* Alternate() { return d_buffers[selector ^ 1]; }
  T* d_buffers[2];
  int selector = 0;
};

struct DeviceRadixSort {
  template <class Key>
  static cudaError_t SortKeys(void* temporary, size_t& bytes, DoubleBuffer<Key>& keys,
                              uint32_t count, int begin_bit, int end_bit, cudaStream_t stream) {
    std::vector<NullType> none(2 * static_cast<size_t>(count));
    DoubleBuffer<NullType> values(none.data(), none.data() + count);
    return SortPairs(temporary, bytes, keys, values, count, begin_bit, end_bit, stream);
  }
  template <class Key, class Value>
  static cudaError_t SortPairs(void* temporary, size_t& bytes, DoubleBuffer<Key>& keys,
                               DoubleBuffer<Value>& values, uint32_t count, int begin_bit,
                               int end_bit, cudaStream_t stream) {
    using Pair = StandInPair<Key, Value>;
    if (temporary == nullptr) {
      bytes = count;
      return cudaSuccess;
    }
    std::memset(temporary, 0xff, bytes);
    std::vector<Pair> pairs(count);
    for (uint32_t i = 0; i < count; ++i) pairs[i] = {keys.Current()[i], values.Current()[i]};
    const auto digits = [=](Key key) {
      return key << (8 * sizeof(Key) - static_cast<unsigned>(end_bit)) >>
             (8 * sizeof(Key) - static_cast<unsigned>(end_bit - begin_bit));
    };
    std::stable_sort(pairs.begin(), pairs.end(), [&](const Pair& one, const Pair& two) {
      return digits(one.key) < digits(two.key);
    });
    for (uint32_t i = 0; i < count; ++i) {
      keys.Alternate()[i] = pairs[i].key;
      values.Alternate()[i] = pairs[i].value;
    }
    keys.selector ^= 1;
    values.selector ^= 1;
    return cuda_emulator::launch_error(stream);
  }
};

}  // namespace cub
