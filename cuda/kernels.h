// The CUDA kernels' launchers: same names and arguments as on the CPU, plus where to run. Pointers
// are to device memory. They return once the work is in the stream.
#pragma once

#include "density_ratio.h"
#include "kernel_sum.h"
#include "logsumexp.h"
#include "median_distance.h"
#include "project_args.h"
#include "runtime.h"
#include "sliced_wasserstein.h"

namespace dpslice::cuda {

template <class T>
void kernel_sum(const KernelSumArgs<T>& args, const Execution& execution);
template <class T>
void kernel_sum_vjp(const KernelSumVjpArgs<T>& args, const Execution& execution);
template <class T>
void logsumexp(const LogsumexpArgs<T>& args, const Execution& execution);
template <class T>
void logsumexp_vjp(const LogsumexpVjpArgs<T>& args, const Execution& execution);

// failed_slice may be null: then failures are NaN, and no more. With failed_ridge, both are host
// memory that the device reaches, and stay as they are where no slice fails: the caller sets
// failed_slice to -1, once for many calls, and may read it at any time. A slice that fails writes
// its call's ridge first. Without failed_ridge, each call clears failed_slice by itself.
template <class T>
void density_ratio(const DensityRatioArgs<T>& args, const Execution& execution);
template <class T>
void density_ratio_vjp(const DensityRatioVjpArgs<T>& args, const Execution& execution);
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
