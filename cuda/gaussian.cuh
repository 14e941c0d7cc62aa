// exp(-squared / (2 g^2)) in float64: what entries of a Gram matrix and sums over points are made
// of. For kernel sources. The CPU's is vexp2 of csrc/simd.h; this one is for all lanes of a warp
// together, which have a power of 2^(1/32) in a register each.
#pragma once

#include <cstdint>

#include "launch.h"

namespace dpslice::cuda {

constexpr int kPowers = 32;  // 2^(i / kPowers), one in each lane

// exp(-squared / (2 g^2)) for squares of a distance.
struct Gaussian {
  double exponent;  // kPowers log2(e) (-1 / (2 g^2)), by which a square gives 2^(1/kPowers)'s power
  int32_t far;      // the high word of the squares from which on the result is 0
};

__device__ inline Gaussian make_gaussian(double factor) {
  constexpr double kLeast = -1020;  // exponents of 2 below lead out of the normal numbers
  const double exponent = factor * kLog2E;
  return {kPowers * exponent, high_word(kLeast / exponent)};
}

// All lanes of the warp. `power`: the lane's 2^(lane / kPowers).
__device__ inline double evaluate(const Gaussian& kernel, double power, double squared) {
  constexpr double kRound = 6755399441055744.0;  // 1.5 2^52: a sum with it is a whole number
  constexpr int32_t kNan = 0x7ff00001;
  const double shifted = fma(kernel.exponent, squared, kRound);
  const int32_t whole = low_word(shifted);
  const double rest = fma(kernel.exponent, squared, kRound - shifted);
  // (2^(x / kPowers) - 1) / x for |x| <= 1/2, to 1e-16 of 2^(x / kPowers).
  double series = 3.97369093445472e-11;
  series = fma(series, rest, 9.172612617174825e-09);
  series = fma(series, rest, 1.6938509725270705e-06);
  series = fma(series, rest, 0.0002345961981983863);
  series = fma(series, rest, 0.021660849392498287);
  const double part = __shfl_sync(kWholeWarp, power, whole & (kPowers - 1));
  // The bits of `whole` above those that chose the power are the exponent of 2.
  const uint32_t exponent = (static_cast<uint32_t>(whole) & ~(kPowers - 1u)) << 15;
  const double scaled = double_of_words(
      static_cast<int32_t>(static_cast<uint32_t>(high_word(part)) + exponent), low_word(part));
  const double result = fma(scaled, series * rest, scaled);
  // As words: squares are not negative, and what is not a number is not far.
  const bool far = static_cast<uint32_t>(high_word(squared) - kernel.far) <
                   static_cast<uint32_t>(kNan - kernel.far);
  return far ? 0.0 : result;
}

// The lane's 2^(lane / kPowers).
__device__ inline double lane_power() {
  return power_of_two(static_cast<double>(lane_index()) / kPowers);
}

}  // namespace dpslice::cuda
