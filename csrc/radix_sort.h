// Sorting of (key, index) pairs by unsigned key, stable, by digits from the lowest. For kernel
// sources, which must not use std::sort (see isa.h).
#pragma once

#include <cstdint>
#include <cstring>

#include "common/bits.h"
#include "parallel.h"

namespace dpslice::DPSLICE_ISA {

// A float32 key and its index share 64 bits; the index must fit in 32.
struct PackedKey {
  uint64_t bits;
  static constexpr int kKeyBits = 32;
  static PackedKey make(uint32_t key, uint64_t index) {
    return {static_cast<uint64_t>(key) << 32 | index};
  }
  uint64_t key() const { return bits >> 32; }
  int64_t index() const { return static_cast<int64_t>(bits & 0xffffffffu); }
};
struct WideKey {
  uint64_t bits, place;
  static constexpr int kKeyBits = 64;
  static WideKey make(uint64_t key, uint64_t index) { return {key, index}; }
  uint64_t key() const { return bits; }
  int64_t index() const { return static_cast<int64_t>(place); }
};
inline float number_of(PackedKey key) {
  return number_of_bits(static_cast<uint32_t>(key.bits >> 32));
}
inline double number_of(WideKey key) { return number_of_bits(key.bits); }

template <class T>
struct SortKeyOf;
template <>
struct SortKeyOf<float> {
  using Key = PackedKey;
};
template <>
struct SortKeyOf<double> {
  using Key = WideKey;
};
template <class T>
using SortKey = typename SortKeyOf<T>::Key;

// Digits of 8 bits for short arrays, where clearing the counters would dominate, of 11 for long
// ones, where passes do.
constexpr int kShortDigit = 8, kLongDigit = 11;
constexpr int64_t kLongArray = 4096;

// Count: an integer that can hold the size; the narrower, the quicker.
template <int DigitBits, class Key, class Count>
Key* radix_sort_digits(Key* from, Key* to, int64_t size, Buffer<Count>& counters) {
  constexpr int64_t digits = int64_t{1} << DigitBits;
  constexpr int passes = (Key::kKeyBits + DigitBits - 1) / DigitBits;
  counters.resize(passes * digits);
  Count* count = counters.data();
  std::memset(count, 0, sizeof(Count) * passes * digits);
  for (int64_t i = 0; i < size; ++i) {
    const uint64_t key = from[i].key();
    for (int pass = 0; pass < passes; ++pass)
      ++count[pass * digits + static_cast<int64_t>(key >> (pass * DigitBits) & (digits - 1))];
  }
  for (int pass = 0; pass < passes; ++pass, count += digits) {
    const int shift = pass * DigitBits;
    if (count[from[0].key() >> shift & (digits - 1)] == static_cast<Count>(size))
      continue;  // all keys share this digit
    Count place = 0;
    for (int64_t digit = 0; digit < digits; ++digit) {
      const Count here = count[digit];
      count[digit] = place;
      place += here;
    }
    for (int64_t i = 0; i < size; ++i) to[count[from[i].key() >> shift & (digits - 1)]++] = from[i];
    Key* sorted = to;
    to = from;
    from = sorted;
  }
  return from;
}

// Returns whichever of the two arrays holds the result; the other is scratch. size >= 1.
template <class Key, class Count>
Key* radix_sort(Key* keys, Key* scratch, int64_t size, Buffer<Count>& counters) {
  if (size < kLongArray) return radix_sort_digits<kShortDigit>(keys, scratch, size, counters);
  return radix_sort_digits<kLongDigit>(keys, scratch, size, counters);
}

}  // namespace dpslice::DPSLICE_ISA
