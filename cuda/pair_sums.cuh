// Starts the kernels over pairs of points, by differences and by products, and adds their parts.
#pragma once

#include <memory>
#include <type_traits>

#include "differences.cuh"
#include "products.h"

namespace dpslice::cuda {

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

// The logsumexp of target number `at` from its parts.
template <class T>
__device__ inline double joined_logsum(const Pairs<T>& pairs, int64_t at, const double* total,
                                       const double* maximum) {
  const int64_t size = pairs.m * pairs.target.size;
  LogTotal<double> whole{maximum[at], total[at]};
  for (int64_t part = 1; part < pairs.parts; ++part)
    whole = join(whole, LogTotal<double>{maximum[part * size + at], total[part * size + at]});
  if (by_products(pairs, at / pairs.target.size)) whole.maximum -= pairs.target.norm[at];
  return whole.total == 0 ? -INFINITY : (whole.maximum + log2(whole.total)) * kLn2;
}

// With `precision`, only the slices that were computed again.
template <class T, class Out>
__global__ void combine_logsums_kernel(Pairs<T> pairs, const double* total, const double* maximum,
                                       Out* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kCombineThreads + threadIdx.x;
  if (at >= pairs.m * pairs.target.size) return;
  if (pairs.precision != nullptr && pairs.precision[at / pairs.target.size] == kNarrow) return;
  out[at] = static_cast<Out>(joined_logsum(pairs, at, total, maximum));
}

constexpr int kReferenceThreads = 1024;

// One block for each slice. reference [m, targets]: the logsumexp of each target of a slice by
// products, unless that takes exponents too far: then, and by differences, 0. Where it is below
// kLeastReference, nothing of the gradient is left in float32, unless factors and 1 / bandwidth
// are far above 1, and it is -inf: no shares.
constexpr double kLeastReference = -250;
template <class T>
__global__ void __launch_bounds__(kReferenceThreads)
    reference_kernel(Pairs<T> pairs, const double* total, const double* maximum, double* reference,
                     Measured* measured) {
  __shared__ float scratch[kReferenceThreads / kWarp];
  const int64_t size = pairs.target.size, slice = blockIdx.x, first = slice * size;
  const bool products = by_products(pairs, slice);
  float shift = 0;
  for (int64_t i = threadIdx.x; products && i < size; i += kReferenceThreads) {
    const double own = joined_logsum(pairs, first + i, total, maximum);
    reference[first + i] = own < kLeastReference ? -INFINITY : own;
    if (own < kLeastReference) continue;
    const float size_of = static_cast<float>(fabs(own * kLog2E + pairs.target.norm[first + i]));
    shift = size_of > shift ? size_of : shift;
  }
  shift = block_max(shift, scratch);
  if (products && shift <= kMostShift) return;
  for (int64_t i = threadIdx.x; i < size; i += kReferenceThreads) reference[first + i] = 0;
  if (products && threadIdx.x == 0) put_out_of_reach(measured[slice]);
}

// grad_points [m, size, k] or null; grad_factor [m, size] or null. A warp for each target.
template <class T>
__global__ void __launch_bounds__(kCombineThreads)
    combine_pulls_kernel(Pairs<T> pairs, const T* pull, T* grad_points, T* grad_factor) {
  const int64_t width = pairs.k + 1, targets = pairs.m * pairs.target.size;
  const int64_t row =
      static_cast<int64_t>(blockIdx.x) * (kCombineThreads / kWarp) + threadIdx.x / kWarp;
  if (row >= targets) return;
  const T* const own = pull + row * width;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  double strength = 0;
  for (int64_t part = 0; part < pairs.parts; ++part)
    strength += static_cast<double>(own[part * targets * width + pairs.k]);
  const double divisor = pairs.reference == nullptr ? 1.0 : exp(pairs.reference[row]);
  if (grad_factor != nullptr && lane == 0) grad_factor[row] = static_cast<T>(strength * divisor);
  if (grad_points == nullptr) return;
  // visit(t, sum over the parts) for the lane's coordinates: several are loaded together.
  const auto for_sums = [&](auto&& visit) {
    constexpr int together = 4;
    for (int64_t first = lane; first < pairs.k; first += together * kWarp) {
      double sum[together] = {};
      for (int64_t part = 0; part < pairs.parts; ++part)
#pragma unroll
        for (int n = 0; n < together; ++n)
          if (first + n * kWarp < pairs.k)
            sum[n] += static_cast<double>(own[part * targets * width + first + n * kWarp]);
#pragma unroll
      for (int n = 0; n < together; ++n)
        if (first + n * kWarp < pairs.k) visit(first + n * kWarp, sum[n]);
    }
  };
  const int64_t slice = row / pairs.target.size;
  const double factor = static_cast<double>(factor_of(pairs.target, row)) * divisor;
  if (by_products(pairs, slice)) {
    // sum_j W_ij f_j (v_j - u_i), where points were multiplied by `unit`.
    const double g = static_cast<double>(pairs.bandwidth[slice]), unit = product_scale(g);
    const double outside = factor / (unit * g) / g;
    for_sums([&](int64_t t, double sum) {
      const double u = (static_cast<double>(pairs.target.points[row * pairs.k + t]) -
                        pairs.centre[slice * pairs.k + t]) *
                       unit;
      grad_points[row * pairs.k + t] = static_cast<T>((sum - u * strength) * outside);
    });
    return;
  }
  // Coordinates were multiplied by `length`; the gradient is in 1 / g^2 of what they were.
  const SliceScale scale = slice_scale(pairs.bandwidth[slice]);
  const double outside = factor * (2 / kLog2E * scale.exponent) * scale.length;
  for_sums([&](int64_t t, double sum) {
    grad_points[row * pairs.k + t] = static_cast<T>(sum * outside);
  });
}

// --------------------------------------------------------------------------------------- launchers

// Targets of one thread: as many as its registers hold.
template <class T, int K>
constexpr int targets_of_thread() {
  const int coordinates = sizeof(T) == 4 ? 8 : 4;
  const int targets = coordinates / K;
  return targets < 1 ? 1 : (targets > 4 ? 4 : targets);
}

constexpr int64_t kBlocksOfMultiprocessor = 8;

// Enough parts to fill the device, if there are so many tiles of sources.
inline int64_t parts_for(int64_t m, int64_t targets, int64_t target_tile, int64_t sources,
                         int64_t source_tile, const Execution& execution) {
  const int64_t blocks = m * ceil_div(targets, target_tile);
  int64_t parts = ceil_div(kBlocksOfMultiprocessor * execution.multiprocessors, blocks);
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

// Products compute whole tiles: not more than four times as many pairs as there are.
inline bool tiles_are_filled(int64_t x_size, int64_t y_size) {
  const int64_t x_padded = ceil_div(x_size, kProductTile) * kProductTile;
  const int64_t y_padded = ceil_div(y_size, kProductTile) * kProductTile;
  return x_padded * y_padded <= 4 * x_size * y_size;
}

// Whether slices of such points may be computed by products, if they are within reach.
template <class T>
bool may_use_products(int64_t k, int64_t x_size, int64_t y_size) {
  return sizeof(T) == sizeof(float) && k > kSmallDims && tiles_are_filled(x_size, y_size);
}

// By how much less than with two halves products reach with one, of half the bits.
constexpr double kOneHalfReach = 16;

// The sides x and y of one problem: in packs, where its slices may be computed by products.
template <class T>
class Problem {
 public:
  Problem(int64_t m, int64_t k, const Side<T>& x, const Side<T>& y, const T* bandwidth,
          bool values_of_x, bool values_of_y, const Execution& execution)
      : m_(m), k_(k), x_(x), y_(y), bandwidth_(bandwidth) {
    if constexpr (sizeof(T) == sizeof(float))
      if (may_use_products<T>(k, x.size, y.size)) {
        packed_ = std::make_unique<PackedSides>(x, y, m, k, bandwidth, values_of_x, values_of_y,
                                                execution);
        // Coarser products must not make coarser exponents without bound.
        reach_ = product_reach<T>(k) / (execution.halves == 1 ? kOneHalfReach : 1);
      }
  }
  // With x as targets and y as sources, and the other way round.
  Pairs<T> pairs(const int* precision = nullptr) const { return make(x(), y(), precision); }
  Pairs<T> reversed(const int* precision = nullptr) const { return make(y(), x(), precision); }
  Measured* measured() const { return packed_ ? packed_->measured() : nullptr; }
  // The same points with another logsumexp of the rows of x.
  void set_logsumexp(const double* logsumexp) { x_.logsumexp = logsumexp; }

 private:
  Side<T> x() const {
    if constexpr (sizeof(T) == sizeof(float))
      if (packed_) return packed_->x().in_packs(x_);
    return x_;
  }
  Side<T> y() const {
    if constexpr (sizeof(T) == sizeof(float))
      if (packed_) return packed_->y().in_packs(y_);
    return y_;
  }
  Pairs<T> make(const Side<T>& target, const Side<T>& source, const int* precision) const {
    Pairs<T> pairs{m_,      k_,      target, source, bandwidth_, precision,
                   nullptr, nullptr, reach_, 1,      nullptr};
    if (packed_) pairs.measured = packed_->measured(), pairs.centre = packed_->centre();
    return pairs;
  }

  int64_t m_, k_;
  Side<T> x_, y_;
  const T* bandwidth_;
  double reach_ = 0;
  std::unique_ptr<PackedSides> packed_;
};

// out [m, targets], of T, or of double where `precision` chooses slices to refine.
template <class T, Reduction reduction, class Out>
void launch_sums(Pairs<T> pairs, Out* out, const Execution& execution) {
  const int64_t b = pairs.target.size, size = pairs.m * b;
  const auto run = [&](int64_t parts, int64_t target_tile, auto&& kernel) {
    pairs.parts = parts;
    Workspace<double> total(parts * size, execution);
    Workspace<double> maximum(reduction == Reduction::logsum ? parts * size : 0, execution);
    kernel(pairs.m * ceil_div(b, target_tile) * parts, total.data(), maximum.data());
    const int64_t blocks = ceil_div(size, kCombineThreads);
    if constexpr (reduction == Reduction::sum)
      launch(combine_sums_kernel<Out>, blocks, kCombineThreads, 0, execution, size, parts,
             static_cast<const double*>(total.data()), out);
    else
      launch(combine_logsums_kernel<T, Out>, blocks, kCombineThreads, 0, execution, pairs,
             static_cast<const double*>(total.data()), static_cast<const double*>(maximum.data()),
             out);
  };
  if (pairs.k > kSmallDims) {
    // Refining in a wide slice takes the shared memory of float64.
    const size_t shared = pairs.precision == nullptr ? kSumsShared<T> : kSumsShared<double>;
    int64_t parts = parts_for(pairs.m, b, kTile, pairs.source.size, kTile, execution);
    if constexpr (sizeof(T) == sizeof(float))
      if (pairs.measured != nullptr) parts = parts_of_product_sums(pairs, execution);
    run(parts, kTile, [&](int64_t blocks, double* total, double* maximum) {
      if constexpr (sizeof(T) == sizeof(float))
        if (pairs.measured != nullptr)
          launch_product_sums<reduction>(pairs, total, maximum, execution);
      launch(tile_sums_kernel<T, reduction>, blocks, kTileThreads, shared, execution, pairs, total,
             maximum);
    });
    return;
  }
  with_small_dims(pairs.k, [&](auto dims) {
    constexpr int K = decltype(dims)::value, R = targets_of_thread<T, K>();
    constexpr int64_t tile = R * kSmallThreads;
    run(parts_for(pairs.m, b, tile, pairs.source.size, kSmallThreads, execution), tile,
        [&](int64_t blocks, double* total, double* maximum) {
          launch(small_sums_kernel<T, K, R, reduction>, blocks, kSmallThreads, 0, execution, pairs,
                 total, maximum);
        });
  });
}

// reference [m, targets] of pairs that may be computed by products.
template <class T>
void launch_reference(Pairs<T> pairs, double* reference, Measured* measured,
                      const Execution& execution) {
  static_assert(sizeof(T) == sizeof(float));
  const int64_t size = pairs.m * pairs.target.size;
  pairs.parts = parts_of_product_sums(pairs, execution);
  Workspace<double> total(pairs.parts * size, execution), maximum(pairs.parts * size, execution);
  launch_product_sums<Reduction::logsum>(pairs, total.data(), maximum.data(), execution);
  launch(reference_kernel<T>, pairs.m, kReferenceThreads, 0, execution, pairs,
         static_cast<const double*>(total.data()), static_cast<const double*>(maximum.data()),
         reference, measured);
}

// The gradients in the targets: in their points, and in their factor or log weight. `far` is the
// source as slices by differences take it, if not as the others do.
template <class T>
void launch_pulls(Pairs<T> pairs, T* grad_points, T* grad_factor, const Execution& execution,
                  const Side<T>* far = nullptr) {
  if (grad_points == nullptr && grad_factor == nullptr) return;
  const int64_t b = pairs.target.size, size = pairs.m * b * (pairs.k + 1);
  const auto run = [&](int64_t parts, int64_t target_tile, auto&& kernel) {
    pairs.parts = parts;
    Workspace<T> pull(parts * size, execution);
    kernel(pairs.m * ceil_div(b, target_tile) * parts, pull.data());
    launch(combine_pulls_kernel<T>, ceil_div(pairs.m * b, kCombineThreads / kWarp), kCombineThreads,
           0, execution, pairs, static_cast<const T*>(pull.data()), grad_points, grad_factor);
  };
  if (pairs.k > kSmallDims) {
    const size_t shared = pairs.precision == nullptr ? kPullsShared<T> : kPullsShared<double>;
    int64_t parts = parts_for(pairs.m, b, kTile, pairs.source.size, kTile, execution);
    if constexpr (sizeof(T) == sizeof(float))
      if (pairs.measured != nullptr) parts = parts_of_product_pulls(pairs, execution);
    run(parts, kTile, [&](int64_t blocks, T* pull) {
      if constexpr (sizeof(T) == sizeof(float))
        if (pairs.measured != nullptr) launch_product_pulls(pairs, pull, execution);
      if (far != nullptr) pairs.source = *far;
      launch(tile_pulls_kernel<T>, blocks, kTileThreads, shared, execution, pairs, pull);
    });
    return;
  }
  const bool shifted = has_shift(pairs.target) || has_shift(pairs.source);
  with_small_dims(pairs.k, [&](auto dims) {
    constexpr int K = decltype(dims)::value, R = targets_of_thread<T, K>();
    constexpr int64_t tile = R * kSmallThreads;
    run(parts_for(pairs.m, b, tile, pairs.source.size, kSmallThreads, execution), tile,
        [&](int64_t blocks, T* pull) {
          if (shifted)
            launch(small_pulls_kernel<T, K, R, true>, blocks, kSmallThreads, 0, execution, pairs,
                   pull);
          else
            launch(small_pulls_kernel<T, K, R, false>, blocks, kSmallThreads, 0, execution, pairs,
                   pull);
        });
  });
}

}  // namespace dpslice::cuda
