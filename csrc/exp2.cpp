// 2^t of each number t, as the kernels compute it.
#include "exp2.h"

#include "simd.h"

namespace dpslice::DPSLICE_ISA {

template <class T>
void exp2(const Exp2Args<T>& args) {
  constexpr int L = kLanes<T>;
  int64_t i = 0;
  for (; i + 4 * L <= args.size; i += 4 * L) {
    Vec<T> four[4];
    for (int v = 0; v < 4; ++v) four[v] = load(args.x + i + v * L);
    vexp2_each<T>(four);
    for (int v = 0; v < 4; ++v) store(args.out + i + v * L, four[v]);
  }
  for (; i < args.size; i += L) {
    const int count = args.size - i < L ? static_cast<int>(args.size - i) : L;
    store_first(args.out + i, vexp2<T>(load_first(args.x + i, count)), count);
  }
}

DPSLICE_INSTANTIATE(exp2, Exp2Args)

}  // namespace dpslice::DPSLICE_ISA
