// Log sums of Gaussian kernels and their gradients. The loops over pairs are in pair_sums.cuh.
//
// L_i = log sum_j exp(l_j) K_ij. With the shares p_ij = exp(l_j + log K_ij - L_i), which add up to
// 1 over j: grad_x_i = g_i sum_j p_ij (y_j - x_i) / h^2; grad_y_j = sum_i g_i p_ij (x_i - y_j) /
// h^2; grad_l_j = sum_i g_i p_ij. Backward computes the shares again from the saved L. The total
// over rows of known weights g comes with its gradients, from points that are prepared once.
#include "kernels.h"
#include "pair_sums.cuh"

namespace dpslice::cuda {
namespace {

constexpr int kPrecisionThreads = 1024;

// One block for each slice: the logsumexp in float64, and how exactly the slice must be computed.
__global__ void __launch_bounds__(kPrecisionThreads)
    precision_kernel(Pairs<float> pairs, const float* logsumexp, double* wide, int* precision,
                     Measured* measured) {
  __shared__ float scratch[kPrecisionThreads / kWarp];
  const int64_t b = pairs.target.size, slice = blockIdx.x, first = slice * b;
  const bool products = by_products(pairs, slice);
  float largest = 0, shift = 0;
  for (int64_t i = threadIdx.x; i < b; i += kPrecisionThreads) {
    const float value = logsumexp[first + i], size = fabsf(value);
    wide[first + i] = static_cast<double>(value);
    if (!(size < INFINITY)) continue;  // -inf: a row without weight
    largest = size > largest ? size : largest;
    if (!products) continue;
    // By products the exponents are not as large as the logsumexp.
    const double own = static_cast<double>(value) * kLog2E + pairs.target.norm[first + i];
    const float own_size = static_cast<float>(fabs(own));
    shift = own_size > shift ? own_size : shift;
  }
  largest = block_max(largest, scratch);
  shift = block_max(shift, scratch);
  if (threadIdx.x != 0) return;
  const bool by_differences = !products || shift > kMostShift;
  const bool is_wide = largest > kWideLogsumexp && by_differences;
  precision[slice] = is_wide ? kWide : (largest > kCoarseLogsumexp ? kRefined : kNarrow);
  if (products && by_differences) put_out_of_reach(measured[slice]);
}

// The gradients that are not null, from the log sums of the rows. In float32 the last place of a
// large one is too coarse for the shares that it normalises: those slices are found on the device,
// and only there is it computed again.
template <class T>
void launch_gradients(Problem<T>& problem, int64_t m, int64_t b, const T* logsumexp, T* grad_x,
                      T* grad_y, T* grad_log_weights, const Execution& execution) {
  const auto launch_both = [&](const int* precision) {
    launch_pulls(problem.pairs(precision), grad_x, static_cast<T*>(nullptr), execution);
    launch_pulls(problem.reversed(precision), grad_y, grad_log_weights, execution);
  };
  if constexpr (sizeof(T) == sizeof(double)) {
    problem.set_logsumexp(logsumexp);
    launch_both(nullptr);
  } else {
    Workspace<double> wide(m * b, execution);
    Workspace<int> precision(m, execution);
    launch(precision_kernel, m, kPrecisionThreads, 0, execution, problem.pairs(), logsumexp,
           wide.data(), precision.data(), problem.measured());
    launch_sums<T, Reduction::logsum>(problem.pairs(precision.data()), wide.data(), execution);
    problem.set_logsumexp(wide.data());
    launch_both(precision.data());
  }
}

template <class T>
Side<T> log_weighted_side(const T* y, int64_t c, const T* log_weights) {
  Side<T> side = make_side(y, c);
  side.log_weight = log_weights;
  return side;
}

}  // namespace

template <class T>
void logsumexp(const LogsumexpArgs<T>& args, const Execution& execution) {
  const Problem<T> problem(args.m, args.k, make_side(args.x, args.b),
                           log_weighted_side(args.y, args.c, args.log_weights), args.bandwidth,
                           false, false, execution);
  launch_sums<T, Reduction::logsum>(problem.pairs(), args.out, execution);
}

template <class T>
void logsumexp_total(const LogsumexpTotalArgs<T>& args, const Execution& execution) {
  Problem<T> problem(args.m, args.k, make_side(args.x, args.b, args.row_weights),
                     log_weighted_side(args.y, args.c, args.log_weights), args.bandwidth, true,
                     false, execution);
  launch_sums<T, Reduction::logsum>(problem.pairs(), args.out, execution);
  launch_gradients<T>(problem, args.m, args.b, args.out, nullptr, args.grad_y,
                      args.grad_log_weights, execution);
}

template <class T>
void logsumexp_vjp(const LogsumexpVjpArgs<T>& args, const Execution& execution) {
  const bool need_y = args.grad_y != nullptr || args.grad_log_weights != nullptr;
  Problem<T> problem(args.m, args.k, make_side(args.x, args.b, args.grad),
                     log_weighted_side(args.y, args.c, args.log_weights), args.bandwidth, need_y,
                     args.grad_x != nullptr, execution);
  launch_gradients(problem, args.m, args.b, args.logsumexp, args.grad_x, args.grad_y,
                   args.grad_log_weights, execution);
}

DPSLICE_CUDA_INSTANTIATE(logsumexp, LogsumexpArgs)
DPSLICE_CUDA_INSTANTIATE(logsumexp_total, LogsumexpTotalArgs)
DPSLICE_CUDA_INSTANTIATE(logsumexp_vjp, LogsumexpVjpArgs)

}  // namespace dpslice::cuda
