// The number of threads that kernels use: OMP_NUM_THREADS at start, then what set_num_threads says.
#pragma once

namespace dpslice {

int num_threads();
void set_num_threads(int threads);

}  // namespace dpslice
