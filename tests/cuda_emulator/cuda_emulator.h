// Runs CUDA kernel sources on the CPU, for tests: enough of the language and of the runtime to
// compile the files of cuda/ with a C++20 compiler, unchanged.
//
// The blocks of a grid run one after the other, the last one first with DPSLICE_EMULATOR_REVERSED;
// the threads of a block are one of two things:
//   fibers (the default): all on one thread of the operating system, switched at barriers. Quick.
//   threads (DPSLICE_EMULATOR_THREADS): real ones, which ThreadSanitizer can watch: two that touch
//     the same shared number without a barrier between them are reported as a race.
//
// `__shared__` variables are static: one copy, which is right as one block runs at a time.
// Dynamic shared memory is a heap block of exactly the size asked for, so that AddressSanitizer
// sees what lies beyond it. Both are filled with NaN bytes or left as the last block left them,
// never zeroed. Warp functions take part with all 32 lanes: the mask is not looked at.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>
#if !defined(DPSLICE_EMULATOR_THREADS)
#include <setjmp.h>
#include <ucontext.h>
#endif

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __restrict__
#define __shared__ static
#define __launch_bounds__(...)

namespace cuda_emulator {

constexpr int kWarp = 32;

struct Index {
  unsigned x = 0, y = 0, z = 0;
};

struct Block;

struct Thread {
  Index thread, block, block_dim, grid_dim;
  Block* home = nullptr;
#if !defined(DPSLICE_EMULATOR_THREADS)
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  const unsigned* awaited = nullptr;  // a barrier's generation: nothing to do while it is `seen`
  unsigned seen = 0;
  bool done = false;
#if !defined(__SANITIZE_ADDRESS__)
  jmp_buf place;
  bool started = false;
#endif
#endif
};

inline thread_local Thread* current = nullptr;
inline Thread& self() { return *current; }

// ------------------------------------------------------------------------------------- barriers

#if defined(DPSLICE_EMULATOR_THREADS)

class Barrier {
 public:
  void start(int members) {
    members_ = members;
    arrived_ = 0;
  }
  void wait() {
    unsigned seen;
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (++arrived_ >= members_) return release();
      seen = generation_.load(std::memory_order_relaxed);
    }
    generation_.wait(seen, std::memory_order_acquire);
  }
  void leave() {  // a thread that has returned from the kernel is waited for no more
    const std::lock_guard<std::mutex> lock(mutex_);
    --members_;
    if (members_ > 0 && arrived_ >= members_) release();
  }

 private:
  void release() {
    arrived_ = 0;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
  }
  std::mutex mutex_;
  int members_ = 0, arrived_ = 0;
  std::atomic<unsigned> generation_{0};
};

#else

void yield();

class Barrier {
 public:
  void start(int members) {
    members_ = members;
    arrived_ = 0;
  }
  void wait() {
    if (++arrived_ >= members_) return release();
    Thread& me = self();
    me.awaited = &generation_;
    me.seen = generation_;
    while (generation_ == me.seen) yield();
    me.awaited = nullptr;
  }
  void leave() {
    --members_;
    if (members_ > 0 && arrived_ >= members_) release();
  }

 private:
  void release() {
    arrived_ = 0;
    ++generation_;
  }
  int members_ = 0, arrived_ = 0;
  unsigned generation_ = 0;
};

#endif

constexpr int kSlotWords = 8;  // of 8 bytes: as much as one lane shows the others at a time

struct Warp {
  Barrier barrier;
  uint64_t slot[kWarp][kSlotWords];
};

struct Block {
  Barrier barrier;
  std::vector<Warp> warps;
  std::unique_ptr<unsigned char[]> dynamic;

  explicit Block(int threads) : warps((threads + kWarp - 1) / kWarp) {}
  void start(int threads, size_t dynamic_bytes) {
    barrier.start(threads);
    for (size_t w = 0; w < warps.size(); ++w) {
      const int rest = threads - static_cast<int>(w) * kWarp;
      warps[w].barrier.start(rest < kWarp ? rest : kWarp);
    }
    dynamic.reset(new unsigned char[dynamic_bytes]);
    std::memset(dynamic.get(), 0xff, dynamic_bytes);
  }
  void leave(unsigned thread) {
    warps[thread / kWarp].barrier.leave();
    barrier.leave();
  }
};

// -------------------------------------------------------------------------------------- running

inline int number_from_environment(const char* name, int otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoi(text);
}

// The block that runs as number `at`: in their order, or in the reverse.
inline unsigned block_at(unsigned at, unsigned blocks) {
  return number_from_environment("DPSLICE_EMULATOR_REVERSED", 0) != 0 ? blocks - 1 - at : at;
}

#if defined(DPSLICE_EMULATOR_THREADS)

inline void run(unsigned blocks, int threads, size_t dynamic_bytes,
                const std::function<void()>& kernel) {
  Block block(threads);
  Barrier between;
  between.start(threads);
  block.start(threads, dynamic_bytes);
  std::vector<std::thread> crew;
  for (int t = 0; t < threads; ++t)
    crew.emplace_back([&, t] {
      Thread me;
      me.thread.x = static_cast<unsigned>(t);
      me.block_dim = {static_cast<unsigned>(threads), 1, 1};
      me.grid_dim = {blocks, 1, 1};
      me.home = &block;
      current = &me;
      for (unsigned b = 0; b < blocks; ++b) {
        me.block.x = block_at(b, blocks);
        kernel();
        block.leave(me.thread.x);
        between.wait();
        if (t == 0) block.start(threads, dynamic_bytes);
        between.wait();
      }
      current = nullptr;
    });
  for (std::thread& one : crew) one.join();
}

#else

constexpr size_t kFiberStack = 128 * 1024;

struct Scheduler {
  ucontext_t context;
#if !defined(__SANITIZE_ADDRESS__)
  jmp_buf place;
#endif
  const std::function<void()>* kernel = nullptr;
};
inline thread_local Scheduler scheduler;

#if defined(__SANITIZE_ADDRESS__)  // which has to know of every switch

inline void yield() { swapcontext(&self().context, &scheduler.context); }
inline void resume(Thread& one) { swapcontext(&scheduler.context, &one.context); }

#else  // a context is for the start alone: switching it asks the system for the signal mask

[[gnu::noinline]] inline void yield() {
  if (_setjmp(self().place) == 0) _longjmp(scheduler.place, 1);
}
[[gnu::noinline]] inline void resume(Thread& one) {
  if (_setjmp(scheduler.place) != 0) return;
  if (one.started) _longjmp(one.place, 1);
  one.started = true;
  setcontext(&one.context);
}

#endif

inline void fiber_main() {
  (*scheduler.kernel)();
  Thread& me = self();
  me.home->leave(me.thread.x);
  me.done = true;
  yield();
}

inline void run_block(Index index, Index grid, std::vector<Thread>& crew, Block& block) {
  const unsigned threads = static_cast<unsigned>(crew.size());
  for (unsigned t = 0; t < threads; ++t) {
    Thread& one = crew[t];
    one.thread.x = t;
    one.block = index;
    one.block_dim = {threads, 1, 1};
    one.grid_dim = grid;
    one.home = &block;
    one.awaited = nullptr;
    one.done = false;
#if !defined(__SANITIZE_ADDRESS__)
    one.started = false;
#endif
    getcontext(&one.context);
    one.context.uc_stack.ss_sp = one.stack.get();
    one.context.uc_stack.ss_size = kFiberStack;
    one.context.uc_link = nullptr;
    makecontext(&one.context, fiber_main, 0);
  }
  for (unsigned left = threads; left > 0;)
    for (Thread& one : crew) {
      if (one.done || (one.awaited != nullptr && *one.awaited == one.seen)) continue;
      current = &one;
      resume(one);
      if (one.done) --left;
    }
}

inline void run(unsigned blocks, int threads, size_t dynamic_bytes,
                const std::function<void()>& kernel) {
  Block block(threads);
  std::vector<Thread> crew(static_cast<size_t>(threads));
  for (Thread& one : crew) one.stack.reset(new char[kFiberStack]);
  scheduler.kernel = &kernel;
  for (unsigned b = 0; b < blocks; ++b) {
    block.start(threads, dynamic_bytes);
    run_block({block_at(b, blocks), 0, 0}, {blocks, 1, 1}, crew, block);
  }
  current = nullptr;
}

#endif

inline void* dynamic_shared() { return self().home->dynamic.get(); }

// Shows `value` to the other lanes; read(of) with of(lane) what that lane showed.
template <class T, class Read>
void show(const T& value, Read&& read) {
  static_assert(sizeof(T) <= kSlotWords * sizeof(uint64_t));
  Warp& warp = self().home->warps[self().thread.x / kWarp];
  std::memcpy(warp.slot[self().thread.x % kWarp], &value, sizeof value);
  warp.barrier.wait();
  read([&](int lane) {
    T found;
    std::memcpy(&found, warp.slot[lane], sizeof found);
    return found;
  });
  warp.barrier.wait();
}

template <class T>
T exchange(T value, int source) {
  T found;
  show(value, [&](auto&& of) { found = of(source); });
  return found;
}

// ------------------------------------------------------------------------- matrix instructions

inline uint16_t to_half(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  const uint32_t sign = bits >> 16 & 0x8000u;
  const float size = std::fabs(value);
  if (std::isnan(value)) return static_cast<uint16_t>(sign | 0x7e00u);
  if (size >= 65520.0f) return static_cast<uint16_t>(sign | 0x7c00u);
  if (size == 0.0f) return static_cast<uint16_t>(sign);
  const int exponent = std::max(std::ilogb(size), -14);
  // In units of the last place; the rounding may carry into the exponent, as it should.
  const uint32_t units = static_cast<uint32_t>(std::nearbyint(std::ldexp(size, 10 - exponent)));
  return static_cast<uint16_t>(sign | ((static_cast<uint32_t>(exponent + 14) << 10) + units));
}

inline float value_of_half(uint16_t bits) {
  const int exponent = bits >> 10 & 31, units = bits & 1023;
  const float size = exponent == 31  ? (units == 0 ? INFINITY : NAN)
                     : exponent == 0 ? std::ldexp(static_cast<float>(units), -24)
                                     : std::ldexp(static_cast<float>(1024 + units), exponent - 25);
  return (bits & 0x8000u) != 0 ? -size : size;
}

inline const std::vector<float> halves = [] {
  std::vector<float> values(1u << 16);
  for (size_t bits = 0; bits < values.size(); ++bits)
    values[bits] = value_of_half(static_cast<uint16_t>(bits));
  return values;
}();

inline float from_half(uint16_t bits) { return halves[bits]; }

inline float half_of_word(uint32_t word, int which) {
  return from_half(static_cast<uint16_t>(word >> (16 * which)));
}

// Sums are rounded to nearest after each product, not towards zero after each instruction.
// The column of a, and the row of b, number l is in register 2 right (+ 1 for the lower rows) of
// the lanes at `place`: where(l, place, right); number(word, l) reads it.
template <class Where, class Number>
void mma_m16n8(int depth, float* d, const uint32_t* a, const uint32_t* b, Where&& where,
               Number&& number) {
  struct Operands {
    uint32_t a[4], b[2];
  } own;
  std::memcpy(own.a, a, sizeof own.a);
  std::memcpy(own.b, b, sizeof own.b);
  const int lane = static_cast<int>(self().thread.x % kWarp);
  show(own, [&](auto&& of) {
    for (int l = 0; l < depth; ++l) {
      int place, right;
      where(l, place, right);
      const Operands row = of(lane / 4 * 4 + place);
      for (int column = 0; column < 2; ++column) {
        const float v = number(of((lane % 4 * 2 + column) * 4 + place).b[right], l);
        d[column] += number(row.a[2 * right], l) * v;
        d[2 + column] += number(row.a[2 * right + 1], l) * v;
      }
    }
  });
}

inline void mma_m16n8k16(float* d, const uint32_t* a, const uint32_t* b) {
  mma_m16n8(
      16, d, a, b, [](int l, int& place, int& right) { place = l % 8 / 2, right = l / 8; },
      [](uint32_t word, int l) { return half_of_word(word, l % 2); });
}

// One number of the 16 from `piece` on, of a row whose pieces of 8 are exchanged.
inline float stage_number(const uint16_t* rows, int row, int piece, int k) {
  return from_half(rows[row * 64 + ((piece + k / 8) ^ (row % 8)) * 8 + k % 8]);
}

inline void wgmma_m64n128k16(float (*d)[4], const uint16_t* a, int a_piece, const uint16_t* b,
                             int b_piece, bool add) {
  const int thread = static_cast<int>(self().thread.x % 128), lane = thread % kWarp;
  for (int c = 0; c < 16; ++c)
    for (int n = 0; n < 4; ++n) {
      const int row = thread / kWarp * 16 + lane / 4 + n / 2 * 8,
                column = 8 * c + lane % 4 * 2 + n % 2;
      float sum = add ? d[c][n] : 0.0f;
      for (int k = 0; k < 16; ++k)
        sum += stage_number(a, row, a_piece, k) * stage_number(b, column, b_piece, k);
      d[c][n] = sum;
    }
}

inline void mma_m8n8k4(double* d, double a, double b) {
  struct Operands {
    double a, b;
  };
  const int lane = static_cast<int>(self().thread.x % kWarp);
  show(Operands{a, b}, [&](auto&& of) {
    for (int l = 0; l < 4; ++l)
      for (int column = 0; column < 2; ++column)
        d[column] += of(lane / 4 * 4 + l).a * of((lane % 4 * 2 + column) * 4 + l).b;
  });
}

// A number without the lower half of its bits.
inline double upper_word(double value) {
  uint64_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  bits &= ~uint64_t{0xffffffffu};
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}
inline uint32_t to_tf32(float value) {
  const uint32_t bits = bits_of(value);
  return std::isnan(value) ? bits : (bits + 0xfffu + (bits >> 13 & 1u)) & 0xffffe000u;
}

inline float from_tf32(uint32_t bits) {
  float value;
  bits &= 0xffffe000u;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

inline void mma_m16n8k8(float* d, const uint32_t* a, const uint32_t* b) {
  mma_m16n8(
      8, d, a, b, [](int l, int& place, int& right) { place = l % 4, right = l / 4; },
      [](uint32_t word, int) { return from_tf32(word); });
}

inline void ldmatrix_x4(uint32_t* to, const void* row) {
  struct Row {
    uint16_t at[8];
  } own;
  std::memcpy(&own, row, sizeof own);
  const int lane = static_cast<int>(self().thread.x % kWarp);
  show(own, [&](auto&& of) {
    for (int i = 0; i < 4; ++i) {
      const Row found = of(8 * i + lane / 4);
      std::memcpy(&to[i], &found.at[2 * (lane % 4)], sizeof to[i]);
    }
  });
}

}  // namespace cuda_emulator

// ------------------------------------------------------------------------------------- language

#define threadIdx (::cuda_emulator::self().thread)
#define blockIdx (::cuda_emulator::self().block)
#define blockDim (::cuda_emulator::self().block_dim)
#define gridDim (::cuda_emulator::self().grid_dim)

inline void __syncthreads() { cuda_emulator::self().home->barrier.wait(); }
inline void __syncwarp(unsigned = 0xffffffffu) {
  cuda_emulator::self().home->warps[threadIdx.x / 32].barrier.wait();
}

template <class T>
T __shfl_xor_sync(unsigned, T value, int bits) {
  return cuda_emulator::exchange(value, static_cast<int>(threadIdx.x % 32) ^ bits);
}
template <class T>
T __shfl_sync(unsigned, T value, int lane) {
  return cuda_emulator::exchange(value, lane);
}
template <class T>
T __shfl_down_sync(unsigned, T value, int distance) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  return cuda_emulator::exchange(value, lane + distance < 32 ? lane + distance : lane);
}
inline unsigned __ballot_sync(unsigned, bool vote) {
  unsigned votes = 0;
  cuda_emulator::show(vote, [&](auto&& of) {
    for (int lane = 0; lane < 32; ++lane) votes |= static_cast<unsigned>(of(lane)) << lane;
  });
  return votes;
}
inline int __ffs(int word) { return __builtin_ffs(word); }
inline int __ffsll(long long word) { return __builtin_ffsll(word); }

// Nobody reads what a kernel writes before it is over.
inline void __threadfence_system() {}
// Blocks run one after the other.
inline void __threadfence() {}

template <class T>
T atomicAdd(T* to, T value) {
  T seen = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(to, &seen, seen + value, true, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  return seen;
}
template <class T>
T atomicMin(T* to, T value) {
  T seen = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (value < seen &&
         !__atomic_compare_exchange_n(to, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}

template <class T>
T atomicMax(T* to, T value) {
  T seen = __atomic_load_n(to, __ATOMIC_RELAXED);
  while (value > seen &&
         !__atomic_compare_exchange_n(to, &seen, value, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
  return seen;
}

// -------------------------------------------------------------------------------------- runtime

namespace cuda_emulator {

inline int64_t share_bytes(int64_t otherwise) {
  return number_from_environment("DPSLICE_EMULATOR_SHARES", static_cast<int>(otherwise));
}

inline thread_local int current_device = 0;

}  // namespace cuda_emulator

// Streams have no work to keep in order; which device one belongs to shows in its address: n + 1 in
// the last four bits. Address 0 is the default stream of whatever device is current.
using cudaStream_t = struct CUstream_st*;

enum cudaError_t : int {
  cudaSuccess = 0,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorInvalidDevice = 101,
  cudaErrorInvalidResourceHandle = 400,
};
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
  cudaDevAttrMultiProcessorCount,
  cudaDevAttrMaxSharedMemoryPerBlockOptin,
};

inline const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess: return "no error";
    case cudaErrorMemoryAllocation: return "out of memory";
    case cudaErrorNoDevice: return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice: return "invalid device ordinal";
    case cudaErrorInvalidResourceHandle: return "invalid resource handle";
  }
  return "unknown error";
}
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDeviceCount(int* count) {
  *count = cuda_emulator::number_from_environment("DPSLICE_EMULATOR_DEVICES", 1);
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}
inline cudaError_t cudaGetDevice(int* device) {
  int count = 0;
  *device = cuda_emulator::current_device;
  return cudaGetDeviceCount(&count);
}
inline cudaError_t cudaSetDevice(int device) {
  int count = 0;
  cudaGetDeviceCount(&count);
  if (device < 0 || device >= count) return cudaErrorInvalidDevice;
  cuda_emulator::current_device = device;
  return cudaSuccess;
}
// Host memory is within the kernels' reach anyway.
enum cudaStreamCaptureMode { cudaStreamCaptureModeRelaxed };
constexpr unsigned cudaHostAllocPortable = 1;
inline cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) {
  return cudaSuccess;
}
inline cudaError_t cudaHostAlloc(void** start, size_t bytes, unsigned) {
  const bool room = cuda_emulator::number_from_environment("DPSLICE_EMULATOR_PINNED", 1) != 0;
  *start = room ? std::malloc(bytes) : nullptr;
  return room ? cudaSuccess : cudaErrorMemoryAllocation;
}
// All devices are alike, and small, so that few numbers reach past what they have.
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  const int capability = cuda_emulator::number_from_environment("DPSLICE_EMULATOR_CAPABILITY", 90);
  switch (which) {
    case cudaDevAttrComputeCapabilityMajor: *value = capability / 10; break;
    case cudaDevAttrComputeCapabilityMinor: *value = capability % 10; break;
    case cudaDevAttrMultiProcessorCount:
      *value = cuda_emulator::number_from_environment("DPSLICE_EMULATOR_SMS", 4);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = cuda_emulator::number_from_environment("DPSLICE_EMULATOR_SHARED", 99 * 1024);
      break;
  }
  return cudaSuccess;
}

namespace cuda_emulator {

// What a launch says of its stream.
inline cudaError_t launch_error(cudaStream_t stream) {
  const auto address = reinterpret_cast<uintptr_t>(stream);
  const bool at_home = address == 0 || static_cast<int>(address % 16) == current_device + 1;
  return at_home ? cudaSuccess : cudaErrorInvalidResourceHandle;
}

}  // namespace cuda_emulator
