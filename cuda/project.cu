// project: XU + sigma * noise. Matrix instructions multiply; a lane makes the noise of the numbers
// that they leave in its registers, and writes them once.
//
// A block holds the frame, or a ring of pieces of it, in shared memory and stays for many rows. Its
// warps go on without waiting for each other, so one warp's product runs under another's noise; the
// coordinates of the next rows are under way meanwhile. Each lane copies what it will itself read.
//
// Two ways to multiply. In float64, as it is. In float32, each factor is the sum of two TF32
// numbers, and the three products that matter are added up; what is left out is 2^-23 of a product
// or less. Sums of a chunk, which matrix instructions round towards zero, go to float32 sums that
// are rounded to nearest.
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

namespace dpslice::cuda {
namespace {

constexpr int kWarps = 16;          // of a block, at most
constexpr int kBlockColumns = 128;  // at most
constexpr int kDepth = 16;          // coordinates of a chunk
constexpr int kStages = 3;          // chunks in a ring: one in use, the others under way
constexpr int kQuad = 4;            // neighbouring columns of a lane
constexpr int kPrepareThreads = 256;
constexpr uint32_t kNoiseDomain = 0;

// What a lane copies and loads at a time.
struct alignas(16) Piece {
  uint32_t word[4];
};

// What a warp has of the product in C: rows group + 8 h, columns 16 q + 4 place ... + 3.
template <class C>
struct Tile;
template <>
struct Tile<float> {
  static constexpr int rows = 32, columns = 64;
};
template <>
struct Tile<double> {
  static constexpr int rows = 16, columns = 32;
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
  int64_t chunks, column_tiles, row_tiles;
  int across;     // warps side by side along the columns
  bool resident;  // the frame's columns of a block are in shared memory as a whole
  bool pieces;    // rows of x are whole, aligned pieces

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
// The large parts, then the small ones.
__device__ inline void store_pair(const float value[2], Piece* to) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    to->word[i] = tf32_bits(value[i]);
    to->word[2 + i] = tf32_bits(value[i] - bits_as<float>(to->word[i]));
  }
}

// table [column tile, chunk, eight columns, half, lane]: the frame as the lanes read it; a half is
// two of the four steps. Zero beyond d and p.
template <class X, class C>
__global__ void __launch_bounds__(kPrepareThreads)
    prepare_kernel(Layout layout, const C* frame, Piece* table) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kPrepareThreads + threadIdx.x;
  const int pieces = chunk_pieces<C>(layout);
  if (index >= layout.column_tiles * layout.chunks * pieces) return;
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
      const float value = bits_as<float>(piece.word[step]);
      const uint32_t bits = tf32_bits(value);
      const int at = h % 2 + step % 2 * 2;
      large[step / 2][h / 2][at] = bits;
      small[step / 2][h / 2][at] = bits_as<uint32_t>(value - bits_as<float>(bits));
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
  double a[8];
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int j = 0; j < kRowPieces<X>; ++j) {
      const Piece piece = x[(h * kRowPieces<X> + j) * kWarp];
#pragma unroll
      for (int i = 0; i < kPieceNumbers<X>; ++i)
        a[2 * (j * kPieceNumbers<X> + i) + h] = number_of(piece, i, X());
    }
#pragma unroll
  for (int eight = 0; eight < Tile<double>::columns / 8; ++eight) {
    double u[4], part[4];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Piece piece = table[(eight * 2 + half) * kWarp];
      u[2 * half] = number_of(piece, 0, double());
      u[2 * half + 1] = number_of(piece, 1, double());
    }
    // Columns 2 place, 2 place + 1 of an eight are a half of the lane's quad.
#pragma unroll
    for (int i = 0; i < 4; ++i)
      part[i] = sum[i / 2 * kSixteens<double> + eight / 2][eight % 2 * 2 + i % 2];
    multiply_add_f64(part, a, u);
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

// Starts the copies of one chunk of a lane's rows row, row + 8, ...: of the last row where there
// are no more, and zero beyond d.
template <class X, class C>
__device__ inline void copy_rows(const Layout& layout, const X* x, int64_t row, int64_t chunk,
                                 int place, Piece* to) {
  constexpr int numbers = kPieceNumbers<X>;
#pragma unroll
  for (int h = 0; h < kEights<C>; ++h) {
    const int64_t wanted = row + 8 * h;
    const X* from = x + (wanted < layout.n ? wanted : layout.n - 1) * layout.d;
#pragma unroll
    for (int j = 0; j < kRowPieces<X>; ++j) {
      Piece* piece = to + (h * kRowPieces<X> + j) * kWarp;
      const int64_t l = chunk * kDepth + coordinate<X>(place, j * numbers);
      if (layout.pieces) {
        if (l < layout.d)
          copy_async(piece, from + l);
        else
          *piece = Piece{};
      } else {
#pragma unroll
        for (int i = 0; i < numbers; ++i) {
          X* number = reinterpret_cast<X*>(piece) + i;
          if (l + i < layout.d)
            copy_number_async(number, from + l + i);
          else
            *number = X(0);
        }
      }
    }
  }
}

// ------------------------------------------------------------------------------------- the noise

// Four neighbours of a row, of which `left` are columns of the array.
template <class T>
__device__ inline void store_quad(const T (&value)[kQuad], bool aligned, int64_t left, T* to) {
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

template <class T>
struct SecureNoise {
  using X = T;
  using C = double;
  static constexpr int at_once = 1;  // quads of a lane whose noise is made together
  ProjectSecureArgs<T> args;
  double grid, per_grid;
  bool aligned;

  __device__ void finish(const double (&product)[kQuad], int64_t row, int64_t column) const {
    // Block of row i, columns 4 g ... 4 g + 3: nonce (i, domain), counter g.
    const uint64_t number = args.first_row + static_cast<uint64_t>(row);
    uint32_t w[kChaChaWords];
    chacha20_block<uint32_t>(args.key, static_cast<uint32_t>(column / kQuad),
                             static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32),
                             kNoiseDomain, w);
    double normal[kQuad];
    secure_normal_pair(w[0], w[1], w[2], w[3], w[4], w[5], &normal[0], &normal[1]);
    secure_normal_pair(w[6], w[7], w[8], w[9], w[10], w[11], &normal[2], &normal[3]);
    // Dividing by a power of two is exact, so rint (ties to even) does all the rounding there is.
    T value[kQuad];
#pragma unroll
    for (int c = 0; c < kQuad; ++c)
      value[c] = static_cast<T>(grid * rint((product[c] + args.sigma * normal[c]) * per_grid));
    store_quad(value, aligned, args.p - column, args.out + row * args.p + column);
  }
};

template <class T>
struct FastNoise {
  using X = T;
  using C = T;
  static constexpr int at_once = 4;
  ProjectFastArgs<T> args;
  T sigma;
  bool aligned;

  __device__ void finish(const T (&product)[kQuad], int64_t row, int64_t column) const {
    constexpr int normals = kFastNormals<T>;
    T normal[kQuad] = {};
    if (sigma != T(0)) {
      const uint64_t number = args.first_row + static_cast<uint64_t>(row);
#pragma unroll
      for (int g = 0; g < kQuad / normals; ++g) {
        uint32_t w0 = static_cast<uint32_t>(column / normals + g);
        uint32_t w1 = static_cast<uint32_t>(number), w2 = static_cast<uint32_t>(number >> 32);
        uint32_t w3 = 0;
        philox4x32(w0, w1, w2, w3, args.key[0], args.key[1]);
        fast_normals(w0, w1, w2, w3, normal + g * normals);
      }
    }
    T value[kQuad];
#pragma unroll
    for (int c = 0; c < kQuad; ++c) value[c] = product[c] + sigma * normal[c];
    store_quad(value, aligned, args.p - column, args.out + row * args.p + column);
  }
};

// ------------------------------------------------------------------------------------ the kernel

// Shared memory: the frame's columns of the block, or a ring of chunks of them; then a ring of
// chunks of rows for each warp.
template <class Noise>
__global__ void __launch_bounds__(kWarps* kWarp, 1)
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
  const int64_t held = layout.resident ? layout.chunks : kStages;
  Piece* frame = dynamic_shared<Piece>();
  Piece* rows = frame + held * frame_pieces + warp * kStages * stage_pieces + lane;

  const int64_t column_tile = blockIdx.x % layout.column_tiles;
  table += column_tile * layout.chunks * frame_pieces;
  const int64_t column =
      (column_tile * layout.across + warp % layout.across) * Warp::columns + place * kQuad;
  const Piece* own = frame + warp % layout.across * (Warp::columns / 8 * 2 * kWarp) + lane;
  const int64_t tile_rows = threads / kWarp / layout.across * Warp::rows;
  const int64_t first_tile = blockIdx.x / layout.column_tiles;
  const int64_t step = gridDim.x / layout.column_tiles;
  const int64_t row_in_tile = warp / layout.across * Warp::rows + group;

  // The copies are ahead of the products by kStages - 1 chunks.
  int64_t ahead_tile = first_tile, ahead_chunk = 0;
  int ahead_stage = 0;
  const auto copy_ahead = [&] {
    if (ahead_tile < layout.row_tiles) {
      copy_rows<X, C>(layout, noise.args.x, ahead_tile * tile_rows + row_in_tile, ahead_chunk,
                      place, rows + ahead_stage * stage_pieces);
      if (!layout.resident) {
        const Piece* from = table + ahead_chunk * frame_pieces;
        Piece* to = frame + ahead_stage * frame_pieces;
        for (int i = static_cast<int>(threadIdx.x); i < frame_pieces; i += threads)
          copy_async(to + i, from + i);
      }
      if (++ahead_chunk == layout.chunks) ahead_chunk = 0, ahead_tile += step;
      ahead_stage = ahead_stage + 1 == kStages ? 0 : ahead_stage + 1;
    }
    end_copy_group();
  };
  for (int i = 1; i < kStages; ++i) copy_ahead();
  if (layout.resident) {
    for (int64_t i = threadIdx.x; i < layout.chunks * frame_pieces; i += threads)
      copy_async(frame + i, table + i);
    end_copy_group();
    wait_for_copies<0>();
    __syncthreads();
  }

  int stage = 0;
  for (int64_t tile = first_tile; tile < layout.row_tiles; tile += step) {
    C sum[kQuads<C>][kQuad] = {};
#pragma unroll 1
    for (int64_t chunk = 0; chunk < layout.chunks; ++chunk) {
      wait_for_copies<kStages - 2>();
      if (!layout.resident) __syncthreads();
      copy_ahead();
      const int64_t frame_at = layout.resident ? chunk : stage;
      multiply_chunk<X>(rows + stage * stage_pieces, own + frame_at * frame_pieces, sum);
      stage = stage + 1 == kStages ? 0 : stage + 1;
    }
    const int64_t row = tile * tile_rows + row_in_tile;
    // Not unrolled whole, for the sake of the instruction cache: the next quads take the places of
    // those that are done.
    constexpr int at_once = Noise::at_once;
    static_assert(kQuads<C> % at_once == 0);
#pragma unroll 1
    for (int quad = 0; quad < kQuads<C>; quad += at_once) {
#pragma unroll
      for (int i = 0; i < at_once; ++i) {
        const int64_t at_row = row + (quad + i) / kSixteens<C> * 8;
        const int64_t at_column = column + (quad + i) % kSixteens<C> * 16;
        if (at_row < layout.n && at_column < layout.p) noise.finish(sum[i], at_row, at_column);
      }
#pragma unroll
      for (int i = at_once; i < kQuads<C>; ++i)
#pragma unroll
        for (int c = 0; c < kQuad; ++c) sum[i - at_once][c] = sum[i][c];
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
  layout.chunks = ceil_div(args.d, kDepth);
  layout.across = 1;
  while (layout.across * Tile<C>::columns < std::min<int64_t>(args.p, kBlockColumns))
    layout.across *= 2;
  layout.column_tiles = ceil_div(args.p, layout.across * Tile<C>::columns);

  // Fewer warps where the rows would not keep all multiprocessors busy, or do not fit.
  int warps = kWarps;
  const auto shared_bytes = [&](int64_t chunks) {
    return sizeof(Piece) * static_cast<size_t>(chunks * chunk_pieces<C>(layout) +
                                               warps * kStages * kStagePieces<X, C>);
  };
  const auto row_tiles = [&] { return ceil_div(args.n, warps / layout.across * Tile<C>::rows); };
  while (warps > layout.across && (row_tiles() * layout.column_tiles < execution.multiprocessors ||
                                   shared_bytes(kStages) > execution.shared_limit))
    warps /= 2;
  layout.row_tiles = row_tiles();
  layout.resident =
      layout.chunks <= kStages || shared_bytes(layout.chunks) <= execution.shared_limit;
  const int64_t places = execution.multiprocessors * (kWarps / warps);
  const int64_t blocks =
      layout.column_tiles *
      std::min(layout.row_tiles, std::max<int64_t>(1, places / layout.column_tiles));

  const int64_t pieces = layout.column_tiles * layout.chunks * chunk_pieces<C>(layout);
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
  const double grid = std::ldexp(1.0, std::ilogb(args.sigma) - 10);
  project(SecureNoise<T>{args, grid, 1.0 / grid, whole_pieces(args.out, args.p)}, execution);
}

template <class T>
void project_fast(const ProjectFastArgs<T>& args, const Execution& execution) {
  project(FastNoise<T>{args, static_cast<T>(args.sigma), whole_pieces(args.out, args.p)},
          execution);
}

DPSLICE_CUDA_INSTANTIATE(project_secure, ProjectSecureArgs)
DPSLICE_CUDA_INSTANTIATE(project_fast, ProjectFastArgs)

}  // namespace dpslice::cuda
