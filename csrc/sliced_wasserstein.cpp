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

#include "bucket_sort.h"
#include "parallel.h"

namespace dpslice::DPSLICE_ISA {
namespace {

// Terms summed before they join the total, to keep the rounding error of long sums near that of
// short ones.
constexpr int64_t kRun = 256;

template <class T>
struct Workspace {
  Buffer<SortKey<T>> x, y, scratch;
  SortWork<T> sort;
  Buffer<double> grad_x, grad_y;
};

// The keys are preceded by one, for the sort.
template <class T>
const SortKey<T>* sorted(const T* values, int64_t size, Buffer<SortKey<T>>& keys,
                         Workspace<T>& work) {
  keys.resize(size + 1);
  work.scratch.resize(size);
  sort_values(values, size, keys.data() + 1, work.scratch.data(), work.sort);
  return keys.data() + 1;
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

template <class T>
double difference(SortKey<T> x, SortKey<T> y) {
  return static_cast<double>(number_of(x)) - static_cast<double>(number_of(y));
}

// Equal sizes: each rank is a piece of its own, and each place has one.
template <class T>
double walk_equal(const SortKey<T>* by_x, const SortKey<T>* by_y, int64_t size, double order,
                  T* grad_x, T* grad_y) {
  constexpr int L = kLanes<double>;
  const double weight = 1 / static_cast<double>(size);
  double total = 0;
  for (int64_t start = 0; start < size; start += kRun, by_x += kRun, by_y += kRun) {
    const int64_t count = size - start < kRun ? size - start : kRun;
    double apart[kRun], slope[kRun];
    for (int64_t i = 0; i < count; ++i) apart[i] = difference<T>(by_x[i], by_y[i]);
    for (int64_t i = count; i < padded<double>(count); ++i) apart[i] = 0;
    Vec<double> run{};
    if (order == 2) {
      for (int64_t i = 0; i < count; i += L) {
        const Vec<double> d = load(apart + i);
        run += d * d;
        store(slope + i, 2 * weight * d);
      }
    } else {
      for (int64_t i = 0; i < count; ++i) {
        const Power term = power(apart[i], order);
        apart[i] = term.value;
        slope[i] = weight * term.slope;
      }
      for (int64_t i = 0; i < count; i += L) run += load(apart + i);
    }
    total += weight * sum_lanes<double>(run);
    T pull[kRun];
    for (int64_t i = 0; i < count; ++i) pull[i] = static_cast<T>(slope[i]);
    const auto scatter = [&](const SortKey<T>* keys, T* grad, T sign) {
      for (int64_t i = 0; i < count; ++i) {
        int64_t place = keys[i].index();
        asm("" : "+r"(place));  // or vectors are filled with places, to be taken apart again
        grad[place] = sign * pull[i];
      }
    };
    if (grad_x != nullptr) scatter(by_x, grad_x, T(1));
    if (grad_y != nullptr) scatter(by_y, grad_y, T(-1));
  }
  return total;
}

// Calls visit(i, j, weight) for each interval on which both quantile functions are constant: i and
// j are ranks, the weight is the interval's length.
template <class Visit>
void walk_quantiles(int64_t b, int64_t c, Visit&& visit) {
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

// Adds up the terms of each rank, which come one rank after the other. Where a rank may have far
// more than kRun of them, by runs, which takes a branch that is otherwise not worth it.
template <bool long_ranks>
class RankSums {
 public:
  RankSums(Buffer<double>& sums, int64_t size) {
    sums.resize(size);
    sums_ = sums.data();
    for (int64_t i = 0; i < size; ++i) sums_[i] = 0;
  }
  void add(int64_t rank, double term) {
    if constexpr (long_ranks) {
      if (rank != rank_ || terms_ == kRun) {
        finish();
        rank_ = rank;
      }
      run_ += term;
      ++terms_;
    } else {
      sums_[rank] += term;
    }
  }
  void finish() {
    sums_[rank_] += run_;
    run_ = 0;
    terms_ = 0;
  }

 private:
  double* sums_;
  double run_ = 0;
  int64_t rank_ = 0, terms_ = 0;
};

// Any sizes. Gradients are added up by rank, and then go to their places.
template <bool long_ranks, class T>
double walk_unequal(const SortKey<T>* by_x, const SortKey<T>* by_y, int64_t b, int64_t c,
                    double order, T* grad_x, T* grad_y, Workspace<T>& work) {
  RankSums<long_ranks> sums_x(work.grad_x, b), sums_y(work.grad_y, c);
  double total = 0, run = 0;
  int64_t terms = 0;
  walk_quantiles(b, c, [&](int64_t i, int64_t j, double weight) {
    const Power term = power(difference<T>(by_x[i], by_y[j]), order);
    const double pull = weight * term.slope;
    sums_x.add(i, pull);
    sums_y.add(j, -pull);
    run += weight * term.value;
    if (++terms == kRun) {
      total += run;
      run = 0;
      terms = 0;
    }
  });
  sums_x.finish();
  sums_y.finish();
  if (grad_x != nullptr)
    for (int64_t i = 0; i < b; ++i) grad_x[by_x[i].index()] = static_cast<T>(work.grad_x[i]);
  if (grad_y != nullptr)
    for (int64_t j = 0; j < c; ++j) grad_y[by_y[j].index()] = static_cast<T>(work.grad_y[j]);
  return total + run;
}

// Asks for numbers that are wanted soon. A short row has been read before the processor has noticed
// that it is read in order; a long one need not be asked for.
template <class T>
void fetch_ahead(const T* values, int64_t size) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t i = 0; i < size && i < kLeaf; i += kLine) __builtin_prefetch(values + i);
}

template <class T>
void slice_body(const SlicedWassersteinArgs<T>& args, int64_t s, Workspace<T>& work) {
  if (s + 1 < args.m) {
    fetch_ahead(args.x + (s + 1) * args.b, args.b);
    fetch_ahead(args.y + (s + 1) * args.c, args.c);
  }
  const SortKey<T>* const by_x = sorted(args.x + s * args.b, args.b, work.x, work);
  const SortKey<T>* const by_y = sorted(args.y + s * args.c, args.c, work.y, work);
  T* const grad_x = args.grad_x != nullptr ? args.grad_x + s * args.b : nullptr;
  T* const grad_y = args.grad_y != nullptr ? args.grad_y + s * args.c : nullptr;
  const bool long_ranks = args.b / args.c >= kRun || args.c / args.b >= kRun;
  const double value =
      args.b == args.c ? walk_equal(by_x, by_y, args.b, args.order, grad_x, grad_y)
      : long_ranks
          ? walk_unequal<true>(by_x, by_y, args.b, args.c, args.order, grad_x, grad_y, work)
          : walk_unequal<false>(by_x, by_y, args.b, args.c, args.order, grad_x, grad_y, work);
  args.value[s] = static_cast<T>(value);
}

}  // namespace

template <class T>
void sliced_wasserstein(const SlicedWassersteinArgs<T>& args) {
  parallel_for<Workspace<T>>(args.m,
                             [&](int64_t s, Workspace<T>& work) { slice_body(args, s, work); });
}

DPSLICE_INSTANTIATE(sliced_wasserstein, SlicedWassersteinArgs)

}  // namespace dpslice::DPSLICE_ISA
