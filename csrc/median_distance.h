// Median of the pairwise Euclidean distances of each slice, and its gradient.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

template <class T>
struct MedianDistanceArgs {
  int64_t m, b, k;
  const T* x;  // [m, b, k], b >= 2
  T* value;    // [m] out
};

template <class T>
struct MedianDistanceVjpArgs {
  int64_t m, b, k;
  const T* x;     // [m, b, k]
  const T* grad;  // [m]
  T* grad_x;      // [m, b, k] out
};

DPSLICE_DECLARE_KERNEL(median_distance, MedianDistanceArgs)
DPSLICE_DECLARE_KERNEL(median_distance_vjp, MedianDistanceVjpArgs)

}  // namespace dpslice
