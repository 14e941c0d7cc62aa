// Vectors of float and double, as wide as the instruction set of this compilation.
//
// GCC's and Clang's vector extensions carry the arithmetic, so a kernel is written once; only the few
// operations that they lack are spelled out here.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
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

template <class T>
inline Vec<T> vmax(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}
template <class T>
inline Vec<T> vmin(Vec<T> a, Vec<T> b) {
  return a < b ? a : b;
}

// Sum and maximum over lanes, by halving: the order is fixed for a given instruction set.
template <class T>
inline T sum_lanes(Vec<T> v) {
  T lane[kLanes<T>];
  store(lane, v);
  for (int width = kLanes<T> / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lane[i] += lane[i + width];
  return lane[0];
}
template <class T>
inline T max_lanes(Vec<T> v) {
  T lane[kLanes<T>];
  store(lane, v);
  T best = lane[0];
  for (int i = 1; i < kLanes<T>; ++i) best = lane[i] > best ? lane[i] : best;
  return best;
}

// ------------------------------------------------------------------------------------ exponential
//
// exp(x) = 2^n exp(r), n the integer nearest x / ln 2, |r| <= ln(2)/2. ln 2 is split in two so that
// n ln 2 is exact. exp(r) is its Taylor polynomial, economised only by stopping where the next term
// is below a quarter of an ulp. Adding 1.5 * 2^(mantissa bits) rounds to an integer and leaves n in the
// low bits, which are then shifted into the exponent. Below kExpUnderflow (where exp leaves the normal
// numbers) the result is 0; arguments are expected to be <= kExpOverflow. NaN gives NaN.

template <class T>
struct ExpConstants;
template <>
struct ExpConstants<float> {
  static constexpr float kUnderflow = -87.33654f, kOverflow = 88.37626f;
  static constexpr float kLog2E = 1.44269504f, kLn2High = 0.693359375f, kLn2Low = -2.12194440e-4f;
  static constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  static constexpr int kMantissa = 23, kDegree = 7;
};
template <>
struct ExpConstants<double> {
  static constexpr double kUnderflow = -708.3964185322641, kOverflow = 709.0895657128241;
  static constexpr double kLog2E = 1.4426950408889634, kLn2High = 0.693147180369123816490,
                          kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kRound = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int kMantissa = 52, kDegree = 13;
};

template <class T>
inline Vec<T> vexp(Vec<T> x) {
  using C = ExpConstants<T>;
  constexpr int degree = C::kDegree;
  // 1/j!, highest degree first.
  struct Coefficients {
    T value[degree + 1];
    constexpr Coefficients() : value{} {
      double factorial = 1;
      for (int j = 0; j <= degree; ++j) {
        if (j > 1) factorial *= j;
        value[degree - j] = static_cast<T>(1.0 / factorial);
      }
    }
  };
  static constexpr Coefficients kTaylor{};
  const Vec<T> clamped = vmin<T>(vmax<T>(x, splat(C::kUnderflow)), splat(C::kOverflow));
  const Vec<T> shifted = clamped * C::kLog2E + C::kRound;
  const Vec<T> n = shifted - C::kRound;
  const Vec<T> r = (clamped - n * C::kLn2High) - n * C::kLn2Low;
  Vec<T> p = splat(kTaylor.value[0]);
  for (int j = 1; j <= degree; ++j) p = p * r + kTaylor.value[j];
  // C-style casts between vectors of one size keep the bits.
  const VecInt<T> exponent = (VecInt<T>)shifted << C::kMantissa;
  const VecInt<T> bits = (VecInt<T>)p + exponent;
  const Vec<T> value = (Vec<T>)bits;
  const Vec<T> result = x < C::kUnderflow ? Vec<T>{} : value;
  return x != x ? x : result;
}

}  // namespace dpslice::DPSLICE_ISA
