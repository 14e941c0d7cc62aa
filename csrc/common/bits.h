// Numbers as bits, and bits that sort as the numbers do.
#pragma once

#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace dpslice {

template <class To, class From>
DPSLICE_HD inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// Bits of a number such that unsigned order is the order of the numbers; -0 counts as +0.
DPSLICE_HD inline uint32_t ordered_bits(float value) {
  const uint32_t bits = bits_as<uint32_t>(value + 0.0f);  // -0 becomes +0
  return bits ^ (-(bits >> 31) | 0x80000000u);  // all bits of a negative number, else the sign's
}
DPSLICE_HD inline uint64_t ordered_bits(double value) {
  const uint64_t bits = bits_as<uint64_t>(value + 0.0);
  return bits ^ (-(bits >> 63) | uint64_t{1} << 63);
}

// The number of these bits.
DPSLICE_HD inline float number_of_bits(uint32_t ordered) {
  return bits_as<float>(ordered ^ (((ordered >> 31) - 1) | 0x80000000u));
}
DPSLICE_HD inline double number_of_bits(uint64_t ordered) {
  return bits_as<double>(ordered ^ (((ordered >> 63) - 1) | uint64_t{1} << 63));
}

}  // namespace dpslice
