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

}  // namespace dpslice
