// The vector vexp2 of simd.h by itself, so that tests can measure its error.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

template <class T>
struct Exp2Args {
  int64_t size;
  const T* x;  // [size]
  T* out;      // [size]
};

DPSLICE_DECLARE_KERNEL(exp2, Exp2Args)

}  // namespace dpslice
