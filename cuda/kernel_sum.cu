// Gaussian kernel sums and their gradients. The loops over pairs are in pair_sums.cuh.
//
// out_i = sum_j w_j K_ij;  grad_x_i = g_i sum_j w_j K_ij (y_j - x_i) / h^2;
// grad_y_j = w_j sum_i g_i K_ij (x_i - y_j) / h^2;  grad_w_j = sum_i g_i K_ij. The total over rows
// of known weights g comes with its gradients, from points that are prepared once.
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

namespace {

// By products, the kernels of each target are divided by their sum, and its gradient multiplied by
// it: those of a whole slice may be smaller than products of halves can hold.
template <class T>
void launch_gradients(Pairs<T> pairs, T* grad_points, T* grad_factor, const Execution& execution) {
  if (grad_points == nullptr && grad_factor == nullptr) return;
  if constexpr (sizeof(T) == sizeof(float))
    if (pairs.measured != nullptr) {
      Workspace<double> reference(pairs.m * pairs.target.size, execution);
      launch_reference(pairs, reference.data(), execution);
      pairs.reference = pairs.target.logsumexp = reference.data();
      launch_pulls(pairs, grad_points, grad_factor, execution);
      return;
    }
  launch_pulls(pairs, grad_points, grad_factor, execution);
}

}  // namespace

template <class T>
void kernel_sum_vjp(const KernelSumVjpArgs<T>& args, const Execution& execution) {
  const bool need_y = args.grad_y != nullptr || args.grad_weights != nullptr;
  const Problem<T> problem(args.m, args.k, make_side(args.x, args.b, args.grad),
                           make_side(args.y, args.c, args.weights), args.bandwidth, need_y,
                           args.grad_x != nullptr, execution);
  launch_gradients(problem.pairs(), args.grad_x, static_cast<T*>(nullptr), execution);
  launch_gradients(problem.reversed(), args.grad_y, args.grad_weights, execution);
}

template <class T>
void kernel_sum_total(const KernelSumTotalArgs<T>& args, const Execution& execution) {
  const Problem<T> problem(args.m, args.k, make_side(args.x, args.b, args.row_weights),
                           make_side(args.y, args.c, args.weights), args.bandwidth, true, false,
                           execution);
  launch_sums<T, Reduction::sum>(problem.pairs(), args.out, execution);
  launch_gradients(problem.reversed(), args.grad_y, args.grad_weights, execution);
}

DPSLICE_CUDA_INSTANTIATE(kernel_sum, KernelSumArgs)
DPSLICE_CUDA_INSTANTIATE(kernel_sum_total, KernelSumTotalArgs)
DPSLICE_CUDA_INSTANTIATE(kernel_sum_vjp, KernelSumVjpArgs)

}  // namespace dpslice::cuda
