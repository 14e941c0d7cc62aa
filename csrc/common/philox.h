// Philox4x32-10: a counter of 128 bits and a key of 64 bits give 128 random bits, without state.
//
// Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011. Fast and of
// good statistical quality, but no cipher: for experiments, never for noise that protects anyone.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace dpslice {

constexpr int kPhiloxRounds = 10;

// Replaces the counter (c0, c1, c2, c3) by its random words. Scalars, not arrays: so loops
// vectorise.
DPSLICE_HD inline void philox4x32(uint32_t& c0, uint32_t& c1, uint32_t& c2, uint32_t& c3,
                                  uint32_t k0, uint32_t k1) {
  constexpr uint32_t kMultiplier0 = 0xD2511F53u, kMultiplier1 = 0xCD9E8D57u;
  constexpr uint32_t kWeyl0 = 0x9E3779B9u, kWeyl1 = 0xBB67AE85u;
  for (int round = 0; round < kPhiloxRounds; ++round) {
    const uint64_t product0 = static_cast<uint64_t>(kMultiplier0) * c0;
    const uint64_t product1 = static_cast<uint64_t>(kMultiplier1) * c2;
    c0 = static_cast<uint32_t>(product1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(product1);
    c2 = static_cast<uint32_t>(product0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(product0);
    k0 += kWeyl0;
    k1 += kWeyl1;
  }
}

}  // namespace dpslice
