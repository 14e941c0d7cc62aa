// Philox4x32-10: a counter of 128 bits and a key of 64 bits give 128 random bits, without state.
//
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Fast and of
// good statistical quality, but no cipher: for experiments, never for noise that protects anyone.
#pragma once

#include <cstdint>

#include "arithmetic.h"
#include "host_device.h"

namespace dpslice {

constexpr int kPhiloxRounds = 10;

// Added to word i of a key each round.
DPSLICE_HD inline uint32_t philox_key_step(int i) { return i == 0 ? 0x9E3779B9u : 0xBB67AE85u; }

// Replaces the counter (c0, c1, c2, c3) by its random words; in vectors, something may stand above
// them (arithmetic.h). `round_key(round, i)` is word i of the key plus so many steps.
template <class Maths = Arithmetic, class Word, class RoundKey>
DPSLICE_HD inline void philox4x32(Word& c0, Word& c1, Word& c2, Word& c3, RoundKey&& round_key) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const auto product0 = Maths::product(kMultiplier0, c0);
    const auto product1 = Maths::product(kMultiplier1, c2);
    c0 = Maths::high_half(product1) ^ c1 ^ round_key(round, 0);
    c1 = Maths::low_half(product1);
    c2 = Maths::high_half(product0) ^ c3 ^ round_key(round, 1);
    c3 = Maths::low_half(product0);
  }
}

DPSLICE_HD inline void philox4x32(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3,
                                  uint32_t k0, uint32_t k1) {
  philox4x32(c0, c1, c2, c3, [&](int round, int i) {
    return (i == 0 ? k0 : k1) + static_cast<uint32_t>(round) * philox_key_step(i);
  });
}

}  // namespace dpslice
