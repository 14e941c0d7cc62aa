// Kernel `reach`. Without signs, bit patterns of floating-point numbers are ordered as the numbers
// are, with infinity and then NaN above all: the largest of them, as integers, tells everything.
#include "reach.h"

#include <bit>
#include <cmath>
#include <limits>

#include "simd.h"

namespace dpslice::DPSLICE_ISA {

template <class T>
void reach(const ReachArgs<T>& args) {
  using Bits = typename SimdTypes<T>::Bits;
  constexpr Bits kMagnitude = std::numeric_limits<Bits>::max();  // all but the sign
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  double farthest = 0;
  for (int64_t s = 0; s < args.m; ++s) {
    const T* const points = args.points + s * args.size;
    Bits largest = 0;
    for (int64_t i = 0; i < args.size; ++i) {
      const Bits magnitude = std::bit_cast<Bits>(points[i]) & kMagnitude;
      largest = magnitude > largest ? magnitude : largest;
    }
    const T most = std::bit_cast<T>(largest), g = args.bandwidth[s];
    // Written so that NaN is no bandwidth. Subnormal ones have no reciprocal.
    const bool usable = g >= std::numeric_limits<T>::min() && g <= std::numeric_limits<T>::max();
    if (!usable || !std::isfinite(most)) {
      *args.reach = kNaN;
      return;
    }
    const double distance = static_cast<double>(most) / static_cast<double>(g);
    farthest = distance > farthest ? distance : farthest;
  }
  *args.reach = farthest;
}

DPSLICE_INSTANTIATE(reach, ReachArgs)

}  // namespace dpslice::DPSLICE_ISA
