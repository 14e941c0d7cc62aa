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
  Buffer<uint32_t> counters;
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

// Calls visit(place of x, place of y, difference, weight) for each piece of the coupling of slice
// s.
template <class T, class Args, class Visit>
void walk_coupling(const Args& args, int64_t s, Workspace<T>& work, Visit&& visit) {
  const T* const x = args.x + s * args.b;
  const T* const y = args.y + s * args.c;
  const SortKey<T>* const by_x = sorted(x, args.b, work.x, work);
  const SortKey<T>* const by_y = sorted(y, args.c, work.y, work);
  walk_quantiles(args.b, args.c, [&](int64_t i, int64_t j, double weight) {
    const int64_t at_x = by_x[i].index(), at_y = by_y[j].index();
    visit(at_x, at_y, static_cast<double>(x[at_x]) - static_cast<double>(y[at_y]), weight);
  });
}

// The gradients of one slice, added up piece by piece and written at the end. Where both sides have
// the same size, each place is one piece, and is written at once.
template <class T>
class SliceGradients {
 public:
  template <class Args>
  SliceGradients(const Args& args, int64_t s, Workspace<T>& work)
      : one_piece_(args.b == args.c),
        b_(args.b),
        c_(args.c),
        x_(args.grad_x != nullptr ? args.grad_x + s * args.b : nullptr),
        y_(args.grad_y != nullptr ? args.grad_y + s * args.c : nullptr) {
    if (one_piece_) return;
    work.grad_x.resize(b_);
    work.grad_y.resize(c_);
    sums_x_ = work.grad_x.data();
    sums_y_ = work.grad_y.data();
    for (int64_t i = 0; i < b_; ++i) sums_x_[i] = 0;
    for (int64_t j = 0; j < c_; ++j) sums_y_[j] = 0;
  }
  void add(int64_t at_x, int64_t at_y, double pull) {
    if (one_piece_) {
      if (x_ != nullptr) x_[at_x] = static_cast<T>(pull);
      if (y_ != nullptr) y_[at_y] = static_cast<T>(-pull);
    } else {
      sums_x_[at_x] += pull;
      sums_y_[at_y] -= pull;
    }
  }
  void finish() {
    if (one_piece_) return;
    if (x_ != nullptr)
      for (int64_t i = 0; i < b_; ++i) x_[i] = static_cast<T>(sums_x_[i]);
    if (y_ != nullptr)
      for (int64_t j = 0; j < c_; ++j) y_[j] = static_cast<T>(sums_y_[j]);
  }

 private:
  bool one_piece_;
  int64_t b_, c_;
  T *x_, *y_;
  double *sums_x_ = nullptr, *sums_y_ = nullptr;
};

}  // namespace

template <class T>
void sliced_wasserstein(const SlicedWassersteinArgs<T>& args) {
  parallel_for<Workspace<T>>(args.m, [&](int64_t s, Workspace<T>& work) {
    SliceGradients<T> gradients(args, s, work);
    double total = 0, run = 0;
    int64_t terms = 0;
    walk_coupling<T>(args, s, work,
                     [&](int64_t at_x, int64_t at_y, double difference, double weight) {
                       const Power term = power(difference, args.order);
                       gradients.add(at_x, at_y, weight * term.slope);
                       run += weight * term.value;
                       if (++terms == kRun) {
                         total += run;
                         run = 0;
                         terms = 0;
                       }
                     });
    args.value[s] = static_cast<T>(total + run);
    gradients.finish();
  });
}

DPSLICE_INSTANTIATE(sliced_wasserstein, SlicedWassersteinArgs)

}  // namespace dpslice::DPSLICE_ISA
