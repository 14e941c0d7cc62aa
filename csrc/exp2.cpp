// 2^t of each number t, as the kernels compute it.
#include "exp2.h"

#include "simd.h"

namespace dpslice::DPSLICE_ISA {

template <class T>
void exp2(const Exp2Args<T>& args) {
  for (int64_t i = 0; i < args.size; i += kLanes<T>) {
    const int64_t rest = args.size - i;
    const int count = rest < kLanes<T> ? static_cast<int>(rest) : kLanes<T>;
    store_first(args.out + i, vexp2<T>(load_first(args.x + i, count)), count);
  }
}

DPSLICE_INSTANTIATE(exp2, Exp2Args)

}  // namespace dpslice::DPSLICE_ISA
