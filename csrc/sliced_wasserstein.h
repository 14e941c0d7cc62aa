// W_q^q between the empirical measures of each one-dimensional slice, and its gradients.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

template <class T>
struct SlicedWassersteinArgs {
  int64_t m, b, c;
  const T* x;    // [m, b]
  const T* y;    // [m, c]
  double order;  // q >= 1
  T* value;      // [m] out
  T* grad_x;     // [m, b] out: gradient of each slice's value; or null, as the one below
  T* grad_y;     // [m, c] out
};

DPSLICE_DECLARE_KERNEL(sliced_wasserstein, SlicedWassersteinArgs)

}  // namespace dpslice
