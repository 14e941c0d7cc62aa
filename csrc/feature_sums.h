// What sums of features need from compiled code: rows within their bound, on a grid where that is
// wanted, and the sums of Gaussian kernels at landmarks.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

// Rows scaled down to max_norm where they are longer; then, if step > 0, as whole multiples of it.
// T is the type of the rows given.
template <class T>
struct BoundedRowsArgs {
  const T* x;       // [n, d], finite
  double max_norm;  // at most 2^26 steps, so that squared norms of multiples are exact
  double step;      // a power of two, or 0
  double* out;      // [n, d]; multiples are given as such: row = step * out
  int64_t n, d;
};

// sums[s, l] += sum over rows of floor(scale exp2(factor_s |landmark_sl - y_s|^2)), each row's
// numbers scaled down together where their norm exceeds `bound`. Whole numbers, so that neither the
// order of the rows nor the number of threads matters.
template <class T>
struct KernelFeatureSumsArgs {
  const T* y;          // [n, m, k]
  const T* landmarks;  // [m, c, k]
  const T* factors;    // [m], negative
  double scale;        // at most 2^30
  double bound;        // in units of 1 / scale
  int64_t* sums;       // [m, c] in and out
  int64_t n, m, c, k;
};

DPSLICE_DECLARE_KERNEL(bounded_rows, BoundedRowsArgs)
DPSLICE_DECLARE_KERNEL(kernel_feature_sums, KernelFeatureSumsArgs)

}  // namespace dpslice
