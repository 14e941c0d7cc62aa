// The one way by which kernels are started, and what their code shares. For kernel sources.
#pragma once

#include <cmath>

#include "common/bits.h"
#include "runtime.h"

namespace dpslice::cuda {

constexpr int kWarp = 32;
constexpr unsigned kWholeWarp = 0xffffffffu;
constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;
// More than 48 KiB has to be asked for, kernel by kernel; kernels have up to 16 KiB besides.
constexpr size_t kUnaskedShared = 32 * 1024;

template <class T>
__device__ inline T* dynamic_shared() {
#if defined(DPSLICE_CUDA_EMULATOR)
  return static_cast<T*>(::cuda_emulator::dynamic_shared());
#else
  extern __shared__ __align__(16) unsigned char dpslice_dynamic_shared[];
  return reinterpret_cast<T*>(dpslice_dynamic_shared);
#endif
}

// The same from the next multiple of `align` bytes on.
template <class T, int align>
__device__ inline T* aligned_shared() {
  const auto start = reinterpret_cast<uintptr_t>(dynamic_shared<T>());
  return reinterpret_cast<T*>((start + align - 1) / align * align);
}

// kernel<<<blocks, threads, shared_bytes, stream>>>(args...)
template <class... Params>
void launch(void (*kernel)(Params...), int64_t blocks, int threads, size_t shared_bytes,
            const Execution& execution, Params... args) {
  if (blocks < 1 || blocks > INT32_MAX)
    throw std::invalid_argument("the arrays need " + std::to_string(blocks) +
                                " CUDA blocks, and a grid has at most 2147483647");
  if (shared_bytes > execution.shared_limit)
    throw CudaError("a kernel needs " + std::to_string(shared_bytes) +
                    " bytes of shared memory, and a block on this device has " +
                    std::to_string(execution.shared_limit));
#if defined(DPSLICE_CUDA_EMULATOR)
  check(::cuda_emulator::launch_error(execution.stream), "start a kernel");
  ::cuda_emulator::run(static_cast<unsigned>(blocks), threads, shared_bytes,
                       [=] { kernel(args...); });
#else
  if (shared_bytes > kUnaskedShared)
    check(cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel),
                               cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          "reserve shared memory");
  // clang-format off
  kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, execution.stream>>>(args...);
  // clang-format on
  check(cudaGetLastError(), "start a kernel");
#endif
}

// Device memory while the launches of a call are made.
template <class T>
class Workspace {
 public:
  Workspace(int64_t size, const Execution& execution) : memory_(execution.memory) {
    const size_t bytes = static_cast<size_t>(size > 0 ? size : 1) * sizeof(T);
#if defined(DPSLICE_CUDA_EMULATOR)
    data_ = static_cast<T*>(memory_ == nullptr ? std::malloc(bytes) : memory_->take(bytes));
    std::memset(static_cast<void*>(data_), 0xff, bytes);
#else
    data_ = static_cast<T*>(memory_->take(bytes));
#endif
  }
  ~Workspace() {
#if defined(DPSLICE_CUDA_EMULATOR)
    if (memory_ == nullptr) {
      std::free(data_);
      return;
    }
#endif
    memory_->give_back(data_);
  }
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  T* data() const { return data_; }

 private:
  Memory* memory_;
  T* data_ = nullptr;
};

__host__ __device__ constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// ------------------------------------------------------------------------------ device functions

// 2^x to two units in the last place; 0 below the normal numbers (float32).
__device__ inline float power_of_two(float x) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return x < -126.0f ? 0.0f : std::exp2(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
__device__ inline double power_of_two(double x) { return exp2(x); }

// What float32 takes of a quotient and of a root within two units in the last place, and where
// Newton's steps start in float64, with 20 bits; without the branches that a / b and sqrt have for
// numbers that are not normal, which must not come here.
__device__ inline float near_quotient(float a, float b) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return a / b;
#else
  float y;
  asm("div.approx.ftz.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
#endif
}
__device__ inline float near_root(float x) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return std::sqrt(x);
#else
  float y;
  asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}
__device__ inline double rough_inverse(double x) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return ::cuda_emulator::upper_word(1.0 / x);
#else
  double y;
  asm("rcp.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return y;
#endif
}
__device__ inline double rough_inverse_root(double x) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return ::cuda_emulator::upper_word(1.0 / std::sqrt(x));
#else
  double y;
  asm("rsqrt.approx.ftz.f64 %0, %1;" : "=d"(y) : "d"(x));
  return y;
#endif
}

// 1 / sqrt(x) to an ulp or two, for x > 0 among the normal numbers.
__device__ inline double reciprocal_root(double x) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return 1 / std::sqrt(x);
#else
  const double y = rough_inverse_root(x);
  const double error = fma(-x * y, y, 1.0);  // about 2^-20; what is left is its cube
  return fma(y * error, fma(0.375, error, 0.5), y);
#endif
}

// A double as two words, and back.
__device__ inline int32_t high_word(double x) {
  return static_cast<int32_t>(bits_as<uint64_t>(x) >> 32);
}
__device__ inline int32_t low_word(double x) { return static_cast<int32_t>(bits_as<uint64_t>(x)); }
__device__ inline double double_of_words(int32_t high, int32_t low) {
  return bits_as<double>(static_cast<uint64_t>(static_cast<uint32_t>(high)) << 32 |
                         static_cast<uint32_t>(low));
}

// Of one-dimensional blocks.
__device__ inline int warp_index() { return static_cast<int>(threadIdx.x) / kWarp; }
__device__ inline int lane_index() { return static_cast<int>(threadIdx.x) % kWarp; }
__device__ inline int warps() { return static_cast<int>(blockDim.x) / kWarp; }

// Sums and maxima over groups of 2, 4, ..., 32 neighbouring lanes; all lanes get the result.
template <int lanes, class T>
__device__ inline T lane_sum(T value) {
#pragma unroll
  for (int step = lanes / 2; step > 0; step /= 2) value += __shfl_xor_sync(kWholeWarp, value, step);
  return value;
}
template <int lanes, class T>
__device__ inline T lane_max(T value) {
#pragma unroll
  for (int step = lanes / 2; step > 0; step /= 2) {
    const T other = __shfl_xor_sync(kWholeWarp, value, step);
    value = other > value ? other : value;
  }
  return value;
}

// Over the whole block; `scratch` is shared memory of one T per warp. Barriers before and after.
template <class T>
__device__ inline T block_sum(T value, T* scratch) {
  value = lane_sum<kWarp>(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  T total = T(0);
  for (unsigned w = 0; w < blockDim.x / kWarp; ++w) total += scratch[w];
  __syncthreads();
  return total;
}
template <class T>
__device__ inline T block_max(T value, T* scratch) {
  value = lane_max<kWarp>(value);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) scratch[threadIdx.x / kWarp] = value;
  __syncthreads();
  T best = scratch[0];
  for (unsigned w = 1; w < blockDim.x / kWarp; ++w) best = scratch[w] > best ? scratch[w] : best;
  __syncthreads();
  return best;
}

}  // namespace dpslice::cuda
