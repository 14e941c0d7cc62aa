// Regularised kernel density ratio of each slice: Gram matrix, Cholesky, solves, gradients.
//
// One slice is one task: its b x b factor and its points live in the thread's workspace, so memory
// is O(threads * bandwidths * b^2), and the cross kernel with the c synthetic rows is streamed,
// never stored. Everything is float64 inside, whatever the dtype of the arrays: K + ridge I has a
// condition number up to b / ridge (1e4 at b = 128, ridge = 0.01), which amplifies the rounding of
// the kernel values as well as that of the factorisation. In float32 throughout, the ratio is wrong
// by up to 1e-3 where 1e-5 is promised.
#include "density_ratio.h"

#include <cfloat>
#include <cmath>

#include "cholesky.h"
#include "common/divergence.h"
#include "parallel.h"
#include "points.h"
#include "simd.h"

namespace dpslice::DPSLICE_ISA {
namespace {

// ------------------------------------------------------------------------------------- one slice

// One bandwidth g of one slice, in units where a length near g is 1.
struct Kernel {
  double gram;       // -1 / (2 g^2): the exponent is this times a squared distance
  double cross;      // -1 / (2 h^2), h^2 = g^2 + sigma^2
  double amplitude;  // (b/c) (g^2 / h^2)^(k/2), which multiplies the cross kernel

  Kernel(double g, double sigma, int64_t b, int64_t c, int64_t k) {
    // sigma / g, not squares of each: neither overflows nor loses a small sigma.
    const double variance_ratio = 1 + (sigma / g) * (sigma / g);
    gram = -0.5 / (g * g);
    cross = gram / variance_ratio;
    amplitude = static_cast<double>(b) / static_cast<double>(c) *
                std::exp(-0.5 * static_cast<double>(k) * std::log1p((sigma / g) * (sigma / g)));
  }
};

struct Workspace {
  Points q, p;
  Buffer<double> factors;  // [bandwidths, order, stride]
  Buffer<double> sums;     // [bandwidths, q.stride] w, then lambda
  Buffer<double> scratch;  // [order]
  Buffer<double> ratio;    // [q.stride] mean over the bandwidths
  Buffer<double> slope;    // [q.stride] gradient in the ratio
  Buffer<double> pull;     // [k, stride] gradient in the points of one side
  Buffer<Kernel> kernels;  // [bandwidths]
};

// The upper triangles of exp(gram |q_i - q_j|^2) for each bandwidth, the ridge on the diagonal.
// Whole diagonal tiles are written, as cholesky.h needs them.
void fill_gram(const Points& q, const Kernel* kernels, int64_t bandwidths, double ridge,
               CholeskyShape shape, double* factors) {
  constexpr int L = kLanes<double>;
  Vec<double> squared[kSourceTile];
  for (int64_t i0 = 0; i0 < q.size(); i0 += kSourceTile) {
    const int64_t rows = i0 + kSourceTile < q.size() ? kSourceTile : q.size() - i0;
    for (int64_t j = i0; j < shape.order; j += L) {
      const int64_t above =
          (j / kTileRows + 1) * kTileRows - i0;  // rows whose tiles reach column j
      const int64_t count = above < rows ? above : rows;
      squared_distances(q, j, q, i0, count, squared);
      for (int64_t g = 0; g < bandwidths; ++g) {
        double* at = factors + g * shape.numbers() + i0 * shape.stride + j;
        for (int64_t s = 0; s < count; ++s)
          store(at + s * shape.stride, vexp<double>(kernels[g].gram * squared[s]));
      }
    }
  }
  for (int64_t g = 0; g < bandwidths; ++g)
    for (int64_t i = 0; i < q.size(); ++i)
      factors[g * shape.numbers() + i * (shape.stride + 1)] = 1 + ridge;
}

// sums[g, i] = amplitude_g sum_j exp(cross_g |q_i - p_j|^2).
void cross_sums(const Points& q, const Points& p, const Kernel* kernels, int64_t bandwidths,
                double* sums) {
  constexpr int L = kLanes<double>;
  Vec<double> squared[kSourceTile];
  for (int64_t i = 0; i < q.stride(); i += L) {
    for (int64_t g = 0; g < bandwidths; ++g) store(sums + g * q.stride() + i, Vec<double>{});
    for (int64_t j0 = 0; j0 < p.size(); j0 += kSourceTile) {
      const int64_t count = j0 + kSourceTile < p.size() ? kSourceTile : p.size() - j0;
      squared_distances(q, i, p, j0, count, squared);
      for (int64_t g = 0; g < bandwidths; ++g) {
        Vec<double>
            sum{};  // of this tile alone: the error grows with the tile and the tiles, not with c
        for (int64_t s = 0; s < count; ++s) sum += vexp<double>(kernels[g].cross * squared[s]);
        double* at = sums + g * q.stride() + i;
        store(at, load(at) + sum);
      }
    }
    for (int64_t g = 0; g < bandwidths; ++g) {
      double* at = sums + g * q.stride() + i;
      store(at, load(at) * kernels[g].amplitude);
    }
  }
}

// pull[t, i] += sum_j weight(j, i) (source_j - target_i)[t]. `weight(source, target0, squared)`
// gives the weights of one source for a vector of targets.
template <class Weight>
void add_pull(const Points& targets, const Points& sources, double* pull, Weight&& weight) {
  constexpr int L = kLanes<double>;
  Vec<double> tile[kSourceTile];
  for (int64_t i = 0; i < targets.stride(); i += L) {
    for (int64_t j0 = 0; j0 < sources.size(); j0 += kSourceTile) {
      const int64_t count = j0 + kSourceTile < sources.size() ? kSourceTile : sources.size() - j0;
      squared_distances(targets, i, sources, j0, count, tile);
      for (int64_t s = 0; s < count; ++s) tile[s] = weight(j0 + s, i, tile[s]);
      for (int64_t s = count; s < kSourceTile; ++s) tile[s] = Vec<double>{};
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
  }
}

void zero(double* values, int64_t size) {
  for (int64_t i = 0; i < size; ++i) values[i] = 0;
}

// rows [size, dims] = factor * pull.
template <class T>
void write_rows(const double* pull, const Points& points, double factor, T* rows) {
  for (int64_t t = 0; t < points.dims(); ++t)
    for (int64_t i = 0; i < points.size(); ++i)
      rows[i * points.dims() + t] = static_cast<T>(factor * pull[t * points.stride() + i]);
}

// A pivot below this has no correct digit left: its rounding error is as large.
double smallest_pivot(int64_t b, double ridge) {
  return DBL_EPSILON * static_cast<double>(b) * (1 + ridge);
}

void report_failure(int64_t* failed_slice, int64_t slice) {
  // The least one, so that the message does not depend on the threads.
  int64_t seen = __atomic_load_n(failed_slice, __ATOMIC_RELAXED);
  while ((seen < 0 || slice < seen) &&
         !__atomic_compare_exchange_n(failed_slice, &seen, slice, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
}

// Points, kernels, and factored matrices of slice `s`; the right-hand sides [bandwidths, q.stride]
// are w where `grad` is null, else grad. On return `sums` holds the solutions. Returns the scale of
// lengths, or 0 if a matrix is not positive definite.
template <class T, class Args>
double factor_and_solve(const Args& args, int64_t s, const T* bandwidth, int64_t bandwidths,
                        const T* grad, Workspace& work) {
  const CholeskyShape shape(args.b);
  const double scale = unit_scale(static_cast<double>(bandwidth[s]));
  work.q.assign(args.q + s * args.b * args.k, args.b, args.k, scale);
  work.p.assign(args.p + s * args.c * args.k, args.c, args.k, scale);
  work.kernels.resize(bandwidths);
  for (int64_t g = 0; g < bandwidths; ++g)
    work.kernels[g] = Kernel(static_cast<double>(bandwidth[g * args.m + s]) * scale,
                             args.sigma * scale, args.b, args.c, args.k);
  work.factors.resize(bandwidths * shape.numbers());
  fill_gram(work.q, work.kernels.data(), bandwidths, args.ridge, shape, work.factors.data());
  const int64_t stride = work.q.stride();
  work.sums.resize(bandwidths * stride);
  if (grad == nullptr) {
    cross_sums(work.q, work.p, work.kernels.data(), bandwidths, work.sums.data());
  } else {
    for (int64_t i = 0; i < args.b; ++i) work.sums[i] = static_cast<double>(grad[s * args.b + i]);
  }
  work.scratch.resize(stride);
  for (int64_t g = 0; g < bandwidths; ++g) {
    double* factor = work.factors.data() + g * shape.numbers();
    double* sums = work.sums.data() + g * stride;
    complete(factor, shape, args.b, sums);
    if (!cholesky(factor, shape, smallest_pivot(args.b, args.ridge))) {
      report_failure(args.failed_slice, s);
      return 0;
    }
    for (int64_t i = 0; i < shape.order; ++i)
      work.scratch[i] = factor[i * shape.stride + shape.order];
    solve(factor, shape, work.scratch.data(), sums);
  }
  return scale;
}

}  // namespace

// --------------------------------------------------------------------------------------- launchers

template <class T>
void density_ratio(const DensityRatioArgs<T>& args) {
  *args.failed_slice = -1;
  parallel_for<Workspace>(args.m, [&](int64_t s, Workspace& work) {
    if (factor_and_solve<T>(args, s, args.bandwidth, 1, nullptr, work) == 0) return;
    for (int64_t i = 0; i < args.b; ++i) args.ratio[s * args.b + i] = static_cast<T>(work.sums[i]);
  });
}

// With lambda = (K + ridge I)^-1 grad: d(grad . r) = lambda . dw - lambda . dK r.
template <class T>
void density_ratio_vjp(const DensityRatioVjpArgs<T>& args) {
  *args.failed_slice = -1;
  parallel_for<Workspace>(args.m, [&](int64_t s, Workspace& work) {
    const double scale = factor_and_solve<T>(args, s, args.bandwidth, 1, args.grad, work);
    if (scale == 0) return;
    const Kernel kernel = work.kernels[0];
    const double* lambda = work.sums.data();
    const double strength = -2 * kernel.cross * kernel.amplitude;  // amplitude / h^2
    if (args.grad_p != nullptr) {
      work.pull.resize(args.k * work.p.stride());
      zero(work.pull.data(), args.k * work.p.stride());
      add_pull(work.p, work.q, work.pull.data(), [&](int64_t i, int64_t, Vec<double> squared) {
        return (strength * lambda[i]) * vexp<double>(kernel.cross * squared);
      });
      write_rows(work.pull.data(), work.p, scale, args.grad_p + s * args.c * args.k);
    }
    if (args.grad_q != nullptr) {
      const int64_t stride = work.q.stride();
      work.ratio.resize(stride);
      for (int64_t i = 0; i < stride; ++i)
        work.ratio[i] = i < args.b ? static_cast<double>(args.ratio[s * args.b + i]) : 0.0;
      for (int64_t i = args.b; i < stride; ++i) work.sums[i] = 0;
      work.pull.resize(args.k * stride);
      zero(work.pull.data(), args.k * stride);
      add_pull(work.q, work.p, work.pull.data(), [&](int64_t, int64_t i, Vec<double> squared) {
        return (strength * load(lambda + i)) * vexp<double>(kernel.cross * squared);
      });
      add_pull(work.q, work.q, work.pull.data(), [&](int64_t l, int64_t i, Vec<double> squared) {
        const Vec<double> both =
            load(lambda + i) * work.ratio[l] + lambda[l] * load(work.ratio.data() + i);
        return (2 * kernel.gram) * both * vexp<double>(kernel.gram * squared);  // 2 gram = -1 / g^2
      });
      write_rows(work.pull.data(), work.q, scale, args.grad_q + s * args.b * args.k);
    }
  });
}

template <class T>
void density_ratio_divergence(const DensityRatioDivergenceArgs<T>& args) {
  *args.failed_slice = -1;
  const CholeskyShape shape(args.b);
  parallel_for<Workspace>(args.m, [&](int64_t s, Workspace& work) {
    const int64_t bandwidths = args.bandwidths;
    const double scale = factor_and_solve<T>(args, s, args.bandwidth, bandwidths, nullptr, work);
    if (scale == 0) return;
    const int64_t stride = work.q.stride();
    work.slope.resize(stride);
    double value = 0;
    const double share = 1 / (static_cast<double>(args.b) * static_cast<double>(bandwidths));
    for (int64_t i = 0; i < stride; ++i) work.slope[i] = 0;
    for (int64_t i = 0; i < args.b; ++i) {
      double ratio = 0;
      for (int64_t g = 0; g < bandwidths; ++g) ratio += work.sums[g * stride + i];
      ratio /= static_cast<double>(bandwidths);
      const bool inside = ratio > args.r_min;
      const DivergenceAt<double> f =
          divergence_at<double>(args.divergence, args.alpha, inside ? ratio : args.r_min);
      value += f.value;
      work.slope[i] = inside ? f.derivative * share : 0.0;
    }
    args.value[s] = static_cast<T>(value / static_cast<double>(args.b));
    if (args.grad_p == nullptr) return;
    for (int64_t g = 0; g < bandwidths; ++g) {
      const double* factor = work.factors.data() + g * shape.numbers();
      const double strength = -2 * work.kernels[g].cross * work.kernels[g].amplitude;
      double* lambda = work.sums.data() + g * stride;
      for (int64_t i = 0; i < shape.order; ++i) work.scratch[i] = work.slope[i];
      solve_transposed(factor, shape, work.scratch.data());
      solve(factor, shape, work.scratch.data(), lambda);
      for (int64_t i = 0; i < args.b; ++i) lambda[i] *= strength;
    }
    work.pull.resize(args.k * work.p.stride());
    zero(work.pull.data(), args.k * work.p.stride());
    const double* lambda = work.sums.data();
    const Kernel* kernels = work.kernels.data();
    add_pull(work.p, work.q, work.pull.data(), [&](int64_t i, int64_t, Vec<double> squared) {
      Vec<double> weight{};
      for (int64_t g = 0; g < bandwidths; ++g)
        weight += lambda[g * stride + i] * vexp<double>(kernels[g].cross * squared);
      return weight;
    });
    write_rows(work.pull.data(), work.p, scale, args.grad_p + s * args.c * args.k);
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
