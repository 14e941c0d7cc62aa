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
};

template <class T>
struct SlicedWassersteinVjpArgs {
  int64_t m, b, c;
  const T* x;  // [m, b]
  const T* y;  // [m, c]
  double order;
  const T* grad;  // [m]
  T* grad_x;      // [m, b] out, or null
  T* grad_y;      // [m, c] out, or null
};

DPSLICE_DECLARE_KERNEL(sliced_wasserstein, SlicedWassersteinArgs)
DPSLICE_DECLARE_KERNEL(sliced_wasserstein_vjp, SlicedWassersteinVjpArgs)

}  // namespace dpslice
