// What arithmetic on one number and on a vector of numbers writes differently, behind one name, so
// that a formula is written once: for a number of a CUDA thread, or for the lanes of a vector.
//
// Below, V is float or double, or a vector of them. A word is 32 random bits: a uint32_t, or, per
// lane, an unsigned integer as wide as the lanes of V, whose low 32 bits count.
#pragma once

#include <cmath>
#include <cstdint>

#include "host_device.h"

namespace dpslice {

// The number in a lane of V, and unsigned integers as wide as its lanes.
template <class V>
struct Lanes;
template <>
struct Lanes<float> {
  using Real = float;
  using Bits = uint32_t;
};
template <>
struct Lanes<double> {
  using Real = double;
  using Bits = uint64_t;
};

// The operations on single numbers. Those on vectors, in simd_arithmetic.h, have the same names;
// CUDA sources override quotient and root.
struct Arithmetic {
  template <class T>
  DPSLICE_HD static inline T quotient(T a, T b) {
    return a / b;
  }
  DPSLICE_HD static inline double root(double x) { return sqrt(x); }
  DPSLICE_HD static inline float root(float x) { return sqrtf(x); }
  DPSLICE_HD static inline double magnitude(double x) { return fabs(x); }
  DPSLICE_HD static inline float magnitude(float x) { return fabsf(x); }

  // A word as a signed integer, as a number.
  DPSLICE_HD static inline float signed_number(uint32_t word) {
    return static_cast<float>(static_cast<int32_t>(word));
  }
  // A word without what may stand above its 32 bits, and one that is as wide as a double.
  DPSLICE_HD static inline uint32_t low_word(uint32_t word) { return word; }
  DPSLICE_HD static inline uint64_t wide(uint32_t word) { return word; }

  // The product of two words, and its halves. Above the low half something may stand.
  DPSLICE_HD static inline uint64_t product(uint32_t a, uint32_t b) {
    return static_cast<uint64_t>(a) * b;
  }
  DPSLICE_HD static inline uint32_t high_half(uint64_t product) {
    return static_cast<uint32_t>(product >> 32);
  }
  DPSLICE_HD static inline uint32_t low_half(uint64_t product) {
    return static_cast<uint32_t>(product);
  }
};

}  // namespace dpslice
