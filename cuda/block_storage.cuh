// Where the numbers of a block lie that works on one slice: points, vectors, and the factors of its
// matrices. For kernel sources.
//
// What is used most lies in shared memory, as far as it goes: the first squares of the factors are
// there, the others in global memory. Then a fixed number of blocks walk along the slices, so that
// memory does not grow with m. Factors can be kept for a later kernel: they are then left in the
// caller's memory. On the CPU a thread's workspace does this (csrc/density_ratio.cpp), and the
// layout of a factor is CholeskyShape (csrc/cholesky.h).
#pragma once

#include <cstdint>

#include "launch.h"
#include "mma.cuh"

namespace dpslice::cuda {

constexpr int kTileSide = 8;  // rows and columns of a tile
constexpr int kTileNumbers = kTileSide * kTileSide;
constexpr int kTiles = 4;  // tiles on the side of a square
constexpr int kSide = kTiles * kTileSide;
constexpr int kSquareNumbers = kSide * kSide;

__host__ __device__ constexpr int64_t padded(int64_t size) { return ceil_div(size, kSide) * kSide; }

struct alignas(16) Pair {
  double x, y;
};

// Points by coordinate, in float64. Those past the end are far from all others and each other.
struct Points {
  const double* at;  // [k, stride]
  int stride, k;
};

template <class T>
__device__ inline Points stage_points(const T* __restrict__ rows, int64_t size, int64_t k,
                                      int64_t stride, double scale, double* __restrict__ to) {
  constexpr double kFar = 1e150;
  for (int64_t i = threadIdx.x; i < stride; i += blockDim.x)
    for (int64_t t = 0; t < k; ++t)
      to[t * stride + i] = i < size ? static_cast<double>(rows[i * k + t]) * scale
                           : t == 0 ? kFar * static_cast<double>(i + 1)
                                    : 0.0;
  return {to, static_cast<int>(stride), static_cast<int>(k)};
}

// ---------------------------------------------------------------------------------------- layout

// Where the numbers of one block lie, in shared memory or in its part of global memory.
struct Region {
  int64_t at;
  bool shared;
};

// Shared memory is given to what is used most, until it ends.
class Planner {
 public:
  explicit Planner(int64_t numbers) : left_(numbers > 0 ? numbers : 0) {}
  Region place(int64_t numbers) {
    numbers += numbers % 2;  // pairs are loaded together
    if (numbers <= left_) return {take(numbers), true};
    global_ += numbers;
    return {global_ - numbers, false};
  }
  int64_t left() const { return left_; }
  int64_t take(int64_t numbers) {
    left_ -= numbers;
    shared_ += numbers;
    return shared_ - numbers;
  }
  int64_t shared() const { return shared_; }
  int64_t global() const { return global_; }

 private:
  int64_t left_, shared_ = 0, global_ = 0;
};

struct Layout {
  int side;                            // squares on the side of a matrix
  int64_t rows;                        // b, padded
  int64_t sources;                     // c, padded
  Region kernels;                      // [bandwidths] Kernel
  Region vectors;                      // [vectors, rows]
  Region q, p;                         // [k, rows], [k, sources]
  Region row_cache;                    // squares of the row that is multiplied with all others
  int64_t cached;                      // squares that have room there
  int64_t shared_squares, squares_at;  // the first squares of the factors
  int64_t global_squares_at;           // the others
  int64_t global_numbers;              // of one block
  double* kept;                        // [m, squares of a factor] or null: for the gradients
};

__host__ __device__ constexpr int64_t squares_of(int64_t side) { return side * (side + 1) / 2; }

struct Storage {
  double* shared;
  double* global;  // the block's own
  double* kept;    // the slice's own, or null
  __device__ double* region(const Region& region) const {
    return (region.shared ? shared : global) + region.at;
  }
};

__device__ inline Storage block_storage(const Layout& layout, double* global, int64_t slice) {
  const int64_t kept_numbers = squares_of(layout.side) * kSquareNumbers;
  return {dynamic_shared<double>(),
          global + static_cast<int64_t>(blockIdx.x) * layout.global_numbers,
          layout.kept == nullptr ? nullptr : layout.kept + slice * kept_numbers};
}

// The lower triangle of squares, column after column. The tiles above the diagonal of the squares
// on it hold something else: the inverses of their diagonal tiles, negated.
struct Factor {
  double* shared;
  double* global;
  int64_t first, shared_squares;  // of several factors, which follow each other
  int side;

  __device__ int64_t index(int row, int column) const {
    return first + static_cast<int64_t>(column) * (2 * side - 1 - column) / 2 + row;
  }
  __device__ bool is_shared(int row, int column) const {
    return index(row, column) < shared_squares;
  }
  __device__ double* square(int row, int column) const {
    const int64_t at = index(row, column);
    return at < shared_squares ? shared + at * kSquareNumbers
                               : global + (at - shared_squares) * kSquareNumbers;
  }
};

__device__ inline Factor make_factor(const Storage& storage, const Layout& layout, int64_t which) {
  double* const global = storage.kept == nullptr
                             ? storage.global + layout.global_squares_at
                             : storage.kept + layout.shared_squares * kSquareNumbers;
  return {storage.shared + layout.squares_at, global, which * squares_of(layout.side),
          layout.shared_squares, layout.side};
}

// Kept factors have all squares together. Those that were in shared memory go there; or come from
// there, without waiting for them. The first number, of a tile that is not used any more, is NaN
// where the matrix had no factor.
__device__ inline void keep_shared_squares(const Storage& storage, const Layout& layout) {
  const double* const from = storage.shared + layout.squares_at;
  for (int64_t i = 2 * threadIdx.x; i < layout.shared_squares * kSquareNumbers; i += 2 * blockDim.x)
    *reinterpret_cast<Pair*>(storage.kept + i) = *reinterpret_cast<const Pair*>(from + i);
}
__device__ inline bool is_kept(const Storage& storage) {
  return storage.kept[0] == storage.kept[0];
}
__device__ inline void fetch_shared_squares(const Storage& storage, const Layout& layout) {
  double* const to = storage.shared + layout.squares_at;
  for (int64_t i = 2 * threadIdx.x; i < layout.shared_squares * kSquareNumbers; i += 2 * blockDim.x)
    copy_async(to + i, storage.kept + i);
  end_copy_group();
}

}  // namespace dpslice::cuda
