// How far out the points of a slice lie, so that arguments can be checked in one pass.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

// The largest |coordinate| / bandwidth of all slices; NaN where a coordinate is not finite or a
// bandwidth is no finite, positive, normal number.
template <class T>
struct ReachArgs {
  int64_t m, size;     // `size` coordinates in each slice
  const T* points;     // [m, size]
  const T* bandwidth;  // [m]
  double* reach;       // out
};

DPSLICE_DECLARE_KERNEL(reach, ReachArgs)

}  // namespace dpslice
