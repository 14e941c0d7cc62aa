// DPSLICE_HD marks mathematics that CPU and CUDA sources share: `DPSLICE_HD inline T f(T)`.
//
// On the CPU these functions must be inlined: they are compiled once for each instruction set, and
// an out-of-line copy would be merged by the linker with those of the other instruction sets.
#pragma once

#if defined(__CUDACC__)
#define DPSLICE_HD __host__ __device__
#else
#define DPSLICE_HD __attribute__((always_inline))
#endif
