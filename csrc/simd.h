// Vectors of float and double, as wide as the instruction set of this compilation.
//
// GCC's and Clang's vector extensions carry the arithmetic, so a kernel is written once; only the
// few operations that they lack are spelled out here.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
// GCC 12 takes its own undefined operands for mistakes. Clang does not know the first warning.
#pragma GCC diagnostic push
#ifndef __clang__
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef DPSLICE_ISA
#error "simd.h is for kernel sources, which are compiled with DPSLICE_ISA set"
#endif

namespace dpslice::DPSLICE_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64, kVectorRegisters = 32;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32, kVectorRegisters = 16;
#elif defined(__aarch64__)
constexpr int kVectorBytes = 16, kVectorRegisters = 32;
#else
constexpr int kVectorBytes = 16, kVectorRegisters = 16;
#endif

template <class T>
struct SimdTypes;
template <>
struct SimdTypes<float> {
  typedef float Vec __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Int __attribute__((vector_size(kVectorBytes)));
  using Bits = int32_t;
};
template <>
struct SimdTypes<double> {
  typedef double Vec __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Int __attribute__((vector_size(kVectorBytes)));
  using Bits = int64_t;
};

template <class T>
using Vec = typename SimdTypes<T>::Vec;
template <class T>
using VecInt = typename SimdTypes<T>::Int;

template <class T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));

// The least multiple of the vector length that holds `size` numbers.
template <class T>
constexpr int64_t padded(int64_t size) {
  return (size + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
}

template <class T>
inline Vec<T> splat(T value) {
  return value - Vec<T>{};  // not value + 0, which would turn -0 into 0
}

// Unaligned.
template <class T>
inline Vec<T> load(const T* from) {
  Vec<T> v;
  std::memcpy(&v, from, sizeof v);
  return v;
}
template <class T>
inline void store(T* to, Vec<T> v) {
  std::memcpy(to, &v, sizeof v);
}

// The first `count` lanes; the others read as `rest`.
template <class T>
inline Vec<T> load_first(const T* from, int count, T rest = T(0)) {
  Vec<T> v = splat(rest);
  for (int lane = 0; lane < count; ++lane) v[lane] = from[lane];
  return v;
}
template <class T>
inline void store_first(T* to, Vec<T> v, int count) {
  for (int lane = 0; lane < count; ++lane) to[lane] = v[lane];
}

// The larger and the smaller of two numbers, as one instruction where there is one: of a NaN and a
// number, `b`, as a > b ? a : b says.
template <class T>
inline Vec<T> vmax(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_max_ps(a, b);
  if constexpr (sizeof(T) == 8) return _mm512_max_pd(a, b);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return _mm256_max_ps(a, b);
  if constexpr (sizeof(T) == 8) return _mm256_max_pd(a, b);
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4) return _mm_max_ps(a, b);
  if constexpr (sizeof(T) == 8) return _mm_max_pd(a, b);
#else
  return a > b ? a : b;
#endif
}
template <class T>
inline Vec<T> vmin(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_min_ps(a, b);
  if constexpr (sizeof(T) == 8) return _mm512_min_pd(a, b);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return _mm256_min_ps(a, b);
  if constexpr (sizeof(T) == 8) return _mm256_min_pd(a, b);
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4) return _mm_min_ps(a, b);
  if constexpr (sizeof(T) == 8) return _mm_min_pd(a, b);
#else
  return a < b ? a : b;
#endif
}

// Sum and maximum over lanes, by halving: the order is fixed for a given instruction set.
template <class T>
inline T sum_lanes(Vec<T> v) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_reduce_add_ps(v);
  if constexpr (sizeof(T) == 8) return _mm512_reduce_add_pd(v);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
  } else {
    const __m128d two = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(two, _mm_unpackhi_pd(two, two)));
  }
#else
  T lane[kLanes<T>];
  store(lane, v);
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
#endif
}
// Sum over lanes, in float64, by halving too.
template <class T>
inline double lane_total(Vec<T> v) {
  if constexpr (sizeof(T) == 8) return sum_lanes<T>(v);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4)
    return sum_lanes<double>(_mm512_cvtps_pd(_mm512_castps512_ps256(v)) +
                             _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1)));
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4)
    return sum_lanes<double>(_mm256_cvtps_pd(_mm256_castps256_ps128(v)) +
                             _mm256_cvtps_pd(_mm256_extractf128_ps(v, 1)));
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4)
    return sum_lanes<double>(vcvt_f64_f32(vget_low_f32(v)) + vcvt_high_f64_f32(v));
#endif
  T lane[kLanes<T>];
  store(lane, v);
  double total[kLanes<T>];
  for (int i = 0; i < kLanes<T>; ++i) total[i] = lane[i];
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) total[i] += total[i + width];
  return total[0];
}

template <class T>
inline T max_lanes(Vec<T> v) {
  T lane[kLanes<T>];
  store(lane, v);
  T best = lane[0];
  for (int i = 1; i < kLanes<T>; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}

// Lanes of both in turn: a0 b0 a1 b1 ..., `first` and then `second`.
template <class T>
inline void interleave(Vec<T> a, Vec<T> b, Vec<T>* first, Vec<T>* second) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) {
    const __m512i low = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    *first = _mm512_permutex2var_ps(a, low, b);
    *second = _mm512_permutex2var_ps(a, _mm512_add_epi32(low, _mm512_set1_epi32(8)), b);
  } else {
    const __m512i low = _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11);
    *first = _mm512_permutex2var_pd(a, low, b);
    *second = _mm512_permutex2var_pd(a, _mm512_add_epi64(low, _mm512_set1_epi64(4)), b);
  }
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) {
    const __m256 low = _mm256_unpacklo_ps(a, b), high = _mm256_unpackhi_ps(a, b);
    *first = _mm256_permute2f128_ps(low, high, 0x20);
    *second = _mm256_permute2f128_ps(low, high, 0x31);
  } else {
    const __m256d low = _mm256_unpacklo_pd(a, b), high = _mm256_unpackhi_pd(a, b);
    *first = _mm256_permute2f128_pd(low, high, 0x20);
    *second = _mm256_permute2f128_pd(low, high, 0x31);
  }
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4) {
    *first = vzip1q_f32(a, b);
    *second = vzip2q_f32(a, b);
  } else {
    *first = vzip1q_f64(a, b);
    *second = vzip2q_f64(a, b);
  }
#else
  *first = *second = Vec<T>{};  // GCC 16 does not see that the loop sets every lane
  for (int lane = 0; lane < kLanes<T>; ++lane) {
    Vec<T>& to = 2 * lane < kLanes<T> ? *first : *second;
    to[2 * lane % kLanes<T>] = a[lane];
    to[2 * lane % kLanes<T> + 1] = b[lane];
  }
#endif
}

// ------------------------------------------------------------------------------------- exponential
//
// Kernels count in powers of two: the factor log2(e) belongs into what multiplies a squared
// distance anyway, and is then for free.
//
// 2^t = 2^n 2^f with n the multiple of 1 / steps nearest t and |f| <= 1 / (2 steps), both exact,
// for steps = 2^kStepBits. 2^f = 1 + f q(f), with q from tests/tools/exp2_coefficients.py. In all
// the error is below 1.2 units in the last place (tests/test_isa.py). Adding 1.5 * 2^kMantissa /
// steps rounds to such a multiple and leaves steps * n in the low bits. With one step these,
// shifted into the exponent, make 2^n. AVX-512 looks up sixteen numbers in one instruction: there
// the low four bits choose a power of two between 1 and 2, and a polynomial of half the degree
// is enough.
//
// Up to kLowest the result is 0, which takes no instruction of its own: there f = 0 and the
// exponent comes out as that of zero. (Between kLowest and kLowest + 1, where 2^t is subnormal, the
// result is only somewhere between zero and the least normal number.) Arguments are expected to be
// at most kHighest. NaN gives NaN.

template <class T>
struct Exp2Constants;
template <>
struct Exp2Constants<float> {
  static constexpr float kLowest = -127, kHighest = 127;
  static constexpr int kMantissa = 23;
#if defined(__AVX512F__)
  static constexpr int kStepBits = 4, kTerms = 3;
  // Relative error 2.3e-9; highest degree first.
  static constexpr float kQ[kTerms] = {0.0555050852519696268f, 0.240233551569887209f,
                                       0.693147180559945309f};
#else
  static constexpr int kStepBits = 0, kTerms = 6;
  // Relative error 5e-9; highest degree first.
  static constexpr float kQ[kTerms] = {0.000154531629451206902f, 0.00133908633646712344f,
                                       0.00961808255727785149f,  0.0555035711421907782f,
                                       0.240226507605681269f,    0.693147188026228781f};
#endif
};
template <>
struct Exp2Constants<double> {
  static constexpr double kLowest = -1023, kHighest = 1023;
  static constexpr int kMantissa = 52;
#if defined(__AVX512F__)
  static constexpr int kStepBits = 4, kTerms = 6;
  // Relative error 1.4e-17; highest degree first.
  static constexpr double kQ[kTerms] = {0.000154037239807492564, 0.00133337815767842687,
                                        0.00961812910691953787,  0.0555041086566392989,
                                        0.240226506959100751,    0.693147180559945753};
#else
  static constexpr int kStepBits = 0, kTerms = 11;
  // Relative error 8e-18; highest degree first.
  static constexpr double kQ[kTerms] = {
      4.45496059818651839e-10, 7.0725859492692237e-9,    1.01780624458457735e-7,
      1.32154425879216897e-6,  0.0000152527338298361184, 0.000154035304417360502,
      0.00133335581464169353,  0.00961812910760688853,   0.0555041086648215943,
      0.240226506959100982,    0.693147180559945309};
#endif
};

// Added to a number much smaller and taken off again, it rounds to a multiple of 2^-bits.
template <class T>
constexpr T rounding_term(int bits) {
  return static_cast<T>(3ll << (Exp2Constants<T>::kMantissa - 1 - bits));
}

#if defined(__AVX512F__)
// Bits of 2^(j / 16), less j << (kMantissa - 4). The number `shifted` ends in 16 n, whose low four
// bits are j; moved up, its whole part lands in the exponent, and j at the top of the mantissa,
// where the table takes it off again.
struct Exp2Table {
  int32_t narrow[16];
  int64_t wide[16];

  constexpr Exp2Table() : narrow{}, wide{} {
    constexpr double kPowers[16] = {1.0,
                                    1.0442737824274138403,
                                    1.0905077326652576592,
                                    1.1387886347566916537,
                                    1.1892071150027210667,
                                    1.2418578120734840486,
                                    1.2968395546510096659,
                                    1.3542555469368927283,
                                    1.4142135623730950488,
                                    1.4768261459394993114,
                                    1.5422108254079408236,
                                    1.6104903319492543082,
                                    1.6817928305074290861,
                                    1.7562521603732994831,
                                    1.8340080864093424635,
                                    1.9152065613971472939};
    for (int j = 0; j < 16; ++j) {
      narrow[j] = std::bit_cast<int32_t>(static_cast<float>(kPowers[j])) - (j << (23 - 4));
      wide[j] = std::bit_cast<int64_t>(kPowers[j]) - (int64_t{j} << (52 - 4));
    }
  }
};
alignas(64) constexpr Exp2Table kExp2Table;
#endif

// The argument in two parts: f, and n as `shifted`.
template <class T>
struct Exp2Argument {
  using C = Exp2Constants<T>;
  Vec<T> shifted, f;

  inline __attribute__((always_inline)) explicit Exp2Argument(Vec<T> t) {
    constexpr T kRound = rounding_term<T>(C::kStepBits);
    const Vec<T> bounded = vmax<T>(splat(C::kLowest), t);  // in this order NaN passes
    shifted = bounded + kRound;
    f = bounded - (shifted - kRound);
  }
  // 2^n (1 + f q)
  inline __attribute__((always_inline)) Vec<T> power(Vec<T> q) const {
    // Casts of vectors keep the bits.
    const VecInt<T> exponent = (VecInt<T>)shifted << (C::kMantissa - C::kStepBits);
#if defined(__AVX512F__)
    const __m512i at = (__m512i)shifted;
    __m512i step;
    if constexpr (sizeof(T) == 4)
      step = _mm512_permutexvar_epi32(at, _mm512_load_si512(kExp2Table.narrow));
    else
      step = _mm512_permutex2var_epi64(_mm512_load_si512(kExp2Table.wide), at,
                                       _mm512_load_si512(kExp2Table.wide + 8));
    const Vec<T> whole = (Vec<T>)((VecInt<T>)step + exponent);
    return whole * (f * q) + whole;
#else
    return (Vec<T>)((VecInt<T>)(q * f + T(1)) + exponent);
#endif
  }
};

template <class T>
inline __attribute__((always_inline)) Vec<T> vexp2(Vec<T> t) {
  using C = Exp2Constants<T>;
  const Exp2Argument<T> x(t);
  Vec<T> q = splat(C::kQ[0]);
  for (int i = 1; i < C::kTerms; ++i) q = q * x.f + C::kQ[i];
  return x.power(q);
}

// Says that the four are needed here, all of them, before anything that comes later. Left to itself
// the compiler puts one after the other what was written side by side, and each step of a
// polynomial waits for the one before.
template <class V>
inline __attribute__((always_inline)) void side_by_side(V& a, V& b, V& c, V& d) {
#if defined(__AVX512F__)
  asm("" : "+v"(a), "+v"(b), "+v"(c), "+v"(d));
#elif defined(__x86_64__)
  asm("" : "+x"(a), "+x"(b), "+x"(c), "+x"(d));
#elif defined(__aarch64__)
  asm("" : "+w"(a), "+w"(b), "+w"(c), "+w"(d));
#endif
}

// Powers of 2 of several vectors, in their place; the same numbers as vexp2 gives. With AVX2, four
// take three quarters of the time of one after the other (Zen 3).
template <class T, int n>
inline __attribute__((always_inline)) void vexp2_each(Vec<T> (&t)[n]) {
  if constexpr (n == 4) {
    using C = Exp2Constants<T>;
    const Exp2Argument<T> a(t[0]), b(t[1]), c(t[2]), d(t[3]);
    Vec<T> p = splat(C::kQ[0]), q = p, r = p, s = p;
    for (int i = 1; i < C::kTerms; ++i) {
      p = p * a.f + C::kQ[i];
      q = q * b.f + C::kQ[i];
      r = r * c.f + C::kQ[i];
      s = s * d.f + C::kQ[i];
      side_by_side(p, q, r, s);
    }
    t[0] = a.power(p);
    t[1] = b.power(q);
    t[2] = c.power(r);
    t[3] = d.power(s);
  } else {
#pragma GCC unroll 8
    for (int v = 0; v < n; ++v) t[v] = vexp2<T>(t[v]);
  }
}

constexpr double kLog2E = 1.4426950408889634, kLn2 = 0.6931471805599453;

// Bit l says whether a > b in lane l.
template <class T>
inline uint32_t greater_bits(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ);
  if constexpr (sizeof(T) == 8) return _mm512_cmp_pd_mask(a, b, _CMP_GT_OQ);
#elif defined(__AVX2__)
  if constexpr (sizeof(T) == 4) return static_cast<uint32_t>(_mm256_movemask_ps((Vec<T>)(a > b)));
  if constexpr (sizeof(T) == 8) return static_cast<uint32_t>(_mm256_movemask_pd((Vec<T>)(a > b)));
#elif defined(__x86_64__)
  if constexpr (sizeof(T) == 4) return static_cast<uint32_t>(_mm_movemask_ps((Vec<T>)(a > b)));
  if constexpr (sizeof(T) == 8) return static_cast<uint32_t>(_mm_movemask_pd((Vec<T>)(a > b)));
#elif defined(__aarch64__)
  if constexpr (sizeof(T) == 4)
    return vaddvq_u32(vcgtq_f32(a, b) & uint32x4_t{1, 2, 4, 8});
  else
    return static_cast<uint32_t>(vaddvq_u64(vcgtq_f64(a, b) & uint64x2_t{1, 2}));
#else
  uint32_t bits = 0;
  for (int lane = 0; lane < kLanes<T>; ++lane) bits |= uint32_t{a[lane] > b[lane]} << lane;
  return bits;
#endif
}

// Whether a > b in any lane.
template <class T>
inline bool any_greater(Vec<T> a, Vec<T> b) {
#if defined(__x86_64__)
  return greater_bits<T>(a, b) != 0;
#else
  const auto greater = a > b;
  uint64_t words[kVectorBytes / 8], any = 0;
  std::memcpy(words, &greater, sizeof words);
  for (const uint64_t word : words) any |= word;
  return any != 0;
#endif
}

}  // namespace dpslice::DPSLICE_ISA
