// Fisher and Yates: row i, from the last to the second, changes places with a row drawn uniformly
// from rows 0 ... i. One swap at a time, so it needs no memory beyond a chunk of a row and works on
// a memory map.
#include "shuffle_rows.h"

#include <algorithm>
#include <cstring>

#include "common/chacha20.h"
#include "secure_wipe.h"

namespace dpslice {
namespace {

constexpr uint32_t kShuffleDomain = 1;  // sets its blocks apart from those of the noise

// 64-bit numbers of a ChaCha20 key stream, block after block.
class Stream {
 public:
  explicit Stream(const uint32_t* key) : key_(key) {}
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { secure_wipe(words_, sizeof words_); }

  uint64_t next() {
    if (used_ == kChaChaWords) {
      chacha20_block<uint32_t>(key_, static_cast<uint32_t>(block_),
                               static_cast<uint32_t>(block_ >> 32), 0u, kShuffleDomain, words_);
      ++block_;
      used_ = 0;
    }
    const uint64_t low = words_[used_], high = words_[used_ + 1];
    used_ += 2;
    return high << 32 | low;
  }

  // Uniform on 0 ... bound - 1: numbers of the last, incomplete run of `bound` values are drawn
  // again.
  uint64_t below(uint64_t bound) {
    const uint64_t incomplete = (UINT64_MAX % bound + 1) % bound;  // 2^64 mod bound
    for (;;) {
      const uint64_t value = next();
      if (value <= UINT64_MAX - incomplete) return value % bound;
    }
  }

 private:
  const uint32_t* key_;
  uint32_t words_[kChaChaWords];
  int used_ = kChaChaWords;
  uint64_t block_ = 0;
};

}  // namespace

void shuffle_rows(unsigned char* data, int64_t rows, int64_t row_bytes, const uint32_t* key) {
  Stream stream(key);
  for (int64_t i = rows - 1; i > 0; --i) {
    const int64_t j = static_cast<int64_t>(stream.below(static_cast<uint64_t>(i) + 1));
    if (j == i) continue;
    std::swap_ranges(data + i * row_bytes, data + (i + 1) * row_bytes, data + j * row_bytes);
  }
}

}  // namespace dpslice
