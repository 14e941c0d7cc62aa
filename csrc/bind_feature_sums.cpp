#include <cmath>

#include "bindings.h"
#include "feature_sums.h"

namespace dpslice {
namespace {

template <class T>
Array<double> bounded_rows_array(const Array<T>& x, double max_norm, double step) {
  require_rank("x", x, 2);
  if (!(max_norm > 0)) throw std::invalid_argument("max_norm must be > 0");
  if (!(step >= 0 && max_norm <= std::ldexp(step > 0 ? step : INFINITY, 26)))
    throw std::invalid_argument("step must be 0 or a power of two of at least 2^-26 max_norm");
  int exponent;
  if (step > 0 && std::frexp(step, &exponent) != 0.5)
    throw std::invalid_argument("step must be 0 or a power of two of at least 2^-26 max_norm");
  BoundedRowsArgs<T> args{};
  args.n = x.shape(0);
  args.d = x.shape(1);
  Array<double> out = empty<double>({args.n, args.d});
  args.x = x.data();
  args.max_norm = max_norm;
  args.step = step;
  args.out = out.mutable_data();
  run(&bounded_rows<T>, args);
  return out;
}

Array<int64_t> kernel_feature_sums_array(const Array<double>& y, const Array<double>& landmarks,
                                         const Array<double>& factors, double scale, double bound) {
  require_rank("y", y, 3);
  require_rank("landmarks", landmarks, 3);
  KernelFeatureSumsArgs<double> args{};
  args.n = y.shape(0);
  args.m = y.shape(1);
  args.k = y.shape(2);
  args.c = landmarks.shape(1);
  require_shape("landmarks", landmarks, {args.m, args.c, args.k});
  require_shape("factors", factors, {args.m});
  if (!(scale >= 1 && scale <= std::ldexp(1.0, 30)))
    throw std::invalid_argument("scale must be between 1 and 2^30");
  if (args.n > int64_t{1} << 32) throw std::invalid_argument("y must have at most 2^32 rows");
  if (!(bound > 0)) throw std::invalid_argument("bound must be > 0");
  Array<int64_t> sums = empty<int64_t>({args.m, args.c});
  args.y = y.data();
  args.landmarks = landmarks.data();
  args.factors = factors.data();
  args.scale = scale;
  args.bound = bound;
  args.sums = sums.mutable_data();
  for (int64_t i = 0; i < args.m * args.c; ++i) args.sums[i] = 0;
  run(&kernel_feature_sums<double>, args);
  return sums;
}

}  // namespace

void register_feature_sums(py::module_& m) {
  using py::arg;
  define(m, "bounded_rows", &bounded_rows_array<float>, arg("x").noconvert(), arg("max_norm"),
         arg("step"), "Rows clipped to max_norm, in multiples of step if that is not 0, [n, d].");
  define(m, "bounded_rows", &bounded_rows_array<double>, arg("x").noconvert(), arg("max_norm"),
         arg("step"), "Rows clipped to max_norm, in multiples of step if that is not 0, [n, d].");
  define(m, "kernel_feature_sums", &kernel_feature_sums_array, arg("y").noconvert(),
         arg("landmarks").noconvert(), arg("factors").noconvert(), arg("scale"), arg("bound"),
         "Sums of floor(scale K) over rows at the landmarks of each slice, [m, c].");
}

}  // namespace dpslice
