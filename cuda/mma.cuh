// Matrix instructions of a warp, and the copies that feed them. For kernel sources.
//
// Each function is one instruction, for all 32 lanes together. In the layouts below, `group` is
// lane / 4 and `place` is lane % 4.
#pragma once

#include <cstdint>

#include "launch.h"

namespace dpslice::cuda {

// d [16, 8] += a [16, 16] b [16, 8]: products of float16, sums in float32 (rounded towards zero).
//   a[0]: row group,     columns 2 place, 2 place + 1     a[2]: the same row,  columns + 8
//   a[1]: row group + 8, the same columns                 a[3]: row group + 8, columns + 8
//   b[0]: rows 2 place, 2 place + 1 of column group       b[1]: rows + 8
//   d[0], d[1]: row group, columns 2 place, 2 place + 1   d[2], d[3]: row group + 8
// Two numbers share a word, the lower column or row in its lower half.
__device__ inline void multiply_add_f16(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
#if defined(DPSLICE_CUDA_EMULATOR)
  ::cuda_emulator::mma_m16n8k16(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// d [8, 8] += a [8, 4] b [4, 8] in float64.
//   a: row group, column place    b: row place of column group
//   d: row group, columns 2 place, 2 place + 1
__device__ inline void multiply_add_f64(double (&d)[2], double a, double b) {
#if defined(DPSLICE_CUDA_EMULATOR)
  ::cuda_emulator::mma_m8n8k4(d, a, b);
#else
  asm("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
      : "+d"(d[0]), "+d"(d[1])
      : "d"(a), "d"(b));
#endif
}

// The same for 16 rows and a depth of 8.
//   a[2 s + h]: row group + 8 h, column 4 s + place    b[s]: row 4 s + place of column group
//   d[0], d[1]: row group, columns 2 place, 2 place + 1    d[2], d[3]: row group + 8
__device__ inline void multiply_add_f64(double (&d)[4], const double (&a)[4],
                                        const double (&b)[2]) {
#if defined(DPSLICE_CUDA_EMULATOR)
  for (int s = 0; s < 2; ++s)
    for (int h = 0; h < 2; ++h) ::cuda_emulator::mma_m8n8k4(d + 2 * h, a[2 * s + h], b[s]);
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#pragma unroll
  for (int s = 0; s < 2; ++s)
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      double half[2] = {d[2 * h], d[2 * h + 1]};
      multiply_add_f64(half, a[2 * s + h], b[s]);
      d[2 * h] = half[0], d[2 * h + 1] = half[1];
    }
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+d"(d[0]), "+d"(d[1]), "+d"(d[2]), "+d"(d[3])
      : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(b[0]), "d"(b[1]));
#endif
}

// d [16, 8] += a [16, 8] b [8, 8]: products of TF32, which is a float32 whose low 13 bits are not
// looked at; sums in float32 (rounded towards zero).
//   a[0]: row group,     column place    a[2]: the same row,  column place + 4
//   a[1]: row group + 8, column place    a[3]: row group + 8, column place + 4
//   b[0]: row place of column group      b[1]: row place + 4
//   d[0], d[1]: row group, columns 2 place, 2 place + 1    d[2], d[3]: row group + 8
__device__ inline void multiply_add_tf32(float (&d)[4], const uint32_t (&a)[4],
                                         const uint32_t (&b)[2]) {
#if defined(DPSLICE_CUDA_EMULATOR)
  ::cuda_emulator::mma_m16n8k8(d, a, b);
#else
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// A float32 as TF32: the nearest (ties to even), which may be infinite, and what is left of it when
// its last 13 bits are cut off.
__device__ inline uint32_t tf32_near(float value) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return ::cuda_emulator::to_tf32(value);
#else
  uint32_t bits;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));  // ties away from zero
#else
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
#endif
  return bits;
#endif
}
__device__ inline uint32_t tf32_cut(float value) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return ::cuda_emulator::bits_of(value) & 0xffffe000u;
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return __float_as_uint(value) & 0xffffe000u;
#else
  uint32_t bits;
  asm("cvt.rz.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#endif
}

// ------------------------------------------------------------------------ products of four warps
//
// d [64, 128] += a [64, 16] b [128, 16]^T by the 128 threads of four warps, straight from shared
// memory (Hopper's own instruction). Rows of a and b are kStageRow numbers of 16 bits, in pieces of
// 8; piece q of row r lies where piece q ^ (r % 8) would, and the rows start at a multiple of 1024
// bytes. A thread has d[c] = rows 16 warp + group (n < 2) and 8 further (n >= 2), columns
// 8 c + 2 place + n % 2.
//
// The instructions run on while the threads do: between begin_group_products and
// wait_for_group_products<0> nothing may touch d, or write to a and b.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || \
    (defined(DPSLICE_CUDA_EMULATOR) && !defined(DPSLICE_EMULATOR_WARP_PRODUCTS))
constexpr bool kHaveGroupProducts = true;
#else
constexpr bool kHaveGroupProducts = false;
#endif

constexpr int kStageRow = 64;

__device__ inline void begin_group_products() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}
__device__ inline void end_group_products() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Waits until at most `left` of the latest groups are under way.
template <int left>
__device__ inline void wait_for_group_products() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(left) : "memory");
#endif
}
// A register that a product has written meanwhile.
__device__ inline void may_have_changed(float& value) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("" : "+f"(value)::"memory");
#else
  (void)value;
#endif
}
// What this thread has written to shared memory so far is seen by products after the next barrier.
__device__ inline void show_to_group_products() {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// An address in shared memory, in bytes.
#if defined(DPSLICE_CUDA_EMULATOR)
using SharedAddress = char*;
#else
using SharedAddress = unsigned;
#endif
__device__ inline SharedAddress shared_address(const void* shared) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return static_cast<char*>(const_cast<void*>(shared));
#else
  return static_cast<unsigned>(__cvta_generic_to_shared(shared));
#endif
}

// Rows of 128 bytes in shared memory, from some piece on, as the instruction takes them: an address
// in units of 16 bytes, with 1024 bytes from eight rows to the next, and pieces exchanged as above.
struct GroupOperand {
#if defined(DPSLICE_CUDA_EMULATOR)
  const uint16_t* rows;
  int piece;
#else
  uint32_t low;
#endif
  // `numbers` further on, whole rows by eights, and then `pieces`.
  __device__ GroupOperand further(int numbers, int pieces) const {
#if defined(DPSLICE_CUDA_EMULATOR)
    return {rows + numbers, piece + pieces};
#else
    return {low + static_cast<uint32_t>(numbers / 8 + pieces)};
#endif
  }
};

// The same for all lanes of a warp; from its first one, so that the compiler knows.
__device__ inline GroupOperand group_operand(const uint16_t* rows) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return {rows, 0};
#else
  return {__shfl_sync(kWholeWarp, uint32_t{1} << 16 | shared_address(rows) >> 4, 0)};
#endif
}

// `columns` must be 16. With `add` false d is what is multiplied, whatever it was.
template <int columns>
__device__ inline void multiply_add_group(float (&d)[columns][4], GroupOperand a, GroupOperand b,
                                          bool add) {
#if defined(DPSLICE_CUDA_EMULATOR)
  ::cuda_emulator::wgmma_m64n128k16(d, a.rows, a.piece, b.rows, b.piece, add);
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr uint64_t high = uint64_t{1} << 62 | uint64_t{1024 >> 4} << 32;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 "
      "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
      "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
      "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
      "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
      "%64, %65, p, 1, 1, 0, 0;\n"
      "}\n"
      : "+f"(d[0][0]), "+f"(d[0][1]), "+f"(d[0][2]), "+f"(d[0][3]), "+f"(d[1][0]), "+f"(d[1][1]),
        "+f"(d[1][2]), "+f"(d[1][3]), "+f"(d[2][0]), "+f"(d[2][1]), "+f"(d[2][2]), "+f"(d[2][3]),
        "+f"(d[3][0]), "+f"(d[3][1]), "+f"(d[3][2]), "+f"(d[3][3]), "+f"(d[4][0]), "+f"(d[4][1]),
        "+f"(d[4][2]), "+f"(d[4][3]), "+f"(d[5][0]), "+f"(d[5][1]), "+f"(d[5][2]), "+f"(d[5][3]),
        "+f"(d[6][0]), "+f"(d[6][1]), "+f"(d[6][2]), "+f"(d[6][3]), "+f"(d[7][0]), "+f"(d[7][1]),
        "+f"(d[7][2]), "+f"(d[7][3]), "+f"(d[8][0]), "+f"(d[8][1]), "+f"(d[8][2]), "+f"(d[8][3]),
        "+f"(d[9][0]), "+f"(d[9][1]), "+f"(d[9][2]), "+f"(d[9][3]), "+f"(d[10][0]), "+f"(d[10][1]),
        "+f"(d[10][2]), "+f"(d[10][3]), "+f"(d[11][0]), "+f"(d[11][1]), "+f"(d[11][2]),
        "+f"(d[11][3]), "+f"(d[12][0]), "+f"(d[12][1]), "+f"(d[12][2]), "+f"(d[12][3]),
        "+f"(d[13][0]), "+f"(d[13][1]), "+f"(d[13][2]), "+f"(d[13][3]), "+f"(d[14][0]),
        "+f"(d[14][1]), "+f"(d[14][2]), "+f"(d[14][3]), "+f"(d[15][0]), "+f"(d[15][1]),
        "+f"(d[15][2]), "+f"(d[15][3])
      : "l"(high | a.low), "l"(high | b.low), "r"(static_cast<int>(add)));
#else
  (void)d, (void)a, (void)b, (void)add;
#endif
}

// -------------------------------------------------------------------------------- loads and stores

// Four matrices [8, 8] of 16-bit numbers from shared memory: lane l gives the address of row l % 8
// of matrix l / 8, of 16 bytes, and gets of matrix i the numbers 2 place, 2 place + 1 of row group.
__device__ inline void load_matrices(uint32_t (&to)[4], const void* row) {
#if defined(DPSLICE_CUDA_EMULATOR)
  ::cuda_emulator::ldmatrix_x4(to, row);
#else
  const SharedAddress address = shared_address(row);
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

// 16 bytes from global to shared memory, both aligned, without waiting for them.
__device__ inline void copy_async(SharedAddress shared, const void* global) {
#if defined(DPSLICE_CUDA_EMULATOR)
  std::memcpy(shared, global, 16);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
#endif
}
__device__ inline void copy_async(void* shared, const void* global) {
  copy_async(shared_address(shared), global);
}

// The same for one number of 4 or 8 bytes.
template <class T>
__device__ inline void copy_number_async(T* shared, const T* global) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
#if defined(DPSLICE_CUDA_EMULATOR)
  *shared = *global;
#else
  const SharedAddress address = shared_address(shared);
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(global),
               "n"(sizeof(T))
               : "memory");
#endif
}

// Ends a group of copies; a thread can wait until at most `left` of its latest groups are under
// way.
__device__ inline void end_copy_group() {
#if !defined(DPSLICE_CUDA_EMULATOR)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int left>
__device__ inline void wait_for_copies() {
#if !defined(DPSLICE_CUDA_EMULATOR)
  asm volatile("cp.async.wait_group %0;" ::"n"(left) : "memory");
#endif
}

// 16 bytes to an address that is a multiple of 16, at once.
__device__ inline void store_words(void* to, const uint32_t (&words)[4]) {
#if defined(DPSLICE_CUDA_EMULATOR)
  std::memcpy(to, words, 16);
#else
  *static_cast<uint4*>(to) = make_uint4(words[0], words[1], words[2], words[3]);
#endif
}

// Two numbers as float16, the nearest (ties to even), the first in the lower half; and back.
__device__ inline uint32_t half_words(float first, float second) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return ::cuda_emulator::to_half(first) | static_cast<uint32_t>(::cuda_emulator::to_half(second))
                                               << 16;
#else
  uint32_t word;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(second), "f"(first));
  return word;
#endif
}
__device__ inline void half_values(uint32_t word, float* first, float* second) {
#if defined(DPSLICE_CUDA_EMULATOR)
  *first = ::cuda_emulator::half_of_word(word, 0);
  *second = ::cuda_emulator::half_of_word(word, 1);
#else
  asm("{\n.reg .b16 low, high;\n"
      "mov.b32 {low, high}, %2;\n"
      "cvt.f32.f16 %0, low;\n"
      "cvt.f32.f16 %1, high;\n}"
      : "=f"(*first), "=f"(*second)
      : "r"(word));
#endif
}

}  // namespace dpslice::cuda
