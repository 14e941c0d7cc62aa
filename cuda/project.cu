// project: XU + sigma * noise. Matrix instructions multiply; a lane makes the noise of the numbers
// that they leave in its registers, and writes them once.
//
// A block holds the frame, or a ring of pieces of it, in shared memory and stays for many rows. Its
// warps go on without waiting for each other, so one warp's product runs under another's noise; the
// coordinates of the next rows are under way meanwhile. Each lane copies what it will itself read.
//
// Two ways to multiply. In float64, as it is. In float32, each factor is the sum of two TF32
// numbers, and the three products that matter are added up; what is left out is 2^-21 of a product
// or less, of either sign. Sums of a chunk, which matrix instructions round towards zero, go to
// float32 sums that are rounded to nearest.
//
// Columns and coordinates are dealt to the lanes such that a lane gets four neighbouring columns,
// which are one block of ChaCha20 and one or two of Philox, and reads 16 neighbouring bytes of a
// row. Noise depends on (key, row number, column) alone, by the counters of csrc/project.cpp: the
// same random words for the same number, on either device and whatever the tiling.
#include <algorithm>
#include <cmath>

#include "common/bits.h"
#include "common/counter_normal.h"
#include "common/philox.h"
#include "kernels.h"
#include "launch.h"
#include "mma.cuh"
#include "project_args.h"
#include "secure_wipe.h"

namespace dpslice::cuda {
namespace {

constexpr int kBlockColumns = 128;  // at most
constexpr int kDepth = 16;          // coordinates of a chunk
constexpr int kStages = 3;          // chunks in a ring: one in use, the others under way
constexpr int kQuad = 4;            // neighbouring columns of a lane
constexpr int kRoundsUnrolled = 1;  // pairs of rounds of ChaCha20, of 9: code must stay small
constexpr int kPrepareThreads = 256;
constexpr uint32_t kNoiseDomain = 0;

// What a lane copies and loads at a time.
struct alignas(16) Piece {
  uint32_t word[4];
};

// What a warp has of the product in C: rows group + 8 h, columns 16 q + 4 place ... + 3. A block
// has at most so many warps, for their registers.
template <class C>
struct Tile;
template <>
struct Tile<float> {
  static constexpr int rows = 32, columns = 64, warps = 12;
};
template <>
struct Tile<double> {
  static constexpr int rows = 16, columns = 32, warps = 16;
};
template <class C>
constexpr int kEights = Tile<C>::rows / 8;
template <class C>
constexpr int kSixteens = Tile<C>::columns / 16;
template <class C>
constexpr int kQuads = kEights<C> * kSixteens<C>;

// Of a row of a chunk, a lane has the numbers `step` = 0 ... 3.
template <class X>
constexpr int kPieceNumbers = static_cast<int>(sizeof(Piece) / sizeof(X));
template <class X>
constexpr int kRowPieces = kDepth * static_cast<int>(sizeof(X)) / (4 * 16);
template <class X>
__device__ inline int coordinate(int place, int step) {
  constexpr int numbers = kPieceNumbers<X>;
  return step / numbers * 4 * numbers + place * numbers + step % numbers;
}
template <class X, class C>
constexpr int kStagePieces = kEights<C> * kRowPieces<X> * kWarp;  // of a warp

struct Layout {
  int64_t n, d, p;
  int column_tiles, row_tiles;
  int chunks, last_depth;  // of d, and coordinates of the last chunk
  int across;              // warps side by side along the columns
  int tile_rows;           // of a block
  bool resident;           // the frame's columns of a block are in shared memory as a whole
  bool pieces;             // rows of x are whole, aligned pieces

  __host__ __device__ int eights(int columns) const { return across * columns / 8; }
};
// Pieces of a chunk of the frame: for each eight columns, two for each lane.
template <class C>
__host__ __device__ inline int chunk_pieces(const Layout& layout) {
  return layout.eights(Tile<C>::columns) * 2 * kWarp;
}

// ------------------------------------------------------------------------------------- the frame

__device__ inline void store_pair(const double value[2], Piece* to) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint64_t bits = bits_as<uint64_t>(value[i]);
    to->word[2 * i] = static_cast<uint32_t>(bits);
    to->word[2 * i + 1] = static_cast<uint32_t>(bits >> 32);
  }
}
// The large parts, then the small ones. The large ones are rounded, so that the small ones have
// either sign and what is left out of a product has no bias; the greatest would be infinite.
__device__ inline void store_pair(const float value[2], Piece* to) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    to->word[i] = fabsf(value[i]) < 3e38f ? tf32_near(value[i]) : tf32_cut(value[i]);
    to->word[2 + i] = tf32_near(value[i] - bits_as<float>(to->word[i]));
  }
}

// table [column tile, chunk, eight columns, half, lane]: the frame as the lanes read it; a half is
// two of the four steps. Zero beyond d and p.
template <class X, class C>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(Layout layout, const C* frame, Piece* table) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPrepareThreads + threadIdx.x;
  const int pieces = chunk_pieces<C>(layout);
  if (index >= int64_t{layout.column_tiles} * layout.chunks * pieces) return;
  const int lane = static_cast<int>(index % kWarp), half = static_cast<int>(index / kWarp % 2);
  const int eight = static_cast<int>(index % pieces) / (2 * kWarp);
  const int64_t chunk = index / pieces % layout.chunks;
  const int64_t column_tile = index / pieces / layout.chunks;
  const int group = lane / 4, place = lane % 4;
  const int64_t column = column_tile * layout.across * Tile<C>::columns + eight / 2 * 16 +
                         group / 2 * kQuad + eight % 2 * 2 + group % 2;
  C value[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int64_t l = chunk * kDepth + coordinate<X>(place, 2 * half + i);
    value[i] = l < layout.d && column < layout.p ? frame[l * layout.p + column] : C(0);
  }
  store_pair(value, table + index);
}

// ----------------------------------------------------------------------------------- the product

// x: the lane's pieces of a chunk of rows; table: those of a chunk of the frame.

__device__ inline void multiply_chunk(const Piece* x, const Piece* table,
                                      float (&sum)[kQuads<float>][kQuad]) {
  constexpr int sixteens = Tile<float>::rows / 16;
  uint32_t large[2][sixteens][4], small[2][sixteens][4];
#pragma unroll
  for (int h = 0; h < kEights<float>; ++h) {
    const Piece piece = x[h * kWarp];
#pragma unroll
    for (int step = 0; step < 4; ++step) {
      // Cut, not rounded, so that the greatest numbers stay finite.
      const float value = bits_as<float>(piece.word[step]);
      const uint32_t bits = tf32_cut(value);
      const int at = h % 2 + step % 2 * 2;
      large[step / 2][h / 2][at] = bits;
      small[step / 2][h / 2][at] = tf32_near(value - bits_as<float>(bits));
    }
  }
#pragma unroll
  for (int eight = 0; eight < Tile<float>::columns / 8; ++eight) {
    uint32_t u[2][2][2];  // of a half: large, small
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Piece piece = table[(eight * 2 + half) * kWarp];
#pragma unroll
      for (int i = 0; i < 4; ++i) u[half][i / 2][i % 2] = piece.word[i];
    }
    float part[sixteens][4] = {};
    // The small products first: rounding their sum costs nothing.
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int r = 0; r < sixteens; ++r) multiply_add_tf32(part[r], small[half][r], u[half][0]);
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int r = 0; r < sixteens; ++r) multiply_add_tf32(part[r], large[half][r], u[half][1]);
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int r = 0; r < sixteens; ++r) multiply_add_tf32(part[r], large[half][r], u[half][0]);
#pragma unroll
    for (int r = 0; r < sixteens; ++r)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sum[(2 * r + i / 2) * kSixteens<float> + eight / 2][eight % 2 * 2 + i % 2] += part[r][i];
  }
}

__device__ inline double number_of(const Piece& piece, int i, float) {
  return static_cast<double>(bits_as<float>(piece.word[i]));
}
__device__ inline double number_of(const Piece& piece, int i, double) {
  return bits_as<double>(static_cast<uint64_t>(piece.word[2 * i + 1]) << 32 | piece.word[2 * i]);
}

template <class X>
__device__ inline void multiply_chunk(const Piece* x, const Piece* table,
                                      double (&sum)[kQuads<double>][kQuad]) {
  static_assert(Tile<double>::rows == 16);
  double a[2][4];  // of a half
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int j = 0; j < kRowPieces<X>; ++j) {
      const Piece piece = x[(h * kRowPieces<X> + j) * kWarp];
#pragma unroll
      for (int i = 0; i < kPieceNumbers<X>; ++i) {
        const int step = j * kPieceNumbers<X> + i;
        a[step / 2][step % 2 * 2 + h] = number_of(piece, i, X());
      }
    }
#pragma unroll
  for (int half = 0; half < 2; ++half)
#pragma unroll
    for (int eight = 0; eight < Tile<double>::columns / 8; ++eight) {
      const Piece piece = table[(eight * 2 + half) * kWarp];
      const double u[2] = {number_of(piece, 0, double()), number_of(piece, 1, double())};
      // Columns 2 place, 2 place + 1 of an eight are a half of the lane's quad.
      double part[4];
#pragma unroll
      for (int i = 0; i < 4; ++i)
        part[i] = sum[i / 2 * kSixteens<double> + eight / 2][eight % 2 * 2 + i % 2];
      multiply_add_f64(part, a[half], u);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        sum[i / 2 * kSixteens<double> + eight / 2][eight % 2 * 2 + i % 2] = part[i];
    }
}
template <class X>
__device__ inline void multiply_chunk(const Piece* x, const Piece* table,
                                      float (&sum)[kQuads<float>][kQuad]) {
  multiply_chunk(x, table, sum);
}

// Starts the copies of a lane's pieces of a chunk: `at` is its first number there, `rows` how many
// rows there are from its first one, `depth` how many coordinates from the first of the chunk. What
// lies beyond the rows is left as it was, as nothing will be read of its products; beyond d is
// zero.
template <class X, class C>
__device__ inline void copy_rows(const X* at, int64_t d, int rows, int depth, bool pieces,
                                 int place, Piece* to) {
  constexpr int numbers = kPieceNumbers<X>;
#pragma unroll
  for (int h = 0; h < kEights<C>; ++h) {
    if (8 * h >= rows) break;
    const X* from = at + 8 * h * d;
#pragma unroll
    for (int j = 0; j < kRowPieces<X>; ++j) {
      Piece* piece = to + (h * kRowPieces<X> + j) * kWarp;
      const int l = coordinate<X>(place, j * numbers);
      if (pieces) {
        if (l < depth)
          copy_async(piece, from + 4 * numbers * j);
        else
          *piece = Piece{};
      } else {
#pragma unroll
        for (int i = 0; i < numbers; ++i) {
          X* number = reinterpret_cast<X*>(piece) + i;
          if (l + i < depth)
            copy_number_async(number, from + 4 * numbers * j + i);
          else
            *number = X(0);
        }
      }
    }
  }
}

// ------------------------------------------------------------------------------------- the noise
//
// Quotients and roots of normal numbers to an ulp or two, without branches, so that the
// instructions of several normals are mixed; all else as in common/arithmetic.h.

struct QuickMaths : Arithmetic {
  static __device__ double quotient(double a, double b) {
    double inverse = rough_inverse(b);
    inverse += inverse * fma(-b, inverse, 1.0);
    const double rough = a * inverse;
    return fma(fma(-b, rough, a), inverse, rough);
  }
  static __device__ double root(double x) {
    x += 1e-300;  // the greatest numbers of fast noise round to 1, and their logarithms to 0
    const double inverse = rough_inverse_root(x);
    double y = x * inverse, half = 0.5 * inverse;
    const double lost = fma(-y, half, 0.5);
    y += y * lost;
    half += half * lost;
    return fma(fma(-y, y, x), half, y);
  }
  static __device__ float quotient(float a, float b) { return near_quotient(a, b); }
  static __device__ float root(float x) { return near_root(x); }
};

// Four neighbours of a row, of which `left` are columns of the array.
template <class T>
__device__ inline void store_quad(const T (&value)[kQuad], bool aligned, int left, T* to) {
  struct alignas(16) Together {
    T value[kQuad];
  };
  if (aligned && left >= kQuad) {
    Together together;
#pragma unroll
    for (int c = 0; c < kQuad; ++c) together.value[c] = value[c];
    *reinterpret_cast<Together*>(to) = together;
  } else {
#pragma unroll
    for (int c = 0; c < kQuad; ++c)
      if (c < left) to[c] = value[c];
  }
}

__host__ __device__ constexpr uint32_t chacha_constant(int column) {
  constexpr uint32_t constants[4] = {0x61707865u, 0x3320646eu, 0x79622d32u, 0x6b206574u};
  return constants[column];
}

template <class T>
struct SecureNoise {
  using X = T;
  using C = double;
  static constexpr int at_once = 2;  // quads of a row whose noise is made together
  ProjectSecureArgs<T> args;
  double grid, per_grid;
  bool aligned;
  // Column 3 of a block after the first quarter round, which sees the key and the domain alone.
  uint32_t last[4];

  SecureNoise(const ProjectSecureArgs<T>& given, bool aligned_out)
      : args(given), aligned(aligned_out) {
    grid = std::ldexp(1.0, std::ilogb(args.sigma) - 10);
    per_grid = 1.0 / grid;
    last[0] = chacha_constant(3);
    last[1] = args.key[3], last[2] = args.key[7];
    last[3] = kNoiseDomain;
    chacha20_quarter_round(last[0], last[1], last[2], last[3]);
  }

  // The first words of the blocks of row `number`, counters group, group + 4, ...: nonce (number,
  // domain). Columns 1 and 2 see the row alone in their first quarter round.
  template <int quads>
  __device__ void key_stream(uint64_t number, uint32_t group, uint32_t (&s)[quads][16]) const {
    const uint32_t low = static_cast<uint32_t>(number), high = static_cast<uint32_t>(number >> 32);
    uint32_t row[2][4] = {{chacha_constant(1), args.key[1], args.key[5], low},
                          {chacha_constant(2), args.key[2], args.key[6], high}};
#pragma unroll
    for (int i = 0; i < 2; ++i) chacha20_quarter_round(row[i][0], row[i][1], row[i][2], row[i][3]);
#pragma unroll
    for (int q = 0; q < quads; ++q) {
      s[q][0] = chacha_constant(0);
      s[q][4] = args.key[0];
      s[q][8] = args.key[4];
      s[q][12] = group + static_cast<uint32_t>(q * 16 / kQuad);
      chacha20_quarter_round(s[q][0], s[q][4], s[q][8], s[q][12]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[q][4 * i + 1] = row[0][i];
        s[q][4 * i + 2] = row[1][i];
        s[q][4 * i + 3] = last[i];
      }
      diagonals(s[q]);
    }
#pragma unroll kRoundsUnrolled
    for (int round = 2; round < kChaChaRounds; round += 2)
#pragma unroll
      for (int q = 0; q < quads; ++q) {
#pragma unroll
        for (int i = 0; i < 4; ++i)
          chacha20_quarter_round(s[q][i], s[q][4 + i], s[q][8 + i], s[q][12 + i]);
        diagonals(s[q]);
      }
#pragma unroll
    for (int q = 0; q < quads; ++q)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        s[q][i] += chacha_constant(i);
        s[q][4 + i] += args.key[i];
        s[q][8 + i] += args.key[4 + i];
      }
  }
  static __device__ void diagonals(uint32_t (&s)[16]) {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      chacha20_quarter_round(s[i], s[4 + (i + 1) % 4], s[8 + (i + 2) % 4], s[12 + (i + 3) % 4]);
  }

  template <int quads>
  __device__ void finish(const double (*product)[kQuad], uint64_t number, int64_t column,
                         int columns, T* out) const {
    uint32_t w[quads][16];
    key_stream<quads>(number, static_cast<uint32_t>(column / kQuad), w);
    double normal[quads][kQuad];
#pragma unroll
    for (int q = 0; q < quads; ++q)
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const uint32_t* const own = w[q] + 6 * i;
        secure_normal_pair<QuickMaths>(own[0], own[1], own[2], own[3], own[4], own[5],
                                       &normal[q][2 * i], &normal[q][2 * i + 1]);
      }
    // As on the CPU: dividing by a power of two is exact, so rint (ties to even) does all the
    // rounding there is, and adding 0 takes the sign of zeros away.
#pragma unroll
    for (int q = 0; q < quads; ++q) {
      T value[kQuad];
#pragma unroll
      for (int c = 0; c < kQuad; ++c)
        value[c] = static_cast<T>(
            grid * (rint((product[q][c] + args.sigma * normal[q][c]) * per_grid) + 0.0));
      store_quad(value, aligned, columns - 16 * q, out + 16 * q);
    }
  }
};

template <class T>
struct FastNoise {
  using X = T;
  using C = T;
  static constexpr int at_once = sizeof(T) == 4 ? 4 : 2;
  ProjectFastArgs<T> args;
  T sigma;
  bool aligned;

  template <int quads>
  __device__ void finish(const T (*product)[kQuad], uint64_t number, int64_t column, int columns,
                         T* out) const {
    constexpr int normals = kFastNormals<T>;
    T value[quads][kQuad];
#pragma unroll
    for (int q = 0; q < quads; ++q)
#pragma unroll
      for (int c = 0; c < kQuad; ++c) value[q][c] = product[q][c];
    if (sigma != T(0)) {
#pragma unroll
      for (int q = 0; q < quads; ++q) {
        T normal[kQuad];
#pragma unroll
        for (int g = 0; g < kQuad / normals; ++g) {
          uint32_t w[4] = {static_cast<uint32_t>((column + 16 * q) / normals + g),
                           static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32), 0};
          philox4x32(w[0], w[1], w[2], w[3], args.key[0], args.key[1]);
          fast_normals<QuickMaths>(w[0], w[1], w[2], w[3], normal + g * normals);
        }
#pragma unroll
        for (int c = 0; c < kQuad; ++c) value[q][c] += sigma * normal[c];
      }
    }
#pragma unroll
    for (int q = 0; q < quads; ++q) store_quad(value[q], aligned, columns - 16 * q, out + 16 * q);
  }
};

// For as many sixteens of columns as there are, of all the warp's lanes together.
template <int quads, class Noise, class Product, class T>
__device__ inline void finish_row(const Noise& noise, const Product* product, uint64_t number,
                                  int64_t column, int columns, int place, T* out) {
  if constexpr (quads > 1)
    if (columns + place * kQuad <= 16 * (quads / 2))
      return finish_row<quads / 2>(noise, product, number, column, columns, place, out);
  noise.template finish<quads>(product, number, column, columns, out);
}

// ------------------------------------------------------------------------------------ the kernel

// How many of `most` there are.
__device__ inline int part_of(int64_t left, int most) {
  return left < 0 ? 0 : left < most ? static_cast<int>(left) : most;
}

// Shared memory: the frame's columns of the block, or a ring of chunks of them; then a ring of
// chunks of rows for each warp.
template <class Noise>
__global__ void __launch_bounds__(Tile<typename Noise::C>::warps* kWarp, 1)
    project_kernel(Layout layout, const Piece* table, Noise noise) {
  using X = typename Noise::X;
  using C = typename Noise::C;
  using Warp = Tile<C>;
  constexpr int stage_pieces = kStagePieces<X, C>;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int group = lane / 4, place = lane % 4;
  const int threads = static_cast<int>(blockDim.x);
  const int frame_pieces = chunk_pieces<C>(layout);
  const int held = layout.resident ? layout.chunks : kStages;
  Piece* frame = dynamic_shared<Piece>();
  Piece* rows = frame + held * frame_pieces + warp * kStages * stage_pieces + lane;

  const int column_tile = static_cast<int>(blockIdx.x) % layout.column_tiles;
  table += static_cast<int64_t>(column_tile) * layout.chunks * frame_pieces;
  const Piece* own = frame + warp % layout.across * (Warp::columns / 8 * 2 * kWarp) + lane;
  const int first_tile = static_cast<int>(blockIdx.x) / layout.column_tiles;
  const int step = static_cast<int>(gridDim.x) / layout.column_tiles;
  const auto first_row = [&](int tile) {
    return static_cast<int64_t>(tile) * layout.tile_rows +
           (warp / layout.across * Warp::rows + group);
  };

  // The copies are ahead of the products by kStages - 1 chunks.
  int ahead_tile = first_tile;
  int ahead_chunk = 0, ahead_stage = 0, ahead_rows = 0;
  const X* at = nullptr;
  const auto start_tile = [&] {
    const int64_t row = first_row(ahead_tile);
    at = noise.args.x + row * layout.d + place * kPieceNumbers<X>;
    ahead_rows = part_of(layout.n - row, Warp::rows);
  };
  const auto copy_ahead = [&] {
    if (ahead_tile < layout.row_tiles) {
      copy_rows<X, C>(at, layout.d, ahead_rows,
                      ahead_chunk + 1 < layout.chunks ? kDepth : layout.last_depth, layout.pieces,
                      place, rows + ahead_stage * stage_pieces);
      if (!layout.resident) {
        const Piece* from = table + static_cast<int64_t>(ahead_chunk) * frame_pieces;
        Piece* to = frame + ahead_stage * frame_pieces;
        for (int i = static_cast<int>(threadIdx.x); i < frame_pieces; i += threads)
          copy_async(to + i, from + i);
      }
      at += kDepth;
      if (++ahead_chunk == layout.chunks) {
        ahead_chunk = 0;
        ahead_tile += step;
        start_tile();
      }
      ahead_stage = ahead_stage + 1 == kStages ? 0 : ahead_stage + 1;
    }
    end_copy_group();
  };
  start_tile();
  for (int i = 1; i < kStages; ++i) copy_ahead();
  if (layout.resident) {
    for (int i = static_cast<int>(threadIdx.x); i < layout.chunks * frame_pieces; i += threads)
      copy_async(frame + i, table + i);
    end_copy_group();
    wait_for_copies<0>();
    __syncthreads();
  }

  int stage = 0;
  for (int tile = first_tile; tile < layout.row_tiles; tile += step) {
    C sum[kQuads<C>][kQuad] = {};
#pragma unroll 1
    for (int chunk = 0; chunk < layout.chunks; ++chunk) {
      wait_for_copies<kStages - 2>();
      if (!layout.resident) __syncthreads();
      copy_ahead();
      multiply_chunk<X>(rows + stage * stage_pieces,
                        own + (layout.resident ? chunk : stage) * frame_pieces, sum);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    // Not unrolled, for the sake of the instruction cache: the next numbers take the places of
    // those that are done.
    constexpr int at_once = Noise::at_once, runs = kSixteens<C> / at_once;
    static_assert(kSixteens<C> % at_once == 0);
    const int64_t row = first_row(tile);
    const int64_t column =
        (column_tile * layout.across + warp % layout.across) * int64_t{Warp::columns} +
        place * kQuad;
    const int columns = part_of(layout.p - column, Warp::columns);
#pragma unroll 1
    for (int run = 0; run < kEights<C> * runs; ++run) {
      const int64_t at_row = row + run / runs * 8;
      const int first = run % runs * at_once * 16;
      if (at_row < layout.n && first < columns)
        finish_row<at_once>(noise, sum, noise.args.first_row + static_cast<uint64_t>(at_row),
                            column + first, columns - first, place,
                            noise.args.out + at_row * layout.p + column + first);
#pragma unroll
      for (int quad = at_once; quad < kQuads<C>; ++quad)
#pragma unroll
        for (int c = 0; c < kQuad; ++c) sum[quad - at_once][c] = sum[quad][c];
    }
  }
}

// ------------------------------------------------------------------------------------- launchers

template <class T>
bool whole_pieces(const T* array, int64_t columns) {
  return reinterpret_cast<uintptr_t>(array) % sizeof(Piece) == 0 &&
         columns * static_cast<int64_t>(sizeof(T)) % static_cast<int64_t>(sizeof(Piece)) == 0;
}

template <class Noise>
void project(const Noise& noise, const Execution& execution) {
  using X = typename Noise::X;
  using C = typename Noise::C;
  const auto& args = noise.args;
  Layout layout{};
  layout.n = args.n, layout.d = args.d, layout.p = args.p;
  layout.pieces = whole_pieces(args.x, args.d);
  layout.chunks = static_cast<int>(ceil_div(args.d, kDepth));
  layout.last_depth = static_cast<int>(args.d - (layout.chunks - 1) * int64_t{kDepth});
  layout.across = 1;
  while (layout.across * Tile<C>::columns < std::min<int64_t>(args.p, kBlockColumns))
    layout.across *= 2;
  const int64_t column_tiles = ceil_div(args.p, layout.across * Tile<C>::columns);

  // Fewer warps where the rows would not keep all multiprocessors busy, or do not fit.
  int warps = Tile<C>::warps;
  const auto shared_bytes = [&](int64_t chunks) {
    return sizeof(Piece) * static_cast<size_t>(chunks * chunk_pieces<C>(layout) +
                                               warps * kStages * kStagePieces<X, C>);
  };
  const auto row_tiles = [&] { return ceil_div(args.n, warps / layout.across * Tile<C>::rows); };
  while (warps > layout.across && (row_tiles() * column_tiles < execution.multiprocessors ||
                                   shared_bytes(kStages) > execution.shared_limit))
    warps = std::max(1, warps / 2 / layout.across) * layout.across;
  layout.column_tiles = static_cast<int>(column_tiles);
  layout.row_tiles = static_cast<int>(row_tiles());
  layout.tile_rows = warps / layout.across * Tile<C>::rows;
  layout.resident =
      layout.chunks <= kStages || shared_bytes(layout.chunks) <= execution.shared_limit;
  const int64_t places = execution.multiprocessors * (Tile<C>::warps / warps);
  const int64_t blocks =
      column_tiles * std::min(row_tiles(), std::max<int64_t>(1, places / column_tiles));

  const int64_t pieces = column_tiles * layout.chunks * chunk_pieces<C>(layout);
  const Workspace<Piece> table(pieces, execution);
  launch(prepare_kernel<X, C>, ceil_div(pieces, kPrepareThreads), kPrepareThreads, 0, execution,
         layout, args.frame, table.data());
  launch(project_kernel<Noise>, blocks, warps * kWarp,
         shared_bytes(layout.resident ? layout.chunks : kStages), execution, layout,
         static_cast<const Piece*>(table.data()), noise);
}

}  // namespace

template <class T>
void project_secure(const ProjectSecureArgs<T>& args, const Execution& execution) {
  SecureNoise<T> noise(args, whole_pieces(args.out, args.p));
  // The copies that launching makes are out of reach.
  const WipedAtExit key_wiped(&noise.args.key, sizeof noise.args.key);
  const WipedAtExit rounds_wiped(noise.last, sizeof noise.last);
  project(noise, execution);
}

template <class T>
void project_fast(const ProjectFastArgs<T>& args, const Execution& execution) {
  project(FastNoise<T>{args, static_cast<T>(args.sigma), whole_pieces(args.out, args.p)},
          execution);
}

DPSLICE_CUDA_INSTANTIATE(project_secure, ProjectSecureArgs)
DPSLICE_CUDA_INSTANTIATE(project_fast, ProjectFastArgs)

}  // namespace dpslice::cuda
