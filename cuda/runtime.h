// What launchers and bindings need of the CUDA runtime, without kernel syntax.
//
// tests/cuda_emulator compiles the kernel sources for the CPU: with DPSLICE_CUDA_EMULATOR defined,
// this header takes its runtime from there. Only launch.h and device.h beside it know of that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

#if defined(DPSLICE_CUDA_EMULATOR)
#include "cuda_emulator.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace dpslice::cuda {

// Where a kernel runs: the stream, and what the launcher has to know of its device. And how
// exactly: float32 products take both halves of each number, or the higher one alone (see
// products.cu).
struct Execution {
  cudaStream_t stream;
  int multiprocessors;
  size_t shared_limit;  // bytes of shared memory that one block may have
  int halves = 2;
};

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check(cudaError_t error, const char* action) {
  if (error == cudaSuccess) return;
#if defined(DPSLICE_CUDA_EMULATOR)
  const std::string reason = std::to_string(error);
#else
  cudaGetLastError();  // clears it, so that the next call starts afresh
  const std::string reason = cudaGetErrorString(error);
#endif
  throw CudaError(std::string("CUDA could not ") + action + ": " + reason);
}

}  // namespace dpslice::cuda
