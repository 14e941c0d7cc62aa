// Sums over all pairs (x_i, y_j) of one slice, streamed: what kernel_sum.cpp, logsumexp.cpp and
// pair_gradients.cpp share.
//
// Forward, for each x_i, either sum_j f_j K_ij or log sum_j exp(l_j) K_ij. Backward, with
// E_ij = exp(log K_ij + offset_i + offset_j), the weighted sums of E_ij (y_j - x_i) over j, over i,
// or both in one sweep. No b x c matrix exists: a block of rows meets a block of columns, and what
// they add up to stays in the block's accumulators. "Rows" own a task, "columns" stream past;
// either cloud can be either, so that a gradient in y alone is a sweep whose rows are y.
//
// Inside, logarithms are in base 2 (see simd.h): "log K" is log2 K in these files.
//
// Two ways to log K (csrc/common/gaussian_kernel.h):
// - By differences: coordinates scaled by a power of two, so exactly; nothing cancels. For k up to
//   kDirectDims, with the coordinates in registers, and for any k where products would cancel.
// - By products: x.y - |x|^2/2 - |y|^2/2 of points centred on the mean of y and divided by the
//   bandwidth, times sqrt(log2 e). A rounding error of the product becomes a relative error of K,
//   so this is used only where |x||y| <= product_reach.
//
// Every sum has an order that depends on the sizes alone, not on the number of threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "common/gaussian_kernel.h"
#include "common/streaming_logsumexp.h"
#include "parallel.h"
#include "simd.h"
#include "tile_product.h"

namespace dpslice::DPSLICE_ISA {

// --------------------------------------------------------------------------------------- constants

// Up to this dimension differences are cheaper than products, which compute whole tiles.
constexpr int64_t kDirectDims = 8;

// Rows of one task: enough that a column block, once in cache, is used often; few enough that tasks
// of one slice of some hundred rows still spread over threads.
constexpr int64_t kRowBlock = 64;

// Rows of one block where, by products, the sums over rows take more than kManySumBytes: each block
// adds to all of them, and so many do not stay in the second-level cache between blocks. Not where
// a task would be left without a block, nor where the exponents of one take more than
// kMostLongBytes.
constexpr int64_t kLongRowBlock = 256;
constexpr int64_t kManySumBytes = int64_t{1} << 20, kMostLongBytes = int64_t{1} << 23;
static_assert(kLongRowBlock >= kRowBlock);

// Columns of one block, by products: their share of the gradient's right operand fits one pass.
template <class T>
constexpr int64_t kColumnBlock = 3 * kPanel<T>;
static_assert(kColumnBlock<float> <= kPassDepth<float> &&
              kColumnBlock<double> <= kPassDepth<double>);

// Columns of one block, by differences: after each, row sums go from vectors of T to float64. They
// and what is added up over rows stay in the first-level cache.
constexpr int64_t kDirectBlock = 1024;

// Vectors of exponents that share one look at a running maximum.
constexpr int kGroup = 4;

// A running maximum is raised once it is exceeded by this much: sums are exact far beyond 1, so it
// need not be the maximum itself, and is raised a few times only.
constexpr int kSlack = 32;

// A logsumexp larger than this, rounded to float32, is too coarse to normalise its row by (error
// above 4e-6): backward then computes it again in float64.
constexpr double kCoarseLogsumexp = 128;

// Partial sums over x, of all slices together, are about this many, however many threads there are.
constexpr int64_t kMaxParts = 8;

// ----------------------------------------------------------------------------------------- problem

// One cloud of points in one slice.
template <class T>
struct Cloud {
  const T* points;  // [size, k]
  int64_t size;
  const T* log_weights;  // [size] or null: added to the exponent
  const double* shift;   // [size] or null: added to the exponent, in base 2 and full precision
  const T* factor;       // [size] or null: multiplies the kernel

  bool has_offsets() const { return log_weights != nullptr || shift != nullptr; }
  T factor_of(int64_t i) const { return factor != nullptr ? factor[i] : T(1); }
};

// Where and how the points of one slice are measured.
template <class T>
struct Measure {
  bool by_product = false;
  int64_t k = 0;
  int64_t point_stride = 0;   // of packed points: by products whole vectors, by differences k
  double scale = 1;           // of coordinates
  double gradient_scale = 1;  // from sums of E (v - u) in scaled coordinates to a gradient
  T factor = 0;               // log2 K = -factor * squared scaled distance
  Buffer<double> centre;      // [k]

  // By products. to: [point_stride], beyond k zeros.
  void scaled(const T* point, T* to) const {
    const double* const origin = centre.data();
    for (int64_t t = 0; t < k; ++t) to[t] = static_cast<T>((point[t] - origin[t]) * scale);
    for (int64_t t = k; t < point_stride; ++t) to[t] = 0;
  }

  // log2 K(u, 0) = -|u|^2 / 2 of a scaled, padded point.
  double log_kernel_to_centre(const T* point) const {
    Vec<T> squares{};
    for (int64_t t = 0; t < point_stride; t += kLanes<T>) {
      const Vec<T> u = load(point + t);
      squares += u * u;
    }
    return -0.5 * lane_total<T>(squares);
  }
};

template <class T>
inline void measure_slice(const T* x, int64_t b, const T* y, int64_t c, int64_t k, T bandwidth,
                          Measure<T>& measure, Buffer<T>& point) {
  const double g = bandwidth;
  measure.k = k;
  if (k > kDirectDims) {
    measure.by_product = true;
    measure.point_stride = padded<T>(k);
    measure.scale = std::sqrt(kLog2E) / g;
    measure.gradient_scale = 1 / (std::sqrt(kLog2E) * g);
    measure.centre.resize(k);
    double* const centre = measure.centre.data();
    for (int64_t t = 0; t < k; ++t) centre[t] = 0;
    for (int64_t j = 0; j < c; ++j)
      for (int64_t t = 0; t < k; ++t) centre[t] += y[j * k + t];
    for (int64_t t = 0; t < k; ++t) centre[t] /= static_cast<double>(c);
    point.resize(measure.point_stride);
    const auto reach = [&](const T* points, int64_t size) {
      double least = 0;
      for (int64_t i = 0; i < size; ++i) {
        measure.scaled(points + i * k, point.data());
        const double log_kernel = measure.log_kernel_to_centre(point.data());
        least = log_kernel < least ? log_kernel : least;
      }
      return std::sqrt(-2 * least);
    };
    // Not "> reach": of infinite products the comparison must choose differences.
    if (reach(x, b) * reach(y, c) * kLn2 <= product_reach<T>(k)) return;
  }
  measure.by_product = false;
  measure.point_stride = k;
  measure.scale = std::ldexp(1.0, -std::ilogb(g));
  measure.gradient_scale = 1 / (measure.scale * g) / g;
  measure.factor = static_cast<T>(0.5 * kLog2E / (measure.scale * g) / (measure.scale * g));
}

// The two parts, as numbers of type T, of what a point adds to its exponents.
template <class T>
struct Offset {
  T high, low;
};
template <class T>
inline Offset<T> offset_of(const Cloud<T>& cloud, int64_t i, double log_kernel) {
  double offset = log_kernel;
  if (cloud.log_weights != nullptr) offset += kLog2E * cloud.log_weights[i];
  if (cloud.shift != nullptr) offset += cloud.shift[i];
  // A logsumexp of -inf is a row without weight: its E are zeros, not exp(-inf + inf).
  if (offset == std::numeric_limits<double>::infinity())
    offset = -std::numeric_limits<double>::infinity();
  const T high = static_cast<T>(offset);
  const bool finite = high - high == 0;
  return {high, finite ? static_cast<T>(offset - static_cast<double>(high)) : T(0)};
}

// What each of some points brings along; padding: exponent -inf, factor 0.
template <class T>
struct Companions {
  Buffer<T> high, low;        // to the exponent
  Buffer<T> factor;           // to the kernel
  Buffer<double> log_kernel;  // by products: log2 K(point, centre)

  void resize_companions(int64_t padded) {
    high.resize(padded);
    low.resize(padded);
    factor.resize(padded);
    log_kernel.resize(padded);
  }
  // Of points [first, first + size) of the cloud. by_product: log_kernel is there.
  void pack_companions(const Cloud<T>& cloud, int64_t first, int64_t size, int64_t padded,
                       bool by_product) {
    if (by_product || cloud.has_offsets()) {
      for (int64_t i = 0; i < size; ++i) {
        const Offset<T> offset = offset_of(cloud, first + i, by_product ? log_kernel[i] : 0);
        high[i] = offset.high;
        low[i] = offset.low;
      }
    } else {
      for (int64_t i = 0; i < size; ++i) high[i] = low[i] = 0;
    }
    for (int64_t i = 0; i < size; ++i) factor[i] = cloud.factor_of(first + i);
    for (int64_t i = size; i < padded; ++i) {
      high[i] = -std::numeric_limits<T>::infinity();
      low[i] = factor[i] = 0;
    }
  }
};

// Distance of the same point's coordinates t and t + 1: an odd number of cache lines, for arrays at
// distances of 4 KiB share a set of the first-level cache, and stores to one delay loads of
// another.
template <class T>
constexpr int64_t column_stride(int64_t size) {
  constexpr int64_t line = 64 / static_cast<int64_t>(sizeof(T));
  return ((size + line - 1) / line | 1) * line;
}
static_assert(64 % kVectorBytes == 0);

// The cloud that streams past, packed once for a slice.
template <class T>
struct Columns : Companions<T> {  // [padded]
  int64_t size = 0, padded = 0;
  int64_t stride = 0;     // of coordinates, by differences: see column_stride
  Buffer<T> coordinates;  // by differences [k, stride]; by products panels of [k, size]
  Buffer<T> values;       // by products, for gradients: panels of [size, k + 1], f_j (y_j, 1)

  void pack(const Cloud<T>& cloud, const Measure<T>& measure, bool with_values, Buffer<T>& point) {
    size = cloud.size;
    padded = padded_columns<T>(size);
    stride = column_stride<T>(size);
    coordinates.resize(measure.k * stride);
    this->resize_companions(padded);
    if (measure.by_product)
      pack_for_products(cloud, measure, with_values, point);
    else
      pack_for_differences(cloud, measure);
    this->pack_companions(cloud, 0, size, padded, measure.by_product);
  }

  void pack_for_differences(const Cloud<T>& cloud, const Measure<T>& measure) {
    const int64_t k = measure.k;
    const T scale = static_cast<T>(measure.scale);
    for (int64_t t = 0; t < k; ++t) {
      T* const to = coordinates.data() + t * stride;
      for (int64_t j = 0; j < size; ++j) to[j] = cloud.points[j * k + t] * scale;
      for (int64_t j = size; j < padded; ++j) to[j] = 0;
    }
  }

  void pack_for_products(const Cloud<T>& cloud, const Measure<T>& measure, bool with_values,
                         Buffer<T>& point) {
    const int64_t k = measure.k;
    const PanelLayout<T> scores{k, size}, gradients{size, k + 1};
    if (with_values) values.resize(gradients.size());
    point.resize(measure.point_stride);
    for (int64_t j = 0; j < padded; ++j) {
      const bool real = j < size;
      if (real)
        measure.scaled(cloud.points + j * k, point.data());
      else
        for (int64_t t = 0; t < k; ++t) point[t] = 0;
      T* const to = coordinates.data() + scores.index(0, j);
      const int64_t width = scores.width(j / kPanel<T>);
      for (int64_t t = 0; t < k; ++t) to[t * width] = point[t];
      if (!real) continue;
      this->log_kernel[j] = measure.log_kernel_to_centre(point.data());
      if (with_values) pack_value(gradients, j, point.data(), cloud.factor_of(j), values.data());
    }
  }

  // Row j of the right operand of a gradient: f (u, 1), then zeros.
  static void pack_value(const PanelLayout<T>& layout, int64_t j, const T* point, T f, T* values) {
    const int64_t k = layout.columns - 1;
    for (int64_t panel = 0; panel < layout.panels(); ++panel) {
      const int64_t width = layout.width(panel), first = panel * kPanel<T>;
      T* to = values + layout.start(panel) + j * width;
      for (int64_t t = 0; t < width; ++t)
        to[t] = first + t < k ? f * point[first + t] : first + t == k ? f : T(0);
    }
  }
};

// The rows of one task.
template <class T>
struct Rows : Companions<T> {  // [padded size]
  int64_t first = 0, size = 0;
  Buffer<T> points;  // [padded size, point_stride]
  Buffer<T> values;  // by products: panels of [size, k + 1], f_i (x_i, 1), for sums over rows

  // Up to `most` rows from row0 on.
  void pack(const Cloud<T>& cloud, int64_t row0, int64_t most, const Measure<T>& measure,
            bool with_values) {
    first = row0;
    size = cloud.size - row0 < most ? cloud.size - row0 : most;
    const int64_t rows = padded_rows(size), ld = measure.point_stride;
    points.resize(rows * ld);
    this->resize_companions(rows);
    const PanelLayout<T> gradients{size, measure.k + 1};
    if (measure.by_product) {
      if (with_values) values.resize(gradients.size());
      for (int64_t r = 0; r < size; ++r) {
        T* const to = points.data() + r * ld;
        measure.scaled(cloud.points + (row0 + r) * measure.k, to);
        this->log_kernel[r] = measure.log_kernel_to_centre(to);
        if (with_values)
          Columns<T>::pack_value(gradients, r, to, cloud.factor_of(row0 + r), values.data());
      }
    } else {
      const T scale = static_cast<T>(measure.scale);
      for (int64_t i = 0; i < size * ld; ++i) points[i] = cloud.points[row0 * ld + i] * scale;
    }
    for (int64_t i = size * ld; i < rows * ld; ++i) points[i] = 0;
    this->pack_companions(cloud, row0, size, rows, measure.by_product);
  }
};

// Calls body.template operator()<K>() with K = k where that has a kernel of its own, else 0. With
// DPSLICE_FEW_DIMS few have one: builds with sanitizers would take minutes to compile the others,
// which have the same source.
template <class Body>
inline void with_dims(int64_t k, Body&& body) {
  static_assert(kDirectDims == 8);
  switch (k) {
    case 1: return body.template operator()<1>();
    case 2: return body.template operator()<2>();
    case 3: return body.template operator()<3>();
#ifndef DPSLICE_FEW_DIMS
    case 4: return body.template operator()<4>();
    case 5: return body.template operator()<5>();
    case 6: return body.template operator()<6>();
    case 7: return body.template operator()<7>();
    case 8: return body.template operator()<8>();
#endif
    default: return body.template operator()<0>();
  }
}

// All scores of one row block against columns [column0, column0 + columns).
template <class T>
inline void score_block(const Rows<T>& rows, const Columns<T>& columns, const Measure<T>& measure,
                        int64_t column0, int64_t count, T* scores, int64_t scores_row) {
  const PanelLayout<T> layout{measure.k, columns.size};
  for (int64_t j = column0; j < column0 + count; j += kPanel<T>) {
    const int64_t panel = j / kPanel<T>;
    panel_product(padded_rows(rows.size), measure.k, rows.points.data(), measure.point_stride, 1,
                  columns.coordinates.data() + layout.start(panel), layout.width(panel),
                  scores + (j - column0), scores_row, false);
  }
}

// ----------------------------------------------------------------------------------------- forward

enum class Reduction { sum, logsum };

// log2 of sums of 2^exponent, lanes apart, groups of vectors at a time.
template <class T>
struct RunningLog2Sum {
  RunningLogSum<Vec<T>> running;

  void start() { running.start(splat(std::numeric_limits<T>::lowest())); }

  template <int kCount>
  inline __attribute__((always_inline)) void add(const Vec<T> (&exponent)[kCount]) {
    Vec<T> peak = exponent[0];
#pragma GCC unroll 8
    for (int v = 1; v < kCount; ++v) peak = vmax<T>(peak, exponent[v]);
    if (any_greater<T>(peak, running.maximum + T(kSlack))) [[unlikely]]
      running.raise(vmax<T>(running.maximum, peak), vexp2<T>);
    Vec<T> power[kCount];
#pragma GCC unroll 8
    for (int v = 0; v < kCount; ++v) power[v] = exponent[v] - running.maximum;
    vexp2_each<T>(power);
#pragma GCC unroll 8
    for (int v = 1; v < kCount; ++v) power[0] += power[v];
    running.sum += power[0];
  }

  // log2 of the sum times 2^log_kernel.
  double finish(double log_kernel) {
    const T peak = max_lanes<T>(running.maximum);
    running.raise(splat(peak), vexp2<T>);
    return peak + std::log2(lane_total<T>(running.sum)) + log_kernel;
  }
};

template <class T>
struct PairScratch {
  int64_t slice = -1;
  Measure<T> measure;
  Columns<T> columns;
  Rows<T> rows;
  Buffer<T> point;            // one scaled point
  Buffer<T> exponents;        // of some rows and columns, or of whole rows
  Buffer<T> row_sums;         // by products [padded rows, padded k + 1]
  Buffer<double> row_totals;  // by differences [rows, k + 1]
  Buffer<T> vectors;          // by differences, any k: row sums in flight [k + 1, lanes]
  // Sums over rows: by products [padded c, padded k + 1], by differences [k + 1, stride].
  T* column_sums = nullptr;
  bool first_rows = true;  // by products: column_sums hold nothing yet
};

// Calls add.operator()<n>(first column) for groups of n = kGroup vectors, then for single ones.
template <class T, class Add>
inline __attribute__((always_inline)) void for_groups(int64_t first, int64_t last, Add&& add) {
  constexpr int64_t step = kGroup * kLanes<T>;
  int64_t j = first;
  for (; j + step <= last; j += step) add.template operator()<kGroup>(j);
  for (; j < last; j += kLanes<T>) add.template operator()<1>(j);
}

// Rows that meet a vector of columns at once, by differences: each coordinate is loaded once for
// all of them.
template <int K>
constexpr int kRowsAtOnce = K == 0 ? 1 : 4;
static_assert(kRowBlock % 4 == 0);

// `kRows` rows from row r0 of a block on, each coordinate and offset in a vector of its own; the
// last row again in place of rows past the end, with factor 0.
template <class T, int K, int kRows>
struct RowGroup {
  Vec<T> at[kRows][K > 0 ? K : 1];
  const T* point[kRows];
  Vec<T> high[kRows], low[kRows], factor[kRows];

  // Inlined, so that what a loop has no use for is not made.
  inline __attribute__((always_inline)) RowGroup(const Rows<T>& rows, int64_t r0, int64_t stride) {
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) {
      const bool real = r0 + q < rows.size;
      const int64_t r = real ? r0 + q : rows.size - 1;
      point[q] = rows.points.data() + r * stride;
#pragma GCC unroll 8
      for (int t = 0; t < K; ++t) at[q][t] = splat(point[q][t]);
      high[q] = splat(rows.high[r]);
      low[q] = splat(rows.low[r]);
      factor[q] = splat(real ? rows.factor[r] : T(0));
    }
  }

  // Coordinate t of the columns at `column`, less that of row q.
  inline __attribute__((always_inline)) Vec<T> difference(int q, int64_t t, const T* column,
                                                          int64_t stride) const {
    if constexpr (K > 0)
      return load(column + t * stride) - at[q][t];
    else
      return load(column + t * stride) - point[q][t];
  }

  // Squared distances of row q from those columns.
  inline __attribute__((always_inline)) Vec<T> squares(int q, const T* column, int64_t stride,
                                                       int64_t k) const {
    const Vec<T> first = difference(q, 0, column, stride);
    Vec<T> sum = first * first;
#pragma GCC unroll 8
    for (int64_t t = 1; t < (K > 0 ? K : k); ++t) {
      const Vec<T> d = difference(q, t, column, stride);
      sum += d * d;
    }
    return sum;
  }
  // log2 K of row q and those columns.
  inline __attribute__((always_inline)) Vec<T> log_kernel(int q, const T* column, int64_t stride,
                                                          int64_t k, T scale) const {
    return log_kernel_of_square(squares(q, column, stride, k), scale);
  }
};

// A few vectors of columns, on their way from one loop to the next: exponents, powers of 2 and sums
// are made in loops of their own. One loop for all three is so long that a processor cannot look
// ahead to its next round and waits for results instead (it takes a fifth more time, AVX2 and
// AVX-512, Zen 4).
template <class T, int kRows>
struct Stage {
  static constexpr int64_t kColumns = 512 / sizeof(T);
  alignas(kVectorBytes) T values[kRows * kColumns];  // [vectors, rows, lanes]

  // value(q, j): of row q and the vector of columns at j, in [first, last).
  template <class Value>
  inline __attribute__((always_inline)) void fill(int64_t first, int64_t last, Value&& value) {
    T* to = values;
    for (int64_t j = first; j < last; j += kLanes<T>) {
      Vec<T> made[kRows];
#pragma GCC unroll 4
      for (int q = 0; q < kRows; ++q) made[q] = value(q, j);
#pragma GCC unroll 4
      for (int q = 0; q < kRows; ++q, to += kLanes<T>) store(to, made[q]);
    }
  }
  // The first `count` columns' values to powers of 2.
  inline __attribute__((always_inline)) void exponentiate(int64_t count) {
    for_groups<T>(0, kRows * count, [&]<int kCount>(int64_t at) {
      Vec<T> power[kCount];
#pragma GCC unroll 4
      for (int v = 0; v < kCount; ++v) power[v] = load(values + at + v * kLanes<T>);
      vexp2_each<T>(power);
#pragma GCC unroll 4
      for (int v = 0; v < kCount; ++v) store(values + at + v * kLanes<T>, power[v]);
    });
  }
  // Of row q, the vector that begins `column` columns after the first.
  inline __attribute__((always_inline)) Vec<T> at(int q, int64_t column) const {
    return load(values + column * kRows + q * kLanes<T>);
  }
};

// Calls body(first, last) for stretches of [first, last) that a Stage holds.
template <class T, class Body>
inline __attribute__((always_inline)) void for_stages(int64_t first, int64_t last, Body&& body) {
  constexpr int64_t step = Stage<T, 1>::kColumns;
  for (int64_t j = first; j < last; j += step) body(j, j + step < last ? j + step : last);
}

// values[r] for the rows of the block.
template <class T, Reduction kReduction, int K>
inline void reduce_by_differences(const PairScratch<T>& scratch, double* values) {
  constexpr int lanes = kLanes<T>, at_once = kRowsAtOnce<K>;
  const Measure<T>& measure = scratch.measure;
  const Columns<T>& columns = scratch.columns;
  const int64_t k = measure.k, stride = columns.stride;
  const T* const coordinates = columns.coordinates.data();
  const T* const high = columns.high.data();
  const T* const factors = columns.factor.data();
  const T factor = measure.factor;
  for (int64_t r0 = 0; r0 < scratch.rows.size; r0 += at_once) {
    const RowGroup<T, K, at_once> group(scratch.rows, r0, measure.point_stride);
    double total[at_once] = {};
    RunningLog2Sum<T> running[at_once];
    Stage<T, at_once> stage;
    for (int q = 0; q < at_once; ++q) running[q].start();
    for (int64_t j0 = 0; j0 < columns.padded; j0 += kDirectBlock) {
      const int64_t j1 = columns.padded - j0 < kDirectBlock ? columns.padded : j0 + kDirectBlock;
      Vec<T> sum[at_once] = {};
      for_stages<T>(j0, j1, [&](int64_t first, int64_t last) {
        stage.fill(first, last, [&](int q, int64_t j) {
          const Vec<T> log_kernel = group.log_kernel(q, coordinates + j, stride, k, factor);
          return kReduction == Reduction::sum ? log_kernel : log_kernel + load(high + j);
        });
        if constexpr (kReduction == Reduction::sum) {
          stage.exponentiate(last - first);
          for (int64_t j = first; j < last; j += lanes) {
            const Vec<T> weight = load(factors + j);
#pragma GCC unroll 4
            for (int q = 0; q < at_once; ++q) sum[q] += weight * stage.at(q, j - first);
          }
        } else {
          for (int q = 0; q < at_once; ++q)
            for_groups<T>(0, last - first, [&]<int kCount>(int64_t j) {
              Vec<T> exponent[kCount];
#pragma GCC unroll 8
              for (int v = 0; v < kCount; ++v) exponent[v] = stage.at(q, j + v * lanes);
              running[q].add(exponent);
            });
        }
      });
      if (kReduction == Reduction::sum)
        for (int q = 0; q < at_once; ++q) total[q] += lane_total<T>(sum[q]);
    }
    for (int q = 0; q < at_once && r0 + q < scratch.rows.size; ++q)
      values[r0 + q] = kReduction == Reduction::sum ? total[q] : running[q].finish(0);
  }
}

// Kernels from products, for one row and the columns at `products`.
template <class T, int kCount>
inline __attribute__((always_inline)) void kernels_of_products(const T* products, Vec<T> own,
                                                               const T* high,
                                                               Vec<T> (&kernel)[kCount]) {
#pragma GCC unroll 8
  for (int v = 0; v < kCount; ++v)
    // Rounding must not make a kernel larger than 1.
    kernel[v] = vmin<T>(
        log_kernel_of_product(load(products + v * kLanes<T>), own, load(high + v * kLanes<T>)),
        Vec<T>{});
  vexp2_each<T>(kernel);
}

template <class T, Reduction kReduction>
inline void reduce_by_products(PairScratch<T>& scratch, double* values) {
  constexpr int lanes = kLanes<T>;
  const Columns<T>& columns = scratch.columns;
  const Rows<T>& rows = scratch.rows;
  RunningLog2Sum<T> running[kRowBlock];
  for (int64_t r = 0; r < rows.size; ++r) {
    running[r].start();
    values[r] = 0;
  }
  scratch.exponents.resize(padded_rows(rows.size) * kColumnBlock<T>);
  T* const scores = scratch.exponents.data();
  for (int64_t j0 = 0; j0 < columns.padded; j0 += kColumnBlock<T>) {
    const int64_t count =
        columns.padded - j0 < kColumnBlock<T> ? columns.padded - j0 : kColumnBlock<T>;
    score_block(rows, columns, scratch.measure, j0, count, scores, kColumnBlock<T>);
    for (int64_t r = 0; r < rows.size; ++r) {
      const T* const row = scores + r * kColumnBlock<T>;
      if constexpr (kReduction == Reduction::sum) {
        const Vec<T> own = splat(rows.high[r]);
        Vec<T> sum{};
        for_groups<T>(0, count, [&]<int kCount>(int64_t j) {
          Vec<T> kernel[kCount];
          kernels_of_products(row + j, own, columns.high.data() + j0 + j, kernel);
#pragma GCC unroll 8
          for (int v = 0; v < kCount; ++v)
            sum += load(columns.factor.data() + j0 + j + v * lanes) * kernel[v];
        });
        values[r] += lane_total<T>(sum);
      } else {
        for_groups<T>(0, count, [&]<int kCount>(int64_t j) {
          Vec<T> exponent[kCount];
#pragma GCC unroll 8
          for (int v = 0; v < kCount; ++v) {
            const int64_t at = j + v * lanes;
            // The row's own term is added to the logarithm.
            exponent[v] = load(row + at) + load(columns.high.data() + j0 + at);
          }
          running[r].add(exponent);
        });
      }
    }
  }
  if (kReduction == Reduction::logsum)
    for (int64_t r = 0; r < rows.size; ++r) values[r] = running[r].finish(rows.log_kernel[r]);
}

// ---------------------------------------------------------------------------------------- launcher

template <class T>
struct PairSums {
  int64_t m, b, c, k;
  const T* x;            // [m, b, k]
  const T* y;            // [m, c, k]
  const T* bandwidth;    // [m]
  const T* log_weights;  // [m, c] or null
  const T* factor;       // [m, c] or null
  const bool* chosen;    // [m] or null: the slices to compute; others are left alone
  T* out;                // [m, b], or null
  double* wide_out;      // [m, b], or null: the same in more places; logarithms in base 2
};

template <class T, Reduction kReduction>
inline void launch_sums(const PairSums<T>& args) {
  const int64_t blocks = (args.b + kRowBlock - 1) / kRowBlock;
  parallel_for<PairScratch<T>>(args.m * blocks, [&](int64_t task, PairScratch<T>& scratch) {
    const int64_t s = task / blocks, row0 = task % blocks * kRowBlock;
    if (args.chosen != nullptr && !args.chosen[s]) return;
    const Cloud<T> x{args.x + s * args.b * args.k, args.b, nullptr, nullptr, nullptr};
    const Measure<T>& measure = scratch.measure;
    if (scratch.slice != s) {
      const Cloud<T> y{args.y + s * args.c * args.k, args.c,
                       args.log_weights != nullptr ? args.log_weights + s * args.c : nullptr,
                       nullptr, args.factor != nullptr ? args.factor + s * args.c : nullptr};
      measure_slice(x.points, x.size, y.points, y.size, args.k, args.bandwidth[s], scratch.measure,
                    scratch.point);
      scratch.columns.pack(y, measure, false, scratch.point);
      scratch.slice = s;
    }
    scratch.rows.pack(x, row0, kRowBlock, measure, false);
    double values[kRowBlock];
    if (measure.by_product)
      reduce_by_products<T, kReduction>(scratch, values);
    else
      with_dims(measure.k,
                [&]<int K>() { reduce_by_differences<T, kReduction, K>(scratch, values); });
    for (int64_t r = 0; r < scratch.rows.size; ++r) {
      const int64_t at = s * args.b + row0 + r;
      const double unit = kReduction == Reduction::logsum ? kLn2 : 1.0;
      if (args.out != nullptr) args.out[at] = static_cast<T>(values[r] * unit);
      if (args.wide_out != nullptr) args.wide_out[at] = values[r];
    }
  });
}

}  // namespace dpslice::DPSLICE_ISA
