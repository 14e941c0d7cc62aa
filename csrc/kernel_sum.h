// Sums of Gaussian kernels over pairs of points, slice by slice, and their gradients.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

// out_i = sum_j w_j K(x_i, y_j)
template <class T>
struct KernelSumArgs {
  int64_t m, b, c, k;
  const T* x;          // [m, b, k]
  const T* y;          // [m, c, k]
  const T* bandwidth;  // [m]
  const T* weights;    // [m, c], or null: all one
  T* out;              // [m, b]
};

template <class T>
struct KernelSumVjpArgs {
  int64_t m, b, c, k;
  const T* x;          // [m, b, k]
  const T* y;          // [m, c, k]
  const T* bandwidth;  // [m]
  const T* weights;    // [m, c], or null
  const T* grad;       // [m, b]
  T* grad_x;           // [m, b, k], or null where not needed, as the two below
  T* grad_y;           // [m, c, k]
  T* grad_weights;     // [m, c]
};

// out as above, and the gradients of sum_i row_weights_i out_i.
template <class T>
struct KernelSumTotalArgs {
  int64_t m, b, c, k;
  const T* x;            // [m, b, k]
  const T* y;            // [m, c, k]
  const T* bandwidth;    // [m]
  const T* weights;      // [m, c], or null
  const T* row_weights;  // [m, b]
  T* out;                // [m, b]
  T* grad_y;             // [m, c, k], or null where not needed, as the one below
  T* grad_weights;       // [m, c]
};

DPSLICE_DECLARE_KERNEL(kernel_sum, KernelSumArgs)
DPSLICE_DECLARE_KERNEL(kernel_sum_total, KernelSumTotalArgs)
DPSLICE_DECLARE_KERNEL(kernel_sum_vjp, KernelSumVjpArgs)

}  // namespace dpslice
