#include "threads.h"

#ifdef _OPENMP
#include <omp.h>
#else
#ifdef __linux__
#include <sched.h>
#endif

#include <climits>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>
#endif

namespace dpslice {
namespace {

// 0: never set. The count is ours, not OpenMP's, so that setting it does not change the pools of
// other libraries in the process.
std::atomic<int> requested{0};

#ifndef _OPENMP
// OMP_NUM_THREADS as OpenMP reads it: a list for nested loops, of which the first counts; 0 if it
// is unset or no such list, which OpenMP's libraries ignore.
int threads_of_environment() {
  const char* text = std::getenv("OMP_NUM_THREADS");
  if (text == nullptr) return 0;
  char* end = nullptr;
  const long number = std::strtol(text, &end, 10);
  if (end == text || number <= 0 || number > INT_MAX) return 0;
  end += std::strspn(end, " \t");
  return *end == '\0' || *end == ',' ? static_cast<int>(number) : 0;
}

int processors() {
#ifdef __linux__
  // Those that taskset or a container leaves to this process, not those of the machine.
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) return CPU_COUNT(&allowed);
#endif
  const unsigned count = std::thread::hardware_concurrency();  // 0 if it is not known
  return count > 0 ? static_cast<int>(count) : 1;
}

// Read when the module is loaded, as OpenMP's libraries do.
const int at_start = threads_of_environment() > 0 ? threads_of_environment() : processors();
#endif

}  // namespace

int num_threads() {
  const int threads = requested.load(std::memory_order_relaxed);
  if (threads > 0) return threads;
#ifdef _OPENMP
  return omp_get_max_threads();
#else
  return at_start;
#endif
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

void throw_no_memory(size_t bytes) {
  NoMemory error;
  error.bytes = bytes;
  throw error;
}

#ifndef _OPENMP
// Threads are started for each call: that takes some twenty microseconds each, little beside what a
// kernel does, and nothing waits in between that a fork would lose, or that would have to end
// before the process does.
void run_in_threads(int threads, void (*work)(const void*), const void* context) {
  std::vector<std::thread> others;
  try {
    others.reserve(static_cast<size_t>(threads) - 1);
    for (int i = 1; i < threads; ++i) others.emplace_back(work, context);
  } catch (const std::exception&) {
    // No more threads, or no memory for them: those that were started share the work.
  }
  work(context);
  for (std::thread& other : others) other.join();
}
#endif

}  // namespace dpslice
