// Rows of any length, sorted.
#pragma once

#include "runtime.h"

namespace dpslice::cuda {

// The values [m, size] of each row, in ascending order; NaN comes first or last, by its sign, and
// -0 as +0, or as it was. And where in its row each was before: of equal values, the first comes
// first. `places` may be null. The memory that it takes meanwhile is that of execution.share_bytes,
// or of a row.
template <class T>
void sort_rows(const T* values, int64_t m, int64_t size, T* sorted, uint32_t* places,
               const Execution& execution);

}  // namespace dpslice::cuda
