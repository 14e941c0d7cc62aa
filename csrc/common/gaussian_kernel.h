// The Gaussian kernel K_g(u, v) = exp(-|u - v|^2 / (2 g^2)) and what its sums and gradients need.
//
// V is a number or a vector of numbers. Kernels work with log K, so that far pairs do not underflow
// before they are compared; the derivative is grad_u log K = (v - u) / g^2.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace dpslice {

// log K from the squared distance; factor = 1 / (2 g^2), in the squared unit of the distance.
template <class V, class T>
DPSLICE_HD inline V log_kernel_of_square(V squared_distance, T factor) {
  return squared_distance * -factor;
}

// log K from the product u.v of points already divided by the bandwidth, with log K(u, 0) =
// -|u|^2/2 and log K(v, 0). The three cancel where u and v are close together and far from the
// origin: callers centre the points first, and take differences where that does not help.
template <class V, class U, class W>
DPSLICE_HD inline V log_kernel_of_product(V product, U log_kernel_u, W log_kernel_v) {
  return product + log_kernel_v + log_kernel_u;
}

// Largest max|x| max|y|, in squared bandwidths, for products. The error of log K is that of their
// terms: at most some 10 * (unit roundoff) * |x||y| (measured for k up to 784), and 0.35 times it
// between points at usual distances: 5e-6 at 256 in float32. Points in k dimensions at distances of
// a bandwidth per dimension have log K of the size of k, where differences round as badly as
// products do: from there on products lose nothing, but between points that are far nearer than
// that. In float64 the bound is far from any use.
template <class T>
DPSLICE_HD inline double product_reach(int64_t k) {
  const double least = sizeof(T) == 4 ? 256.0 : 4096.0;
  return 2.0 * static_cast<double>(k) > least ? 2.0 * static_cast<double>(k) : least;
}

}  // namespace dpslice
