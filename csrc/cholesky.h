// Cholesky factorisation A = U^T U of one small symmetric matrix in float64, and the two triangular
// solves. For kernel sources only.
//
// Only the upper triangle is stored and computed, row-major, so that every inner loop runs along
// rows, and one right-hand side rides along as the column after the matrix: its forward solve is
// then part of the factorisation. The order is padded to whole tiles with rows of the identity.
// Within a panel of rows the algorithm looks left, tile by tile; a finished panel is then
// subtracted from the rest.
#pragma once

#include <cmath>
#include <cstdint>

#include "simd.h"

namespace dpslice::DPSLICE_ISA {

// A tile of kTileRows x kTileVectors accumulators, its row of vectors and one broadcast value fill
// the registers: 32 of them with AVX-512 and on ARM, else 16.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kTileRows = 8;
#else
constexpr int kTileRows = 4;
#endif
constexpr int kTileVectors = 3;
// Rows of a panel. A strip of one panel, 64 x 3 vectors, stays in L1.
constexpr int64_t kPanel = 64;
static_assert(kPanel % kTileRows == 0 && kTileRows % kLanes<double> == 0);

struct CholeskyShape {
  int64_t order, stride;
  explicit CholeskyShape(int64_t size)
      : order((size + kTileRows - 1) / kTileRows * kTileRows), stride(padded<double>(order + 1)) {}
  int64_t numbers() const { return order * stride; }
};

// Completes a matrix whose upper triangle of order `size` is written: padding and right-hand side.
inline void complete(double* a, CholeskyShape shape, int64_t size, const double* right_hand_side) {
  for (int64_t i = 0; i < shape.order; ++i) {
    double* row = a + i * shape.stride;
    for (int64_t j = i < size ? size : i / kTileRows * kTileRows; j < shape.stride; ++j) row[j] = 0;
    if (i < size)
      row[shape.order] = right_hand_side[i];
    else
      row[i] = 1;
  }
}

template <int V>
struct Tile {
  using Vector = Vec<double>;
  static constexpr int L = kLanes<double>;
  Vector sum[kTileRows][V];

  inline __attribute__((always_inline)) void load_from(const double* a, int64_t stride) {
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = load(a + r * stride + v * L);
  }
  inline __attribute__((always_inline)) void store_to(double* a, int64_t stride) const {
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(a + r * stride + v * L, sum[r][v]);
  }
  // Subtracts the outer products of rows [first, last) of `a` at columns i (down) and j (across).
  inline __attribute__((always_inline)) void subtract(const double* a, int64_t stride,
                                                      int64_t first, int64_t last, int64_t i,
                                                      int64_t j) {
    for (int64_t s = first; s < last; ++s) {
      const double* row = a + s * stride;
      Vector across[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) across[v] = load(row + j + v * L);
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r) {
        const Vector down = splat(row[i + r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] -= down * across[v];
      }
    }
  }
  // Divides by the transposed triangle of the diagonal tile at `a`, whose diagonal holds
  // reciprocals.
  inline __attribute__((always_inline)) void solve(const double* a, int64_t stride) {
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 8
      for (int q = 0; q < r; ++q) {
        const Vector factor = splat(a[q * stride + r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] -= factor * sum[q][v];
      }
      const Vector reciprocal = splat(a[r * stride + r]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] *= reciprocal;
    }
  }
};

// The diagonal tile at `a`: U above, reciprocals on the diagonal, zeros below. False at a bad
// pivot.
inline bool factor_diagonal_tile(double* a, int64_t stride, double smallest_pivot) {
  for (int r = 0; r < kTileRows; ++r) {
    double* row = a + r * stride;
    const double pivot = row[r];
    if (!(pivot > smallest_pivot)) return false;
    const double reciprocal = 1.0 / std::sqrt(pivot);
    for (int j = 0; j < r; ++j) row[j] = 0;
    row[r] = reciprocal;
    for (int j = r + 1; j < kTileRows; ++j) row[j] *= reciprocal;
    for (int i = r + 1; i < kTileRows; ++i)
      for (int j = i; j < kTileRows; ++j) a[i * stride + j] -= row[i] * row[j];
  }
  return true;
}

template <int V>
inline void finish_row_tile(double* a, int64_t stride, int64_t panel, int64_t i, int64_t j) {
  Tile<V> tile;
  tile.load_from(a + i * stride + j, stride);
  tile.subtract(a, stride, panel, i, i, j);
  tile.solve(a + i * stride + i, stride);
  tile.store_to(a + i * stride + j, stride);
}

template <int V>
inline void subtract_panel(double* a, int64_t stride, int64_t first, int64_t last, int64_t i,
                           int64_t j) {
  Tile<V> tile;
  tile.load_from(a + i * stride + j, stride);
  tile.subtract(a, stride, first, last, i, j);
  tile.store_to(a + i * stride + j, stride);
}

// Factors the completed matrix in place: U above the diagonal, reciprocals of its diagonal on it,
// and U^-T times the right-hand side in column `order`. False if a pivot is not above
// `smallest_pivot`.
inline bool cholesky(double* a, CholeskyShape shape, double smallest_pivot) {
  constexpr int L = kLanes<double>;
  const int64_t order = shape.order, stride = shape.stride;
  for (int64_t panel = 0; panel < order; panel += kPanel) {
    const int64_t end = panel + kPanel < order ? panel + kPanel : order;
    for (int64_t i = panel; i < end; i += kTileRows) {
      double* diagonal = a + i * stride + i;
      {
        Tile<kTileRows / L> tile;
        tile.load_from(diagonal, stride);
        tile.subtract(a, stride, panel, i, i, i);
        tile.store_to(diagonal, stride);
      }
      if (!factor_diagonal_tile(diagonal, stride, smallest_pivot)) return false;
      int64_t j = i + kTileRows;
      for (; j + kTileVectors * L <= stride; j += kTileVectors * L)
        finish_row_tile<kTileVectors>(a, stride, panel, i, j);
      for (; j < stride; j += L) finish_row_tile<1>(a, stride, panel, i, j);
    }
    for (int64_t strip = end; strip < stride; strip += kTileVectors * L) {
      const int64_t strip_end =
          strip + kTileVectors * L < stride ? strip + kTileVectors * L : stride;
      const int64_t rows = strip_end < order ? strip_end : order;
      for (int64_t i = end; i < rows; i += kTileRows) {
        const int64_t j = strip > i ? strip : i;  // nothing below the diagonal
        switch ((strip_end - j) / L) {
          case 3: subtract_panel<3>(a, stride, panel, end, i, j); break;
          case 2: subtract_panel<2>(a, stride, panel, end, i, j); break;
          case 1: subtract_panel<1>(a, stride, panel, end, i, j); break;
          default: break;
        }
      }
    }
  }
  return true;
}
static_assert(kTileVectors == 3, "the switch above lists the widths of a strip");

// x <- U^-T x, x: [order].
inline void solve_transposed(const double* a, CholeskyShape shape, double* x) {
  constexpr int L = kLanes<double>;
  for (int64_t i = 0; i < shape.order; ++i) {
    const double* row = a + i * shape.stride;
    const double value = x[i] * row[i];
    for (int64_t j = i / kTileRows * kTileRows; j < shape.order; j += L)
      store(x + j, load(x + j) - value * load(row + j));  // zeros below the diagonal
    x[i] = value;
  }
}

// solution <- U^-1 z; both [order], not the same array.
inline void solve(const double* a, CholeskyShape shape, const double* z, double* solution) {
  constexpr int L = kLanes<double>;
  for (int64_t i = 0; i < shape.order; ++i) solution[i] = 0;
  for (int64_t i = shape.order - 1; i >= 0; --i) {
    const double* row = a + i * shape.stride;
    // Entries of the solution up to i are still 0, so the reciprocal on the diagonal does no harm.
    Vec<double> even{}, odd{};
    int64_t j = i / kTileRows * kTileRows;
    for (; j + 2 * L <= shape.order; j += 2 * L) {
      even += load(row + j) * load(solution + j);
      odd += load(row + j + L) * load(solution + j + L);
    }
    for (; j < shape.order; j += L) even += load(row + j) * load(solution + j);
    solution[i] = (z[i] - sum_lanes<double>(even + odd)) * row[i];
  }
}

}  // namespace dpslice::DPSLICE_ISA
