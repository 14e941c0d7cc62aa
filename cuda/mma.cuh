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
  asm("cvt.rn.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#endif
}
__device__ inline uint32_t tf32_cut(float value) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return ::cuda_emulator::bits_of(value) & 0xffffe000u;
#else
  uint32_t bits;
  asm("cvt.rz.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
#endif
}

// Four matrices [8, 8] of 16-bit numbers from shared memory: lane l gives the address of row l % 8
// of matrix l / 8, of 16 bytes, and gets of matrix i the numbers 2 place, 2 place + 1 of row group.
__device__ inline void load_matrices(uint32_t (&to)[4], const void* row) {
#if defined(DPSLICE_CUDA_EMULATOR)
  ::cuda_emulator::ldmatrix_x4(to, row);
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(address)
               : "memory");
#endif
}

// 16 bytes from global to shared memory, both aligned, without waiting for them.
__device__ inline void copy_async(void* shared, const void* global) {
#if defined(DPSLICE_CUDA_EMULATOR)
  std::memcpy(shared, global, 16);
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(global) : "memory");
#endif
}

// The same for one number of 4 or 8 bytes.
template <class T>
__device__ inline void copy_number_async(T* shared, const T* global) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8);
#if defined(DPSLICE_CUDA_EMULATOR)
  *shared = *global;
#else
  const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(shared));
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

// float16, as bits: the nearest (ties to even) of a float32, and back.
__device__ inline uint16_t half_bits(float value) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return ::cuda_emulator::to_half(value);
#else
  uint16_t bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#endif
}
__device__ inline float half_value(uint16_t bits) {
#if defined(DPSLICE_CUDA_EMULATOR)
  return ::cuda_emulator::from_half(bits);
#else
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#endif
}

}  // namespace dpslice::cuda
