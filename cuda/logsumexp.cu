// Log sums of Gaussian kernels and their gradients. The loops over pairs are in pair_sums.cuh.
//
// L_i = log sum_j exp(l_j) K_ij. With the shares p_ij = exp(l_j + log K_ij - L_i), which add up to
// 1 over j: grad_x_i = g_i sum_j p_ij (y_j - x_i) / h^2; grad_y_j = sum_i g_i p_ij (x_i - y_j) /
// h^2; grad_l_j = sum_i g_i p_ij. Backward computes the shares again from the saved L.
#include "kernels.h"
#include "pair_sums.cuh"

namespace dpslice::cuda {
namespace {

constexpr int kPrecisionThreads = 1024;

// What products add to the exponents of a row is a float32: up to here its error is below 2e-5.
constexpr float kMostShift = 512;

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
  if (products && by_differences)
    measured[slice].norm[0] = bits_as<unsigned>(INFINITY);  // out of the products' reach from here
}

template <class T>
void launch_gradients(const LogsumexpVjpArgs<T>& args, const Problem<T>& problem,
                      const int* precision, const Execution& execution) {
  launch_pulls(problem.pairs(precision), args.grad_x, static_cast<T*>(nullptr), execution);
  launch_pulls(problem.reversed(precision), args.grad_y, args.grad_log_weights, execution);
}

}  // namespace

template <class T>
void logsumexp(const LogsumexpArgs<T>& args, const Execution& execution) {
  Side<T> y = make_side(args.y, args.c);
  y.log_weight = args.log_weights;
  const Problem<T> problem(args.m, args.k, make_side(args.x, args.b), y, args.bandwidth, false,
                           false, execution);
  launch_sums<T, Reduction::logsum>(problem.pairs(), args.out, execution);
}

// In float32 the last place of a large logsumexp is too coarse for the shares that it normalises:
// those slices are found on the device, and only there is it computed again.
template <class T>
void logsumexp_vjp(const LogsumexpVjpArgs<T>& args, const Execution& execution) {
  Side<T> y = make_side(args.y, args.c);
  y.log_weight = args.log_weights;
  const bool need_y = args.grad_y != nullptr || args.grad_log_weights != nullptr;
  Problem<T> problem(args.m, args.k, make_side(args.x, args.b, args.grad), y, args.bandwidth,
                     need_y, args.grad_x != nullptr, execution);
  if constexpr (sizeof(T) == sizeof(double)) {
    problem.set_logsumexp(args.logsumexp);
    launch_gradients(args, problem, nullptr, execution);
  } else {
    Workspace<double> wide(args.m * args.b, execution);
    Workspace<int> precision(args.m, execution);
    launch(precision_kernel, args.m, kPrecisionThreads, 0, execution, problem.pairs(),
           args.logsumexp, wide.data(), precision.data(), problem.measured());
    launch_sums<T, Reduction::logsum>(problem.pairs(precision.data()), wide.data(), execution);
    problem.set_logsumexp(wide.data());
    launch_gradients(args, problem, precision.data(), execution);
  }
}

DPSLICE_CUDA_INSTANTIATE(logsumexp, LogsumexpArgs)
DPSLICE_CUDA_INSTANTIATE(logsumexp_vjp, LogsumexpVjpArgs)

}  // namespace dpslice::cuda
