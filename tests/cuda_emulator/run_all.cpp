// Runs every kernel once or more at small sizes that straddle its tiles, for sanitizers to watch.
// With an argument, the kernels of that name alone. Values are compared elsewhere; here a result
// that is not finite is an error.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "common/divergence.h"
#include "device.h"
#include "kernels.h"

namespace {

using namespace dpslice;
using namespace dpslice::cuda;

const char* wanted = nullptr;
bool asked(const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; }

// Each vector has exactly the size that the kernel may touch.
template <class T>
std::vector<T> random(int64_t size, double shift = 0) {
  static std::mt19937 generator(1);
  std::normal_distribution<double> normal;
  std::vector<T> values(static_cast<size_t>(size));
  for (T& value : values) value = static_cast<T>(normal(generator) + shift);
  return values;
}
template <class T>
std::vector<T> unset(int64_t size) {
  return std::vector<T>(static_cast<size_t>(size), static_cast<T>(NAN));
}
template <class T>
void require_finite(const char* name, const std::vector<T>& values) {
  for (T value : values)
    if (!std::isfinite(value)) {
      std::fprintf(stderr, "%s: not finite\n", name);
      std::exit(1);
    }
}

template <class T>
void run_pairs(const Execution& execution, int64_t m, int64_t b, int64_t c, int64_t k,
               double shift) {
  const auto x = random<T>(m * b * k), y = random<T>(m * c * k, shift), weights = random<T>(m * c);
  const auto grad = random<T>(m * b);
  const std::vector<T> bandwidth(static_cast<size_t>(m), static_cast<T>(std::sqrt(k)));
  auto out = unset<T>(m * b), grad_x = unset<T>(m * b * k), grad_y = unset<T>(m * c * k),
       grad_weights = unset<T>(m * c);
  // The gradients in x are those in y with the sides exchanged, and real threads take long.
#if defined(DPSLICE_EMULATOR_THREADS)
  T* const to_x = nullptr;
#else
  T* const to_x = grad_x.data();
#endif
  const auto require_gradients = [&](const char* name) {
    if (to_x != nullptr) require_finite(name, grad_x);
    require_finite(name, grad_y);
    require_finite(name, grad_weights);
  };
  if (asked("kernel_sum")) {
    kernel_sum(KernelSumArgs<T>{m, b, c, k, x.data(), y.data(), bandwidth.data(), weights.data(),
                                out.data()},
               execution);
    require_finite("kernel_sum", out);
    kernel_sum_vjp(
        KernelSumVjpArgs<T>{m, b, c, k, x.data(), y.data(), bandwidth.data(), weights.data(),
                            grad.data(), to_x, grad_y.data(), grad_weights.data()},
        execution);
    require_gradients("kernel_sum_vjp");
  }
  if (asked("logsumexp")) {
    logsumexp(LogsumexpArgs<T>{m, b, c, k, x.data(), y.data(), bandwidth.data(), weights.data(),
                               out.data()},
              execution);
    require_finite("logsumexp", out);
    logsumexp_vjp(
        LogsumexpVjpArgs<T>{m, b, c, k, x.data(), y.data(), bandwidth.data(), weights.data(),
                            out.data(), grad.data(), to_x, grad_y.data(), grad_weights.data()},
        execution);
    require_gradients("logsumexp_vjp");
  }
}

template <class T>
void run_ratio(const Execution& execution, int64_t m, int64_t b, int64_t c, int64_t k) {
  if (!asked("density_ratio")) return;
  const auto q = random<T>(m * b * k), p = random<T>(m * c * k), grad = random<T>(m * b);
  const std::vector<T> bandwidth(static_cast<size_t>(2 * m), T(1));
  auto ratio = unset<T>(m * b), grad_q = unset<T>(m * b * k), grad_p = unset<T>(m * c * k),
       value = unset<T>(m);
  int64_t failed_slice[2] = {-1, 0};
  density_ratio(DensityRatioArgs<T>{m, b, c, k, q.data(), p.data(), bandwidth.data(), 0.1, 0.5,
                                    ratio.data(), failed_slice},
                execution);
  require_finite("density_ratio", ratio);
  density_ratio_vjp(
      DensityRatioVjpArgs<T>{m, b, c, k, q.data(), p.data(), bandwidth.data(), 0.1, 0.5,
                             ratio.data(), grad.data(), grad_q.data(), grad_p.data(), failed_slice},
      execution);
  require_finite("density_ratio_vjp", grad_q);
  require_finite("density_ratio_vjp", grad_p);
  density_ratio_divergence(
      DensityRatioDivergenceArgs<T>{m, b, c, k, 2, q.data(), p.data(), bandwidth.data(), 0.1, 0.5,
                                    kKl, 0, 1e-6, value.data(), grad_p.data(), failed_slice},
      execution);
  require_finite("density_ratio_divergence", value);
  require_finite("density_ratio_divergence", grad_p);
}

template <class T>
void run_lines(const Execution& execution, int64_t m, int64_t b, int64_t c) {
  if (!asked("sliced_wasserstein")) return;
  const auto x = random<T>(m * b), y = random<T>(m * c);
  auto value = unset<T>(m), grad_x = unset<T>(m * b), grad_y = unset<T>(m * c);
  sliced_wasserstein(SlicedWassersteinArgs<T>{m, b, c, x.data(), y.data(), 1.5, value.data(),
                                              grad_x.data(), grad_y.data()},
                     execution);
  require_finite("sliced_wasserstein", value);
  require_finite("sliced_wasserstein", grad_x);
  require_finite("sliced_wasserstein", grad_y);
}

template <class T>
void run_median(const Execution& execution, int64_t m, int64_t b, int64_t k, bool equal = false) {
  if (!asked("median_distance")) return;
  auto x = random<T>(m * b * k);
  const auto grad = random<T>(m);
  if (equal) std::fill(x.begin(), x.end(), T(1));
  auto value = unset<T>(m), grad_x = unset<T>(m * b * k);
  median_distance(MedianDistanceArgs<T>{m, b, k, x.data(), value.data()}, execution);
  require_finite("median_distance", value);
  median_distance_vjp(MedianDistanceVjpArgs<T>{m, b, k, x.data(), grad.data(), grad_x.data()},
                      execution);
  require_finite("median_distance_vjp", grad_x);
}

template <class T>
void run_project(const Execution& execution, int64_t n, int64_t d, int64_t p) {
  if (!asked("project")) return;
  const auto x = random<T>(n * d), frame = random<T>(d * p);
  const auto wide_frame = random<double>(d * p);
  auto out = unset<T>(n * p);
  project_fast(ProjectFastArgs<T>{x.data(), frame.data(), 1, {1, 2}, 3, out.data(), n, d, p},
               execution);
  require_finite("project_fast", out);
  project_secure(
      ProjectSecureArgs<T>{x.data(), wide_frame.data(), 1, {1, 2, 3}, 3, out.data(), n, d, p},
      execution);
  require_finite("project_secure", out);
}

template <class T>
void run_all(const Execution& execution) {
  Execution little = execution, none = execution, roomy = execution;
  little.shared_limit = 100000;  // a square of one factor and of its rows, and the points
  none.shared_limit = 0;         // and blocks walk along the slices
  run_pairs<T>(execution, 1, 130, 257, 2, 0);
  run_pairs<T>(execution, 1, 5, 129, 8, 20);  // far apart: again in float64
#if !defined(DPSLICE_EMULATOR_THREADS)        // which take long for products
  run_pairs<T>(execution, 1, 66, 70, 17, 0);
#endif
  run_pairs<T>(execution, 1, 5, 65, 70, 20);
  roomy.shared_limit = 232448;  // products in three stages, not two
  run_pairs<T>(roomy, 1, 66, 70, 17, 0);
  run_ratio<T>(little, 1, 70, 20, 5);
  run_ratio<T>(none, 5, 3, 2, 1);
  run_lines<T>(execution, 2, 33, 70);
  run_lines<T>(execution, 1, 1025, 3);
  run_lines<T>(none, 3, 2049, 70);  // in global memory
  run_median<T>(execution, 1, 12, 3);
  run_median<T>(execution, 1, 66, 17);       // too many pairs to collect at once
  run_median<T>(execution, 1, 66, 2, true);  // or ever
  run_project<T>(execution, 66, 17, 67);
  Execution ring = execution;
  ring.multiprocessors = 1;
  ring.shared_limit = 43000;  // a ring of the frame, not the whole
  run_project<T>(ring, 100, 66, 20);
}

}  // namespace

int main(int count, char** arguments) {
  if (count > 1) wanted = arguments[1];
  const DeviceGuard guard(0);
  const Execution execution = guard.execution(0);
  run_all<float>(execution);
#if !defined(DPSLICE_EMULATOR_THREADS)
  run_all<double>(execution);  // the same barriers in the same places; real threads take long
#endif
  return 0;
}
