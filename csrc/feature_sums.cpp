// Features of private rows, added up exactly.
//
// A sum release's guarantee rests on the bound of one record's features and on the sum being exact:
// a rounding error that depends on the other rows would tell something about them. So features are
// whole multiples of a power of two, rounded towards zero (which cannot make a norm longer), and
// sums are integers. What one row contributes depends on that row alone, bit by bit: not on its
// place in a block or the rows beside it.
#include "feature_sums.h"

#include <cmath>

#include "private_rows.h"
#include "simd.h"

namespace dpslice::DPSLICE_ISA {
namespace {

constexpr int64_t kRowsPerTask = 256;

// x >= 0 below 2^51, rounded down.
template <class T>
inline Vec<T> whole(Vec<T> x) {
  const Vec<T> nearest = (x + rounding_term<T>(0)) - rounding_term<T>(0);
  return nearest > x ? nearest - T(1) : nearest;
}

// A whole number below 2^51 as an integer.
inline VecInt<double> integer_of(Vec<double> x) {
  const Vec<double> round = splat(rounding_term<double>(0));
  return (VecInt<double>)(x + round) - (VecInt<double>)round;
}

template <class T>
struct Landmarks {
  Buffer<T> coordinates;  // [m, k, width]
  int64_t width;          // landmarks of a slice, padded to whole vectors

  explicit Landmarks(const KernelFeatureSumsArgs<T>& args)
      : coordinates(args.m * args.k * padded<T>(args.c)), width(padded<T>(args.c)) {
    for (int64_t s = 0; s < args.m; ++s)
      for (int64_t j = 0; j < args.k; ++j) {
        T* to = coordinates.data() + (s * args.k + j) * width;
        for (int64_t l = 0; l < args.c; ++l) to[l] = args.landmarks[(s * args.c + l) * args.k + j];
        // So far away that the kernel is 0.
        for (int64_t l = args.c; l < width; ++l) to[l] = T(1e160);
      }
  }
};

struct SumScratch {
  SecretBuffer<double> features;
  SecretBuffer<int64_t> sums;
};

// features [m, width] of one row, as whole numbers; returns their squared norm.
double row_features(const KernelFeatureSumsArgs<double>& args, const Landmarks<double>& landmarks,
                    const double* y, double* features) {
  Vec<double> squares = {};
  for (int64_t s = 0; s < args.m; ++s, y += args.k) {
    const Vec<double> factor = splat(args.factors[s]);
    const double* const points = landmarks.coordinates.data() + s * args.k * landmarks.width;
    for (int64_t l = 0; l < landmarks.width; l += kLanes<double>) {
      Vec<double> distance = {};
      for (int64_t j = 0; j < args.k; ++j) {
        const Vec<double> difference = load(points + j * landmarks.width + l) - y[j];
        distance += difference * difference;
      }
      const Vec<double> feature = whole<double>(vexp2<double>(distance * factor) * args.scale);
      squares += feature * feature;
      store(features + s * landmarks.width + l, feature);
    }
  }
  return sum_lanes<double>(squares);
}

}  // namespace

template <class T>
void bounded_rows(const BoundedRowsArgs<T>& args) {
  const int64_t d = args.d;
  const double per_step = args.step > 0 ? 1 / args.step : 1.0;  // exact: a power of two
  const double longest = args.max_norm * per_step;
  const double most = longest * longest;
  parallel_for<NoScratch>((args.n + kRowsPerTask - 1) / kRowsPerTask,
                          [&](int64_t task, NoScratch&) {
                            const int64_t first = task * kRowsPerTask;
                            const int64_t end =
                                first + kRowsPerTask < args.n ? first + kRowsPerTask : args.n;
                            for (int64_t r = first; r < end; ++r) {
                              const T* const row = args.x + r * d;
                              double* const out = args.out + r * d;
                              const double factor = clipping_factor(row, d, args.max_norm);
                              for (int64_t l = 0; l < d; ++l)
                                out[l] = static_cast<double>(row[l]) * factor * per_step;
                              if (args.step == 0) continue;
                              // To the nearest, unless that leaves the ball. Squares of whole
                              // numbers add up exactly.
                              double squares = 0;
                              for (int64_t l = 0; l < d; ++l) {
                                const double nearest = std::nearbyint(out[l]);
                                squares += nearest * nearest;
                              }
                              if (squares <= most)
                                for (int64_t l = 0; l < d; ++l) out[l] = std::nearbyint(out[l]);
                              else
                                for (int64_t l = 0; l < d; ++l) out[l] = std::trunc(out[l]);
                            }
                          },
                          1 + args.n * d / 65536);
}

template <class T>
void kernel_feature_sums(const KernelFeatureSumsArgs<T>& args) {
  const Landmarks<T> landmarks(args);
  const int64_t width = landmarks.width, cells = args.m * width;
  parallel_for<SumScratch>(
      (args.n + kRowsPerTask - 1) / kRowsPerTask,
      [&](int64_t task, SumScratch& scratch) {
        double* const features = scratch.features.resize(cells);
        int64_t* const sums = scratch.sums.resize(cells);
        std::memset(sums, 0, sizeof(int64_t) * static_cast<size_t>(cells));
        const int64_t first = task * kRowsPerTask;
        const int64_t end = first + kRowsPerTask < args.n ? first + kRowsPerTask : args.n;
        for (int64_t r = first; r < end; ++r) {
          const double squares =
              row_features(args, landmarks, args.y + r * args.m * args.k, features);
          const double norm = std::sqrt(squares);
          if (norm > args.bound) {
            const Vec<double> shorter = splat(args.bound / norm);
            for (int64_t l = 0; l < cells; l += kLanes<double>)
              store(features + l, whole<double>(load(features + l) * shorter));
          }
          for (int64_t l = 0; l < cells; l += kLanes<double>) {
            VecInt<double> sum;
            std::memcpy(&sum, sums + l, sizeof sum);
            sum += integer_of(load(features + l));
            std::memcpy(sums + l, &sum, sizeof sum);
          }
        }
        for (int64_t s = 0; s < args.m; ++s)
          for (int64_t l = 0; l < args.c; ++l)
            __atomic_fetch_add(args.sums + s * args.c + l, sums[s * width + l], __ATOMIC_RELAXED);
      },
      1 + args.n * cells / 16384);
}

DPSLICE_INSTANTIATE(bounded_rows, BoundedRowsArgs)
template void kernel_feature_sums<double>(const KernelFeatureSumsArgs<double>&);

}  // namespace dpslice::DPSLICE_ISA
