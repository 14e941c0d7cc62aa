// Gradients of a sum or a log sum of Gaussian kernels, in x, in y, or in both in one sweep; and the
// value of a weighted total of such sums with its gradient in y, in one sweep too.
//
// With E_ij = exp(log K_ij + offset_i + offset_j): the weighted sums of E_ij (y_j - x_i) over j and
// of E_ij (x_i - y_j) over i. See gaussian_pairs.h for rows, columns and the two ways to log K.
#include "pair_gradients.h"

#include "gaussian_pairs.h"

namespace dpslice::DPSLICE_ISA {

// Points of y whose parts one task adds up.
constexpr int64_t kFinishBlock = 256;

// ------------------------------------------------------------------------------------------ sweeps

// The exponent of E_ij. What belongs to x comes last and in two parts: it holds minus the logsumexp
// of the row, and subtracts exactly from a sum of the same size that was rounded the same way
// forward.
template <bool kRowsAreX, class V, class R>
inline V joint_exponent(V log_kernel, V column_high, V column_low, R row_high, R row_low) {
  if constexpr (kRowsAreX)
    return log_kernel + column_high + row_high + row_low;
  else
    return log_kernel + row_high + column_high + column_low;
}

// Whether either cloud adds to the exponents, and then, whose are the rows.
enum class Offsets { none, rows_are_x, columns_are_x };

// Adds what some rows gave to the sums of the columns at `column_sums`, where K is their k.
template <class T, int K>
inline void store_down(const Vec<T>* down, int64_t stride, T* column_sums) {
  if constexpr (K > 0) {
#pragma GCC unroll 9
    for (int t = 0; t <= K; ++t)
      store(column_sums + t * stride, load(column_sums + t * stride) + down[t]);
  }
}

// Row totals, by differences: totals[r] = sum_j f_j E_rj (y_j - x_r, 1). With kColumnSums also
// column_sums[t][j] += sum_r f_r E_rj (y_j - x_r, 1): note the sign.
template <class T, int K, Offsets kOffsets, bool kColumnSums>
inline void sweep_by_differences(PairScratch<T>& scratch) {
  constexpr int lanes = kLanes<T>, at_once = kRowsAtOnce<K>;
  const Measure<T>& measure = scratch.measure;
  const Columns<T>& columns = scratch.columns;
  const Rows<T>& rows = scratch.rows;
  const int64_t k = K > 0 ? K : measure.k, stride = columns.stride;
  const T factor = measure.factor;
  // Held here, for the compiler must assume that stores of sums could change the fields of
  // `scratch`.
  const T* const coordinates = columns.coordinates.data();
  const T* const column_high = columns.high.data();
  const T* const column_low = columns.low.data();
  const T* const column_factors = columns.factor.data();
  T* const column_sums = scratch.column_sums;
  scratch.row_totals.resize(rows.size * (k + 1));
  double* const totals = scratch.row_totals.data();
  for (int64_t i = 0; i < rows.size * (k + 1); ++i) totals[i] = 0;
  if (K == 0) scratch.vectors.resize((k + 1) * lanes);
  T* const flight = scratch.vectors.data();
  Stage<T, at_once> stage;

  for (int64_t j0 = 0; j0 < columns.padded; j0 += kDirectBlock) {
    const int64_t j1 = columns.padded - j0 < kDirectBlock ? columns.padded : j0 + kDirectBlock;
    for (int64_t r0 = 0; r0 < rows.size; r0 += at_once) {
      const RowGroup<T, K, at_once> group(rows, r0, measure.point_stride);
      Vec<T> sum[at_once][K + 1];
#pragma GCC unroll 9
      for (int q = 0; q < at_once; ++q)
#pragma GCC unroll 9
        for (int t = 0; t <= K; ++t) sum[q][t] = Vec<T>{};
      if (K == 0)
        for (int64_t i = 0; i < (k + 1) * lanes; ++i) flight[i] = 0;

      for_stages<T>(j0, j1, [&](int64_t first, int64_t last) {
        stage.fill(first, last, [&](int q, int64_t j) {
          const Vec<T> log_kernel = group.log_kernel(q, coordinates + j, stride, k, factor);
          if constexpr (kOffsets == Offsets::none)
            return log_kernel;
          else
            return joint_exponent<kOffsets == Offsets::rows_are_x>(
                log_kernel, load(column_high + j), load(column_low + j), group.high[q],
                group.low[q]);
        });
        stage.exponentiate(last - first);
        for (int64_t j = first; j < last; j += lanes) {
          const T* const column = coordinates + j;
          const Vec<T> column_factor = load(column_factors + j);
          Vec<T> down[K + 1] = {};
#pragma GCC unroll 4
          for (int q = 0; q < at_once; ++q) {
            const Vec<T> e = stage.at(q, j - first);
            const Vec<T> across = e * column_factor, along = e * group.factor[q];
            if constexpr (K > 0) {
#pragma GCC unroll 9
              for (int t = 0; t < K; ++t) {
                const Vec<T> d = group.difference(q, t, column, stride);
                sum[q][t] += across * d;
                if (kColumnSums) down[t] += along * d;
              }
              sum[q][K] += across;
              if (kColumnSums) down[K] += along;
            } else {
              T* const to = column_sums + j;
              for (int64_t t = 0; t < k; ++t) {
                const Vec<T> d = group.difference(q, t, column, stride);
                store(flight + t * lanes, load(flight + t * lanes) + across * d);
                if (kColumnSums) {
                  T* const place = to + t * stride;
                  store(place, load(place) + along * d);
                }
              }
              store(flight + k * lanes, load(flight + k * lanes) + across);
              if (kColumnSums) {
                T* const place = to + k * stride;
                store(place, load(place) + along);
              }
            }
          }
          if (kColumnSums) store_down<T, K>(down, stride, column_sums + j);
        }
      });
      for (int q = 0; q < at_once && r0 + q < rows.size; ++q)
        for (int64_t t = 0; t <= k; ++t)
          totals[(r0 + q) * (k + 1) + t] +=
              lane_total<T>(K > 0 ? sum[q][K > 0 ? t : 0] : load(flight + t * lanes));
    }
  }
}

// column_sums[j] += sum_r E_rj f_r (x_r, 1) for a block of `count` columns from j0 on; e: [rows,
// kColumnBlock].
template <class T>
inline void add_down_products(PairScratch<T>& scratch, const T* e, int64_t j0, int64_t count) {
  const Rows<T>& rows = scratch.rows;
  const PanelLayout<T> down{rows.size, scratch.measure.k + 1};
  const int64_t width = padded_columns<T>(scratch.measure.k + 1);
  for (int64_t panel = 0; panel < down.panels(); ++panel)
    panel_product(count, rows.size, e, 1, kColumnBlock<T>, rows.values.data() + down.start(panel),
                  down.width(panel), scratch.column_sums + j0 * width + panel * kPanel<T>, width,
                  !scratch.first_rows);
}

// Row sums, by products: row_sums[r] = sum_j f_j E_rj (y_j, 1). With kColumnSums also
// column_sums[j] += sum_r f_r E_rj (x_r, 1).
template <class T, bool kRowsAreX, bool kColumnSums>
inline void sweep_by_products(PairScratch<T>& scratch) {
  constexpr int lanes = kLanes<T>;
  const Measure<T>& measure = scratch.measure;
  const Columns<T>& columns = scratch.columns;
  const Rows<T>& rows = scratch.rows;
  const PanelLayout<T> gradients{columns.size, measure.k + 1};
  const int64_t width = padded_columns<T>(measure.k + 1), rows_padded = padded_rows(rows.size);
  scratch.exponents.resize(rows_padded * kColumnBlock<T>);
  scratch.row_sums.resize(rows_padded * width);
  T* const e = scratch.exponents.data();
  T* const sums = scratch.row_sums.data();
  for (int64_t j0 = 0; j0 < columns.padded; j0 += kColumnBlock<T>) {
    const int64_t count =
        columns.padded - j0 < kColumnBlock<T> ? columns.padded - j0 : kColumnBlock<T>;
    score_block(rows, columns, measure, j0, count, e, kColumnBlock<T>);
    for (int64_t r = 0; r < rows_padded; ++r) {
      const Vec<T> row_high = splat(rows.high[r]), row_low = splat(rows.low[r]);
      for_groups<T>(0, count, [&]<int kCount>(int64_t j) {
        T* const place = e + r * kColumnBlock<T> + j;
        Vec<T> power[kCount];
#pragma GCC unroll 8
        for (int v = 0; v < kCount; ++v) {
          const int64_t at = j0 + j + v * lanes;
          // A kernel, or a share of a logsumexp, is at most 1.
          power[v] = vmin<T>(
              joint_exponent<kRowsAreX>(load(place + v * lanes), load(columns.high.data() + at),
                                        load(columns.low.data() + at), row_high, row_low),
              Vec<T>{});
        }
        vexp2_each<T>(power);
#pragma GCC unroll 8
        for (int v = 0; v < kCount; ++v) store(place + v * lanes, power[v]);
      });
    }
    const int64_t depth = columns.size - j0 < count ? columns.size - j0 : count;
    for (int64_t panel = 0; panel < gradients.panels(); ++panel)
      panel_product(rows_padded, depth, e, kColumnBlock<T>, 1,
                    columns.values.data() + gradients.start(panel) + j0 * gradients.width(panel),
                    gradients.width(panel), sums + panel * kPanel<T>, width, j0 > 0);
    if constexpr (kColumnSums) add_down_products(scratch, e, j0, count);
  }
}

// Replaces exponents by powers of 2, less `peak`, and returns their sum.
template <class T, int kCount>
inline __attribute__((always_inline)) Vec<T> powers_in_place(T* exponents, T peak) {
  Vec<T> power[kCount];
#pragma GCC unroll 8
  for (int v = 0; v < kCount; ++v) power[v] = load(exponents + v * kLanes<T>) - peak;
  vexp2_each<T>(power);
#pragma GCC unroll 8
  for (int v = 0; v < kCount; ++v) store(exponents + v * kLanes<T>, power[v]);
#pragma GCC unroll 8
  for (int v = 1; v < kCount; ++v) power[0] += power[v];
  return power[0];
}

// ---------------------------------------------------------------------------- value and gradient
//
// With row weights f_i: values[r], and for the gradient in y of sum_i f_i values_i, column_sums[j]
// += sum_r f_r E_rj (y_j - x_r, 1) by differences, (x_r, 1) by products; E are kernels, or shares
// of the row's logsumexp. Kernels are computed once for both.

// down[t] += along (y - x)[t], down[k] += along, for the columns at `column` and row q.
template <class T, int K, int kRows>
inline __attribute__((always_inline)) void add_down(const RowGroup<T, K, kRows>& group, int q,
                                                    const T* column, int64_t stride, int64_t k,
                                                    Vec<T> along, Vec<T>* down, T* column_sums) {
  if constexpr (K > 0) {
#pragma GCC unroll 8
    for (int t = 0; t < K; ++t) down[t] += along * group.difference(q, t, column, stride);
    down[K] += along;
  } else {
    for (int64_t t = 0; t < k; ++t) {
      T* const place = column_sums + t * stride;
      store(place, load(place) + along * group.difference(q, t, column, stride));
    }
    store(column_sums + k * stride, load(column_sums + k * stride) + along);
  }
}

template <class T, int K>
inline void sum_total_by_differences(PairScratch<T>& scratch, double* values) {
  constexpr int lanes = kLanes<T>, at_once = kRowsAtOnce<K>;
  const Columns<T>& columns = scratch.columns;
  const int64_t k = scratch.measure.k, stride = columns.stride;
  const T factor = scratch.measure.factor;
  const T* const coordinates = columns.coordinates.data();
  const T* const factors = columns.factor.data();
  T* const column_sums = scratch.column_sums;
  Stage<T, at_once> stage;
  for (int64_t r = 0; r < scratch.rows.size; ++r) values[r] = 0;
  for (int64_t j0 = 0; j0 < columns.padded; j0 += kDirectBlock) {
    const int64_t j1 = columns.padded - j0 < kDirectBlock ? columns.padded : j0 + kDirectBlock;
    for (int64_t r0 = 0; r0 < scratch.rows.size; r0 += at_once) {
      const RowGroup<T, K, at_once> group(scratch.rows, r0, scratch.measure.point_stride);
      Vec<T> sum[at_once] = {};
      for_stages<T>(j0, j1, [&](int64_t first, int64_t last) {
        stage.fill(first, last, [&](int q, int64_t j) {
          return group.log_kernel(q, coordinates + j, stride, k, factor);
        });
        stage.exponentiate(last - first);
        for (int64_t j = first; j < last; j += lanes) {
          const Vec<T> weight = load(factors + j);
          Vec<T> down[K + 1] = {};
#pragma GCC unroll 4
          for (int q = 0; q < at_once; ++q) {
            const Vec<T> e = stage.at(q, j - first);
            sum[q] += weight * e;
            add_down(group, q, coordinates + j, stride, k, e * group.factor[q], down,
                     column_sums + j);
          }
          store_down<T, K>(down, stride, column_sums + j);
        }
      });
      for (int q = 0; q < at_once && r0 + q < scratch.rows.size; ++q)
        values[r0 + q] += lane_total<T>(sum[q]);
    }
  }
}

template <class T, int K>
inline void logsum_total_by_differences(PairScratch<T>& scratch, double* values) {
  constexpr int lanes = kLanes<T>, at_once = kRowsAtOnce<K>;
  const Columns<T>& columns = scratch.columns;
  const int64_t k = scratch.measure.k, stride = columns.stride;
  const T factor = scratch.measure.factor;
  const T* const coordinates = columns.coordinates.data();
  const T* const high = columns.high.data();
  T* const column_sums = scratch.column_sums;
  scratch.exponents.resize(at_once * stride);
  T* const exponents = scratch.exponents.data();  // [at_once, stride], then their powers
  for (int64_t r0 = 0; r0 < scratch.rows.size; r0 += at_once) {
    const RowGroup<T, K, at_once> group(scratch.rows, r0, scratch.measure.point_stride);
    Vec<T> highest[at_once];
    for (int q = 0; q < at_once; ++q) highest[q] = splat(std::numeric_limits<T>::lowest());
    for (int64_t j = 0; j < columns.padded; j += lanes) {
      const Vec<T> offset = load(high + j);
#pragma GCC unroll 4
      for (int q = 0; q < at_once; ++q) {
        const Vec<T> exponent = group.log_kernel(q, coordinates + j, stride, k, factor) + offset;
        highest[q] = vmax<T>(highest[q], exponent);
        store(exponents + q * stride + j, exponent);
      }
    }
    Vec<T> share[at_once];  // row weight over the row's sum
    for (int q = 0; q < at_once; ++q) {
      const T peak = max_lanes<T>(highest[q]);
      double total = 0;
      for (int64_t j0 = 0; j0 < columns.padded; j0 += kDirectBlock) {
        const int64_t j1 = columns.padded - j0 < kDirectBlock ? columns.padded : j0 + kDirectBlock;
        Vec<T> sum{};
        for_groups<T>(j0, j1, [&]<int kCount>(int64_t j) {
          sum += powers_in_place<T, kCount>(exponents + q * stride + j, peak);
        });
        total += lane_total<T>(sum);
      }
      const int64_t r = r0 + q;
      if (r < scratch.rows.size) values[r] = peak + std::log2(total);
      share[q] = total > 0 ? splat(static_cast<T>(group.factor[q][0] / total)) : Vec<T>{};
    }
    for (int64_t j = 0; j < columns.padded; j += lanes) {
      Vec<T> down[K + 1] = {};
#pragma GCC unroll 4
      for (int q = 0; q < at_once; ++q)
        add_down(group, q, coordinates + j, stride, k, load(exponents + q * stride + j) * share[q],
                 down, column_sums + j);
      store_down<T, K>(down, stride, column_sums + j);
    }
  }
}

template <class T>
inline void sum_total_by_products(PairScratch<T>& scratch, double* values) {
  constexpr int lanes = kLanes<T>;
  const Columns<T>& columns = scratch.columns;
  const Rows<T>& rows = scratch.rows;
  scratch.exponents.resize(padded_rows(rows.size) * kColumnBlock<T>);
  T* const e = scratch.exponents.data();
  for (int64_t r = 0; r < rows.size; ++r) values[r] = 0;
  for (int64_t j0 = 0; j0 < columns.padded; j0 += kColumnBlock<T>) {
    const int64_t count =
        columns.padded - j0 < kColumnBlock<T> ? columns.padded - j0 : kColumnBlock<T>;
    score_block(rows, columns, scratch.measure, j0, count, e, kColumnBlock<T>);
    for (int64_t r = 0; r < rows.size; ++r) {
      const Vec<T> own = splat(rows.high[r]);
      Vec<T> sum{};
      for_groups<T>(0, count, [&]<int kCount>(int64_t j) {
        T* const place = e + r * kColumnBlock<T> + j;
        Vec<T> kernel[kCount];
        kernels_of_products(place, own, columns.high.data() + j0 + j, kernel);
#pragma GCC unroll 8
        for (int v = 0; v < kCount; ++v) {
          sum += load(columns.factor.data() + j0 + j + v * lanes) * kernel[v];
          store(place + v * lanes, kernel[v]);
        }
      });
      values[r] += lane_total<T>(sum);
    }
    add_down_products(scratch, e, j0, count);
  }
}

template <class T>
inline void logsum_total_by_products(PairScratch<T>& scratch, double* values) {
  constexpr int lanes = kLanes<T>;
  constexpr int64_t block_columns = kColumnBlock<T>;
  const Columns<T>& columns = scratch.columns;
  Rows<T>& rows = scratch.rows;
  const int64_t rows_padded = padded_rows(rows.size);
  // Exponents, then their powers, of all columns: blocks of [padded rows, kColumnBlock], each of
  // which lies together for the products that read it again and again.
  const int64_t blocks = (columns.padded + block_columns - 1) / block_columns;
  scratch.exponents.resize(blocks * rows_padded * block_columns);
  T* const e = scratch.exponents.data();
  const auto for_blocks = [&](auto&& body) {
    for (int64_t j0 = 0; j0 < columns.padded; j0 += block_columns)
      body(j0, columns.padded - j0 < block_columns ? columns.padded - j0 : block_columns,
           e + j0 * rows_padded);
  };

  Vec<T> highest[kLongRowBlock];
  for (int64_t r = 0; r < rows.size; ++r) highest[r] = splat(std::numeric_limits<T>::lowest());
  for_blocks([&](int64_t j0, int64_t count, T* block) {
    score_block(rows, columns, scratch.measure, j0, count, block, block_columns);
    for (int64_t r = 0; r < rows.size; ++r) {
      T* const row = block + r * block_columns;
      for (int64_t j = 0; j < count; j += lanes) {
        const Vec<T> exponent = load(row + j) + load(columns.high.data() + j0 + j);
        highest[r] = vmax<T>(highest[r], exponent);
        store(row + j, exponent);
      }
    }
  });

  T peak[kLongRowBlock];
  double total[kLongRowBlock];
  for (int64_t r = 0; r < rows.size; ++r) {
    peak[r] = max_lanes<T>(highest[r]);
    total[r] = 0;
  }
  for_blocks([&](int64_t, int64_t count, T* block) {
    for (int64_t r = 0; r < rows.size; ++r) {
      T* const row = block + r * block_columns;
      Vec<T> sum{};
      for_groups<T>(0, count, [&]<int kCount>(int64_t j) {
        sum += powers_in_place<T, kCount>(row + j, peak[r]);
      });
      total[r] += lane_total<T>(sum);
    }
  });

  const PanelLayout<T> down{rows.size, scratch.measure.k + 1};
  for (int64_t r = 0; r < rows.size; ++r) {
    values[r] = peak[r] + std::log2(total[r]) + rows.log_kernel[r];
    // The shares are these powers over the total: the row's values are divided in their place.
    const T share = total[r] > 0 ? static_cast<T>(1 / total[r]) : T(0);
    for (int64_t panel = 0; panel < down.panels(); ++panel) {
      T* const value = rows.values.data() + down.start(panel) + r * down.width(panel);
      for (int64_t t = 0; t < down.width(panel); ++t) value[t] *= share;
    }
  }
  for_blocks(
      [&](int64_t j0, int64_t count, T* block) { add_down_products(scratch, block, j0, count); });
}

// --------------------------------------------------------------------------------------- launchers

// Sums of E (v - u, 1) over the other cloud, for point i: raw(t), t = 0..k.
template <class T, class Raw>
inline void write_x(const PairGradients<T>& args, int64_t s, int64_t i, double scale, Raw&& raw) {
  double multiplier = args.grad[s * args.b + i] * scale;
  // Shares of a logsumexp add up to 1 but for the rounding of the logsumexp: take it out. In a row
  // without weight all shares are 0.
  if (args.shift != nullptr) multiplier = raw(args.k) != 0 ? multiplier / raw(args.k) : 0;
  T* const to = args.grad_x + (s * args.b + i) * args.k;
  for (int64_t t = 0; t < args.k; ++t) to[t] = static_cast<T>(multiplier * raw(t));
}
template <class T, class Raw>
inline void write_y(const PairGradients<T>& args, int64_t s, int64_t j, double scale, Raw&& raw) {
  const int64_t at = s * args.c + j;
  const double multiplier = args.factor != nullptr ? args.factor[at] * scale : scale;
  if (args.grad_y != nullptr)
    for (int64_t t = 0; t < args.k; ++t)
      args.grad_y[at * args.k + t] = static_cast<T>(multiplier * raw(t));
  if (args.grad_factor != nullptr) args.grad_factor[at] = static_cast<T>(raw(args.k));
}

// Sweeps the packed block and calls write(i, raw) for its rows.
template <class T, bool kRowsAreX, bool kColumnSums, class Write>
inline void sweep_rows(PairScratch<T>& scratch, bool offsets, Write&& write) {
  const Rows<T>& rows = scratch.rows;
  const int64_t k = scratch.measure.k;
  if (scratch.measure.by_product) {
    sweep_by_products<T, kRowsAreX, kColumnSums>(scratch);
    const int64_t width = padded_columns<T>(k + 1);
    for (int64_t r = 0; r < rows.size; ++r) {
      const T* const sum = scratch.row_sums.data() + r * width;
      const T* const own = rows.points.data() + r * scratch.measure.point_stride;
      write(rows.first + r, [&](int64_t t) {
        return t == k ? static_cast<double>(sum[k])
                      : static_cast<double>(sum[t]) - static_cast<double>(sum[k]) * own[t];
      });
    }
    return;
  }
  with_dims(k, [&]<int K>() {
    constexpr Offsets both = kRowsAreX ? Offsets::rows_are_x : Offsets::columns_are_x;
    if (offsets)
      sweep_by_differences<T, K, both, kColumnSums>(scratch);
    else
      sweep_by_differences<T, K, Offsets::none, kColumnSums>(scratch);
  });
  for (int64_t r = 0; r < rows.size; ++r) {
    const double* const total = scratch.row_totals.data() + r * (k + 1);
    write(rows.first + r, [&](int64_t t) { return total[t]; });
  }
}

template <class T>
inline Cloud<T> x_cloud(const PairGradients<T>& args, int64_t s) {
  return {args.x + s * args.b * args.k, args.b, nullptr,
          args.shift != nullptr ? args.shift + s * args.b : nullptr, args.grad + s * args.b};
}
template <class T>
inline Cloud<T> y_cloud(const PairGradients<T>& args, int64_t s) {
  return {args.y + s * args.c * args.k, args.c,
          args.log_weights != nullptr ? args.log_weights + s * args.c : nullptr, nullptr,
          args.factor != nullptr ? args.factor + s * args.c : nullptr};
}

// A gradient in one of the clouds: its points are the rows.
template <class T, bool kRowsAreX>
inline void launch_one_gradient(const PairGradients<T>& args) {
  const int64_t size = kRowsAreX ? args.b : args.c;
  const int64_t blocks = (size + kRowBlock - 1) / kRowBlock;
  parallel_for<PairScratch<T>>(args.m * blocks, [&](int64_t task, PairScratch<T>& scratch) {
    const int64_t s = task / blocks, row0 = task % blocks * kRowBlock;
    if (args.chosen != nullptr && !args.chosen[s]) return;
    const Cloud<T> x = x_cloud(args, s), y = y_cloud(args, s);
    if (scratch.slice != s) {
      measure_slice(x.points, x.size, y.points, y.size, args.k, args.bandwidth[s], scratch.measure,
                    scratch.point);
      scratch.columns.pack(kRowsAreX ? y : x, scratch.measure, true, scratch.point);
      scratch.slice = s;
    }
    scratch.rows.pack(kRowsAreX ? x : y, row0, kRowBlock, scratch.measure, false);
    const double scale = scratch.measure.gradient_scale;
    const bool offsets = x.has_offsets() || y.has_offsets();
    sweep_rows<T, kRowsAreX, false>(scratch, offsets, [&](int64_t i, auto&& raw) {
      if constexpr (kRowsAreX)
        write_x(args, s, i, scale, raw);
      else
        write_y(args, s, i, scale, raw);
    });
  });
}

// The gradient in y, by sweeps over rows of x: `sweep(s, scratch)` is called for each block of
// rows, packed, and adds to scratch.column_sums. Sums over x are made in parts, each of some row
// blocks, which are then added in their order: their number depends on the sizes only. kRowSums:
// whether the sweep adds up over y, too.
template <bool kRowSums, class T, class Sweep>
inline void launch_by_rows(const PairGradients<T>& args, Sweep&& sweep) {
  const int64_t record = args.k + 1, stride = column_stride<T>(args.c),
                width = padded_columns<T>(record);
  const int64_t by_product = padded_columns<T>(args.c) * width, by_difference = stride * record;
  const int64_t sums = by_product > by_difference ? by_product : by_difference;
  const int64_t wanted = (kMaxParts + args.m - 1) / args.m;
  const bool many = args.k > kDirectDims && by_product * int64_t{sizeof(T)} > kManySumBytes &&
                    kLongRowBlock * args.c * int64_t{sizeof(T)} <= kMostLongBytes &&
                    (args.b + kLongRowBlock - 1) / kLongRowBlock >= wanted;
  const int64_t row_block = many ? kLongRowBlock : kRowBlock;
  const int64_t blocks = (args.b + row_block - 1) / row_block;
  const int64_t parts = wanted < blocks ? wanted : blocks;
  Buffer<T> partial(parts > 1 ? args.m * parts * sums : 0);

  // grad_y of points [first, last) from all parts. By differences, those that were added up are
  // y - x.
  const auto finish_differences = [&](int64_t s, const Measure<T>& measure, const T* part_sums,
                                      int64_t first, int64_t last) {
    const T* const factor = args.factor != nullptr ? args.factor + s * args.c : nullptr;
    for (int64_t t = 0; t < record; ++t) {
      const bool is_factor = t == args.k;
      T* const to = is_factor ? args.grad_factor : args.grad_y;
      if (to == nullptr) continue;
      const int64_t step = is_factor ? 1 : args.k;
      const double scale = is_factor ? 1 : -measure.gradient_scale;
      for (int64_t j0 = first; j0 < last; j0 += kFinishBlock) {
        const int64_t count = last - j0 < kFinishBlock ? last - j0 : kFinishBlock;
        double total[kFinishBlock] = {};
        for (int64_t part = 0; part < parts; ++part) {
          const T* const from = part_sums + part * sums + t * stride + j0;
          for (int64_t j = 0; j < count; ++j) total[j] += from[j];
        }
        if (factor != nullptr && !is_factor)
          for (int64_t j = 0; j < count; ++j) total[j] *= factor[j0 + j] * scale;
        else
          for (int64_t j = 0; j < count; ++j) total[j] *= scale;
        T* const place = to + (s * args.c + j0) * step + (is_factor ? 0 : t);
        for (int64_t j = 0; j < count; ++j) place[j * step] = static_cast<T>(total[j]);
      }
    }
  };
  const auto finish_products = [&](int64_t s, const Measure<T>& measure, const T* part_sums,
                                   int64_t first, int64_t last, Buffer<T>& point,
                                   Buffer<double>& total) {
    point.resize(padded<T>(args.k));
    total.resize(record);
    for (int64_t j = first; j < last; ++j) {
      for (int64_t t = 0; t < record; ++t) total[t] = 0;
      for (int64_t part = 0; part < parts; ++part)
        for (int64_t t = 0; t < record; ++t) total[t] += part_sums[part * sums + j * width + t];
      measure.scaled(args.y + (s * args.c + j) * args.k, point.data());
      write_y(args, s, j, measure.gradient_scale, [&](int64_t t) {
        return t == args.k ? total[t] : total[t] - total[args.k] * point[t];
      });
    }
  };
  const auto finish = [&](int64_t s, const Measure<T>& measure, const T* part_sums, int64_t first,
                          int64_t last, Buffer<T>& point, Buffer<double>& total) {
    if (measure.by_product)
      finish_products(s, measure, part_sums, first, last, point, total);
    else
      finish_differences(s, measure, part_sums, first, last);
  };

  struct Scratch : PairScratch<T> {
    Buffer<T> own_sums;
    Buffer<double> total;
  };
  parallel_for<Scratch>(args.m * parts, [&](int64_t task, Scratch& scratch) {
    const int64_t s = task / parts, part = task % parts;
    if (args.chosen != nullptr && !args.chosen[s]) return;
    const Cloud<T> x = x_cloud(args, s), y = y_cloud(args, s);
    const Measure<T>& measure = scratch.measure;
    if (scratch.slice != s) {
      measure_slice(x.points, x.size, y.points, y.size, args.k, args.bandwidth[s], scratch.measure,
                    scratch.point);
      scratch.columns.pack(y, measure, kRowSums, scratch.point);
      scratch.slice = s;
    }
    if (parts > 1) {
      scratch.column_sums = partial.data() + task * sums;
    } else {
      scratch.own_sums.resize(sums);
      scratch.column_sums = scratch.own_sums.data();
    }
    // By products, the first rows write their sums.
    if (!measure.by_product)
      for (int64_t i = 0; i < by_difference; ++i) scratch.column_sums[i] = 0;
    scratch.first_rows = true;
    for (int64_t block = blocks * part / parts; block < blocks * (part + 1) / parts; ++block) {
      scratch.rows.pack(x, block * row_block, row_block, measure, true);
      sweep(s, scratch);
      scratch.first_rows = false;
    }
    if (parts == 1)
      finish(s, measure, scratch.column_sums, 0, args.c, scratch.point, scratch.total);
  });

  if (parts == 1) return;
  struct FinishScratch {
    int64_t slice = -1;
    Measure<T> measure;
    Buffer<T> point;
    Buffer<double> total;
  };
  const int64_t column_blocks = (args.c + kFinishBlock - 1) / kFinishBlock;
  parallel_for<FinishScratch>(args.m * column_blocks, [&](int64_t task, FinishScratch& scratch) {
    const int64_t s = task / column_blocks, first = task % column_blocks * kFinishBlock;
    if (args.chosen != nullptr && !args.chosen[s]) return;
    const int64_t last = args.c - first < kFinishBlock ? args.c : first + kFinishBlock;
    if (scratch.slice != s) {
      const Cloud<T> x = x_cloud(args, s), y = y_cloud(args, s);
      measure_slice(x.points, x.size, y.points, y.size, args.k, args.bandwidth[s], scratch.measure,
                    scratch.point);
      scratch.slice = s;
    }
    finish(s, scratch.measure, partial.data() + s * parts * sums, first, last, scratch.point,
           scratch.total);
  });
}

// Both gradients in one sweep.
template <class T>
inline void launch_both_gradients(const PairGradients<T>& args) {
  const bool offsets = args.shift != nullptr || args.log_weights != nullptr;
  launch_by_rows<true>(args, [&](int64_t s, PairScratch<T>& scratch) {
    sweep_rows<T, true, true>(scratch, offsets, [&](int64_t i, auto&& raw) {
      write_x(args, s, i, scratch.measure.gradient_scale, raw);
    });
  });
}

template <class T>
void launch_totals(const PairGradients<T>& args, bool logarithm, T* out) {
  launch_by_rows<false>(args, [&](int64_t s, PairScratch<T>& scratch) {
    double values[kLongRowBlock];
    if (scratch.measure.by_product) {
      if (logarithm)
        logsum_total_by_products(scratch, values);
      else
        sum_total_by_products(scratch, values);
    } else {
      with_dims(scratch.measure.k, [&]<int K>() {
        if (logarithm)
          logsum_total_by_differences<T, K>(scratch, values);
        else
          sum_total_by_differences<T, K>(scratch, values);
      });
    }
    T* const to = out + s * args.b + scratch.rows.first;
    for (int64_t r = 0; r < scratch.rows.size; ++r)
      to[r] = static_cast<T>(logarithm ? values[r] * kLn2 : values[r]);
  });
}

template <class T>
void launch_gradients(const PairGradients<T>& args) {
  const bool need_x = args.grad_x != nullptr;
  const bool need_y = args.grad_y != nullptr || args.grad_factor != nullptr;
  if (need_x && need_y)
    launch_both_gradients(args);
  else if (need_x)
    launch_one_gradient<T, true>(args);
  else if (need_y)
    launch_one_gradient<T, false>(args);
}

template void launch_gradients<float>(const PairGradients<float>&);
template void launch_gradients<double>(const PairGradients<double>&);
template void launch_totals<float>(const PairGradients<float>&, bool, float*);
template void launch_totals<double>(const PairGradients<double>&, bool, double*);

}  // namespace dpslice::DPSLICE_ISA
