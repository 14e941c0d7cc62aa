// exp of each number, as the kernels compute it.
#include "exponential.h"

#include "simd.h"

namespace dpslice::DPSLICE_ISA {

template <class T>
void exponential(const ExponentialArgs<T>& args) {
  for (int64_t i = 0; i < args.size; i += kLanes<T>) {
    const int64_t rest = args.size - i;
    const int count = rest < kLanes<T> ? static_cast<int>(rest) : kLanes<T>;
    store_first(args.out + i, vexp<T>(load_first(args.x + i, count)), count);
  }
}

DPSLICE_INSTANTIATE(exponential, ExponentialArgs)

}  // namespace dpslice::DPSLICE_ISA
