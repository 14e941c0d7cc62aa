// Regularised kernel density ratio of each slice: Gram matrix, Cholesky, solves, gradients.
//
// One slice is one task: its b x b matrix and its points live in the thread's workspace, so memory
// is O(threads * bandwidths * b^2); the cross kernel with the c synthetic rows is streamed, and
// kept for the gradient only where it is small. Entries, right-hand sides and solutions are float64
// whatever the dtype of the arrays; what solves may be less (gram_solver.h).
#include "density_ratio.h"

#include <cmath>

#include "common/divergence.h"
#include "farthest_points.h"
#include "gram_solver.h"
#include "parallel.h"
#include "points.h"
#include "simd.h"

namespace dpslice::DPSLICE_ISA {
namespace {

// ------------------------------------------------------------------------------------- one slice

constexpr double kFar = 1e300;  // a squared distance

// One bandwidth g of one slice, in units where a length near g is 1.
struct Kernel {
  double bandwidth;  // g
  double gram;       // -log2(e) / (2 g^2): the exponent of 2 is this times a squared distance
  double cross;      // -log2(e) / (2 h^2), h^2 = g^2 + sigma^2
  double amplitude;  // (b/c) (g^2 / h^2)^(k/2), which multiplies the cross kernel
  double gram_pull;  // 1 / g^2
  double pull;       // amplitude / h^2

  Kernel(double g, double sigma, int64_t b, int64_t c, int64_t k) {
    // sigma / g, not squares of each: neither overflows nor loses a small sigma.
    const double variance_ratio = 1 + (sigma / g) * (sigma / g);
    bandwidth = g;
    gram_pull = 1 / (g * g);
    gram = -0.5 * kLog2E * gram_pull;
    cross = gram / variance_ratio;
    amplitude = static_cast<double>(b) / static_cast<double>(c) *
                std::exp(-0.5 * static_cast<double>(k) * std::log1p((sigma / g) * (sigma / g)));
    pull = amplitude * gram_pull / variance_ratio;
  }
};

// A cross kernel of more numbers than this is computed again for the gradient, not kept.
constexpr int64_t kMostKept = int64_t{1} << 22;

struct Workspace {
  Points given, q, p;             // q: the given ones in `order`
  Buffer<int64_t> order;          // [b]
  Buffer<double> squared;         // scratch of the order
  GramSolver* solvers = nullptr;  // [bandwidths]
  int64_t n_solvers = 0;
  Buffer<double> sums;       // [bandwidths, stride] w
  Buffer<double> solutions;  // [bandwidths, stride] ratios, then lambda
  Buffer<double> cross;      // [bandwidths, KeptCross::size], or not kept
  Buffer<double> ratio;      // [stride] mean over the bandwidths
  Buffer<double> slope;      // [stride] gradient in the ratio
  Buffer<double> pull;       // [k, stride] gradient in the points of one side
  Buffer<Kernel> kernels;    // [bandwidths]

  Workspace() = default;
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace() { delete[] solvers; }
  void resize_solvers(int64_t count) {
    if (count <= n_solvers) return;
    delete[] solvers;
    solvers = nullptr;
    n_solvers = 0;
    solvers = new GramSolver[static_cast<size_t>(count)];
    n_solvers = count;
  }
};

// Kernels of four sources from their squared distances.
inline __attribute__((always_inline)) void kernels_of(double exponent,
                                                      const Vec<double> (&squared)[4],
                                                      Vec<double> (&kernel)[4]) {
  for (int s = 0; s < 4; ++s) kernel[s] = exponent * squared[s];
  vexp2_each<double>(kernel);
}

// The upper triangles of 2^(gram |q_i - q_j|^2) for each bandwidth, the ridge on the diagonal. What
// is written below the diagonal, and below the last row, is not read.
void fill_gram(const Points& q, const Kernel* kernels, int64_t bandwidths, double ridge,
               GramSolver* solvers) {
  constexpr int L = kLanes<double>;
  static_assert(kTileRows % 4 == 0, "the matrix holds whole groups of four rows");
  const CholeskyShape shape(q.size());
  for (int64_t g = 0; g < bandwidths; ++g) solvers[g].start(q.size());
  // A tile of rows meets one vector of columns after the other. Distances and kernels are made in
  // separate loops, here and below: in a shorter loop a processor can look ahead to the next round.
  Vec<double> squares[kSourceTile / 4][4];
  for (int64_t i0 = 0; i0 < q.size(); i0 += kSourceTile) {
    const int64_t rows = i0 + kSourceTile < q.size() ? kSourceTile : q.size() - i0;
    for (int64_t j = first_column<double>(i0); j < q.size(); j += L) {
      const int64_t above = j + L - i0;  // rows that have a part in these columns
      const int64_t count = above < rows ? above : rows;
      for (int64_t s = 0; s < count; s += 4) squared_distances(q, j, q, i0 + s, squares[s / 4]);
      for (int64_t g = 0; g < bandwidths; ++g)
        for (int64_t s = 0; s < count; s += 4) {
          Vec<double> kernel[4];
          kernels_of(kernels[g].gram, squares[s / 4], kernel);
          double* const at = solvers[g].matrix() + (i0 + s) * shape.stride + j;
          for (int r = 0; r < 4; ++r) store(at + r * shape.stride, kernel[r]);
        }
    }
  }
  for (int64_t g = 0; g < bandwidths; ++g)
    for (int64_t i = 0; i < q.size(); ++i) solvers[g].matrix()[i * (shape.stride + 1)] = 1 + ridge;
}

// A kept cross kernel lies as its gradient reads it: for each kSourceTile private rows, each vector
// of synthetic rows after the other, [tiles, vectors, kSourceTile, lanes].
struct KeptCross {
  int64_t vectors, size;
  KeptCross(const Points& q, const Points& p)
      : vectors(p.stride() / kLanes<double>), size(q.stride() * p.stride()) {}
  // Private row i, and the vector of synthetic rows at j.
  int64_t at(int64_t i, int64_t j) const {
    constexpr int L = kLanes<double>;
    return (i / kSourceTile * vectors + j / L) * kSourceTile * L + i % kSourceTile * L;
  }
};

// sums[g, i] = amplitude_g sum_j 2^(cross_g |q_i - p_j|^2). `kept`: null, or room for the powers
// [bandwidths, KeptCross::size]; those past the last point of p are zeros.
void cross_sums(const Points& q, const Points& p, const Kernel* kernels, int64_t bandwidths,
                int64_t stride, double* sums, double* kept) {
  constexpr int L = kLanes<double>;
  const KeptCross layout(q, p);
  // Of a stretch of p alone: the error grows with the stretch and their number, not with c.
  constexpr int64_t kStretch = 64 * L;
  constexpr int64_t kStaged = 8;  // vectors whose distances wait for their kernels
  for (int64_t g = 0; g < bandwidths; ++g) {
    double* const sum = sums + g * stride;
    for (int64_t i = 0; i < stride; ++i) sum[i] = 0;
    for (int64_t i = 0; i < q.size(); i += 4) {
      double* const to = kept != nullptr ? kept + g * layout.size : nullptr;
      for (int64_t j0 = 0; j0 < p.size(); j0 += kStretch) {
        const int64_t j1 = j0 + kStretch < p.size() ? j0 + kStretch : p.size();
        Vec<double> total[4] = {};
        for (int64_t first = j0; first < j1; first += kStaged * L) {
          const int64_t rest = (j1 - first + L - 1) / L, count = rest < kStaged ? rest : kStaged;
          Vec<double> squares[kStaged][4];
          for (int64_t v = 0; v < count; ++v) squared_distances(p, first + v * L, q, i, squares[v]);
          const int64_t last = first + (count - 1) * L;
          if (last + L > p.size()) [[unlikely]]  // what lies past the end is infinitely far
            for (int s = 0; s < 4; ++s)
              for (int64_t lane = p.size() - last; lane < L; ++lane)
                squares[count - 1][s][lane] = kFar;
          for (int64_t v = 0; v < count; ++v) {
            Vec<double> power[4];
            kernels_of(kernels[g].cross, squares[v], power);
            for (int s = 0; s < 4; ++s) {
              total[s] += power[s];
              if (to != nullptr) store(to + layout.at(i, first + v * L) + s * L, power[s]);
            }
          }
        }
        for (int s = 0; s < 4 && i + s < q.size(); ++s) sum[i + s] += sum_lanes<double>(total[s]);
      }
    }
    for (int64_t i = 0; i < q.size(); ++i) sum[i] *= kernels[g].amplitude;
  }
}

// pull[t, i] += sum_j weight(j, i) (source_j - target_i)[t], for the targets of the vector at i and
// `count` sources from j0 on. tile: their weights, zeros up to a multiple of 4.
inline void add_tile_pull(const Points& targets, int64_t i, const Points& sources, int64_t j0,
                          int64_t count, const Vec<double>* tile, double* pull) {
  for (int64_t t = 0; t < targets.dims(); ++t) {
    const Vec<double> target = load(targets.coordinate(t) + i);
    const double* source = sources.coordinate(t) + j0;
    Vec<double> sum0{}, sum1{}, sum2{}, sum3{};
    for (int64_t s = 0; s < count; s += 4) {
      sum0 += tile[s] * (source[s] - target);
      sum1 += tile[s + 1] * (source[s + 1] - target);
      sum2 += tile[s + 2] * (source[s + 2] - target);
      sum3 += tile[s + 3] * (source[s + 3] - target);
    }
    double* at = pull + t * targets.stride() + i;
    store(at, load(at) + ((sum0 + sum1) + (sum2 + sum3)));
  }
}

// `weight(source, target0)` gives the weights of one source for a vector of targets.
template <class Weight>
void add_pull_of_weights(const Points& targets, const Points& sources, double* pull,
                         Weight&& weight) {
  constexpr int L = kLanes<double>;
  Vec<double> tile[kSourceTile];
  for (int64_t j0 = 0; j0 < sources.size(); j0 += kSourceTile) {
    const int64_t count = j0 + kSourceTile < sources.size() ? kSourceTile : sources.size() - j0;
    for (int64_t i = 0; i < targets.size(); i += L) {
      for (int64_t s = 0; s < count; ++s) tile[s] = weight(j0 + s, i);
      for (int64_t s = count; s < kSourceTile; ++s) tile[s] = Vec<double>{};
      add_tile_pull(targets, i, sources, j0, count, tile, pull);
    }
  }
}

// The same where the weights depend on the distance: `weigh(source, target0, squared)` replaces the
// squared distances of four sources by their weights.
template <class Weigh>
void add_pull(const Points& targets, const Points& sources, double* pull, Weigh&& weigh) {
  constexpr int L = kLanes<double>;
  Vec<double> tile[kSourceTile];
  for (int64_t j0 = 0; j0 < sources.size(); j0 += kSourceTile) {
    const int64_t count = j0 + kSourceTile < sources.size() ? kSourceTile : sources.size() - j0;
    for (int64_t i = 0; i < targets.size(); i += L) {
      for (int64_t s = 0; s < count; s += 4)
        squared_distances(targets, i, sources, j0 + s, tile + s);
      for (int64_t s = 0; s < count; s += 4) {
        Vec<double> four[4] = {tile[s], tile[s + 1], tile[s + 2], tile[s + 3]};
        weigh(j0 + s, i, four);
        for (int r = 0; r < 4; ++r) tile[s + r] = four[r];
      }
      for (int64_t s = count; s < kSourceTile; ++s) tile[s] = Vec<double>{};
      add_tile_pull(targets, i, sources, j0, count, tile, pull);
    }
  }
}

void zero(double* values, int64_t size) {
  for (int64_t i = 0; i < size; ++i) values[i] = 0;
}

// rows [size, dims] = factor * pull, point i as row order[i], or where `order` is null as row i.
template <class T>
void write_rows(const double* pull, const Points& points, double factor, const int64_t* order,
                T* rows) {
  for (int64_t t = 0; t < points.dims(); ++t)
    for (int64_t i = 0; i < points.size(); ++i) {
      const int64_t row = order != nullptr ? order[i] : i;
      rows[row * points.dims() + t] = static_cast<T>(factor * pull[t * points.stride() + i]);
    }
}

void report_failure(int64_t* failed_slice, int64_t slice) {
  // The least one, so that the message does not depend on the threads.
  int64_t seen = __atomic_load_n(failed_slice, __ATOMIC_RELAXED);
  while ((seen < 0 || slice < seen) &&
         !__atomic_compare_exchange_n(failed_slice, &seen, slice, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
}

// Fewer private rows than this are not ordered: a factor of the whole matrix takes no longer.
constexpr int64_t kLeastOrdered = 192;
// In more dimensions few rows hardly ever span the others, and to order them takes long.
constexpr int64_t kMostOrderedDims = 8;
// Rows that may span the others: with more the whole matrix is factored as fast.
constexpr int64_t most_spanning(int64_t b) { return b / 4; }
// Where all rows lie within kReach median bandwidths of the first ones, what these leave has a
// trace below 0.01, the usual ridge, and a few more rows make it small beside that. Within
// kLeastReach it is 1e-5: the order of the others matters little.
constexpr double kReach = 0.35, kLeastReach = 0.2;

// work.q and work.order: its first rows span the others, as far as the smallest bandwidth asks.
// Returns how far from the nearest of them a row lies at most; infinity where they are not ordered.
template <class T>
double order_rows(const T* rows, int64_t b, int64_t k, double scale, int64_t bandwidths,
                  Workspace& work) {
  work.order.resize(b);
  if (b < kLeastOrdered || k > kMostOrderedDims) {
    for (int64_t i = 0; i < b; ++i) work.order[i] = i;
    work.q.assign(rows, b, k, scale);
    return INFINITY;
  }
  double least = work.kernels[0].bandwidth;
  for (int64_t g = 1; g < bandwidths; ++g)
    if (work.kernels[g].bandwidth < least) least = work.kernels[g].bandwidth;
  work.given.assign(rows, b, k, scale);
  const double reach = farthest_first(work.given, kLeastReach * least, kReach * least,
                                      most_spanning(b), work.squared, work.order.data());
  work.q.assign_ordered(work.given, work.order.data());
  return reach;
}

// Points, kernels, and factored matrices of slice `s`. Returns the scale of lengths, or 0 if a
// matrix is not positive definite.
template <class T, class Args>
double factor_slice(const Args& args, int64_t s, const T* bandwidth, int64_t bandwidths,
                    Workspace& work) {
  const double scale = unit_scale(static_cast<double>(bandwidth[s]));
  work.p.assign(args.p + s * args.c * args.k, args.c, args.k, scale);
  work.kernels.resize(bandwidths);
  for (int64_t g = 0; g < bandwidths; ++g)
    work.kernels[g] = Kernel(static_cast<double>(bandwidth[g * args.m + s]) * scale,
                             args.sigma * scale, args.b, args.c, args.k);
  const double reach =
      order_rows(args.q + s * args.b * args.k, args.b, args.k, scale, bandwidths, work);
  work.resize_solvers(bandwidths);
  fill_gram(work.q, work.kernels.data(), bandwidths, args.ridge, work.solvers);
  for (int64_t g = 0; g < bandwidths; ++g) {
    const bool spanned = reach <= kReach * work.kernels[g].bandwidth;
    if (!work.solvers[g].factor(args.ridge, spanned ? most_spanning(args.b) : 0,
                                sizeof(T) == sizeof(float))) {
      report_failure(args.failed_slice, s);
      return 0;
    }
  }
  const int64_t numbers = bandwidths * CholeskyShape(args.b).stride;
  work.sums.resize(numbers);
  work.solutions.resize(numbers);
  return scale;
}

template <class Args>
bool solve_slice(const Args& args, int64_t s, GramSolver& solver, const double* right_hand_side,
                 double* solution) {
  if (solver.solve(right_hand_side, solution)) return true;
  report_failure(args.failed_slice, s);
  return false;
}

}  // namespace

// --------------------------------------------------------------------------------------- launchers

template <class T>
void density_ratio(const DensityRatioArgs<T>& args) {
  *args.failed_slice = -1;
  parallel_for<Workspace>(args.m, [&](int64_t s, Workspace& work) {
    if (factor_slice<T>(args, s, args.bandwidth, 1, work) == 0) return;
    cross_sums(work.q, work.p, work.kernels.data(), 1, CholeskyShape(args.b).stride,
               work.sums.data(), nullptr);
    const double* const ratio = work.solutions.data();
    if (!solve_slice(args, s, work.solvers[0], work.sums.data(), work.solutions.data())) return;
    T* const to = args.ratio + s * args.b;
    for (int64_t i = 0; i < args.b; ++i) to[work.order[i]] = static_cast<T>(ratio[i]);
  });
}

// With lambda = (K + ridge I)^-1 grad: d(grad . r) = lambda . dw - lambda . dK r.
template <class T>
void density_ratio_vjp(const DensityRatioVjpArgs<T>& args) {
  *args.failed_slice = -1;
  parallel_for<Workspace>(args.m, [&](int64_t s, Workspace& work) {
    const double scale = factor_slice<T>(args, s, args.bandwidth, 1, work);
    if (scale == 0) return;
    for (int64_t i = 0; i < args.b; ++i)
      work.sums[i] = static_cast<double>(args.grad[s * args.b + work.order[i]]);
    double* const lambda = work.solutions.data();
    if (!solve_slice(args, s, work.solvers[0], work.sums.data(), lambda)) return;
    const Kernel kernel = work.kernels[0];
    if (args.grad_p != nullptr) {
      work.pull.resize(args.k * work.p.stride());
      zero(work.pull.data(), args.k * work.p.stride());
      add_pull(work.p, work.q, work.pull.data(), [&](int64_t i, int64_t, Vec<double>(&w)[4]) {
        kernels_of(kernel.cross, w, w);
        for (int r = 0; r < 4; ++r) w[r] *= kernel.pull * lambda[i + r];
      });
      write_rows(work.pull.data(), work.p, scale, nullptr, args.grad_p + s * args.c * args.k);
    }
    if (args.grad_q != nullptr) {
      const int64_t stride = work.q.stride();
      work.ratio.resize(stride);
      work.slope.resize(stride);  // lambda, with zeros for the padding of q
      for (int64_t i = 0; i < stride; ++i) {
        work.ratio[i] =
            i < args.b ? static_cast<double>(args.ratio[s * args.b + work.order[i]]) : 0.0;
        work.slope[i] = i < args.b ? lambda[i] : 0.0;
      }
      const double* const padded_lambda = work.slope.data();
      work.pull.resize(args.k * stride);
      zero(work.pull.data(), args.k * stride);
      add_pull(work.q, work.p, work.pull.data(), [&](int64_t, int64_t i, Vec<double>(&w)[4]) {
        kernels_of(kernel.cross, w, w);
        for (int r = 0; r < 4; ++r) w[r] *= kernel.pull * load(padded_lambda + i);
      });
      const double* const ratio = work.ratio.data();
      add_pull(work.q, work.q, work.pull.data(), [&](int64_t l, int64_t i, Vec<double>(&w)[4]) {
        kernels_of(kernel.gram, w, w);
        for (int r = 0; r < 4; ++r)
          w[r] *= -kernel.gram_pull *
                  (load(padded_lambda + i) * ratio[l + r] + padded_lambda[l + r] * load(ratio + i));
      });
      write_rows(work.pull.data(), work.q, scale, work.order.data(),
                 args.grad_q + s * args.b * args.k);
    }
  });
}

template <class T>
void density_ratio_divergence(const DensityRatioDivergenceArgs<T>& args) {
  *args.failed_slice = -1;
  const int64_t stride = CholeskyShape(args.b).stride;
  parallel_for<Workspace>(args.m, [&](int64_t s, Workspace& work) {
    const int64_t bandwidths = args.bandwidths;
    const double scale = factor_slice<T>(args, s, args.bandwidth, bandwidths, work);
    if (scale == 0) return;
    const KeptCross layout(work.q, work.p);
    const bool keep = args.grad_p != nullptr && bandwidths * layout.size <= kMostKept;
    if (keep) work.cross.resize(bandwidths * layout.size);
    const Kernel* const kernels = work.kernels.data();
    cross_sums(work.q, work.p, kernels, bandwidths, stride, work.sums.data(),
               keep ? work.cross.data() : nullptr);
    work.ratio.resize(stride);
    work.slope.resize(stride);
    for (int64_t i = 0; i < stride; ++i) work.ratio[i] = work.slope[i] = 0;
    for (int64_t g = 0; g < bandwidths; ++g) {
      double* const solution = work.solutions.data() + g * stride;
      if (!solve_slice(args, s, work.solvers[g], work.sums.data() + g * stride, solution)) return;
      for (int64_t i = 0; i < args.b; ++i) work.ratio[i] += solution[i];
    }
    double value = 0;
    const double share = 1 / (static_cast<double>(args.b) * static_cast<double>(bandwidths));
    for (int64_t i = 0; i < args.b; ++i) {
      const double ratio = work.ratio[i] / static_cast<double>(bandwidths);
      const bool inside = ratio > args.r_min;
      const DivergenceAt<double> f =
          divergence_at<double>(args.divergence, args.alpha, inside ? ratio : args.r_min);
      value += f.value;
      work.slope[i] = inside ? f.derivative * share : 0.0;
    }
    args.value[s] = static_cast<T>(value / static_cast<double>(args.b));
    if (args.grad_p == nullptr) return;
    for (int64_t g = 0; g < bandwidths; ++g) {
      double* const lambda = work.solutions.data() + g * stride;
      if (!solve_slice(args, s, work.solvers[g], work.slope.data(), lambda)) return;
      for (int64_t i = 0; i < args.b; ++i) lambda[i] *= kernels[g].pull;
    }
    work.pull.resize(args.k * work.p.stride());
    zero(work.pull.data(), args.k * work.p.stride());
    const double* const lambda = work.solutions.data();
    const double* const kept = work.cross.data();
    if (keep)
      add_pull_of_weights(work.p, work.q, work.pull.data(), [&](int64_t i, int64_t j) {
        const double* const powers = kept + layout.at(i, j);
        Vec<double> weight = lambda[i] * load(powers);
        for (int64_t g = 1; g < bandwidths; ++g)
          weight += lambda[g * stride + i] * load(powers + g * layout.size);
        return weight;
      });
    else
      add_pull(work.p, work.q, work.pull.data(), [&](int64_t i, int64_t, Vec<double>(&w)[4]) {
        Vec<double> weight[4] = {}, power[4];
        for (int64_t g = 0; g < bandwidths; ++g) {
          kernels_of(kernels[g].cross, w, power);
          for (int r = 0; r < 4; ++r) weight[r] += lambda[g * stride + i + r] * power[r];
        }
        for (int r = 0; r < 4; ++r) w[r] = weight[r];
      });
    write_rows(work.pull.data(), work.p, scale, nullptr, args.grad_p + s * args.c * args.k);
  });
}

template <class T>
void divergence(const DivergenceArgs<T>& args) {
  for (int64_t i = 0; i < args.size; ++i) {
    const DivergenceAt<double> f =
        divergence_at<double>(args.divergence, args.alpha, static_cast<double>(args.t[i]));
    args.value[i] = static_cast<T>(f.value);
    args.derivative[i] = static_cast<T>(f.derivative);
  }
}

DPSLICE_INSTANTIATE(density_ratio, DensityRatioArgs)
DPSLICE_INSTANTIATE(density_ratio_vjp, DensityRatioVjpArgs)
DPSLICE_INSTANTIATE(density_ratio_divergence, DensityRatioDivergenceArgs)
DPSLICE_INSTANTIATE(divergence, DivergenceArgs)

}  // namespace dpslice::DPSLICE_ISA
