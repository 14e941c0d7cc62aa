// The vector exponential of simd.h by itself, so that tests can measure its error.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

template <class T>
struct ExponentialArgs {
  int64_t size;
  const T* x;  // [size]
  T* out;      // [size]
};

DPSLICE_DECLARE_KERNEL(exponential, ExponentialArgs)

}  // namespace dpslice
