// Exact median of the b (b - 1) / 2 pairwise distances of each slice in O(b) memory.
//
// Squared distances are not negative, so their float64 bits are ordered as they are. The median's
// bits are found from the top, a digit in each pass: a pass recomputes all distances and counts the
// next digit of those that share the digits known so far. Once few enough are left, they are
// collected and sorted. For an even number of pairs the median is the mean of the two middle
// distances, as in NumPy. The gradient goes to the pairs that attain it (the first in order (i, j)
// among equals); a distance of zero has gradient zero.
#include "median_distance.h"

#include <cmath>

#include "points.h"
#include "radix_sort.h"

namespace dpslice::DPSLICE_ISA {
namespace {

constexpr int kDigit = 11;  // 2048 counters: 16 KiB, half of L1
// Pairs that are collected and sorted: at least 512 KiB for them and the sort's scratch, in L2, and
// O(b).
constexpr int64_t kLeastCandidates = 16384;
constexpr int64_t kCandidatesPerPoint = 4;

struct Workspace {
  Points points;
  Buffer<double> row;  // [points.stride]
  Buffer<int64_t> counters;
  Buffer<WideKey> candidates, scratch;
};

// row[j] = |x_i - x_j|^2 for j > i. Every pass must see the same bits, so this is compiled once,
// not inlined where the compiler might contract it differently.
__attribute__((noinline)) void squared_distances_after(const Points& points, int64_t i,
                                                       double* row) {
  constexpr int L = kLanes<double>;
  static_assert(kSourceTile % (4 * L) == 0, "whole blocks of 4 vectors lie within the stride");
  for (int64_t j = (i + 1) / (4 * L) * (4 * L); j < points.size(); j += 4 * L) {
    Vec<double> sum[4] = {};
    for (int64_t t = 0; t < points.dims(); ++t) {
      const double* coordinate = points.coordinate(t);
      for (int v = 0; v < 4; ++v) {
        const Vec<double> difference = coordinate[i] - load(coordinate + j + v * L);
        sum[v] += difference * difference;
      }
    }
    for (int v = 0; v < 4; ++v) store(row + j + v * L, sum[v]);
  }
}

// visit(bits of the squared distance, pair number i * b + j) for all pairs i < j, in order.
template <class Visit>
void for_each_pair(const Points& points, Buffer<double>& row, Visit&& visit) {
  row.resize(points.stride());
  for (int64_t i = 0; i + 1 < points.size(); ++i) {
    squared_distances_after(points, i, row.data());
    for (int64_t j = i + 1; j < points.size(); ++j) {
      uint64_t bits;
      std::memcpy(&bits, &row[j], sizeof bits);
      visit(bits, i * points.size() + j);
    }
  }
}

double distance(WideKey pair) {
  double squared;
  std::memcpy(&squared, &pair.bits, sizeof squared);
  return std::sqrt(squared);
}

// The pair or the two pairs in the middle; both the same for an odd number.
struct Middle {
  WideKey first, second;
};

Middle middle_pairs(Workspace& work) {
  const int64_t b = work.points.size();
  const int64_t pairs = b * (b - 1) / 2;
  const int64_t rank = (pairs - 1) / 2;  // of the first, counted from 0
  const int64_t room =
      kCandidatesPerPoint * b > kLeastCandidates ? kCandidatesPerPoint * b : kLeastCandidates;

  // The bits from `shift` up are known; `below` pairs are smaller and `inside` share them. The sign
  // bit is 0.
  int shift = 63;
  uint64_t known = 0;
  int64_t below = 0, inside = pairs;
  while (inside > room && shift > 0) {
    const int width = shift < kDigit ? shift : kDigit;
    const uint64_t mask = (uint64_t{1} << width) - 1;
    const int above = shift;
    shift -= width;
    work.counters.resize(int64_t{1} << kDigit);
    int64_t* count = work.counters.data();
    std::memset(count, 0, sizeof(int64_t) << width);
    for_each_pair(work.points, work.row, [&](uint64_t bits, int64_t) {
      if (bits >> above == known) ++count[bits >> shift & mask];
    });
    uint64_t digit = 0;
    while (below + count[digit] <= rank) below += count[digit++];
    inside = count[digit];
    known = known << width | digit;
  }

  // Where more than `room` pairs are left, all bits are known, so all are equal and the first ones
  // do.
  const int64_t size = inside < room ? inside : room;
  work.candidates.resize(size);
  work.scratch.resize(size);
  int64_t found = 0;
  WideKey next = WideKey::make(~uint64_t{0}, 0);  // the least pair above the candidates
  for_each_pair(work.points, work.row, [&](uint64_t bits, int64_t pair) {
    const uint64_t prefix = bits >> shift;
    if (prefix == known) {
      if (found < size) work.candidates[found++] = WideKey::make(bits, static_cast<uint64_t>(pair));
    } else if (prefix > known && bits < next.bits) {
      next = WideKey::make(bits, static_cast<uint64_t>(pair));
    }
  });
  const WideKey* ordered =
      radix_sort(work.candidates.data(), work.scratch.data(), size, work.counters);
  const int64_t last = size - 1;
  const int64_t first = rank - below < last ? rank - below : last;
  if (pairs % 2 == 1) return {ordered[first], ordered[first]};
  if (rank + 1 - below >= inside) return {ordered[first], next};
  return {ordered[first], ordered[first < last ? first + 1 : last]};
}

// Coordinates are scaled by a power of two to at most 2, so that squares neither overflow nor, for
// distances that matter, underflow. Returns the scale.
template <class T>
double assign_scaled(const T* rows, int64_t b, int64_t k, Points& points) {
  double largest = 0;
  for (int64_t i = 0; i < b * k; ++i) {
    const double size = std::fabs(static_cast<double>(rows[i]));
    largest = size > largest ? size : largest;
  }
  const double scale = largest > 0 ? unit_scale(largest) : 1.0;
  points.assign(rows, b, k, scale);
  return scale;
}

}  // namespace

template <class T>
void median_distance(const MedianDistanceArgs<T>& args) {
  parallel_for<Workspace>(args.m, [&](int64_t s, Workspace& work) {
    const double scale = assign_scaled(args.x + s * args.b * args.k, args.b, args.k, work.points);
    const Middle middle = middle_pairs(work);
    args.value[s] =
        static_cast<T>(0.5 * (distance(middle.first) + distance(middle.second)) / scale);
  });
}

template <class T>
void median_distance_vjp(const MedianDistanceVjpArgs<T>& args) {
  parallel_for<Workspace>(args.m, [&](int64_t s, Workspace& work) {
    assign_scaled(args.x + s * args.b * args.k, args.b, args.k, work.points);
    const Middle middle = middle_pairs(work);
    T* grad_x = args.grad_x + s * args.b * args.k;
    for (int64_t i = 0; i < args.b * args.k; ++i) grad_x[i] = 0;
    // Both may be the same pair, or share a point.
    const WideKey attaining[] = {middle.first, middle.second};
    for (const WideKey pair : attaining) {
      const double length = distance(pair);
      if (length == 0) continue;
      const int64_t i = pair.index() / args.b, j = pair.index() % args.b;
      const double half = 0.5 * static_cast<double>(args.grad[s]) / length;
      for (int64_t t = 0; t < args.k; ++t) {
        const double* coordinate = work.points.coordinate(t);
        const double pull = half * (coordinate[i] - coordinate[j]);
        grad_x[i * args.k + t] = static_cast<T>(static_cast<double>(grad_x[i * args.k + t]) + pull);
        grad_x[j * args.k + t] = static_cast<T>(static_cast<double>(grad_x[j * args.k + t]) - pull);
      }
    }
  });
}

DPSLICE_INSTANTIATE(median_distance, MedianDistanceArgs)
DPSLICE_INSTANTIATE(median_distance_vjp, MedianDistanceVjpArgs)

}  // namespace dpslice::DPSLICE_ISA
