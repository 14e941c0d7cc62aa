// Vectors of float and double, as wide as the instruction set of this compilation.
//
// GCC's and Clang's vector extensions carry the arithmetic, so a kernel is written once; only the
// few operations that they lack are spelled out here.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
// GCC 12 takes its own undefined operands for mistakes.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#endif

#ifndef DPSLICE_ISA
#error "simd.h is for kernel sources, which are compiled with DPSLICE_ISA set"
#endif

namespace dpslice::DPSLICE_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
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
#else
  return a > b ? a : b;
#endif
}
template <class T>
inline Vec<T> vmin(Vec<T> a, Vec<T> b) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_min_ps(a, b);
  if constexpr (sizeof(T) == 8) return _mm512_min_pd(a, b);
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
#else
  T lane[kLanes<T>];
  store(lane, v);
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
#endif
}
template <class T>
inline T max_lanes(Vec<T> v) {
  T lane[kLanes<T>];
  store(lane, v);
  T best = lane[0];
  for (int i = 1; i < kLanes<T>; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}

// ------------------------------------------------------------------------------------- exponential
//
// exp(x) = 2^n exp(r), n the integer nearest x / ln 2, |r| <= ln(2)/2. ln 2 is split in two so that
// n ln 2 is exact. exp(r) = 1 + r + r^2 q(r), with q from tests/tools/exp_coefficients.py: relative
// error 1e-8 and 2e-17. In all the error is below 1.2 units in the last place (tests/test_isa.py).
// Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves n in the low bits, which are then
// shifted into the exponent; AVX-512 has an instruction for that. Below kUnderflow (where exp
// leaves the normal numbers) the result is 0; arguments are expected to be <= kOverflow. NaN gives
// NaN.

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kUnderflow = -87.33654f, kOverflow = 88.37626f;
  static constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  static constexpr int kMantissa = 23, kTerms = 5;
  static constexpr float kQ[kTerms] = {// highest degree first
                                       0.00139261761199355789f, 0.0083631730745137109f,
                                       0.041666554662050534f, 0.166665770255979882f, 0.5f};
};
template <>
struct ExpConstants<double> {
  static constexpr double kUnderflow = -708.3964185322641, kOverflow = 709.0895657128241;
  static constexpr double kLog2E = 1.4426950408889634, kLn2High = 0.693147180369123816490,
                          kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissa = 52, kTerms = 10;
  static constexpr double kQ[kTerms] = {2.51003758325612337e-8,  2.76200758799833666e-7,
                                        2.75572684803100255e-6,  0.0000248015213223686933,
                                        0.000198412698630405453, 0.00138888889171967191,
                                        0.00833333333333006445,  0.0416666666666241619,
                                        0.166666666666666675,    0.500000000000000102};
};

template <class T>
inline Vec<T> vexp(Vec<T> x) {
  using C = ExpConstants<T>;
#if defined(__AVX512F__)
  const Vec<T> bounded = x;
#else
  // In this order NaN passes.
  const Vec<T> low = splat(C::kUnderflow) > x ? splat(C::kUnderflow) : x;
  const Vec<T> bounded = splat(C::kOverflow) < low ? splat(C::kOverflow) : low;
#endif
  const Vec<T> shifted = bounded * C::kLog2E + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> r = (bounded - n * C::kLn2High) - n * C::kLn2Low;
  Vec<T> q = splat(C::kQ[0]);
  for (int i = 1; i < C::kTerms; ++i) q = q * r + C::kQ[i];
#if defined(__FMA__) || defined(__aarch64__)
  // 1 + r + r^2 q, last factor first: the last product is not rounded.
  const Vec<T> p = (q * r + T(1)) * r + T(1);
#else
  // Where it is rounded, the smaller product is the one to round.
  const Vec<T> p = ((q * r) * r + r) + T(1);
#endif
#if defined(__AVX512F__)
  // "Not less than": -inf is masked out whatever became of it above, NaN is not.
  if constexpr (sizeof(T) == 4)
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, splat(C::kUnderflow), _CMP_NLT_UQ), p, n);
  if constexpr (sizeof(T) == 8)
    return _mm512_maskz_scalef_pd(_mm512_cmp_pd_mask(x, splat(C::kUnderflow), _CMP_NLT_UQ), p, n);
#else
  // Casts of vectors keep the bits.
  const VecInt<T> bits = (VecInt<T>)p + ((VecInt<T>)shifted << C::kMantissa);
  const Vec<T> value = (Vec<T>)bits;
  return x < C::kUnderflow ? Vec<T>{} : value;
#endif
}

}  // namespace dpslice::DPSLICE_ISA
