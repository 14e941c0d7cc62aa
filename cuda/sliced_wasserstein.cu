// W_q^q between empirical measures on the line: sort both sides, walk along their quantile
// functions.
//
// Rows are sorted by bitonic merging of (value, index) pairs: a chunk at a time in shared memory,
// with the wide steps of longer rows in global memory. Then rank i of b holds the quantiles
// (i c, (i + 1) c] in units of 1 / (b c), and one thread adds up what overlaps with it on the other
// side: integers, so unequal sizes are exact. The gradient is taken with the matching held fixed;
// where values tie, the lower index comes first. At order 1 the slope of |.| at 0 is 0.
#include <cmath>

#include "common/bits.h"
#include "kernels.h"
#include "launch.h"
#include "sliced_wasserstein.h"

namespace dpslice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int64_t kChunk = 2048;  // pairs sorted in shared memory at a time

// A value, as bits whose order as an unsigned number is that of the values, with its index.
template <class T>
struct SortKey;
template <>
struct SortKey<float> {
  uint64_t both;
  __device__ static SortKey make(float value, uint32_t index) {
    return {static_cast<uint64_t>(ordered_bits(value)) << 32 | index};
  }
  __device__ static SortKey last() { return {~uint64_t{0}}; }
  __device__ uint32_t index() const { return static_cast<uint32_t>(both); }
  __device__ bool before(const SortKey& other) const { return both < other.both; }
};
template <>
struct SortKey<double> {
  uint64_t ordered;
  uint64_t place;
  __device__ static SortKey make(double value, uint32_t index) {
    return {ordered_bits(value), index};
  }
  __device__ static SortKey last() { return {~uint64_t{0}, ~uint64_t{0}}; }
  __device__ uint32_t index() const { return static_cast<uint32_t>(place); }
  __device__ bool before(const SortKey& other) const {
    return ordered < other.ordered || (ordered == other.ordered && place < other.place);
  }
};

// ----------------------------------------------------------------------------------------- sorting

// Puts keys[i] and keys[i + stride] in order: ascending where bit `size` of the place is 0.
template <class Key>
__device__ inline void compare_exchange(Key& low, Key& high, bool ascending) {
  if (high.before(low) == ascending) {
    const Key kept = low;
    low = high;
    high = kept;
  }
}

// The lower of the pair number `at` whose places differ by `stride`.
__device__ inline int64_t lower_place(int64_t at, int64_t stride) {
  return at / stride * 2 * stride + at % stride;
}

// Steps of one chunk for sizes first_size ... last_size: with stride size / 2, or in a merge of a
// larger size kChunk / 2, downwards.
template <class Key>
__device__ inline void chunk_steps(Key* keys, int64_t chunk, int64_t offset, int64_t first_size,
                                   int64_t last_size) {
  for (int64_t size = first_size; size <= last_size; size *= 2)
    for (int64_t stride = (size < chunk ? size : chunk) / 2; stride > 0; stride /= 2) {
      __syncthreads();
      for (int64_t at = threadIdx.x; at < chunk / 2; at += kThreads) {
        const int64_t i = lower_place(at, stride);
        compare_exchange(keys[i], keys[i + stride], ((offset + i) & size) == 0);
      }
    }
  __syncthreads();
}

// keys [m, padded]: each chunk sorted, alternating in direction; padded a power of two >= chunk.
template <class T>
__global__ void __launch_bounds__(kThreads)
    sort_chunks_kernel(const T* values, int64_t size, int64_t padded, int64_t chunk,
                       SortKey<T>* keys) {
  SortKey<T>* const shared = dynamic_shared<SortKey<T>>();
  const int64_t chunks = padded / chunk;
  const int64_t row = blockIdx.x / chunks, offset = blockIdx.x % chunks * chunk;
  for (int64_t i = threadIdx.x; i < chunk; i += kThreads)
    shared[i] = offset + i < size ? SortKey<T>::make(values[row * size + offset + i],
                                                     static_cast<uint32_t>(offset + i))
                                  : SortKey<T>::last();
  chunk_steps(shared, chunk, offset, 2, chunk);
  for (int64_t i = threadIdx.x; i < chunk; i += kThreads)
    keys[row * padded + offset + i] = shared[i];
}

// One step with a stride of at least a chunk.
template <class T>
__global__ void __launch_bounds__(kThreads)
    wide_step_kernel(int64_t pairs, int64_t padded, int64_t size, int64_t stride,
                     SortKey<T>* keys) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= pairs) return;
  const int64_t i = lower_place(at, stride);
  compare_exchange(keys[i], keys[i + stride], ((i % padded) & size) == 0);
}

// The steps of one size with strides below a chunk.
template <class T>
__global__ void __launch_bounds__(kThreads)
    merge_chunks_kernel(int64_t padded, int64_t chunk, int64_t size, SortKey<T>* keys) {
  SortKey<T>* const shared = dynamic_shared<SortKey<T>>();
  SortKey<T>* const own = keys + static_cast<int64_t>(blockIdx.x) * chunk;
  for (int64_t i = threadIdx.x; i < chunk; i += kThreads) shared[i] = own[i];
  chunk_steps(shared, chunk, blockIdx.x % (padded / chunk) * chunk, size, size);
  for (int64_t i = threadIdx.x; i < chunk; i += kThreads) own[i] = shared[i];
}

int64_t padded_size(int64_t size) {
  int64_t padded = 2;
  while (padded < size) padded *= 2;
  return padded;
}

template <class T>
void launch_sort(const T* values, int64_t m, int64_t size, SortKey<T>* keys,
                 const Execution& execution) {
  const int64_t padded = padded_size(size);
  const int64_t chunk = padded < kChunk ? padded : kChunk;
  const int64_t blocks = m * (padded / chunk);
  const size_t shared = static_cast<size_t>(chunk) * sizeof(SortKey<T>);
  launch(sort_chunks_kernel<T>, blocks, kThreads, shared, execution, values, size, padded, chunk,
         keys);
  for (int64_t width = 2 * chunk; width <= padded; width *= 2) {
    for (int64_t stride = width / 2; stride >= chunk; stride /= 2) {
      const int64_t pairs = m * padded / 2;
      launch(wide_step_kernel<T>, ceil_div(pairs, kThreads), kThreads, 0, execution, pairs, padded,
             width, stride, keys);
    }
    launch(merge_chunks_kernel<T>, blocks, kThreads, shared, execution, padded, chunk, width, keys);
  }
}

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

template <class T>
struct Sorted {
  int64_t size, padded;
  const T* values;         // [m, size]
  const SortKey<T>* keys;  // [m, padded]
};

// sum over the other side's ranks j that overlap with rank i: weight * visit(own - other).
template <class T, class Visit>
__device__ inline double overlap_sum(const Sorted<T>& own, const Sorted<T>& other, int64_t slice,
                                     int64_t i, Visit&& visit) {
  const double unit = 1 / (static_cast<double>(own.size) * static_cast<double>(other.size));
  const double value =
      static_cast<double>(own.values[slice * own.size + own.keys[slice * own.padded + i].index()]);
  const int64_t begin = i * other.size, end = begin + other.size;
  double sum = 0;
  for (int64_t j = begin / own.size; j * own.size < end; ++j) {
    const int64_t first = j * own.size > begin ? j * own.size : begin;
    const int64_t last = (j + 1) * own.size < end ? (j + 1) * own.size : end;
    const double opposite = static_cast<double>(
        other.values[slice * other.size + other.keys[slice * other.padded + j].index()]);
    sum += static_cast<double>(last - first) * unit * visit(value - opposite);
  }
  return sum;
}

// One block for each slice.
template <class T>
__global__ void __launch_bounds__(kThreads)
    wasserstein_kernel(Sorted<T> x, Sorted<T> y, double order, T* value) {
  __shared__ double scratch[kWarps];
  const int64_t slice = blockIdx.x;
  double sum = 0;
  for (int64_t i = threadIdx.x; i < x.size; i += kThreads)
    sum += overlap_sum(x, y, slice, i, [&](double d) { return power(d, order).value; });
  sum = block_sum(sum, scratch);
  if (threadIdx.x == 0) value[slice] = static_cast<T>(sum);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    wasserstein_pull_kernel(int64_t ranks, Sorted<T> own, Sorted<T> other, double order, T* out) {
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= ranks) return;
  const int64_t slice = at / own.size, i = at % own.size;
  const double slope =
      overlap_sum(own, other, slice, i, [&](double d) { return power(d, order).slope; });
  out[slice * own.size + own.keys[slice * own.padded + i].index()] = static_cast<T>(slope);
}

// A side with the memory of its sorted keys.
template <class T>
class SortedSide {
 public:
  SortedSide(const T* values, int64_t m, int64_t size, const Execution& execution)
      : values_(values), size_(size), keys_(m * padded_size(size), execution) {
    if (size > INT32_MAX) throw std::invalid_argument("a row has at most 2147483647 values");
    launch_sort(values, m, size, keys_.data(), execution);
  }
  Sorted<T> sorted() const { return {size_, padded_size(size_), values_, keys_.data()}; }

 private:
  const T* values_;
  int64_t size_;
  Workspace<SortKey<T>> keys_;
};

}  // namespace

template <class T>
void sliced_wasserstein(const SlicedWassersteinArgs<T>& args, const Execution& execution) {
  const SortedSide<T> x(args.x, args.m, args.b, execution), y(args.y, args.m, args.c, execution);
  launch(wasserstein_kernel<T>, args.m, kThreads, 0, execution, x.sorted(), y.sorted(), args.order,
         args.value);
  const auto pull = [&](const SortedSide<T>& own, const SortedSide<T>& other, T* out) {
    if (out == nullptr) return;
    const int64_t ranks = args.m * own.sorted().size;
    launch(wasserstein_pull_kernel<T>, ceil_div(ranks, kThreads), kThreads, 0, execution, ranks,
           own.sorted(), other.sorted(), args.order, out);
  };
  // |d|^q is even, so the gradient in y is that in x with the sides exchanged.
  pull(x, y, args.grad_x);
  pull(y, x, args.grad_y);
}

DPSLICE_CUDA_INSTANTIATE(sliced_wasserstein, SlicedWassersteinArgs)

}  // namespace dpslice::cuda
