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

FirstError::FirstError() noexcept = default;
FirstError::~FirstError() = default;
void FirstError::keep_current() noexcept {
  if (!taken_.test_and_set()) error_ = std::current_exception();
}
void FirstError::rethrow() const {
  if (error_) std::rethrow_exception(error_);
}

}  // namespace dpslice
