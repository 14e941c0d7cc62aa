// Gaussian kernel sums and their gradients. The loops over pairs are in pair_sums.cuh.
//
// out_i = sum_j w_j K_ij;  grad_x_i = g_i sum_j w_j K_ij (y_j - x_i) / h^2;
// grad_y_j = w_j sum_i g_i K_ij (x_i - y_j) / h^2;  grad_w_j = sum_i g_i K_ij.
#include "kernels.h"
#include "pair_sums.cuh"

namespace dpslice::cuda {

template <class T>
void kernel_sum(const KernelSumArgs<T>& args, const Execution& execution) {
  const Problem<T> problem(args.m, args.k, make_side(args.x, args.b),
                           make_side(args.y, args.c, args.weights), args.bandwidth, false, false,
                           execution);
  launch_sums<T, Reduction::sum>(problem.pairs(), args.out, execution);
}

// By differences: kernels are not normalised as shares are, and those of a whole slice may be
// smaller than products of halves can hold.
template <class T>
void kernel_sum_vjp(const KernelSumVjpArgs<T>& args, const Execution& execution) {
  const Side<T> x = make_side(args.x, args.b, args.grad);
  const Side<T> y = make_side(args.y, args.c, args.weights);
  Pairs<T> pairs{};
  pairs.m = args.m;
  pairs.k = args.k;
  pairs.bandwidth = args.bandwidth;
  pairs.target = x, pairs.source = y;
  launch_pulls(pairs, args.grad_x, static_cast<T*>(nullptr), execution);
  pairs.target = y, pairs.source = x;
  launch_pulls(pairs, args.grad_y, args.grad_weights, execution);
}

DPSLICE_CUDA_INSTANTIATE(kernel_sum, KernelSumArgs)
DPSLICE_CUDA_INSTANTIATE(kernel_sum_vjp, KernelSumVjpArgs)

}  // namespace dpslice::cuda
