// What kernels that read private rows share: memory that is wiped, and the bound on a row's norm.
// For kernel sources.
#pragma once

#include <cmath>
#include <cstdint>

#include "parallel.h"
#include "secure_wipe.h"

namespace dpslice::DPSLICE_ISA {

// For what comes from private rows or secret noise: wiped before it is freed.
template <class T>
struct SecretBuffer {
  Buffer<T> buffer;
  int64_t size = 0;
  ~SecretBuffer() { secure_wipe(buffer.data(), static_cast<size_t>(size) * sizeof(T)); }
  T* resize(int64_t wanted) {
    if (wanted > size) {
      secure_wipe(buffer.data(), static_cast<size_t>(size) * sizeof(T));
      size = 0;
      buffer.resize(wanted);
      size = wanted;
    }
    return buffer.data();
  }
};

// A subnormal factor has lost digits: rounded up, it could leave the row at twice max_norm. Below
// this size (down to which 1e-11 of it is sure) the row becomes zero instead.
inline double reliable_factor(double factor) {
  if (factor >= 1.0) return 1.0;
  return factor >= 1e-312 ? factor : 0.0;
}

// min(1, max_norm / ||row||), or NaN if the row holds NaN or infinity.
template <class X>
double clipping_factor(const X* row, int64_t d, double max_norm) {
  double squares = 0;
#pragma omp simd reduction(+ : squares)
  for (int64_t l = 0; l < d; ++l) squares += static_cast<double>(row[l]) * row[l];
  // The sum of squares overflows or loses its digits for very large and very small rows, and is
  // not finite for bad ones: these take the long way.
  if (squares > 1e-280 && squares < 1e280) {
    const double norm = std::sqrt(squares);
    return norm > max_norm ? reliable_factor(max_norm / norm) : 1.0;
  }
  double largest = 0;
  for (int64_t l = 0; l < d; ++l) {
    const double size = std::fabs(static_cast<double>(row[l]));
    if (!(size <= 1.7976931348623157e308)) return std::nan("");
    largest = size > largest ? size : largest;
  }
  if (largest == 0) return 1.0;
  squares = 0;
  for (int64_t l = 0; l < d; ++l) {
    const double part = static_cast<double>(row[l]) / largest;
    squares += part * part;
  }
  // The root is at least 1, so no quotient on the way is smaller than the result.
  return reliable_factor(max_norm / largest / std::sqrt(squares));
}

}  // namespace dpslice::DPSLICE_ISA
