// Gaussian kernel sums and their gradients. The loops over pairs are in pair_sums.cuh.
//
// out_i = sum_j w_j K_ij;  grad_x_i = g_i sum_j w_j K_ij (y_j - x_i) / h^2;
// grad_y_j = w_j sum_i g_i K_ij (x_i - y_j) / h^2;  grad_w_j = sum_i g_i K_ij. The total over rows
// of known weights g comes with its gradients, from points that are prepared once.
#include "kernels.h"
#include "pair_sums.cuh"

namespace dpslice::cuda {

namespace {

constexpr int kSplitThreads = 256;

// Factors as their signs and the logarithms of their sizes. What is not finite stays in the sign.
__global__ void __launch_bounds__(kSplitThreads)
    split_kernel(const float* factor, int64_t size, float* sign, float* log_size) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kSplitThreads + threadIdx.x;
  if (at >= size) return;
  const float own = factor[at];
  const bool finite = fabsf(own) < INFINITY;
  sign[at] = finite ? static_cast<float>((own > 0) - (own < 0)) : own;
  // By way of float64: an ulp of the logarithm of a large factor is in each of its kernels.
  log_size[at] = finite ? static_cast<float>(log(fabs(static_cast<double>(own)))) : 0.0f;
}

// A side whose factors are in its shares but for their signs, if `split`.
template <class T>
class SplitSide {
 public:
  SplitSide(const Side<T>& side, int64_t m, bool split, const Execution& execution)
      : side_(side), memory_(split && side.factor != nullptr ? 2 * m * side.size : 0, execution) {
    if constexpr (sizeof(T) == sizeof(float))
      if (split && side.factor != nullptr) {
        const int64_t size = m * side.size;
        T* const sign = memory_.data();
        launch(split_kernel, ceil_div(size, kSplitThreads), kSplitThreads, 0, execution,
               side.factor, size, sign, sign + size);
        side_.factor = sign;
        side_.log_weight = sign + size;
      }
  }
  const Side<T>& side() const { return side_; }

 private:
  Side<T> side_;
  Workspace<T> memory_;
};

// The gradients in x and y, and in the factors of y. By products, shares are those of |f| K in its
// sum over the sources, f being their factors, by which the gradients are multiplied again: kernels
// of a whole slice, or those times their factors, may be smaller than products of halves can hold.
template <class T>
class Gradients {
 public:
  Gradients(const Side<T>& x, const Side<T>& y, int64_t m, int64_t k, const T* bandwidth,
            bool need_x, bool need_y, const Execution& execution)
      : x_(x),
        y_(y),
        split_x_(x, m, may_use_products<T>(k, x.size, y.size), execution),
        split_y_(y, m, may_use_products<T>(k, x.size, y.size), execution),
        problem_(m, k, split_x_.side(), split_y_.side(), bandwidth, need_y, need_x, execution),
        execution_(execution) {}

  void launch_x(T* grad_x) { launch_targets(problem_.pairs(), x_, y_, grad_x, nullptr); }
  void launch_y(T* grad_y, T* grad_factor) {
    launch_targets(problem_.reversed(), y_, x_, grad_y, grad_factor);
  }
  // The sums themselves, [m, b].
  void launch_values(T* out) {
    Pairs<T> pairs = problem_.pairs();
    pairs.source.factor = y_.factor;
    pairs.source.log_weight = nullptr;
    pairs.target.log_weight = nullptr;
    launch_sums<T, Reduction::sum>(pairs, out, execution_);
  }

 private:
  void launch_targets(Pairs<T> pairs, const Side<T>& target, const Side<T>& source, T* grad_points,
                      T* grad_factor) {
    if (grad_points == nullptr && grad_factor == nullptr) return;
    pairs.target.factor = target.factor;
    pairs.target.log_weight = nullptr;
    if constexpr (sizeof(T) == sizeof(float))
      if (pairs.measured != nullptr) {
        Workspace<double> reference(pairs.m * pairs.target.size, execution_);
        launch_reference(pairs, reference.data(), problem_.measured(), execution_);
        pairs.reference = pairs.target.logsumexp = reference.data();
        launch_pulls(pairs, grad_points, grad_factor, execution_, &source);
        return;
      }
    pairs.source = source;
    launch_pulls(pairs, grad_points, grad_factor, execution_);
  }

  Side<T> x_, y_;
  SplitSide<T> split_x_, split_y_;
  Problem<T> problem_;
  const Execution& execution_;
};

}  // namespace

template <class T>
void kernel_sum(const KernelSumArgs<T>& args, const Execution& execution) {
  const Problem<T> problem(args.m, args.k, make_side(args.x, args.b),
                           make_side(args.y, args.c, args.weights), args.bandwidth, false, false,
                           execution);
  launch_sums<T, Reduction::sum>(problem.pairs(), args.out, execution);
}

template <class T>
void kernel_sum_vjp(const KernelSumVjpArgs<T>& args, const Execution& execution) {
  const bool need_y = args.grad_y != nullptr || args.grad_weights != nullptr;
  Gradients<T> gradients(make_side(args.x, args.b, args.grad),
                         make_side(args.y, args.c, args.weights), args.m, args.k, args.bandwidth,
                         args.grad_x != nullptr, need_y, execution);
  gradients.launch_x(args.grad_x);
  gradients.launch_y(args.grad_y, args.grad_weights);
}

template <class T>
void kernel_sum_total(const KernelSumTotalArgs<T>& args, const Execution& execution) {
  Gradients<T> gradients(make_side(args.x, args.b, args.row_weights),
                         make_side(args.y, args.c, args.weights), args.m, args.k, args.bandwidth,
                         false, true, execution);
  gradients.launch_values(args.out);
  gradients.launch_y(args.grad_y, args.grad_weights);
}

DPSLICE_CUDA_INSTANTIATE(kernel_sum, KernelSumArgs)
DPSLICE_CUDA_INSTANTIATE(kernel_sum_total, KernelSumTotalArgs)
DPSLICE_CUDA_INSTANTIATE(kernel_sum_vjp, KernelSumVjpArgs)

}  // namespace dpslice::cuda
