// Random bits to standard normals, by Box and Muller: sqrt(-2 ln u) times the cosine and the sine
// of 2 pi u'. Both are used: they are independent.
//
// Two versions. secure_normal_pair takes 192 bits, in float64: u has its full relative precision
// near 0 and near 1 (the privacy argument needs both: 64 bits would cut the tail at 9.4 sigma and
// coarsen it long before). fast_normals takes 64 bits (float32) or 128 bits (float64) per pair.
//
// Everything is free of branches and of library calls but sqrt. On the CPU V is a vector of
// numbers, on a GPU one number; both compute the same to a few units in the last place. `Maths`
// says how (arithmetic.h).
#pragma once

#include <cstdint>

#include "arithmetic.h"
#include "bits.h"
#include "host_device.h"
#include "philox.h"

namespace dpslice {

// Exact, and in vector code where the instruction set has no conversion of unsigned numbers: the
// word becomes the low mantissa bits of 2^52 + word.
template <class V, class Bits>
DPSLICE_HD inline V word_to_double(Bits word_below_2_52) {
  return bits_as<V>(uint64_t{0x4330000000000000} | word_below_2_52) - 4503599627370496.0;
}

// high 2^32 + low, rounded once: the parts are the low mantissa bits of 2^84 + high 2^32 and of
// 2^52 + low, and the first difference is exact. `minus` is taken off exactly; it is a multiple of
// 2^32 below 2^64.
template <class V, class Bits>
DPSLICE_HD inline V words_to_double(Bits high, Bits low, double minus = 0.0) {
  return (bits_as<V>(uint64_t{0x4530000000000000} | high) -
          (19342813118337666422669312.0 + minus)) +  // 2^84 + 2^52
         bits_as<V>(uint64_t{0x4330000000000000} | low);
}

// ---------------------------------------------------------------------------------- logarithm
//
// x = 2^e m with sqrt(1/2) <= m < sqrt(2), s = (m-1)/(m+1), ln m = 2 (s + s^3/3 + s^5/5 + ...).
// |s| <= 0.1716, so the first term left out is below 2^-56 (float64) or 2^-26 (float32) of the sum.
// Two units in the last place, measured; x must be a normal number > 0.

template <class Maths, class V>
DPSLICE_HD inline V odd_series_log(V m) {
  using T = typename Lanes<V>::Real;
  constexpr int terms = sizeof(T) == 8 ? 11 : 5;
  const V s = Maths::quotient(m - T(1), m + T(1));
  const V z = s * s;
  V sum = z * T(1.0 / (2 * terms - 1)) + T(1.0 / (2 * terms - 3));
  for (int j = terms - 2; j >= 1; --j) sum = sum * z + T(1.0 / (2 * j - 1));
  return T(2) * s * sum;
}

template <class Maths, class V>
DPSLICE_HD inline V log_positive(V x) {
  using Bits = typename Lanes<V>::Bits;
  if constexpr (sizeof(typename Lanes<V>::Real) == 8) {
    // Taking off the bits of sqrt(1/2), not of 1, makes the exponent the one that leaves m in
    // range.
    constexpr uint64_t root_half = 0x3fe6a09e667f3bcd, one = 0x3ff0000000000000;
    const Bits bits = bits_as<Bits>(x) + (one - root_half);
    const V e = word_to_double<V>(bits >> 52) - 1023.0;
    const V m = bits_as<V>((bits & uint64_t{0x000fffffffffffff}) + root_half);
    // ln 2 in two parts: the first has 21 trailing zero bits, so its product with e is exact.
    return e * 6.93147180369123816490e-01 +
           (odd_series_log<Maths>(m) + e * 1.90821492927058770002e-10);
  } else {
    const Bits bits = bits_as<Bits>(x);
    V e = Maths::signed_number((bits >> 23) - 127u);
    V m = bits_as<V>((bits & 0x007fffffu) | 0x3f800000u);
    const auto upper = m > 1.41421356f;
    m = upper ? 0.5f * m : m;
    e = upper ? e + 1.0f : e;
    return e * 0.693359375f + (odd_series_log<Maths>(m) + e * -2.12194440e-4f);
  }
}

// ------------------------------------------------------------------------------- cosine and sine
//
// Of 2 pi times the fraction word / 2^32 (+ low / 2^64): the nearest quarter turn is taken off as
// an integer, exactly; Taylor series serve on [-pi/4, pi/4], to below 2^-57 (float64) or 2^-28
// (float32).

template <class V>
DPSLICE_HD inline void quarter_turn(V x, typename Lanes<V>::Bits quarter, V* cosine, V* sine) {
  using T = typename Lanes<V>::Real;
  using Bits = typename Lanes<V>::Bits;
  constexpr int terms = sizeof(T) == 8 ? 9 : 5, sign = 8 * sizeof(T) - 2;
  const double even[] = {
      1.0,           1.0 / 2,         1.0 / 24,          1.0 / 720,           1.0 / 40320,
      1.0 / 3628800, 1.0 / 479001600, 1.0 / 87178291200, 1.0 / 20922789888000};  // 1 / (2 j)!
  const double odd[] = {1.0,
                        1.0 / 6,
                        1.0 / 120,
                        1.0 / 5040,
                        1.0 / 362880,
                        1.0 / 39916800,
                        1.0 / 6227020800,
                        1.0 / 1307674368000,
                        1.0 / 355687428096000};  // 1 / (2 j + 1)!
  const V z = -x * x;
  V c = z * T(even[terms - 1]) + T(even[terms - 2]);
  V s = z * T(odd[terms - 1]) + T(odd[terms - 2]);
  for (int j = terms - 3; j >= 1; --j) {
    c = c * z + T(even[j]);
    s = s * z + T(odd[j]);
  }
  c = c * z + T(1);
  s = s * z * x + x;
  const auto odd_quarter = (quarter & 1u) != 0u;
  const V first = odd_quarter ? s : c;
  const V second = odd_quarter ? c : s;
  *cosine = bits_as<V>(bits_as<Bits>(first) ^ ((quarter + 1u) & 2u) << sign);
  *sine = bits_as<V>(bits_as<Bits>(second) ^ (quarter & 2u) << sign);
}

// The angle in 64 bits, for double.
template <class Maths, class V, class Word>
DPSLICE_HD inline void turn(Word word, Word low, V* cosine, V* sine) {
  const Word quarter = Maths::low_word(word + 0x20000000u) >> 30;
  const Word rest = word - (quarter << 30);  // a signed number in [-2^29, 2^29)
  const V fraction = words_to_double<V>(Maths::wide(Maths::low_word(rest ^ 0x80000000u)),
                                        Maths::wide(low), 9223372036854775808.0);  // 2^63
  quarter_turn<V>(fraction * 3.4061215800865545e-19, quarter, cosine, sine);       // pi / 2^63
}

// The angle in 32 bits, for float.
template <class Maths, class V, class Word>
DPSLICE_HD inline void turn(Word word, V* cosine, V* sine) {
  const Word quarter = (word + 0x20000000u) >> 30;
  const Word rest = word - (quarter << 30);
  quarter_turn<V>(Maths::signed_number(rest) * 1.46291808e-09f, quarter, cosine, sine);
}

// --------------------------------------------------------------------------------------- secure
//
// words: six words of a key stream. One bit of the first four chooses u = v or u = 1 - v, the other
// 127 give v = w/2 in (0, 1/2]; so u is uniform on (0, 1), and -ln u, which is -ln v or -log1p(-v),
// has a relative error of a few 2^-53 at both ends. In the second case x = 1 - v is rounded, and
// ln(1 - v) = ln x + ((1 - x) - v)/x up to the square of a rounding error; 1 - x is exact.

template <class Maths, class V, class Word>
DPSLICE_HD inline V minus_log_uniform(Word a, Word b, Word c, Word d) {
  const V high = words_to_double<V>(Maths::wide(a & 0x7fffffffu), Maths::wide(b));
  const V low = words_to_double<V>(Maths::wide(c), Maths::wide(d));
  // (high 2^64 + low + 1/2) / 2^128: the half keeps it off zero.
  const V v = high * 5.421010862427522e-20 + (low + 0.5) * 2.938735877055719e-39;
  const auto mirrored = (a & 0x80000000u) != 0u;
  const V x = mirrored ? 1.0 - v : v;
  const V lost = mirrored ? (1.0 - x) - v : V{};
  return -(log_positive<Maths>(x) + lost * (2.0 - x));
}

template <class Maths = Arithmetic, class V, class Word>
DPSLICE_HD inline void secure_normal_pair(Word w0, Word w1, Word w2, Word w3, Word w4, Word w5,
                                          V* first, V* second) {
  const V radius = Maths::root(2.0 * minus_log_uniform<Maths, V>(w0, w1, w2, w3));
  V cosine, sine;
  turn<Maths>(w4, w5, &cosine, &sine);
  *first = radius * cosine;
  *second = radius * sine;
}

// ----------------------------------------------------------------------------------------- fast
//
// The normals of one Philox block: four in float32, two in float64. Noise at (row, column) comes
// from the block with counter (column / kFastNormals, row, 0), whatever the tiling, thread count or
// device.

template <class T>
constexpr int kFastNormals = sizeof(T) == 8 ? 2 : 4;

// sqrt(2 |log u|). The absolute value: a u next to 1 may have a logarithm that is rounded to above
// 0.
template <class Maths, class V>
DPSLICE_HD inline V fast_radius(V u) {
  using T = typename Lanes<V>::Real;
  return Maths::root(Maths::magnitude(T(2) * log_positive<Maths>(u)));
}

template <class Maths, class V, class Word>
DPSLICE_HD inline void fast_normal_pair(Word radius_word, Word angle_word, V* out) {
  // (word + 1/2) / 2^24, so that 0 is left out; the nearest to 1 rounds to 1, and its radius to 0.
  const V radius =
      fast_radius<Maths>((Maths::signed_number(radius_word >> 8) + 0.5f) * 5.9604645e-08f);
  V cosine, sine;
  turn<Maths>(angle_word, &cosine, &sine);
  out[0] = radius * cosine;
  out[1] = radius * sine;
}

// out: [kFastNormals]. The words have nothing above their 32 bits.
template <class Maths = Arithmetic, class V, class Word>
DPSLICE_HD inline void fast_normals(Word w0, Word w1, Word w2, Word w3, V* out) {
  if constexpr (sizeof(typename Lanes<V>::Real) == 4) {
    fast_normal_pair<Maths>(w0, w1, out);
    fast_normal_pair<Maths>(w2, w3, out + 2);
  } else {
    constexpr double unit = 5.421010862427522e-20;  // 2^-64
    const V radius =
        fast_radius<Maths>((words_to_double<V>(Maths::wide(w0), Maths::wide(w1)) + 0.5) * unit);
    V cosine, sine;
    turn<Maths>(w2, w3, &cosine, &sine);
    out[0] = radius * cosine;
    out[1] = radius * sine;
  }
}

// A key of Philox for the stream number `stream` of `seed`.
DPSLICE_HD inline void fast_key(uint64_t seed, uint64_t stream, uint32_t key[2]) {
  uint32_t c0 = static_cast<uint32_t>(stream), c1 = static_cast<uint32_t>(stream >> 32);
  uint32_t c2 = 0, c3 = 0xffffffffu;
  philox4x32(c0, c1, c2, c3, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32));
  key[0] = c0;
  key[1] = c1;
}

}  // namespace dpslice
