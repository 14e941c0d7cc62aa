// Log sums of Gaussian kernels and their gradients. The loops over pairs are in pairs.cuh.
//
// L_i = log sum_j exp(l_j) K_ij. With the shares p_ij = exp(l_j + log K_ij - L_i), which add up to
// 1 over j: grad_x_i = g_i sum_j p_ij (y_j - x_i) / h^2; grad_y_j = sum_i g_i p_ij (x_i - y_j) /
// h^2; grad_l_j = sum_i g_i p_ij. Backward computes the shares again from the saved L.
#include "kernels.h"
#include "pairs.cuh"

namespace dpslice::cuda {
namespace {

constexpr int kPrecisionThreads = 256;

// One block for each slice: the logsumexp in float64, and how exactly the slice must be computed.
__global__ void __launch_bounds__(kPrecisionThreads)
    precision_kernel(int64_t b, const float* logsumexp, double* wide, int* precision) {
  __shared__ float scratch[kPrecisionThreads / kWarp];
  const int64_t first = static_cast<int64_t>(blockIdx.x) * b;
  float largest = 0;
  for (int64_t i = threadIdx.x; i < b; i += kPrecisionThreads) {
    const float value = logsumexp[first + i], size = fabsf(value);
    wide[first + i] = static_cast<double>(value);
    largest = size > largest && size < INFINITY ? size : largest;  // -inf: a row without weight
  }
  largest = block_max(largest, scratch);
  if (threadIdx.x == 0)
    precision[blockIdx.x] =
        largest > kWideLogsumexp ? kWide : (largest > kCoarseLogsumexp ? kRefined : kNarrow);
}

template <class T>
void launch_gradients(const LogsumexpVjpArgs<T>& args, const double* logsumexp,
                      const int* precision, const Execution& execution) {
  const Side<T> x{args.x, args.b, nullptr, logsumexp, args.grad};
  const Side<T> y{args.y, args.c, args.log_weights, nullptr, nullptr};
  launch_pulls(Pairs<T>{args.m, args.k, x, y, args.bandwidth, precision, 1}, args.grad_x,
               static_cast<T*>(nullptr), execution);
  launch_pulls(Pairs<T>{args.m, args.k, y, x, args.bandwidth, precision, 1}, args.grad_y,
               args.grad_log_weights, execution);
}

}  // namespace

template <class T>
void logsumexp(const LogsumexpArgs<T>& args, const Execution& execution) {
  const Side<T> x{args.x, args.b, nullptr, nullptr, nullptr};
  const Side<T> y{args.y, args.c, args.log_weights, nullptr, nullptr};
  launch_sums<T, Reduction::logsum>(Pairs<T>{args.m, args.k, x, y, args.bandwidth, nullptr, 1},
                                    args.out, execution);
}

// In float32 the last place of a large logsumexp is too coarse for the shares that it normalises:
// those slices are found on the device, and only there is it computed again.
template <class T>
void logsumexp_vjp(const LogsumexpVjpArgs<T>& args, const Execution& execution) {
  if constexpr (sizeof(T) == sizeof(double)) {
    launch_gradients(args, args.logsumexp, nullptr, execution);
  } else {
    Workspace<double> wide(args.m * args.b, execution);
    Workspace<int> precision(args.m, execution);
    launch(precision_kernel, args.m, kPrecisionThreads, 0, execution, args.b, args.logsumexp,
           wide.data(), precision.data());
    const Side<T> x{args.x, args.b, nullptr, nullptr, nullptr};
    const Side<T> y{args.y, args.c, args.log_weights, nullptr, nullptr};
    launch_sums<T, Reduction::logsum>(
        Pairs<T>{args.m, args.k, x, y, args.bandwidth, precision.data(), 1}, wide.data(),
        execution);
    launch_gradients(args, wide.data(), precision.data(), execution);
  }
}

DPSLICE_CUDA_INSTANTIATE(logsumexp, LogsumexpArgs)
DPSLICE_CUDA_INSTANTIATE(logsumexp_vjp, LogsumexpVjpArgs)

}  // namespace dpslice::cuda
