// Loops over independent tasks, and scratch memory for each thread. For kernel sources: everything
// here lives in the namespace of the instruction set.
#pragma once

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "threads.h"

namespace dpslice::DPSLICE_ISA {

// Memory on a cache-line boundary, freed at the end of scope. Holds plain numbers, not initialised.
// Where there is much of it, huge pages are asked for: handing out small ones, new for each call,
// takes as long as a fifth of a kernel's work.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(int64_t size) { resize(size); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { std::free(data_); }

  // Contents are lost.
  void resize(int64_t size) {
    if (size <= size_) return;
    std::free(data_);
    size_ = 0;
    const size_t wanted = static_cast<size_t>(size) * sizeof(T);
    const size_t unit = wanted >= kHugeFrom ? kHugePage : kCacheLine;
    const size_t bytes = (wanted + unit - 1) / unit * unit;
    data_ = static_cast<T*>(std::aligned_alloc(unit, bytes));
    if (data_ == nullptr) throw_no_memory(bytes);
#ifdef MADV_HUGEPAGE
    if (unit == kHugePage) madvise(data_, bytes, MADV_HUGEPAGE);  // may be refused: no matter
#endif
    size_ = size;
  }
  T* data() { return data_; }
  const T* data() const { return data_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  static constexpr size_t kCacheLine = 64, kHugePage = size_t{1} << 21, kHugeFrom = 2 * kHugePage;

  T* data_ = nullptr;
  int64_t size_ = 0;
};

// Runs body(task, scratch) for each task in [0, tasks). `Scratch` is default-constructed once in
// each thread. Tasks go to threads as these become free, so a task must write only what is its own;
// then results do not depend on the number of threads. The first exception stops the loop and is
// rethrown. `most_threads` is for loops so short that waking more would take longer than the work.
template <class Scratch, class Body>
void parallel_for(int64_t tasks, Body&& body, int64_t most_threads = INT64_MAX) {
  if (tasks <= 0) return;
  if (tasks < most_threads) most_threads = tasks;
  const int threads = static_cast<int>(most_threads < num_threads() ? most_threads : num_threads());
  if (threads == 1) {
    Scratch scratch;
    for (int64_t task = 0; task < tasks; ++task) body(task, scratch);
    return;
  }
  FirstError error;
  std::atomic<int64_t> next{0};
  const auto work = [&] {
    try {
      Scratch scratch;
      for (;;) {
        const int64_t task = next.fetch_add(1, std::memory_order_relaxed);
        if (task >= tasks) break;
        body(task, scratch);
      }
    } catch (...) {
      next.store(tasks, std::memory_order_relaxed);  // the other threads finish what they hold
      error.keep_current();
    }
  };
#ifdef _OPENMP
#pragma omp parallel num_threads(threads)
  work();
#else
  run_in_threads(threads, [](const void* task) { (*static_cast<decltype(&work)>(task))(); }, &work);
#endif
  error.rethrow();
}

struct NoScratch {};

}  // namespace dpslice::DPSLICE_ISA
