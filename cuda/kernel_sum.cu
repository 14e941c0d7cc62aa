// Gaussian kernel sums and their gradients. The loops over pairs are in pairs.cuh.
//
// out_i = sum_j w_j K_ij;  grad_x_i = g_i sum_j w_j K_ij (y_j - x_i) / h^2;
// grad_y_j = w_j sum_i g_i K_ij (x_i - y_j) / h^2;  grad_w_j = sum_i g_i K_ij.
#include "kernels.h"
#include "pairs.cuh"

namespace dpslice::cuda {

template <class T>
void kernel_sum(const KernelSumArgs<T>& args, const Execution& execution) {
  const Side<T> x{args.x, args.b, nullptr, nullptr, nullptr};
  const Side<T> y{args.y, args.c, nullptr, nullptr, args.weights};
  launch_sums<T, Reduction::sum>(Pairs<T>{args.m, args.k, x, y, args.bandwidth, nullptr, 1},
                                 args.out, execution);
}

template <class T>
void kernel_sum_vjp(const KernelSumVjpArgs<T>& args, const Execution& execution) {
  const Side<T> x{args.x, args.b, nullptr, nullptr, args.grad};
  const Side<T> y{args.y, args.c, nullptr, nullptr, args.weights};
  launch_pulls(Pairs<T>{args.m, args.k, x, y, args.bandwidth, nullptr, 1}, args.grad_x,
               static_cast<T*>(nullptr), execution);
  launch_pulls(Pairs<T>{args.m, args.k, y, x, args.bandwidth, nullptr, 1}, args.grad_y,
               args.grad_weights, execution);
}

DPSLICE_CUDA_INSTANTIATE(kernel_sum, KernelSumArgs)
DPSLICE_CUDA_INSTANTIATE(kernel_sum_vjp, KernelSumVjpArgs)

}  // namespace dpslice::cuda
