// Weighted totals over the rows of each slice, for kernel sums and log sums.
#pragma once

#include <cstdint>

#include "common/row_total.h"

namespace dpslice {

// totals_s = sum_i weights_si rows_si, added up in float64. Rows of weight zero that are not finite
// become zeros.
template <class T>
struct RowTotalsArgs {
  int64_t m, b;
  const T* weights;  // [m, b]
  T* rows;           // [m, b], in and out
  T* totals;         // [m] out
};

// The order of the sum depends on b alone.
template <class T>
inline void row_totals(const RowTotalsArgs<T>& args) {
  constexpr int64_t kParts = 8;  // sums that do not wait for one another
  for (int64_t s = 0; s < args.m; ++s) {
    const T* const weights = args.weights + s * args.b;
    T* const rows = args.rows + s * args.b;
    double part[kParts] = {};
    const auto add = [&](int64_t i, int64_t p) {
      rows[i] = kept_row(weights[i], rows[i]);
      part[p] += weighted_row(weights[i], rows[i]);
    };
    int64_t i = 0;
    for (; i + kParts <= args.b; i += kParts)
      for (int64_t p = 0; p < kParts; ++p) add(i + p, p);
    for (int64_t p = 0; i < args.b; ++i, ++p) add(i, p);
    for (int64_t width = kParts / 2; width > 0; width /= 2)
      for (int64_t p = 0; p < width; ++p) part[p] += part[p + width];
    args.totals[s] = static_cast<T>(part[0]);
  }
}

}  // namespace dpslice
