// The CUDA kernels' launchers: same names and arguments as on the CPU, plus where to run. Pointers
// are to device memory. They return once the work is in the stream.
#pragma once

#include "density_ratio.h"
#include "kernel_sum.h"
#include "logsumexp.h"
#include "median_distance.h"
#include "project_args.h"
#include "row_totals.h"
#include "runtime.h"
#include "sliced_wasserstein.h"

namespace dpslice::cuda {

template <class T>
void kernel_sum(const KernelSumArgs<T>& args, const Execution& execution);
template <class T>
void kernel_sum_total(const KernelSumTotalArgs<T>& args, const Execution& execution);
template <class T>
void kernel_sum_vjp(const KernelSumVjpArgs<T>& args, const Execution& execution);
template <class T>
void logsumexp(const LogsumexpArgs<T>& args, const Execution& execution);
template <class T>
void logsumexp_total(const LogsumexpTotalArgs<T>& args, const Execution& execution);
template <class T>
void logsumexp_vjp(const LogsumexpVjpArgs<T>& args, const Execution& execution);
template <class T>
void row_totals(const RowTotalsArgs<T>& args, const Execution& execution);

// failed_slice is memory of the device, or of the host within its reach: two numbers, of which the
// caller sets the first to -1, for one call or for many. A slice that fails writes its ridge, as a
// double, to the second, and then its number to the first if that is less, as unsigned. It may be
// null: then failures are NaN, and no more.
//
// density_ratio can keep what density_ratio_vjp would have to compute again from the same points:
// kept_numbers(b) numbers for each slice.
int64_t kept_numbers(int64_t b);
template <class T>
void density_ratio(const DensityRatioArgs<T>& args, const Execution& execution,
                   double* kept = nullptr);
template <class T>
void density_ratio_vjp(const DensityRatioVjpArgs<T>& args, const Execution& execution,
                       const double* kept = nullptr);
template <class T>
void density_ratio_divergence(const DensityRatioDivergenceArgs<T>& args,
                              const Execution& execution);
template <class T>
void divergence(const DivergenceArgs<T>& args, const Execution& execution);

template <class T>
void sliced_wasserstein(const SlicedWassersteinArgs<T>& args, const Execution& execution);

template <class T>
void median_distance(const MedianDistanceArgs<T>& args, const Execution& execution);
template <class T>
void median_distance_vjp(const MedianDistanceVjpArgs<T>& args, const Execution& execution);

template <class T>
void project_secure(const ProjectSecureArgs<T>& args, const Execution& execution);
template <class T>
void project_fast(const ProjectFastArgs<T>& args, const Execution& execution);

// At the end of a kernel source: the two dtypes that every kernel has.
#define DPSLICE_CUDA_INSTANTIATE(name, Args)                       \
  template void name<float>(const Args<float>&, const Execution&); \
  template void name<double>(const Args<double>&, const Execution&);

}  // namespace dpslice::cuda
