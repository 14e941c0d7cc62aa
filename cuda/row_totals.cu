// Weighted totals over the rows of each slice: one block a slice.
#include "kernels.h"
#include "launch.h"

namespace dpslice::cuda {
namespace {

constexpr int kTotalThreads = 512;

template <class T>
__global__ void __launch_bounds__(kTotalThreads) row_totals_kernel(RowTotalsArgs<T> args) {
  __shared__ double scratch[kTotalThreads / kWarp];
  const int64_t first = blockIdx.x * args.b;
  double total = 0;
#pragma unroll 4
  for (int64_t i = threadIdx.x; i < args.b; i += kTotalThreads) {
    const T weight = args.weights[first + i], row = args.rows[first + i];
    const T kept = kept_row(weight, row);
    // Most rows are as they were: only what is put to zero is written.
    if (weight == T(0) && row != kept) args.rows[first + i] = kept;
    total += weighted_row(weight, kept);
  }
  total = block_sum(total, scratch);
  if (threadIdx.x == 0) args.totals[blockIdx.x] = static_cast<T>(total);
}

}  // namespace

template <class T>
void row_totals(const RowTotalsArgs<T>& args, const Execution& execution) {
  launch(row_totals_kernel<T>, args.m, kTotalThreads, 0, execution, args);
}

DPSLICE_CUDA_INSTANTIATE(row_totals, RowTotalsArgs)

}  // namespace dpslice::cuda
