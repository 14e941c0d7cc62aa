// Regularised kernel density ratio of each slice: Gram matrix, Cholesky, solves, gradients.
//
// One block works on one slice from the points to the gradients. Its matrix is cut into squares of
// 32 x 32, those into tiles of 8 x 8: a tile is what the float64 matrix instruction of a warp
// multiplies, and lies in memory as that instruction wants it. The factor is made a column of
// squares at a time, each from the columns before it: entries of the matrix itself are computed
// where they are needed and never stored. The first squares of the factor lie in shared memory, as
// many as fit there, the others in global memory: then a fixed number of blocks walk along the
// slices, so that memory does not grow with m. The cross kernel with the c synthetic rows is
// streamed, never stored. Everything is float64 inside, whatever the dtype of the arrays, for the
// reason that csrc/density_ratio.cpp gives. Factors can be kept for the gradients: the kernel of
// the ratio then leaves them in the caller's memory.
//
// A slice whose matrix is not positive definite gets NaN for its results, and the least such slice
// is left in failed_slice: reading it is the caller's choice, as it takes a synchronisation, or in
// host memory tells what is known so far.
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "common/divergence.h"
#include "density_ratio.h"
#include "kernels.h"
#include "launch.h"
#include "mma.cuh"

namespace dpslice::cuda {
namespace {

// The parts of a kernel that take all registers are not inlined: nothing is kept across them that
// could be computed again.
#define DPSLICE_APART __attribute__((noinline))

constexpr int kMostThreads = 256;
constexpr int kLeastBlocks = 2;  // of kMostThreads on a multiprocessor: what registers must allow
constexpr int kTile = 8;         // rows and columns of a tile
constexpr int kTileNumbers = kTile * kTile;
constexpr int kTiles = 4;  // tiles on the side of a square
constexpr int kSide = kTiles * kTile;
constexpr int kSquareNumbers = kSide * kSide;
constexpr int kStripe = 2;  // rows of tiles that a warp computes at a time, as instructions do
constexpr int kStripes = kTiles / kStripe;
constexpr int kRowStride = kSide + 2;  // of a square by rows: banks of 8 rows do not collide
constexpr int kTargets = 2;            // of sums over points, in the registers of a lane
constexpr int kTargetLanes = 8;        // lanes with targets of their own
constexpr int kSourceLanes = kWarp / kTargetLanes;  // lanes that share targets
constexpr int kWarpTargets = kTargets * kTargetLanes;
constexpr int kPullChunk = 4;  // coordinates of a gradient in registers

static_assert(kSide == kWarp, "a lane has a row of a square");
static_assert(kSide % kWarpTargets == 0 && kSide % (2 * kSourceLanes) == 0);

__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warps() { return static_cast<int>(blockDim.x) / kWarp; }

__host__ __device__ constexpr int64_t padded(int64_t size) { return ceil_div(size, kSide) * kSide; }

// --------------------------------------------------------------------------------------- kernels

constexpr int kPowers = 32;  // 2^(i / kPowers), one in each lane

// exp(-squared / (2 g^2)) for squares of a distance.
struct Gaussian {
  double exponent;  // kPowers log2(e) (-1 / (2 g^2)), by which a square gives 2^(1/kPowers)'s power
  int32_t far;      // the high word of the squares from which on the result is 0
};

__device__ inline Gaussian make_gaussian(double factor) {
  constexpr double kLeast = -1020;  // exponents of 2 below lead out of the normal numbers
  const double exponent = factor * kLog2E;
  return {kPowers * exponent, high_word(kLeast / exponent)};
}

// All lanes of the warp. `power`: the lane's 2^(lane / kPowers).
__device__ inline double evaluate(const Gaussian& kernel, double power, double squared) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 2^52: a sum with it is a whole number
  constexpr int32_t kNan = 0x7ff00001;
  const double shifted = fma(kernel.exponent, squared, kRound);
  const int32_t whole = low_word(shifted);
  const double rest = fma(kernel.exponent, squared, kRound - shifted);
  // (2^(x / kPowers) - 1) / x for |x| <= 1/2, to 1e-16 of 2^(x / kPowers).
  double series = 3.97369093445472e-11;
  series = fma(series, rest, 9.172612617174825e-09);
  series = fma(series, rest, 1.6938509725270705e-06);
  series = fma(series, rest, 0.0002345961981983863);
  series = fma(series, rest, 0.021660849392498287);
  const double part = __shfl_sync(kWholeWarp, power, whole & (kPowers - 1));
  // The bits of `whole` above those that chose the power are the exponent of 2.
  const uint32_t exponent = (static_cast<uint32_t>(whole) & ~(kPowers - 1u)) << 15;
  const double scaled = double_of_words(
      static_cast<int32_t>(static_cast<uint32_t>(high_word(part)) + exponent), low_word(part));
  const double result = fma(scaled, series * rest, scaled);
  // As words: squares are not negative, and what is not a number is not far.
  const bool far = static_cast<uint32_t>(high_word(squared) - kernel.far) <
                   static_cast<uint32_t>(kNan - kernel.far);
  return far ? 0.0 : result;
}

// One bandwidth g of one slice, in units where a length near the first bandwidth is 1.
struct Kernel {
  Gaussian gram;
  Gaussian cross;    // h^2 = g^2 + sigma^2
  double amplitude;  // (b/c) (g^2 / h^2)^(k/2), which multiplies the cross kernel
  double gram_pull;  // 1 / g^2
  double pull;       // amplitude / h^2
};

// A power of two, so that multiplying by it is exact.
template <class T>
__device__ inline double unit_scale(T length) {
  return ldexp(1.0, -ilogb(length));
}

__device__ inline Kernel make_kernel(double g, double sigma, int64_t b, int64_t c, int64_t k) {
  Kernel kernel;
  // sigma / g, not squares of each: neither overflows nor loses a small sigma.
  const double noise = sigma / g;
  const double variance_ratio = 1 + noise * noise;
  kernel.gram_pull = 1 / (g * g);
  kernel.gram = make_gaussian(-0.5 * kernel.gram_pull);
  kernel.cross = make_gaussian(-0.5 * kernel.gram_pull / variance_ratio);
  kernel.amplitude = static_cast<double>(b) / static_cast<double>(c) *
                     exp(-0.5 * static_cast<double>(k) * log1p(noise * noise));
  kernel.pull = kernel.amplitude * kernel.gram_pull / variance_ratio;
  return kernel;
}

// --------------------------------------------------------------------------------------- storage

struct alignas(16) Pair {
  double x, y;
};

// Where the numbers of one block lie, in shared memory or in its part of global memory.
struct Region {
  int64_t at;
  bool shared;
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

constexpr int64_t kKernelNumbers = sizeof(Kernel) / sizeof(double);

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
  return {tile[2 * place * kTile + group], tile[(2 * place + 1) * kTile + group]};
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
  const int64_t i0 = static_cast<int64_t>(row) * kSide + stripe * kStripe * kTile + group;
  const int64_t j0 = static_cast<int64_t>(column) * kSide + 2 * place;
#pragma unroll
  for (int r = 0; r < kStripe; ++r)
#pragma unroll
    for (int c = 0; c < kTiles; ++c) d[r][c][0] = d[r][c][1] = 0;
  const double* coordinate = q.at;
  for (int t = 0; t < q.k; ++t, coordinate += q.stride) {
    double own[kStripe];
#pragma unroll
    for (int r = 0; r < kStripe; ++r) own[r] = coordinate[i0 + r * kTile];
#pragma unroll
    for (int c = 0; c < kTiles; ++c) {
      const Pair other = *reinterpret_cast<const Pair*>(coordinate + j0 + c * kTile);
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
        d[r][c][e] = i0 + r * kTile == j0 + c * kTile + e ? -1 - ridge : -entry;
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
      const double x = solved[c * kTile], y = solved[c * kTile + 1];
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
        values[static_cast<int64_t>(row) * kSide + (stripe * kStripe + r) * kTile + group] -= total;
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
    return reinterpret_cast<Pair*>(rows + (row * kTile + group) * kRowStride + column * kTile +
                                   2 * place);
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
      double own[kTile];  // of row `lane`; what lies above the diagonal is never looked at
      double* const from = rows + lane * kRowStride + block * kTile;
#pragma unroll
      for (int j = 0; j < kTile; j += 2) {
        const Pair pair = *reinterpret_cast<const Pair*>(from + j);
        own[j] = pair.x;
        own[j + 1] = pair.y;
      }
      double pivot = __shfl_sync(kWholeWarp, own[0], block * kTile);
#pragma unroll
      for (int j = 0; j < kTile; ++j) {
        const int column = block * kTile + j;
        good = good && pivot > smallest;
        const double inverse = reciprocal_root(pivot);
        // The next pivot by all lanes: the way from root to root is the longest, and so has no
        // exchange between lanes on it.
        if (j + 1 < kTile) {
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
        for (int t = j + 1; t < kTile; ++t)
          own[t] = fma(-own[j], __shfl_sync(kWholeWarp, own[j], block * kTile + t), own[t]);
      }
      if (block == kTiles - 1) roots[lane] = root;
#pragma unroll
      for (int j = 0; j < kTile; j += 2) *reinterpret_cast<Pair*>(from + j) = {own[j], own[j + 1]};
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
    const int tile = lane / kTile, column = lane % kTile;
    const double* const from = rows + tile * kTile * (kRowStride + 1);
    double* const to = square + inverse_at(tile) + column;
    double inverse[kTile];
#pragma unroll
    for (int r = 0; r < kTile; ++r) inverse[r] = r == column ? 1.0 : 0.0;
#pragma unroll
    for (int r = 0; r < kTile; ++r) {
      inverse[r] *= roots[tile * kTile + r];
#pragma unroll
      for (int t = r + 1; t < kTile; ++t)
        inverse[t] = fma(-from[t * kRowStride + r], inverse[r], inverse[t]);
      to[r * kTile] = -inverse[r];
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
        const Pair value = load_row(own + c * kTile, 2);
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
          for (int e = 0; e < 2; ++e) own[c * kTile + 2 * place + e] = d[c][e];
    }
    __syncthreads();
    const int begin = transposed ? 0 : at + 1, end = transposed ? at : factor.side;
    for (int other = begin + warp_index(); other < end; other += warps()) {
      const double* const square = transposed ? factor.square(at, other) : factor.square(other, at);
      double d[kTiles][2] = {};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const Pair value = load_row(own + t * kTile, transposed ? 1 : 2);
#pragma unroll
        for (int c = 0; c < kTiles; ++c) {
          if (transposed) {  // rows of the tile in an order that spreads over the banks
            const double* const from = square + tile_at(t, c) + place * kTile + group;
            multiply_add(d[c], value, {from[0], from[4 * kTile]});
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
            values[static_cast<int64_t>(other) * kSide + c * kTile + 2 * place + e] -= d[c][e];
    }
    __syncthreads();
  }
}

// ------------------------------------------------------------------------------ sums over points

// Calls visit(dims) with a constant for the number of coordinates, 0 if it is not a usual one.
template <class Visit>
__device__ inline void with_dims(int k, Visit&& visit) {
  if (k == 1) return visit(std::integral_constant<int, 1>{});
  if (k == 2) return visit(std::integral_constant<int, 2>{});
  if (k == 3) return visit(std::integral_constant<int, 3>{});
  if (k == 4) return visit(std::integral_constant<int, 4>{});
  visit(std::integral_constant<int, 0>{});
}

// Calls visit(j, squared, difference) for each source j of the lane: the squared distances to
// targets i and i + kTargetLanes, and source - target in coordinates t0, t0 + 1, ...
template <int dims, class Visit>
__device__ inline void for_sources(const Points& targets, int i, const Points& sources, int t0,
                                   Visit&& visit) {
  constexpr int kChunk = dims == 0 ? kPullChunk : dims;
  const int target_stride = targets.stride, stride = sources.stride, k = sources.k;
  const double* const all_targets = targets.at + i;
  const double* const target_chunk = all_targets + static_cast<int64_t>(t0) * target_stride;
  const double* const source_chunk = sources.at + static_cast<int64_t>(t0) * stride;
  double target[kTargets][kChunk];
#pragma unroll
  for (int r = 0; r < kTargets; ++r)
#pragma unroll
    for (int t = 0; t < kChunk; ++t)
      target[r][t] = dims != 0 || t0 + t < k
                         ? target_chunk[static_cast<int64_t>(t) * target_stride + r * kTargetLanes]
                         : 0.0;
#pragma unroll(dims == 1 || dims == 2 ? 2 : 1)
  for (int j = lane_index() / kTargetLanes; j < stride; j += kSourceLanes) {
    double squared[kTargets] = {}, difference[kTargets][kChunk];
    if (dims == 0)
      for (int t = 0; t < k; ++t) {
        const double source = sources.at[static_cast<int64_t>(t) * stride + j];
        const double* const from = all_targets + static_cast<int64_t>(t) * target_stride;
#pragma unroll
        for (int r = 0; r < kTargets; ++r) {
          const double gap = source - from[r * kTargetLanes];
          squared[r] = fma(gap, gap, squared[r]);
        }
      }
#pragma unroll
    for (int t = 0; t < kChunk; ++t) {
      const double source =
          dims != 0 || t0 + t < k ? source_chunk[static_cast<int64_t>(t) * stride + j] : 0.0;
#pragma unroll
      for (int r = 0; r < kTargets; ++r) {
        const double gap = source - target[r][t];
        difference[r][t] = gap;
        if (dims != 0) squared[r] = t == 0 ? gap * gap : fma(gap, gap, squared[r]);
      }
    }
    visit(j, squared, difference);
  }
}

// The sum over the lanes that share a target.
__device__ inline double sum_of_shares(double value) {
#pragma unroll
  for (int step = kTargetLanes; step < kWarp; step *= 2)
    value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}

// sums[i] = amplitude sum_j exp(cross |q_i - p_j|^2), zeros past b.
__device__ DPSLICE_APART void cross_sums(Points q, int64_t b, Points p, const Kernel& kernel,
                                         double power, double* sums) {
  const Gaussian cross = kernel.cross;
  with_dims(q.k, [&](auto dims) {
    for (int first = warp_index() * kWarpTargets; first < q.stride;
         first += warps() * kWarpTargets) {
      const int i = first + lane_index() % kTargetLanes;
      double sum[kTargets] = {};
      if (first < b)
        for_sources<dims.value>(q, i, p, 0, [&](int, const auto& squared, const auto&) {
#pragma unroll
          for (int r = 0; r < kTargets; ++r) sum[r] += evaluate(cross, power, squared[r]);
        });
#pragma unroll
      for (int r = 0; r < kTargets; ++r) {
        const double total = kernel.amplitude * sum_of_shares(sum[r]);
        const int at = i + r * kTargetLanes;
        if (lane_index() < kTargetLanes) sums[at] = at < b ? total : 0.0;
      }
    }
  });
}

// grad[i] = scale (pull of the sources on target i): `visit_sources(pull, i, add)` is to call
// add(sources, weight) for each set of sources, with weight(j, r, squared) for target i + 8 r.
template <class T, class Sources>
__device__ inline void write_pulls(Points targets, int64_t size, double scale, T* grad,
                                   Sources&& visit_sources) {
  with_dims(targets.k, [&](auto dims) {
    constexpr int kDims = decltype(dims)::value;
    constexpr int kChunk = kDims == 0 ? kPullChunk : kDims;
    for (int first = warp_index() * kWarpTargets; first < size; first += warps() * kWarpTargets)
      for (int t0 = 0; t0 < targets.k; t0 += kChunk) {
        const int i = first + lane_index() % kTargetLanes;
        double pull[kTargets][kChunk] = {};
        visit_sources(i, [&](const Points& sources, auto&& weight) {
          for_sources<kDims>(targets, i, sources, t0,
                             [&](int j, const auto& squared, const auto& difference) {
#pragma unroll
                               for (int r = 0; r < kTargets; ++r) {
                                 const double strength = weight(j, r, squared[r]);
#pragma unroll
                                 for (int t = 0; t < kChunk; ++t)
                                   pull[r][t] = fma(strength, difference[r][t], pull[r][t]);
                               }
                             });
        });
#pragma unroll
        for (int r = 0; r < kTargets; ++r)
#pragma unroll
          for (int t = 0; t < kChunk; ++t) {
            const double total = sum_of_shares(pull[r][t]);
            const int at = i + r * kTargetLanes;
            if (lane_index() < kTargetLanes && at < size && t0 + t < targets.k)
              grad[static_cast<int64_t>(at) * targets.k + t0 + t] = static_cast<T>(scale * total);
          }
      }
  });
}

// ------------------------------------------------------------------------------------ the blocks

// failed_slice starts as -1, which as an unsigned number is the largest. Whoever reads it in host
// memory finds the ridge, next to it, there already.
__device__ inline void report_failure(int64_t* failed_slice, double ridge, int64_t slice) {
  if (threadIdx.x != 0 || failed_slice == nullptr) return;
  *reinterpret_cast<double*>(failed_slice + 1) = ridge;
  __threadfence_system();
  atomicMin(reinterpret_cast<unsigned long long*>(failed_slice),
            static_cast<unsigned long long>(slice));
}

template <class T>
__device__ inline void fill_nan(T* to, int64_t size) {
  if (to == nullptr) return;
  for (int64_t i = threadIdx.x; i < size; i += blockDim.x) to[i] = static_cast<T>(NAN);
}

// One slice on its block: points and kernels in their places. Lies in shared memory.
struct Slice {
  Storage storage;
  Points q, p;
  double scale;
  Kernel* kernels;
  double* vectors;
  Cholesky cholesky;

  template <class T, template <class> class Args>
  __device__ DPSLICE_APART void load(const Args<T>& args, const Layout& layout, double* global,
                                     int64_t s, int64_t bandwidths) {
    const Storage own = block_storage(layout, global, s);
    const double unit = unit_scale(args.bandwidth[s]);
    Kernel* const own_kernels = reinterpret_cast<Kernel*>(own.region(layout.kernels));
    for (int64_t g = threadIdx.x; g < bandwidths; g += blockDim.x)
      own_kernels[g] = make_kernel(static_cast<double>(args.bandwidth[g * args.m + s]) * unit,
                                   args.sigma * unit, args.b, args.c, args.k);
    const Points own_q = stage_points(args.q + s * args.b * args.k, args.b, args.k, layout.rows,
                                      unit, own.region(layout.q));
    const Points own_p = stage_points(args.p + s * args.c * args.k, args.c, args.k, layout.sources,
                                      unit, own.region(layout.p));
    if (threadIdx.x == 0) {
      storage = own;
      q = own_q;
      p = own_p;
      scale = unit;
      kernels = own_kernels;
      vectors = own.region(layout.vectors);
    }
    __syncthreads();
  }

  // All threads. The factor of matrix `which`; values = (its matrix)^-1 values. False, for all, if
  // it is not positive definite.
  __device__ bool factor_and_solve(const Layout& layout, int64_t which, int64_t b, double ridge,
                                   double power, double* values) {
    if (threadIdx.x == 0) {
      cholesky.factor = make_factor(storage, layout, which);
      cholesky.q = q;
      cholesky.gram = kernels[which].gram;
      cholesky.ridge = ridge;
      // Below this a pivot has no correct digit left: its rounding error is as large.
      cholesky.smallest = DBL_EPSILON * static_cast<double>(b) * (1 + ridge);
      cholesky.values = values;
      cholesky.row_cache = storage.region(layout.row_cache);
      cholesky.cached = static_cast<int>(layout.cached);
      cholesky.failed = 0;
    }
    __syncthreads();
    if (!cholesky.run(power)) return false;
    solve<true>(cholesky.factor, values);
    return true;
  }

  // The same with a factor that was kept.
  __device__ bool solve_with_kept(const Layout& layout, double* values) {
    fetch_shared_squares(storage, layout);
    wait_for_copies<0>();
    __syncthreads();
    if (!is_kept(storage)) return false;
    const Factor factor = make_factor(storage, layout, 0);
    solve<false>(factor, values);
    solve<true>(factor, values);
    return true;
  }
};

// The lane's 2^(lane / kPowers).
__device__ inline double lane_power() {
  return power_of_two(static_cast<double>(lane_index()) / kPowers);
}

template <class T>
__global__ void __launch_bounds__(kMostThreads, kLeastBlocks)
    ratio_kernel(DensityRatioArgs<T> args, Layout layout, double* global) {
  __shared__ Slice slice;
  const double power = lane_power();
  for (int64_t s = blockIdx.x; s < args.m; s += gridDim.x) {
    slice.load(args, layout, global, s, 1);
    double* const sums = slice.vectors;
    cross_sums(slice.q, args.b, slice.p, slice.kernels[0], power, sums);
    if (slice.factor_and_solve(layout, 0, args.b, args.ridge, power, sums)) {
      for (int64_t i = threadIdx.x; i < args.b; i += blockDim.x)
        args.ratio[s * args.b + i] = static_cast<T>(sums[i]);
      if (layout.kept != nullptr) keep_shared_squares(slice.storage, layout);
    } else {
      report_failure(args.failed_slice, args.ridge, s);
      fill_nan(args.ratio + s * args.b, args.b);
      if (layout.kept != nullptr) fill_nan(slice.storage.kept, 1);
    }
    __syncthreads();
  }
}

template <class T>
__device__ DPSLICE_APART void pull_p(const Slice& slice, int64_t c, double power, T* grad) {
  const Gaussian cross = slice.kernels[0].cross;
  const double pull = slice.kernels[0].pull;
  const double* const lambda = slice.vectors;
  write_pulls(slice.p, c, slice.scale, grad, [&](int, auto&& add) {
    add(slice.q, [&](int i, int, double squared) {
      return pull * lambda[i] * evaluate(cross, power, squared);
    });
  });
}

template <class T>
__device__ DPSLICE_APART void pull_q(const Slice& slice, int64_t b, int64_t rows, double power,
                                     T* grad) {
  const Kernel kernel = slice.kernels[0];
  const double* const lambda = slice.vectors;
  const double* const ratio = slice.vectors + rows;
  write_pulls(slice.q, b, slice.scale, grad, [&](int i, auto&& add) {
    double own_lambda[kTargets], own_ratio[kTargets];
#pragma unroll
    for (int r = 0; r < kTargets; ++r) {
      own_lambda[r] = lambda[i + r * kTargetLanes];
      own_ratio[r] = ratio[i + r * kTargetLanes];
    }
    add(slice.p, [&](int, int r, double squared) {
      return kernel.pull * own_lambda[r] * evaluate(kernel.cross, power, squared);
    });
    add(slice.q, [&](int l, int r, double squared) {
      const double both = own_lambda[r] * ratio[l] + lambda[l] * own_ratio[r];
      return -kernel.gram_pull * both * evaluate(kernel.gram, power, squared);
    });
  });
}

// With lambda = (K + ridge I)^-1 grad: d(grad . r) = lambda . dw - lambda . dK r.
template <class T>
__global__ void __launch_bounds__(kMostThreads, kLeastBlocks)
    ratio_vjp_kernel(DensityRatioVjpArgs<T> args, Layout layout, double* global) {
  __shared__ Slice slice;
  const double power = lane_power();
  const int64_t b = args.b, c = args.c, k = args.k;
  for (int64_t s = blockIdx.x; s < args.m; s += gridDim.x) {
    slice.load(args, layout, global, s, 1);
    for (int64_t i = threadIdx.x; i < layout.rows; i += blockDim.x) {
      slice.vectors[i] = i < b ? static_cast<double>(args.grad[s * b + i]) : 0.0;
      slice.vectors[layout.rows + i] = i < b ? static_cast<double>(args.ratio[s * b + i]) : 0.0;
    }
    const bool good = layout.kept != nullptr
                          ? slice.solve_with_kept(layout, slice.vectors)
                          : slice.factor_and_solve(layout, 0, b, args.ridge, power, slice.vectors);
    T* const grad_q = args.grad_q == nullptr ? nullptr : args.grad_q + s * b * k;
    T* const grad_p = args.grad_p == nullptr ? nullptr : args.grad_p + s * c * k;
    if (!good) {
      report_failure(args.failed_slice, args.ridge, s);
      fill_nan(grad_q, b * k);
      fill_nan(grad_p, c * k);
      __syncthreads();
      continue;
    }
    if (grad_p != nullptr) pull_p(slice, c, power, grad_p);
    if (grad_q != nullptr) pull_q(slice, b, layout.rows, power, grad_q);
    __syncthreads();
  }
}

template <class T>
__device__ DPSLICE_APART void pull_p_of_all(const Slice& slice, int64_t c, int64_t rows,
                                            int64_t bandwidths, double power, T* grad) {
  const double* const lambda = slice.vectors;
  const Kernel* const kernels = slice.kernels;
  write_pulls(slice.p, c, slice.scale, grad, [&](int, auto&& add) {
    add(slice.q, [&](int i, int, double squared) {
      double weight = 0;
      for (int64_t g = 0; g < bandwidths; ++g)
        weight = fma(lambda[g * rows + i], evaluate(kernels[g].cross, power, squared), weight);
      return weight;
    });
  });
}

template <class T>
__global__ void __launch_bounds__(kMostThreads, kLeastBlocks)
    ratio_divergence_kernel(DensityRatioDivergenceArgs<T> args, Layout layout, double* global) {
  __shared__ Slice slice;
  __shared__ double scratch[kMostThreads / kWarp];
  const double power = lane_power();
  const int64_t b = args.b, c = args.c, k = args.k, bandwidths = args.bandwidths;
  const int64_t rows = layout.rows;
  for (int64_t s = blockIdx.x; s < args.m; s += gridDim.x) {
    T* const grad_p = args.grad_p == nullptr ? nullptr : args.grad_p + s * c * k;
    slice.load(args, layout, global, s, bandwidths);
    double* const sums = slice.vectors;  // [bandwidths, rows]: ratios, then lambda
    bool good = true;
    for (int64_t g = 0; g < bandwidths && good; ++g) {
      cross_sums(slice.q, b, slice.p, slice.kernels[g], power, sums + g * rows);
      good = slice.factor_and_solve(layout, g, b, args.ridge, power, sums + g * rows);
    }
    if (!good) {
      report_failure(args.failed_slice, args.ridge, s);
      fill_nan(args.value + s, 1);
      fill_nan(grad_p, c * k);
      __syncthreads();
      continue;
    }
    double value = 0;
    const double share = 1 / (static_cast<double>(b) * static_cast<double>(bandwidths));
    for (int64_t i = threadIdx.x; i < b; i += blockDim.x) {
      double ratio = 0;
      for (int64_t g = 0; g < bandwidths; ++g) ratio += sums[g * rows + i];
      ratio /= static_cast<double>(bandwidths);
      const bool inside = ratio > args.r_min;
      const DivergenceAt<double> f =
          divergence_at<double>(args.divergence, args.alpha, inside ? ratio : args.r_min);
      value += f.value;
      for (int64_t g = 0; g < bandwidths; ++g)
        sums[g * rows + i] = inside ? f.derivative * share : 0.0;
    }
    value = block_sum(value, scratch);
    if (threadIdx.x == 0) args.value[s] = static_cast<T>(value / static_cast<double>(b));
    if (grad_p != nullptr) {
      for (int64_t g = 0; g < bandwidths; ++g) {
        const Factor factor = make_factor(slice.storage, layout, g);
        solve<false>(factor, sums + g * rows);
        solve<true>(factor, sums + g * rows);
        const double pull = slice.kernels[g].pull;
        for (int64_t i = threadIdx.x; i < b; i += blockDim.x) sums[g * rows + i] *= pull;
      }
      __syncthreads();
      pull_p_of_all(slice, c, rows, bandwidths, power, grad_p);
    }
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kMostThreads) divergence_kernel(DivergenceArgs<T> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kMostThreads + threadIdx.x;
  if (i >= args.size) return;
  const DivergenceAt<double> f =
      divergence_at<double>(args.divergence, args.alpha, static_cast<double>(args.t[i]));
  args.value[i] = static_cast<T>(f.value);
  args.derivative[i] = static_cast<T>(f.derivative);
}

// ------------------------------------------------------------------------------------- launching

// Shared memory that the kernels have besides what they are given, and that each block costs.
constexpr int64_t kStaticShared = sizeof(Slice) + 128;
constexpr int64_t kBlockCost = 1024;

// How a kernel is started for matrices of a size.
struct Shape {
  int threads;
  int64_t blocks;  // on a multiprocessor
};

// Of many slices with few squares each, which wait for their diagonals most of the time, four small
// blocks are under way on a multiprocessor.
inline Shape shape_of(int64_t m, int64_t b, int64_t multiprocessors) {
  constexpr int64_t kFew = 128, kSome = 256;
  if (b <= kFew || (b <= kSome && m > kLeastBlocks * multiprocessors))
    return {kMostThreads / 2, 2 * kLeastBlocks};
  return {kMostThreads, kLeastBlocks};
}

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

template <class T, template <class> class Args>
void launch_slices(void (*kernel)(Args<T>, Layout, double*), const Args<T>& args,
                   int64_t bandwidths, int64_t vectors, const Execution& execution,
                   double* kept = nullptr) {
  const Shape shape = shape_of(args.m, args.b, execution.multiprocessors);
  const int64_t limit = static_cast<int64_t>(execution.shared_limit);
  const int64_t bytes = (limit + kBlockCost) / shape.blocks - kBlockCost - kStaticShared;
  Planner planner(bytes / static_cast<int64_t>(sizeof(double)));
  Layout layout;
  layout.rows = padded(args.b);
  layout.sources = padded(args.c);
  layout.side = static_cast<int>(layout.rows / kSide);
  layout.kernels = planner.place(bandwidths * kKernelNumbers);
  layout.vectors = planner.place(vectors * layout.rows);
  layout.q = planner.place(args.k * layout.rows);
  layout.p = planner.place(args.k * layout.sources);
  const int64_t squares = bandwidths * squares_of(layout.side);
  int64_t room = planner.left() / kSquareNumbers;
  layout.cached = 0;
  // The last three squares, and the row of the last, are multiplied with no others.
  constexpr int64_t kAlone = 3;
  if (room < squares - kAlone) {
    layout.cached = room < layout.side - 2 ? room : layout.side - 2;
    if (layout.cached < 0) layout.cached = 0;
    room -= layout.cached;
  }
  layout.row_cache = planner.place(layout.cached * kSquareNumbers);
  layout.shared_squares = room < squares ? room : squares;
  layout.squares_at = planner.take(layout.shared_squares * kSquareNumbers);
  layout.global_squares_at = planner.global();
  layout.global_numbers = planner.global();
  if (kept == nullptr) layout.global_numbers += (squares - layout.shared_squares) * kSquareNumbers;
  layout.kept = kept;
  const size_t shared = static_cast<size_t>(planner.shared()) * sizeof(double);
  if (layout.global_numbers == 0) {
    launch(kernel, args.m, shape.threads, shared, execution, args, layout,
           static_cast<double*>(nullptr));
    return;
  }
  const int64_t most = shape.blocks * execution.multiprocessors;
  const int64_t blocks = args.m < most ? args.m : most;
  Workspace<double> global(blocks * layout.global_numbers, execution);
  launch(kernel, blocks, shape.threads, shared, execution, args, layout, global.data());
}

}  // namespace

int64_t kept_numbers(int64_t b) { return squares_of(padded(b) / kSide) * kSquareNumbers; }

template <class T>
void density_ratio(const DensityRatioArgs<T>& args, const Execution& execution, double* kept) {
  launch_slices(ratio_kernel<T>, args, 1, 1, execution, kept);
}

template <class T>
void density_ratio_vjp(const DensityRatioVjpArgs<T>& args, const Execution& execution,
                       const double* kept) {
  launch_slices(ratio_vjp_kernel<T>, args, 1, 2, execution, const_cast<double*>(kept));
}

template <class T>
void density_ratio_divergence(const DensityRatioDivergenceArgs<T>& args,
                              const Execution& execution) {
  launch_slices(ratio_divergence_kernel<T>, args, args.bandwidths, args.bandwidths, execution);
}

template <class T>
void divergence(const DivergenceArgs<T>& args, const Execution& execution) {
  launch(divergence_kernel<T>, ceil_div(args.size, kMostThreads), kMostThreads, 0, execution, args);
}

template void density_ratio<float>(const DensityRatioArgs<float>&, const Execution&, double*);
template void density_ratio<double>(const DensityRatioArgs<double>&, const Execution&, double*);
template void density_ratio_vjp<float>(const DensityRatioVjpArgs<float>&, const Execution&,
                                       const double*);
template void density_ratio_vjp<double>(const DensityRatioVjpArgs<double>&, const Execution&,
                                        const double*);
DPSLICE_CUDA_INSTANTIATE(density_ratio_divergence, DensityRatioDivergenceArgs)
DPSLICE_CUDA_INSTANTIATE(divergence, DivergenceArgs)

}  // namespace dpslice::cuda
