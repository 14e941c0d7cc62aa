// shuffle_rows: a uniformly random order of the rows of a matrix, in place.
#pragma once

#include <cstdint>

namespace dpslice {

// data [rows, row_bytes]; key [8] of ChaCha20, for this shuffle alone.
void shuffle_rows(unsigned char* data, int64_t rows, int64_t row_bytes, const uint32_t* key);

}  // namespace dpslice
