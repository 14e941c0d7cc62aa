// project: XU + sigma * noise, tile by tile; a thread makes the noise of the numbers that it has
// just multiplied out, in registers.
//
// Noise depends on (key, row number, column) alone, by the counters of csrc/project.cpp: the same
// random words for the same number, on either device and whatever the tiling.
#include <cmath>

#include "common/counter_normal.h"
#include "common/philox.h"
#include "kernels.h"
#include "launch.h"
#include "project_args.h"

namespace dpslice::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kTile = 64;    // rows and columns of a block
constexpr int kMicro = 4;    // of a thread: neighbours, so that a thread has whole random blocks
constexpr int kLanesX = 16;  // threads along the columns
constexpr int kDepth = 16;
constexpr int kStride = kTile + 1;
constexpr uint32_t kNoiseDomain = 0;
static_assert(kTile == kMicro * kLanesX && kThreads == kLanesX * kLanesX);

// sum[r][c] = (XU) at row0 + 4 ty + r, column0 + 4 tx + c, in C.
template <class C, class X, class U>
__device__ inline void multiply_tile(const X* x, const U* frame, int64_t n, int64_t d, int64_t p,
                                     int64_t row0, int64_t column0, C sum[kMicro][kMicro]) {
  __shared__ C a[kDepth * kStride];
  __shared__ C b[kDepth * kStride];
  const int tx = static_cast<int>(threadIdx.x) % kLanesX;
  const int ty = static_cast<int>(threadIdx.x) / kLanesX;
#pragma unroll
  for (int r = 0; r < kMicro; ++r)
#pragma unroll
    for (int c = 0; c < kMicro; ++c) sum[r][c] = C(0);
  for (int64_t l0 = 0; l0 < d; l0 += kDepth) {
    __syncthreads();
#pragma unroll
    for (int step = 0; step < kTile * kDepth / kThreads; ++step) {
      const int index = static_cast<int>(threadIdx.x) + step * kThreads;
      const int row = index / kDepth, l = index % kDepth;
      a[l * kStride + row] =
          row0 + row < n && l0 + l < d ? static_cast<C>(x[(row0 + row) * d + l0 + l]) : C(0);
      const int depth = index / kTile, column = index % kTile;
      b[depth * kStride + column] = l0 + depth < d && column0 + column < p
                                        ? static_cast<C>(frame[(l0 + depth) * p + column0 + column])
                                        : C(0);
    }
    __syncthreads();
#pragma unroll
    for (int l = 0; l < kDepth; ++l) {
      C u[kMicro], v[kMicro];
#pragma unroll
      for (int r = 0; r < kMicro; ++r) u[r] = a[l * kStride + ty * kMicro + r];
#pragma unroll
      for (int c = 0; c < kMicro; ++c) v[c] = b[l * kStride + tx * kMicro + c];
#pragma unroll
      for (int r = 0; r < kMicro; ++r)
#pragma unroll
        for (int c = 0; c < kMicro; ++c) sum[r][c] += u[r] * v[c];
    }
  }
}

struct Place {
  int64_t row0, column0;  // of the block
  int64_t row, column;    // of the thread's first number
};
__device__ inline Place block_place(int64_t p) {
  const int64_t column_tiles = ceil_div(p, kTile);
  const int64_t row0 = blockIdx.x / column_tiles * kTile;
  const int64_t column0 = blockIdx.x % column_tiles * kTile;
  return {row0, column0, row0 + threadIdx.x / kLanesX * kMicro,
          column0 + threadIdx.x % kLanesX * kMicro};
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    project_secure_kernel(ProjectSecureArgs<T> args, double grid, double per_grid) {
  const Place place = block_place(args.p);
  double sum[kMicro][kMicro];
  multiply_tile<double>(args.x, args.frame, args.n, args.d, args.p, place.row0, place.column0, sum);
#pragma unroll 1
  for (int r = 0; r < kMicro; ++r) {
    const int64_t i = place.row + r;
    if (i >= args.n || place.column >= args.p) continue;
    // Block of row i, columns 4 g ... 4 g + 3: nonce (i, domain), counter g.
    const uint64_t number = args.first_row + static_cast<uint64_t>(i);
    uint32_t w[kChaChaWords];
    chacha20_block<uint32_t>(args.key, static_cast<uint32_t>(place.column / kMicro),
                             static_cast<uint32_t>(number), static_cast<uint32_t>(number >> 32),
                             kNoiseDomain, w);
    double normal[kMicro];
    secure_normal_pair(w[0], w[1], w[2], w[3], w[4], w[5], &normal[0], &normal[1]);
    secure_normal_pair(w[6], w[7], w[8], w[9], w[10], w[11], &normal[2], &normal[3]);
    // Dividing by a power of two is exact, so rint (ties to even) does all the rounding there is.
#pragma unroll
    for (int c = 0; c < kMicro; ++c) {
      double product = sum[0][c];
#pragma unroll
      for (int row = 1; row < kMicro; ++row) product = r == row ? sum[row][c] : product;
      if (place.column + c < args.p)
        args.out[i * args.p + place.column + c] =
            static_cast<T>(grid * rint((product + args.sigma * normal[c]) * per_grid));
    }
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) project_fast_kernel(ProjectFastArgs<T> args) {
  constexpr int normals = kFastNormals<T>;
  const Place place = block_place(args.p);
  const T sigma = static_cast<T>(args.sigma);
  T sum[kMicro][kMicro];
  multiply_tile<T>(args.x, args.frame, args.n, args.d, args.p, place.row0, place.column0, sum);
#pragma unroll
  for (int r = 0; r < kMicro; ++r) {
    const int64_t i = place.row + r;
    if (i >= args.n || place.column >= args.p) continue;
    const uint64_t number = args.first_row + static_cast<uint64_t>(i);
    T normal[kMicro] = {};
    if (sigma != T(0)) {
#pragma unroll
      for (int g = 0; g < kMicro / normals; ++g) {
        uint32_t w0 = static_cast<uint32_t>(place.column / normals + g);
        uint32_t w1 = static_cast<uint32_t>(number), w2 = static_cast<uint32_t>(number >> 32);
        uint32_t w3 = 0;
        philox4x32(w0, w1, w2, w3, args.key[0], args.key[1]);
        fast_normals(w0, w1, w2, w3, normal + g * normals);
      }
    }
#pragma unroll
    for (int c = 0; c < kMicro; ++c)
      if (place.column + c < args.p)
        args.out[i * args.p + place.column + c] = sum[r][c] + sigma * normal[c];
  }
}

int64_t tiles(int64_t n, int64_t p) { return ceil_div(n, kTile) * ceil_div(p, kTile); }

}  // namespace

template <class T>
void project_secure(const ProjectSecureArgs<T>& args, const Execution& execution) {
  const double grid = std::ldexp(1.0, std::ilogb(args.sigma) - 10);
  launch(project_secure_kernel<T>, tiles(args.n, args.p), kThreads, 0, execution, args, grid,
         1.0 / grid);
}

template <class T>
void project_fast(const ProjectFastArgs<T>& args, const Execution& execution) {
  launch(project_fast_kernel<T>, tiles(args.n, args.p), kThreads, 0, execution, args);
}

DPSLICE_CUDA_INSTANTIATE(project_secure, ProjectSecureArgs)
DPSLICE_CUDA_INSTANTIATE(project_fast, ProjectFastArgs)

}  // namespace dpslice::cuda
