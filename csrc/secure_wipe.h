// Overwriting of secrets: keys, noise, and projections before noise. Best effort: what a compiler
// spilled to the stack or left in registers is out of reach.
#pragma once

#include <cstddef>
#include <cstring>

namespace dpslice {

__attribute__((always_inline)) inline void secure_wipe(void* data, size_t bytes) {
  if (data == nullptr) return;
  memset(data, 0, bytes);
  __asm__ __volatile__(""
                       :
                       : "r"(data)
                       : "memory");  // the zeros are "read", so they must be written
}

// Overwrites at the end of its scope, however that is left.
class WipedAtExit {
 public:
  WipedAtExit(void* data, size_t bytes) : data_(data), bytes_(bytes) {}
  ~WipedAtExit() { secure_wipe(data_, bytes_); }
  WipedAtExit(const WipedAtExit&) = delete;
  WipedAtExit& operator=(const WipedAtExit&) = delete;

 private:
  void* data_;
  size_t bytes_;
};

}  // namespace dpslice
