// Sums over pairs of points by differences. Distances are sums of squared differences throughout,
// never |x|^2 + |y|^2 - 2 xy: nothing ever cancels, wherever the points lie. Coordinates are
// multiplied by the power of two that brings the bandwidth into [1, 2), which is exact.
//
// k <= kSmallDims: a thread holds its targets in registers and sees all sources. Above: register
// tiles of 4 x 4 pairs, coordinates in chunks of kChunk; float32 chunks are added in float64, as
// exponents of hundreds of dimensions would otherwise be wrong by 1e-4.
#pragma once

#include "common/streaming_logsumexp.h"
#include "pairs.cuh"

namespace dpslice::cuda {

constexpr int kSmallThreads = 128;  // and sources of a tile
constexpr int kLogsumChunk = 8;     // exponents whose maximum is taken at a time

constexpr int kTile = 64;  // large k: targets and sources of a tile
constexpr int kTileThreads = 256;
constexpr int kMicro = 4;      // pairs of one thread: kMicro x kMicro
constexpr int kLanesX = 16;    // threads along the sources
constexpr int kChunk = 16;     // coordinates in shared memory for distances
constexpr int kPullDims = 64;  // and for gradients
constexpr int kStride = kTile + 1;

// ------------------------------------------------------------------------------- small k: sources

// One of a tile of sources in shared memory, read with loads of 16 bytes.
template <class C, int K>
struct alignas(16) Source {
  C at[K];
  C shift;
  C factor;
};

// Barriers before and after. Places behind the last source have weight zero.
template <class T, class C, int K>
__device__ inline void load_sources(const Pairs<T>& pairs, int64_t slice, int64_t first,
                                    int64_t end, C length, Source<C, K>* tile) {
  const int64_t j = first + threadIdx.x;
  Source<C, K> own;
#pragma unroll
  for (int t = 0; t < K; ++t) own.at[t] = C(0);
  own.shift = -INFINITY;
  own.factor = C(0);
  if (j < end) {
    const int64_t row = slice * pairs.source.size + j;
#pragma unroll
    for (int t = 0; t < K; ++t)
      own.at[t] =
          t < pairs.k ? static_cast<C>(pairs.source.points[row * pairs.k + t]) * length : C(0);
    own.shift = static_cast<C>(exponent_shift(pairs.source, row));
    own.factor = static_cast<C>(factor_of(pairs.source, row));
  }
  __syncthreads();
  tile[threadIdx.x] = own;
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
__device__ inline C squared_distance(const C* x, const Source<C, K>& source) {
  C squared = C(0);
#pragma unroll
  for (int t = 0; t < K; ++t) {
    const C difference = source.at[t] - x[t];
    squared += difference * difference;
  }
  return squared;
}

// ---------------------------------------------------------------------------------- small k: sums

// total [parts, m, targets]; with logsum also maximum, to base 2.
template <class T, class C, int K, int R, Reduction reduction>
__device__ inline void small_sums(const Pairs<T>& pairs, const Task& task, double* total,
                                  double* maximum) {
  __shared__ Source<C, K> tile[kSmallThreads];
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
#pragma unroll 8
      for (int j = 0; j < kSmallThreads; ++j) {
        const Source<C, K> source = tile[j];
#pragma unroll
        for (int r = 0; r < R; ++r)
          sum[r] += source.factor * power_of_two(log_kernel_of_square(
                                        squared_distance<C, K>(x[r], source), exponent));
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
            e[n] = log_kernel_of_square(squared_distance<C, K>(x[r], tile[j]), exponent) +
                   (tile[j].shift + shift[r]);
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
// Without `shifted`, nothing is added to the exponents.
template <class T, class C, int K, int R, bool shifted>
__device__ inline void small_pulls(const Pairs<T>& pairs, const Task& task, T* pull) {
  __shared__ Source<C, K> tile[kSmallThreads];
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
#pragma unroll 4
    for (int j = 0; j < kSmallThreads; ++j) {
      const Source<C, K> source = tile[j];
#pragma unroll
      for (int r = 0; r < R; ++r) {
        C difference[K], squared = C(0);
#pragma unroll
        for (int t = 0; t < K; ++t) {
          difference[t] = source.at[t] - x[r][t];
          squared += difference[t] * difference[t];
        }
        C e = log_kernel_of_square(squared, exponent);
        if constexpr (shifted) e += source.shift + shift[r];
        const C weight = source.factor * power_of_two(e);
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

template <class T, int K, int R, bool shifted>
__global__ void __launch_bounds__(kSmallThreads) small_pulls_kernel(Pairs<T> pairs, T* pull) {
  const Task task = block_task(pairs, R * kSmallThreads, kSmallThreads);
  if constexpr (sizeof(T) == 4 && shifted) {
    if (pairs.precision != nullptr && pairs.precision[task.slice] != kNarrow)
      return small_pulls<T, double, K, R, shifted>(pairs, task, pull);
  }
  small_pulls<T, T, K, R, shifted>(pairs, task, pull);
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
  if (by_products(pairs, task.slice)) return;
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
  if (by_products(pairs, task.slice)) return;
  if constexpr (sizeof(T) == 4) {
    if (pairs.precision != nullptr && pairs.precision[task.slice] == kWide)
      return tile_pulls<T, double>(pairs, task, pull);
  }
  tile_pulls<T, T>(pairs, task, pull);
}

}  // namespace dpslice::cuda
