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
#include "simd_arithmetic.h"
#include "tile_product.h"

namespace dpslice {

#if defined(__AVX2__) && !defined(__AVX512F__)
// Rotations by whole bytes are one shuffle each. (AVX-512 has an instruction for all of them.)
template <>
inline __attribute__((always_inline)) DPSLICE_ISA::WordVec rotate_left<16, DPSLICE_ISA::WordVec>(
    DPSLICE_ISA::WordVec x) {
  return (DPSLICE_ISA::WordVec)_mm256_shuffle_epi8(
      (__m256i)x, _mm256_broadcastsi128_si256(
                      _mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13)));
}
template <>
inline __attribute__((always_inline)) DPSLICE_ISA::WordVec rotate_left<8, DPSLICE_ISA::WordVec>(
    DPSLICE_ISA::WordVec x) {
  return (DPSLICE_ISA::WordVec)_mm256_shuffle_epi8(
      (__m256i)x, _mm256_broadcastsi128_si256(
                      _mm_setr_epi8(3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14)));
}
#elif defined(__aarch64__)
template <>
inline __attribute__((always_inline)) DPSLICE_ISA::WordVec rotate_left<16, DPSLICE_ISA::WordVec>(
    DPSLICE_ISA::WordVec x) {
  return (DPSLICE_ISA::WordVec)vrev32q_u16((uint16x8_t)x);
}
template <>
inline __attribute__((always_inline)) DPSLICE_ISA::WordVec rotate_left<8, DPSLICE_ISA::WordVec>(
    DPSLICE_ISA::WordVec x) {
  return (DPSLICE_ISA::WordVec)vqtbl1q_u8(
      (uint8x16_t)x, uint8x16_t{3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14});
}
#endif

}  // namespace dpslice

namespace dpslice::DPSLICE_ISA {
namespace {

// --------------------------------------------------------------------------------- constants

constexpr int kRowTile = 32;      // rows share the frame's panels, which stay in the L2 cache
constexpr int kColumnTile = 192;  // whole panels, and whole vectors of blocks of noise
constexpr int kDepthTile = 256;   // the part of a panel in one pass stays in the L1 cache
constexpr int kBatch = 64;        // random blocks turned into normals at a time
constexpr int kBlockNormals = 4;  // normals per ChaCha20 block: 2 * 192 of its 512 bits
constexpr int kUsedWords = 12;    // of the block's 16
constexpr uint32_t kNoiseDomain = 0;

static_assert(kColumnTile % kPanel<float> == 0 && kColumnTile % kPanel<double> == 0);
static_assert(kColumnTile % kBlockNormals == 0 && kRowTile % kTileRows == 0);

// Threads worth waking to make so many numbers of noise, or 64 times as many products.
int64_t threads_for(int64_t numbers) { return 1 + numbers / 16384; }
int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

// ------------------------------------------------------------------------------- memory ahead

// Memory that is needed soon, fetched into cache a few lines at a time, between steps of work that
// needs none: a core that asks for all of it at once waits until the first lines are there.
class Ahead {
 public:
  // Rows of memory to be read later, and those to be written next; `steps` of work are to come.
  template <class X, class T>
  Ahead(const X* x, int64_t x_numbers, const T* out, int64_t out_rows, int64_t columns,
        int64_t out_stride)
      : read_(x, 1, x_numbers, 0), written_(out, out_rows, columns, out_stride) {}

  void spread(int64_t steps) {
    read_.lines_per_step = ceil_div(read_.lines(), steps);
    written_.lines_per_step = ceil_div(written_.lines(), steps);
  }
  inline __attribute__((always_inline)) void step() {
    read_.step([](const char* line) { __builtin_prefetch(line, 0, 2); });  // not into L1
    written_.step([](const char* line) { __builtin_prefetch(line, 1, 3); });
  }

 private:
  struct Rows {
    uintptr_t first, bytes, stride;  // of a row
    int64_t rows, lines_per_step = 0;
    uintptr_t line = 0;  // the next one of the first row

    template <class T>
    Rows(const T* from, int64_t rows, int64_t numbers, int64_t stride)
        : first(reinterpret_cast<uintptr_t>(from)),
          bytes(static_cast<uintptr_t>(numbers) * sizeof(T)),
          stride(static_cast<uintptr_t>(stride) * sizeof(T)),
          rows(rows),
          line(first / kLine * kLine) {}
    int64_t lines() const { return rows * static_cast<int64_t>(bytes / kLine + 1); }
    template <class Fetch>
    inline __attribute__((always_inline)) void step(Fetch&& fetch) {
      for (int64_t i = 0; i < lines_per_step && rows > 0; ++i) {
        fetch(reinterpret_cast<const char*>(line));
        line += kLine;
        if (line < first + bytes) continue;
        --rows;
        first += stride;
        line = first / kLine * kLine;
      }
    }
  };
  static constexpr uintptr_t kLine = 64;

  Rows read_, written_;
};

// ----------------------------------------------------------------------------------- product

// frame [d, p] -> panels.
template <class T>
void pack_frame(const T* frame, const PanelLayout<T>& layout, T* packed) {
  const int64_t d = layout.depth, p = layout.columns;
  parallel_for<NoScratch>(
      layout.panels(),
      [&](int64_t panel, NoScratch&) {
        const int64_t first = panel * kPanel<T>, width = layout.width(panel);
        const int64_t filled = smaller(width, p - first);
        T* to = packed + layout.start(panel);
        for (int64_t l = 0; l < d; ++l, to += width) {
          for (int64_t j = 0; j < filled; ++j) to[j] = frame[l * p + first + j];
          for (int64_t j = filled; j < width; ++j) to[j] = T(0);
        }
      },
      threads_for(d * p / 16));
}

// The left operand of a tile: whole tiles of rows, each `stride` after the one before.
template <class T>
struct LeftRows {
  const T* at;
  int64_t stride;
};

// Rows that are made on the way, [rows, kDepthTile]: `read_row(r, to)` fills row r.
template <class T, class ReadRow>
LeftRows<T> made_rows(int64_t rows, T* x, ReadRow&& read_row) {
  for (int64_t r = 0; r < rows; ++r) read_row(r, x + r * kDepthTile);
  for (int64_t r = rows; r < padded_rows(rows); ++r)
    std::memset(x + r * kDepthTile, 0, sizeof(T) * kDepthTile);
  return {x, kDepthTile};
}

// tile [kRowTile, kColumnTile] = rows of x times a column range of the packed frame. `left(l0,
// depth)` gives entries l0 ... l0+depth-1 of the rows.
template <class T, class Left>
void multiply_tile(int64_t rows, int64_t first_column, int64_t columns,
                   const PanelLayout<T>& layout, const T* packed, T* tile, Left&& left) {
  const int64_t first_panel = first_column / kPanel<T>, panels = ceil_div(columns, kPanel<T>);
  const int64_t d = layout.depth;
  for (int64_t l0 = 0; l0 < d; l0 += kDepthTile) {
    const int64_t depth = smaller(kDepthTile, d - l0);
    const LeftRows<T> x = left(l0, depth);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t width = layout.width(first_panel + panel);
      panel_product(padded_rows(rows), depth, x.at, x.stride, 1,
                    packed + layout.start(first_panel + panel) + l0 * width, width,
                    tile + panel * kPanel<T>, kColumnTile, l0 > 0);
    }
  }
}

// Runs finish(tile, rows, columns, first row, first column, ahead, scratch) over the tiles of the
// product, to write `out` [n, p]. `left(row, rows, l0, depth, made)` gives the operand of rows of x
// [n, d] from `row` on, in `made` [kRowTile, kDepthTile] if it has to be made. `ahead`: what the
// tile writes, and a part of the rows that are next.
template <class T, class Scratch, class X, class Out, class Left, class Finish>
void for_each_tile(int64_t n, int64_t d, int64_t p, const X* x, const T* frame, const Out* out,
                   Left&& left, Finish&& finish) {
  const PanelLayout<T> layout{d, p};
  Buffer<T> packed(layout.size());
  pack_frame(frame, layout, packed.data());
  const int64_t column_tiles = ceil_div(p, kColumnTile);
  const int64_t most_threads = threads_for(n * p * (1 + d / 64));
  // Each thread takes about every so many-th block of rows.
  const int64_t blocks_at_once = ceil_div(smaller(most_threads, num_threads()), column_tiles);
  parallel_for<Scratch>(
      ceil_div(n, kRowTile) * column_tiles,
      [&](int64_t task, Scratch& scratch) {
        const int64_t row = task / column_tiles * kRowTile;
        const int64_t column = task % column_tiles * kColumnTile;
        const int64_t rows = smaller(kRowTile, n - row), columns = smaller(kColumnTile, p - column);
        T* made = scratch.x.resize(kRowTile * kDepthTile);
        T* tile = scratch.tile.resize(kRowTile * kColumnTile);
        multiply_tile(rows, column, columns, layout, packed.data(), tile,
                      [&](int64_t l0, int64_t depth) { return left(row, rows, l0, depth, made); });
        const int64_t next = smaller(row + blocks_at_once * kRowTile, n);
        const int64_t numbers = smaller(kRowTile, n - next) * d, part = task % column_tiles;
        const int64_t begin = numbers * part / column_tiles;
        const int64_t end = numbers * (part + 1) / column_tiles;
        Ahead ahead(x + next * d + begin, end - begin, out + row * p + column, rows, columns, p);
        finish(tile, rows, columns, row, column, ahead, scratch);
      },
      most_threads);
}

// Numbers of several vectors in turn: lane 0 of each, lane 1 of each, ...
template <class T>
inline __attribute__((always_inline)) void store_in_turn(T* to, const Vec<T> (&v)[2]) {
  Vec<T> first, second;
  interleave<T>(v[0], v[1], &first, &second);
  store(to, first);
  store(to + kLanes<T>, second);
}
template <class T>
inline __attribute__((always_inline)) void store_in_turn(T* to, const Vec<T> (&v)[4]) {
  Vec<T> even[2], odd[2];
  interleave<T>(v[0], v[2], &even[0], &even[1]);
  interleave<T>(v[1], v[3], &odd[0], &odd[1]);
  store_in_turn<T>(to, {even[0], odd[0]});
  store_in_turn<T>(to + 2 * kLanes<T>, {even[1], odd[1]});
}

// ------------------------------------------------------------------------------------ blocks
//
// The random blocks of a tile, row by row and in a row group by group, with no gap between rows:
// so their normals lie in the order of the tile, and vectors are full however few columns it has.

// The names of kBatch blocks.
struct BlockNames {
  uint32_t group[kBatch], low[kBatch], high[kBatch];  // of the row: two halves of its number

  BlockNames(uint64_t row, uint32_t first_group, int64_t groups)
      : row_(row), first_(first_group), groups_(groups) {}

  // Those that are next. Blocks may be named beyond the last one: they are not released.
  void advance() {
    for (int64_t i = 0; i < kBatch;) {
      const int64_t run = smaller(kBatch - i, groups_ - at_);
      for (int64_t k = 0; k < run; ++k) {
        group[i + k] = first_ + static_cast<uint32_t>(at_ + k);
        low[i + k] = static_cast<uint32_t>(row_);
        high[i + k] = static_cast<uint32_t>(row_ >> 32);
      }
      i += run;
      at_ += run;
      if (at_ == groups_) at_ = 0, ++row_;
    }
  }

 private:
  uint64_t row_;
  uint32_t first_;
  int64_t groups_, at_ = 0;
};

// ------------------------------------------------------------------------------- secure noise

constexpr int kWordLanes = kVectorBytes / 4;
static_assert(kBatch % kWordLanes == 0);

// The words of kBatch blocks that are used.
struct KeyStream {
  uint32_t words[kUsedWords * kBatch];
};

struct SecureScratch {
  SecretBuffer<double> x, tile, noise;
  SecretBuffer<KeyStream> stream;
};

// Of the first `count` <= kBatch blocks.
void key_stream(const uint32_t* key, const BlockNames& names, int64_t count, Ahead& ahead,
                KeyStream& s) {
  for (int64_t start = 0; start < count; start += kWordLanes) {
    ahead.step();
    WordVec group, low, high, out[kChaChaWords];
    std::memcpy(&group, names.group + start, sizeof group);
    std::memcpy(&low, names.low + start, sizeof low);
    std::memcpy(&high, names.high + start, sizeof high);
    chacha20_block<WordVec>(key, group, low, high, WordVec{} + kNoiseDomain, out);
    for (int w = 0; w < kUsedWords; ++w)
      std::memcpy(s.words + w * kBatch + start, &out[w], sizeof out[w]);
  }
}

// Two normals for each lane, from six words each: word w of lane l is at words[w * row + l].
inline __attribute__((always_inline)) void secure_normals_of(const uint32_t* words, int64_t row,
                                                             Vec<double>* normal) {
  secure_normal_pair<VectorArithmetic>(load_words(words), load_words(words + row),
                                       load_words(words + 2 * row), load_words(words + 3 * row),
                                       load_words(words + 4 * row), load_words(words + 5 * row),
                                       normal, normal + 1);
}

// noise [rows, kBlockNormals groups]: standard normals. There must be space for kBatch blocks more.
void secure_noise(const uint32_t* key, uint64_t row, uint32_t group, int64_t rows, int64_t groups,
                  Ahead& ahead, KeyStream& s, double* noise) {
  const int64_t blocks = rows * groups;
  ahead.spread(ceil_div(blocks, kWordLanes));
  BlockNames names(row, group, groups);
  for (int64_t first = 0; first < blocks; first += kBatch) {
    names.advance();
    key_stream(key, names, smaller(kBatch, blocks - first), ahead, s);
    for (int i = 0; i < kBatch; i += kLanes<double>) {
      Vec<double> normal[kBlockNormals];
      secure_normals_of(s.words + i, kBatch, normal);
      secure_normals_of(s.words + 6 * kBatch + i, kBatch, normal + 2);
      store_in_turn(noise + (first + i) * kBlockNormals, normal);
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
  // power of two is exact, so nearbyint (ties to even) does all the rounding there is. It keeps the
  // sign of what it rounds to zero, which would cut that cell of the grid in two: adding 0 takes
  // the sign away.
  const double h = std::ldexp(1.0, std::ilogb(args.sigma) - 10), per_h = 1.0 / h;
  for_each_tile<double, SecureScratch>(
      n, d, p, x, args.frame, args.out,
      [&](int64_t row, int64_t rows, int64_t l0, int64_t depth, double* made) {
        return made_rows(rows, made, [&](int64_t r, double* to) {
          const X* from = x + (row + r) * d + l0;
          for (int64_t l = 0; l < depth; ++l)
            to[l] = static_cast<double>(from[l]) * factor[row + r];
        });
      },
      [&](const double* tile, int64_t rows, int64_t columns, int64_t row, int64_t column,
          Ahead& ahead, SecureScratch& scratch) {
        KeyStream& stream = *scratch.stream.resize(1);
        double* noise = scratch.noise.resize(kRowTile * kColumnTile + kBatch * kBlockNormals);
        const int64_t groups = ceil_div(columns, kBlockNormals);
        secure_noise(args.key, args.first_row + static_cast<uint64_t>(row),
                     static_cast<uint32_t>(column / kBlockNormals), rows, groups, ahead, stream,
                     noise);
        for (int64_t r = 0; r < rows; ++r) {
          const double* product = tile + r * kColumnTile;
          const double* normal = noise + r * groups * kBlockNormals;
          T* out = args.out + (row + r) * p + column;
          for (int64_t j = 0; j < columns; ++j)
            out[j] = static_cast<T>(
                h * (std::nearbyint((product[j] + args.sigma * normal[j]) * per_h) + 0.0));
        }
      });
}

// --------------------------------------------------------------------------------- fast noise

// Philox works on lanes of 64 bits, a block in each: two vectors of them at a time, which are one
// vector of words in float32, two in float64.
constexpr int kFastBlocks = 2 * kLanes<double>;
static_assert(kBatch % kFastBlocks == 0);

template <class T>
struct FastScratch {
  struct Words {
    typename Lanes<T>::Bits at[4][kBatch];
  };
  SecretBuffer<T> x, tile, noise;
  SecretBuffer<Words> words;
};

// The keys of all rounds, in each lane.
struct PhiloxKeys {
  WideVec at[kPhiloxRounds][2];

  explicit PhiloxKeys(const uint32_t* key) {
    for (int round = 0; round < kPhiloxRounds; ++round)
      for (int i = 0; i < 2; ++i)
        at[round][i] = WideVec{} + (key[i] + static_cast<uint32_t>(round) * philox_key_step(i));
  }
};

// Words of kFastBlocks names. In float32 vector 0 has those of even places, with others above them,
// and vector 1 those of odd ones.
template <class T>
inline WideVecs<2> wide_words(const uint32_t* from) {
  if constexpr (sizeof(T) == 8) return {{load_words(from), load_words(from + kLanes<double>)}};
  WideVec both;
  std::memcpy(&both, from, sizeof both);
  return {{both, VectorArithmetic::high_half(both)}};
}
template <class T>
inline void store_words(WideVecs<2> words, typename Lanes<T>::Bits* to) {
  if constexpr (sizeof(T) == 8) {
    for (int v = 0; v < 2; ++v)
      store_bits<T>(to + v * kLanes<T>, VectorArithmetic::low_word(words.at[v]));
  } else {
    store_bits<T>(to, join_words(words.at[0], words.at[1]));
  }
}

// noise [rows, kFastNormals groups]: standard normals. There must be space for kBatch blocks more.
// Words first, then normals: so the steps of neighbours overlap.
template <class T>
void fast_noise(const uint32_t* key, uint64_t row, uint32_t group, int64_t rows, int64_t groups,
                Ahead& ahead, typename FastScratch<T>::Words& words, T* noise) {
  constexpr int normals = kFastNormals<T>;
  const int64_t blocks = rows * groups;
  ahead.spread(ceil_div(blocks, kLanes<T>));
  const PhiloxKeys keys(key);
  BlockNames names(row, group, groups);
  for (int64_t first = 0; first < blocks; first += kBatch) {
    names.advance();
    const int64_t count = smaller(kBatch, blocks - first);
    for (int64_t i = 0; i < count; i += kFastBlocks) {
      WideVecs<2> c[4] = {wide_words<T>(names.group + i),
                          wide_words<T>(names.low + i),
                          wide_words<T>(names.high + i),
                          {}};
      philox4x32<VectorArithmetic>(c[0], c[1], c[2], c[3],
                                   [&](int round, int k) { return keys.at[round][k]; });
      for (int w = 0; w < 4; ++w) store_words<T>(c[w], words.at[w] + i);
    }
    for (int64_t i = 0; i < count; i += kLanes<T>) {
      ahead.step();
      Vec<T> normal[normals];
      fast_normals<VectorArithmetic>(load_bits<T>(words.at[0] + i), load_bits<T>(words.at[1] + i),
                                     load_bits<T>(words.at[2] + i), load_bits<T>(words.at[3] + i),
                                     normal);
      store_in_turn(noise + (first + i) * normals, normal);
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
      n, d, p, args.x, args.frame, args.out,
      [&](int64_t row, int64_t rows, int64_t l0, int64_t depth, T* made) {
        const T* const from = args.x + row * d + l0;
        if (rows == padded_rows(rows)) return LeftRows<T>{from, d};
        return made_rows(rows, made, [&](int64_t r, T* to) {
          std::memcpy(to, from + r * d, sizeof(T) * static_cast<size_t>(depth));
        });
      },
      [&](const T* tile, int64_t rows, int64_t columns, int64_t row, int64_t column, Ahead& ahead,
          FastScratch<T>& scratch) {
        constexpr int normals = kFastNormals<T>;
        T* noise = scratch.noise.resize(kRowTile * kColumnTile + kBatch * normals);
        const int64_t groups = ceil_div(columns, normals);
        if (sigma != T(0))
          fast_noise<T>(args.key, args.first_row + static_cast<uint64_t>(row),
                        static_cast<uint32_t>(column / normals), rows, groups, ahead,
                        *scratch.words.resize(1), noise);
        for (int64_t r = 0; r < rows; ++r) {
          const T* product = tile + r * kColumnTile;
          const T* normal = noise + r * groups * normals;
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
  for (int64_t i = 0; i < args.n; i += kLanes<double>) {
    const int count = static_cast<int>(smaller(kLanes<double>, args.n - i));
    uint32_t words[6 * kLanes<double>] = {};
    for (int lane = 0; lane < count; ++lane)
      for (int w = 0; w < 6; ++w) words[w * kLanes<double> + lane] = args.words[6 * (i + lane) + w];
    Vec<double> normal[2];
    secure_normals_of(words, kLanes<double>, normal);
    double in_turn[2 * kLanes<double>];
    store_in_turn<double>(in_turn, normal);
    std::memcpy(args.out + 2 * i, in_turn, sizeof(double) * 2 * static_cast<size_t>(count));
  }
}

DPSLICE_INSTANTIATE(project_secure, ProjectSecureArgs)
DPSLICE_INSTANTIATE(project_fast, ProjectFastArgs)
template void secure_normals<double>(const SecureNormalsArgs<double>&);

}  // namespace dpslice::DPSLICE_ISA
