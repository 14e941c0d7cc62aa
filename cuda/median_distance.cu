// Exact median of the b (b - 1) / 2 pairwise distances of each slice in O(b) memory: that of as
// many slices at a time as execution.share_bytes has room for.
//
// Squared distances are not negative, so their bits are ordered as they are: they are the keys that
// are counted. All passes recompute all distances, from tiles of points in shared memory. A pass
// counts the digits of the keys in a window, which the next pass narrows; once few enough are left,
// a pass collects them, and one block selects from them. What a pass does for a slice is decided
// on the device, by the block of the slice that finishes last; passes that are not needed return at
// once.
//
// Distances of float32 points are computed in float32 first. They are within relative_error of the
// exact ones, all terms being positive, which is enough to tell that nearly all pairs are not the
// median; those that may be are collected with their float64 bits. Where they are too many (equal
// distances) or too small for that bound, all is done in float64, as for float64 points.
//
// For an even number of pairs the median is the mean of the two middle distances, as in NumPy. The
// gradient goes to the first pair in order (i, j) that attains each; a distance of zero has
// gradient zero.
#include <cmath>

#include "common/bits.h"
#include "kernels.h"
#include "launch.h"
#include "median_distance.h"

namespace dpslice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kSide = 16;   // threads along each side of a tile
constexpr int kChunk = 16;  // coordinates in shared memory, where they are many
constexpr int kDigit = 11;
constexpr int kCounters = 1 << kDigit;
constexpr int kCountersEach = kCounters / kThreads;
constexpr int64_t kBlocksPerMultiprocessor = 6;   // 2 or 3 of which fit at a time
constexpr int64_t kMostTiles = int64_t{1} << 17;  // of one block, whose counters have 32 bits
constexpr int64_t kRoughDims = 65536;             // more coordinates have no use for float32

using Word = unsigned long long;  // the type that device atomics know
constexpr Word kNone = ~0ull;

// What the next pass does for a slice.
enum class Step { count_rough, collect_rough, count, collect, ends, done };

// The largest number of passes: two digits of float32 and a collection in vain; six digits of the
// 63 bits of float64, and the ends. What float32 leaves to float64, a window or a collection, holds
// the medians by its bound, and what was counted fits: so nothing starts again among the last.
constexpr int kRoughPasses = 3, kExactPasses = 7;

struct Window {
  Word low, last;  // keys low ... low + last
  int shift;       // of the digit that is counted
};

// What is known of one slice.
struct Search {
  Word largest;  // bits of the largest |coordinate|
  Step step;
  Window window;
  Word below, collected;  // of the current pass
  unsigned arrived;       // blocks that have finished it
  bool differ;            // are the two medians different numbers?
  Word known, above;      // their bits
  Word first, second;     // pairs i b + j that attain them
};

struct Entry {
  Word bits, pair;
};

// What one block has found of the pairs that attain the medians.
struct Ends {
  Word first, above, second;
};

// All that passes share.
template <class T>
struct Task {
  const T* x;
  int64_t b, k;
  int64_t parts;     // blocks of a slice
  int64_t capacity;  // entries of a slice
  Search* searches;  // [m]
  Word* counters;    // [m, kCounters], or null: no pass counts
  Entry* entries;    // [m, capacity]
  Ends* ends;        // [m, parts]
};

__host__ __device__ inline Word pairs_of(int64_t b) { return static_cast<Word>(b * (b - 1) / 2); }
__host__ __device__ inline Word rank_of(int64_t b) { return (pairs_of(b) - 1) / 2; }

// The power of two that brings the coordinates to at most 2.
__device__ inline double scale_of(const Search& search) {
  const double largest = bits_as<double>(search.largest);
  constexpr int kMost = 1023;
  return largest > 0 ? ldexp(1.0, ilogb(largest) < -kMost ? kMost : -ilogb(largest)) : 1.0;
}

// ------------------------------------------------------------------------------------------- keys

// NaN counts as larger than all numbers, of whichever sign it is.
__device__ inline uint32_t key_of(float squared) {
  return bits_as<uint32_t>(squared) & 0x7fffffffu;
}
__device__ inline Word key_of(double squared) {
  return bits_as<Word>(squared) & 0x7fffffffffffffffull;
}
__device__ inline float fused(float a, float b, float c) { return fmaf(a, b, c); }
__device__ inline double fused(double a, double b, double c) { return fma(a, b, c); }

// Squared distances s are found in float32 as s' with |s' - s| <= relative_error s, if s' or s is
// at least kLeastRough: the difference and its square, and a rounding for each term. Coordinates
// that become subnormal when they are scaled, and terms that do, lose less than 2^-90 s.
__device__ inline double relative_error(int64_t k) {
  return 1.01 * static_cast<double>(k + 4) * 0x1p-24;
}
constexpr double kLeastRough = 0x1p-80, kMostRough = 0x1p100;

constexpr Word kAllKeys = 0x7fffffffffffffffull;
__device__ inline Window all_keys() { return {0, kAllKeys, 63 - kDigit}; }
__device__ inline Window all_rough_keys() { return {0, 0x7fffffffull, 31 - kDigit}; }

__device__ inline Window window_of(Word low, Word high) {
  Window window{low, high - low, 0};
  while (window.last >> window.shift >= kCounters) ++window.shift;
  return window;
}

__device__ inline double number_of_rough(Word key) {
  return static_cast<double>(bits_as<float>(static_cast<uint32_t>(key)));
}

// ------------------------------------------------------------------------------------------ tiles

// Scales a coordinate: exactly, but for subnormal results. A power of two that float32 does not
// have is the product of two.
template <class A>
struct Scaling;
template <>
struct Scaling<double> {
  double factor;
  __device__ explicit Scaling(double scale) : factor(scale) {}
  template <class T>
  __device__ double operator()(T x) const {
    return static_cast<double>(x) * factor;
  }
};
template <>
struct Scaling<float> {
  float one, other;
  __device__ explicit Scaling(double scale) {
    const int exponent = scale > 0 ? ilogb(scale) : 0, half = exponent / 2;
    one = scale > 0 ? static_cast<float>(ldexp(1.0, half)) : 0.0f;
    other = static_cast<float>(ldexp(1.0, exponent - half));
  }
  __device__ float operator()(float x) const { return x * one * other; }
};

// Tiles of points against points. K coordinates; many, in chunks, where K is 0. A thread has
// kMicro x kMicro pairs, of rows next to each other and of columns in pieces of 16 bytes.
template <class A, int K>
struct Tile {
  static constexpr int kMicro = K > 0 && sizeof(A) == 4 ? 8 : 4;
  static constexpr int kSize = kSide * kMicro;
  static constexpr int kDims = K > 0 ? K : kChunk;
  static constexpr int kPiece = 16 / static_cast<int>(sizeof(A));
  static constexpr int kStride = kSize + kPiece;
  static constexpr int kEach = (kSize * kDims + kThreads - 1) / kThreads;  // loads of a thread
  static constexpr int kNumbers = 2 * kDims * kStride;                     // in shared memory

  struct alignas(16) Piece {
    A at[kPiece];
  };

  int64_t i0, j0;

  __device__ static int row(int r) { return static_cast<int>(threadIdx.x) / kSide * kMicro + r; }
  __device__ static int column(int c) {
    return c / kPiece * kSide * kPiece + static_cast<int>(threadIdx.x) % kSide * kPiece +
           c % kPiece;
  }
  __device__ Word pair(int r, int c, int64_t b) const {
    return static_cast<Word>((i0 + row(r)) * b + j0 + column(c));
  }

  // Coordinates t0 ... of the `left` points from `points` on, zeros where there are none.
  template <class T>
  __device__ static void fetch(const T* points, int64_t left, int64_t k, int64_t t0, T* to) {
    const int limit = left < kSize ? static_cast<int>(left) : kSize;
    const int dims = k - t0 < kDims ? static_cast<int>(k - t0) : kDims;
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      const int index = static_cast<int>(threadIdx.x) + n * kThreads;
      const int point = index / kDims, t = index % kDims;
      to[n] = point < limit && t < dims ? points[point * k + t0 + t] : T(0);
    }
  }
  template <class T>
  __device__ static void put(const T* from, const Scaling<A>& scaling, A* to) {
#pragma unroll
    for (int n = 0; n < kEach; ++n) {
      const int index = static_cast<int>(threadIdx.x) + n * kThreads;
      if (index < kSize * kDims) to[index % kDims * kStride + index / kDims] = scaling(from[n]);
    }
  }
  // The numbers of the thread's points, which lie from place(0), place(kPiece), ... on.
  template <class Place>
  __device__ static void read(const A* from, Place&& place, A* to) {
#pragma unroll
    for (int p = 0; p < kMicro; p += kPiece) {
      const Piece piece = *reinterpret_cast<const Piece*>(from + place(p));
#pragma unroll
      for (int n = 0; n < kPiece; ++n) to[p + n] = piece.at[n];
    }
  }
};

// Number n of the tiles (i, j) with i <= j, column after column.
__device__ inline void tile_of_number(int64_t n, int64_t* i, int64_t* j) {
  int64_t column = static_cast<int64_t>((sqrt(8.0 * static_cast<double>(n) + 1.0) - 1.0) / 2);
  while (column * (column + 1) / 2 > n) --column;
  while ((column + 1) * (column + 2) / 2 <= n) ++column;
  *i = n - column * (column + 1) / 2;
  *j = column;
}

// visit(tile, r, c, squared distance) for this block's share of the pairs i < j, the terms added in
// the order of the coordinates, and after(tile) by all threads once a tile is done.
template <class T, class A, int K, class Visit, class After>
__device__ inline void for_each_pair(const Task<T>& task, int64_t slice, A* shared, Visit&& visit,
                                     After&& after) {
  using Of = Tile<A, K>;
  constexpr int M = Of::kMicro;
  const int64_t b = task.b, k = K > 0 ? K : task.k;
  const T* const points = task.x + slice * b * k;
  const Scaling<A> scaling(scale_of(task.searches[slice]));
  A* const rows = shared;
  A* const columns = shared + Of::kDims * Of::kStride;
  const int64_t side = ceil_div(b, Of::kSize), tiles = side * (side + 1) / 2;
  for (int64_t n = blockIdx.x % task.parts; n < tiles; n += task.parts) {
    Of tile;
    tile_of_number(n, &tile.i0, &tile.j0);
    tile.i0 *= Of::kSize;
    tile.j0 *= Of::kSize;
    const int64_t apart = tile.j0 - tile.i0, left = b - tile.j0;
    const int before = apart < Of::kSize ? static_cast<int>(apart) : Of::kSize;
    const int limit = left < Of::kSize ? static_cast<int>(left) : Of::kSize;
    const auto there = [&](int r, int c) {
      return Of::row(r) < Of::column(c) + before && Of::column(c) < limit;
    };
    const T* const rows_from = points + tile.i0 * k;
    const T* const columns_from = points + tile.j0 * k;
    T own[Of::kEach], other[Of::kEach];
    Of::fetch(rows_from, b - tile.i0, k, 0, own);
    Of::fetch(columns_from, b - tile.j0, k, 0, other);
    if constexpr (K > 0) {
      __syncthreads();
      Of::put(own, scaling, rows);
      Of::put(other, scaling, columns);
      __syncthreads();
      A v[K][M];
#pragma unroll
      for (int t = 0; t < K; ++t) Of::read(columns + t * Of::kStride, Of::column, v[t]);
#pragma unroll 2
      for (int r = 0; r < M; ++r) {
        A u[K];
#pragma unroll
        for (int t = 0; t < K; ++t) u[t] = rows[t * Of::kStride + Of::row(r)];
#pragma unroll
        for (int c = 0; c < M; ++c) {
          A squared = A(0);
#pragma unroll
          for (int t = 0; t < K; ++t) {
            const A difference = u[t] - v[t][c];
            squared = fused(difference, difference, squared);
          }
          if (there(r, c)) visit(tile, r, c, squared);
        }
      }
    } else {
      A squared[M][M] = {};
      for (int64_t t0 = 0; t0 < k; t0 += kChunk) {
        __syncthreads();
        Of::put(own, scaling, rows);
        Of::put(other, scaling, columns);
        __syncthreads();
        if (t0 + kChunk < k) {  // while this chunk is used
          Of::fetch(rows_from, b - tile.i0, k, t0 + kChunk, own);
          Of::fetch(columns_from, b - tile.j0, k, t0 + kChunk, other);
        }
#pragma unroll
        for (int t = 0; t < kChunk; ++t) {
          A u[M], v[M];
          Of::read(rows + t * Of::kStride, Of::row, u);
          Of::read(columns + t * Of::kStride, Of::column, v);
#pragma unroll
          for (int r = 0; r < M; ++r)
#pragma unroll
            for (int c = 0; c < M; ++c) {
              const A difference = u[r] - v[c];
              squared[r][c] = fused(difference, difference, squared[r][c]);
            }
        }
      }
#pragma unroll
      for (int r = 0; r < M; ++r)
#pragma unroll
        for (int c = 0; c < M; ++c)
          if (there(r, c)) visit(tile, r, c, squared[r][c]);
    }
    after(tile);
  }
}

// The float64 squared distance of two points, with the same operations as in tiles, by a warp.
template <class T>
__device__ inline double squared_by_warp(const T* u, const T* v, int64_t k, double scale) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const Scaling<double> scaling(scale);
  double squared = 0;
  for (int64_t t0 = 0; t0 < k; t0 += kWarp) {
    const int64_t left = k - t0, t = t0 + lane;
    const double own = lane < left ? scaling(u[t]) - scaling(v[t]) : 0.0;
    for (int l = 0; l < kWarp && l < left; ++l) {
      const double difference = __shfl_sync(kWholeWarp, own, l);
      squared = fma(difference, difference, squared);
    }
  }
  return squared;
}

// --------------------------------------------------------------------------------------- choosing

// Where a rank falls.
struct Choice {
  bool found;
  int digit;
  Word below, inside;  // keys of smaller digits, and of this one
};

// Of the digits that get(n) counts, with `below` keys before them. Barriers before and after.
template <class Get>
__device__ inline void choose(Get&& get, Word below, Word rank, Word* scratch, Choice* choice) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int start = static_cast<int>(threadIdx.x) * kCountersEach;
  Word sum = 0;
  for (int n = 0; n < kCountersEach; ++n) sum += get(start + n);
  Word through = sum;  // this lane's
  for (int step = 1; step < kWarp; step *= 2) {
    const Word other = __shfl_sync(kWholeWarp, through, (lane + kWarp - step) % kWarp);
    if (lane >= step) through += other;
  }
  __syncthreads();
  if (threadIdx.x == 0) choice->found = false;
  if (lane == kWarp - 1) scratch[warp] = through;
  __syncthreads();
  Word before = below + through - sum;
  for (int w = 0; w < warp; ++w) before += scratch[w];
  if (before <= rank && rank < before + sum) {  // one thread alone
    int n = start;
    while (before + get(n) <= rank) before += get(n++);
    *choice = {true, n, before, get(n)};
  }
  __syncthreads();
}

__device__ inline bool has_two_middles(int64_t b) { return pairs_of(b) % 2 == 0; }

// By one thread, after a pass has counted: the window of the next one. get(n) counts digits.
template <class Get>
__device__ inline void narrow(Search* search, const Choice& choice, Get&& get, int64_t b, int64_t k,
                              int64_t capacity) {
  const bool rough = search->step == Step::count_rough;
  if (!choice.found) {
    search->step = Step::count;
    search->window = all_keys();
    return;
  }
  const int shift = search->window.shift;
  const Word low = search->window.low + (static_cast<Word>(choice.digit) << shift);
  // The window may end within a digit: what lies behind it was not counted.
  const Word end = search->window.low + search->window.last;
  const auto last_of = [&](int digit) {
    const Word high = search->window.low + (static_cast<Word>(digit + 1) << shift) - 1;
    return high < end ? high : end;
  };
  if (!rough && shift == 0) {
    search->known = low;
    search->differ = has_two_middles(b) && rank_of(b) + 1 >= choice.below + choice.inside;
    search->step = Step::ends;
    return;
  }
  const auto limit = static_cast<Word>(capacity);
  if (choice.inside <= limit) {  // with the next rank's digit, if that is near and fits, too
    Word high = last_of(choice.digit);
    if (has_two_middles(b) && rank_of(b) + 1 >= choice.below + choice.inside) {
      constexpr int kNear = 64;
      int n = choice.digit + 1;
      while (n < kCounters && n <= choice.digit + kNear && get(n) == 0) ++n;
      if (n < kCounters && n <= choice.digit + kNear && choice.inside + get(n) <= limit)
        high = last_of(n);
    }
    search->window = {low, high - low, 0};
    search->step = Step::collect;
  } else {
    search->window = window_of(low, last_of(choice.digit));
  }
  if (!rough) return;
  const double least = number_of_rough(low), most = number_of_rough(low + search->window.last);
  if (!(least >= 2 * kLeastRough && most <= kMostRough)) {
    search->step = Step::count;
    search->window = all_keys();
    return;
  }
  // The exact median is within one relative error of these keys, and the rough keys of pairs as
  // large as it within another; a third is for rounding.
  const double margin = 3 * relative_error(k), wide_least = least * (1 - margin),
               wide_most = most * (1 + margin);
  if (search->step == Step::collect) {
    const Word from = key_of(static_cast<float>(wide_least));
    search->window = {from, key_of(static_cast<float>(wide_most)) - from, 0};
    search->step = Step::collect_rough;
  } else if (shift < kDigit) {
    search->window = window_of(key_of(wide_least), key_of(wide_most));
    search->step = Step::count;
  }
}

// ------------------------------------------------------------------------------ selection

// By one block: selects the medians from the entries, if they are among them.
__device__ inline void select(Search* search, const Entry* entries, int64_t b, int64_t k,
                              int64_t capacity, unsigned* count, Word* scratch, Choice* choice) {
  __shared__ Word least, most, above, first, second;
  const bool rough = search->step == Step::collect_rough;
  const Window window = search->window;
  const Word size = search->collected, low = window.low, high = window.low + window.last;
  const Word rank = rank_of(b);
  Word below = search->below, inside = size;
  // All pairs outside of the window are smaller than safe_low or larger than safe_high.
  Word safe_low = low, safe_high = high;
  if (rough) {
    const double error = relative_error(k);
    safe_low = key_of(number_of_rough(low) * (1 + 2 * error));
    safe_high = key_of(number_of_rough(high) * (1 - error));
  }
  const bool fits = size <= static_cast<Word>(capacity);
  const bool there = fits && below <= rank && rank < below + size;
  if (threadIdx.x == 0) {
    least = above = first = second = kNone;
    most = 0;
  }
  __syncthreads();
  if (!there) {
    if (threadIdx.x == 0) {
      search->step = Step::count;
      search->window = fits || !rough
                           ? all_keys()
                           : window_of(key_of(number_of_rough(low)), key_of(number_of_rough(high)));
    }
    return;
  }
  Word lowest = kNone, highest = 0;
  for (Word n = threadIdx.x; n < size; n += kThreads) {
    const Word bits = entries[n].bits;
    lowest = bits < lowest ? bits : lowest;
    highest = bits > highest ? bits : highest;
  }
  atomicMin(&least, lowest);
  atomicMax(&most, highest);
  __syncthreads();
  Window narrower = window_of(least, most);
  for (;;) {
    for (int n = static_cast<int>(threadIdx.x); n < kCounters; n += kThreads) count[n] = 0;
    __syncthreads();
    for (Word n = threadIdx.x; n < size; n += kThreads) {
      const Word offset = entries[n].bits - narrower.low;
      if (offset <= narrower.last) atomicAdd(&count[offset >> narrower.shift], 1u);
    }
    __syncthreads();
    choose([&](int n) { return static_cast<Word>(count[n]); }, below, rank, scratch, choice);
    const Word found = narrower.low + (static_cast<Word>(choice->digit) << narrower.shift);
    below = choice->below;
    inside = choice->inside;
    const int shift = narrower.shift;
    narrower = window_of(found, found + (Word{1} << shift) - 1);
    __syncthreads();
    if (shift == 0) break;
  }
  const Word known = narrower.low;
  Word next = kNone, pair = kNone;
  for (Word n = threadIdx.x; n < size; n += kThreads) {
    const Entry entry = entries[n];
    if (entry.bits > known && entry.bits < next) next = entry.bits;
    if (entry.bits == known && entry.pair < pair) pair = entry.pair;
  }
  if (next != kNone) atomicMin(&above, next);
  if (pair != kNone) atomicMin(&first, pair);
  __syncthreads();
  const Word wanted = above;
  pair = kNone;
  for (Word n = threadIdx.x; n < size; n += kThreads)
    if (entries[n].bits == wanted && entries[n].pair < pair) pair = entries[n].pair;
  if (pair != kNone) atomicMin(&second, pair);
  __syncthreads();
  if (threadIdx.x != 0) return;
  if (known < safe_low || known > safe_high) {
    search->step = Step::count;
    search->window = all_keys();
    return;
  }
  search->known = known;
  search->differ = has_two_middles(b) && rank + 1 >= below + inside;
  search->above = above;
  search->first = first;
  search->second = second;
  search->step = search->differ && above > safe_high ? Step::ends : Step::done;
}

// ----------------------------------------------------------------------------------------- passes

// One block for each slice.
__global__ void __launch_bounds__(kThreads)
    start_kernel(Step step, Search* searches, Word* counters) {
  const int64_t s = blockIdx.x;
  if (counters != nullptr)
    for (int n = static_cast<int>(threadIdx.x); n < kCounters; n += kThreads)
      counters[s * kCounters + n] = 0;
  if (threadIdx.x != 0) return;
  Search search{};
  search.step = step;
  search.window = step == Step::count_rough ? all_rough_keys() : all_keys();
  search.first = search.second = search.above = kNone;
  searches[s] = search;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    largest_kernel(const T* x, int64_t numbers, int64_t parts, Search* searches) {
  __shared__ double scratch[kWarps];
  const int64_t s = blockIdx.x / parts, part = blockIdx.x % parts;
  double largest = 0;
  for (int64_t i = part * kThreads + threadIdx.x; i < numbers; i += parts * kThreads) {
    const double size = fabs(static_cast<double>(x[s * numbers + i]));
    largest = size > largest ? size : largest;
  }
  largest = block_max(largest, scratch);
  if (threadIdx.x == 0) atomicMax(&searches[s].largest, bits_as<Word>(largest));
}

// Whether this block is the last of its slice in this pass; then it sees what the others wrote.
__device__ inline bool is_last(Search* search, int64_t parts, bool* last) {
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    *last = atomicAdd(&search->arrived, 1u) == static_cast<unsigned>(parts - 1);
    __threadfence();
  }
  __syncthreads();
  return *last;
}

// A pass with distances in A: float for the rough steps, double for the others.
template <class T, class A, int K>
__global__ void __launch_bounds__(kThreads, sizeof(A) == 4 ? 3 : 2) pass_kernel(Task<T> task) {
  using Of = Tile<A, K>;
  constexpr bool rough = sizeof(A) == 4;
  alignas(16) __shared__ A points[Of::kNumbers];
  __shared__ unsigned count[kCounters];
  __shared__ Word scratch[kWarps];
  __shared__ Choice choice;
  __shared__ Ends found;
  __shared__ bool last;
  const int64_t s = blockIdx.x / task.parts, part = blockIdx.x % task.parts;
  Search* const search = task.searches + s;
  const Step step = search->step;
  if (step == Step::done || rough != (step == Step::count_rough || step == Step::collect_rough))
    return;
  using Key = decltype(key_of(A(0)));
  const auto low = static_cast<Key>(search->window.low);
  const auto reach = static_cast<Key>(search->window.last);
  const int shift = search->window.shift;
  Word below = 0;
  const auto nothing = [](const Of&) {};
  if (step == Step::count || step == Step::count_rough) {
    for (int n = static_cast<int>(threadIdx.x); n < kCounters; n += kThreads) count[n] = 0;
    unsigned less = 0;
    for_each_pair<T, A, K>(
        task, s, points,  // whose barriers come before the first count
        [&](const Of&, int, int, A squared) {
          const Key key = key_of(squared), offset = key - low;
          less += key < low ? 1u : 0u;
          if (offset <= reach) atomicAdd(&count[offset >> shift], 1u);
        },
        nothing);
    below = less;
    __syncthreads();
    for (int n = static_cast<int>(threadIdx.x); n < kCounters; n += kThreads)
      if (count[n] != 0) atomicAdd(&task.counters[s * kCounters + n], static_cast<Word>(count[n]));
  } else if (step == Step::collect || step == Step::collect_rough) {
    Entry* const entries = task.entries + s * task.capacity;
    const auto capacity = static_cast<Word>(task.capacity);
    unsigned less = 0;
    if constexpr (rough) {
      const T* const own = task.x + s * task.b * task.k;
      const double scale = scale_of(*search);
      Word wanted = 0;  // a bit for each pair of the tile
      bool full = false;
      for_each_pair<T, A, K>(
          task, s, points,
          [&](const Of&, int r, int c, A squared) {
            const Key key = key_of(squared);
            less += key < low ? 1u : 0u;
            if (key - low <= reach) wanted |= Word{1} << (r * Of::kMicro + c);
          },
          [&](const Of& tile) {
            const int lane = static_cast<int>(threadIdx.x) % kWarp;
            const int64_t b = task.b;
            for (unsigned lanes = __ballot_sync(kWholeWarp, wanted != 0); lanes != 0 && !full;
                 lanes &= lanes - 1) {
              const int owner = __ffs(static_cast<int>(lanes)) - 1;
              for (Word bits = __shfl_sync(kWholeWarp, wanted, owner); bits != 0 && !full;
                   bits &= bits - 1) {
                const int n = __ffsll(static_cast<long long>(bits)) - 1;
                const Word pair =
                    __shfl_sync(kWholeWarp, tile.pair(n / Of::kMicro, n % Of::kMicro, b), owner);
                Word at = 0;
                if (lane == 0) at = atomicAdd(&search->collected, Word{1});
                at = __shfl_sync(kWholeWarp, at, 0);
                full = at >= capacity;  // then nothing of it is used
                if (full) break;
                const int64_t i = static_cast<int64_t>(pair) / b,
                              j = static_cast<int64_t>(pair) % b;
                const double exact =
                    squared_by_warp(own + i * task.k, own + j * task.k, task.k, scale);
                if (lane == 0) entries[at] = {key_of(exact), pair};
              }
            }
            wanted = 0;
          });
    } else {
      for_each_pair<T, A, K>(
          task, s, points,
          [&](const Of& tile, int r, int c, A squared) {
            const Key key = key_of(squared);
            less += key < low ? 1u : 0u;
            if (key - low > reach) return;
            const Word at = atomicAdd(&search->collected, Word{1});
            if (at < capacity) entries[at] = {key, tile.pair(r, c, task.b)};
          },
          nothing);
    }
    below = less;
  } else if constexpr (!rough) {
    const Word known = search->known;
    Ends own{kNone, kNone, kNone};
    for_each_pair<T, A, K>(
        task, s, points,
        [&](const Of& tile, int r, int c, A squared) {
          const Key key = key_of(squared);
          if (key < known || key > own.above) return;
          const Word pair = tile.pair(r, c, task.b);
          if (key == known) {
            own.first = pair < own.first ? pair : own.first;
          } else if (key < own.above || pair < own.second) {
            own.above = key;
            own.second = pair;
          }
        },
        nothing);
    if (threadIdx.x == 0) found = {kNone, kNone, kNone};
    __syncthreads();
    if (own.first != kNone) atomicMin(&found.first, own.first);
    if (own.above != kNone) atomicMin(&found.above, own.above);
    __syncthreads();
    if (own.above == found.above && own.second != kNone) atomicMin(&found.second, own.second);
    __syncthreads();
    if (threadIdx.x == 0) task.ends[s * task.parts + part] = found;
  }
  below = block_sum(below, scratch);
  if (threadIdx.x == 0 && below != 0) atomicAdd(&search->below, below);
  if (!is_last(search, task.parts, &last)) return;

  if (step == Step::count || step == Step::count_rough) {
    Word* const counters = task.counters + s * kCounters;
    const auto get = [&](int n) { return counters[n]; };
    choose(get, search->below, rank_of(task.b), scratch, &choice);
    if (threadIdx.x == 0) narrow(search, choice, get, task.b, task.k, task.capacity);
    __syncthreads();
    for (int n = static_cast<int>(threadIdx.x); n < kCounters; n += kThreads) counters[n] = 0;
  } else if (step == Step::collect || step == Step::collect_rough) {
    select(search, task.entries + s * task.capacity, task.b, task.k, task.capacity, count, scratch,
           &choice);
  } else if (threadIdx.x == 0) {
    Ends all{kNone, kNone, kNone};
    for (int64_t p = 0; p < task.parts; ++p) {
      const Ends one = task.ends[s * task.parts + p];
      all.first = one.first < all.first ? one.first : all.first;
      if (one.above < all.above || (one.above == all.above && one.second < all.second)) {
        all.above = one.above;
        all.second = one.second;
      }
    }
    search->first = all.first;
    search->above = all.above;
    search->second = all.second;
    search->step = Step::done;
  }
  __syncthreads();
  if (threadIdx.x == 0) {
    search->below = search->collected = 0;
    search->arrived = 0;
  }
}

// ---------------------------------------------------------------------------------------- results

template <class T>
__global__ void __launch_bounds__(kThreads)
    value_kernel(int64_t m, const Search* searches, T* value) {
  const int64_t s = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (s >= m) return;
  const Search& search = searches[s];
  const double first = sqrt(bits_as<double>(search.known));
  const double second = search.differ ? sqrt(bits_as<double>(search.above)) : first;
  const double median = 0.5 * (first + second) / scale_of(search);
  value[s] = static_cast<T>(search.step == Step::done ? median : NAN);
}

// Both pairs may be the same, or share a point.
template <class T>
__global__ void __launch_bounds__(kThreads)
    pull_kernel(const T* x, int64_t b, int64_t k, int64_t parts, const Search* searches,
                const T* grad, T* grad_x) {
  const int64_t s = blockIdx.x / parts, part = blockIdx.x % parts;
  const Search& search = searches[s];
  const T* const points = x + s * b * k;
  T* const out = grad_x + s * b * k;
  const double scale = scale_of(search);
  int64_t i[2], j[2];
  double half[2];
  for (int which = 0; which < 2; ++which) {
    const bool other = which == 1 && search.differ;
    const double length = sqrt(bits_as<double>(other ? search.above : search.known));
    const Word pair = other ? search.second : search.first;
    const bool pulls = length > 0 && pair != kNone;  // no: the points hold NaN
    half[which] = pulls ? 0.5 * static_cast<double>(grad[s]) / length : 0.0;
    i[which] = pulls ? static_cast<int64_t>(pair) / b : -1;
    j[which] = pulls ? static_cast<int64_t>(pair) % b : -1;
  }
  for (int64_t n = part * kThreads + threadIdx.x; n < b * k; n += parts * kThreads) {
    const int64_t row = n / k, t = n % k;
    T sum = T(0);
    for (int which = 0; which < 2; ++which) {
      if (row != i[which] && row != j[which]) continue;
      const double pull = half[which] * (static_cast<double>(points[i[which] * k + t]) * scale -
                                         static_cast<double>(points[j[which] * k + t]) * scale);
      sum = static_cast<T>(static_cast<double>(sum) + (row == i[which] ? pull : -pull));
    }
    out[n] = sum;
  }
}

template <class T, int K>
void launch_passes(const Task<T>& task, int64_t m, bool rough, int exact_passes,
                   const Execution& execution) {
  if constexpr (sizeof(T) == 4) {
    for (int n = 0; rough && n < kRoughPasses; ++n)
      launch(pass_kernel<T, float, K>, m * task.parts, kThreads, 0, execution, task);
  }
  for (int n = 0; n < exact_passes; ++n)
    launch(pass_kernel<T, double, K>, m * task.parts, kThreads, 0, execution, task);
}

// Blocks of a slice that has work for `most`.
int64_t parts_of(int64_t m, int64_t most, const Execution& execution) {
  const int64_t parts = ceil_div(kBlocksPerMultiprocessor * execution.multiprocessors, m);
  return parts < most ? parts : most;
}

// What the search in one slice is given.
struct Shape {
  int64_t capacity;  // entries
  bool all;          // are they enough for all pairs? then there is nothing to count
  explicit Shape(int64_t b) {
    constexpr int64_t kLeast = 1024, kEachPoint = 8, kMost = 131072;
    const int64_t room = kEachPoint * b < kMost ? kEachPoint * b : kMost;
    capacity = room < kLeast ? kLeast : room;
    all = pairs_of(b) <= static_cast<Word>(capacity);
    if (all) capacity = static_cast<int64_t>(pairs_of(b));
  }
  int64_t counters() const { return all ? 0 : kCounters; }
  int64_t bytes() const {
    return capacity * int64_t{sizeof(Entry)} + counters() * int64_t{sizeof(Word)};
  }
};

// Finds the medians of some slices, and which pairs attain them.
template <class T>
void launch_slices(const T* x, int64_t m, int64_t b, int64_t k, const Shape& shape,
                   Search* searches, const Execution& execution) {
  const int64_t side = ceil_div(b, Tile<float, 0>::kSize), tiles = side * (side + 1) / 2;
  const int64_t wanted = parts_of(m, tiles, execution), least = ceil_div(tiles, kMostTiles);
  const int64_t parts = wanted > least ? wanted : least;
  Workspace<Word> counters(m * shape.counters(), execution);
  Workspace<Entry> entries(m * shape.capacity, execution);
  Workspace<Ends> ends(m * parts, execution);
  const Task<T> task{x,
                     b,
                     k,
                     parts,
                     shape.capacity,
                     searches,
                     shape.all ? nullptr : counters.data(),
                     entries.data(),
                     ends.data()};
  const bool rough = !shape.all && sizeof(T) == 4 && k <= kRoughDims;
  const int exact_passes = shape.all ? 1 : kExactPasses;
  const Step step = shape.all ? Step::collect : rough ? Step::count_rough : Step::count;
  launch(start_kernel, m, kThreads, 0, execution, step, searches, task.counters);
  const int64_t readers = parts_of(m, ceil_div(b * k, kThreads), execution);
  launch(largest_kernel<T>, m * readers, kThreads, 0, execution, x, b * k, readers, searches);
  switch (k) {
    case 1: return launch_passes<T, 1>(task, m, rough, exact_passes, execution);
    case 2: return launch_passes<T, 2>(task, m, rough, exact_passes, execution);
    case 3: return launch_passes<T, 3>(task, m, rough, exact_passes, execution);
    case 4: return launch_passes<T, 4>(task, m, rough, exact_passes, execution);
    default: return launch_passes<T, 0>(task, m, rough, exact_passes, execution);
  }
}

// Of all slices, as many at a time as execution.share_bytes has room for.
template <class T>
void launch_search(const T* x, int64_t m, int64_t b, int64_t k, Search* searches,
                   const Execution& execution) {
  const Shape shape(b);
  const int64_t room = execution.share_bytes / shape.bytes(), at_once = room > 1 ? room : 1;
  for (int64_t first = 0; first < m; first += at_once)
    launch_slices(x + first * b * k, m - first < at_once ? m - first : at_once, b, k, shape,
                  searches + first, execution);
}

}  // namespace

template <class T>
void median_distance(const MedianDistanceArgs<T>& args, const Execution& execution) {
  Workspace<Search> searches(args.m, execution);
  launch_search(args.x, args.m, args.b, args.k, searches.data(), execution);
  launch(value_kernel<T>, ceil_div(args.m, kThreads), kThreads, 0, execution, args.m,
         static_cast<const Search*>(searches.data()), args.value);
}

template <class T>
void median_distance_vjp(const MedianDistanceVjpArgs<T>& args, const Execution& execution) {
  Workspace<Search> searches(args.m, execution);
  launch_search(args.x, args.m, args.b, args.k, searches.data(), execution);
  const int64_t parts = parts_of(args.m, ceil_div(args.b * args.k, kThreads), execution);
  launch(pull_kernel<T>, args.m * parts, kThreads, 0, execution, args.x, args.b, args.k, parts,
         static_cast<const Search*>(searches.data()), args.grad, args.grad_x);
}

DPSLICE_CUDA_INSTANTIATE(median_distance, MedianDistanceArgs)
DPSLICE_CUDA_INSTANTIATE(median_distance_vjp, MedianDistanceVjpArgs)

}  // namespace dpslice::cuda
