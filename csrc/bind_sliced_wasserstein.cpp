#include "bindings.h"
#include "sliced_wasserstein.h"

namespace dpslice {
namespace {

template <class Args, class T>
Args sizes(const Array<T>& x, const Array<T>& y, double order) {
  require_rank("x", x, 2);
  require_rank("y", y, 2);
  Args args{};
  args.m = x.shape(0);
  args.b = x.shape(1);
  args.c = y.shape(1);
  require_shape("y", y, {args.m, args.c});
  if (args.b < 1 || args.c < 1) throw std::invalid_argument("x and y must have at least one value");
  // Packed sort keys hold 32 bits of index, and quantiles are counted in units of 1 / (b c).
  constexpr int64_t limit = int64_t{1} << 31;
  if (args.b > limit || args.c > limit)
    throw std::invalid_argument("x and y must have at most 2^31 values per slice");
  args.x = x.data();
  args.y = y.data();
  args.order = order;
  return args;
}

template <class T>
Array<T> sliced_wasserstein_array(const Array<T>& x, const Array<T>& y, double order) {
  auto args = sizes<SlicedWassersteinArgs<T>>(x, y, order);
  Array<T> value = empty<T>({args.m});
  args.value = value.mutable_data();
  run(&sliced_wasserstein<T>, args);
  return value;
}

template <class T>
py::tuple sliced_wasserstein_gradient_arrays(const Array<T>& x, const Array<T>& y, double order,
                                             bool need_x, bool need_y) {
  auto args = sizes<SlicedWassersteinArgs<T>>(x, y, order);
  Array<T> value = empty<T>({args.m});
  OptionalArray<T> grad_x, grad_y;
  if (need_x) grad_x = empty<T>({args.m, args.b});
  if (need_y) grad_y = empty<T>({args.m, args.c});
  args.value = value.mutable_data();
  args.grad_x = mutable_data_or_null(grad_x);
  args.grad_y = mutable_data_or_null(grad_y);
  run(&sliced_wasserstein<T>, args);
  return py::make_tuple(value, grad_x, grad_y);
}

template <class T>
void register_for(py::module_& m) {
  using py::arg;
  define(m, "sliced_wasserstein", &sliced_wasserstein_array<T>, arg("x").noconvert(),
         arg("y").noconvert(), arg("order"), "W_q^q of each slice, [m].");
  define(m, "sliced_wasserstein_gradient", &sliced_wasserstein_gradient_arrays<T>,
         arg("x").noconvert(), arg("y").noconvert(), arg("order"), arg("need_x"), arg("need_y"),
         "W_q^q of each slice [m], and its gradients in x and y, None where not needed.");
}

}  // namespace

void register_sliced_wasserstein(py::module_& m) {
  register_for<float>(m);
  register_for<double>(m);
}

}  // namespace dpslice
