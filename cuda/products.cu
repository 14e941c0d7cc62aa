// Sums over pairs of points by matrix products, in float32 above kSmallDims: what products.h
// promises.
//
// log2 K = u.v - |u|^2/2 - |v|^2/2, with u, v the points centred on a mean of y and multiplied by
// sqrt(log2 e) / bandwidth. The products run on tensor cores. A coordinate is the sum of two
// float16 numbers, its "halves", of 22 bits together; three of the four products of two such sums
// are added up in float32. With halves = 1 it is one float16 number and one product: the 11 bits
// that TensorFloat32 has, for those who allow them.
//
// Tensor cores round sums towards zero, so what they add up moves to other registers now and then.
//
// "Shares" 2^(log2 K + shifts) are not above 1. A gradient multiplies them with the sources, in a
// second product; of Execution::share_bytes of them at a time, in global memory.
#include <type_traits>

#include "mma.cuh"
#include "products.h"

namespace dpslice::cuda {
namespace {

// A block multiplies 128 rows by 128 columns: two groups of four warps with 64 x 128 each where the
// device has products of groups, else 2 x 4 warps with 64 x 32 each.
constexpr int kProductThreads = 256;
constexpr int kWarpsAcross = kHaveGroupProducts ? 1 : 4;
constexpr int kWarpsDown = kProductThreads / kWarp / kWarpsAcross;
constexpr int kWarpHeight = kProductTile / kWarpsDown, kWarpWidth = kProductTile / kWarpsAcross;
constexpr int kRowFragments = kWarpHeight / 16, kColumnFragments = kWarpWidth / 8;
constexpr int kGroupHeight = 64;

// A pack is what is copied at a time of one row: 64 / halves coordinates, first the higher halves
// of all, then the lower ones.
constexpr int kPack = 64;
constexpr int kPiece = 8;  // numbers of 16 bytes
constexpr int kPieces = kPack / kPiece;
constexpr int kTileNumbers = kProductTile * kPack;
constexpr int kStageNumbers = 2 * kTileNumbers;
constexpr int kStageAlign = 1024;
static_assert(kPack == kStageRow);

// A stage holds one pack of the rows of a tile, in use or on its way. With 3 stages nothing is
// flushed, and two blocks fit a multiprocessor: one takes exponentials while the other multiplies.
// With 4, products of one pack run on while those of the next start. 2 are for devices whose blocks
// have 99 KiB.
constexpr int kLightStages = 3, kFullStages = 4, kLeastStages = 2;
constexpr size_t product_shared(int stages) {
  return stages * kStageNumbers * sizeof(uint16_t) + kStageAlign;
}
constexpr size_t kStaticShared = 10 * 1024;  // at most, of any of these kernels
__device__ constexpr int blocks_of_multiprocessor(int stages) {
  return kHaveGroupProducts && stages == kLightStages ? 2 : 1;
}

constexpr int kFlushCoordinates = 256;  // that tensor cores add up before others take over
constexpr int kShareGroup = 32;         // sources whose shares are stored in an order of their own
constexpr int64_t kCentreRows = 256;    // of y, whose mean is the centre
constexpr int kShareExponent = 15;  // shares are stored times 2^15, to keep the bits of small ones
constexpr int64_t kBandSources = 32768;  // whose shares with some tiles of targets are in memory
constexpr int64_t kCachedTargets = int64_t{12} << 20;  // bytes
constexpr int64_t kShareWaves = 4;  // how often a multiprocessor takes new blocks of them
constexpr int kMostExponent = 100;
constexpr float kLargestHalf = 65504;

__host__ __device__ constexpr int64_t coordinates_of_pack(int halves) { return kPack / halves; }

// ---------------------------------------------------------------------------------- tile products

// What a thread has of its warp's products: of fragments 16 x 8, as multiply_add_f16 leaves them.
struct Fragments {
  float at[kRowFragments][kColumnFragments][4];
};

// Calls visit(r, c, n) for the place of each of them, all known to the compiler.
template <class Visit>
__device__ inline void for_each_number(Visit&& visit) {
#pragma unroll
  for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
    for (int c = 0; c < kColumnFragments; ++c)
#pragma unroll
      for (int n = 0; n < 4; ++n) visit(r, c, n);
}

__device__ inline void clear(Fragments& fragments) {
  for_each_number([&](int r, int c, int n) { fragments.at[r][c][n] = 0; });
}

// Products of groups leave their sums here without the compiler's knowledge: from here on they are
// what they have become.
__device__ inline void settle(Fragments& fragments) {
  for_each_number([&](int r, int c, int n) { may_have_changed(fragments.at[r][c][n]); });
}

// Where a thread's numbers lie: rows row() + 16 r + 8 (n / 2), columns column() + 8 c + n % 2.
struct Lane {
  int warp, lane;
  __device__ Lane()
      : warp(static_cast<int>(threadIdx.x) / kWarp), lane(static_cast<int>(threadIdx.x) % kWarp) {}
  __device__ int warp_row() const { return warp / kWarpsAcross * kWarpHeight; }
  __device__ int warp_column() const { return warp % kWarpsAcross * kWarpWidth; }
  __device__ int row() const { return warp_row() + lane / 4; }
  __device__ int column() const { return warp_column() + lane % 4 * 2; }
};

// Where a piece of a row of a tile is.
__device__ inline int place_in_tile(int row, int piece) {
  return row * kPack + (piece ^ (row % kPieces)) * kPiece;
}

// The first pack of the tile of 128 rows from `row` on; kTileNumbers further is the next pack.
__device__ inline const uint16_t* tile_of(const Packed& packed, int64_t slice, int64_t row) {
  return packed.numbers + (slice * packed.rows + row) * packed.packs * kPack;
}

// What a thread copies of each pack of a tile of rows, and of one of columns, to a stage.
struct Copies {
  SharedAddress to;
  const uint16_t *rows, *columns;

  static __device__ int first() { return static_cast<int>(threadIdx.x) * kPiece; }
  __device__ void start() const {
    constexpr int count = kTileNumbers / kPiece / kProductThreads;
    constexpr int step = kProductThreads * kPiece;
    constexpr int bytes = static_cast<int>(sizeof(uint16_t));
#pragma unroll
    for (int n = 0; n < count; ++n) {
      copy_async(to + n * step * bytes, rows + n * step);
      copy_async(to + (kTileNumbers + n * step) * bytes, columns + n * step);
    }
  }
};

// The rows and columns of a stage, as products of groups take them.
struct GroupOperands {
  GroupOperand rows, columns;
};

// sums += (or =, if not `add`) the products of the pack in the stage at number `stage_at` of shared
// memory, or starts to.
template <int halves>
__device__ inline void multiply_stage(const uint16_t* shared, const GroupOperands& operands,
                                      int stage_at, const Lane& own, bool add, Fragments& sums) {
  constexpr int steps = kPack / halves / 16;
  if constexpr (kHaveGroupProducts) {
    begin_group_products();
#pragma unroll
    for (int step = 0; step < steps; ++step)
    // The product of the lower halves is left out.
#pragma unroll
      for (int pair = 0; pair < 2 * halves - 1; ++pair)
        multiply_add_group(
            sums.at[0], operands.rows.further(stage_at, (pair == 1 ? kPieces / 2 : 0) + 2 * step),
            operands.columns.further(stage_at, (pair == 2 ? kPieces / 2 : 0) + 2 * step),
            add || step > 0 || pair > 0);
    end_group_products();
  } else {
    const uint16_t* const stage = shared + stage_at;
    const uint16_t* const other = stage + kTileNumbers;
    if (!add) clear(sums);
#pragma unroll
    for (int step = 0; step < steps; ++step) {
      uint32_t a[halves][kRowFragments][4], b[halves][kColumnFragments][2];
#pragma unroll
      for (int h = 0; h < halves; ++h) {
        const int piece = h * (kPieces / halves) + 2 * step;
#pragma unroll
        for (int r = 0; r < kRowFragments; ++r)
          load_matrices(a[h][r], stage + place_in_tile(own.warp_row() + 16 * r + own.lane % 16,
                                                       piece + own.lane / 16));
#pragma unroll
        for (int c = 0; c < kColumnFragments; c += 2) {
          uint32_t both[4];
          load_matrices(both, other + place_in_tile(own.warp_column() + 8 * c + own.lane % 8 +
                                                        own.lane / 16 * 8,
                                                    piece + own.lane / 8 % 2));
          b[h][c][0] = both[0], b[h][c][1] = both[1];
          b[h][c + 1][0] = both[2], b[h][c + 1][1] = both[3];
        }
      }
      // Neighbouring instructions add to different sums.
#pragma unroll
      for (int pair = 0; pair < 2 * halves - 1; ++pair)
#pragma unroll
        for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
          for (int c = 0; c < kColumnFragments; ++c)
            multiply_add_f16(sums.at[r][c], a[pair == 1 ? 1 : 0][r], b[pair == 2 ? 1 : 0][c]);
    }
  }
}

// For each of `tiles` >= 0 tiles of columns, the products of the rows with them: at_end(tile, sums)
// after the packs first_pack ... end_pack - 1 of it. columns(tile) gives its first pack.
// begin(tile) runs before that, after a barrier that follows at_end of the tile before.
template <int halves, int stages, class Columns, class Begin, class AtEnd>
__device__ inline void multiply_tiles(const uint16_t* rows, int tiles, int first_pack, int end_pack,
                                      Columns&& columns, Begin&& begin, AtEnd&& at_end) {
  constexpr bool flush = stages != kLightStages;
  constexpr int flush_packs = kFlushCoordinates / (kPack / halves);
  constexpr int ahead = stages == kLeastStages ? 1 : 2;  // packs that are copied meanwhile
  constexpr int running = stages - ahead - 1;            // packs whose products run on
  static_assert(running == 0 || running == 1);
  uint16_t* const shared = aligned_shared<uint16_t, kStageAlign>();
  const Lane own;
  GroupOperands operands{};
  if constexpr (kHaveGroupProducts)
    operands = {group_operand(shared + own.warp / 4 * kGroupHeight * kPack),
                group_operand(shared + kTileNumbers)};
  // A step has few instructions beside its products: addresses move on from pack to pack.
  const int64_t first_number = int64_t{first_pack} * kTileNumbers + Copies::first();
  int loaded_tile = first_pack < end_pack ? 0 : tiles, packs_left = end_pack - first_pack;
  int loaded_stage = 0, stage_at = 0;
  Copies copies{shared_address(shared + Copies::first()), rows + first_number, nullptr};
  if (loaded_tile < tiles) copies.columns = columns(0) + first_number;
  const auto load_next = [&] {
    if (loaded_tile < tiles) {
      copies.start();
      constexpr int stage_bytes = kStageNumbers * static_cast<int>(sizeof(uint16_t));
      copies.to += stage_bytes;
      if (++loaded_stage == stages) loaded_stage = 0, copies.to -= stages * stage_bytes;
      copies.rows += kTileNumbers;
      copies.columns += kTileNumbers;
      if (--packs_left == 0) {
        packs_left = end_pack - first_pack;
        copies.rows = rows + first_number;
        if (++loaded_tile < tiles) copies.columns = columns(loaded_tile) + first_number;
      }
    }
    end_copy_group();
  };
  __syncthreads();
  for (int n = 0; n < ahead; ++n) load_next();
  for (int tile = 0; tile < tiles; ++tile) {
    Fragments sums, whole;
    if constexpr (flush) clear(whole);
    for (int pack = first_pack; pack < end_pack;) {
      const int flush_at = flush && end_pack - pack > flush_packs ? pack + flush_packs : end_pack;
      bool add = false;
      for (; pack < flush_at; ++pack, add = true) {
        wait_for_copies<ahead - 1>();
        show_to_group_products();
        __syncthreads();
        if (pack == first_pack) begin(tile);
        // Of two stages, the other one's products are done; of more, those of the next to be
        // loaded.
        multiply_stage<halves>(shared, operands, stage_at, own, add, sums);
        stage_at =
            stage_at + kStageNumbers == stages * kStageNumbers ? 0 : stage_at + kStageNumbers;
        load_next();
        wait_for_group_products<running>();
      }
      wait_for_group_products<0>();
      settle(sums);
      if constexpr (flush)
        for_each_number([&](int r, int c, int n) { whole.at[r][c][n] += sums.at[r][c][n]; });
    }
    if constexpr (flush)
      at_end(tile, whole);
    else
      at_end(tile, sums);
  }
  wait_for_copies<0>();
}

// ----------------------------------------------------------------------------------- preparation

// Sizes up to `largest` times 2^exponent are below 2^14, well within float16.
__device__ inline int half_exponent(unsigned largest) {
  const float size = bits_as<float>(largest);
  if (!(size > 0)) return 0;
  const int exponent = 13 - ilogbf(size);
  return exponent < -kMostExponent ? -kMostExponent
                                   : (exponent > kMostExponent ? kMostExponent : exponent);
}

// 8 numbers in one piece, or their halves in two.
template <int halves>
struct Pieces {
  uint32_t word[halves][kPiece / 2];

  // Numbers 2 pair and 2 pair + 1.
  __device__ void set(int pair, float first, float second) {
    word[0][pair] = half_words(first, second);
    if constexpr (halves == 2) {
      float first_high, second_high;
      half_values(word[0][pair], &first_high, &second_high);
      word[1][pair] = half_words(first - first_high, second - second_high);
    }
  }
  // To piece number `piece` of the higher halves in a row of the tile; the lower ones follow them.
  __device__ void store(uint16_t* tile, int row, int piece) const {
#pragma unroll
    for (int h = 0; h < halves; ++h)
      store_words(tile + place_in_tile(row, h * (kPieces / halves) + piece), word[h]);
  }
};

constexpr int kCentreThreads = 256;

// centre [m, k], the mean of kCentreRows rows of y; and nothing measured so far.
__global__ void __launch_bounds__(kCentreThreads)
    centre_kernel(const float* y, int64_t c, int64_t k, double* centre, Measured* measured) {
  __shared__ double part[kCentreThreads];
  const int64_t groups = ceil_div(k, kWarp), slice = blockIdx.x / groups;
  const int64_t t = blockIdx.x % groups * kWarp + threadIdx.x % kWarp;
  const int64_t rows = c < kCentreRows ? c : kCentreRows;
  double sum = 0;
  if (t < k)
#pragma unroll 4
    for (int64_t n = threadIdx.x / kWarp; n < rows; n += kCentreThreads / kWarp)
      sum += static_cast<double>(y[(slice * c + n * c / rows) * k + t]);
  part[threadIdx.x] = sum;
  __syncthreads();
  if (threadIdx.x < kWarp && t < k) {
    for (int w = 1; w < kCentreThreads / kWarp; ++w) sum += part[w * kWarp + threadIdx.x];
    centre[slice * k + t] = sum / static_cast<double>(rows);
  }
  if (blockIdx.x % groups == 0 && threadIdx.x == 0) measured[slice] = {};
}

constexpr int kMeasureThreads = 256;
constexpr int kMeasureRows = 16;

// Calls visit(coordinate) for the lane's coordinates of a point, less those of the centre.
template <class Visit>
__device__ inline void for_coordinates(const float* __restrict__ point,
                                       const double* __restrict__ centre, int64_t k, bool aligned,
                                       Visit&& visit) {
  struct alignas(16) Quad {
    float at[4];
  };
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  if (aligned) {
#pragma unroll 4
    for (int64_t t = 4 * lane; t < k; t += 4 * kWarp) {
      const Quad quad = *reinterpret_cast<const Quad*>(point + t);
#pragma unroll
      for (int i = 0; i < 4; ++i) visit(static_cast<double>(quad.at[i]) - centre[t + i]);
    }
  } else {
#pragma unroll 4
    for (int64_t t = lane; t < k; t += kWarp) visit(static_cast<double>(point[t]) - centre[t]);
  }
}

// norm [m, size], and the largest sizes of a side. A warp works on one point at a time.
__global__ void __launch_bounds__(kMeasureThreads)
    measure_kernel(Side<float> side, int64_t k, const float* bandwidth, const double* centre,
                   double* norm, Measured* measured) {
  constexpr int kinds = 5;
  __shared__ unsigned largest[kinds];
  if (threadIdx.x < kinds) largest[threadIdx.x] = 0;
  __syncthreads();
  const int64_t tiles = ceil_div(side.size, kMeasureRows), slice = blockIdx.x / tiles;
  const int64_t first = blockIdx.x % tiles * kMeasureRows;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const double scale = product_scale(static_cast<double>(bandwidth[slice]));
  const bool aligned = k % 4 == 0 && reinterpret_cast<uintptr_t>(side.points) % 16 == 0;
  unsigned norms = 0, coordinates = 0, values = 0, factors = 0, inverted = 0;
  const auto raise = [](unsigned& to, float size) {
    const unsigned bits = bits_as<unsigned>(fabsf(size));
    to = bits > to ? bits : to;
  };
  for (int n = static_cast<int>(threadIdx.x) / kWarp; n < kMeasureRows;
       n += kMeasureThreads / kWarp) {
    const int64_t i = first + n, row = slice * side.size + i;
    if (i >= side.size) break;
    const float factor = factor_of(side, row);
    double squares = 0;
    for_coordinates(side.points + row * k, centre + slice * k, k, aligned, [&](double coordinate) {
      const double u = coordinate * scale;
      squares += u * u;
      raise(coordinates, static_cast<float>(u));
      raise(values, factor * static_cast<float>(u));
    });
    squares = lane_sum<kWarp>(squares);
    raise(norms, static_cast<float>(squares));
    raise(factors, factor);
    const unsigned own = ~bits_as<unsigned>(fabsf(factor));
    inverted = factor != 0 && own > inverted ? own : inverted;
    if (lane == 0) norm[row] = 0.5 * squares;
  }
  const unsigned found[kinds] = {norms, coordinates, values, factors, inverted};
#pragma unroll
  for (int kind = 0; kind < kinds; ++kind) {
    const unsigned own = lane_max<kWarp>(found[kind]);
    if (lane == 0) atomicMax(&largest[kind], own);
  }
  __syncthreads();
  if (threadIdx.x != 0) return;
  atomicMax(&measured[slice].norm[side.index], largest[0]);
  atomicMax(&measured[slice].coordinate[side.index], largest[1]);
  atomicMax(&measured[slice].value[side.index], largest[2]);
  atomicMax(&measured[slice].factor[side.index], largest[3]);
  atomicMax(&measured[slice].inverted_factor[side.index], largest[4]);
}

// A block makes one pack of a tile of rows: each thread some of its pieces, one behind the other.
constexpr int kPackThreads = 256;

// Calls make(row of the tile, piece of the higher halves) for each piece of the block's pack.
template <int halves, class Make>
__device__ inline void for_each_piece(Make&& make) {
  constexpr int pieces = kPieces / halves;
#pragma unroll 2
  for (int at = static_cast<int>(threadIdx.x); at < kProductTile * pieces; at += kPackThreads)
    make(at / pieces, at % pieces);
}

// The points of a side, and zeros behind them.
template <int halves>
__global__ void __launch_bounds__(kPackThreads)
    pack_points_kernel(Side<float> side, int64_t k, const float* bandwidth, const double* centre,
                       const Measured* measured, uint16_t* numbers) {
  const int64_t tiles = side.packed.rows / kProductTile;
  const int64_t pack = blockIdx.x % side.packed.packs, rest = blockIdx.x / side.packed.packs;
  const int64_t slice = rest / tiles, first = rest % tiles * kProductTile;
  const double scale = product_scale(static_cast<double>(bandwidth[slice]));
  const float power = ldexpf(1, half_exponent(measured[slice].coordinate[side.index]));
  const double* const origin = centre + slice * k;
  uint16_t* const tile = numbers + static_cast<int64_t>(blockIdx.x) * kTileNumbers;
  for_each_piece<halves>([&](int row, int piece) {
    const bool there = first + row < side.size;
    const float* const point = side.points + (slice * side.size + first + row) * k;
    const int64_t t0 = pack * coordinates_of_pack(halves) + piece * kPiece;
    const auto coordinate = [&](int64_t t) {
      if (!there || t >= k) return 0.0f;
      return static_cast<float>((static_cast<double>(point[t]) - origin[t]) * scale) * power;
    };
    Pieces<halves> out;
#pragma unroll
    for (int pair = 0; pair < kPiece / 2; ++pair)
      out.set(pair, coordinate(t0 + 2 * pair), coordinate(t0 + 2 * pair + 1));
    out.store(tile, row, piece);
  });
}

// Shares of a group of sources stand in the order in which threads of shares_kernel have them: four
// threads with 8 each. The source at a place of that order.
__device__ inline int source_at(int place) {
  const int lane = place / 8, n = place % 8;
  return n / 2 * 8 + 2 * lane + n % 2;
}

// The coordinates of a side, times the factors, and then the factors: rows over the sources.
template <int halves>
__global__ void __launch_bounds__(kPackThreads)
    pack_values_kernel(Side<float> side, int64_t k, const float* bandwidth, const double* centre,
                       const Measured* measured, uint16_t* numbers) {
  constexpr int sources = static_cast<int>(coordinates_of_pack(halves)), stride = kProductTile + 1;
  __shared__ float values[sources * stride];  // [sources, coordinates]
  const int64_t tiles = side.values.rows / kProductTile;
  const int64_t pack = blockIdx.x % side.values.packs, rest = blockIdx.x / side.values.packs;
  const int64_t slice = rest / tiles, t0 = rest % tiles * kProductTile, j0 = pack * sources;
  const Measured& largest = measured[slice];
  const double scale = product_scale(static_cast<double>(bandwidth[slice]));
  const float power = ldexpf(1, half_exponent(largest.value[side.index]));
  const float factor_power = ldexpf(1, half_exponent(largest.factor[side.index]));
  // Neighbouring threads read neighbouring coordinates.
  for (int at = static_cast<int>(threadIdx.x); at < sources * kProductTile; at += kPackThreads) {
    const int64_t j = j0 + at / kProductTile, t = t0 + at % kProductTile;
    float value = 0;
    if (j < side.size && t <= k) {
      const int64_t row = slice * side.size + j;
      value = factor_of(side, row);
      if (t == k)
        value *= factor_power;
      else
        value *=
            static_cast<float>(
                (static_cast<double>(side.points[row * k + t]) - centre[slice * k + t]) * scale) *
            power;
    }
    values[at / kProductTile * stride + at % kProductTile] = value;
  }
  __syncthreads();
  uint16_t* const tile = numbers + static_cast<int64_t>(blockIdx.x) * kTileNumbers;
  for_each_piece<halves>([&](int row, int piece) {
    const auto value = [&](int place) {
      const int source = place / kShareGroup * kShareGroup + source_at(place % kShareGroup);
      return values[source * stride + row];
    };
    Pieces<halves> out;
#pragma unroll
    for (int pair = 0; pair < kPiece / 2; ++pair)
      out.set(pair, value(piece * kPiece + 2 * pair), value(piece * kPiece + 2 * pair + 1));
    out.store(tile, row, piece);
  });
}

// ------------------------------------------------------------------------------------------- sums

// The factor that brings products of a slice's packs back to u.v.
template <class T>
__device__ inline float product_unit(const Pairs<T>& pairs, int64_t slice) {
  const Measured& largest = pairs.measured[slice];
  return ldexpf(1, -half_exponent(largest.coordinate[0]) - half_exponent(largest.coordinate[1]));
}

// All that is added to the exponents of one point; -inf behind the last.
template <class T>
__device__ inline float product_shift(const Side<T>& side, int64_t slice, int64_t i) {
  if (i >= side.size) return -INFINITY;
  const int64_t row = slice * side.size + i;
  return static_cast<float>(exponent_shift(side, row) - side.norm[row]);
}

// total [parts, m, targets]; with logsum also maximum, to base 2, without the norms of the targets.
template <int halves, int stages, Reduction reduction>
__global__ void __launch_bounds__(kProductThreads, blocks_of_multiprocessor(stages))
    product_sums_kernel(Pairs<float> pairs, double* total, double* maximum) {
  constexpr bool logsum = reduction == Reduction::logsum;
  __shared__ float shift[kProductTile], factor[kProductTile];
  __shared__ double totals[kWarpsAcross][kProductTile], maxima[kWarpsAcross][kProductTile];
  const Task task = block_task(pairs, kProductTile, kProductTile);
  if (!by_products(pairs, task.slice)) return;
  if (pairs.precision != nullptr && pairs.precision[task.slice] == kNarrow) return;
  const Lane own;
  const float unit = product_unit(pairs, task.slice);
  float top[kRowFragments][2], target_shift[kRowFragments][2];
  double found[kRowFragments][2] = {};
#pragma unroll
  for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
    for (int eight = 0; eight < 2; ++eight) {
      top[r][eight] = lowest_finite<float>();
      target_shift[r][eight] = logsum ? 0.0f
                                      : product_shift(pairs.target, task.slice,
                                                      task.target + own.row() + 16 * r + 8 * eight);
    }
  const int64_t sources = task.end_source - task.first_source;
  multiply_tiles<halves, stages>(
      tile_of(pairs.target.packed, task.slice, task.target),
      sources > 0 ? static_cast<int>(ceil_div(sources, kProductTile)) : 0, 0,
      static_cast<int>(pairs.target.packed.packs),
      [&](int tile) {
        return tile_of(pairs.source.packed, task.slice, task.first_source + tile * kProductTile);
      },
      [&](int tile) {
        const int64_t j = task.first_source + tile * kProductTile + threadIdx.x;
        if (threadIdx.x >= kProductTile) return;
        shift[threadIdx.x] = product_shift(pairs.source, task.slice, j);
        factor[threadIdx.x] = j < pairs.source.size
                                  ? factor_of(pairs.source, task.slice * pairs.source.size + j)
                                  : 0.0f;
      },
      [&](int, Fragments& products) {
        __syncthreads();  // the shifts are there, even where a tile is one pack
#pragma unroll
        for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
          for (int eight = 0; eight < 2; ++eight) {
            float bound = top[r][eight], sum = 0;
#pragma unroll
            for (int n = 0; n < 2 * kColumnFragments; ++n) {
              const int column = own.column() + n / 2 * 8 + n % 2;
              float& e = products.at[r][n / 2][2 * eight + n % 2];
              e = fmaf(e, unit, shift[column] + target_shift[r][eight]);
              if constexpr (logsum)
                bound = e > bound ? e : bound;
              else
                sum += factor[column] * power_of_two(e);
            }
            if constexpr (logsum) {
#pragma unroll
              for (int n = 0; n < 2 * kColumnFragments; ++n)
                sum += power_of_two(products.at[r][n / 2][2 * eight + n % 2] - bound);
              found[r][eight] *= static_cast<double>(power_of_two(top[r][eight] - bound));
              top[r][eight] = bound;
            }
            found[r][eight] += static_cast<double>(sum);
          }
      });
#pragma unroll
  for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
    for (int eight = 0; eight < 2; ++eight) {
      const int row = own.row() + 16 * r + 8 * eight;
      double whole = found[r][eight];
      if constexpr (logsum) {
        const float bound = lane_max<4>(top[r][eight]);
        whole *= static_cast<double>(power_of_two(top[r][eight] - bound));
        if (own.lane % 4 == 0) maxima[own.warp % kWarpsAcross][row] = static_cast<double>(bound);
      }
      whole = lane_sum<4>(whole);
      if (own.lane % 4 == 0) totals[own.warp % kWarpsAcross][row] = whole;
    }
  __syncthreads();
  const int64_t i = task.target + threadIdx.x;
  if (threadIdx.x >= kProductTile || i >= pairs.target.size) return;
  LogTotal<double> whole{0, 0};
  for (int w = 0; w < kWarpsAcross; ++w) {
    const LogTotal<double> next{logsum ? maxima[w][threadIdx.x] : 0, totals[w][threadIdx.x]};
    whole = w == 0 ? next : join(whole, next);
  }
  const int64_t at = (task.part * pairs.m + task.slice) * pairs.target.size + i;
  total[at] = whole.total;
  if constexpr (logsum) maximum[at] = whole.maximum;
}

// -------------------------------------------------------------------------------------- gradients

// What of the shares is in memory: those of some tiles of targets, counted through all slices, with
// a range of the sources. shares [tiles, packs, kProductTile, kPack].
struct Band {
  int64_t first_tile, first_source;
  int64_t packs;
  int64_t runs;  // blocks of shares_kernel beside each other
  uint16_t* shares;
};

// The tile of targets that number `tile` is.
template <class T>
__device__ inline Task target_tile(const Pairs<T>& pairs, int64_t tile) {
  const int64_t tiles = ceil_div(pairs.target.size, kProductTile);
  return {0, tile / tiles, tile % tiles * kProductTile, 0, 0};
}

template <int halves, int stages>
__global__ void __launch_bounds__(kProductThreads, blocks_of_multiprocessor(stages))
    shares_kernel(Pairs<float> pairs, Band band) {
  __shared__ float shift[kProductTile];
  const int64_t tile = blockIdx.x / band.runs;
  const int64_t across = band.packs * coordinates_of_pack(halves) / kProductTile;
  const int64_t run = ceil_div(across, band.runs), first = blockIdx.x % band.runs * run;
  const int64_t tiles = first + run < across ? run : (first < across ? across - first : 0);
  const auto column_of = [&](int number) { return (first + number) * kProductTile; };
  constexpr int wide = static_cast<int>(coordinates_of_pack(halves));
  const Task task = target_tile(pairs, band.first_tile + tile);
  if (!by_products(pairs, task.slice)) return;
  const Lane own;
  const float unit = product_unit(pairs, task.slice);
  uint16_t* const shares = band.shares + tile * band.packs * kTileNumbers;
  float target_shift[kRowFragments][2];
#pragma unroll
  for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
    for (int eight = 0; eight < 2; ++eight)
      target_shift[r][eight] =
          product_shift(pairs.target, task.slice, task.target + own.row() + 16 * r + 8 * eight) +
          kShareExponent;
  multiply_tiles<halves, stages>(
      tile_of(pairs.target.packed, task.slice, task.target), static_cast<int>(tiles), 0,
      static_cast<int>(pairs.target.packed.packs),
      [&](int number) {
        return tile_of(pairs.source.packed, task.slice, band.first_source + column_of(number));
      },
      [&](int number) {
        if (threadIdx.x < kProductTile)
          shift[threadIdx.x] = product_shift(pairs.source, task.slice,
                                             band.first_source + column_of(number) + threadIdx.x);
      },
      [&](int number, Fragments& products) {
        __syncthreads();
#pragma unroll
        for (int r = 0; r < kRowFragments; ++r)
#pragma unroll
          for (int eight = 0; eight < 2; ++eight) {
            const int row = own.row() + 16 * r + 8 * eight;
            uint16_t* const to = shares + column_of(number) / wide * kTileNumbers;
#pragma unroll
            for (int c = 0; c < kColumnFragments; c += kPiece / 2) {
              Pieces<halves> out;
#pragma unroll
              for (int pair = 0; pair < kPiece / 2; ++pair) {
                float share[2];
#pragma unroll
                for (int n = 0; n < 2; ++n) {
                  const float e =
                      fmaf(products.at[r][c + pair][2 * eight + n], unit,
                           shift[own.column() + 8 * (c + pair) + n] + target_shift[r][eight]);
                  // A rounding error above 1 must not leave float16; NaN must stay.
                  const float own_share = power_of_two(e);
                  share[n] = own_share > kLargestHalf ? kLargestHalf : own_share;
                }
                out.set(pair, share[0], share[1]);
              }
              const int place = own.warp_column() + 8 * c;
              out.store(to + place / wide * kTileNumbers, row,
                        place % wide / kPiece + own.lane % 4);
            }
          }
      });
}

// pull [parts, m, targets, k + 1] = or += the shares times the values: sum_j W_ij f_j (v_j)_t, then
// sum_j W_ij f_j.
template <int halves, int stages>
__global__ void __launch_bounds__(kProductThreads, blocks_of_multiprocessor(stages))
    product_pulls_kernel(Pairs<float> pairs, Band band, bool add, float* pull) {
  const int64_t width = pairs.k + 1, across = ceil_div(width, kProductTile);
  const int64_t part = blockIdx.x % pairs.parts, rest = blockIdx.x / pairs.parts;
  const int64_t tile = rest / across, column = rest % across * kProductTile;
  const Task task = target_tile(pairs, band.first_tile + tile);
  if (!by_products(pairs, task.slice)) return;
  const int64_t run = ceil_div(band.packs, pairs.parts);
  const int64_t first = part * run < band.packs ? part * run : band.packs;
  const int64_t end = first + run < band.packs ? first + run : band.packs;
  const uint16_t* const shares = band.shares + tile * band.packs * kTileNumbers;
  const uint16_t* const values = tile_of(pairs.source.values, task.slice, column) +
                                 band.first_source / coordinates_of_pack(halves) * kTileNumbers;
  const Measured& largest = pairs.measured[task.slice];
  const float unit = ldexpf(1, -kShareExponent - half_exponent(largest.value[pairs.source.index]));
  const float factor_unit =
      ldexpf(1, -kShareExponent - half_exponent(largest.factor[pairs.source.index]));
  const Lane own;
  const auto write = [&](const Fragments& sums) {
    for_each_number([&](int r, int c, int n) {
      const int64_t i = task.target + own.row() + 16 * r + n / 2 * 8;
      const int64_t t = column + own.column() + 8 * c + n % 2;
      if (i >= pairs.target.size || t >= width) return;
      float& to = pull[((part * pairs.m + task.slice) * pairs.target.size + i) * width + t];
      const float sum = sums.at[r][c][n] * (t < pairs.k ? unit : factor_unit);
      to = add ? to + sum : sum;
    });
  };
  if (first < end) {
    multiply_tiles<halves, stages>(
        shares, 1, static_cast<int>(first), static_cast<int>(end), [&](int) { return values; },
        [](int) {}, [&](int, const Fragments& sums) { write(sums); });
  } else if (!add) {
    Fragments none;
    clear(none);
    write(none);
  }
}

// --------------------------------------------------------------------------------------- launchers

// The parts, of at least so many, with which the last of the blocks are done soonest.
inline int64_t parts_of_blocks(int64_t blocks, int64_t least, int64_t most, int64_t at_a_time) {
  most = most < kMaxParts ? most : kMaxParts;
  int64_t best = least < most ? least : most;
  double shortest = INFINITY;
  for (int64_t parts = best; parts <= most; ++parts) {
    const double time =
        static_cast<double>(ceil_div(blocks * parts, at_a_time)) / static_cast<double>(parts);
    if (time < 0.95 * shortest) best = parts, shortest = time;
  }
  return best;
}

// Calls run(std::integral_constant<int, halves>).
template <class Run>
void with_halves(int halves, Run&& run) {
  if (halves == 1) return run(std::integral_constant<int, 1>{});
  run(std::integral_constant<int, 2>{});
}

// Work is dealt out as if each multiprocessor had one block at a time, though of light ones it may
// have two: it was timed like this.

// The stages for products over so many coordinates.
int stages_for(int64_t coordinates, const Execution& execution) {
  if (execution.shared_limit < product_shared(kFullStages) + kStaticShared) return kLeastStages;
  return coordinates <= kFlushCoordinates ? kLightStages : kFullStages;
}

// The same with std::integral_constant<int, stages>.
template <class Run>
void with_stages(int64_t coordinates, const Execution& execution, Run&& run) {
  switch (stages_for(coordinates, execution)) {
    case kLeastStages: return run(std::integral_constant<int, kLeastStages>{});
    case kLightStages: return run(std::integral_constant<int, kLightStages>{});
    default: return run(std::integral_constant<int, kFullStages>{});
  }
}

// How many tiles of targets, and how many sources, have their shares in memory at a time.
struct BandSize {
  int64_t tiles, sources;
};
inline BandSize band_size(const Pairs<float>& pairs, const Execution& execution) {
  const int64_t source_bytes =
      kProductTile * static_cast<int64_t>(sizeof(uint16_t)) * execution.halves;
  const int64_t tiles = pairs.m * ceil_div(pairs.target.size, kProductTile);
  const int64_t sources = pairs.source.packed.rows;
  int64_t most_sources = execution.share_bytes / source_bytes / kProductTile * kProductTile;
  most_sources = most_sources < kBandSources ? most_sources : kBandSources;
  const int64_t across = sources < most_sources ? sources : most_sources;
  const int64_t most_tiles = execution.share_bytes / (source_bytes * across);
  return {tiles < most_tiles ? tiles : most_tiles, across};
}

}  // namespace

PackedSide::PackedSide(const Side<float>& side, int index, int64_t m, int64_t k, bool with_values,
                       const Execution& execution)
    : index_(index),
      with_values_(with_values),
      rows_(ceil_div(side.size, kProductTile) * kProductTile),
      packs_(ceil_div(k, coordinates_of_pack(execution.halves))),
      value_rows_(ceil_div(k + 1, kProductTile) * kProductTile),
      value_packs_(rows_ / coordinates_of_pack(execution.halves)),
      norm_(m * side.size, execution),
      points_(m * rows_ * packs_ * kPack, execution),
      values_(with_values ? m * value_rows_ * value_packs_ * kPack : 0, execution) {}

Side<float> PackedSide::in_packs(Side<float> side) const {
  side.index = index_;
  side.packed = {points_.data(), rows_, packs_};
  side.values = {values_.data(), value_rows_, value_packs_};
  side.norm = norm_.data();
  return side;
}

void PackedSide::measure(const Side<float>& side, int64_t m, int64_t k, const float* bandwidth,
                         const double* centre, Measured* measured,
                         const Execution& execution) const {
  launch(measure_kernel, m * ceil_div(side.size, kMeasureRows), kMeasureThreads, 0, execution,
         in_packs(side), k, bandwidth, centre, norm_.data(), measured);
}

void PackedSide::pack(const Side<float>& side, int64_t m, int64_t k, const float* bandwidth,
                      const double* centre, const Measured* measured,
                      const Execution& execution) const {
  with_halves(execution.halves, [&](auto halves) {
    constexpr int count = decltype(halves)::value;
    launch(pack_points_kernel<count>, m * (rows_ / kProductTile) * packs_, kPackThreads, 0,
           execution, in_packs(side), k, bandwidth, centre, measured, points_.data());
    if (with_values_)
      launch(pack_values_kernel<count>, m * (value_rows_ / kProductTile) * value_packs_,
             kPackThreads, 0, execution, in_packs(side), k, bandwidth, centre, measured,
             values_.data());
  });
}

PackedSides::PackedSides(const Side<float>& x, const Side<float>& y, int64_t m, int64_t k,
                         const float* bandwidth, bool values_of_x, bool values_of_y,
                         const Execution& execution)
    : centre_(m * k, execution),
      measured_(m, execution),
      x_(x, 0, m, k, values_of_x, execution),
      y_(y, 1, m, k, values_of_y, execution) {
  launch(centre_kernel, m * ceil_div(k, kWarp), kCentreThreads, 0, execution, y.points, y.size, k,
         centre_.data(), measured_.data());
  x_.measure(x, m, k, bandwidth, centre_.data(), measured_.data(), execution);
  y_.measure(y, m, k, bandwidth, centre_.data(), measured_.data(), execution);
  x_.pack(x, m, k, bandwidth, centre_.data(), measured_.data(), execution);
  y_.pack(y, m, k, bandwidth, centre_.data(), measured_.data(), execution);
}

// Blocks read their targets again for each tile of sources: those that work at a time must find
// them in the cache of the device, so they work on different parts of few targets.
int64_t parts_of_product_sums(const Pairs<float>& pairs, const Execution& execution) {
  const int64_t at_a_time = execution.multiprocessors;
  const int64_t tile_bytes = pairs.target.packed.packs * kTileNumbers * int64_t{sizeof(uint16_t)};
  return parts_of_blocks(pairs.m * ceil_div(pairs.target.size, kProductTile),
                         ceil_div(at_a_time * tile_bytes, kCachedTargets),
                         ceil_div(pairs.source.size, kProductTile), at_a_time);
}

template <Reduction reduction>
void launch_product_sums(const Pairs<float>& pairs, double* total, double* maximum,
                         const Execution& execution) {
  const int64_t blocks = pairs.m * ceil_div(pairs.target.size, kProductTile) * pairs.parts;
  with_halves(execution.halves, [&](auto halves) {
    with_stages(pairs.k, execution, [&](auto stages) {
      launch(product_sums_kernel<decltype(halves)::value, decltype(stages)::value, reduction>,
             blocks, kProductThreads, product_shared(stages), execution, pairs, total, maximum);
    });
  });
}
template void launch_product_sums<Reduction::sum>(const Pairs<float>&, double*, double*,
                                                  const Execution&);
template void launch_product_sums<Reduction::logsum>(const Pairs<float>&, double*, double*,
                                                     const Execution&);

// All parts of all gradients are in memory together: no more of it than of the shares.
int64_t parts_of_product_pulls(const Pairs<float>& pairs, const Execution& execution) {
  const BandSize band = band_size(pairs, execution);
  const int64_t pull_bytes =
      pairs.m * pairs.target.size * (pairs.k + 1) * static_cast<int64_t>(sizeof(float));
  const int64_t fitting = execution.share_bytes / pull_bytes, tiles = band.sources / kProductTile;
  const int64_t most = fitting < tiles ? fitting : tiles;
  return parts_of_blocks(band.tiles * ceil_div(pairs.k + 1, kProductTile), 1, most > 1 ? most : 1,
                         execution.multiprocessors);
}

void launch_product_pulls(const Pairs<float>& pairs, float* pull, const Execution& execution) {
  const BandSize size = band_size(pairs, execution);
  const int64_t tiles = pairs.m * ceil_div(pairs.target.size, kProductTile);
  const int64_t sources = pairs.source.packed.rows;
  Workspace<uint16_t> shares(size.tiles * kProductTile * size.sources * execution.halves,
                             execution);
  for (int64_t tile = 0; tile < tiles; tile += size.tiles)
    for (int64_t source = 0; source < sources; source += size.sources) {
      const int64_t down = tiles - tile < size.tiles ? tiles - tile : size.tiles;
      const int64_t across = sources - source < size.sources ? sources - source : size.sources;
      // A block that works on several tiles loads the next one meanwhile.
      const int64_t column_tiles = across / kProductTile;
      const int64_t wanted = ceil_div(kShareWaves * execution.multiprocessors, down);
      const Band band{tile, source, across / coordinates_of_pack(execution.halves),
                      wanted < column_tiles ? wanted : column_tiles, shares.data()};
      with_halves(execution.halves, [&](auto halves) {
        constexpr int count = decltype(halves)::value;
        with_stages(pairs.k, execution, [&](auto stages) {
          launch(shares_kernel<count, decltype(stages)::value>, down * band.runs, kProductThreads,
                 product_shared(stages), execution, pairs, band);
        });
        with_stages(across, execution, [&](auto stages) {
          launch(product_pulls_kernel<count, decltype(stages)::value>,
                 down * ceil_div(pairs.k + 1, kProductTile) * pairs.parts, kProductThreads,
                 product_shared(stages), execution, pairs, band, source > 0, pull);
        });
      });
    }
}

}  // namespace dpslice::cuda
