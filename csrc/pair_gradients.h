// Gradients of a sum or a log sum of Gaussian kernels. For kernel sources only: kernel_sum.cpp and
// logsumexp.cpp call, pair_gradients.cpp defines.
#pragma once

#include <cstdint>

#include "simd.h"

namespace dpslice::DPSLICE_ISA {

// The gradients of one of the two reductions.
template <class T>
struct PairGradients {
  int64_t m, b, c, k;
  const T* x;            // [m, b, k]
  const T* y;            // [m, c, k]
  const T* bandwidth;    // [m]
  const T* log_weights;  // [m, c] or null
  const T* factor;       // [m, c] or null
  const double* shift;   // [m, b] or null: minus the logsumexp of each row, in base 2
  const T* grad;         // [m, b]
  T* grad_x;             // [m, b, k] or null
  T* grad_y;             // [m, c, k] or null
  T* grad_factor;        // [m, c] or null: in the factor, or equally in the log weights
  const bool* chosen;    // [m] or null: the slices to compute; others are left alone
};

// Writes the gradients that are not null.
template <class T>
void launch_gradients(const PairGradients<T>& args);

// In one sweep: the sums, or their logarithms, of each row of x into `out` [m, b], and of their
// total weighted by `grad` the gradients in y and in the factor or log weights. `shift` and
// `grad_x` are null. Logarithms keep 64 c numbers for each thread (256 c where k c is large and c
// is not), and where float32 is too coarse for shares (see logsumexp_vjp) gradients are rough.
template <class T>
void launch_totals(const PairGradients<T>& args, bool logarithm, T* out);

}  // namespace dpslice::DPSLICE_ISA
