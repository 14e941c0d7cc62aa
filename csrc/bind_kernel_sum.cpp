// Bindings of kernel_sum.h and logsumexp.h; of reach.h, and of exp2.h for tests.
#include "bindings.h"
#include "exp2.h"
#include "kernel_sum.h"
#include "logsumexp.h"
#include "reach.h"
#include "row_totals.h"

namespace dpslice {
namespace {

// The fields that all four argument structs have.
template <class Args, class T>
Args pair_args(const Array<T>& x, const Array<T>& y, const Array<T>& bandwidth,
               const char* weights_name, const OptionalArray<T>& weights) {
  require_rank("x", x, 3);
  require_rank("y", y, 3);
  Args args{};
  args.m = x.shape(0);
  args.b = x.shape(1);
  args.k = x.shape(2);
  args.c = y.shape(1);
  require_shape("y", y, {args.m, args.c, args.k});
  require_shape("bandwidth", bandwidth, {args.m});
  if (weights) require_shape(weights_name, *weights, {args.m, args.c});
  if (args.m < 1 || args.b < 1 || args.c < 1 || args.k < 1)
    throw std::invalid_argument("x and y must have no empty axis");
  args.x = x.data();
  args.y = y.data();
  args.bandwidth = bandwidth.data();
  return args;
}

template <class T>
struct Gradients {
  OptionalArray<T> x, y, weights;

  template <class Args>
  Gradients(const Args& args, bool need_x, bool need_y, bool need_weights) {
    if (need_x) x = empty<T>({args.m, args.b, args.k});
    if (need_y) y = empty<T>({args.m, args.c, args.k});
    if (need_weights) weights = empty<T>({args.m, args.c});
  }
  py::tuple tuple() const { return py::make_tuple(x, y, weights); }
};

template <class T>
Array<T> kernel_sum_array(const Array<T>& x, const Array<T>& y, const Array<T>& bandwidth,
                          const OptionalArray<T>& weights) {
  auto args = pair_args<KernelSumArgs<T>>(x, y, bandwidth, "weights", weights);
  args.weights = data_or_null(weights);
  Array<T> out = empty<T>({args.m, args.b});
  args.out = out.mutable_data();
  run(&kernel_sum<T>, args);
  return out;
}

template <class T>
py::tuple kernel_sum_vjp_arrays(const Array<T>& x, const Array<T>& y, const Array<T>& bandwidth,
                                const OptionalArray<T>& weights, const Array<T>& grad, bool need_x,
                                bool need_y, bool need_weights) {
  auto args = pair_args<KernelSumVjpArgs<T>>(x, y, bandwidth, "weights", weights);
  require_shape("grad", grad, {args.m, args.b});
  Gradients<T> gradients(args, need_x, need_y, need_weights);
  args.weights = data_or_null(weights);
  args.grad = grad.data();
  args.grad_x = mutable_data_or_null(gradients.x);
  args.grad_y = mutable_data_or_null(gradients.y);
  args.grad_weights = mutable_data_or_null(gradients.weights);
  run(&kernel_sum_vjp<T>, args);
  return gradients.tuple();
}

template <class T>
Array<T> logsumexp_array(const Array<T>& x, const Array<T>& y, const Array<T>& bandwidth,
                         const OptionalArray<T>& log_weights) {
  auto args = pair_args<LogsumexpArgs<T>>(x, y, bandwidth, "log_weights", log_weights);
  args.log_weights = data_or_null(log_weights);
  Array<T> out = empty<T>({args.m, args.b});
  args.out = out.mutable_data();
  run(&logsumexp<T>, args);
  return out;
}

template <class T>
py::tuple logsumexp_vjp_arrays(const Array<T>& x, const Array<T>& y, const Array<T>& bandwidth,
                               const OptionalArray<T>& log_weights, const Array<T>& logsumexp,
                               const Array<T>& grad, bool need_x, bool need_y,
                               bool need_log_weights) {
  auto args = pair_args<LogsumexpVjpArgs<T>>(x, y, bandwidth, "log_weights", log_weights);
  require_shape("logsumexp", logsumexp, {args.m, args.b});
  require_shape("grad", grad, {args.m, args.b});
  Gradients<T> gradients(args, need_x, need_y, need_log_weights);
  args.log_weights = data_or_null(log_weights);
  args.logsumexp = logsumexp.data();
  args.grad = grad.data();
  args.grad_x = mutable_data_or_null(gradients.x);
  args.grad_y = mutable_data_or_null(gradients.y);
  args.grad_log_weights = mutable_data_or_null(gradients.weights);
  run(&logsumexp_vjp<T>, args);
  return gradients.tuple();
}

// Either of the two totals [m]; the rows [m, b], and gradients in y and in the weights.
template <class Args, class T>
py::tuple total_arrays(const Array<T>& x, const Array<T>& y, const Array<T>& bandwidth,
                       const char* weights_name, const OptionalArray<T>& weights,
                       const T* Args::* weights_field, T* Args::* grad_weights_field,
                       void (*kernel)(const Args&), const Array<T>& row_weights, bool need_y,
                       bool need_weights) {
  auto args = pair_args<Args>(x, y, bandwidth, weights_name, weights);
  require_shape("row_weights", row_weights, {args.m, args.b});
  Gradients<T> gradients(args, false, need_y, need_weights);
  Array<T> totals = empty<T>({args.m}), rows = empty<T>({args.m, args.b});
  args.*weights_field = data_or_null(weights);
  args.row_weights = row_weights.data();
  args.out = rows.mutable_data();
  args.grad_y = mutable_data_or_null(gradients.y);
  args.*grad_weights_field = mutable_data_or_null(gradients.weights);
  T* const to = totals.mutable_data();
  {
    py::gil_scoped_release unlocked;
    kernel(args);
    row_totals(RowTotalsArgs<T>{args.m, args.b, args.row_weights, args.out, to});
  }
  return py::make_tuple(totals, rows, gradients.y, gradients.weights);
}

template <class T>
py::tuple kernel_sum_total_arrays(const Array<T>& x, const Array<T>& y, const Array<T>& bandwidth,
                                  const OptionalArray<T>& weights, const Array<T>& row_weights,
                                  bool need_y, bool need_weights) {
  using Args = KernelSumTotalArgs<T>;
  return total_arrays<Args, T>(x, y, bandwidth, "weights", weights, &Args::weights,
                               &Args::grad_weights, &kernel_sum_total<T>, row_weights, need_y,
                               need_weights);
}

template <class T>
py::tuple logsumexp_total_arrays(const Array<T>& x, const Array<T>& y, const Array<T>& bandwidth,
                                 const OptionalArray<T>& log_weights, const Array<T>& row_weights,
                                 bool need_y, bool need_log_weights) {
  using Args = LogsumexpTotalArgs<T>;
  return total_arrays<Args, T>(x, y, bandwidth, "log_weights", log_weights, &Args::log_weights,
                               &Args::grad_log_weights, &logsumexp_total<T>, row_weights, need_y,
                               need_log_weights);
}

template <class T>
double reach_number(const Array<T>& points, const Array<T>& bandwidth) {
  require_rank("points", points, 3);
  const int64_t m = points.shape(0);
  require_shape("bandwidth", bandwidth, {m});
  double farthest = 0;
  const ReachArgs<T> args{m, points.shape(1) * points.shape(2), points.data(), bandwidth.data(),
                          &farthest};
  run(&reach<T>, args);
  return farthest;
}

template <class T>
Array<T> exp2_array(const Array<T>& x) {
  require_rank("x", x, 1);
  Array<T> out = empty<T>({x.shape(0)});
  const Exp2Args<T> args{x.shape(0), x.data(), out.mutable_data()};
  run(&exp2<T>, args);
  return out;
}

template <class T>
void register_for(py::module_& m) {
  using py::arg;
  define(m, "gaussian_kernel_sum", &kernel_sum_array<T>, arg("x").noconvert(), arg("y").noconvert(),
         arg("bandwidth").noconvert(), arg("weights").noconvert().none(true),
         "sum_j w_j K(x_i, y_j), [m, b].");
  define(m, "gaussian_kernel_sum_vjp", &kernel_sum_vjp_arrays<T>, arg("x").noconvert(),
         arg("y").noconvert(), arg("bandwidth").noconvert(), arg("weights").noconvert().none(true),
         arg("grad").noconvert(), arg("need_x"), arg("need_y"), arg("need_weights"),
         "Gradients in x, y and weights, None where not needed.");
  define(m, "gaussian_kernel_logsumexp", &logsumexp_array<T>, arg("x").noconvert(),
         arg("y").noconvert(), arg("bandwidth").noconvert(),
         arg("log_weights").noconvert().none(true), "log sum_j exp(l_j) K(x_i, y_j), [m, b].");
  define(m, "gaussian_kernel_logsumexp_vjp", &logsumexp_vjp_arrays<T>, arg("x").noconvert(),
         arg("y").noconvert(), arg("bandwidth").noconvert(),
         arg("log_weights").noconvert().none(true), arg("logsumexp").noconvert(),
         arg("grad").noconvert(), arg("need_x"), arg("need_y"), arg("need_log_weights"),
         "Gradients in x, y and log_weights, None where not needed.");
  define(m, "gaussian_kernel_sum_total", &kernel_sum_total_arrays<T>, arg("x").noconvert(),
         arg("y").noconvert(), arg("bandwidth").noconvert(), arg("weights").noconvert().none(true),
         arg("row_weights").noconvert(), arg("need_y"), arg("need_weights"),
         "Totals [m] weighted by row_weights, the sums [m, b], gradients in y and weights.");
  define(
      m, "gaussian_kernel_logsumexp_total", &logsumexp_total_arrays<T>, arg("x").noconvert(),
      arg("y").noconvert(), arg("bandwidth").noconvert(), arg("log_weights").noconvert().none(true),
      arg("row_weights").noconvert(), arg("need_y"), arg("need_log_weights"),
      "Totals [m] weighted by row_weights, the log sums [m, b], gradients in y and log_weights.");
  define(m, "reach", &reach_number<T>, arg("points").noconvert(), arg("bandwidth").noconvert(),
         "Largest |coordinate| over bandwidth; NaN where one of either is not usable.");
  define(m, "exp2", &exp2_array<T>, arg("x").noconvert(),
         "2 to the power of each number as kernels compute it, for tests.");
}

}  // namespace

void register_kernel_sum(py::module_& m) {
  register_for<float>(m);
  register_for<double>(m);
}

}  // namespace dpslice
