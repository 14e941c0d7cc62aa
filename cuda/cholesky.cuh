// Cholesky factorisation of the regularised Gram matrix K + ridge I of one slice by one block, and
// the two triangular solves. For kernel sources. The CPU's are csrc/cholesky.h and, which chooses
// the precision of the factor, csrc/gram_solver.h: here everything is float64.
//
// The matrix is cut into squares of 32 x 32, those into tiles of 8 x 8: a tile is what the float64
// matrix instruction of a warp multiplies, and lies in memory as that instruction wants it. The
// factor is made a column of squares at a time, each from the columns before it: entries of the
// matrix itself are computed where they are needed and never stored. block_storage.cuh says where
// the squares lie.
#pragma once

#include <cstdint>

#include "block_storage.cuh"
#include "gaussian.cuh"
#include "launch.h"
#include "mma.cuh"

namespace dpslice::cuda {
// Unnamed as in the source that includes this: ptxas takes functions in the order of their full
// names, and what it makes of one depends on those before.
namespace {

// The parts of a kernel that take all registers are not inlined: nothing is kept across them that
// could be computed again.
#define DPSLICE_APART __attribute__((noinline))

constexpr int kStripe = 2;  // rows of tiles that a warp computes at a time, as instructions do
constexpr int kStripes = kTiles / kStripe;
constexpr int kRowStride = kSide + 2;  // of a square by rows: banks of 8 rows do not collide

static_assert(kSide == kWarp, "a lane has a row of a square");

// ----------------------------------------------------------------------------------------- tiles

// Of a tile each lane has the numbers of row lane / 4 in columns 2 (lane % 4) and the next. As
// multiplicands two such columns go to two instructions, which sum over columns in any order.
__device__ inline Pair load_tile(const double* tile) {
  return *reinterpret_cast<const Pair*>(tile + 2 * lane_index());
}
__device__ inline void store_tile(double* tile, const double (&d)[2]) {
  *reinterpret_cast<Pair*>(tile + 2 * lane_index()) = {d[0], d[1]};
}
__device__ inline Pair load_transposed(const double* tile) {
  const int group = lane_index() / 4, place = lane_index() % 4;
  return {tile[2 * place * kTileSide + group], tile[(2 * place + 1) * kTileSide + group]};
}

// d += a b^T
__device__ inline void multiply_add(double (&d)[2], const Pair& a, const Pair& b) {
  multiply_add_f64(d, a.x, b.x);
  multiply_add_f64(d, a.y, b.y);
}
// The same for two tiles above each other, in one instruction, which is twice as quick.
__device__ inline void multiply_add(double (&upper)[2], double (&lower)[2], const Pair& a,
                                    const Pair& c, const Pair& b) {
  double d[4] = {upper[0], upper[1], lower[0], lower[1]};
  multiply_add_f64(d, {a.x, c.x, a.y, c.y}, {b.x, b.y});
  upper[0] = d[0], upper[1] = d[1];
  lower[0] = d[2], lower[1] = d[3];
}

__device__ inline int tile_at(int row, int column) {
  return (row * kTiles + column) * kTileNumbers;
}
// Above the diagonal: (0, 1), (0, 2), (0, 3), (1, 2).
__device__ inline int inverse_at(int i) { return (i < 3 ? i + 1 : 6) * kTileNumbers; }

// ------------------------------------------------------------------------------------- factoring

// d = -(K + ridge I) for kStripe rows of tiles of square (row, column), from row `stripe` on.
__device__ inline void gram_stripe(const Points& q, const Gaussian& gram, double power,
                                   double ridge, int row, int stripe, int column,
                                   double (&d)[kStripe][kTiles][2]) {
  const int group = lane_index() / 4, place = lane_index() % 4;
  const int64_t i0 = static_cast<int64_t>(row) * kSide + stripe * kStripe * kTileSide + group;
  const int64_t j0 = static_cast<int64_t>(column) * kSide + 2 * place;
#pragma unroll
  for (int r = 0; r < kStripe; ++r)
#pragma unroll
    for (int c = 0; c < kTiles; ++c) d[r][c][0] = d[r][c][1] = 0;
  const double* coordinate = q.at;
  for (int t = 0; t < q.k; ++t, coordinate += q.stride) {
    double own[kStripe];
#pragma unroll
    for (int r = 0; r < kStripe; ++r) own[r] = coordinate[i0 + r * kTileSide];
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
      const Pair other = *reinterpret_cast<const Pair*>(coordinate + j0 + c * kTileSide);
#pragma unroll
      for (int r = 0; r < kStripe; ++r) {
        const double x = own[r] - other.x, y = own[r] - other.y;
        d[r][c][0] = fma(x, x, d[r][c][0]);
        d[r][c][1] = fma(y, y, d[r][c][1]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kStripe; ++r)
#pragma unroll
    for (int c = 0; c < kTiles; ++c)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const double entry = evaluate(gram, power, d[r][c][e]);
        d[r][c][e] = i0 + r * kTileSide == j0 + c * kTileSide + e ? -1 - ridge : -entry;
      }
}

// The Cholesky factor of one slice's matrix. Lies in shared memory: registers are short.
struct Cholesky {
  Factor factor;
  Points q;
  Gaussian gram;
  double ridge, smallest;
  double* values;  // [rows], on which the forward solve is done on the way
  double* row_cache;
  int cached;
  int failed;
  int next;                                     // piece of work
  double roots[kSide];                          // 1 / the diagonal of the square on the diagonal
  alignas(16) double rows[kSide * kRowStride];  // that square, by rows

  // What a stripe multiplies of its own row: the tiles of one square. Each makes room for the same
  // tile of the next square, which then has the time of four steps to arrive from far away.
  struct Left {
    Pair tile[kTiles][kStripe];
  };
  __device__ void load_left(const double* stripe, int step, Left& left) const {
#pragma unroll
    for (int r = 0; r < kStripe; ++r) left.tile[step][r] = load_tile(stripe + tile_at(r, step));
  }
  __device__ const double* stripe_of(int row, int stripe, int column) const {
    return factor.square(row, column) + tile_at(stripe * kStripe, 0);
  }
  __device__ void load_first_left(int row, int stripe, int depth, Left& left) const {
    if (depth == 0) return;
    const double* const first = stripe_of(row, stripe, 0);
#pragma unroll
    for (int step = 0; step < kTiles; ++step) load_left(first, step, left);
  }

  // d += factor factor^T, of its first `depth` columns of squares, for a stripe of a square.
  // `left` has the first of them; right_of(i) gives those that it is multiplied with.
  template <class Right>
  __device__ void add_products(int row, int stripe, int depth, Right&& right_of, Left& left,
                               double (&d)[kStripe][kTiles][2]) const {
#pragma unroll 1
    for (int square = 0; square < depth; ++square) {
      const double* const right = right_of(square);
      const bool more = square + 1 < depth;
      const double* const next = stripe_of(row, stripe, more ? square + 1 : square);
#pragma unroll
      for (int step = 0; step < kTiles; ++step) {
        Pair v[kTiles];
#pragma unroll
        for (int c = 0; c < kTiles; ++c) v[c] = load_tile(right + tile_at(c, step));
#pragma unroll
        for (int c = 0; c < kTiles; ++c)
          multiply_add(d[0][c], d[1][c], left.tile[step][0], left.tile[step][1], v[c]);
        if (more) load_left(next, step, left);
      }
    }
  }

  // The stripe of the factor from its products and the factored square above it.
  __device__ void finish_stripe(int row, int stripe, int column,
                                double (&d)[kStripe][kTiles][2]) const {
    const double* const above = factor.square(column, column);
    double* const to = factor.square(row, column) + tile_at(stripe * kStripe, 0);
    const int group = lane_index() / 4, place = lane_index() % 4;
    const double* const solved = values + static_cast<int64_t>(column) * kSide + 2 * place;
    double sum[kStripe] = {};
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
#pragma unroll
      for (int t = 0; t < c; ++t) {
        const Pair b = load_tile(above + tile_at(c, t));
        multiply_add(d[0][c], d[1][c], {d[0][t][0], d[0][t][1]}, {d[1][t][0], d[1][t][1]}, b);
      }
      const Pair inverse = load_tile(above + inverse_at(c));
      const double x = solved[c * kTileSide], y = solved[c * kTileSide + 1];
      double quotient[kStripe][2] = {};
      multiply_add(quotient[0], quotient[1], {d[0][c][0], d[0][c][1]}, {d[1][c][0], d[1][c][1]},
                   inverse);
#pragma unroll
      for (int r = 0; r < kStripe; ++r) {
        d[r][c][0] = quotient[r][0];
        d[r][c][1] = quotient[r][1];
        store_tile(to + tile_at(r, c), quotient[r]);
        sum[r] = fma(quotient[r][0], x, fma(quotient[r][1], y, sum[r]));
      }
    }
#pragma unroll
    for (int r = 0; r < kStripe; ++r) {
      const double total = lane_sum<4>(sum[r]);
      if (place == 0)
        values[static_cast<int64_t>(row) * kSide + (stripe * kStripe + r) * kTileSide + group] -=
            total;
    }
  }

  __device__ void store_stripe(int row, int stripe, int column,
                               const double (&d)[kStripe][kTiles][2]) const {
    double* const to = factor.square(row, column) + tile_at(stripe * kStripe, 0);
#pragma unroll
    for (int r = 0; r < kStripe; ++r)
#pragma unroll
      for (int c = 0; c < kTiles; ++c) store_tile(to + tile_at(r, c), d[r][c]);
  }

  // The square on the diagonal in column `at`, by one warp: what was stored of it, and the products
  // of the column before. It goes to `rows`.
  __device__ void load_diagonal(int at) {
    const double* const square = factor.square(at, at);
    double d[kTiles][kTiles][2];  // at and below the diagonal
#pragma unroll
    for (int r = 0; r < kTiles; ++r)
#pragma unroll
      for (int c = 0; c <= r; ++c) {
        const Pair pair = load_tile(square + tile_at(r, c));
        d[r][c][0] = pair.x;
        d[r][c][1] = pair.y;
      }
    if (at > 0) {
      const double* const left = factor.square(at, at - 1);
      Pair part[2][kTiles];  // of this step, of the next
      const auto load = [&](int t) {
#pragma unroll
        for (int r = 0; r < kTiles; ++r) part[t % 2][r] = load_tile(left + tile_at(r, t));
      };
      load(0);
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (t + 1 < kTiles) load(t + 1);
        const Pair(&own)[kTiles] = part[t % 2];
#pragma unroll
        for (int r = 0; r < kTiles; r += 2) {
#pragma unroll
          for (int c = 0; c <= r; ++c)
            multiply_add(d[r][c], d[r + 1][c], own[r], own[r + 1], own[c]);
          multiply_add(d[r + 1][r + 1], own[r + 1], own[r + 1]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kTiles; ++r)
#pragma unroll
      for (int c = 0; c <= r; ++c) *tile_of_rows(r, c) = {-d[r][c][0], -d[r][c][1]};
    __syncwarp();
  }

  // What the lane has of a tile of `rows`.
  __device__ Pair* tile_of_rows(int row, int column) {
    const int group = lane_index() / 4, place = lane_index() % 4;
    return reinterpret_cast<Pair*>(rows + (row * kTileSide + group) * kRowStride +
                                   column * kTileSide + 2 * place);
  }

  // Then its factor, the inverses of that factor's diagonal tiles, and the solved values. False if
  // a pivot is not above `smallest`.
  __device__ bool factor_diagonal(int at) {
    double* const square = factor.square(at, at);
    const int lane = lane_index();
    double d[kTiles][kTiles][2];  // right of the first column of tiles, negated
#pragma unroll
    for (int r = 1; r < kTiles; ++r)
#pragma unroll
      for (int c = 1; c <= r; ++c) {
        const Pair pair = *tile_of_rows(r, c);
        d[r][c][0] = -pair.x;
        d[r][c][1] = -pair.y;
      }
    bool good = true;
    double value = values[static_cast<int64_t>(at) * kSide + lane], root = 0;
#pragma unroll
    for (int block = 0; block < kTiles; ++block) {
      if (block > 0) {
#pragma unroll
        for (int r = block; r < kTiles; ++r)
          *tile_of_rows(r, block) = {-d[r][block][0], -d[r][block][1]};
        __syncwarp();
      }
      double own[kTileSide];  // of row `lane`; what lies above the diagonal is never looked at
      double* const from = rows + lane * kRowStride + block * kTileSide;
#pragma unroll
      for (int j = 0; j < kTileSide; j += 2) {
        const Pair pair = *reinterpret_cast<const Pair*>(from + j);
        own[j] = pair.x;
        own[j + 1] = pair.y;
      }
      double pivot = __shfl_sync(kWholeWarp, own[0], block * kTileSide);
#pragma unroll
      for (int j = 0; j < kTileSide; ++j) {
        const int column = block * kTileSide + j;
        good = good && pivot > smallest;
        const double inverse = reciprocal_root(pivot);
        // The next pivot by all lanes: the way from root to root is the longest, and so has no
        // exchange between lanes on it.
        if (j + 1 < kTileSide) {
          const double below = __shfl_sync(kWholeWarp, own[j], column + 1) * inverse;
          pivot = fma(-below, below, __shfl_sync(kWholeWarp, own[j + 1], column + 1));
        }
        own[j] *= inverse;
        const double solved = __shfl_sync(kWholeWarp, value, column) * inverse;
        if (lane == column) {
          value = solved;
          root = inverse;
        }
        if (lane > column) value = fma(-own[j], solved, value);
#pragma unroll
        for (int t = j + 1; t < kTileSide; ++t)
          own[t] = fma(-own[j], __shfl_sync(kWholeWarp, own[j], block * kTileSide + t), own[t]);
      }
      if (block == kTiles - 1) roots[lane] = root;
#pragma unroll
      for (int j = 0; j < kTileSide; j += 2)
        *reinterpret_cast<Pair*>(from + j) = {own[j], own[j + 1]};
      __syncwarp();
      Pair part[kTiles];
#pragma unroll
      for (int r = block + 1; r < kTiles; ++r) {
        part[r] = *tile_of_rows(r, block);
        const double pair[2] = {part[r].x, part[r].y};
        store_tile(square + tile_at(r, block), pair);
#pragma unroll
        for (int c = block + 1; c <= r; ++c) multiply_add(d[r][c], part[r], part[c]);
      }
    }
    values[static_cast<int64_t>(at) * kSide + lane] = value;
    // A column of an inverse in each lane.
    const int tile = lane / kTileSide, column = lane % kTileSide;
    const double* const from = rows + tile * kTileSide * (kRowStride + 1);
    double* const to = square + inverse_at(tile) + column;
    double inverse[kTileSide];
#pragma unroll
    for (int r = 0; r < kTileSide; ++r) inverse[r] = r == column ? 1.0 : 0.0;
#pragma unroll
    for (int r = 0; r < kTileSide; ++r) {
      inverse[r] *= roots[tile * kTileSide + r];
#pragma unroll
      for (int t = r + 1; t < kTileSide; ++t)
        inverse[t] = fma(-from[t * kRowStride + r], inverse[r], inverse[t]);
      to[r * kTileSide] = -inverse[r];
    }
    return good;
  }

  // A warp's next piece of work.
  __device__ int take() {
    int piece = 0;
    if (lane_index() == 0) piece = atomicAdd(&next, 1);
    return __shfl_sync(kWholeWarp, piece, 0);
  }

  // Whether square (row, column) is among those copied to where all warps read them often.
  __device__ bool is_cached(int row, int column) const {
    return column < cached && !factor.is_shared(row, column);
  }

  // Starts the copies of row `at`.
  __device__ void fill_row_cache(int at) const {
    for (int square = 0; square < at && square < cached; ++square) {
      if (!is_cached(at, square)) continue;
      const double* const from = factor.square(at, square);
      double* const to = row_cache + static_cast<int64_t>(square) * kSquareNumbers;
      for (int i = 2 * static_cast<int>(threadIdx.x); i < kSquareNumbers;
           i += 2 * static_cast<int>(blockDim.x))
        copy_async(to + i, from + i);
    }
    end_copy_group();
  }

  // All threads. values = factor^-1 values. False, for all, if the matrix is not positive definite.
  __device__ DPSLICE_APART bool run(double power) {
    const int side = factor.side;
    double d[kStripe][kTiles][2];
    for (int stripe = warp_index(); stripe < kStripes; stripe += warps()) {
      gram_stripe(q, gram, power, ridge, 0, stripe, 0, d);
      store_stripe(0, stripe, 0, d);
    }
    __syncthreads();
    for (int at = 0; at < side; ++at) {
      // Pieces of work: stripes of the next square on the diagonal, short of this column, then the
      // stripes of this column. While one warp factors the diagonal, each other starts a piece.
      const int pieces = kStripes * (at + 1 < side ? side - at : 0);
      int piece = warp_index() == 0 ? pieces : warp_index() - 1;
      Left left;
      const auto is_next = [&] { return piece < kStripes; };
      const auto row = [&] { return at + (is_next() ? 1 : piece / kStripes); };
      const auto column = [&] { return at + (is_next() ? 1 : 0); };
      const auto start = [&] {
        load_first_left(row(), piece % kStripes, at, left);
        gram_stripe(q, gram, power, ridge, row(), piece % kStripes, column(), d);
      };
      const auto multiply = [&] {
        add_products(
            row(), piece % kStripes, at,
            [&](int square) -> const double* {
              return !is_next() && is_cached(at, square)
                         ? row_cache + static_cast<int64_t>(square) * kSquareNumbers
                         : factor.square(column(), square);
            },
            left, d);
      };
      const auto finish = [&] {
        if (is_next())
          store_stripe(row(), piece % kStripes, column(), d);
        else
          finish_stripe(row(), piece % kStripes, column(), d);
      };
      const bool copying = cached > 0 && at > 0 && at + 1 < side;
      if (copying) fill_row_cache(at);
      if (warp_index() == 0)
        load_diagonal(at);
      else if (piece < pieces)
        start();
      if (copying) {
        wait_for_copies<0>();
        __syncthreads();
      }
      if (warp_index() == 0) {
        const bool good = factor_diagonal(at);
        if (lane_index() == 0) {
          next = warps() - 1;
          if (!good) failed = 1;
        }
      } else if (piece < pieces) {
        multiply();
      }
      __syncthreads();
      if (failed != 0) return false;
      while (true) {
        if (piece < pieces) finish();
        piece = take();
        if (piece >= pieces) break;
        start();
        multiply();
      }
      __syncthreads();
    }
    return true;
  }
};

// A row of a matrix in the first rows of tiles: of 8 rows the others are zeros.
__device__ inline Pair load_row(const double* values, int stride) {
  const int group = lane_index() / 4, place = lane_index() % 4;
  if (group != 0) return {0, 0};
  return {values[stride * place], values[stride == 1 ? place + 4 : stride * place + 1]};
}

// values = factor^-1 values or, transposed, factor^-T values.
template <bool transposed>
__device__ DPSLICE_APART void solve(Factor factor, double* values) {
  const int group = lane_index() / 4, place = lane_index() % 4;
  for (int step = 0; step < factor.side; ++step) {
    const int at = transposed ? factor.side - 1 - step : step;
    double* const own = values + static_cast<int64_t>(at) * kSide;
    if (warp_index() == 0) {
      const double* const square = factor.square(at, at);
      double d[kTiles][2];
#pragma unroll
      for (int c = 0; c < kTiles; ++c) {
        const Pair value = load_row(own + c * kTileSide, 2);
        d[c][0] = -value.x;
        d[c][1] = -value.y;
      }
#pragma unroll
      for (int i = 0; i < kTiles; ++i) {
        const int c = transposed ? kTiles - 1 - i : i;
#pragma unroll
        for (int t = 0; t < kTiles; ++t) {
          if (transposed && t > c)
            multiply_add(d[c], {d[t][0], d[t][1]}, load_transposed(square + tile_at(t, c)));
          if (!transposed && t < c)
            multiply_add(d[c], {d[t][0], d[t][1]}, load_tile(square + tile_at(c, t)));
        }
        const double* const inverse = square + inverse_at(c);
        double quotient[2] = {0, 0};
        multiply_add(quotient, {d[c][0], d[c][1]},
                     transposed ? load_transposed(inverse) : load_tile(inverse));
        d[c][0] = quotient[0];
        d[c][1] = quotient[1];
      }
      __syncwarp();
      if (group == 0)
#pragma unroll
        for (int c = 0; c < kTiles; ++c)
#pragma unroll
          for (int e = 0; e < 2; ++e) own[c * kTileSide + 2 * place + e] = d[c][e];
    }
    __syncthreads();
    const int begin = transposed ? 0 : at + 1, end = transposed ? at : factor.side;
    for (int other = begin + warp_index(); other < end; other += warps()) {
      const double* const square = transposed ? factor.square(at, other) : factor.square(other, at);
      double d[kTiles][2] = {};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const Pair value = load_row(own + t * kTileSide, transposed ? 1 : 2);
#pragma unroll
        for (int c = 0; c < kTiles; ++c) {
          if (transposed) {  // rows of the tile in an order that spreads over the banks
            const double* const from = square + tile_at(t, c) + place * kTileSide + group;
            multiply_add(d[c], value, {from[0], from[4 * kTileSide]});
          } else {
            multiply_add(d[c], value, load_tile(square + tile_at(c, t)));
          }
        }
      }
      if (group == 0)
#pragma unroll
        for (int c = 0; c < kTiles; ++c)
#pragma unroll
          for (int e = 0; e < 2; ++e)
            values[static_cast<int64_t>(other) * kSide + c * kTileSide + 2 * place + e] -= d[c][e];
    }
    __syncthreads();
  }
}

}  // namespace
}  // namespace dpslice::cuda
