// The ChaCha20 block function of RFC 8439, section 2.3, for one block or for one block per lane.
//
// A block is 16 words of 32 bits; serialised little-endian they are 64 bytes of key stream. `Word`
// is uint32_t, or a vector of them: then each lane computes the block of its own counter and nonce.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace dpslice {

constexpr int kChaChaKeyWords = 8;
constexpr int kChaChaWords = 16;
constexpr int kChaChaRounds = 20;

template <int bits, class Word>
DPSLICE_HD inline Word rotate_left(Word x) {
  return (x << bits) | (x >> (32 - bits));
}

template <class Word>
DPSLICE_HD inline void chacha20_quarter_round(Word& a, Word& b, Word& c, Word& d) {
  a += b, d ^= a, d = rotate_left<16>(d);
  c += d, b ^= c, b = rotate_left<12>(b);
  a += b, d ^= a, d = rotate_left<8>(d);
  c += d, b ^= c, b = rotate_left<7>(b);
}

// key[8]: little-endian words of the 32 key bytes; nonce0..2: those of the 12 nonce bytes.
template <class Word>
DPSLICE_HD inline void chacha20_block(const uint32_t* key, Word counter, Word nonce0, Word nonce1,
                                      Word nonce2, Word* out) {
  Word start[kChaChaWords];
  const uint32_t constants[4] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u};
  for (int i = 0; i < 4; ++i) start[i] = Word{} + constants[i];
  for (int i = 0; i < kChaChaKeyWords; ++i) start[4 + i] = Word{} + key[i];
  start[12] = counter;
  start[13] = nonce0;
  start[14] = nonce1;
  start[15] = nonce2;

  Word s[kChaChaWords];
  for (int i = 0; i < kChaChaWords; ++i) s[i] = start[i];
  for (int round = 0; round < kChaChaRounds; round += 2) {
    chacha20_quarter_round(s[0], s[4], s[8], s[12]);  // columns
    chacha20_quarter_round(s[1], s[5], s[9], s[13]);
    chacha20_quarter_round(s[2], s[6], s[10], s[14]);
    chacha20_quarter_round(s[3], s[7], s[11], s[15]);
    chacha20_quarter_round(s[0], s[5], s[10], s[15]);  // diagonals
    chacha20_quarter_round(s[1], s[6], s[11], s[12]);
    chacha20_quarter_round(s[2], s[7], s[8], s[13]);
    chacha20_quarter_round(s[3], s[4], s[9], s[14]);
  }
  for (int i = 0; i < kChaChaWords; ++i) out[i] = s[i] + start[i];
}

}  // namespace dpslice
