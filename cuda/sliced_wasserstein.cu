// W_q^q between empirical measures on the line: sort both sides, walk along their quantile
// functions.
//
// Rank i of b holds the quantiles (i c, (i + 1) c] in units of 1 / (b c), and adds up what overlaps
// with it on the other side: integers, so unequal sizes are exact. The gradient is taken with the
// matching held fixed; where values tie, the lower index comes first. At order 1 the slope of |.|
// at 0 is 0.
//
// Slices that fit into a block are done by one, from the sort to the gradients, in its shared
// memory. Longer ones are sorted in global memory (sort_rows.h), and walked along in parts.
#include <cmath>

#include "block_sort.cuh"
#include "common/bits.h"
#include "kernels.h"
#include "launch.h"
#include "sliced_wasserstein.h"
#include "sort_rows.h"

namespace dpslice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kPart = 2048;  // ranks that one block walks along
constexpr int kResident = 1024;  // threads of short slices that registers are left for

// --------------------------------------------------------------------------------------- quantiles

// |d|^q and its derivative in d.
struct Power {
  double value, slope;
};
__device__ inline Power power(double difference, double order) {
  if (order == 2) return {difference * difference, 2 * difference};
  const double size = fabs(difference);
  if (order == 1) return {size, difference > 0 ? 1.0 : (difference < 0 ? -1.0 : 0.0)};
  const double below = pow(size, order - 1);
  return {below * size, order * copysign(below, difference)};
}

// One side of a slice: Size holds the product of the sizes of both.
template <class T, class Size, class PlaceOf>
struct Side {
  Size size;
  const T* values;        // ascending
  const PlaceOf* places;  // where they were before; for gradients only
};

// How many lanes add up what overlaps with a rank.
template <class Size>
__device__ inline int lanes_of_rank(Size own, Size other) {
  return other / own >= kWarp ? kWarp : 1;
}

// Adds up the powers of the ranks first ... last of this side, each thread of the block its share,
// and writes their gradients, unless that is null.
template <class T, class Size, class PlaceOf>
__device__ inline double walk(const Side<T, Size, PlaceOf>& own,
                              const Side<T, Size, PlaceOf>& other, Size first, Size last,
                              double order, T* grad) {
  const Size thread = static_cast<Size>(threadIdx.x), threads = static_cast<Size>(blockDim.x);
  const auto apart = [&](Size i, Size j) {
    return static_cast<double>(own.values[i]) - static_cast<double>(other.values[j]);
  };
  double total = 0;
  if (own.size == other.size) {
    const double weight = 1 / static_cast<double>(own.size);
    for (Size i = first + thread; i < last; i += threads) {
      const Power term = power(apart(i, i), order);
      total += weight * term.value;
      if (grad != nullptr) grad[own.places[i]] = static_cast<T>(weight * term.slope);
    }
    return total;
  }
  const double unit = 1 / (static_cast<double>(own.size) * static_cast<double>(other.size));
  const int lanes = lanes_of_rank(own.size, other.size);
  const Size lane = thread % lanes;
  for (Size i = first + thread / lanes; i < last; i += threads / lanes) {
    const Size begin = i * other.size, end = begin + other.size;
    double slope = 0;
    for (Size j = begin / own.size + lane; j * own.size < end; j += lanes) {
      const Size from = j * own.size > begin ? j * own.size : begin;
      const Size to = (j + 1) * own.size < end ? (j + 1) * own.size : end;
      const double weight = static_cast<double>(to - from) * unit;
      const Power term = power(apart(i, j), order);
      total += weight * term.value;
      slope += weight * term.slope;
    }
    if (grad == nullptr) continue;
    if (lanes == kWarp) slope = lane_sum<kWarp>(slope);
    if (lane == 0) grad[own.places[i]] = static_cast<T>(slope);
  }
  return total;
}

// ------------------------------------------------------------------------------------ short slices

// What a block has in shared memory: room to sort, and then for a gradient; the sorted values of x
// and y; and their places, where gradients are wanted.
template <class T, int threads, int items>
struct ShortSlice {
  using Key = decltype(ordered_bits(T()));
  using Sort = BlockSort<Key, threads, items>;
  static constexpr int64_t kCapacity = threads * items;
  static_assert(kCapacity <= 1 + int64_t{UINT16_MAX});
  static constexpr int64_t kRoom = ceil_div(sizeof(typename Sort::Storage), 16) * 16;
  static_assert(kRoom >= kCapacity * int64_t{sizeof(T)} && alignof(typename Sort::Storage) <= 16);

  static size_t bytes(const SlicedWassersteinArgs<T>& args) {
    const int64_t each = sizeof(T) + (args.grad_x != nullptr || args.grad_y != nullptr
                                          ? static_cast<int64_t>(sizeof(Place))
                                          : 0);
    return static_cast<size_t>(kRoom + (args.b + args.c) * each);
  }

  // Sorts a side of a slice; `places` may be null.
  __device__ static void sort(const T* side, int size, T* values, Place* places) {
    auto& storage = *dynamic_shared<typename Sort::Storage>();
    Key keys[items];
    Place from[items];
#pragma unroll
    for (int n = 0; n < items; ++n) {
      // What fills up comes last: after its equals, too.
      const int at = Sort::place(n);
      keys[n] = at < size ? ordered_bits(side[at]) : static_cast<Key>(~Key(0));
      from[n] = static_cast<Place>(at);
    }
    if (places != nullptr)
      Sort::sort(storage, keys, from);
    else
      Sort::sort(storage, keys);
#pragma unroll
    for (int n = 0; n < items; ++n) {
      const int rank = Sort::place(n);
      if (rank >= size) continue;
      values[rank] = number_of_bits(keys[n]);
      if (places != nullptr) places[rank] = from[n];
    }
    __syncthreads();
  }
};

template <class T, int threads, int items>
__global__ void __launch_bounds__(threads, kResident / threads)
    short_slices_kernel(SlicedWassersteinArgs<T> args) {
  using Slice = ShortSlice<T, threads, items>;
  __shared__ double scratch[threads / kWarp];
  const int64_t slice = blockIdx.x;
  const int b = static_cast<int>(args.b), c = static_cast<int>(args.c);
  T* const room = dynamic_shared<T>();
  T* const values = room + Slice::kRoom / static_cast<int64_t>(sizeof(T));
  Place* const places = reinterpret_cast<Place*>(values + b + c);
  T* const grad_x = args.grad_x != nullptr ? args.grad_x + slice * b : nullptr;
  T* const grad_y = args.grad_y != nullptr ? args.grad_y + slice * c : nullptr;
  const Side<T, int, Place> x{b, values, places}, y{c, values + b, places + b};

  // Loops over the sides keep the code to one sort, and to one walk.
#pragma unroll 1
  for (int side = 0; side < 2; ++side) {
    const auto of = [side](auto for_x, auto for_y) { return side == 0 ? for_x : for_y; };
    const bool placed = of(grad_x, grad_y) != nullptr;
    Slice::sort(of(args.x + slice * b, args.y + slice * c), of(b, c), of(values, values + b),
                placed ? of(places, places + b) : nullptr);
  }
  // The longer side has the more ranks to share. |d|^q is even, so the gradient in y is that in x
  // with the sides exchanged.
  const bool along_x = b > c || (b == c && grad_x != nullptr);
  double sum = 0;
#pragma unroll 1
  for (int side = 0; side < 2; ++side) {
    const auto of = [side](auto for_x, auto for_y) { return side == 0 ? for_x : for_y; };
    const bool of_value = of(along_x, !along_x);
    T* const grad = of(grad_x, grad_y);
    if (!of_value && grad == nullptr) continue;
    const double part =
        walk(of(x, y), of(y, x), 0, of(b, c), args.order, grad == nullptr ? nullptr : room);
    if (of_value) sum = part;
    if (grad == nullptr) continue;
    __syncthreads();
    for (int i = static_cast<int>(threadIdx.x); i < of(b, c); i += threads) grad[i] = room[i];
    __syncthreads();
  }
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) args.value[slice] = static_cast<T>(sum);
}

// Does the work, if a block of that size can.
template <class T, int threads, int items>
bool short_slices(const SlicedWassersteinArgs<T>& args, const Execution& execution) {
  using Slice = ShortSlice<T, threads, items>;
  if (args.b > Slice::kCapacity || args.c > Slice::kCapacity ||
      Slice::bytes(args) > execution.shared_limit)
    return false;
  launch(short_slices_kernel<T, threads, items>, args.m, threads, Slice::bytes(args), execution,
         args);
  return true;
}

bool short_slices(const SlicedWassersteinArgs<float>& args, const Execution& execution) {
  return short_slices<float, 32, 1>(args, execution) ||
         short_slices<float, 32, 4>(args, execution) ||
         short_slices<float, 64, 8>(args, execution) ||
         short_slices<float, 128, 8>(args, execution) ||
         short_slices<float, 256, 8>(args, execution) ||
         short_slices<float, 512, 8>(args, execution);
}
bool short_slices(const SlicedWassersteinArgs<double>& args, const Execution& execution) {
  return short_slices<double, 32, 1>(args, execution) ||
         short_slices<double, 32, 4>(args, execution) ||
         short_slices<double, 64, 8>(args, execution) ||
         short_slices<double, 128, 8>(args, execution) ||
         short_slices<double, 256, 8>(args, execution);
}

// ------------------------------------------------------------------------------------- long slices

template <class T>
using LongSide = Side<T, int64_t, uint32_t>;

// Where a slice of a side begins.
template <class T>
__device__ inline LongSide<T> slice_of(const LongSide<T>& side, int64_t slice) {
  return {side.size, side.values + slice * side.size,
          side.places == nullptr ? nullptr : side.places + slice * side.size};
}

// sums [m, parts]: of the values; or null, as may be the gradient.
template <class T>
__global__ void __launch_bounds__(kThreads)
    walk_kernel(LongSide<T> own, LongSide<T> other, int64_t parts, double order, double* sums,
                T* grad) {
  __shared__ double scratch[kWarps];
  const int64_t slice = blockIdx.x / parts, first = blockIdx.x % parts * kPart;
  const double sum = block_sum(walk(slice_of(own, slice), slice_of(other, slice), first,
                                    first + kPart < own.size ? first + kPart : own.size, order,
                                    grad == nullptr ? nullptr : grad + slice * own.size),
                               scratch);
  if (sums != nullptr && threadIdx.x == 0) sums[blockIdx.x] = sum;
}

// One block for each slice.
template <class T>
__global__ void __launch_bounds__(kThreads)
    combine_parts_kernel(const double* sums, int64_t parts, T* value) {
  __shared__ double scratch[kWarps];
  const int64_t slice = blockIdx.x;
  double sum = 0;
  for (int64_t part = threadIdx.x; part < parts; part += kThreads)
    sum += sums[slice * parts + part];
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) value[slice] = static_cast<T>(sum);
}

// A side with the memory of its sorted values.
template <class T>
class SortedSide {
 public:
  SortedSide(const T* values, int64_t m, int64_t size, bool placed, const Execution& execution)
      : size_(size),
        values_(m * size, execution),
        places_(placed ? m * size : 0, execution),
        placed_(placed) {
    sort_rows(values, m, size, values_.data(), placed ? places_.data() : nullptr, execution);
  }
  LongSide<T> side() const { return {size_, values_.data(), placed_ ? places_.data() : nullptr}; }

 private:
  int64_t size_;
  Workspace<T> values_;
  Workspace<uint32_t> places_;
  bool placed_;
};

template <class T>
void long_slices(const SlicedWassersteinArgs<T>& args, const Execution& execution) {
  const SortedSide<T> x(args.x, args.m, args.b, args.grad_x != nullptr, execution),
      y(args.y, args.m, args.c, args.grad_y != nullptr, execution);
  const bool along_x = args.b > args.c || (args.b == args.c && args.grad_x != nullptr);
  const int64_t longer = args.b > args.c ? args.b : args.c;
  const Workspace<double> sums(args.m * ceil_div(longer, kPart), execution);
  const auto walk_along = [&](const SortedSide<T>& own, const SortedSide<T>& other, bool of_value,
                              T* grad) {
    if (!of_value && grad == nullptr) return;
    const int64_t parts = ceil_div(own.side().size, kPart);
    launch(walk_kernel<T>, args.m * parts, kThreads, 0, execution, own.side(), other.side(), parts,
           args.order, of_value ? sums.data() : nullptr, grad);
  };
  // The same as of short slices.
  walk_along(x, y, along_x, args.grad_x);
  walk_along(y, x, !along_x, args.grad_y);
  launch(combine_parts_kernel<T>, args.m, kThreads, 0, execution,
         static_cast<const double*>(sums.data()), ceil_div(longer, kPart), args.value);
}

}  // namespace

template <class T>
void sliced_wasserstein(const SlicedWassersteinArgs<T>& args, const Execution& execution) {
  if (!short_slices(args, execution)) long_slices(args, execution);
}

DPSLICE_CUDA_INSTANTIATE(sliced_wasserstein, SlicedWassersteinArgs)

}  // namespace dpslice::cuda
