// common/arithmetic.h for vectors. For kernel sources only.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "common/arithmetic.h"
#include "simd.h"

namespace dpslice::DPSLICE_ISA {

// Words in lanes of 32 and of 64 bits.
typedef uint32_t WordVec __attribute__((vector_size(kVectorBytes)));
typedef uint64_t WideVec __attribute__((vector_size(kVectorBytes)));

}  // namespace dpslice::DPSLICE_ISA

namespace dpslice {

template <>
struct Lanes<DPSLICE_ISA::Vec<float>> {
  using Real = float;
  using Bits = DPSLICE_ISA::WordVec;
};
template <>
struct Lanes<DPSLICE_ISA::Vec<double>> {
  using Real = double;
  using Bits = DPSLICE_ISA::WideVec;
};

}  // namespace dpslice

namespace dpslice::DPSLICE_ISA {

// Several vectors of words that take the same steps: where each step waits for the one before,
// their steps fill the gaps.
template <int n>
struct WideVecs {
  WideVec at[n];

  friend inline WideVecs operator^(WideVecs a, const WideVecs& b) {
    for (int i = 0; i < n; ++i) a.at[i] ^= b.at[i];
    return a;
  }
  friend inline WideVecs operator^(WideVecs a, WideVec word) {
    for (int i = 0; i < n; ++i) a.at[i] ^= word;
    return a;
  }
};

struct VectorArithmetic {
  template <class V>
  static inline V quotient(V a, V b) {
    return a / b;
  }
  template <class V>
  static inline __attribute__((always_inline)) V root(V x) {
    using T = typename Lanes<V>::Real;
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return _mm512_sqrt_ps(x);
    if constexpr (sizeof(T) == 8) return _mm512_sqrt_pd(x);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return _mm256_sqrt_ps(x);
    if constexpr (sizeof(T) == 8) return _mm256_sqrt_pd(x);
#elif defined(__x86_64__)
    if constexpr (sizeof(T) == 4) return _mm_sqrt_ps(x);
    if constexpr (sizeof(T) == 8) return _mm_sqrt_pd(x);
#else
    for (int lane = 0; lane < kLanes<T>; ++lane) x[lane] = std::sqrt(x[lane]);
    return x;
#endif
  }
  template <class V>
  static inline V magnitude(V x) {
    using T = typename Lanes<V>::Real;
    constexpr auto sign = typename Lanes<T>::Bits{1} << (8 * sizeof(T) - 1);
    return (V)((typename Lanes<V>::Bits)x & ~sign);
  }
  static inline Vec<float> signed_number(WordVec word) {
    return __builtin_convertvector((VecInt<float>)word, Vec<float>);
  }
  static inline WideVec low_word(WideVec word) { return word & 0xffffffffu; }
  static inline WideVec wide(WideVec word) { return word; }

  static inline __attribute__((always_inline)) WideVec product(uint32_t a, WideVec b) {
#if defined(__AVX512F__)
    return (WideVec)_mm512_mul_epu32(_mm512_set1_epi64(a), (__m512i)b);
#elif defined(__AVX2__)
    return (WideVec)_mm256_mul_epu32(_mm256_set1_epi64x(a), (__m256i)b);
#elif defined(__x86_64__)
    return (WideVec)_mm_mul_epu32(_mm_set1_epi64x(a), (__m128i)b);
#elif defined(__aarch64__)
    return (WideVec)vmull_n_u32(vmovn_u64((uint64x2_t)b), a);  // of 64 bits there is no product
#else
    return low_word(b) * uint64_t{a};
#endif
  }
  static inline WideVec high_half(WideVec product) { return product >> 32; }
  static inline WideVec low_half(WideVec product) { return product; }

  template <int n>
  static inline WideVecs<n> product(uint32_t a, WideVecs<n> b) {
    for (int i = 0; i < n; ++i) b.at[i] = product(a, b.at[i]);
    return b;
  }
  template <int n>
  static inline WideVecs<n> high_half(WideVecs<n> product) {
    for (int i = 0; i < n; ++i) product.at[i] = high_half(product.at[i]);
    return product;
  }
  template <int n>
  static inline WideVecs<n> low_half(const WideVecs<n>& product) {
    return product;
  }
};

// A vector of integers as wide as T. Unaligned.
template <class T>
inline typename Lanes<Vec<T>>::Bits load_bits(const typename Lanes<T>::Bits* from) {
  typename Lanes<Vec<T>>::Bits bits;
  std::memcpy(&bits, from, sizeof bits);
  return bits;
}
template <class T>
inline void store_bits(typename Lanes<T>::Bits* to, typename Lanes<Vec<T>>::Bits bits) {
  std::memcpy(to, &bits, sizeof bits);
}

// The words at `from`, one in each lane of 64 bits.
inline WideVec load_words(const uint32_t* from) {
#if defined(__AVX512F__)
  return (WideVec)_mm512_cvtepu32_epi64(_mm256_loadu_si256((const __m256i*)from));
#elif defined(__AVX2__)
  return (WideVec)_mm256_cvtepu32_epi64(_mm_loadu_si128((const __m128i*)from));
#elif defined(__x86_64__)
  return (WideVec)_mm_unpacklo_epi32(_mm_loadl_epi64((const __m128i*)from), _mm_setzero_si128());
#else
  WideVec words;
  for (int lane = 0; lane < kLanes<double>; ++lane) words[lane] = from[lane];
  return words;
#endif
}

// Words of lanes 0, 2, ... and of lanes 1, 3, ..., in the order of the lanes.
inline WordVec join_words(WideVec even, WideVec odd) {
  return (WordVec)(VectorArithmetic::low_word(even) | odd << 32);
}

}  // namespace dpslice::DPSLICE_ISA
