// Regularised kernel density ratio of each slice, its gradients, and the fused f-divergence loss.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

// r = (K_g(q, q) + ridge I)^-1 w,  w_i = (b/c) sum_j E K_g(q_i, p_j + v),  v ~ N(0, sigma^2 I).
template <class T>
struct DensityRatioArgs {
  int64_t m, b, c, k;
  const T* q;          // [m, b, k] private rows
  const T* p;          // [m, c, k] synthetic rows
  const T* bandwidth;  // [m]
  double ridge, sigma;
  T* ratio;               // [m, b] out
  int64_t* failed_slice;  // out: first slice whose matrix is not positive definite, or -1
};

template <class T>
struct DensityRatioVjpArgs {
  int64_t m, b, c, k;
  const T* q;          // [m, b, k]
  const T* p;          // [m, c, k]
  const T* bandwidth;  // [m]
  double ridge, sigma;
  const T* ratio;  // [m, b] what density_ratio gave
  const T* grad;   // [m, b]
  T* grad_q;       // [m, b, k] out, or null
  T* grad_p;       // [m, c, k] out, or null
  int64_t* failed_slice;
};

// value_s = mean_i f(max(r_si, r_min)), r averaged over the bandwidths.
template <class T>
struct DensityRatioDivergenceArgs {
  int64_t m, b, c, k, bandwidths;
  const T* q;          // [m, b, k]
  const T* p;          // [m, c, k]
  const T* bandwidth;  // [bandwidths, m]
  double ridge, sigma;
  int divergence;  // a DivergenceCode
  double alpha, r_min;
  T* value;   // [m] out
  T* grad_p;  // [m, c, k] out: gradient of value_s in its own slice; or null
  int64_t* failed_slice;
};

template <class T>
struct DivergenceArgs {
  int64_t size;
  int divergence;
  double alpha;
  const T* t;     // [size], >= 0
  T* value;       // [size] out
  T* derivative;  // [size] out
};

DPSLICE_DECLARE_KERNEL(density_ratio, DensityRatioArgs)
DPSLICE_DECLARE_KERNEL(density_ratio_vjp, DensityRatioVjpArgs)
DPSLICE_DECLARE_KERNEL(density_ratio_divergence, DensityRatioDivergenceArgs)
DPSLICE_DECLARE_KERNEL(divergence, DivergenceArgs)

}  // namespace dpslice
