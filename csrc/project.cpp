// project: XU + sigma * noise, tile by tile; the noise of a tile is made while the tile is hot.
//
// The output is cut into tiles of kRowTile x kColumnTile. A tile is multiplied out in a scratch
// buffer, then noise is added and the result written once. Every number is computed by the same
// operations in the same order whatever the number of threads, the tile it falls into, or the row
// block it comes with; noise depends on (key, row number, column) alone.
//
// No block of the ChaCha20 key stream is ever used twice under a key. A block is named by nonce (96
// bits) and counter (32 bits). The noise of row r (of the whole release, not of the call) in
// columns 4g ... 4g+3 takes the block with nonce (r, domain), r in 64 bits, and counter g: a
// one-to-one map, as r < 2^64 and p < 2^34. The domain word sets these apart from the blocks of
// shuffle_rows, which has a key of its own anyway. Keys are fresh for each release.
#include "project.h"

#include <cmath>

#include "common/chacha20.h"
#include "common/counter_normal.h"
#include "common/philox.h"
#include "parallel.h"
#include "private_rows.h"
#include "simd.h"

namespace dpslice {

typedef uint32_t WordVec __attribute__((vector_size(DPSLICE_ISA::kVectorBytes)));

#if defined(__AVX2__) && !defined(__AVX512F__)
// Rotations by whole bytes are one shuffle each. (AVX-512 has an instruction for all of them.)
template <>
inline __attribute__((always_inline)) WordVec rotate_left<16, WordVec>(WordVec x) {
  return (WordVec)_mm256_shuffle_epi8(
      (__m256i)x, _mm256_broadcastsi128_si256(
                      _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)));
}
template <>
inline __attribute__((always_inline)) WordVec rotate_left<8, WordVec>(WordVec x) {
  return (WordVec)_mm256_shuffle_epi8(
      (__m256i)x, _mm256_broadcastsi128_si256(
                      _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14)));
}
#endif

}  // namespace dpslice

namespace dpslice::DPSLICE_ISA {
namespace {

// --------------------------------------------------------------------------------- constants

constexpr int kRowTile = 32;      // rows share the frame's panels, which stay in the L2 cache
constexpr int kColumnTile = 128;  // tile, noise and x together: 128 KiB in float64
constexpr int kDepthTile = 256;   // a panel piece is 64 KiB at most
constexpr int kGroupRows = 4;     // rows of x per pass over a panel: registers
constexpr int kGroupVectors = kVectorBytes == 64 ? 4 : 2;  // 4*4 of 32 registers, or 4*2 of 16
constexpr int kBatch = 64;        // random blocks turned into normals at a time
constexpr int kBlockNormals = 4;  // normals per ChaCha20 block: 2 * 192 of its 512 bits
constexpr int kUsedWords = 12;    // of the block's 16
constexpr uint32_t kNoiseDomain = 0;

template <class T>
constexpr int kPanel = kGroupVectors * kLanes<T>;  // columns of a panel of the packed frame

static_assert(kColumnTile % kPanel<float> == 0 && kColumnTile % kPanel<double> == 0);
static_assert(kColumnTile % kBlockNormals == 0 && kRowTile % kGroupRows == 0);

// Threads worth waking to make so many numbers of noise, or 64 times as many products.
int64_t threads_for(int64_t numbers) { return 1 + numbers / 16384; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// ----------------------------------------------------------------------------------- product

// frame [d, p] -> panels [ceil(p / kPanel), d, kPanel], zero beyond column p.
template <class T>
void pack_frame(const T* frame, int64_t d, int64_t p, T* packed) {
  parallel_for<NoScratch>(
      ceil_div(p, kPanel<T>),
      [&](int64_t panel, NoScratch&) {
        const int64_t first = panel * kPanel<T>, width = smaller(kPanel<T>, p - first);
        T* to = packed + panel * d * kPanel<T>;
        for (int64_t l = 0; l < d; ++l, to += kPanel<T>) {
          for (int64_t j = 0; j < width; ++j) to[j] = frame[l * p + first + j];
          for (int64_t j = width; j < kPanel<T>; ++j) to[j] = T(0);
        }
      },
      threads_for(d * p / 16));
}

// tile [kGroupRows, kPanel] += x [kGroupRows, depth] * panel [depth, kPanel]
template <class T>
void multiply_group(const T* x, const T* panel, int64_t depth, T* tile) {
  Vec<T> sum[kGroupRows][kGroupVectors] = {};
  for (int64_t l = 0; l < depth; ++l) {
    Vec<T> u[kGroupVectors];
    for (int v = 0; v < kGroupVectors; ++v) u[v] = load(panel + l * kPanel<T> + v * kLanes<T>);
    for (int r = 0; r < kGroupRows; ++r) {
      const Vec<T> factor = splat(x[r * kDepthTile + l]);
      for (int v = 0; v < kGroupVectors; ++v) sum[r][v] += factor * u[v];
    }
  }
  for (int r = 0; r < kGroupRows; ++r)
    for (int v = 0; v < kGroupVectors; ++v) {
      T* to = tile + r * kColumnTile + v * kLanes<T>;
      store(to, load(to) + sum[r][v]);
    }
}

// tile [kRowTile, kColumnTile] = rows of x times a column range of the packed frame. `read_row(r,
// l0, depth, to)` fills `to` with entries l0 ... l0+depth-1 of row r.
template <class T, class ReadRow>
void multiply_tile(int64_t rows, int64_t first_column, int64_t columns, int64_t d, const T* packed,
                   T* x, T* tile, ReadRow&& read_row) {
  const int64_t first_panel = first_column / kPanel<T>, panels = ceil_div(columns, kPanel<T>);
  const int64_t padded_rows = ceil_div(rows, kGroupRows) * kGroupRows;
  std::memset(tile, 0, sizeof(T) * kRowTile * kColumnTile);
  for (int64_t l0 = 0; l0 < d; l0 += kDepthTile) {
    const int64_t depth = smaller(kDepthTile, d - l0);
    for (int64_t r = 0; r < rows; ++r) read_row(r, l0, depth, x + r * kDepthTile);
    for (int64_t r = rows; r < padded_rows; ++r)
      std::memset(x + r * kDepthTile, 0, sizeof(T) * kDepthTile);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const T* piece = packed + ((first_panel + panel) * d + l0) * kPanel<T>;
      for (int64_t r = 0; r < padded_rows; r += kGroupRows)
        multiply_group(x + r * kDepthTile, piece, depth,
                       tile + r * kColumnTile + panel * kPanel<T>);
    }
  }
}

// Runs finish(tile, rows, columns, first row, first column, scratch) over the tiles of the product.
template <class T, class Scratch, class ReadRow, class Finish>
void for_each_tile(int64_t n, int64_t d, int64_t p, const T* frame, ReadRow&& read_row,
                   Finish&& finish) {
  Buffer<T> packed(ceil_div(p, kPanel<T>) * kPanel<T> * d);
  pack_frame(frame, d, p, packed.data());
  const int64_t column_tiles = ceil_div(p, kColumnTile);
  parallel_for<Scratch>(
      ceil_div(n, kRowTile) * column_tiles,
      [&](int64_t task, Scratch& scratch) {
        const int64_t row = task / column_tiles * kRowTile;
        const int64_t column = task % column_tiles * kColumnTile;
        const int64_t rows = smaller(kRowTile, n - row), columns = smaller(kColumnTile, p - column);
        T* x = scratch.x.resize(kRowTile * kDepthTile);
        T* tile = scratch.tile.resize(kRowTile * kColumnTile);
        multiply_tile(
            rows, column, columns, d, packed.data(), x, tile,
            [&](int64_t r, int64_t l0, int64_t depth, T* to) { read_row(row + r, l0, depth, to); });
        finish(tile, rows, columns, row, column, scratch);
      },
      threads_for(n * p * (1 + d / 64)));
}

// ------------------------------------------------------------------------------- secure noise

constexpr int kWordLanes = kVectorBytes / 4;
static_assert(kBatch % kWordLanes == 0);

// Names of kBatch blocks, and the words of each that are used.
struct KeyStream {
  uint32_t counter[kBatch], low[kBatch], high[kBatch];
  uint32_t words[kUsedWords * kBatch];
};

struct SecureScratch {
  SecretBuffer<double> x, tile, noise;
  SecretBuffer<KeyStream> stream;
};

// The first `count` <= kBatch blocks.
void key_stream(const uint32_t* key, int64_t count, KeyStream& s) {
  for (int64_t start = 0; start < count; start += kWordLanes) {
    WordVec counter, low, high, out[kChaChaWords];
    std::memcpy(&counter, s.counter + start, sizeof counter);
    std::memcpy(&low, s.low + start, sizeof low);
    std::memcpy(&high, s.high + start, sizeof high);
    chacha20_block<WordVec>(key, counter, low, high, WordVec{} + kNoiseDomain, out);
    for (int w = 0; w < kUsedWords; ++w)
      std::memcpy(s.words + w * kBatch + start, &out[w], sizeof out[w]);
  }
}

// noise [rows, 4 groups]: standard normals of a tile, row by row in the order of their blocks, so
// that nothing has to be sorted. There must be space for kBatch blocks more.
void secure_noise(const uint32_t* key, uint64_t row, uint32_t group, int64_t rows, int64_t groups,
                  KeyStream& s, double* noise) {
  const int64_t blocks = rows * groups;
  uint64_t number = row;
  int64_t g = 0;
  for (int64_t first = 0; first < blocks; first += kBatch) {
    // Names, row by row. What is named beyond the last block is not released.
    for (int64_t i = 0; i < kBatch;) {
      const int64_t run = smaller(kBatch - i, groups - g);
      for (int64_t k = 0; k < run; ++k) {
        s.counter[i + k] = group + static_cast<uint32_t>(g + k);
        s.low[i + k] = static_cast<uint32_t>(number);
        s.high[i + k] = static_cast<uint32_t>(number >> 32);
      }
      i += run;
      g += run;
      if (g == groups) g = 0, ++number;
    }
    key_stream(key, smaller(kBatch, blocks - first), s);
    const uint32_t* words = s.words;
    double* to = noise + first * kBlockNormals;
#pragma omp simd
    for (int i = 0; i < kBatch; ++i) {
      const uint32_t* w = words + i;
      double a, b, c, d;
      secure_normal_pair(w[0 * kBatch], w[1 * kBatch], w[2 * kBatch], w[3 * kBatch], w[4 * kBatch],
                         w[5 * kBatch], &a, &b);
      secure_normal_pair(w[6 * kBatch], w[7 * kBatch], w[8 * kBatch], w[9 * kBatch], w[10 * kBatch],
                         w[11 * kBatch], &c, &d);
      to[kBlockNormals * i] = a;
      to[kBlockNormals * i + 1] = b;
      to[kBlockNormals * i + 2] = c;
      to[kBlockNormals * i + 3] = d;
    }
  }
}

template <class T, class X>
void project_secure_rows(const ProjectSecureArgs<T>& args, const X* x) {
  const int64_t n = args.n, d = args.d, p = args.p;
  SecretBuffer<double> factors;
  double* factor = factors.resize(n);
  constexpr int64_t kRowsPerTask = 256;
  parallel_for<NoScratch>(
      ceil_div(n, kRowsPerTask),
      [&](int64_t task, NoScratch&) {
        const int64_t end = smaller(n, (task + 1) * kRowsPerTask);
        for (int64_t r = task * kRowsPerTask; r < end; ++r)
          factor[r] = clipping_factor(x + r * d, d, args.max_norm);
      },
      threads_for(n * d / 16));
  *args.bad_row = -1;
  for (int64_t r = 0; r < n; ++r)
    if (factor[r] != factor[r]) {
      *args.bad_row = r;
      return;
    }

  // The grid: every released number is a multiple of h = 2^(floor(log2 sigma) - 10). Dividing by a
  // power of two is exact, so nearbyint (ties to even) does all the rounding there is.
  const double h = std::ldexp(1.0, std::ilogb(args.sigma) - 10), per_h = 1.0 / h;
  for_each_tile<double, SecureScratch>(
      n, d, p, args.frame,
      [&](int64_t r, int64_t l0, int64_t depth, double* to) {
        const X* from = x + r * d + l0;
        for (int64_t l = 0; l < depth; ++l) to[l] = static_cast<double>(from[l]) * factor[r];
      },
      [&](const double* tile, int64_t rows, int64_t columns, int64_t row, int64_t column,
          SecureScratch& scratch) {
        KeyStream& stream = *scratch.stream.resize(1);
        double* noise = scratch.noise.resize(kRowTile * kColumnTile + kBatch * kBlockNormals);
        const int64_t groups = ceil_div(columns, kBlockNormals);
        secure_noise(args.key, args.first_row + static_cast<uint64_t>(row),
                     static_cast<uint32_t>(column / kBlockNormals), rows, groups, stream, noise);
        for (int64_t r = 0; r < rows; ++r) {
          const double* product = tile + r * kColumnTile;
          const double* normal = noise + r * groups * kBlockNormals;
          T* out = args.out + (row + r) * p + column;
          for (int64_t j = 0; j < columns; ++j)
            out[j] =
                static_cast<T>(h * std::nearbyint((product[j] + args.sigma * normal[j]) * per_h));
        }
      });
}

// --------------------------------------------------------------------------------- fast noise

template <class T>
struct FastScratch {
  SecretBuffer<T> x, tile, noise;
};

// noise [rows, kColumnTile]
template <class T>
void fast_noise(const uint32_t* key, uint64_t row, int64_t column, int64_t rows, int64_t columns,
                T* noise) {
  constexpr int normals = kFastNormals<T>;
  const uint32_t key0 = key[0], key1 = key[1];
  const uint32_t group = static_cast<uint32_t>(column / normals);
  const int groups = static_cast<int>(ceil_div(columns, normals));
  for (int64_t r = 0; r < rows; ++r) {
    const uint64_t number = row + static_cast<uint64_t>(r);
    T* to = noise + r * kColumnTile;
#pragma omp simd
    for (int g = 0; g < groups; ++g) {
      uint32_t w0 = group + static_cast<uint32_t>(g), w1 = static_cast<uint32_t>(number);
      uint32_t w2 = static_cast<uint32_t>(number >> 32), w3 = 0;
      philox4x32(w0, w1, w2, w3, key0, key1);
      fast_normals(w0, w1, w2, w3, to + g * normals);
    }
  }
}

}  // namespace

// ---------------------------------------------------------------------------------- launchers

template <class T>
void project_secure(const ProjectSecureArgs<T>& args) {
  if (args.x_double != nullptr)
    project_secure_rows(args, args.x_double);
  else
    project_secure_rows(args, args.x_float);
}

template <class T>
void project_fast(const ProjectFastArgs<T>& args) {
  const int64_t n = args.n, d = args.d, p = args.p;
  const T sigma = static_cast<T>(args.sigma);
  for_each_tile<T, FastScratch<T>>(
      n, d, p, args.frame,
      [&](int64_t r, int64_t l0, int64_t depth, T* to) {
        std::memcpy(to, args.x + r * d + l0, sizeof(T) * static_cast<size_t>(depth));
      },
      [&](const T* tile, int64_t rows, int64_t columns, int64_t row, int64_t column,
          FastScratch<T>& scratch) {
        T* noise = scratch.noise.resize(kRowTile * kColumnTile);
        if (sigma != T(0))
          fast_noise(args.key, args.first_row + static_cast<uint64_t>(row), column, rows, columns,
                     noise);
        for (int64_t r = 0; r < rows; ++r) {
          const T* product = tile + r * kColumnTile;
          const T* normal = noise + r * kColumnTile;
          T* out = args.out + (row + r) * p + column;
          if (sigma == T(0))
            std::memcpy(out, product, sizeof(T) * static_cast<size_t>(columns));
          else
            for (int64_t j = 0; j < columns; ++j) out[j] = product[j] + sigma * normal[j];
        }
      });
}

template <class T>
void secure_normals(const SecureNormalsArgs<T>& args) {
#pragma omp simd
  for (int64_t i = 0; i < args.n; ++i) {
    const uint32_t* w = args.words + 6 * i;
    secure_normal_pair(w[0], w[1], w[2], w[3], w[4], w[5], args.out + 2 * i, args.out + 2 * i + 1);
  }
}

DPSLICE_INSTANTIATE(project_secure, ProjectSecureArgs)
DPSLICE_INSTANTIATE(project_fast, ProjectFastArgs)
template void secure_normals<double>(const SecureNormalsArgs<double>&);

}  // namespace dpslice::DPSLICE_ISA
