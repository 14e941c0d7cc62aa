// Cholesky factorisation A = U^T U of one symmetric matrix, and the two triangular solves, in
// float32 or float64. For kernel sources only.
//
// Only the upper triangle is stored and computed, row-major, so that every inner loop runs along
// rows. The order is padded to whole tiles with rows of a multiple of the identity. Within a panel
// of rows the algorithm looks left, tile by tile; a finished panel is then packed, so that its
// parts lie side by side, and subtracted from the rest.
#pragma once

#include <cmath>
#include <cstdint>

#include "parallel.h"
#include "simd.h"
#include "tile_product.h"

namespace dpslice::DPSLICE_ISA {

// Rows of a panel. A strip of one packed panel, 128 x kTileVectors vectors, stays in L1.
constexpr int64_t kCholeskyPanel = 128;
static_assert(kCholeskyPanel % kTileRows == 0 && kCholeskyPanel % (64 / sizeof(float)) == 0);
static_assert(kPanel<float> % kTileRows == 0 && kPanel<double> % kTileRows == 0);

// The layout of matrix and factor, the same for both precisions. A row begins at a cache line, an
// odd number of lines (of float32) after the one before, so that rows do not share cache sets.
struct CholeskyShape {
  int64_t order, stride;
  explicit CholeskyShape(int64_t size)
      : order(padded_rows(size)), stride(((order + kLine - 1) / kLine | 1) * kLine) {}
  int64_t numbers() const { return order * stride; }
  static constexpr int64_t kLine = 64 / sizeof(float);
};

// The column where row i begins, down to a whole vector.
template <class T>
constexpr int64_t first_column(int64_t i) {
  return i / kLanes<T> * kLanes<T>;
}

// Completes a matrix whose upper triangle of order `size` is written: the padding. Its diagonal is
// to be of the size of the others', for pivots far below the largest are refused.
inline void pad_with_diagonal(double* a, CholeskyShape shape, int64_t size, double diagonal) {
  for (int64_t i = 0; i < shape.order; ++i) {
    double* const row = a + i * shape.stride;
    for (int64_t j = i < size ? size : 0; j < shape.stride; ++j) row[j] = 0;
    if (i >= size) row[i] = diagonal;
  }
}

template <class T, int V>
struct CholeskyTile {
  static constexpr int L = kLanes<T>;
  Vec<T> sum[kTileRows][V];

  inline __attribute__((always_inline)) void load_from(const T* a, int64_t stride) {
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] = load(a + r * stride + v * L);
  }
  inline __attribute__((always_inline)) void store_to(T* a, int64_t stride) const {
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) store(a + r * stride + v * L, sum[r][v]);
  }
  // Subtracts the outer products of `depth` steps: kTileRows numbers at `down` and V vectors at
  // `across`, each with its own distance from step to step.
  inline __attribute__((always_inline)) void subtract(int64_t depth, const T* down,
                                                      int64_t down_step, const T* across,
                                                      int64_t across_step) {
    for (int64_t s = 0; s < depth; ++s, down += down_step, across += across_step) {
      Vec<T> right[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) right[v] = load(across + v * L);
#pragma GCC unroll 8
      for (int r = 0; r < kTileRows; ++r) {
        const Vec<T> left = splat(down[r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] -= left * right[v];
      }
    }
  }
  // Divides by the transposed triangle of a diagonal tile, whose diagonal holds reciprocals.
  inline __attribute__((always_inline)) void solve(const T (&diagonal)[kTileRows][kTileRows]) {
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
#pragma GCC unroll 8
      for (int q = 0; q < r; ++q) {
        const Vec<T> factor = splat(diagonal[q][r]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[r][v] -= factor * sum[q][v];
      }
      const Vec<T> reciprocal = splat(diagonal[r][r]);
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[r][v] *= reciprocal;
    }
  }
};

// Factors a diagonal tile: U above, reciprocals on the diagonal, zeros below. False at a bad pivot,
// or, with `skip`, a row of zeros in its place, unless it is NaN.
template <bool skip, class T>
inline bool factor_diagonal_tile(T (&a)[kTileRows][kTileRows], T smallest_pivot) {
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r) {
    const T pivot = a[r][r];
    const bool good = pivot > smallest_pivot;
    if (!good && !(skip && pivot <= smallest_pivot)) return false;
    const T reciprocal = good ? T(1) / std::sqrt(pivot) : T(0);
#pragma GCC unroll 8
    for (int j = 0; j < r; ++j) a[r][j] = 0;
    a[r][r] = reciprocal;
#pragma GCC unroll 8
    for (int j = r + 1; j < kTileRows; ++j) a[r][j] *= reciprocal;
#pragma GCC unroll 8
    for (int i = r + 1; i < kTileRows; ++i)
#pragma GCC unroll 8
      for (int j = i; j < kTileRows; ++j) a[i][j] -= a[r][i] * a[r][j];
  }
  return true;
}

// Rows [begin, end) of the factor, from which rows [panel, begin) are still to be subtracted.
// `skip`: rows with a bad pivot are made zeros.
template <bool skip, class T>
inline bool factor_rows(T* a, CholeskyShape shape, int64_t panel, int64_t begin, int64_t end,
                        T smallest_pivot) {
  constexpr int L = kLanes<T>;
  const int64_t stride = shape.stride;
  // Row tiles [i, i + kTileRows) by V vectors from column j on.
  const auto subtracted = [&]<int V>(CholeskyTile<T, V>& tile, int64_t i, int64_t j) {
    tile.load_from(a + i * stride + j, stride);
    tile.subtract(i - panel, a + panel * stride + i, stride, a + panel * stride + j, stride);
  };
  for (int64_t i = begin; i < end; i += kTileRows) {
    T diagonal[kTileRows][kTileRows];
    const int64_t first = first_column<T>(i);
    int64_t j = first;
    // The vectors with the diagonal tile, and as many after it as make a whole tile: sums enough in
    // flight while everything waits for this tile.
    const auto start = [&]<int V>(CholeskyTile<T, V>&& head) {
      subtracted(head, i, first);
      head.store_to(a + i * stride + first, stride);
      for (int r = 0; r < kTileRows; ++r)
        for (int q = 0; q < kTileRows; ++q) diagonal[r][q] = a[(i + r) * stride + i + q];
      if (!factor_diagonal_tile<skip>(diagonal, smallest_pivot)) return false;
      head.solve(diagonal);
      head.store_to(a + i * stride + first, stride);
      for (int r = 0; r < kTileRows; ++r) {
        for (int64_t before = first; before < i; ++before) a[(i + r) * stride + before] = 0;
        for (int q = 0; q < kTileRows; ++q) a[(i + r) * stride + i + q] = diagonal[r][q];
      }
      j += V * L;
      return true;
    };
    const auto finish = [&]<int V>(CholeskyTile<T, V>&& tile) {
      subtracted(tile, i, j);
      tile.solve(diagonal);
      tile.store_to(a + i * stride + j, stride);
      j += V * L;
    };
    constexpr int kWidth = kTileRows > L ? kTileRows / L : 1;  // vectors that hold the diagonal
    constexpr int kHead = kTileVectors > kWidth ? kTileVectors : kWidth;
    if (!(first + kHead * L <= shape.order ? start(CholeskyTile<T, kHead>{})
                                           : start(CholeskyTile<T, kWidth>{})))
      return false;
    while (j + kTileVectors * L <= shape.order) finish(CholeskyTile<T, kTileVectors>{});
    while (j + 2 * L <= shape.order) finish(CholeskyTile<T, 2>{});
    while (j < shape.order) finish(CholeskyTile<T, 1>{});
  }
  return true;
}

// Memory for one packed panel.
template <class T>
inline int64_t packed_panel_size(CholeskyShape shape) {
  return kCholeskyPanel * (shape.stride + kPanel<T>);
}

// Factors the padded matrix in place: U above the diagonal, reciprocals of its diagonal on it, and
// zeros below it down to first_column. False if a pivot is not above `smallest_pivot`. `packed`:
// [packed_panel_size].
template <class T>
inline bool cholesky(T* a, CholeskyShape shape, T smallest_pivot, T* packed) {
  constexpr int L = kLanes<T>;
  constexpr int64_t width = kPanel<T>;
  const int64_t order = shape.order, stride = shape.stride;
  for (int64_t panel = 0; panel < order; panel += kCholeskyPanel) {
    const int64_t end = panel + kCholeskyPanel < order ? panel + kCholeskyPanel : order;
    if (!factor_rows<false>(a, shape, panel, panel, end, smallest_pivot)) return false;
    if (end == order) break;
    // What is left of the panel, in strips of `width` columns [strip, depth, width]: read once,
    // used often, across and (kTileRows of its columns) down.
    const int64_t depth = end - panel;
    for (int64_t s = 0; s < depth; ++s) {
      const T* const row = a + (panel + s) * stride;
      for (int64_t j = end; j < order; j += width) {
        T* const to = packed + ((j - end) / width * depth + s) * width;
        for (int64_t q = 0; q < width; q += L)
          if (j + q < stride) store(to + q, load(row + j + q));
      }
    }
    for (int64_t strip = end; strip < order; strip += width) {
      const T* const right = packed + (strip - end) / width * depth * width;
      const int64_t strip_end = strip + width < stride ? strip + width : stride;
      const int64_t rows = strip_end < order ? strip_end : order;
      for (int64_t i = end; i < rows; i += kTileRows) {
        const int64_t first = first_column<T>(i);
        const int64_t j = strip > first ? strip : first;  // nothing below the diagonal
        const T* const left = packed + (i - end) / width * depth * width + (i - end) % width;
        T* const at = a + i * stride + j;
        // What the next tile adds to is on its way meanwhile.
        for (int r = kTileRows; r < 2 * kTileRows; ++r) {
          __builtin_prefetch(at + r * stride, 1);
          __builtin_prefetch(at + r * stride + width - 1, 1);
        }
        const auto subtract = [&]<int V>(CholeskyTile<T, V>&& tile) {
          tile.load_from(at, stride);
          tile.subtract(depth, left, width, right + (j - strip), width);
          tile.store_to(at, stride);
        };
        switch ((strip_end - j) / L) {
          case 4: subtract(CholeskyTile<T, 4>{}); break;
          case 3: subtract(CholeskyTile<T, 3>{}); break;
          case 2: subtract(CholeskyTile<T, 2>{}); break;
          case 1: subtract(CholeskyTile<T, 1>{}); break;
          default: break;
        }
      }
    }
  }
  return true;
}
static_assert(kTileVectors <= 4, "the switch above lists the widths of a strip");

// The solves take four rows at a time: what they share is loaded once, and only the triangle of
// four is solved one number after the other.
static_assert(kTileRows % 4 == 0, "the order is a multiple of four");

// x <- U^-T x, x: [stride], whose entries past the order are left as they are.
template <class T>
inline void solve_transposed(const T* a, CholeskyShape shape, T* x) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < shape.order; i += 4) {
    const T* const row0 = a + i * shape.stride;
    const T* const row1 = row0 + shape.stride;
    const T* const row2 = row1 + shape.stride;
    const T* const row3 = row2 + shape.stride;
    const T value0 = x[i] * row0[i];
    const T value1 = (x[i + 1] - value0 * row0[i + 1]) * row1[i + 1];
    const T value2 = (x[i + 2] - value0 * row0[i + 2] - value1 * row1[i + 2]) * row2[i + 2];
    const T value3 =
        (x[i + 3] - value0 * row0[i + 3] - value1 * row1[i + 3] - value2 * row2[i + 3]) *
        row3[i + 3];
    // The first vector may begin in the four themselves, which are set last, or before them, where
    // their rows are zeros.
    for (int64_t j = first_column<T>(i + 4); j < shape.order; j += L)
      store(x + j, load(x + j) - value0 * load(row0 + j) - value1 * load(row1 + j) -
                       value2 * load(row2 + j) - value3 * load(row3 + j));
    x[i] = value0;
    x[i + 1] = value1;
    x[i + 2] = value2;
    x[i + 3] = value3;
  }
}

// solution <- U^-1 z; both [stride], not the same array.
template <class T>
inline void solve(const T* a, CholeskyShape shape, const T* z, T* solution) {
  constexpr int L = kLanes<T>;
  for (int64_t i = 0; i < shape.stride; ++i) solution[i] = 0;
  for (int64_t i = shape.order - 4; i >= 0; i -= 4) {
    const T* const row0 = a + i * shape.stride;
    const T* const row1 = row0 + shape.stride;
    const T* const row2 = row1 + shape.stride;
    const T* const row3 = row2 + shape.stride;
    // The first vector may begin in the four themselves or before them, where the solution is still
    // 0.
    Vec<T> even[4] = {}, odd[4] = {};
    const auto add = [&](int64_t j, Vec<T>(&sum)[4]) {
      const Vec<T> known = load(solution + j);
      sum[0] += load(row0 + j) * known;
      sum[1] += load(row1 + j) * known;
      sum[2] += load(row2 + j) * known;
      sum[3] += load(row3 + j) * known;
    };
    int64_t j = first_column<T>(i + 4);
    for (; j + 2 * L <= shape.order; j += 2 * L) {
      add(j, even);
      add(j + L, odd);
    }
    for (; j < shape.order; j += L) add(j, even);
    const T value3 = (z[i + 3] - sum_lanes<T>(even[3] + odd[3])) * row3[i + 3];
    const T value2 =
        (z[i + 2] - sum_lanes<T>(even[2] + odd[2]) - row2[i + 3] * value3) * row2[i + 2];
    const T value1 =
        (z[i + 1] - sum_lanes<T>(even[1] + odd[1]) - row1[i + 3] * value3 - row1[i + 2] * value2) *
        row1[i + 1];
    solution[i] = (z[i] - sum_lanes<T>(even[0] + odd[0]) - row0[i + 3] * value3 -
                   row0[i + 2] * value2 - row0[i + 1] * value1) *
                  row0[i];
    solution[i + 1] = value1;
    solution[i + 2] = value2;
    solution[i + 3] = value3;
  }
}

}  // namespace dpslice::DPSLICE_ISA
