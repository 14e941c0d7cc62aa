// Log sums of Gaussian kernels and their gradients. The loops over pairs are in gaussian_pairs.h.
//
// L_i = log sum_j exp(l_j) K_ij. With the shares p_ij = exp(l_j + log K_ij - L_i), which add up to
// 1 over j: grad_x_i = g_i sum_j p_ij (y_j - x_i) / h^2; grad_y_j = sum_i g_i p_ij (x_i - y_j) /
// h^2; grad_l_j = sum_i g_i p_ij. Backward computes the shares again from the saved L.
#include "logsumexp.h"

#include "gaussian_pairs.h"
#include "pair_gradients.h"

namespace dpslice::DPSLICE_ISA {

template <class T>
void logsumexp(const LogsumexpArgs<T>& args) {
  launch_sums<T, Reduction::logsum>(PairSums<T>{args.m, args.b, args.c, args.k, args.x, args.y,
                                                args.bandwidth, args.log_weights, nullptr, nullptr,
                                                args.out, nullptr});
}

// The gradients of the slices that `chosen` marks, computed in float64.
inline void widened_vjp(const LogsumexpVjpArgs<float>& args, const Buffer<bool>& chosen,
                        int64_t count) {
  LogsumexpVjpArgs<double> wide{};
  wide.m = count;
  wide.b = args.b;
  wide.c = args.c;
  wide.k = args.k;
  const int64_t x_size = args.b * args.k, y_size = args.c * args.k;
  Buffer<double> x, y, bandwidth, log_weights, logsumexps, grad, grad_x, grad_y, grad_log_weights;
  const auto gather = [&](const float* from, int64_t size, Buffer<double>& to) -> const double* {
    if (from == nullptr) return nullptr;
    to.resize(count * size);
    double* place = to.data();
    for (int64_t s = 0; s < args.m; ++s)
      if (chosen[s])
        for (int64_t i = s * size; i < (s + 1) * size; ++i) *place++ = from[i];
    return to.data();
  };
  const auto room = [&](const float* wanted, int64_t size, Buffer<double>& to) -> double* {
    if (wanted == nullptr) return nullptr;
    to.resize(count * size);
    return to.data();
  };
  const auto scatter = [&](const double* from, int64_t size, float* to) {
    if (to == nullptr) return;
    for (int64_t s = 0; s < args.m; ++s)
      if (chosen[s])
        for (int64_t i = s * size; i < (s + 1) * size; ++i) to[i] = static_cast<float>(*from++);
  };
  wide.x = gather(args.x, x_size, x);
  wide.y = gather(args.y, y_size, y);
  wide.bandwidth = gather(args.bandwidth, 1, bandwidth);
  wide.log_weights = gather(args.log_weights, args.c, log_weights);
  wide.grad = gather(args.grad, args.b, grad);
  wide.grad_x = room(args.grad_x, x_size, grad_x);
  wide.grad_y = room(args.grad_y, y_size, grad_y);
  wide.grad_log_weights = room(args.grad_log_weights, args.c, grad_log_weights);
  logsumexps.resize(count * args.b);
  DPSLICE_ISA::logsumexp(LogsumexpArgs<double>{count, args.b, args.c, args.k, wide.x, wide.y,
                                               wide.bandwidth, wide.log_weights,
                                               logsumexps.data()});
  wide.logsumexp = logsumexps.data();
  DPSLICE_ISA::logsumexp_vjp(wide);
  scatter(wide.grad_x, x_size, args.grad_x);
  scatter(wide.grad_y, y_size, args.grad_y);
  scatter(wide.grad_log_weights, args.c, args.grad_log_weights);
}

// The largest size of the numbers that are finite in float32.
template <class V>
inline double largest_finite(const V* values, int64_t size) {
  double largest = 0;
  for (int64_t i = 0; i < size; ++i) {
    const double own = std::fabs(static_cast<double>(values[i]));
    if (own > largest && own <= std::numeric_limits<float>::max()) largest = own;
  }
  return largest;
}

// Whether slice s is computed by products.
template <class T, template <class> class Args>
inline bool by_products(const Args<T>& args, int64_t s, Buffer<T>& point) {
  Measure<T> measure;
  measure_slice(args.x + s * args.b * args.k, args.b, args.y + s * args.c * args.k, args.c, args.k,
                args.bandwidth[s], measure, point);
  return measure.by_product;
}

// Makes `shift` better where the logsumexps are large, and sets `narrow` to false for slices that
// it has computed altogether: see below. False if no slice is left to compute.
template <class T>
inline bool refine(const LogsumexpVjpArgs<T>& args, Buffer<double>& shift, Buffer<bool>& narrow) {
  Buffer<bool> again(args.m), wide(args.m);
  Buffer<T> point;
  int64_t recomputed = 0, wides = 0;
  for (int64_t s = 0; s < args.m; ++s) {
    again[s] = wide[s] = false;
    if (largest_finite(shift.data() + s * args.b, args.b) > kCoarseLogsumexp * kLog2E) {
      const bool is_wide = sizeof(T) == sizeof(float) && !by_products(args, s, point);
      (is_wide ? wide : again)[s] = true;
      ++(is_wide ? wides : recomputed);
    }
    narrow[s] = !wide[s];
  }
  if constexpr (sizeof(T) == sizeof(float))
    if (wides > 0) widened_vjp(args, wide, wides);
  if (recomputed > 0) {
    launch_sums<T, Reduction::logsum>(PairSums<T>{args.m, args.b, args.c, args.k, args.x, args.y,
                                                  args.bandwidth, args.log_weights, nullptr,
                                                  again.data(), nullptr, shift.data()});
    for (int64_t i = 0; i < args.m * args.b; ++i)
      if (again[i / args.b]) shift[i] = -shift[i];
  }
  return wides < args.m;
}

// The last place of a large logsumexp is too coarse for the shares that it normalises. By products,
// and in float64, the logsumexps of such a slice are computed again, to more places and in the base
// of the exponents. In float32 by differences the exponents are as large as the logsumexps, and
// float32 does not hold their shares: the slice is computed in float64.
template <class T>
void logsumexp_vjp(const LogsumexpVjpArgs<T>& args) {
  Buffer<double> shift(args.m * args.b);
  for (int64_t i = 0; i < args.m * args.b; ++i)
    shift[i] = -kLog2E * static_cast<double>(args.logsumexp[i]);
  Buffer<bool> narrow(args.m);
  if (!refine(args, shift, narrow)) return;
  launch_gradients(PairGradients<T>{args.m, args.b, args.c, args.k, args.x, args.y, args.bandwidth,
                                    args.log_weights, nullptr, shift.data(), args.grad, args.grad_x,
                                    args.grad_y, args.grad_log_weights, narrow.data()});
}

// Slices whose logsumexps are so large that float32 does not hold their shares.
inline int64_t far_slices(const LogsumexpTotalArgs<float>& args, Buffer<bool>& far) {
  int64_t count = 0;
  Buffer<float> point;
  for (int64_t s = 0; s < args.m; ++s) {
    far[s] = false;
    if (!(largest_finite(args.out + s * args.b, args.b) > kCoarseLogsumexp)) continue;
    far[s] = !by_products(args, s, point);
    count += far[s];
  }
  return count;
}

// One sweep keeps a block of rows' shares, and passes over all sums of the gradient for each block.
// With more columns or dimensions than this, two sweeps are better.
constexpr int64_t kMostColumns = int64_t{1} << 16, kMostDims = 1024;

template <class T>
void logsumexp_total(const LogsumexpTotalArgs<T>& args) {
  const LogsumexpVjpArgs<T> vjp{args.m,
                                args.b,
                                args.c,
                                args.k,
                                args.x,
                                args.y,
                                args.bandwidth,
                                args.log_weights,
                                args.out,
                                args.row_weights,
                                nullptr,
                                args.grad_y,
                                args.grad_log_weights};
  if (args.c > kMostColumns || args.k > kMostDims) {
    DPSLICE_ISA::logsumexp(LogsumexpArgs<T>{args.m, args.b, args.c, args.k, args.x, args.y,
                                            args.bandwidth, args.log_weights, args.out});
    DPSLICE_ISA::logsumexp_vjp(vjp);
    return;
  }
  launch_totals(PairGradients<T>{args.m, args.b, args.c, args.k, args.x, args.y, args.bandwidth,
                                 args.log_weights, nullptr, nullptr, args.row_weights, nullptr,
                                 args.grad_y, args.grad_log_weights, nullptr},
                true, args.out);
  if constexpr (sizeof(T) == sizeof(float)) {
    Buffer<bool> far(args.m);
    const int64_t count = far_slices(args, far);
    if (count > 0) widened_vjp(vjp, far, count);
  }
}

DPSLICE_INSTANTIATE(logsumexp, LogsumexpArgs)
DPSLICE_INSTANTIATE(logsumexp_total, LogsumexpTotalArgs)
DPSLICE_INSTANTIATE(logsumexp_vjp, LogsumexpVjpArgs)

}  // namespace dpslice::DPSLICE_ISA
