// Exact median of the b (b - 1) / 2 pairwise distances of each slice in O(b) memory.
//
// A sample of pairs tells between which two distances the median should lie. One pass over all
// pairs counts those below and collects those between, which are sorted; if the median is not among
// them (many equal distances, or bad luck), it is found by digits:
//
// Squared distances are not negative, so their float64 bits are ordered as they are. The median's
// bits are found from the top, a digit in each pass: a pass recomputes all distances and counts the
// next digit of those that share the digits known so far. Once few enough are left, they are
// collected and sorted. For an even number of pairs the median is the mean of the two middle
// distances, as in NumPy. The gradient goes to the pairs that attain it (among equals, those in the
// middle of the order by (distance, i, j)); a distance of zero has gradient zero.
#include "median_distance.h"

#include <cmath>
#include <cstring>
#include <limits>

#include "common/bits.h"
#include "points.h"
#include "radix_sort.h"

namespace dpslice::DPSLICE_ISA {
namespace {

constexpr int kDigit = 11;  // 2048 counters: 16 KiB, half of L1
// Pairs that are collected and sorted: at least 512 KiB for them and the sort's scratch, in L2, and
// O(b).
constexpr int64_t kLeastCandidates = 16384;
constexpr int64_t kCandidatesPerPoint = 4;
// Of the sample, and of the pairs between two of its distances: O(b), too.
constexpr int64_t kBetweenPerPoint = 64;
constexpr int64_t kLeastSample = 512;
constexpr int kRows = 4;           // points whose distances are computed together ...
constexpr int64_t kManyDims = 16;  // ... where there are so many coordinates
constexpr int kManyVectors = kVectorRegisters >= 32 ? 4 : 2;  // of other points, beside these
constexpr int64_t kChunk = 16;  // distances that are passed over at once if none lies between
// Where threads share a slice: strips of rows for each, and the least work that is worth waking
// them, in pairs times coordinates.
constexpr int64_t kStripsPerThread = 4;
constexpr int64_t kLeastShared = int64_t{1} << 18;

// What one strip of rows has found: pairs below the bracket, and those in it.
struct Strip {
  int64_t first, last;  // rows
  int64_t below, found;
  bool fits;
};

struct Workspace {
  Points points;
  Buffer<double> rows;  // [kRows, points.stride], and a chunk
  Buffer<int64_t> counters;
  Buffer<WideKey> candidates, scratch;
  Buffer<Strip> strips;
};

// rows[r][j] = |x_(first + r) - x_j|^2 for j > first, rows [Rows, stride]; several rows at a time
// share the loads of many coordinates, 1 x 4 vectors are quicker for few. Every pass must see the
// same bits, so this is compiled once, not inlined where the compiler might contract it
// differently.
template <int Rows, int Vectors>
__attribute__((noinline)) void squared_distances_after(const Points& points, int64_t first,
                                                       double* rows) {
  constexpr int L = kLanes<double>;
  static_assert(kSourceTile % (Vectors * L) == 0, "whole blocks of vectors lie within the stride");
  static_assert(kSourceTile % Rows == 0, "rows beyond the last point lie within the stride");
  constexpr int64_t step = Vectors * L;
  for (int64_t j = (first + 1) / step * step; j < points.size(); j += step) {
    Vec<double> sum[Rows][Vectors] = {};
    for (int64_t t = 0; t < points.dims(); ++t) {
      const double* coordinate = points.coordinate(t);
      Vec<double> other[Vectors];
      for (int v = 0; v < Vectors; ++v) other[v] = load(coordinate + j + v * L);
      for (int r = 0; r < Rows; ++r) {
        for (int v = 0; v < Vectors; ++v) {
          const Vec<double> difference = coordinate[first + r] - other[v];
          sum[r][v] += difference * difference;
        }
      }
    }
    for (int r = 0; r < Rows; ++r)
      for (int v = 0; v < Vectors; ++v) store(rows + r * points.stride() + j + v * L, sum[r][v]);
  }
}

// visit(i, squared distances of point i from all points, of which those after i hold) for the
// points of [begin, end) in order, until it returns false. begin: a multiple of kRows.
template <class Visit>
void for_each_row(const Points& points, int64_t begin, int64_t end, Buffer<double>& rows,
                  Visit&& visit) {
  rows.resize(kRows * points.stride() + kChunk);  // reading may go beyond the last row
  const int64_t together = points.dims() < kManyDims ? 1 : kRows;
  for (int64_t first = begin; first < end; first += together) {
    if (together == 1) {
      squared_distances_after<1, 4>(points, first, rows.data());
    } else {
      squared_distances_after<kRows, kManyVectors>(points, first, rows.data());
    }
    for (int64_t r = 0; r < together && first + r < end; ++r)
      if (!visit(first + r, rows.data() + r * points.stride())) return;
  }
}

// visit(bits of the squared distance, pair number i * b + j) for all pairs i < j, in order.
template <class Visit>
void for_each_pair(const Points& points, Buffer<double>& rows, Visit&& visit) {
  for_each_row(points, 0, points.size() - 1, rows, [&](int64_t i, const double* row) {
    for (int64_t j = i + 1; j < points.size(); ++j)
      visit(bits_as<uint64_t>(row[j]), i * points.size() + j);
    return true;
  });
}

double distance(WideKey pair) { return std::sqrt(bits_as<double>(pair.bits)); }

// The pair or the two pairs in the middle; both the same for an odd number.
struct Middle {
  WideKey first, second;
};

// Distances that the median should lie between: four standard deviations of a sample's rank on
// either side. The sample need not be random, only unlike the order of the points.
struct Bracket {
  double low, high;
};

// So many that what lies in the bracket, 4 pairs / sqrt(sample) of them, fills three quarters of
// the room at most; 0 where the room has no place for such a sample.
int64_t sample_size(int64_t b, int64_t pairs) {
  int64_t sample = pairs / 64;  // a small part of a pass
  const int64_t root = b / (3 * kBetweenPerPoint / 8) + 1;
  if (sample > kBetweenPerPoint * b / 8) sample = kBetweenPerPoint * b / 8;
  if (sample < kLeastSample) sample = kLeastSample;
  if (sample < root * root) sample = root * root;
  return sample <= kBetweenPerPoint * b ? sample : 0;
}

Bracket sampled_bracket(Workspace& work, int64_t sample) {
  const int64_t b = work.points.size();
  work.candidates.resize(sample);
  work.scratch.resize(sample);
  uint64_t state = 0;
  for (int64_t r = 0; r < sample; ++r) {
    // SplitMix64 (Steele, Lea, Flood 2014), two numbers of 32 bits from each step.
    uint64_t word = state += 0x9e3779b97f4a7c15u;
    word = (word ^ word >> 30) * 0xbf58476d1ce4e5b9u;
    word = (word ^ word >> 27) * 0x94d049bb133111ebu;
    word ^= word >> 31;
    const auto points = static_cast<uint64_t>(b);
    const uint64_t i = (word >> 32) * points >> 32;
    const uint64_t apart = 1 + ((word & 0xffffffffu) * (points - 1) >> 32);
    const uint64_t j = (i + apart) % points;
    double squared = 0;
    for (int64_t t = 0; t < work.points.dims(); ++t) {
      const double* coordinate = work.points.coordinate(t);
      const double difference = coordinate[i] - coordinate[j];
      squared += difference * difference;
    }
    work.candidates[r] = WideKey::make(bits_as<uint64_t>(squared), 0);
  }
  const WideKey* ordered =
      radix_sort(work.candidates.data(), work.scratch.data(), sample, work.counters);
  const auto margin = static_cast<int64_t>(2.0 * std::sqrt(static_cast<double>(sample))) + 1;
  const int64_t first = sample / 2 - margin, last = sample / 2 + margin;
  return {bits_as<double>(ordered[first > 0 ? first : 0].bits),
          bits_as<double>(ordered[last < sample ? last : sample - 1].bits)};
}

// Counts the pairs of a strip's rows below the bracket, and collects those in it, in order, if they
// fit into `room`.
void scan_strip(const Points& points, Bracket bracket, Buffer<double>& rows, Strip& strip,
                WideKey* candidates, int64_t room) {
  const int64_t b = points.size();
  int64_t below = 0, found = 0;
  bool fits = true;
  for_each_row(points, strip.first, strip.last, rows, [&](int64_t i, const double* row) {
    constexpr int L = kLanes<double>;
    static_assert(kChunk % L == 0 && kChunk < 32,
                  "a chunk is whole vectors, and has a bit for each");
    const Vec<double> low = splat(bracket.low), high = splat(bracket.high);
    int64_t next = found;  // in a register: writing candidates could change `found` itself
    for (int64_t start = i + 1; start < b && fits; start += kChunk) {
      // Bit j: whether distance start + j is below the bracket, or above it.
      uint32_t lower = 0, above = 0;
      for (int j = 0; j < kChunk; j += L) {
        const Vec<double> squared = load(row + start + j);
        lower |= greater_bits<double>(low, squared) << j;
        above |= greater_bits<double>(squared, high) << j;
      }
      const uint32_t all = b - start < kChunk ? (1u << (b - start)) - 1 : (1u << kChunk) - 1;
      below += __builtin_popcount(lower & all);
      uint32_t between = all & ~(lower | above);
      if (between == 0) continue;
      fits = next + kChunk <= room;
      if (!fits) break;
      for (; between != 0; between &= between - 1) {
        const int64_t j = start + __builtin_ctz(between);
        candidates[next++] =
            WideKey::make(bits_as<uint64_t>(row[j]), static_cast<uint64_t>(i * b + j));
      }
    }
    found = next;
    return fits;
  });
  strip.below = below;
  strip.found = found;
  strip.fits = fits;
}

// Strips of about as many pairs each, of whole groups of rows.
void deal_rows(int64_t b, int64_t count, Buffer<Strip>& strips) {
  strips.resize(count);
  int64_t first = 0;
  for (int64_t t = 0; t < count; ++t) {
    // The pairs of the rows from r on are the share (1 - r / b)^2.
    const double after = static_cast<double>(count - t - 1) / static_cast<double>(count);
    const double border = static_cast<double>(b) * (1 - std::sqrt(after));
    int64_t last = t + 1 < count ? static_cast<int64_t>(border) / kRows * kRows : b - 1;
    if (last < first) last = first;
    strips[t] = Strip{first, last, 0, 0, false};
    first = last;
  }
}

// The middle pairs if they lie in the bracket and what lies in it is not too much. `n_strips`: into
// how many the rows are dealt; with more than one, threads share them.
bool middle_pairs_between(Workspace& work, Bracket bracket, int64_t rank, int64_t pairs,
                          int64_t n_strips, Middle* middle) {
  const int64_t b = work.points.size();
  const int64_t room = kBetweenPerPoint * b;
  // Of one strip: four times its share, for pairs in the bracket may be spread unevenly.
  const int64_t strip_room = n_strips <= 4 ? room : 4 * room / n_strips + kChunk;
  work.candidates.resize(n_strips * strip_room);
  work.scratch.resize(room);
  WideKey* candidates = work.candidates.data();
  deal_rows(b, n_strips, work.strips);
  if (n_strips == 1) {
    scan_strip(work.points, bracket, work.rows, work.strips[0], candidates, strip_room);
  } else {
    parallel_for<Buffer<double>>(n_strips, [&](int64_t t, Buffer<double>& rows) {
      scan_strip(work.points, bracket, rows, work.strips[t], candidates + t * strip_room,
                 strip_room);
    });
  }
  int64_t below = 0, found = 0;
  for (int64_t t = 0; t < n_strips; ++t) {
    const Strip& strip = work.strips[t];
    if (!strip.fits || found + strip.found > room) return false;
    std::memmove(candidates + found, candidates + t * strip_room,
                 static_cast<size_t>(strip.found) * sizeof(WideKey));
    below += strip.below;
    found += strip.found;
  }
  const int64_t first = rank - below, second = first + (pairs % 2 == 0);
  if (first < 0 || second >= found) return false;
  const WideKey* ordered = radix_sort(candidates, work.scratch.data(), found, work.counters);
  *middle = {ordered[first], ordered[second]};
  return true;
}

// `share`: whether threads share the rows.
Middle middle_pairs(Workspace& work, bool share) {
  const int64_t b = work.points.size();
  const int64_t pairs = b * (b - 1) / 2;
  const int64_t rank = (pairs - 1) / 2;  // of the first, counted from 0
  const int64_t sample = pairs > 4 * kLeastSample ? sample_size(b, pairs) : 0;
  if (sample > 0) {
    share = share && pairs * work.points.dims() >= kLeastShared;
    const int64_t strips = share ? kStripsPerThread * num_threads() : 1;
    Middle middle;
    if (middle_pairs_between(work, sampled_bracket(work, sample), rank, pairs, strips, &middle))
      return middle;
  }
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
    for_each_pair(work.points, work.rows, [&](uint64_t bits, int64_t) {
      if (bits >> above == known) ++count[bits >> shift & mask];
    });
    uint64_t digit = 0;
    while (below + count[digit] <= rank) below += count[digit++];
    inside = count[digit];
    known = known << width | digit;
  }

  // Where more than `room` pairs are left, all bits are known, so all are equal, and the middle
  // ones are known by their number.
  const int64_t skipped = inside > room ? rank - below : 0;
  int64_t size = inside < room ? inside : room;
  if (skipped > 0) size = inside - skipped < 2 ? 1 : 2;
  work.candidates.resize(size);
  work.scratch.resize(size);
  int64_t found = 0, passed = 0;
  WideKey next = WideKey::make(~uint64_t{0}, 0);  // the least pair above the candidates
  for_each_pair(work.points, work.rows, [&](uint64_t bits, int64_t pair) {
    const uint64_t prefix = bits >> shift;
    if (prefix == known) {
      if (passed++ >= skipped && found < size)
        work.candidates[found++] = WideKey::make(bits, static_cast<uint64_t>(pair));
    } else if (prefix > known && bits < next.bits) {
      next = WideKey::make(bits, static_cast<uint64_t>(pair));
    }
  });
  const WideKey* ordered =
      radix_sort(work.candidates.data(), work.scratch.data(), size, work.counters);
  const int64_t first = rank - below - skipped;
  if (pairs % 2 == 1) return {ordered[first], ordered[first]};
  if (rank + 1 - below >= inside) return {ordered[first], next};
  return {ordered[first], ordered[first + 1]};
}

// Coordinates are scaled by a power of two to at most 2, so that squares neither overflow nor, for
// distances that matter, underflow. Returns the scale; or 0 if a coordinate is not finite, for then
// the search would leave its counters. That is looked for in the copy, which nobody else writes to.
template <class T>
double assign_scaled(const T* rows, int64_t b, int64_t k, Points& points) {
  double largest = 0;
  for (int64_t i = 0; i < b * k; ++i) {
    const double size = std::fabs(static_cast<double>(rows[i]));
    largest = size > largest ? size : largest;
  }
  const double scale = largest > 0 ? unit_scale(largest) : 1.0;
  points.assign(rows, b, k, scale);
  bool bounded = true;
  for (int64_t t = 0; t < k; ++t) {
    const double* coordinate = points.coordinate(t);
    for (int64_t i = 0; i < b; ++i) bounded &= std::fabs(coordinate[i]) <= 2;
  }
  return bounded ? scale : 0;
}

// body(slice, workspace, share): threads take slices, or share the rows of a single one.
template <class Body>
void for_each_slice(int64_t m, Body&& body) {
  const bool share = m == 1;
  parallel_for<Workspace>(
      m, [&](int64_t s, Workspace& work) { body(s, work, share); }, share ? 1 : m);
}

}  // namespace

template <class T>
void median_distance(const MedianDistanceArgs<T>& args) {
  for_each_slice(args.m, [&](int64_t s, Workspace& work, bool share) {
    const double scale = assign_scaled(args.x + s * args.b * args.k, args.b, args.k, work.points);
    if (scale == 0) {
      args.value[s] = std::numeric_limits<T>::quiet_NaN();
      return;
    }
    const Middle middle = middle_pairs(work, share);
    args.value[s] =
        static_cast<T>(0.5 * (distance(middle.first) + distance(middle.second)) / scale);
  });
}

template <class T>
void median_distance_vjp(const MedianDistanceVjpArgs<T>& args) {
  for_each_slice(args.m, [&](int64_t s, Workspace& work, bool share) {
    const double scale = assign_scaled(args.x + s * args.b * args.k, args.b, args.k, work.points);
    T* grad_x = args.grad_x + s * args.b * args.k;
    for (int64_t i = 0; i < args.b * args.k; ++i)
      grad_x[i] = scale == 0 ? std::numeric_limits<T>::quiet_NaN() : T(0);
    if (scale == 0) return;
    const Middle middle = middle_pairs(work, share);
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
