// What one core of this machine can do at most: one loop per resource, timed from ceilings.py.
//
// Compiled where it runs, for that processor. Loops return what they computed, so that none of it
// can be left out.
#include <cmath>
#include <cstdint>
#include <cstring>

#if defined(__AVX512F__)
#include <immintrin.h>
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;
typedef float Floats __attribute__((vector_size(kBytes)));
typedef int32_t Ints __attribute__((vector_size(kBytes)));
typedef uint32_t Words __attribute__((vector_size(kBytes)));

namespace {

Floats all(float value) { return Floats{} + value; }

float sum(Floats v) {
  float total = 0;
  for (int lane = 0; lane < kLanes; ++lane) total += v[lane];
  return total;
}

// 2^t of a non-positive number, to about one ulp; the work that no float32 exponential of that
// accuracy can do without. (The factor log2(e) is part of the exponents.)
Floats exponential(Floats t) {
#if defined(__AVX512F__)
  // 2^n p(f), n the nearest sixteenth: a table lookup in one instruction, and degree 3. (Left to
  // itself, GCC makes a compare and a blend of the maximum.)
  const Floats bounded = _mm512_max_ps(t, all(-127.0f));
  const Floats magic = all(786432.0f);  // 1.5 * 2^19: adding it rounds to a sixteenth
#else
  // 2^n p(f), n the nearest integer, degree 6.
  const Floats bounded = t > all(-127.0f) ? t : all(-127.0f);
  const Floats magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
#endif
  const Floats shifted = bounded + magic;
  const Floats f = bounded - (shifted - magic);
  Ints at, bits;
  std::memcpy(&at, &shifted, sizeof at);
  Floats result;
#if defined(__AVX512F__)
  // Bits of 2^(j / 16), less j << 19.
  const Ints table = {0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532,
                      0x3f75fed7, 0x3f75583f, 0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c,
                      0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
  bits = (Ints)_mm512_permutexvar_epi32((__m512i)at, (__m512i)table) + (at << 19);
  Floats power;
  std::memcpy(&power, &bits, sizeof power);
  Floats q = all(5.550508e-2f) * f + all(2.402336e-1f);
  q = q * f + all(6.931472e-1f);
  result = power * (q * f) + power;
#else
  Floats p = all(1.54353e-4f);
  p = p * f + all(1.339887e-3f);
  p = p * f + all(9.618437e-3f);
  p = p * f + all(5.550332e-2f);
  p = p * f + all(2.402265e-1f);
  p = p * f + all(6.931472e-1f);
  p = p * f + all(1.0f);
  std::memcpy(&bits, &p, sizeof bits);
  bits += at << 23;
  std::memcpy(&result, &bits, sizeof result);
#endif
  return result;
}

Words rotated(Words x, int by) { return (x << by) | (x >> (32 - by)); }

void quarter_round(Words& a, Words& b, Words& c, Words& d) {
  a += b, d = rotated(d ^ a, 16);
  c += d, b = rotated(b ^ c, 12);
  a += b, d = rotated(d ^ a, 8);
  c += d, b = rotated(b ^ c, 7);
}

}  // namespace

extern "C" {

int lanes() { return kLanes; }

// Twelve chains of multiply-adds hide the latency: 24 * lanes operations a round.
float multiply_adds(int64_t rounds) {
  constexpr int kChains = 12;
  Floats chains[kChains];
  for (int i = 0; i < kChains; ++i) chains[i] = all(0.001f * (i + 1));
  const Floats factor = all(0.999f), term = all(0.001f);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) chains[i] = chains[i] * factor + term;
  }
  Floats total{};
  for (int i = 0; i < kChains; ++i) total += chains[i];
  return sum(total);
}

// Vector operations of any kind: as many of integers beside the multiply-adds, in chains of their
// own. 16 * lanes a round.
float operations(int64_t rounds) {
  constexpr int kChains = 8;
  Floats chains[kChains];
  Words words[kChains / 2];
  for (int i = 0; i < kChains; ++i) chains[i] = all(0.001f * (i + 1));
  for (int i = 0; i < kChains / 2; ++i) words[i] = Words{} + static_cast<uint32_t>(i);
  const Floats factor = all(0.999f), term = all(0.001f);
  const Words step = Words{} + 0x9e3779b9u;
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) chains[i] = chains[i] * factor + term;
#pragma GCC unroll 4
    for (int i = 0; i < kChains / 2; ++i) words[i] = (words[i] + step) ^ step;
  }
  Floats total{};
  for (int i = 0; i < kChains; ++i) total += chains[i];
  for (int i = 0; i < kChains / 2; ++i) total += static_cast<float>(words[i][0]);
  return sum(total);
}

// From and to the first-level cache, one vector after the other: 8 * lanes a round.
float exponentials(int64_t rounds) {
  constexpr int kVectors = 64;
  Floats from[kVectors], to[kVectors];
  for (int i = 0; i < kVectors; ++i) from[i] = all(-0.1f * (i + 1));
  Floats total{};
  for (int64_t round = 0; round < rounds; round += kVectors / 8) {
    for (int i = 0; i < kVectors; ++i) to[i] = exponential(from[i]);
    total += to[0];
    // All of `to` is stored, and all of `from` read again.
    asm volatile("" : : "r"(from), "r"(to) : "memory");
  }
  return sum(total);
}

// ChaCha20 key stream, one block per lane, discarded: 64 * lanes bytes a round.
uint32_t key_stream(int64_t rounds) {
  Words start[16];
  for (int i = 0; i < 16; ++i) start[i] = Words{} + static_cast<uint32_t>(i * 2654435761u);
  Words total{};
  for (int64_t round = 0; round < rounds; ++round) {
    start[12] += 1;
    Words s[16];
    for (int i = 0; i < 16; ++i) s[i] = start[i];
    for (int i = 0; i < 10; ++i) {
      for (int column = 0; column < 4; ++column)
        quarter_round(s[column], s[4 + column], s[8 + column], s[12 + column]);
      for (int column = 0; column < 4; ++column)
        quarter_round(s[column], s[4 + (column + 1) % 4], s[8 + (column + 2) % 4],
                      s[12 + (column + 3) % 4]);
    }
    for (int i = 0; i < 16; ++i) total ^= s[i] + start[i];
  }
  uint32_t folded = 0;
  for (int lane = 0; lane < kLanes; ++lane) folded ^= total[lane];
  return folded;
}

float read_all(const float* data, int64_t size) {
  Floats total[8] = {};
  for (int64_t i = 0; i + 8 * kLanes <= size; i += 8 * kLanes)
    for (int j = 0; j < 8; ++j) {
      Floats v;
      std::memcpy(&v, data + i + j * kLanes, sizeof v);
      total[j] += v;
    }
  Floats all_of_them{};
  for (int j = 0; j < 8; ++j) all_of_them += total[j];
  return sum(all_of_them);
}

void write_all(float* data, int64_t size) { std::memset(data, 1, size * sizeof(float)); }
}
