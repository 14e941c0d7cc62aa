// Bindings of project, shuffle_rows and the random number functions under them.
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "bindings.h"
#include "common/chacha20.h"
#include "common/counter_normal.h"
#include "common/philox.h"
#include "project.h"
#include "secure_wipe.h"
#include "shuffle_rows.h"

namespace dpslice {
namespace {

// The words of a ChaCha20 key, wiped when they go.
class Key {
 public:
  explicit Key(const py::buffer& bytes) {
    const py::buffer_info info = bytes.request();
    if (info.ndim != 1 || info.itemsize != 1 || info.size != 32 || info.strides[0] != 1)
      throw std::invalid_argument("key must be 32 bytes");
    const unsigned char* b = static_cast<const unsigned char*>(info.ptr);
    for (int i = 0; i < kChaChaKeyWords; ++i, b += 4)
      words_[i] =
          uint32_t{b[0]} | uint32_t{b[1]} << 8 | uint32_t{b[2]} << 16 | uint32_t{b[3]} << 24;
  }
  Key(const Key&) = delete;
  Key& operator=(const Key&) = delete;
  ~Key() { secure_wipe(words_, sizeof words_); }
  const uint32_t* words() const { return words_; }

 private:
  uint32_t words_[kChaChaKeyWords];
};

py::bytes chacha20_block_bytes(const py::buffer& key_bytes, uint32_t counter,
                               const py::bytes& nonce_bytes) {
  const Key key(key_bytes);
  const std::string nonce = nonce_bytes;
  if (nonce.size() != 12) throw std::invalid_argument("nonce must be 12 bytes");
  uint32_t nonces[3], words[kChaChaWords];
  for (int i = 0; i < 3; ++i) {
    nonces[i] = 0;
    for (int j = 3; j >= 0; --j)
      nonces[i] = nonces[i] << 8 | static_cast<unsigned char>(nonce[4 * i + j]);
  }
  chacha20_block<uint32_t>(key.words(), counter, nonces[0], nonces[1], nonces[2], words);
  char block[64];
  for (int i = 0; i < 64; ++i) block[i] = static_cast<char>(words[i / 4] >> (8 * (i % 4)));
  return py::bytes(block, sizeof block);
}

std::array<uint32_t, 4> philox4x32_words(std::array<uint32_t, 4> counter,
                                         const std::array<uint32_t, 2>& key) {
  philox4x32(counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
  return counter;
}

template <class T>
void check_product(const Array<T>& x, const py::array& frame) {
  require_rank("x", x, 2);
  require_rank("frame", frame, 2);
  if (x.shape(1) < 1) throw std::invalid_argument("x must have at least one column");
  if (frame.shape(0) != x.shape(1))
    throw std::invalid_argument("frame must have one row for each column of x");
  if (frame.shape(1) >= int64_t{1} << 33)
    throw std::invalid_argument("frame must have fewer than 2^33 columns");
}

template <class T, class X>
py::array project_secure_as(const Array<X>& x, const Array<double>& frame, double sigma,
                            const Key& key, uint64_t first_row, double max_norm) {
  const int64_t n = x.shape(0), d = x.shape(1), p = frame.shape(1);
  Array<T> out = empty<T>({n, p});
  int64_t bad_row = -1;
  ProjectSecureArgs<T> args{};
  if constexpr (std::is_same_v<X, double>)
    args.x_double = x.data();
  else
    args.x_float = x.data();
  args.frame = frame.data();
  args.sigma = sigma;
  args.key = key.words();
  args.first_row = first_row;
  args.max_norm = max_norm;
  args.out = out.mutable_data();
  args.n = n;
  args.d = d;
  args.p = p;
  args.bad_row = &bad_row;
  run(&project_secure<T>, args);
  if (bad_row >= 0)
    throw std::invalid_argument("x must hold finite numbers; row " +
                                std::to_string(first_row + static_cast<uint64_t>(bad_row)) +
                                " does not");
  return out;
}

template <class X>
py::array project_secure_rows(const Array<X>& x, const Array<double>& frame, double sigma,
                              const py::buffer& key_bytes, uint64_t first_row, double max_norm,
                              const std::string& dtype) {
  check_product(x, frame);
  // Within these bounds the grid and its inverse are normal numbers.
  if (!(sigma > 1e-270 && sigma < 1e270))
    throw std::invalid_argument("sigma of secure noise must be between 1e-270 and 1e270");
  if (!(max_norm > 0)) throw std::invalid_argument("max_norm must be > 0");
  if (first_row > UINT64_MAX - static_cast<uint64_t>(x.shape(0)))
    throw std::invalid_argument("first_row is too large");
  const Key key(key_bytes);
  if (dtype == "float32")
    return project_secure_as<float>(x, frame, sigma, key, first_row, max_norm);
  if (dtype == "float64")
    return project_secure_as<double>(x, frame, sigma, key, first_row, max_norm);
  throw std::invalid_argument("dtype must be float32 or float64");
}

template <class T>
Array<T> project_fast_rows(const Array<T>& x, const Array<T>& frame, double sigma,
                           const std::pair<uint64_t, uint64_t>& key, uint64_t first_row) {
  check_product(x, frame);
  const int64_t n = x.shape(0), p = frame.shape(1);
  Array<T> out = empty<T>({n, p});
  uint32_t words[2];
  fast_key(key.first, key.second, words);
  const ProjectFastArgs<T> args{x.data(), frame.data(), sigma, words, first_row, out.mutable_data(),
                                n,        x.shape(1),   p};
  run(&project_fast<T>, args);
  return out;
}

Array<double> secure_normals_from(const Array<uint32_t>& words) {
  require_rank("words", words, 2);
  require_shape("words", words, {words.shape(0), 6});
  Array<double> out = empty<double>({words.shape(0), 2});
  secure_normals(SecureNormalsArgs<double>{words.data(), out.mutable_data(), words.shape(0)});
  return out;
}

void shuffle_rows_of(py::array array, const py::buffer& key_bytes) {
  require_rank("array", array, 2);
  if (!array.writeable() || !(array.flags() & py::array::c_style))
    throw std::invalid_argument("array must be writeable and C-contiguous");
  const Key key(key_bytes);
  unsigned char* data = static_cast<unsigned char*>(array.mutable_data());
  const int64_t rows = array.shape(0), row_bytes = array.shape(1) * array.itemsize();
  py::gil_scoped_release unlocked;
  shuffle_rows(data, rows, row_bytes, key.words());
}

template <class T>
void register_dtype(py::module_& m) {
  define(m, "project_secure", &project_secure_rows<T>, py::arg("x").noconvert(),
         py::arg("frame").noconvert(), py::arg("sigma"), py::arg("key"), py::arg("first_row"),
         py::arg("max_norm"), py::arg("dtype"),
         "Clipped rows times frame plus ChaCha20 noise, on the grid of the release.");
  define(m, "project_fast", &project_fast_rows<T>, py::arg("x").noconvert(),
         py::arg("frame").noconvert(), py::arg("sigma"), py::arg("key"), py::arg("first_row"),
         "Rows times frame plus Philox noise: reproducible, not private.");
}

}  // namespace

void register_project(py::module_& m) {
  register_dtype<float>(m);
  register_dtype<double>(m);
  define(m, "shuffle_rows", &shuffle_rows_of, py::arg("array").noconvert(), py::arg("key"),
         "Put the rows of an array into uniformly random order, in place.");
  m.def("chacha20_block", &chacha20_block_bytes, py::arg("key"), py::arg("counter"),
        py::arg("nonce"), "One block of the ChaCha20 key stream (RFC 8439).");
  m.def("philox4x32", &philox4x32_words, py::arg("counter"), py::arg("key"),
        "One block of Philox4x32-10.");
  define(m, "secure_normals", &secure_normals_from, py::arg("words").noconvert(),
         "Pairs of standard normals, each from six uniform random words.");
}

}  // namespace dpslice
