// Products of a row-major left operand with a right operand packed in panels, one register tile at
// a time. For kernel sources only.
//
// C[rows, columns] (+)= A[rows, depth] B[depth, columns]. A tile of C stays in registers for the
// whole depth: each step loads kTileVectors vectors of B, broadcasts kTileRows numbers of A, and
// does kTileRows * kTileVectors fused multiply-adds. A pass over part of the depth is summed by
// itself, so that its steps are rounded at the size of that sum, not of the whole. The order of the
// sum over the depth is fixed and the same for each element, wherever it lies in C.
#pragma once

#include <cstdint>

#include "simd.h"

namespace dpslice::DPSLICE_ISA {

// --------------------------------------------------------------------------------------- constants

// A tile and its operands must fit the vector registers.
#if defined(__AVX512F__)
constexpr int kTileRows = 8, kTileVectors = 3;
#elif defined(__aarch64__)
constexpr int kTileRows = 4, kTileVectors = 4;
#elif defined(__AVX2__)
constexpr int kTileRows = 4, kTileVectors = 3;
#else
constexpr int kTileRows = 4,
              kTileVectors = 2;  // no fused multiply-add: the product needs a register
#endif
static_assert(kTileRows * kTileVectors + kTileVectors + 1 <= kVectorRegisters);

// Columns of one panel.
template <class T>
constexpr int64_t kPanel = kTileVectors * kLanes<T>;

// Sizes are padded to whole vectors, and to whole tiles where a transposed operand makes columns
// rows.
template <class T>
constexpr int64_t kQuantum = kLanes<T> > kTileRows ? kLanes<T> : kTileRows;
static_assert(kPanel<float> % kQuantum<float> == 0 && kPanel<double> % kQuantum<double> == 0);

template <class T>
constexpr int64_t padded_columns(int64_t size) {
  return (size + kQuantum<T> - 1) / kQuantum<T> * kQuantum<T>;
}
constexpr int64_t padded_rows(int64_t size) {
  return (size + kTileRows - 1) / kTileRows * kTileRows;
}

// Depth of one pass: a panel's part of this depth stays in the first-level cache, and not more
// terms than kMostTerms are added up one by one, whose rounding grows with their number.
constexpr int64_t kPassBytes = 28 * 1024, kMostTerms = 144;
template <class T>
constexpr int64_t kCachedDepth = kPassBytes / (kPanel<T> * static_cast<int64_t>(sizeof(T)));
template <class T>
constexpr int64_t kPassDepth = kCachedDepth<T> < kMostTerms ? kCachedDepth<T> : kMostTerms;

// ------------------------------------------------------------------------------------------ panels

// The right operand: panels of kPanel columns one after the other, the last one narrower; within a
// panel [depth, width]. Columns past `columns` are zeros.
template <class T>
struct PanelLayout {
  int64_t depth, columns;

  int64_t size() const { return depth * padded_columns<T>(columns); }
  int64_t panels() const { return (columns + kPanel<T> - 1) / kPanel<T>; }
  int64_t width(int64_t panel) const {
    const int64_t rest = padded_columns<T>(columns) - panel * kPanel<T>;
    return rest < kPanel<T> ? rest : kPanel<T>;
  }
  int64_t start(int64_t panel) const { return panel * kPanel<T> * depth; }
  int64_t index(int64_t row, int64_t column) const {
    const int64_t panel = column / kPanel<T>;
    return start(panel) + row * width(panel) + column % kPanel<T>;
  }
};

// -------------------------------------------------------------------------------------------- tile

// a[r * a_row + t * a_depth] is A, b[t * kVectors * lanes + column] is B.
template <class T, int kVectors>
inline void tile_product(int64_t depth, const T* a, int64_t a_row, int64_t a_depth, const T* b,
                         T* c, int64_t c_row, bool accumulate) {
  constexpr int lanes = kLanes<T>;
  Vec<T> sum[kTileRows][kVectors];
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) sum[r][v] = Vec<T>{};
  for (int64_t t = 0; t < depth; ++t) {
    Vec<T> right[kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) right[v] = load(b + v * lanes);
#pragma GCC unroll 8
    for (int r = 0; r < kTileRows; ++r) {
      const Vec<T> left = splat(a[r * a_row]);
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sum[r][v] += left * right[v];
    }
    a += a_depth;
    b += kVectors * lanes;
  }
#pragma GCC unroll 8
  for (int r = 0; r < kTileRows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      T* const place = c + r * c_row + v * lanes;
      store(place, accumulate ? load(place) + sum[r][v] : sum[r][v]);
    }
}

// rows: a multiple of kTileRows; width: a panel's, a multiple of the vector length.
template <class T>
inline void panel_product(int64_t rows, int64_t depth, const T* a, int64_t a_row, int64_t a_depth,
                          const T* b, int64_t width, T* c, int64_t c_row, bool accumulate) {
  for (int64_t t = 0; t < depth; t += kPassDepth<T>) {
    const int64_t pass = depth - t < kPassDepth<T> ? depth - t : kPassDepth<T>;
    const bool add = accumulate || t > 0;
    const T* const a_pass = a + t * a_depth;
    const T* const b_pass = b + t * width;
    for (int64_t r = 0; r < rows; r += kTileRows) {
      const T* const a_tile = a_pass + r * a_row;
      T* const c_tile = c + r * c_row;
      if (add)  // what the next tile adds to is on its way meanwhile
        for (int q = kTileRows; q < 2 * kTileRows; ++q) {
          __builtin_prefetch(c_tile + q * c_row, 1);
          __builtin_prefetch(c_tile + q * c_row + width - 1, 1);
        }
      switch (width / kLanes<T>) {
        case 1: tile_product<T, 1>(pass, a_tile, a_row, a_depth, b_pass, c_tile, c_row, add); break;
        case 2: tile_product<T, 2>(pass, a_tile, a_row, a_depth, b_pass, c_tile, c_row, add); break;
        case 3: tile_product<T, 3>(pass, a_tile, a_row, a_depth, b_pass, c_tile, c_row, add); break;
        default:
          tile_product<T, kTileVectors>(pass, a_tile, a_row, a_depth, b_pass, c_tile, c_row, add);
      }
    }
  }
}

}  // namespace dpslice::DPSLICE_ISA
