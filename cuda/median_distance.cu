// Exact median of the b (b - 1) / 2 pairwise distances of each slice in O(b) memory.
//
// Squared distances are not negative, so their float64 bits are ordered as they are. The median's
// bits are found from the top, a digit in each pass: a pass recomputes all distances and counts the
// next digit of those that share the digits known so far. For an even number of pairs the median is
// the mean of the two middle distances, as in NumPy. The gradient goes to the first pair in order
// (i, j) that attains each; a distance of zero has gradient zero.
#include <cmath>

#include "common/bits.h"
#include "kernels.h"
#include "launch.h"
#include "median_distance.h"

namespace dpslice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBits = 63;  // the sign is 0
constexpr int kDigit = 11;
constexpr int kCounters = 1 << kDigit;
constexpr int kCountersEach = kCounters / kThreads;
constexpr unsigned long long kNone = ~0ull;

using Word = unsigned long long;  // the type that device atomics know

// What is known of one slice.
struct Search {
  double scale;        // brings the coordinates to at most 2, exactly
  Word known;          // the digits found
  Word below, inside;  // pairs that are smaller, and that share the digits
  Word above;          // the smallest squared distance above the first median, kNone before
  Word first, second;  // pairs i b + j that attain the two medians
};

__device__ inline Word pairs_of(int64_t b) { return static_cast<Word>(b * (b - 1) / 2); }

// Fused by hand: every pass must see the same bits.
template <class T>
__device__ inline Word squared_bits(const T* u, const T* v, int64_t k, double scale) {
  double squared = 0;
  for (int64_t t = 0; t < k; ++t) {
    const double difference = static_cast<double>(u[t]) * scale - static_cast<double>(v[t]) * scale;
    squared = fma(difference, difference, squared);
  }
  return bits_as<Word>(squared);
}

// visit(bits, pair) for this block's share of the pairs i < j of its slice.
template <class T, class Visit>
__device__ inline void for_each_pair(const T* points, int64_t b, int64_t k, double scale,
                                     int64_t part, int64_t parts, Visit&& visit) {
  for (int64_t i = part; i + 1 < b; i += parts)
    for (int64_t j = i + 1 + threadIdx.x; j < b; j += kThreads)
      visit(squared_bits(points + i * k, points + j * k, k, scale), static_cast<Word>(i * b + j));
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    start_kernel(const T* x, int64_t b, int64_t k, Search* searches, Word* counters) {
  __shared__ double scratch[kWarps];
  const int64_t s = blockIdx.x;
  double largest = 0;
  for (int64_t i = threadIdx.x; i < b * k; i += kThreads) {
    const double size = fabs(static_cast<double>(x[s * b * k + i]));
    largest = size > largest ? size : largest;
  }
  largest = block_max(largest, scratch);
  for (int n = static_cast<int>(threadIdx.x); n < kCounters; n += kThreads)
    counters[s * kCounters + n] = 0;
  if (threadIdx.x == 0)
    searches[s] = {
        largest > 0 ? ldexp(1.0, -ilogb(largest)) : 1.0, 0, 0, pairs_of(b), kNone, kNone, kNone};
}

// Counts the digit of `width` bits at `shift` of the pairs that share the digits above it.
template <class T>
__global__ void __launch_bounds__(kThreads)
    count_kernel(const T* x, int64_t b, int64_t k, int64_t parts, int shift, int width,
                 const Search* searches, Word* counters) {
  __shared__ unsigned count[kCounters];
  const int64_t s = blockIdx.x / parts, part = blockIdx.x % parts;
  for (int n = static_cast<int>(threadIdx.x); n < kCounters; n += kThreads) count[n] = 0;
  __syncthreads();
  const Word known = searches[s].known, mask = (Word{1} << width) - 1;
  for_each_pair(x + s * b * k, b, k, searches[s].scale, part, parts, [&](Word bits, Word) {
    if (bits >> (shift + width) == known) atomicAdd(&count[bits >> shift & mask], 1u);
  });
  __syncthreads();
  for (int n = static_cast<int>(threadIdx.x); n < kCounters; n += kThreads)
    if (count[n] != 0) atomicAdd(&counters[s * kCounters + n], static_cast<Word>(count[n]));
}

// Takes the digit in which the rank falls, and clears the counters.
__global__ void __launch_bounds__(kThreads)
    choose_kernel(int64_t b, int width, Search* searches, Word* counters) {
  __shared__ Word sums[kThreads];
  const int64_t s = blockIdx.x;
  Word* const own = counters + s * kCounters + static_cast<int64_t>(threadIdx.x) * kCountersEach;
  Word sum = 0;
  for (int n = 0; n < kCountersEach; ++n) sum += own[n];
  sums[threadIdx.x] = sum;
  __syncthreads();
  const Word rank = (pairs_of(b) - 1) / 2;
  const Word known = searches[s].known;
  Word below = searches[s].below;
  for (unsigned t = 0; t < threadIdx.x; ++t) below += sums[t];
  __syncthreads();
  if (below <= rank && rank < below + sum) {  // one thread alone
    int n = 0;
    while (below + own[n] <= rank) below += own[n++];
    searches[s].known =
        known << width | static_cast<Word>(static_cast<int>(threadIdx.x) * kCountersEach + n);
    searches[s].below = below;
    searches[s].inside = own[n];
  }
  for (int n = 0; n < kCountersEach; ++n) own[n] = 0;
}

// Does the second median differ from the first?
__device__ inline bool needs_above(const Search& search, int64_t b) {
  const Word pairs = pairs_of(b);
  return pairs % 2 == 0 && (pairs - 1) / 2 + 1 - search.below >= search.inside;
}

// The smallest squared distance above the first median, and the first pair that attains it.
template <class T>
__global__ void __launch_bounds__(kThreads)
    above_kernel(const T* x, int64_t b, int64_t k, int64_t parts, Search* searches) {
  const int64_t s = blockIdx.x / parts, part = blockIdx.x % parts;
  const Word known = searches[s].known;
  Word above = kNone, first = kNone;
  for_each_pair(x + s * b * k, b, k, searches[s].scale, part, parts, [&](Word bits, Word pair) {
    if (bits > known && bits < above) above = bits;
    if (bits == known && pair < first) first = pair;
  });
  if (above != kNone) atomicMin(&searches[s].above, above);
  if (first != kNone) atomicMin(&searches[s].first, first);
}

// The first pair that attains the second median, where that is another number.
template <class T>
__global__ void __launch_bounds__(kThreads)
    second_pair_kernel(const T* x, int64_t b, int64_t k, int64_t parts, Search* searches) {
  const int64_t s = blockIdx.x / parts, part = blockIdx.x % parts;
  if (!needs_above(searches[s], b)) return;
  const Word wanted = searches[s].above;
  Word second = kNone;
  for_each_pair(x + s * b * k, b, k, searches[s].scale, part, parts, [&](Word bits, Word pair) {
    if (bits == wanted && pair < second) second = pair;
  });
  if (second != kNone) atomicMin(&searches[s].second, second);
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    value_kernel(int64_t m, int64_t b, const Search* searches, T* value) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (s >= m) return;
  const double first = sqrt(bits_as<double>(searches[s].known));
  const double second =
      needs_above(searches[s], b) ? sqrt(bits_as<double>(searches[s].above)) : first;
  value[s] = static_cast<T>(0.5 * (first + second) / searches[s].scale);
}

// grad_x is zero before. One block for each slice, a coordinate for each thread; both pairs may be
// the same, or share a point.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pull_kernel(const T* x, int64_t b, int64_t k, const Search* searches, const T* grad,
                T* grad_x) {
  const int64_t s = blockIdx.x;
  const Search search = searches[s];
  const T* const points = x + s * b * k;
  T* const out = grad_x + s * b * k;
  for (int64_t n = threadIdx.x; n < b * k; n += kThreads) out[n] = T(0);
  __syncthreads();
  const bool differ = needs_above(search, b);
  for (int which = 0; which < 2; ++which) {
    const bool other = which == 1 && differ;
    const double length = sqrt(bits_as<double>(other ? search.above : search.known));
    const Word pair = other ? search.second : search.first;
    if (!(length > 0) || pair == kNone) continue;  // kNone: the points hold NaN
    const int64_t i = static_cast<int64_t>(pair) / b, j = static_cast<int64_t>(pair) % b;
    const double half = 0.5 * static_cast<double>(grad[s]) / length;
    for (int64_t t = threadIdx.x; t < k; t += kThreads) {
      const double pull = half * (static_cast<double>(points[i * k + t]) * search.scale -
                                  static_cast<double>(points[j * k + t]) * search.scale);
      out[i * k + t] = static_cast<T>(static_cast<double>(out[i * k + t]) + pull);
      out[j * k + t] = static_cast<T>(static_cast<double>(out[j * k + t]) - pull);
    }
  }
}

constexpr int64_t kBlocksPerMultiprocessor = 4;

// Finds the medians; with `pairs` also which pairs attain them.
template <class T>
void launch_search(const T* x, int64_t m, int64_t b, int64_t k, bool pairs, Search* searches,
                   const Execution& execution) {
  const int64_t most = ceil_div(kBlocksPerMultiprocessor * execution.multiprocessors, m);
  const int64_t parts = most < b ? most : b;
  Workspace<Word> counters(m * kCounters, execution);
  launch(start_kernel<T>, m, kThreads, 0, execution, x, b, k, searches, counters.data());
  for (int shift = kBits; shift > 0;) {
    const int width = shift < kDigit ? shift : kDigit;
    shift -= width;
    launch(count_kernel<T>, m * parts, kThreads, 0, execution, x, b, k, parts, shift, width,
           static_cast<const Search*>(searches), counters.data());
    launch(choose_kernel, m, kThreads, 0, execution, b, width, searches, counters.data());
  }
  launch(above_kernel<T>, m * parts, kThreads, 0, execution, x, b, k, parts, searches);
  if (pairs)
    launch(second_pair_kernel<T>, m * parts, kThreads, 0, execution, x, b, k, parts, searches);
}

}  // namespace

template <class T>
void median_distance(const MedianDistanceArgs<T>& args, const Execution& execution) {
  Workspace<Search> searches(args.m, execution);
  launch_search(args.x, args.m, args.b, args.k, false, searches.data(), execution);
  launch(value_kernel<T>, ceil_div(args.m, kThreads), kThreads, 0, execution, args.m, args.b,
         static_cast<const Search*>(searches.data()), args.value);
}

template <class T>
void median_distance_vjp(const MedianDistanceVjpArgs<T>& args, const Execution& execution) {
  Workspace<Search> searches(args.m, execution);
  launch_search(args.x, args.m, args.b, args.k, true, searches.data(), execution);
  launch(pull_kernel<T>, args.m, kThreads, 0, execution, args.x, args.b, args.k,
         static_cast<const Search*>(searches.data()), args.grad, args.grad_x);
}

DPSLICE_CUDA_INSTANTIATE(median_distance, MedianDistanceArgs)
DPSLICE_CUDA_INSTANTIATE(median_distance_vjp, MedianDistanceVjpArgs)

}  // namespace dpslice::cuda
