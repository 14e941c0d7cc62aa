// Sorting of numbers with their indices by interpolation, stable. For kernel sources, which must
// not use std::sort (see isa.h).
//
// Numbers go to buckets by their place between the least and the largest, in one pass; there are
// more buckets than numbers, so most hold none or one, and insertion sort does the rest in linear
// time. Where numbers crowd into few buckets (heavy tails, clusters far apart), these buckets are
// sorted in the same way, each between its own least and largest number, and what is still crowded
// kDepth levels down goes to the radix sort: the time is linear for any numbers. Long arrays are
// first cut into buckets that fit into the first-level cache.
#pragma once

#include <limits>

#include "radix_sort.h"
#include "simd.h"

namespace dpslice::DPSLICE_ISA {

// Up to kLeaf numbers get buckets of their own at once; for more, the counters would leave L1.
// Longer arrays are cut into buckets of about kCut.
constexpr int64_t kLeaf = 2048, kCut = 512, kMostCuts = 2048;
// A bucket of more is sorted by itself; insertion sort moves a number kCrowd / 4 places on average.
constexpr int64_t kCrowd = 24;
constexpr int kDepth = 4;

template <class T>
struct SortWork {
  Buffer<T> values;
  Buffer<uint16_t> bucket;  // of each number
  // By level, as a level's buckets are sorted before it is done with its counters.
  Buffer<uint16_t> leaf_counters[kDepth];
  Buffer<uint32_t> cut_counters[kDepth];
  Buffer<uint32_t> radix_counters;
};

// Where keys come from: numbers with their places as indices, or keys made before, whose numbers
// are then in `values`, too.
template <class T>
struct FreshKeys {
  const T* values;
  SortKey<T> key(int64_t i) const {
    return SortKey<T>::make(ordered_bits(values[i]), static_cast<uint64_t>(i));
  }
};
template <class T>
struct GivenKeys {
  const T* values;
  const SortKey<T>* keys;
  SortKey<T> key(int64_t i) const { return keys[i]; }
};

// Half the least and half the largest number: halves, so that their difference cannot overflow.
template <class T>
struct Bounds {
  T low, high;
  T range() const { return high - low; }
  bool all_equal() const { return low == high; }
  // Whether to interpolate between them: not where some number is infinite or NaN, and not where a
  // quotient of the range might overflow.
  bool usable() const {
    constexpr T least = sizeof(T) == 4 ? T(0x1p-90) : T(0x1p-900);
    return range() >= least && range() < std::numeric_limits<T>::infinity();
  }
};
template <class T>
Bounds<T> bounds(const T* values, int64_t size) {
  constexpr int L = kLanes<T>;
  Vec<T> low = splat(values[0]), high = low, zero{};
  const auto take = [&](Vec<T> v) {
    low = vmin<T>(v, low);
    high = vmax<T>(v, high);
    zero += v - v;  // NaN where v is infinite or NaN
  };
  int64_t i = 0;
  for (; i + L <= size; i += L) take(load(values + i));
  if (i < size) take(load_first(values + i, static_cast<int>(size - i), values[0]));
  const T nothing = static_cast<T>(lane_total<T>(zero));
  return {T(0.5) * -max_lanes<T>(-low) + nothing, T(0.5) * max_lanes<T>(high) + nothing};
}

// Bounds for most numbers: those of the bulk of a sample, widened on both sides by their range, so
// that few outliers do not decide. Numbers outside go to the first and the last bucket.
template <class T>
Bounds<T> bulk_bounds(const T* values, int64_t size, Bounds<T> all) {
  constexpr int taken = 64, outside = 4;
  T sample[taken];
  for (int i = 0; i < taken; ++i) {
    const T value = T(0.5) * values[size / taken * i];
    int at = i;
    for (; at > 0 && value < sample[at - 1]; --at) sample[at] = sample[at - 1];
    sample[at] = value;
  }
  const T low = sample[outside], high = sample[taken - 1 - outside], widen = high - low;
  const Bounds<T> bulk{low - widen > all.low ? low - widen : all.low,
                       high + widen < all.high ? high + widen : all.high};
  return bulk.usable() ? bulk : all;
}

// Counters of buckets are kept in kColumns columns of neighbouring buckets, so that their sums
// are sums of vectors.
template <class Count>
struct Counters {
  static constexpr int64_t kColumns = kVectorBytes / sizeof(Count);
  typedef Count Row __attribute__((vector_size(kVectorBytes)));
  Count* count;
  int64_t log_rows;

  int64_t rows() const { return int64_t{1} << log_rows; }
  int64_t buckets() const { return rows() * kColumns; }
  int64_t place(int64_t bucket) const {
    return (bucket & (rows() - 1)) * kColumns + (bucket >> log_rows);
  }
  Row row(int64_t r) const {
    Row v;
    std::memcpy(&v, count + r * kColumns, sizeof v);
    return v;
  }
  // Turns counts into the sums of the counts before. Returns the largest count.
  int64_t accumulate() {
    Row total{}, most{};
    for (int64_t r = 0; r < rows(); ++r) {
      const Row here = row(r);
      total += here;
      most = here > most ? here : most;
    }
    // Column by column in memory: taking vectors apart number by number is slow.
    Count totals[kColumns], peaks[kColumns];
    std::memcpy(totals, &total, sizeof total);
    std::memcpy(peaks, &most, sizeof most);
    Count sum = 0, largest = 0;
    for (int column = 0; column < kColumns; ++column) {
      const Count here = totals[column];
      totals[column] = sum;
      sum = static_cast<Count>(sum + here);
      if (peaks[column] > largest) largest = peaks[column];
    }
    std::memcpy(&total, totals, sizeof total);
    for (int64_t r = 0; r < rows(); ++r) {
      const Row here = row(r);
      std::memcpy(count + r * kColumns, &total, sizeof total);
      total += here;
    }
    return static_cast<int64_t>(largest);
  }
};

// At least `buckets` counters, set to 0.
template <class Count>
Counters<Count> counters(int64_t buckets, Buffer<Count>& memory) {
  Counters<Count> result{nullptr, 1};
  while (result.buckets() < buckets) ++result.log_rows;
  memory.resize(result.buckets());
  result.count = memory.data();
  std::memset(result.count, 0, sizeof(Count) * static_cast<size_t>(result.buckets()));
  return result;
}

// Puts keys into buckets, in their order. Afterwards each counter holds its bucket's end. Returns
// the size of the largest bucket.
template <class T, class Source, class Count>
int64_t distribute(const Source& source, int64_t size, Bounds<T> between, Counters<Count> to_bucket,
                   SortKey<T>* to, Buffer<uint16_t>& buckets) {
  buckets.resize(size);
  uint16_t* const place = buckets.data();
  Count* const count = to_bucket.count;
  const T* const values = source.values;
  // Rounding is monotone, so that smaller numbers do not go to higher buckets.
  const T last = static_cast<T>(to_bucket.buckets() - 1);
  const T scale = last / between.range();
  const int mask = static_cast<int>(to_bucket.rows() - 1),
            shift = static_cast<int>(to_bucket.log_rows);
  constexpr int columns = Counters<Count>::kColumns;
  for (int64_t i = 0; i < size; ++i) {
    T at = (T(0.5) * values[i] - between.low) * scale;
    at = at > 0 ? at : 0;
    at = at < last ? at : last;
    const int bucket = static_cast<int>(at);
    place[i] = static_cast<uint16_t>((bucket & mask) * columns + (bucket >> shift));
  }
  for (int64_t i = 0; i < size; ++i) ++count[place[i]];
  const int64_t largest = to_bucket.accumulate();
  for (int64_t i = 0; i < size; ++i) to[count[place[i]]++] = source.key(i);
  return largest;
}

// Puts keys 0 and 1, 2 and 3, ... in order, and then 1 and 2, 3 and 4, ...: almost all that remains
// to be done where buckets hold one or two keys, and without branches that nobody could predict.
// For instruction sets that have the minimum of such integers.
template <class Key>
inline void exchange_neighbours([[maybe_unused]] Key* keys, [[maybe_unused]] int64_t size) {
#if defined(__AVX512F__)
  if constexpr (sizeof(Key) == 8)
    for (int first = 0; first < 2; ++first)
      for (int64_t i = first; i + 8 <= size; i += 8) {
        const __m512i here = _mm512_loadu_si512(keys + i);
        const __m512i other = _mm512_shuffle_epi32(here, _MM_PERM_BADC);
        const __m512i lower = _mm512_min_epu64(here, other);
        _mm512_storeu_si512(keys + i, _mm512_mask_max_epu64(lower, 0xaa, here, other));
      }
#endif
}

// Moves key `at` down to its place among those before it, which are in order. keys[-1] is no larger
// than any.
template <class Key>
inline void insert_key(Key* keys, int64_t at) {
  const Key key = keys[at];
  for (; key.bits < keys[at - 1].bits; --at) keys[at] = keys[at - 1];
  keys[at] = key;
}

// keys[-1] is no larger than any.
template <class Key>
void insertion_sort(Key* keys, int64_t size) {
  int64_t i = 1;
#if defined(__AVX512F__)
  // Eight at a time, as most are in order.
  if constexpr (sizeof(Key) == 8)
    for (; i + 8 <= size; i += 8) {
      const __mmask8 behind =
          _mm512_cmplt_epu64_mask(_mm512_loadu_si512(keys + i), _mm512_loadu_si512(keys + i - 1));
      if (behind != 0) [[unlikely]]
        for (int64_t j = i; j < i + 8; ++j) insert_key(keys, j);
    }
#endif
  for (Key last = keys[i - 1]; i < size; ++i)
    if (keys[i].bits < last.bits)
      insert_key(keys, i);
    else
      last = keys[i];
}

template <class Key>
void copy_keys(Key* to, const Key* from, int64_t size) {
  std::memcpy(to, from, sizeof(Key) * static_cast<size_t>(size));
}

template <class T>
void sort_keys(SortKey<T>* from, SortKey<T>* to, int64_t size, int depth, SortWork<T>& work);

template <class T>
void sort_by_digits(SortKey<T>* from, SortKey<T>* to, int64_t size, SortWork<T>& work) {
  const SortKey<T>* const sorted = radix_sort(from, to, size, work.radix_counters);
  if (sorted != to) copy_keys(to, sorted, size);
}

// Sorts a bucket of a level on which there were `of` numbers. One that holds most of them on the
// second level, where no lone outliers stretch the range any more, would do so on the third.
template <class T>
void sort_bucket(SortKey<T>* from, SortKey<T>* to, int64_t size, int64_t of, int depth,
                 SortWork<T>& work) {
  if (depth > 0 && size > kCrowd && size > of / 4 * 3) return sort_by_digits(from, to, size, work);
  sort_keys(from, to, size, depth + 1, work);
}

// visit(start, size) for each bucket, in order.
template <class Count, class Visit>
void for_each_bucket(const Counters<Count>& ends, Visit&& visit) {
  int64_t start = 0;
  for (int64_t bucket = 0; bucket < ends.buckets(); ++bucket) {
    const int64_t end = static_cast<int64_t>(ends.count[ends.place(bucket)]);
    visit(start, end - start);
    start = end;
  }
}

template <class T>
void sort_leaf(const T* values, SortKey<T>* from, int64_t size, Bounds<T> between, SortKey<T>* to,
               int depth, SortWork<T>& work) {
  const auto leaves = counters(4 * size, work.leaf_counters[depth]);
  const GivenKeys<T> source{values, from};
  if (distribute(source, size, between, leaves, to, work.bucket) > kCrowd)
    for_each_bucket(leaves, [&](int64_t start, int64_t count) {
      if (count <= kCrowd) return;
      copy_keys(from + start, to + start, count);
      sort_bucket(from + start, to + start, count, size, depth, work);
    });
  exchange_neighbours(to, size);
  insertion_sort(to, size);
}

// Sorts `from` into `to`; `from` is overwritten. to[-1] is no larger than any.
template <class T>
void sort_keys(SortKey<T>* from, SortKey<T>* to, int64_t size, int depth, SortWork<T>& work) {
  if (size <= kCrowd) {
    if (size == 0) return;
    copy_keys(to, from, size);
    return insertion_sort(to, size);
  }
  if (depth == kDepth) return sort_by_digits(from, to, size, work);
  work.values.resize(size);
  T* const values = work.values.data();
  for (int64_t i = 0; i < size; ++i) values[i] = number_of(from[i]);
  const Bounds<T> between = bounds(values, size);
  if (between.all_equal()) return copy_keys(to, from, size);
  if (!between.usable()) return sort_by_digits(from, to, size, work);
  if (size <= kLeaf) return sort_leaf(values, from, size, between, to, depth, work);
  const GivenKeys<T> source{values, from};
  const auto cuts =
      counters(size / kCut < kMostCuts ? size / kCut : kMostCuts, work.cut_counters[depth]);
  distribute(source, size, bulk_bounds(values, size, between), cuts, to, work.bucket);
  copy_keys(from, to, size);
  for_each_bucket(cuts, [&](int64_t start, int64_t count) {
    sort_bucket(from + start, to + start, count, size, depth, work);
  });
}

// Sorts numbers into keys[0], ..., keys[size - 1]; keys[-1] must exist, too.
template <class T>
void sort_values(const T* values, int64_t size, SortKey<T>* keys, SortKey<T>* scratch,
                 SortWork<T>& work) {
  const FreshKeys<T> source{values};
  const auto make_keys = [&](SortKey<T>* to) {
    for (int64_t i = 0; i < size; ++i) to[i] = source.key(i);
  };
  const Bounds<T> between = bounds(values, size);
  if (between.all_equal()) return make_keys(keys);
  keys[-1] = SortKey<T>::make(0, 0);
  if (size <= kLeaf || !between.usable()) {
    make_keys(scratch);
    if (!between.usable()) return sort_by_digits(scratch, keys, size, work);
    return sort_leaf(values, scratch, size, between, keys, 0, work);
  }
  // Of long arrays, keys are made on the way: written first, they would leave the cache again.
  const auto cuts =
      counters(size / kCut < kMostCuts ? size / kCut : kMostCuts, work.cut_counters[0]);
  distribute(source, size, bulk_bounds(values, size, between), cuts, scratch, work.bucket);
  for_each_bucket(cuts, [&](int64_t start, int64_t count) {
    sort_keys(scratch + start, keys + start, count, 1, work);
  });
}

}  // namespace dpslice::DPSLICE_ISA
