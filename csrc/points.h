// The points of one slice in the layout that the small-k kernels read: float64, one row per
// coordinate, so that a vector holds one coordinate of neighbouring points.
//
// Distances are sums of squared differences, never |x|^2 + |y|^2 - 2 xy, which would cancel for
// points far from the origin. For kernel sources only.
#pragma once

#include <cmath>
#include <cstdint>

#include "parallel.h"
#include "simd.h"

namespace dpslice::DPSLICE_ISA {

// Sources are taken this many at a time: what belongs to them and one vector of targets stays in
// L1.
constexpr int64_t kSourceTile = 32;

class Points {
 public:
  // rows: [size, dims], multiplied by `scale` (a power of two, so exactly).
  template <class T>
  void assign(const T* rows, int64_t size, int64_t dims, double scale) {
    size_ = size;
    dims_ = dims;
    stride_ = (size + kSourceTile - 1) / kSourceTile * kSourceTile;
    at_.resize(stride_ * dims);
    for (int64_t t = 0; t < dims; ++t) {
      double* coordinate = at_.data() + t * stride_;
      for (int64_t i = 0; i < size; ++i)
        coordinate[i] = static_cast<double>(rows[i * dims + t]) * scale;
      for (int64_t i = size; i < stride_; ++i) coordinate[i] = 0;
    }
  }
  // The points of `from` in another order: [size].
  void assign_ordered(const Points& from, const int64_t* order) {
    size_ = from.size_;
    dims_ = from.dims_;
    stride_ = from.stride_;
    at_.resize(stride_ * dims_);
    for (int64_t t = 0; t < dims_; ++t) {
      double* coordinate = at_.data() + t * stride_;
      for (int64_t i = 0; i < size_; ++i) coordinate[i] = from.coordinate(t)[order[i]];
      for (int64_t i = size_; i < stride_; ++i) coordinate[i] = 0;
    }
  }
  int64_t size() const { return size_; }
  int64_t dims() const { return dims_; }
  int64_t stride() const { return stride_; }  // a multiple of kSourceTile; the rest is zeros
  const double* coordinate(int64_t t) const { return at_.data() + t * stride_; }

 private:
  Buffer<double> at_;  // [dims, stride]
  int64_t size_ = 0, dims_ = 0, stride_ = 0;
};

static_assert(kSourceTile % kLanes<double> == 0 && kSourceTile % 4 == 0);

// squared[s] = |source(source0 + s) - target|^2 of four sources, for the targets of the vector at
// target0.
inline __attribute__((always_inline)) void squared_distances(const Points& targets, int64_t target0,
                                                             const Points& sources, int64_t source0,
                                                             Vec<double>* squared) {
  const int64_t dims = targets.dims();
  Vec<double> sum0{}, sum1{}, sum2{}, sum3{};
  for (int64_t t = 0; t < dims; ++t) {
    const Vec<double> target = load(targets.coordinate(t) + target0);
    const double* source = sources.coordinate(t) + source0;
    const Vec<double> d0 = source[0] - target, d1 = source[1] - target, d2 = source[2] - target,
                      d3 = source[3] - target;
    sum0 += d0 * d0;
    sum1 += d1 * d1;
    sum2 += d2 * d2;
    sum3 += d3 * d3;
  }
  squared[0] = sum0;
  squared[1] = sum1;
  squared[2] = sum2;
  squared[3] = sum3;
}

// The power of two that brings `length` > 0 into [1, 2), or a subnormal one as near as a factor
// can: multiplying by it is exact.
inline double unit_scale(double length) {
  constexpr int kMost = 1023;
  const int exponent = std::ilogb(length);
  return std::ldexp(1.0, exponent < -kMost ? kMost : -exponent);
}

}  // namespace dpslice::DPSLICE_ISA
