// W_q^q between empirical measures on the line: sort both sides, walk along their quantile
// functions.
//
// The optimal coupling on the line is the monotone one, so W_q^q is the integral over u in (0, 1)
// of |F^-1(u) - G^-1(u)|^q. Both quantile functions are constant between multiples of 1/b and 1/c;
// with u counted in units of 1 / (b c) the breakpoints are integers, and unequal sizes are exact.
// The gradient is taken with the matching held fixed. Where values tie, sorting is stable (the
// lower index comes first), which picks one of the subgradients; at order 1 the slope of |.| at 0
// is 0.
#include "sliced_wasserstein.h"

#include <cmath>

#include "parallel.h"
#include "radix_sort.h"

namespace dpslice::DPSLICE_ISA {
namespace {

// Terms summed before they join the total, to keep the rounding error of long sums near that of
// short ones.
constexpr int64_t kRun = 256;

template <class T>
struct Workspace {
  Buffer<SortKey<T>> x, y, scratch;
  Buffer<int64_t> counters;
  Buffer<double> grad_x, grad_y;
};

template <class T>
const SortKey<T>* sorted(const T* values, int64_t size, Buffer<SortKey<T>>& keys,
                         Workspace<T>& work) {
  keys.resize(size);
  work.scratch.resize(size);
  for (int64_t i = 0; i < size; ++i)
    keys[i] = SortKey<T>::make(ordered_bits(values[i]), static_cast<uint64_t>(i));
  const SortKey<T>* result = radix_sort(keys.data(), work.scratch.data(), size, work.counters);
  // Copied back where needed, so that the other side can use the scratch.
  if (result != keys.data())
    std::memcpy(keys.data(), result, sizeof(SortKey<T>) * static_cast<size_t>(size));
  return keys.data();
}

// |d|^q and its derivative in d.
struct Power {
  double value, slope;
};
inline Power power(double difference, double order) {
  if (order == 2) return {difference * difference, 2 * difference};
  const double size = std::fabs(difference);
  if (order == 1) return {size, difference > 0 ? 1.0 : (difference < 0 ? -1.0 : 0.0)};
  const double below = std::pow(size, order - 1);
  return {below * size, order * std::copysign(below, difference)};
}

// Calls visit(i, j, weight) for each interval on which both quantile functions are constant: i and
// j are ranks, the weight is the interval's length.
template <class Visit>
void walk_quantiles(int64_t b, int64_t c, Visit&& visit) {
  if (b == c) {
    const double weight = 1 / static_cast<double>(b);
    for (int64_t i = 0; i < b; ++i) visit(i, i, weight);
    return;
  }
  const double unit = 1 / (static_cast<double>(b) * static_cast<double>(c));
  int64_t i = 0, j = 0, left_x = c, left_y = b;  // what remains of the two current steps
  while (i < b && j < c) {
    const int64_t step = left_x < left_y ? left_x : left_y;
    visit(i, j, static_cast<double>(step) * unit);
    left_x -= step;
    left_y -= step;
    if (left_x == 0) {
      ++i;
      left_x = c;
    }
    if (left_y == 0) {
      ++j;
      left_y = b;
    }
  }
}

}  // namespace

template <class T>
void sliced_wasserstein(const SlicedWassersteinArgs<T>& args) {
  parallel_for<Workspace<T>>(args.m, [&](int64_t s, Workspace<T>& work) {
    const T* x = args.x + s * args.b;
    const T* y = args.y + s * args.c;
    const SortKey<T>* by_x = sorted(x, args.b, work.x, work);
    const SortKey<T>* by_y = sorted(y, args.c, work.y, work);
    double total = 0, run = 0;
    int64_t terms = 0;
    walk_quantiles(args.b, args.c, [&](int64_t i, int64_t j, double weight) {
      const double difference =
          static_cast<double>(x[by_x[i].index()]) - static_cast<double>(y[by_y[j].index()]);
      run += weight * power(difference, args.order).value;
      if (++terms == kRun) {
        total += run;
        run = 0;
        terms = 0;
      }
    });
    args.value[s] = static_cast<T>(total + run);
  });
}

template <class T>
void sliced_wasserstein_vjp(const SlicedWassersteinVjpArgs<T>& args) {
  parallel_for<Workspace<T>>(args.m, [&](int64_t s, Workspace<T>& work) {
    const T* x = args.x + s * args.b;
    const T* y = args.y + s * args.c;
    const SortKey<T>* by_x = sorted(x, args.b, work.x, work);
    const SortKey<T>* by_y = sorted(y, args.c, work.y, work);
    work.grad_x.resize(args.b);
    work.grad_y.resize(args.c);
    for (int64_t i = 0; i < args.b; ++i) work.grad_x[i] = 0;
    for (int64_t j = 0; j < args.c; ++j) work.grad_y[j] = 0;
    const double grad = static_cast<double>(args.grad[s]);
    walk_quantiles(args.b, args.c, [&](int64_t i, int64_t j, double weight) {
      const int64_t at_x = by_x[i].index(), at_y = by_y[j].index();
      const double difference = static_cast<double>(x[at_x]) - static_cast<double>(y[at_y]);
      const double pull = grad * weight * power(difference, args.order).slope;
      work.grad_x[at_x] += pull;
      work.grad_y[at_y] -= pull;
    });
    if (args.grad_x != nullptr)
      for (int64_t i = 0; i < args.b; ++i)
        args.grad_x[s * args.b + i] = static_cast<T>(work.grad_x[i]);
    if (args.grad_y != nullptr)
      for (int64_t j = 0; j < args.c; ++j)
        args.grad_y[s * args.c + j] = static_cast<T>(work.grad_y[j]);
  });
}

DPSLICE_INSTANTIATE(sliced_wasserstein, SlicedWassersteinArgs)
DPSLICE_INSTANTIATE(sliced_wasserstein_vjp, SlicedWassersteinVjpArgs)

}  // namespace dpslice::DPSLICE_ISA
