// Arguments of project on CUDA. They differ from the CPU's (csrc/project.h): rows are not clipped,
// for only dpslice.kernels.project comes here, and keys travel by value.
#pragma once

#include <cstdint>

#include "common/chacha20.h"

namespace dpslice::cuda {

// XU + sigma * ChaCha20 noise, in float64, rounded to the grid below sigma.
template <class T>
struct ProjectSecureArgs {
  const T* x;           // [n, d]
  const double* frame;  // [d, p]
  double sigma;
  uint32_t key[kChaChaKeyWords];
  uint64_t first_row;  // number of row 0 in the whole release
  T* out;              // [n, p]
  int64_t n, d, p;
};

// The same in T throughout, with Philox noise: for experiments.
template <class T>
struct ProjectFastArgs {
  const T* x;      // [n, d]
  const T* frame;  // [d, p]
  double sigma;
  uint32_t key[2];
  uint64_t first_row;
  T* out;  // [n, p]
  int64_t n, d, p;
};

}  // namespace dpslice::cuda
