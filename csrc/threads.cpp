#include "threads.h"

#include <omp.h>

#include <atomic>

namespace dpslice {
namespace {
// 0: never set. The count is ours, not OpenMP's, so that setting it does not change the pools of
// other libraries in the process.
std::atomic<int> requested{0};
}  // namespace

int num_threads() {
  const int threads = requested.load(std::memory_order_relaxed);
  return threads > 0 ? threads : omp_get_max_threads();
}

void set_num_threads(int threads) { requested.store(threads); }

}  // namespace dpslice
