// What launchers and bindings need of the CUDA runtime, without kernel syntax.
//
// tests/cuda_emulator compiles the kernel sources for the CPU: with DPSLICE_CUDA_EMULATOR defined,
// this header takes its runtime from there, and CUB is that of there. Beside it only launch.h,
// device.h and mma.cuh know of that.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#if defined(DPSLICE_CUDA_EMULATOR)
#include "cuda_emulator.h"
#else
#include <cuda_runtime_api.h>
#endif

namespace dpslice::cuda {

// Device memory for the workspaces of one call, asked of the arrays' own library, which knows about
// streams and graphs. What a workspace gives back is there for the next: both are used in the order
// of the stream. The memory as a whole is the caller's again once all is launched.
class Memory {
 public:
  using Ask = std::function<uintptr_t(size_t)>;  // the address of so many bytes
  explicit Memory(Ask ask) : ask_(std::move(ask)) {}

  void* take(size_t bytes) {
    bytes = (bytes + kAlign - 1) / kAlign * kAlign;
    for (Block& block : blocks_)
      if (block.size - block.used >= bytes) return block.take(bytes);
    const size_t size = bytes > kLeastBlock ? bytes : kLeastBlock;
    blocks_.push_back({ask_(size), size, 0});
    return blocks_.back().take(bytes);
  }
  // The latest that was taken comes back first.
  void give_back(const void* start) {
    const auto address = reinterpret_cast<uintptr_t>(start);
    for (Block& block : blocks_)
      if (address >= block.start && address < block.start + block.size)
        block.used = address - block.start;
  }

 private:
  static constexpr size_t kAlign = 512, kLeastBlock = size_t{1} << 20;
  struct Block {
    uintptr_t start;
    size_t size, used;
    void* take(size_t bytes) {
      void* const at = reinterpret_cast<void*>(start + used);
      used += bytes;
      return at;
    }
  };
  Ask ask_;
  std::vector<Block> blocks_;
};

// Where a kernel runs: the stream, and what the launcher has to know of its device. And how
// exactly: float32 products take both halves of each number, or the higher one alone (see
// products.cu).
struct Execution {
  cudaStream_t stream;
  int multiprocessors;
  size_t shared_limit;  // bytes of shared memory that one block may have
  int halves = 2;
  // In memory at a time: shares of products, words of a sort, what medians count and collect.
  int64_t share_bytes = int64_t{256} << 20;
  Memory* memory = nullptr;  // only the emulator does without
};

struct CudaError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

inline void check(cudaError_t error, const char* action) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // clears it, so that the next call starts afresh
  throw CudaError(std::string("CUDA could not ") + action + ": " + cudaGetErrorString(error));
}

}  // namespace dpslice::cuda
