// Regularised kernel density ratio of each slice: Gram matrix, Cholesky, solves, gradients.
//
// One block works on one slice from the points to the gradients. Its matrix is factored and solved
// with as cholesky.cuh tells, and the factor, like all that the block works with, lies where
// block_storage.cuh puts it. The cross kernel with the c synthetic rows is streamed, never stored.
// Everything is float64 inside, whatever the dtype of the arrays, for the reason that
// csrc/gram_solver.h gives. Factors can be kept for the gradients: the kernel of the ratio then
// leaves them in the caller's memory.
//
// A slice whose matrix is not positive definite gets NaN for its results, and the least such slice
// is left in failed_slice: reading it is the caller's choice, as it takes a synchronisation, or in
// host memory tells what is known so far.
#include <cfloat>
#include <cmath>
#include <type_traits>

#include "block_storage.cuh"
#include "cholesky.cuh"
#include "common/divergence.h"
#include "density_ratio.h"
#include "gaussian.cuh"
#include "kernels.h"
#include "launch.h"
#include "mma.cuh"

namespace dpslice::cuda {
namespace {

constexpr int kMostThreads = 256;
constexpr int kLeastBlocks = 2;  // of kMostThreads on a multiprocessor: what registers must allow
constexpr int kTargets = 2;      // of sums over points, in the registers of a lane
constexpr int kTargetLanes = 8;  // lanes with targets of their own
constexpr int kSourceLanes = kWarp / kTargetLanes;  // lanes that share targets
constexpr int kWarpTargets = kTargets * kTargetLanes;
constexpr int kPullChunk = 4;  // coordinates of a gradient in registers

static_assert(kSide % kWarpTargets == 0 && kSide % (2 * kSourceLanes) == 0);

// --------------------------------------------------------------------------------------- kernels

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

constexpr int64_t kKernelNumbers = sizeof(Kernel) / sizeof(double);

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
