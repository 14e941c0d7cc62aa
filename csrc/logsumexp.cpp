// Log sums of Gaussian kernels and their gradients. The loops over pairs are in gaussian_pairs.h.
//
// L_i = log sum_j exp(l_j) K_ij. With the shares p_ij = exp(l_j + log K_ij - L_i), which add up to 1
// over j: grad_x_i = g_i sum_j p_ij (y_j - x_i) / h^2; grad_y_j = sum_i g_i p_ij (x_i - y_j) / h^2;
// grad_l_j = sum_i g_i p_ij. Backward computes the shares again from the saved L.
#include "logsumexp.h"

#include "gaussian_pairs.h"
#include "pair_gradients.h"

namespace dpslice::DPSLICE_ISA {

template <class T>
void logsumexp(const LogsumexpArgs<T>& args) {
  launch_forward<T, Reduction::logsum>(args, args.log_weights, nullptr, args.out,
                                       [](int64_t) { return true; });
}

template <class T>
void logsumexp_vjp(const LogsumexpVjpArgs<T>& args) {
  // Minus L, in float64: of slices where L is so large that its last place matters, from scratch.
  Buffer<double> shift(args.m * args.b);
  Buffer<bool> coarse(args.m);
  for (int64_t s = 0; s < args.m; ++s) {
    coarse[s] = false;
    for (int64_t i = s * args.b; i < (s + 1) * args.b; ++i) {
      const double value = args.logsumexp[i];
      shift[i] = value;
      const bool finite = value - value == 0;
      if (sizeof(T) == 4 && finite && (value < -kCoarseLogsumexp || value > kCoarseLogsumexp))
        coarse[s] = true;
    }
  }
  if constexpr (sizeof(T) == 4)
    launch_forward<T, Reduction::logsum>(args, args.log_weights, nullptr, shift.data(),
                                         [&](int64_t s) { return coarse[s]; });
  for (int64_t i = 0; i < args.m * args.b; ++i) shift[i] = -shift[i];

  launch_gradients(PairGradients<T>{args.m, args.b, args.c, args.k, args.x, args.y, args.bandwidth,
                                    args.log_weights, nullptr, shift.data(), args.grad, args.grad_x,
                                    args.grad_y, args.grad_log_weights});
}

DPSLICE_INSTANTIATE(logsumexp, LogsumexpArgs)
DPSLICE_INSTANTIATE(logsumexp_vjp, LogsumexpVjpArgs)

}  // namespace dpslice::DPSLICE_ISA
