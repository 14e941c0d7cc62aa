// project: XU + sigma * noise, in one pass over the output.
#pragma once

#include <cstdint>

#include "isa.h"

namespace dpslice {

// The release of private rows: clipped, projected in float64, ChaCha20 noise, rounded to a grid.
// T is the type of the output. Exactly one of x_float and x_double is given.
template <class T>
struct ProjectSecureArgs {
  const float* x_float;    // [n, d]
  const double* x_double;  // [n, d]
  const double* frame;     // [d, p]
  double sigma;
  const uint32_t* key;  // [8], ChaCha20
  uint64_t first_row;   // number of row 0 in the whole release
  double max_norm;      // may be infinite
  T* out;               // [n, p]
  int64_t n, d, p;
  int64_t*
      bad_row;  // the first row that holds NaN or infinity, else -1; with one, nothing is written
};

// The same without clipping, in T throughout, with Philox noise: for experiments.
template <class T>
struct ProjectFastArgs {
  const T* x;      // [n, d]
  const T* frame;  // [d, p]
  double sigma;
  const uint32_t* key;  // [2], Philox
  uint64_t first_row;
  T* out;  // [n, p]
  int64_t n, d, p;
};

// Normals from given random bits, for tests of their accuracy.
template <class T>
struct SecureNormalsArgs {
  const uint32_t* words;  // [n, 6]
  T* out;                 // [n, 2]
  int64_t n;
};

DPSLICE_DECLARE_KERNEL(project_secure, ProjectSecureArgs)
DPSLICE_DECLARE_KERNEL(project_fast, ProjectFastArgs)
DPSLICE_DECLARE_KERNEL(secure_normals, SecureNormalsArgs)

}  // namespace dpslice
