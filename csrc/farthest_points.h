// An order of points in which the first of them span the rest. For kernel sources only.
#pragma once

#include <cmath>
#include <cstdint>

#include "parallel.h"
#include "points.h"
#include "simd.h"

namespace dpslice::DPSLICE_ISA {

// Orders points so that each is the farthest from those before it (Gonzalez 1985), until all lie
// within `reach` of one of them or `most` are taken; the others follow in the order they had.
// Returns how far from the nearest of them any other point lies. Ends early where that will hardly
// come below `bound`. order: [size]; squared: scratch.
inline double farthest_first(const Points& points, double reach, double bound, int64_t most,
                             Buffer<double>& squared, int64_t* order) {
  constexpr int L = kLanes<double>;
  // After so many points the reach of `most` is foretold: it falls as count^(-1/dims) does. Where
  // not even half of that is within the bound, the others are not tried.
  constexpr int64_t kAsked = 16;
  const int64_t size = points.size(), dims = points.dims(), vectors = padded<double>(size);
  squared.resize(points.stride());
  double* const nearest = squared.data();
  constexpr double kTaken = -1;
  for (int64_t i = 0; i < vectors; ++i) nearest[i] = i < size ? INFINITY : kTaken;
  int64_t count = 0;
  double left = INFINITY;
  for (int64_t next = 0; count < most;) {
    order[count++] = next;
    nearest[next] = kTaken;
    Vec<double> farthest = splat(kTaken), place{};
    for (int64_t i = 0; i < vectors; i += L) {
      Vec<double> sum{};
      for (int64_t t = 0; t < dims; ++t) {
        const double* const x = points.coordinate(t);
        const Vec<double> difference = load(x + i) - x[next];
        sum += difference * difference;
      }
      const Vec<double> near = vmin<double>(sum, load(nearest + i));
      store(nearest + i, near);
      place = near > farthest ? splat(static_cast<double>(i)) : place;
      farthest = vmax<double>(near, farthest);
    }
    const double radius = max_lanes<double>(farthest);
    if (radius <= 0) {  // the others coincide with these, or none are left
      left = 0;
      break;
    }
    for (int lane = L - 1; lane >= 0; --lane)  // of equally far points the first lane's
      if (farthest[lane] == radius) next = static_cast<int64_t>(place[lane]) + lane;
    left = std::sqrt(radius);
    if (left <= reach) break;
    if (count == kAsked && left * std::pow(static_cast<double>(kAsked) / static_cast<double>(most),
                                           1.0 / static_cast<double>(dims)) >
                               2 * bound)
      break;
  }
  for (int64_t i = 0, at = count; i < size; ++i)
    if (nearest[i] != kTaken) order[at++] = i;
  return left;
}

}  // namespace dpslice::DPSLICE_ISA
