// Threads of the kernels: how many, and what one of them throws.
#pragma once

#include <atomic>
#include <cstddef>
#include <exception>
#include <new>

namespace dpslice {

// OMP_NUM_THREADS at start, then what set_num_threads says.
int num_threads();
void set_num_threads(int threads);

// The first exception that any thread of a loop raises. Out of line: inline functions of
// std::exception_ptr must not be emitted by files that are compiled per instruction set (isa.h).
class FirstError {
 public:
  FirstError() noexcept;
  ~FirstError();
  void keep_current() noexcept;  // inside a catch block
  void rethrow() const;          // if there was one

 private:
  std::atomic_flag taken_;
  std::exception_ptr error_;
};

// Thrown where there is not the memory that is wanted.
struct NoMemory : std::bad_alloc {
  size_t bytes = 0;
};
[[noreturn]] void throw_no_memory(size_t bytes);  // out of line for the same reason

#ifndef _OPENMP
// Calls work(context) in `threads` threads, of which the caller's is one, and waits for all of
// them. In fewer, if the system starts no more: `work` is to take what there is to do until nothing
// is left, and must not throw. Out of line as well.
void run_in_threads(int threads, void (*work)(const void*), const void* context);
#endif

}  // namespace dpslice
