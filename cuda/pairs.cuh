// What gaussian_kernel_sum and gaussian_kernel_logsumexp share: sums over pairs of points, streamed
// tile by tile through shared memory, and their gradients.
//
// A block owns a tile of targets and walks along the sources, or along its part of them where there
// are too few tiles to fill the device; parts are added up, in their order, by a second kernel. So
// memory is O(parts (b + c) k) with at most kMaxParts parts, besides at most Execution::share_bytes
// of the shares of products; and results do not depend on timing.
// Gradients in x and in y are the same kernel with the two sides exchanged.
//
// Two ways to an exponent, as on the CPU (csrc/gaussian_pairs.h):
// - By differences (differences.cuh): any dtype and k; nothing cancels, wherever the points lie.
// - By products (products.cu), on tensor cores: float32 above kSmallDims, where tiles are filled,
//   for the slices whose points are so close together, in bandwidths, that products lose nothing.
//   Which those are is found on the device; of each slice one of the two kernels does the work, and
//   the other returns. Gradients of kernel sums, which are not normalised as shares are, first take
//   a reference for each target, and shares of |factor| K, whatever the sizes of factors.
// Exponents are taken to base 2.
#pragma once

#include <cmath>

#include "common/bits.h"
#include "common/gaussian_kernel.h"
#include "launch.h"

namespace dpslice::cuda {

enum class Reduction { sum, logsum };

constexpr int kSmallDims = 8;  // up to here differences cost less than products

constexpr int64_t kMaxParts = 16;

// A logsumexp above the first, rounded to float32, is too coarse to normalise its row by (error
// above 2e-6): it is computed again. Above the second, float32 does not hold the exponents
// themselves: the slice is computed in float64.
constexpr double kCoarseLogsumexp = 64, kWideLogsumexp = 2048;
enum Precision : int { kNarrow = 0, kRefined = 1, kWide = 2 };

// Numbers of 16 bits in rows of packs, tile by tile of the rows: see products.cu.
struct Packed {
  const uint16_t* numbers;
  int64_t rows, packs;
};

template <class T>
struct Side {
  const T* points;  // [m, size, k]
  int64_t size;
  const T* log_weight;      // [m, size] or null
  const double* logsumexp;  // [m, size] or null: subtracted from the exponents
  const T* factor;          // [m, size] or null

  // For products only.
  int index;           // in Measured: 0 for x, 1 for y
  Packed packed;       // a row for each point
  Packed values;       // a row for each coordinate, times the factors; then one for the factors
  const double* norm;  // [m, size]: |u|^2 / 2
};

template <class T>
Side<T> make_side(const T* points, int64_t size, const T* factor = nullptr) {
  Side<T> side{};
  side.points = points;
  side.size = size;
  side.factor = factor;
  return side;
}

// Of one slice: the largest |u|^2, |u_t|, |f u_t| and |f| of either side, with u a scaled point and
// f its factor, as the bits of floats, whose order is that of the floats; and the inverted bits of
// the smallest |f| but 0, which are the largest.
struct Measured {
  unsigned norm[2], coordinate[2], value[2], factor[2], inverted_factor[2];
};

template <class T>
struct Pairs {
  int64_t m, k;
  Side<T> target, source;
  const T* bandwidth;        // [m]
  const int* precision;      // [m], or null: kNarrow for all
  const Measured* measured;  // [m], or null: no slice by products
  const double* centre;      // [m, k], where measured
  double reach;              // the largest |u| |v|, in squared bandwidths, for products
  int64_t parts;
  const double* reference;  // [m, targets] or null: the log of what shares were divided by
};

// --------------------------------------------------------------------------------- common pieces

struct SliceScale {
  double length;    // a power of two
  double exponent;  // log2(e) / (2 g^2), in scaled units
};

template <class T>
__device__ inline SliceScale slice_scale(T bandwidth) {
  const double length = ldexp(1.0, -ilogb(bandwidth));
  const double g = static_cast<double>(bandwidth) * length;
  return {length, 0.5 * kLog2E / (g * g)};
}

// What points are multiplied by for products: then log2 K = -|u - v|^2 / 2.
__device__ inline double product_scale(double bandwidth) { return sqrt(kLog2E) / bandwidth; }

// How far the factors of a side may be apart, and from 1, so that halves hold them all.
constexpr float kFactorRange = 1048576.0f;                                  // 2^20
constexpr float kLeastFactor = 8.673617e-19f, kMostFactor = 1.1529215e18f;  // 2^-60, 2^60

__device__ inline bool factors_fit(const Measured& measured, int side) {
  const float most = bits_as<float>(measured.factor[side]);
  if (most == 0) return true;
  const float least = bits_as<float>(~measured.inverted_factor[side]);
  return most <= kMostFactor && least >= kLeastFactor && most <= kFactorRange * least;
}

// Whether a slice is computed by products. Besides their reach: |v|^2 / 2 is an offset in float32,
// and one point far away must not take the bits of all the others.
template <class T>
__device__ inline bool by_products(const Pairs<T>& pairs, int64_t slice) {
  if (pairs.measured == nullptr) return false;
  const Measured& measured = pairs.measured[slice];
  const double x = static_cast<double>(bits_as<float>(measured.norm[0])) * kLn2;
  const double y = static_cast<double>(bits_as<float>(measured.norm[1])) * kLn2;
  const double reach = pairs.reach;
  // All false, too, where points or factors are not finite.
  return x * y <= reach * reach && y <= 4 * reach && x <= 1024 * reach &&
         factors_fit(measured, 0) && factors_fit(measured, 1);
}

// From here on the slice is computed by differences.
__device__ inline void put_out_of_reach(Measured& measured) {
  measured.norm[0] = bits_as<unsigned>(INFINITY);
}

// What is added to every exponent of one point, to base 2. A weight of zero and a row that has no
// weight at all are both -inf.
template <class T>
__device__ inline double exponent_shift(const Side<T>& side, int64_t at) {
  double shift = side.log_weight == nullptr ? 0.0 : static_cast<double>(side.log_weight[at]);
  if (side.logsumexp != nullptr) {
    const double total = side.logsumexp[at];
    shift = total == -INFINITY ? -INFINITY : shift - total;
  }
  return shift * kLog2E;
}

template <class T>
bool has_shift(const Side<T>& side) {
  return side.log_weight != nullptr || side.logsumexp != nullptr;
}

template <class T>
__device__ inline T factor_of(const Side<T>& side, int64_t at) {
  return side.factor == nullptr ? T(1) : side.factor[at];
}

template <class C>
__device__ inline C lowest_finite() {
  return sizeof(C) == 8 ? static_cast<C>(-1.7976931348623157e308) : static_cast<C>(-3.4028234e38f);
}

// What products add to the exponents of a target is a float32: up to here its error is below 2e-5.
// Slices with more are computed by differences.
constexpr float kMostShift = 512;

struct Task {
  int64_t part, slice, target;  // the first target
  int64_t first_source, end_source;
};

template <class T>
__device__ inline Task block_task(const Pairs<T>& pairs, int64_t target_tile, int64_t source_tile) {
  const int64_t tiles = ceil_div(pairs.target.size, target_tile);
  const int64_t index = blockIdx.x;
  const int64_t part = index % pairs.parts;
  const int64_t run = ceil_div(ceil_div(pairs.source.size, source_tile), pairs.parts) * source_tile;
  const int64_t first = part * run, end = first + run;
  return {part, index / pairs.parts / tiles, index / pairs.parts % tiles * target_tile, first,
          end < pairs.source.size ? end : pairs.source.size};
}

// log2 sum 2^e of a stream: a float64 total to a running maximum.
template <class C>
struct LogTotal {
  C maximum;
  double total;
};

// Joins two of them.
template <class C>
__device__ inline LogTotal<C> join(LogTotal<C> a, LogTotal<C> b) {
  const C maximum = a.maximum > b.maximum ? a.maximum : b.maximum;
  return {maximum, a.total * power_of_two(static_cast<double>(a.maximum - maximum)) +
                       b.total * power_of_two(static_cast<double>(b.maximum - maximum))};
}

}  // namespace dpslice::cuda
