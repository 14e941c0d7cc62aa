// Logarithms of sums of Gaussian kernels over pairs of points, slice by slice, and their gradients.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

// out_i = log sum_j exp(l_j) K(x_i, y_j)
template <class T>
struct LogsumexpArgs {
  int64_t m, b, c, k;
  const T* x;            // [m, b, k]
  const T* y;            // [m, c, k]
  const T* bandwidth;    // [m]
  const T* log_weights;  // [m, c], or null: all zero
  T* out;                // [m, b]
};

template <class T>
struct LogsumexpVjpArgs {
  int64_t m, b, c, k;
  const T* x;            // [m, b, k]
  const T* y;            // [m, c, k]
  const T* bandwidth;    // [m]
  const T* log_weights;  // [m, c], or null
  const T* logsumexp;    // [m, b], what the forward kernel returned
  const T* grad;         // [m, b]
  T* grad_x;             // [m, b, k], or null where not needed, as the two below
  T* grad_y;             // [m, c, k]
  T* grad_log_weights;   // [m, c]
};

// out as above, and the gradients of sum_i row_weights_i out_i.
template <class T>
struct LogsumexpTotalArgs {
  int64_t m, b, c, k;
  const T* x;            // [m, b, k]
  const T* y;            // [m, c, k]
  const T* bandwidth;    // [m]
  const T* log_weights;  // [m, c], or null
  const T* row_weights;  // [m, b]
  T* out;                // [m, b]
  T* grad_y;             // [m, c, k], or null where not needed, as the one below
  T* grad_log_weights;   // [m, c]
};

DPSLICE_DECLARE_KERNEL(logsumexp, LogsumexpArgs)
DPSLICE_DECLARE_KERNEL(logsumexp_total, LogsumexpTotalArgs)
DPSLICE_DECLARE_KERNEL(logsumexp_vjp, LogsumexpVjpArgs)

}  // namespace dpslice
