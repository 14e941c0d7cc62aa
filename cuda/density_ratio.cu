// Regularised kernel density ratio of each slice: Gram matrix, Cholesky, solves, gradients.
//
// One block works on one slice from the points to the gradients. Its factor, a packed lower
// triangle, lies in shared memory if it fits there, else in global memory: then a fixed number of
// blocks walk along the slices, so that memory does not grow with m. The cross kernel with the c
// synthetic rows is streamed, never stored. Everything is float64 inside, whatever the dtype of the
// arrays, for the reason that csrc/density_ratio.cpp gives.
//
// A slice whose matrix is not positive definite gets NaN for its results, and the least such slice
// is left in failed_slice (device memory): reading it is the caller's choice, as it takes a
// synchronisation.
#include <cfloat>
#include <cmath>

#include "common/divergence.h"
#include "density_ratio.h"
#include "kernels.h"
#include "launch.h"

namespace dpslice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kPanel = 16;     // columns factored at a time
constexpr int kUpdate = 4;     // the trailing matrix is updated in squares of this many rows
constexpr int kPullChunk = 4;  // coordinates of a gradient in registers

// ---------------------------------------------------------------------------------------- points

// Coordinates in units where a length near the bandwidth is 1.
template <class T>
__device__ inline double squared_distance(const T* u, const T* v, int64_t k, double scale) {
  double squared = 0;
  for (int64_t t = 0; t < k; ++t) {
    const double difference = (static_cast<double>(v[t]) - static_cast<double>(u[t])) * scale;
    squared += difference * difference;
  }
  return squared;
}

struct Kernel {
  double scale;      // a power of two: multiplying by it is exact
  double gram;       // -1 / (2 g^2): the exponent is this times a squared distance
  double cross;      // -1 / (2 h^2), h^2 = g^2 + sigma^2
  double amplitude;  // (b/c) (g^2 / h^2)^(k/2), which multiplies the cross kernel
};

// `unit` is the bandwidth that sets the scale.
template <class T>
__device__ inline Kernel make_kernel(T unit, T bandwidth, double sigma, int64_t b, int64_t c,
                                     int64_t k) {
  Kernel kernel;
  kernel.scale = ldexp(1.0, -ilogb(unit));
  const double g = static_cast<double>(bandwidth) * kernel.scale;
  // sigma / g, not squares of each: neither overflows nor loses a small sigma.
  const double noise = sigma * kernel.scale / g;
  kernel.gram = -0.5 / (g * g);
  kernel.cross = kernel.gram / (1 + noise * noise);
  kernel.amplitude = static_cast<double>(b) / static_cast<double>(c) *
                     exp(-0.5 * static_cast<double>(k) * log1p(noise * noise));
  return kernel;
}

// -------------------------------------------------------------------------------------- triangle

__host__ __device__ constexpr int64_t packed(int64_t order) { return order * (order + 1) / 2; }

// Row i of the packed lower triangle.
__device__ inline double* row_of(double* factor, int64_t i) { return factor + packed(i); }
__device__ inline const double* row_of(const double* factor, int64_t i) {
  return factor + packed(i);
}

__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }

template <class T>
__device__ inline void fill_gram(const T* q, int64_t b, int64_t k, const Kernel& kernel,
                                 double ridge, double* factor) {
  for (int64_t i = warp_index(); i < b; i += kWarps) {
    double* const row = row_of(factor, i);
    for (int64_t j = lane_index(); j <= i; j += kWarp)
      row[j] = i == j ? 1 + ridge
                      : exp(kernel.gram * squared_distance(q + i * k, q + j * k, k, kernel.scale));
  }
  __syncthreads();
}

// The panel's own square, by one warp.
__device__ inline bool factor_square(double* factor, int64_t first, int width, double smallest) {
  const int lane = lane_index();
  bool good = true;
  for (int j = 0; j < width; ++j) {
    double* const pivot_row = row_of(factor, first + j) + first;
    const double pivot = pivot_row[j];
    good = good && pivot > smallest;
    __syncwarp();
    const double root = sqrt(pivot);
    if (lane == j) pivot_row[j] = root;
    if (lane > j && lane < width) row_of(factor, first + lane)[first + j] /= root;
    __syncwarp();
    if (lane > j && lane < width) {
      double* const row = row_of(factor, first + lane) + first;
      for (int t = j + 1; t <= lane; ++t) row[t] -= row[j] * row_of(factor, first + t)[first + j];
    }
    __syncwarp();
  }
  return good;
}

// Rows from `begin` on: factor - panel panel^T, in squares of kUpdate x kUpdate.
__device__ inline void update_trailing(double* factor, int64_t order, int64_t first, int width,
                                       int64_t begin) {
  const int64_t squares = ceil_div(order - begin, kUpdate);
  for (int64_t at = threadIdx.x; at < packed(squares); at += kThreads) {
    // The row of squares from its place in the packed order; the root may be off by one.
    int64_t tile = static_cast<int64_t>((sqrt(8.0 * static_cast<double>(at) + 1.0) - 1.0) * 0.5);
    while (packed(tile) > at) --tile;
    while (packed(tile + 1) <= at) ++tile;
    const int64_t i0 = begin + tile * kUpdate, j0 = begin + (at - packed(tile)) * kUpdate;
    double sum[kUpdate][kUpdate] = {};
    for (int t = 0; t < width; ++t) {
      double u[kUpdate], v[kUpdate];
#pragma unroll
      for (int r = 0; r < kUpdate; ++r) {
        u[r] = i0 + r < order ? row_of(factor, i0 + r)[first + t] : 0.0;
        v[r] = j0 + r < order ? row_of(factor, j0 + r)[first + t] : 0.0;
      }
#pragma unroll
      for (int r = 0; r < kUpdate; ++r)
#pragma unroll
        for (int s = 0; s < kUpdate; ++s) sum[r][s] += u[r] * v[s];
    }
#pragma unroll
    for (int r = 0; r < kUpdate; ++r)
#pragma unroll
      for (int s = 0; s < kUpdate; ++s)
        if (i0 + r < order && j0 + s <= i0 + r) row_of(factor, i0 + r)[j0 + s] -= sum[r][s];
  }
}

// factor factor^T = matrix, in place. False, for all threads, if a pivot is not above `smallest`.
__device__ inline bool cholesky(double* factor, int64_t order, double smallest) {
  __shared__ int failed;
  if (threadIdx.x == 0) failed = 0;
  __syncthreads();
  for (int64_t first = 0; first < order; first += kPanel) {
    const int width = order - first < kPanel ? static_cast<int>(order - first) : kPanel;
    if (warp_index() == 0) {
      const bool good = factor_square(factor, first, width, smallest);
      if (lane_index() == 0 && !good) failed = 1;
    }
    __syncthreads();
    if (failed != 0) return false;
    const int64_t begin = first + width;
    for (int64_t i = begin + threadIdx.x; i < order; i += kThreads) {
      double* const row = row_of(factor, i) + first;
      double solved[kPanel];
#pragma unroll
      for (int j = 0; j < kPanel; ++j) {
        if (j >= width) break;
        const double* const above = row_of(factor, first + j) + first;
        double rest = row[j];
#pragma unroll
        for (int t = 0; t < j; ++t) rest -= solved[t] * above[t];
        solved[j] = rest / above[j];
        row[j] = solved[j];
      }
    }
    __syncthreads();
    update_trailing(factor, order, first, width, begin);
    __syncthreads();
  }
  return true;
}

// values = (factor factor^T)^-1 values, a warp's width of unknowns at a time.
__device__ inline void solve(const double* factor, int64_t order, double* values) {
  const int lane = lane_index();
  for (int64_t first = 0; first < order; first += kWarp) {
    const int width = order - first < kWarp ? static_cast<int>(order - first) : kWarp;
    if (warp_index() == 0) {
      double value = lane < width ? values[first + lane] : 0.0;
      for (int j = 0; j < width; ++j) {
        const double solved =
            __shfl_sync(kWholeWarp, value, j) / row_of(factor, first + j)[first + j];
        if (lane == j) value = solved;
        if (lane > j && lane < width) value -= row_of(factor, first + lane)[first + j] * solved;
      }
      if (lane < width) values[first + lane] = value;
    }
    __syncthreads();
    for (int64_t i = first + width + threadIdx.x; i < order; i += kThreads) {
      const double* const row = row_of(factor, i) + first;
      double sum = 0;
      for (int j = 0; j < width; ++j) sum += row[j] * values[first + j];
      values[i] -= sum;
    }
    __syncthreads();
  }
  for (int64_t first = (order - 1) / kWarp * kWarp; first >= 0; first -= kWarp) {
    const int width = order - first < kWarp ? static_cast<int>(order - first) : kWarp;
    if (warp_index() == 0) {
      double value = lane < width ? values[first + lane] : 0.0;
      for (int j = width - 1; j >= 0; --j) {
        const double* const row = row_of(factor, first + j) + first;
        const double solved = __shfl_sync(kWholeWarp, value, j) / row[j];
        if (lane == j) value = solved;
        if (lane < j) value -= row[lane] * solved;
      }
      if (lane < width) values[first + lane] = value;
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < first; i += kThreads) {
      double sum = 0;
      for (int j = 0; j < width; ++j) sum += row_of(factor, first + j)[i] * values[first + j];
      values[i] -= sum;
    }
    __syncthreads();
  }
}

// ------------------------------------------------------------------------------ sums over points

// sums[i] = amplitude sum_j exp(cross |q_i - p_j|^2); a warp for each i.
template <class T>
__device__ inline void cross_sums(const T* q, int64_t b, const T* p, int64_t c, int64_t k,
                                  const Kernel& kernel, double* sums) {
  for (int64_t i = warp_index(); i < b; i += kWarps) {
    double sum = 0;
    for (int64_t j = lane_index(); j < c; j += kWarp)
      sum += exp(kernel.cross * squared_distance(q + i * k, p + j * k, k, kernel.scale));
    sum = lane_sum<kWarp>(sum);
    if (lane_index() == 0) sums[i] = kernel.amplitude * sum;
  }
  __syncthreads();
}

// What sources do to one target: sum_j weight(j, |source_j - target|^2) (source_j - target)[t], for
// coordinates t0 ... t0 + kPullChunk - 1, in scaled units. One warp; all lanes get the sums.
template <class T, class Weight>
__device__ inline void add_pull(const T* target, const T* sources, int64_t size, int64_t k,
                                int64_t t0, double scale, Weight&& weight, double* pull) {
  double sum[kPullChunk] = {};
  for (int64_t j = lane_index(); j < size; j += kWarp) {
    const T* const source = sources + j * k;
    const double strength = weight(j, squared_distance(target, source, k, scale));
#pragma unroll
    for (int t = 0; t < kPullChunk; ++t)
      if (t0 + t < k)
        sum[t] += strength *
                  (static_cast<double>(source[t0 + t]) - static_cast<double>(target[t0 + t])) *
                  scale;
  }
#pragma unroll
  for (int t = 0; t < kPullChunk; ++t) pull[t] += lane_sum<kWarp>(sum[t]);
}

template <class T>
__device__ inline void write_pull(const double* pull, int64_t k, int64_t t0, double scale, T* to) {
  const int t = lane_index();
  if (t >= kPullChunk || t0 + t >= k) return;
  double value = 0;
#pragma unroll
  for (int u = 0; u < kPullChunk; ++u) value = u == t ? pull[u] : value;
  to[t0 + t] = static_cast<T>(scale * value);
}

// ------------------------------------------------------------------------------------ the blocks

// Float64 numbers that one block needs: factors, then vectors of length b.
__host__ __device__ constexpr int64_t storage(int64_t b, int64_t bandwidths, int64_t vectors) {
  return bandwidths * packed(b) + vectors * b;
}

// `global` is null where the storage is in shared memory.
__device__ inline double* block_storage(double* global, int64_t numbers) {
  return global == nullptr ? dynamic_shared<double>()
                           : global + static_cast<int64_t>(blockIdx.x) * numbers;
}

__device__ inline double smallest_pivot(int64_t b, double ridge) {
  return DBL_EPSILON * static_cast<double>(b) * (1 + ridge);
}

// failed_slice starts as -1, which as an unsigned number is the largest.
__device__ inline void report_failure(int64_t* failed_slice, int64_t slice) {
  if (threadIdx.x == 0)
    atomicMin(reinterpret_cast<unsigned long long*>(failed_slice),
              static_cast<unsigned long long>(slice));
}

template <class T>
__device__ inline void fill_nan(T* to, int64_t size) {
  if (to == nullptr) return;
  for (int64_t i = threadIdx.x; i < size; i += kThreads) to[i] = static_cast<T>(NAN);
}

template <class T>
__global__ void __launch_bounds__(kThreads) ratio_kernel(DensityRatioArgs<T> args, double* global) {
  const int64_t b = args.b, c = args.c, k = args.k;
  double* const factor = block_storage(global, storage(b, 1, 1));
  double* const sums = factor + packed(b);
  for (int64_t s = blockIdx.x; s < args.m; s += gridDim.x) {
    const T* const q = args.q + s * b * k;
    const Kernel kernel = make_kernel(args.bandwidth[s], args.bandwidth[s], args.sigma, b, c, k);
    fill_gram(q, b, k, kernel, args.ridge, factor);
    cross_sums(q, b, args.p + s * c * k, c, k, kernel, sums);
    if (cholesky(factor, b, smallest_pivot(b, args.ridge))) {
      solve(factor, b, sums);
      for (int64_t i = threadIdx.x; i < b; i += kThreads)
        args.ratio[s * b + i] = static_cast<T>(sums[i]);
    } else {
      report_failure(args.failed_slice, s);
      fill_nan(args.ratio + s * b, b);
    }
    __syncthreads();
  }
}

// With lambda = (K + ridge I)^-1 grad: d(grad . r) = lambda . dw - lambda . dK r.
template <class T>
__global__ void __launch_bounds__(kThreads)
    ratio_vjp_kernel(DensityRatioVjpArgs<T> args, double* global) {
  const int64_t b = args.b, c = args.c, k = args.k;
  double* const factor = block_storage(global, storage(b, 1, 1));
  double* const lambda = factor + packed(b);
  for (int64_t s = blockIdx.x; s < args.m; s += gridDim.x) {
    const T* const q = args.q + s * b * k;
    const T* const p = args.p + s * c * k;
    const T* const ratio = args.ratio + s * b;
    T* const grad_q = args.grad_q == nullptr ? nullptr : args.grad_q + s * b * k;
    T* const grad_p = args.grad_p == nullptr ? nullptr : args.grad_p + s * c * k;
    const Kernel kernel = make_kernel(args.bandwidth[s], args.bandwidth[s], args.sigma, b, c, k);
    fill_gram(q, b, k, kernel, args.ridge, factor);
    for (int64_t i = threadIdx.x; i < b; i += kThreads)
      lambda[i] = static_cast<double>(args.grad[s * b + i]);
    if (!cholesky(factor, b, smallest_pivot(b, args.ridge))) {
      report_failure(args.failed_slice, s);
      fill_nan(grad_q, b * k);
      fill_nan(grad_p, c * k);
      __syncthreads();
      continue;
    }
    solve(factor, b, lambda);
    const double strength = -2 * kernel.cross * kernel.amplitude;  // amplitude / h^2
    if (grad_p != nullptr)
      for (int64_t j = warp_index(); j < c; j += kWarps)
        for (int64_t t0 = 0; t0 < k; t0 += kPullChunk) {
          double pull[kPullChunk] = {};
          add_pull(
              p + j * k, q, b, k, t0, kernel.scale,
              [&](int64_t i, double squared) {
                return strength * lambda[i] * exp(kernel.cross * squared);
              },
              pull);
          write_pull(pull, k, t0, kernel.scale, grad_p + j * k);
        }
    if (grad_q != nullptr)
      for (int64_t i = warp_index(); i < b; i += kWarps)
        for (int64_t t0 = 0; t0 < k; t0 += kPullChunk) {
          const double own_lambda = lambda[i], own_ratio = static_cast<double>(ratio[i]);
          double pull[kPullChunk] = {};
          add_pull(
              q + i * k, p, c, k, t0, kernel.scale,
              [&](int64_t, double squared) {
                return strength * own_lambda * exp(kernel.cross * squared);
              },
              pull);
          add_pull(
              q + i * k, q, b, k, t0, kernel.scale,
              [&](int64_t l, double squared) {
                const double both =
                    own_lambda * static_cast<double>(ratio[l]) + lambda[l] * own_ratio;
                return 2 * kernel.gram * both * exp(kernel.gram * squared);  // -1 / g^2
              },
              pull);
          write_pull(pull, k, t0, kernel.scale, grad_q + i * k);
        }
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    ratio_divergence_kernel(DensityRatioDivergenceArgs<T> args, double* global) {
  __shared__ double scratch[kWarps];
  const int64_t b = args.b, c = args.c, k = args.k, bandwidths = args.bandwidths;
  double* const factors = block_storage(global, storage(b, bandwidths, bandwidths));
  double* const sums = factors + bandwidths * packed(b);  // [bandwidths, b]: ratios, then lambda
  for (int64_t s = blockIdx.x; s < args.m; s += gridDim.x) {
    const T* const q = args.q + s * b * k;
    const T* const p = args.p + s * c * k;
    T* const grad_p = args.grad_p == nullptr ? nullptr : args.grad_p + s * c * k;
    const auto kernel_of = [&](int64_t g) {
      return make_kernel(args.bandwidth[s], args.bandwidth[g * args.m + s], args.sigma, b, c, k);
    };
    bool good = true;
    for (int64_t g = 0; g < bandwidths && good; ++g) {
      double* const factor = factors + g * packed(b);
      const Kernel kernel = kernel_of(g);
      fill_gram(q, b, k, kernel, args.ridge, factor);
      cross_sums(q, b, p, c, k, kernel, sums + g * b);
      good = cholesky(factor, b, smallest_pivot(b, args.ridge));
      if (good) solve(factor, b, sums + g * b);
    }
    if (!good) {
      report_failure(args.failed_slice, s);
      fill_nan(args.value + s, 1);
      fill_nan(grad_p, c * k);
      __syncthreads();
      continue;
    }
    double value = 0;
    const double share = 1 / (static_cast<double>(b) * static_cast<double>(bandwidths));
    for (int64_t i = threadIdx.x; i < b; i += kThreads) {
      double ratio = 0;
      for (int64_t g = 0; g < bandwidths; ++g) ratio += sums[g * b + i];
      ratio /= static_cast<double>(bandwidths);
      const bool inside = ratio > args.r_min;
      const DivergenceAt<double> f =
          divergence_at<double>(args.divergence, args.alpha, inside ? ratio : args.r_min);
      value += f.value;
      for (int64_t g = 0; g < bandwidths; ++g)
        sums[g * b + i] = inside ? f.derivative * share : 0.0;
    }
    value = block_sum(value, scratch);
    if (threadIdx.x == 0) args.value[s] = static_cast<T>(value / static_cast<double>(b));
    if (grad_p != nullptr) {
      for (int64_t g = 0; g < bandwidths; ++g) {
        solve(factors + g * packed(b), b, sums + g * b);
        const Kernel kernel = kernel_of(g);
        const double strength = -2 * kernel.cross * kernel.amplitude;
        for (int64_t i = threadIdx.x; i < b; i += kThreads) sums[g * b + i] *= strength;
      }
      __syncthreads();
      const double scale = kernel_of(0).scale;
      for (int64_t j = warp_index(); j < c; j += kWarps)
        for (int64_t t0 = 0; t0 < k; t0 += kPullChunk) {
          double pull[kPullChunk] = {};
          for (int64_t g = 0; g < bandwidths; ++g) {
            const double cross = kernel_of(g).cross;
            add_pull(
                p + j * k, q, b, k, t0, scale,
                [&](int64_t i, double squared) { return sums[g * b + i] * exp(cross * squared); },
                pull);
          }
          write_pull(pull, k, t0, scale, grad_p + j * k);
        }
    }
    __syncthreads();
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) divergence_kernel(DivergenceArgs<T> args) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.size) return;
  const DivergenceAt<double> f =
      divergence_at<double>(args.divergence, args.alpha, static_cast<double>(args.t[i]));
  args.value[i] = static_cast<T>(f.value);
  args.derivative[i] = static_cast<T>(f.derivative);
}

__global__ void clear_failure_kernel(int64_t* failed_slice) { *failed_slice = -1; }

// Shared memory that the kernels have besides what they are given.
constexpr size_t kStaticShared = 256;
constexpr int64_t kBlocksPerMultiprocessor = 4;

template <class T, template <class> class Args>
void launch_slices(void (*kernel)(Args<T>, double*), const Args<T>& args, int64_t numbers,
                   const Execution& execution) {
  launch(clear_failure_kernel, 1, 1, 0, execution, args.failed_slice);
  const size_t bytes = static_cast<size_t>(numbers) * sizeof(double);
  if (bytes + kStaticShared <= execution.shared_limit) {
    launch(kernel, args.m, kThreads, bytes, execution, args, static_cast<double*>(nullptr));
    return;
  }
  const int64_t most = kBlocksPerMultiprocessor * execution.multiprocessors;
  const int64_t blocks = args.m < most ? args.m : most;
  Workspace<double> global(blocks * numbers, execution);
  launch(kernel, blocks, kThreads, 0, execution, args, global.data());
}

}  // namespace

template <class T>
void density_ratio(const DensityRatioArgs<T>& args, const Execution& execution) {
  launch_slices(ratio_kernel<T>, args, storage(args.b, 1, 1), execution);
}

template <class T>
void density_ratio_vjp(const DensityRatioVjpArgs<T>& args, const Execution& execution) {
  launch_slices(ratio_vjp_kernel<T>, args, storage(args.b, 1, 1), execution);
}

template <class T>
void density_ratio_divergence(const DensityRatioDivergenceArgs<T>& args,
                              const Execution& execution) {
  launch_slices(ratio_divergence_kernel<T>, args, storage(args.b, args.bandwidths, args.bandwidths),
                execution);
}

template <class T>
void divergence(const DivergenceArgs<T>& args, const Execution& execution) {
  launch(divergence_kernel<T>, ceil_div(args.size, kThreads), kThreads, 0, execution, args);
}

DPSLICE_CUDA_INSTANTIATE(density_ratio, DensityRatioArgs)
DPSLICE_CUDA_INSTANTIATE(density_ratio_vjp, DensityRatioVjpArgs)
DPSLICE_CUDA_INSTANTIATE(density_ratio_divergence, DensityRatioDivergenceArgs)
DPSLICE_CUDA_INSTANTIATE(divergence, DivergenceArgs)

}  // namespace dpslice::cuda
