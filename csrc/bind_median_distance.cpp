#include "bindings.h"
#include "median_distance.h"

namespace dpslice {
namespace {

template <class Args, class T>
Args sizes(const Array<T>& x) {
  require_rank("x", x, 3);
  if (x.shape(1) < 2) throw std::invalid_argument("x must have at least two rows in each slice");
  // Pairs are numbered i * b + j in 64 bits.
  if (x.shape(1) > int64_t{1} << 31)
    throw std::invalid_argument("x must have at most 2^31 rows in each slice");
  Args args{};
  args.m = x.shape(0);
  args.b = x.shape(1);
  args.k = x.shape(2);
  args.x = x.data();
  return args;
}

template <class T>
Array<T> median_distance_array(const Array<T>& x) {
  auto args = sizes<MedianDistanceArgs<T>>(x);
  Array<T> value = empty<T>({args.m});
  args.value = value.mutable_data();
  run(&median_distance<T>, args);
  return value;
}

template <class T>
Array<T> median_distance_vjp_array(const Array<T>& x, const Array<T>& grad) {
  auto args = sizes<MedianDistanceVjpArgs<T>>(x);
  require_shape("grad", grad, {args.m});
  Array<T> grad_x = empty<T>({args.m, args.b, args.k});
  args.grad = grad.data();
  args.grad_x = grad_x.mutable_data();
  run(&median_distance_vjp<T>, args);
  return grad_x;
}

template <class T>
void register_for(py::module_& m) {
  using py::arg;
  define(m, "median_distance", &median_distance_array<T>, arg("x").noconvert(),
         "Median pairwise distance of each slice, [m].");
  define(m, "median_distance_vjp", &median_distance_vjp_array<T>, arg("x").noconvert(),
         arg("grad").noconvert(), "Gradient in x.");
}

}  // namespace

void register_median_distance(py::module_& m) {
  register_for<float>(m);
  register_for<double>(m);
}

}  // namespace dpslice
