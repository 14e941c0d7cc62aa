#include "bindings.h"
#include "common/divergence.h"
#include "density_ratio.h"

namespace dpslice {
namespace {

// Sizes shared by the three functions, checked for reading within bounds.
template <class Args, class T>
Args sizes(const Array<T>& q, const Array<T>& p, double ridge, double sigma) {
  require_rank("q", q, 3);
  require_rank("p", p, 3);
  Args args{};
  args.m = q.shape(0);
  args.b = q.shape(1);
  args.k = q.shape(2);
  args.c = p.shape(1);
  require_shape("p", p, {args.m, args.c, args.k});
  if (args.b < 1 || args.c < 1) throw std::invalid_argument("q and p must have at least one row");
  args.q = q.data();
  args.p = p.data();
  args.ridge = ridge;
  args.sigma = sigma;
  return args;
}

// Runs a kernel that may fail on a slice, and raises for that.
template <class Args>
void launch(void (*kernel)(const Args&), Args& args) {
  int64_t failed_slice = -1;
  args.failed_slice = &failed_slice;
  run(kernel, args);
  if (failed_slice >= 0)
    throw std::invalid_argument(
        "the kernel matrix of slice " + std::to_string(failed_slice) +
        " plus ridge = " + std::string(py::str(py::float_(args.ridge))) +
        " is not positive definite to working precision: use a larger ridge");
}

template <class T>
Array<T> density_ratio_array(const Array<T>& q, const Array<T>& p, const Array<T>& bandwidth,
                             double ridge, double sigma) {
  auto args = sizes<DensityRatioArgs<T>>(q, p, ridge, sigma);
  require_shape("bandwidth", bandwidth, {args.m});
  Array<T> ratio = empty<T>({args.m, args.b});
  args.bandwidth = bandwidth.data();
  args.ratio = ratio.mutable_data();
  launch(&density_ratio<T>, args);
  return ratio;
}

template <class T>
py::tuple density_ratio_vjp_arrays(const Array<T>& q, const Array<T>& p, const Array<T>& bandwidth,
                                   double ridge, double sigma, const Array<T>& ratio,
                                   const Array<T>& grad, bool need_q, bool need_p) {
  auto args = sizes<DensityRatioVjpArgs<T>>(q, p, ridge, sigma);
  require_shape("bandwidth", bandwidth, {args.m});
  require_shape("ratio", ratio, {args.m, args.b});
  require_shape("grad", grad, {args.m, args.b});
  OptionalArray<T> grad_q, grad_p;
  if (need_q) grad_q = empty<T>({args.m, args.b, args.k});
  if (need_p) grad_p = empty<T>({args.m, args.c, args.k});
  args.bandwidth = bandwidth.data();
  args.ratio = ratio.data();
  args.grad = grad.data();
  args.grad_q = mutable_data_or_null(grad_q);
  args.grad_p = mutable_data_or_null(grad_p);
  if (need_q || need_p) launch(&density_ratio_vjp<T>, args);
  return py::make_tuple(grad_q, grad_p);
}

template <class T>
py::tuple density_ratio_divergence_arrays(const Array<T>& q, const Array<T>& p,
                                          const Array<T>& bandwidth, double ridge, double sigma,
                                          int code, double alpha, double r_min, bool need_p) {
  auto args = sizes<DensityRatioDivergenceArgs<T>>(q, p, ridge, sigma);
  require_rank("bandwidth", bandwidth, 2);
  args.bandwidths = bandwidth.shape(0);
  require_shape("bandwidth", bandwidth, {args.bandwidths, args.m});
  if (args.bandwidths < 1) throw std::invalid_argument("bandwidth must have at least one row");
  if (code < 0 || code >= kDivergenceCodes) throw std::invalid_argument("unknown divergence code");
  Array<T> value = empty<T>({args.m});
  OptionalArray<T> grad_p;
  if (need_p) grad_p = empty<T>({args.m, args.c, args.k});
  args.bandwidth = bandwidth.data();
  args.divergence = code;
  args.alpha = alpha;
  args.r_min = r_min;
  args.value = value.mutable_data();
  args.grad_p = mutable_data_or_null(grad_p);
  launch(&density_ratio_divergence<T>, args);
  return py::make_tuple(value, grad_p);
}

template <class T>
py::tuple divergence_arrays(int code, double alpha, const Array<T>& t) {
  if (code < 0 || code >= kDivergenceCodes) throw std::invalid_argument("unknown divergence code");
  const std::vector<py::ssize_t> shape(t.shape(), t.shape() + t.ndim());
  Array<T> value(shape), derivative(shape);
  DivergenceArgs<T> args{
      t.size(), code, alpha, t.data(), value.mutable_data(), derivative.mutable_data()};
  run(&divergence<T>, args);
  return py::make_tuple(value, derivative);
}

template <class T>
void register_for(py::module_& m) {
  using py::arg;
  define(m, "density_ratio", &density_ratio_array<T>, arg("q").noconvert(), arg("p").noconvert(),
         arg("bandwidth").noconvert(), arg("ridge"), arg("sigma"),
         "Regularised density ratio at q, [m, b].");
  define(m, "density_ratio_vjp", &density_ratio_vjp_arrays<T>, arg("q").noconvert(),
         arg("p").noconvert(), arg("bandwidth").noconvert(), arg("ridge"), arg("sigma"),
         arg("ratio").noconvert(), arg("grad").noconvert(), arg("need_q"), arg("need_p"),
         "Gradients in q and p, None where not needed.");
  define(m, "density_ratio_divergence", &density_ratio_divergence_arrays<T>, arg("q").noconvert(),
         arg("p").noconvert(), arg("bandwidth").noconvert(), arg("ridge"), arg("sigma"),
         arg("divergence"), arg("alpha"), arg("r_min"), arg("need_p"),
         "f-divergence of each slice and its gradient in p.");
  define(m, "divergence", &divergence_arrays<T>, arg("divergence"), arg("alpha"),
         arg("t").noconvert(), "Value and derivative of f at t.");
}

}  // namespace

void register_density_ratio(py::module_& m) {
  register_for<float>(m);
  register_for<double>(m);
}

}  // namespace dpslice
