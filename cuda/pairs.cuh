// What gaussian_kernel_sum and gaussian_kernel_logsumexp share: sums over pairs of points, streamed
// tile by tile through shared memory, and their gradients.
//
// A block owns a tile of targets and walks along the sources, or along its part of them where there
// are too few tiles to fill the device; parts are added up, in their order, by a second kernel. So
// memory is O(parts (b + c) k) with at most kMaxParts parts, and results do not depend on timing.
// Gradients in x and in y are the same kernel with the two sides exchanged.
//
// Distances are sums of squared differences throughout, never |x|^2 + |y|^2 - 2 xy: one more
// operation for each coordinate, and nothing ever cancels, wherever the points lie. Coordinates are
// multiplied by the power of two that brings the bandwidth into [1, 2), which is exact.
// Exponents are taken to base 2.
//
// k <= kSmallDims: a thread holds its targets in registers and sees all sources. Above: register
// tiles of 4 x 4 pairs, coordinates in chunks of kChunk; float32 chunks are added in float64, as
// exponents of hundreds of dimensions would otherwise be wrong by 1e-4.
#pragma once

#include <cmath>

#include "common/gaussian_kernel.h"
#include "common/streaming_logsumexp.h"
#include "launch.h"

namespace dpslice::cuda {

enum class Reduction { sum, logsum };

constexpr int kSmallDims = 8;
constexpr int kSmallThreads = 128;  // and sources of a tile
constexpr int kLogsumChunk = 8;     // exponents whose maximum is taken at a time

constexpr int kTile = 64;  // large k: targets and sources of a tile
constexpr int kTileThreads = 256;
constexpr int kMicro = 4;      // pairs of one thread: kMicro x kMicro
constexpr int kLanesX = 16;    // threads along the sources
constexpr int kChunk = 16;     // coordinates in shared memory for distances
constexpr int kPullDims = 64;  // and for gradients
constexpr int kStride = kTile + 1;

constexpr int64_t kMaxParts = 16;
constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// A logsumexp above the first, rounded to float32, is too coarse to normalise its row by (error
// above 2e-6): it is computed again. Above the second, float32 does not hold the exponents
// themselves: the slice is computed in float64.
constexpr double kCoarseLogsumexp = 64, kWideLogsumexp = 2048;
enum Precision : int { kNarrow = 0, kRefined = 1, kWide = 2 };

template <class T>
struct Side {
  const T* points;  // [m, size, k]
  int64_t size;
  const T* log_weight;      // [m, size] or null
  const double* logsumexp;  // [m, size] or null: subtracted from the exponents
  const T* factor;          // [m, size] or null
};

template <class T>
struct Pairs {
  int64_t m, k;
  Side<T> target, source;
  const T* bandwidth;    // [m]
  const int* precision;  // [m], or null: kNarrow for all
  int64_t parts;
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
__device__ inline T factor_of(const Side<T>& side, int64_t at) {
  return side.factor == nullptr ? T(1) : side.factor[at];
}

template <class C>
__device__ inline C lowest_finite() {
  return sizeof(C) == 8 ? static_cast<C>(-1.7976931348623157e308) : static_cast<C>(-3.4028234e38f);
}

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

// ------------------------------------------------------------------------------- small k: sources

// One tile of sources in shared memory.
template <class C, int K>
struct SourceTile {
  C at[K][kSmallThreads];
  C shift[kSmallThreads];
  C factor[kSmallThreads];
};

// Barriers before and after. Places behind the last source have weight zero.
template <class T, class C, int K>
__device__ inline void load_sources(const Pairs<T>& pairs, int64_t slice, int64_t first,
                                    int64_t end, C length, SourceTile<C, K>& tile) {
  const int place = static_cast<int>(threadIdx.x);
  const int64_t j = first + place;
  __syncthreads();
  if (j < end) {
    const int64_t row = slice * pairs.source.size + j;
#pragma unroll
    for (int t = 0; t < K; ++t)
      tile.at[t][place] =
          t < pairs.k ? static_cast<C>(pairs.source.points[row * pairs.k + t]) * length : C(0);
    tile.shift[place] = static_cast<C>(exponent_shift(pairs.source, row));
    tile.factor[place] = static_cast<C>(factor_of(pairs.source, row));
  } else {
#pragma unroll
    for (int t = 0; t < K; ++t) tile.at[t][place] = C(0);
    tile.shift[place] = -INFINITY;
    tile.factor[place] = C(0);
  }
  __syncthreads();
}

template <class T, class C, int K>
__device__ inline void load_target(const Pairs<T>& pairs, int64_t slice, int64_t i, C length,
                                   C* x) {
#pragma unroll
  for (int t = 0; t < K; ++t)
    x[t] =
        i < pairs.target.size && t < pairs.k
            ? static_cast<C>(pairs.target.points[(slice * pairs.target.size + i) * pairs.k + t]) *
                  length
            : C(0);
}

template <class C, int K>
__device__ inline C squared_distance(const C* x, const SourceTile<C, K>& tile, int j) {
  C squared = C(0);
#pragma unroll
  for (int t = 0; t < K; ++t) {
    const C difference = tile.at[t][j] - x[t];
    squared += difference * difference;
  }
  return squared;
}

// ---------------------------------------------------------------------------------- small k: sums

// total [parts, m, targets]; with logsum also maximum, to base 2.
template <class T, class C, int K, int R, Reduction reduction>
__device__ inline void small_sums(const Pairs<T>& pairs, const Task& task, double* total,
                                  double* maximum) {
  __shared__ SourceTile<C, K> tile;
  const SliceScale scale = slice_scale(pairs.bandwidth[task.slice]);
  const C length = static_cast<C>(scale.length), exponent = static_cast<C>(scale.exponent);
  C x[R][K], shift[R];
  LogTotal<C> found[R];
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = task.target + r * kSmallThreads + threadIdx.x;
    load_target<T, C, K>(pairs, task.slice, i, length, x[r]);
    shift[r] =
        i < pairs.target.size
            ? static_cast<C>(exponent_shift(pairs.target, task.slice * pairs.target.size + i))
            : C(0);
    found[r] = {lowest_finite<C>(), 0.0};
  }
  for (int64_t j0 = task.first_source; j0 < task.end_source; j0 += kSmallThreads) {
    load_sources<T, C, K>(pairs, task.slice, j0, task.end_source, length, tile);
    if constexpr (reduction == Reduction::sum) {
      C sum[R] = {};
      for (int j = 0; j < kSmallThreads; ++j) {
#pragma unroll
        for (int r = 0; r < R; ++r)
          sum[r] += tile.factor[j] * power_of_two(log_kernel_of_square(
                                         squared_distance<C, K>(x[r], tile, j), exponent));
      }
#pragma unroll
      for (int r = 0; r < R; ++r) found[r].total += static_cast<double>(sum[r]);
    } else {
      RunningLogSum<C> run[R];
#pragma unroll
      for (int r = 0; r < R; ++r) run[r] = {found[r].maximum, C(0)};
      for (int j0_chunk = 0; j0_chunk < kSmallThreads; j0_chunk += kLogsumChunk) {
#pragma unroll
        for (int r = 0; r < R; ++r) {
          C e[kLogsumChunk], bound = run[r].maximum;
#pragma unroll
          for (int n = 0; n < kLogsumChunk; ++n) {
            const int j = j0_chunk + n;
            e[n] = log_kernel_of_square(squared_distance<C, K>(x[r], tile, j), exponent) +
                   (tile.shift[j] + shift[r]);
            bound = e[n] > bound ? e[n] : bound;
          }
          run[r].raise(bound, [](C v) { return power_of_two(v); });
          C sum = C(0);
#pragma unroll
          for (int n = 0; n < kLogsumChunk; ++n) sum += power_of_two(e[n] - bound);
          run[r].sum += sum;
        }
      }
#pragma unroll
      for (int r = 0; r < R; ++r)
        found[r] = {
            run[r].maximum,
            found[r].total * power_of_two(static_cast<double>(found[r].maximum - run[r].maximum)) +
                static_cast<double>(run[r].sum)};
    }
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = task.target + r * kSmallThreads + threadIdx.x;
    if (i >= pairs.target.size) continue;
    const int64_t at = (task.part * pairs.m + task.slice) * pairs.target.size + i;
    total[at] = found[r].total;
    if constexpr (reduction == Reduction::logsum)
      maximum[at] = static_cast<double>(found[r].maximum);
  }
}

template <class T, int K, int R, Reduction reduction>
__global__ void __launch_bounds__(kSmallThreads)
    small_sums_kernel(Pairs<T> pairs, double* total, double* maximum) {
  const Task task = block_task(pairs, R * kSmallThreads, kSmallThreads);
  if constexpr (reduction == Reduction::logsum && sizeof(T) == 4) {
    // Asked for again because it was too coarse: then all of it in float64.
    if (pairs.precision != nullptr) {
      if (pairs.precision[task.slice] != kNarrow)
        small_sums<T, double, K, R, reduction>(pairs, task, total, maximum);
      return;
    }
  }
  small_sums<T, T, K, R, reduction>(pairs, task, total, maximum);
}

// ------------------------------------------------------------------------------ small k: gradients

// pull [parts, m, targets, k + 1]: sum_j W_ij (y_j - x_i), then sum_j W_ij, in scaled units.
template <class T, class C, int K, int R>
__device__ inline void small_pulls(const Pairs<T>& pairs, const Task& task, T* pull) {
  __shared__ SourceTile<C, K> tile;
  const SliceScale scale = slice_scale(pairs.bandwidth[task.slice]);
  const C length = static_cast<C>(scale.length), exponent = static_cast<C>(scale.exponent);
  C x[R][K], shift[R];
  double total[R][K + 1] = {};
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = task.target + r * kSmallThreads + threadIdx.x;
    load_target<T, C, K>(pairs, task.slice, i, length, x[r]);
    shift[r] =
        i < pairs.target.size
            ? static_cast<C>(exponent_shift(pairs.target, task.slice * pairs.target.size + i))
            : C(0);
  }
  for (int64_t j0 = task.first_source; j0 < task.end_source; j0 += kSmallThreads) {
    load_sources<T, C, K>(pairs, task.slice, j0, task.end_source, length, tile);
    C sum[R][K + 1] = {};
    for (int j = 0; j < kSmallThreads; ++j) {
#pragma unroll
      for (int r = 0; r < R; ++r) {
        C difference[K], squared = C(0);
#pragma unroll
        for (int t = 0; t < K; ++t) {
          difference[t] = tile.at[t][j] - x[r][t];
          squared += difference[t] * difference[t];
        }
        const C weight = tile.factor[j] * power_of_two(log_kernel_of_square(squared, exponent) +
                                                       (tile.shift[j] + shift[r]));
#pragma unroll
        for (int t = 0; t < K; ++t) sum[r][t] += weight * difference[t];
        sum[r][K] += weight;
      }
    }
#pragma unroll
    for (int r = 0; r < R; ++r)
#pragma unroll
      for (int t = 0; t <= K; ++t) total[r][t] += static_cast<double>(sum[r][t]);
  }
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const int64_t i = task.target + r * kSmallThreads + threadIdx.x;
    if (i >= pairs.target.size) continue;
    T* to = pull + ((task.part * pairs.m + task.slice) * pairs.target.size + i) * (pairs.k + 1);
#pragma unroll
    for (int t = 0; t < K; ++t)
      if (t < pairs.k) to[t] = static_cast<T>(total[r][t]);
    to[pairs.k] = static_cast<T>(total[r][K]);
  }
}

template <class T, int K, int R>
__global__ void __launch_bounds__(kSmallThreads) small_pulls_kernel(Pairs<T> pairs, T* pull) {
  const Task task = block_task(pairs, R * kSmallThreads, kSmallThreads);
  if constexpr (sizeof(T) == 4) {
    if (pairs.precision != nullptr && pairs.precision[task.slice] != kNarrow)
      return small_pulls<T, double, K, R>(pairs, task, pull);
  }
  small_pulls<T, T, K, R>(pairs, task, pull);
}

// ---------------------------------------------------------------------------------------- large k

// Shared memory of one block: coordinates of a chunk of both sides, where gradients later hold a
// chunk of the sources, and the weights of the pairs.
template <class C>
constexpr int64_t kCoordinates =
    2 * kChunk * kStride > kTile* kPullDims ? 2 * kChunk * kStride : kTile * kPullDims;
template <class C>
constexpr size_t kSumsShared = 2 * kChunk * kStride * sizeof(C);
template <class C>
constexpr size_t kPullsShared = (kCoordinates<C> + kTile * kStride) * sizeof(C);

// to [kChunk, kStride] = coordinates t0 ... of kTile points; zeros where there are none.
template <class T, class C>
__device__ inline void load_chunk(const T* points, int64_t left, int64_t k, int64_t t0, C length,
                                  C* to) {
#pragma unroll
  for (int n = 0; n < kTile * kChunk / kTileThreads; ++n) {
    const int index = static_cast<int>(threadIdx.x) + n * kTileThreads;
    const int point = index / kChunk, t = index % kChunk;
    to[t * kStride + point] =
        point < left && t0 + t < k ? static_cast<C>(points[point * k + t0 + t]) * length : C(0);
  }
}

// squared[r][c] = |target 4 ty + r - source tx + 16 c|^2. Barriers before and after each chunk.
template <class T, class C>
__device__ inline void squared_distances(const T* targets, int64_t targets_left, const T* sources,
                                         int64_t sources_left, int64_t k, C length, C* shared,
                                         double squared[kMicro][kMicro]) {
  C* const a = shared;
  C* const b = shared + kChunk * kStride;
  const int tx = static_cast<int>(threadIdx.x) % kLanesX;
  const int ty = static_cast<int>(threadIdx.x) / kLanesX;
#pragma unroll
  for (int r = 0; r < kMicro; ++r)
#pragma unroll
    for (int c = 0; c < kMicro; ++c) squared[r][c] = 0;
  for (int64_t t0 = 0; t0 < k; t0 += kChunk) {
    __syncthreads();
    load_chunk(targets, targets_left, k, t0, length, a);
    load_chunk(sources, sources_left, k, t0, length, b);
    __syncthreads();
    C sum[kMicro][kMicro] = {};
#pragma unroll
    for (int t = 0; t < kChunk; ++t) {
      C u[kMicro], v[kMicro];
#pragma unroll
      for (int r = 0; r < kMicro; ++r) u[r] = a[t * kStride + ty * kMicro + r];
#pragma unroll
      for (int c = 0; c < kMicro; ++c) v[c] = b[t * kStride + tx + kLanesX * c];
#pragma unroll
      for (int r = 0; r < kMicro; ++r)
#pragma unroll
        for (int c = 0; c < kMicro; ++c) {
          const C difference = v[c] - u[r];
          sum[r][c] += difference * difference;
        }
    }
#pragma unroll
    for (int r = 0; r < kMicro; ++r)
#pragma unroll
      for (int c = 0; c < kMicro; ++c) squared[r][c] += static_cast<double>(sum[r][c]);
  }
}

template <class T, class C, Reduction reduction>
__device__ inline void tile_sums(const Pairs<T>& pairs, const Task& task, double* total,
                                 double* maximum) {
  C* const shared = dynamic_shared<C>();
  const SliceScale scale = slice_scale(pairs.bandwidth[task.slice]);
  const C length = static_cast<C>(scale.length);
  const int tx = static_cast<int>(threadIdx.x) % kLanesX;
  const int64_t i0 = task.target + threadIdx.x / kLanesX * kMicro;
  const T* const targets =
      pairs.target.points + (task.slice * pairs.target.size + task.target) * pairs.k;
  double shift[kMicro];
  LogTotal<double> found[kMicro];
#pragma unroll
  for (int r = 0; r < kMicro; ++r) {
    shift[r] = i0 + r < pairs.target.size
                   ? exponent_shift(pairs.target, task.slice * pairs.target.size + i0 + r)
                   : 0.0;
    found[r] = {lowest_finite<double>(), 0.0};
  }
  for (int64_t j0 = task.first_source; j0 < task.end_source; j0 += kTile) {
    double squared[kMicro][kMicro];
    squared_distances<T, C>(targets, pairs.target.size - task.target,
                            pairs.source.points + (task.slice * pairs.source.size + j0) * pairs.k,
                            task.end_source - j0, pairs.k, length, shared, squared);
    double source_shift[kMicro];
    C factor[kMicro];
#pragma unroll
    for (int c = 0; c < kMicro; ++c) {
      const int64_t j = j0 + tx + kLanesX * c, row = task.slice * pairs.source.size + j;
      const bool there = j < task.end_source;
      source_shift[c] = there ? exponent_shift(pairs.source, row) : -INFINITY;
      factor[c] = there ? static_cast<C>(factor_of(pairs.source, row)) : C(0);
    }
#pragma unroll
    for (int r = 0; r < kMicro; ++r) {
      double e[kMicro], bound = found[r].maximum;
      C sum = C(0);
#pragma unroll
      for (int c = 0; c < kMicro; ++c) {
        e[c] = log_kernel_of_square(squared[r][c], scale.exponent) + (source_shift[c] + shift[r]);
        bound = e[c] > bound ? e[c] : bound;
      }
      if constexpr (reduction == Reduction::sum) {
#pragma unroll
        for (int c = 0; c < kMicro; ++c) sum += factor[c] * power_of_two(static_cast<C>(e[c]));
        found[r].total += static_cast<double>(sum);
      } else {
        found[r].total *=
            static_cast<double>(power_of_two(static_cast<C>(found[r].maximum - bound)));
        found[r].maximum = bound;
#pragma unroll
        for (int c = 0; c < kMicro; ++c) sum += power_of_two(static_cast<C>(e[c] - bound));
        found[r].total += static_cast<double>(sum);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kMicro; ++r) {
    double whole;
    if constexpr (reduction == Reduction::sum) {
      whole = lane_sum<kLanesX>(found[r].total);
    } else {
      const double top = lane_max<kLanesX>(found[r].maximum);
      whole = lane_sum<kLanesX>(found[r].total * power_of_two(found[r].maximum - top));
      found[r].maximum = top;
    }
    if (tx != 0 || i0 + r >= pairs.target.size) continue;
    const int64_t at = (task.part * pairs.m + task.slice) * pairs.target.size + i0 + r;
    total[at] = whole;
    if constexpr (reduction == Reduction::logsum) maximum[at] = found[r].maximum;
  }
}

template <class T, Reduction reduction>
__global__ void __launch_bounds__(kTileThreads)
    tile_sums_kernel(Pairs<T> pairs, double* total, double* maximum) {
  const Task task = block_task(pairs, kTile, kTile);
  if constexpr (reduction == Reduction::logsum && sizeof(T) == 4) {
    if (pairs.precision != nullptr) {
      const int precision = pairs.precision[task.slice];
      if (precision == kNarrow) return;
      if (precision == kWide) return tile_sums<T, double, reduction>(pairs, task, total, maximum);
    }
  }
  tile_sums<T, T, reduction>(pairs, task, total, maximum);
}

template <class T, class C>
__device__ inline void tile_pulls(const Pairs<T>& pairs, const Task& task, T* pull) {
  C* const shared = dynamic_shared<C>();
  C* const weights = shared + kCoordinates<C>;  // [sources, targets], rows of kStride
  const SliceScale scale = slice_scale(pairs.bandwidth[task.slice]);
  const C length = static_cast<C>(scale.length);
  const int64_t k = pairs.k;
  const int tx = static_cast<int>(threadIdx.x) % kLanesX;
  const int ty = static_cast<int>(threadIdx.x) / kLanesX;
  const int64_t i0 = task.target + ty * kMicro;
  const int64_t rows = task.slice * pairs.target.size;
  const T* const targets = pairs.target.points + (rows + task.target) * k;
  T* const out = pull + ((task.part * pairs.m + task.slice) * pairs.target.size + i0) * (k + 1);
  double shift[kMicro], total[kMicro] = {};
#pragma unroll
  for (int r = 0; r < kMicro; ++r)
    shift[r] = i0 + r < pairs.target.size ? exponent_shift(pairs.target, rows + i0 + r) : 0.0;

  // Each thread reads and writes the same places of `out` throughout: no one else touches them.
  for (int64_t t = tx; t < k; t += kLanesX)
#pragma unroll
    for (int r = 0; r < kMicro; ++r)
      if (i0 + r < pairs.target.size) out[r * (k + 1) + t] = T(0);

  for (int64_t j0 = task.first_source; j0 < task.end_source; j0 += kTile) {
    const T* const sources = pairs.source.points + (task.slice * pairs.source.size + j0) * k;
    double squared[kMicro][kMicro];
    squared_distances<T, C>(targets, pairs.target.size - task.target, sources, task.end_source - j0,
                            k, length, shared, squared);
#pragma unroll
    for (int c = 0; c < kMicro; ++c) {
      const int column = tx + kLanesX * c;
      const int64_t j = j0 + column, row = task.slice * pairs.source.size + j;
      const bool there = j < task.end_source;
      const double source_shift = there ? exponent_shift(pairs.source, row) : -INFINITY;
      const C factor = there ? static_cast<C>(factor_of(pairs.source, row)) : C(0);
#pragma unroll
      for (int r = 0; r < kMicro; ++r) {
        const double e =
            log_kernel_of_square(squared[r][c], scale.exponent) + (source_shift + shift[r]);
        const C weight = factor * power_of_two(static_cast<C>(e));
        total[r] += static_cast<double>(weight);
        weights[column * kStride + ty * kMicro + r] = weight;
      }
    }
    for (int64_t t0 = 0; t0 < k; t0 += kPullDims) {
      __syncthreads();  // the weights are there; the coordinates of the last chunk were read
#pragma unroll 4
      for (int n = 0; n < kTile * kPullDims / kTileThreads; ++n) {
        const int index = static_cast<int>(threadIdx.x) + n * kTileThreads;
        const int j = index / kPullDims, t = index % kPullDims;
        shared[index] = j0 + j < task.end_source && t0 + t < k
                            ? static_cast<C>(sources[j * k + t0 + t]) * length
                            : C(0);
      }
      __syncthreads();
      C x[kMicro][kMicro], sum[kMicro][kMicro] = {};
#pragma unroll
      for (int r = 0; r < kMicro; ++r)
#pragma unroll
        for (int c = 0; c < kMicro; ++c) {
          const int64_t t = t0 + tx + kLanesX * c;
          x[r][c] = i0 + r < pairs.target.size && t < k
                        ? static_cast<C>(pairs.target.points[(rows + i0 + r) * k + t]) * length
                        : C(0);
        }
      for (int j = 0; j < kTile; ++j) {
        C w[kMicro], y[kMicro];
#pragma unroll
        for (int r = 0; r < kMicro; ++r) w[r] = weights[j * kStride + ty * kMicro + r];
#pragma unroll
        for (int c = 0; c < kMicro; ++c) y[c] = shared[j * kPullDims + tx + kLanesX * c];
#pragma unroll
        for (int r = 0; r < kMicro; ++r)
#pragma unroll
          for (int c = 0; c < kMicro; ++c) sum[r][c] += w[r] * (y[c] - x[r][c]);
      }
#pragma unroll
      for (int r = 0; r < kMicro; ++r)
#pragma unroll
        for (int c = 0; c < kMicro; ++c) {
          const int64_t t = t0 + tx + kLanesX * c;
          if (i0 + r < pairs.target.size && t < k)
            out[r * (k + 1) + t] = static_cast<T>(static_cast<C>(out[r * (k + 1) + t]) + sum[r][c]);
        }
    }
  }
#pragma unroll
  for (int r = 0; r < kMicro; ++r) {
    const double whole = lane_sum<kLanesX>(total[r]);
    if (tx == 0 && i0 + r < pairs.target.size) out[r * (k + 1) + k] = static_cast<T>(whole);
  }
}

template <class T>
__global__ void __launch_bounds__(kTileThreads) tile_pulls_kernel(Pairs<T> pairs, T* pull) {
  const Task task = block_task(pairs, kTile, kTile);
  if constexpr (sizeof(T) == 4) {
    if (pairs.precision != nullptr && pairs.precision[task.slice] == kWide)
      return tile_pulls<T, double>(pairs, task, pull);
  }
  tile_pulls<T, T>(pairs, task, pull);
}

// -------------------------------------------------------------------------------- adding the parts

constexpr int kCombineThreads = 256;

template <class T>
__global__ void combine_sums_kernel(int64_t size, int64_t parts, const double* total, T* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (at >= size) return;
  double sum = 0;
  for (int64_t part = 0; part < parts; ++part) sum += total[part * size + at];
  out[at] = static_cast<T>(sum);
}

// With `precision`, only the slices that were computed again; rows [m, b].
template <class Out>
__global__ void combine_logsums_kernel(int64_t size, int64_t b, int64_t parts, const double* total,
                                       const double* maximum, const int* precision, Out* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (at >= size || (precision != nullptr && precision[at / b] == kNarrow)) return;
  LogTotal<double> whole{maximum[at], total[at]};
  for (int64_t part = 1; part < parts; ++part)
    whole = join(whole, LogTotal<double>{maximum[part * size + at], total[part * size + at]});
  out[at] = whole.total == 0 ? static_cast<Out>(-INFINITY)
                             : static_cast<Out>((whole.maximum + log2(whole.total)) * kLn2);
}

// grad_points [m, size, k] or null; grad_factor [m, size] or null.
template <class T>
__global__ void combine_pulls_kernel(Pairs<T> pairs, const T* pull, T* grad_points,
                                     T* grad_factor) {
  const int64_t width = pairs.k + 1, size = pairs.m * pairs.target.size * width;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (at >= size) return;
  const int64_t row = at / width, t = at % width;
  if (t < pairs.k ? grad_points == nullptr : grad_factor == nullptr) return;
  double sum = 0;
  for (int64_t part = 0; part < pairs.parts; ++part)
    sum += static_cast<double>(pull[part * size + at]);
  if (t == pairs.k) {
    grad_factor[row] = static_cast<T>(sum);
    return;
  }
  // Coordinates were multiplied by `length`; the gradient is in 1 / g^2 of what they were.
  const SliceScale scale = slice_scale(pairs.bandwidth[row / pairs.target.size]);
  const double factor = static_cast<double>(factor_of(pairs.target, row));
  grad_points[row * pairs.k + t] =
      static_cast<T>(sum * factor * (2 / kLog2E * scale.exponent) * scale.length);
}

// ----------------------------------------------------------------------------------------
// launchers

// Targets of one thread: as many as its registers hold.
template <class T, int K>
constexpr int targets_of_thread() {
  const int coordinates = sizeof(T) == 4 ? 8 : 4;
  const int targets = coordinates / K;
  return targets < 1 ? 1 : (targets > 4 ? 4 : targets);
}

// Enough parts for two blocks on each multiprocessor, if there are so many tiles of sources.
inline int64_t parts_for(int64_t m, int64_t targets, int64_t target_tile, int64_t sources,
                         int64_t source_tile, const Execution& execution) {
  const int64_t blocks = m * ceil_div(targets, target_tile);
  int64_t parts = ceil_div(2 * execution.multiprocessors, blocks);
  const int64_t most = ceil_div(sources, source_tile);
  parts = parts < most ? parts : most;
  return parts < kMaxParts ? parts : kMaxParts;
}

// Calls run(std::integral_constant<int, K>) with the K that k is padded to.
template <class Run>
void with_small_dims(int64_t k, Run&& run) {
  if (k <= 1) return run(std::integral_constant<int, 1>{});
  if (k <= 2) return run(std::integral_constant<int, 2>{});
  if (k <= 4) return run(std::integral_constant<int, 4>{});
  run(std::integral_constant<int, kSmallDims>{});
}

// out [m, targets], of T, or of double where `precision` chooses slices to refine.
template <class T, Reduction reduction, class Out>
void launch_sums(Pairs<T> pairs, Out* out, const Execution& execution) {
  const int64_t b = pairs.target.size, size = pairs.m * b;
  const auto run = [&](int64_t target_tile, int64_t source_tile, auto&& kernel) {
    pairs.parts = parts_for(pairs.m, b, target_tile, pairs.source.size, source_tile, execution);
    Workspace<double> total(pairs.parts * size, execution);
    Workspace<double> maximum(reduction == Reduction::logsum ? pairs.parts * size : 0, execution);
    kernel(pairs.m * ceil_div(b, target_tile) * pairs.parts, total.data(), maximum.data());
    const int64_t blocks = ceil_div(size, kCombineThreads);
    if constexpr (reduction == Reduction::sum)
      launch(combine_sums_kernel<Out>, blocks, kCombineThreads, 0, execution, size, pairs.parts,
             static_cast<const double*>(total.data()), out);
    else
      launch(combine_logsums_kernel<Out>, blocks, kCombineThreads, 0, execution, size, b,
             pairs.parts, static_cast<const double*>(total.data()),
             static_cast<const double*>(maximum.data()), pairs.precision, out);
  };
  if (pairs.k > kSmallDims) {
    // Refining in a wide slice takes the shared memory of float64.
    const size_t shared = pairs.precision == nullptr ? kSumsShared<T> : kSumsShared<double>;
    run(kTile, kTile, [&](int64_t blocks, double* total, double* maximum) {
      launch(tile_sums_kernel<T, reduction>, blocks, kTileThreads, shared, execution, pairs, total,
             maximum);
    });
    return;
  }
  with_small_dims(pairs.k, [&](auto dims) {
    constexpr int K = decltype(dims)::value, R = targets_of_thread<T, K>();
    run(R * kSmallThreads, kSmallThreads, [&](int64_t blocks, double* total, double* maximum) {
      launch(small_sums_kernel<T, K, R, reduction>, blocks, kSmallThreads, 0, execution, pairs,
             total, maximum);
    });
  });
}

// The gradients in the targets: in their points, and in their factor or log weight.
template <class T>
void launch_pulls(Pairs<T> pairs, T* grad_points, T* grad_factor, const Execution& execution) {
  if (grad_points == nullptr && grad_factor == nullptr) return;
  const int64_t b = pairs.target.size, size = pairs.m * b * (pairs.k + 1);
  const auto run = [&](int64_t target_tile, int64_t source_tile, auto&& kernel) {
    pairs.parts = parts_for(pairs.m, b, target_tile, pairs.source.size, source_tile, execution);
    Workspace<T> pull(pairs.parts * size, execution);
    kernel(pairs.m * ceil_div(b, target_tile) * pairs.parts, pull.data());
    launch(combine_pulls_kernel<T>, ceil_div(size, kCombineThreads), kCombineThreads, 0, execution,
           pairs, static_cast<const T*>(pull.data()), grad_points, grad_factor);
  };
  if (pairs.k > kSmallDims) {
    const size_t shared = pairs.precision == nullptr ? kPullsShared<T> : kPullsShared<double>;
    run(kTile, kTile, [&](int64_t blocks, T* pull) {
      launch(tile_pulls_kernel<T>, blocks, kTileThreads, shared, execution, pairs, pull);
    });
    return;
  }
  with_small_dims(pairs.k, [&](auto dims) {
    constexpr int K = decltype(dims)::value, R = targets_of_thread<T, K>();
    run(R * kSmallThreads, kSmallThreads, [&](int64_t blocks, T* pull) {
      launch(small_pulls_kernel<T, K, R>, blocks, kSmallThreads, 0, execution, pairs, pull);
    });
  });
}

}  // namespace dpslice::cuda
