// Gaussian kernel sums and their gradients. The loops over pairs are in gaussian_pairs.h.
//
// out_i = sum_j w_j K_ij;  grad_x_i = g_i sum_j w_j K_ij (y_j - x_i) / h^2;
// grad_y_j = w_j sum_i g_i K_ij (x_i - y_j) / h^2;  grad_w_j = sum_i g_i K_ij.
#include "kernel_sum.h"

#include "gaussian_pairs.h"
#include "pair_gradients.h"

namespace dpslice::DPSLICE_ISA {

template <class T>
void kernel_sum(const KernelSumArgs<T>& args) {
  launch_sums<T, Reduction::sum>(PairSums<T>{args.m, args.b, args.c, args.k, args.x, args.y,
                                             args.bandwidth, nullptr, args.weights, nullptr,
                                             args.out, nullptr});
}

template <class T>
void kernel_sum_vjp(const KernelSumVjpArgs<T>& args) {
  launch_gradients(PairGradients<T>{args.m, args.b, args.c, args.k, args.x, args.y, args.bandwidth,
                                    nullptr, args.weights, nullptr, args.grad, args.grad_x,
                                    args.grad_y, args.grad_weights, nullptr});
}

template <class T>
void kernel_sum_total(const KernelSumTotalArgs<T>& args) {
  launch_totals(PairGradients<T>{args.m, args.b, args.c, args.k, args.x, args.y, args.bandwidth,
                                 nullptr, args.weights, nullptr, args.row_weights, nullptr,
                                 args.grad_y, args.grad_weights, nullptr},
                false, args.out);
}

DPSLICE_INSTANTIATE(kernel_sum, KernelSumArgs)
DPSLICE_INSTANTIATE(kernel_sum_total, KernelSumTotalArgs)
DPSLICE_INSTANTIATE(kernel_sum_vjp, KernelSumVjpArgs)

}  // namespace dpslice::DPSLICE_ISA
