// Rows of any length, sorted by radix: CUB's sort of a whole device, in whose keys the number of
// the row stands above the bits of the value, so that many rows are sorted as fast as one. Of
// CUB's sorts this one alone is quick for rows few or many, and never waits for the device, which
// the recording of a graph does not allow.
//
// Where the value's bits, the row's and the place's fit into one word of 64 bits, a sort of words
// does it, and moves nothing else. Those of float64 do not fit: values are sorted with their
// places, and then, stable as the sort is, words of row and place by their row.
#include <cub/device/device_radix_sort.cuh>

#include "common/bits.h"
#include "launch.h"
#include "sort_rows.h"

namespace dpslice::cuda {
namespace {

constexpr int kThreads = 256;

// Rows that are sorted at once. Row and place have at most 32 bits together, for there are fewer
// than 2^31 values.
template <class T>
struct Rows {
  const T* values;
  uint32_t count, size;
  int place_bits, row_bits;
  T* sorted;
  uint32_t* places;  // or null

  __host__ __device__ uint32_t values_count() const { return count * size; }
  // Writes the value that comes at `at`, which was at `place` of its row.
  __device__ void put(uint32_t at, T value, uint32_t place) const {
    sorted[at] = value;
    if (places != nullptr) places[at] = place;
  }
};

// The bits that numbers below `count` have.
int bits_below(uint32_t count) {
  int bits = 0;
  while (uint64_t{1} << bits < count) ++bits;
  return bits;
}

__device__ inline uint32_t global_thread() { return blockIdx.x * kThreads + threadIdx.x; }

template <class... Params, class... Values>
void launch_for_each(uint32_t count, const Execution& execution, void (*kernel)(Params...),
                     Values... values) {
  launch(kernel, ceil_div(count, kThreads), kThreads, 0, execution, static_cast<Params>(values)...);
}

// sort(temporary, bytes) asks for the bytes, and then sorts.
template <class Sort>
void with_memory(const Execution& execution, Sort&& sort) {
  size_t bytes = 0;
  check(sort(static_cast<void*>(nullptr), bytes), "ask for the memory of a sort");
  const Workspace<unsigned char> temporary(static_cast<int64_t>(bytes), execution);
  check(sort(static_cast<void*>(temporary.data()), bytes), "sort");
}

// Words and room for as many.
class Words {
 public:
  Words(uint32_t count, const Execution& execution)
      : memory_(2 * static_cast<int64_t>(count), execution),
        count_(count),
        buffer_(memory_.data(), memory_.data() + count) {}
  uint64_t* data() { return buffer_.Current(); }
  void sort(int begin_bit, int end_bit, const Execution& execution) {
    with_memory(execution, [&](void* temporary, size_t& bytes) {
      return cub::DeviceRadixSort::SortKeys(temporary, bytes, buffer_, count_, begin_bit, end_bit,
                                            execution.stream);
    });
  }

 private:
  Workspace<uint64_t> memory_;
  uint32_t count_;
  cub::DoubleBuffer<uint64_t> buffer_;
};

// ----------------------------------------------------------------------------------------- float32

__global__ void __launch_bounds__(kThreads) pack_kernel(Rows<float> rows, uint64_t* words) {
  const uint32_t at = global_thread();
  if (at >= rows.values_count()) return;
  const uint32_t row = at / rows.size, place = at % rows.size;
  words[at] =
      (static_cast<uint64_t>(row) << 32 | ordered_bits(rows.values[at])) << rows.place_bits | place;
}

__global__ void __launch_bounds__(kThreads) unpack_kernel(Rows<float> rows, const uint64_t* words) {
  const uint32_t at = global_thread();
  if (at >= rows.values_count()) return;
  const uint64_t word = words[at];
  rows.put(at, number_of_bits(static_cast<uint32_t>(word >> rows.place_bits)),
           static_cast<uint32_t>(word & ((uint64_t{1} << rows.place_bits) - 1)));
}

constexpr int64_t bytes_of_value(float) { return 2 * sizeof(uint64_t); }

void sort_at_once(const Rows<float>& rows, const Execution& execution) {
  Words words(rows.values_count(), execution);
  launch_for_each(rows.values_count(), execution, pack_kernel, rows, words.data());
  words.sort(rows.place_bits, rows.place_bits + 32 + rows.row_bits, execution);
  launch_for_each(rows.values_count(), execution, unpack_kernel, rows, words.data());
}

// ----------------------------------------------------------------------------------------- float64

// Here places are counted from the first row on until the last step.

__global__ void __launch_bounds__(kThreads)
    number_kernel(Rows<double> rows, uint64_t* keys, uint32_t* places) {
  const uint32_t at = global_thread();
  if (at >= rows.values_count()) return;
  keys[at] = ordered_bits(rows.values[at]);
  places[at] = at;
}

__global__ void __launch_bounds__(kThreads)
    rows_kernel(Rows<double> rows, const uint32_t* places, uint64_t* words) {
  const uint32_t at = global_thread();
  if (at >= rows.values_count()) return;
  words[at] = static_cast<uint64_t>(places[at] / rows.size) << 32 | places[at];
}

__global__ void __launch_bounds__(kThreads)
    gather_kernel(Rows<double> rows, const uint64_t* words) {
  const uint32_t at = global_thread();
  if (at >= rows.values_count()) return;
  const uint64_t word = words[at];
  const uint32_t place = static_cast<uint32_t>(word), row = static_cast<uint32_t>(word >> 32);
  rows.put(at, rows.values[place], place - row * rows.size);
}

constexpr int64_t bytes_of_value(double) { return 4 * sizeof(uint64_t) + 2 * sizeof(uint32_t); }

void sort_at_once(const Rows<double>& rows, const Execution& execution) {
  const uint32_t count = rows.values_count();
  Words words(count, execution);
  {
    const Workspace<uint64_t> keys(2 * static_cast<int64_t>(count), execution);
    const Workspace<uint32_t> places(2 * static_cast<int64_t>(count), execution);
    cub::DoubleBuffer<uint64_t> key_buffer(keys.data(), keys.data() + count);
    cub::DoubleBuffer<uint32_t> place_buffer(places.data(), places.data() + count);
    launch_for_each(count, execution, number_kernel, rows, keys.data(), places.data());
    with_memory(execution, [&](void* temporary, size_t& bytes) {
      return cub::DeviceRadixSort::SortPairs(temporary, bytes, key_buffer, place_buffer, count, 0,
                                             64, execution.stream);
    });
    launch_for_each(count, execution, rows_kernel, rows, place_buffer.Current(), words.data());
  }
  if (rows.row_bits > 0) words.sort(32, 32 + rows.row_bits, execution);
  launch_for_each(count, execution, gather_kernel, rows, words.data());
}

}  // namespace

template <class T>
void sort_rows(const T* values, int64_t m, int64_t size, T* sorted, uint32_t* places,
               const Execution& execution) {
  if (size > INT32_MAX) throw std::invalid_argument("a row has at most 2147483647 values");
  const int64_t room = execution.share_bytes / bytes_of_value(T(0));
  const int64_t most = (room < INT32_MAX ? room : INT32_MAX) / size;
  const int64_t at_once = most > 1 ? most : 1;
  for (int64_t first = 0; first < m; first += at_once) {
    const int64_t count = m - first < at_once ? m - first : at_once, start = first * size;
    sort_at_once(
        Rows<T>{values + start, static_cast<uint32_t>(count), static_cast<uint32_t>(size),
                bits_below(static_cast<uint32_t>(size)), bits_below(static_cast<uint32_t>(count)),
                sorted + start, places == nullptr ? nullptr : places + start},
        execution);
  }
}

template void sort_rows<float>(const float*, int64_t, int64_t, float*, uint32_t*, const Execution&);
template void sort_rows<double>(const double*, int64_t, int64_t, double*, uint32_t*,
                                const Execution&);

}  // namespace dpslice::cuda
