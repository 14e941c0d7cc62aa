// The module dpslice._cuda: addresses of device memory in, nothing out. Shapes, dtypes and devices
// were checked, and results allocated, in python/dpslice/_cuda_kernels.py; here numbers become
// argument structs, and the interpreter lock is released around the launch.
#include <pybind11/pybind11.h>
#include <pybind11/typing.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

#include "common/counter_normal.h"
#include "common/divergence.h"
#include "device.h"
#include "kernels.h"
#include "secure_wipe.h"

namespace dpslice::cuda {
namespace {

namespace py = pybind11;
using Allocate = py::typing::Callable<uintptr_t(size_t)>;

// An address in device memory; 0 is null.
template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Where to run: `allocate` gives the address of so many bytes on the device, for workspaces; it
// keeps them until the call is over.
struct Where {
  int device;
  uintptr_t stream;
  const Allocate& allocate;
};

// Runs launch(T{}, execution) with T the dtype of that name.
template <class Launch>
void run(const std::string& dtype, const Where& where, Launch&& launch) {
  if (dtype != "float32" && dtype != "float64")
    throw std::invalid_argument("dtype must be float32 or float64; got " + dtype);
  Memory memory([&where](size_t bytes) {
    const py::gil_scoped_acquire locked;
    return where.allocate(bytes).cast<uintptr_t>();
  });
  py::gil_scoped_release unlocked;
  const DeviceGuard guard(where.device);
  Execution execution = guard.execution(where.stream);
  execution.memory = &memory;
  if (dtype == "float32")
    launch(float{}, execution);
  else
    launch(double{}, execution);
}

void set_halves(Execution& execution, int halves) {
  if (halves != 1 && halves != 2)
    throw std::invalid_argument("halves must be 1 or 2; got " + std::to_string(halves));
  execution.halves = halves;
}

void kernel_sum_call(const std::string& dtype, int device, uintptr_t stream,
                     const Allocate& allocate, int64_t m, int64_t b, int64_t c, int64_t k,
                     int halves, uintptr_t x, uintptr_t y, uintptr_t bandwidth, uintptr_t weights,
                     uintptr_t out) {
  run(dtype, {device, stream, allocate}, [&](auto zero, Execution& execution) {
    using T = decltype(zero);
    set_halves(execution, halves);
    kernel_sum(KernelSumArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth), at<T>(weights),
                                at<T>(out)},
               execution);
  });
}

void kernel_sum_vjp_call(const std::string& dtype, int device, uintptr_t stream,
                         const Allocate& allocate, int64_t m, int64_t b, int64_t c, int64_t k,
                         int halves, uintptr_t x, uintptr_t y, uintptr_t bandwidth,
                         uintptr_t weights, uintptr_t grad, uintptr_t grad_x, uintptr_t grad_y,
                         uintptr_t grad_weights) {
  run(dtype, {device, stream, allocate}, [&](auto zero, Execution& execution) {
    using T = decltype(zero);
    set_halves(execution, halves);
    kernel_sum_vjp(
        KernelSumVjpArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth), at<T>(weights),
                            at<T>(grad), at<T>(grad_x), at<T>(grad_y), at<T>(grad_weights)},
        execution);
  });
}

void kernel_sum_total_call(const std::string& dtype, int device, uintptr_t stream,
                           const Allocate& allocate, int64_t m, int64_t b, int64_t c, int64_t k,
                           int halves, uintptr_t x, uintptr_t y, uintptr_t bandwidth,
                           uintptr_t weights, uintptr_t row_weights, uintptr_t out,
                           uintptr_t grad_y, uintptr_t grad_weights) {
  run(dtype, {device, stream, allocate}, [&](auto zero, Execution& execution) {
    using T = decltype(zero);
    set_halves(execution, halves);
    kernel_sum_total(
        KernelSumTotalArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth), at<T>(weights),
                              at<T>(row_weights), at<T>(out), at<T>(grad_y), at<T>(grad_weights)},
        execution);
  });
}

void logsumexp_call(const std::string& dtype, int device, uintptr_t stream,
                    const Allocate& allocate, int64_t m, int64_t b, int64_t c, int64_t k,
                    int halves, uintptr_t x, uintptr_t y, uintptr_t bandwidth,
                    uintptr_t log_weights, uintptr_t out) {
  run(dtype, {device, stream, allocate}, [&](auto zero, Execution& execution) {
    using T = decltype(zero);
    set_halves(execution, halves);
    logsumexp(LogsumexpArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth), at<T>(log_weights),
                               at<T>(out)},
              execution);
  });
}

void logsumexp_vjp_call(const std::string& dtype, int device, uintptr_t stream,
                        const Allocate& allocate, int64_t m, int64_t b, int64_t c, int64_t k,
                        int halves, uintptr_t x, uintptr_t y, uintptr_t bandwidth,
                        uintptr_t log_weights, uintptr_t logsumexp, uintptr_t grad,
                        uintptr_t grad_x, uintptr_t grad_y, uintptr_t grad_log_weights) {
  run(dtype, {device, stream, allocate}, [&](auto zero, Execution& execution) {
    using T = decltype(zero);
    set_halves(execution, halves);
    logsumexp_vjp(LogsumexpVjpArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth),
                                      at<T>(log_weights), at<T>(logsumexp), at<T>(grad),
                                      at<T>(grad_x), at<T>(grad_y), at<T>(grad_log_weights)},
                  execution);
  });
}

void logsumexp_total_call(const std::string& dtype, int device, uintptr_t stream,
                          const Allocate& allocate, int64_t m, int64_t b, int64_t c, int64_t k,
                          int halves, uintptr_t x, uintptr_t y, uintptr_t bandwidth,
                          uintptr_t log_weights, uintptr_t row_weights, uintptr_t out,
                          uintptr_t grad_y, uintptr_t grad_log_weights) {
  run(dtype, {device, stream, allocate}, [&](auto zero, Execution& execution) {
    using T = decltype(zero);
    set_halves(execution, halves);
    logsumexp_total(LogsumexpTotalArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth),
                                          at<T>(log_weights), at<T>(row_weights), at<T>(out),
                                          at<T>(grad_y), at<T>(grad_log_weights)},
                    execution);
  });
}

void row_totals_call(const std::string& dtype, int device, uintptr_t stream,
                     const Allocate& allocate, int64_t m, int64_t b, uintptr_t weights,
                     uintptr_t rows, uintptr_t totals) {
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    row_totals(RowTotalsArgs<T>{m, b, at<T>(weights), at<T>(rows), at<T>(totals)}, execution);
  });
}

void density_ratio_call(const std::string& dtype, int device, uintptr_t stream,
                        const Allocate& allocate, int64_t m, int64_t b, int64_t c, int64_t k,
                        uintptr_t q, uintptr_t p, uintptr_t bandwidth, double ridge, double sigma,
                        uintptr_t ratio, uintptr_t kept, uintptr_t failed_slice) {
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    density_ratio(DensityRatioArgs<T>{m, b, c, k, at<T>(q), at<T>(p), at<T>(bandwidth), ridge,
                                      sigma, at<T>(ratio), at<int64_t>(failed_slice)},
                  execution, at<double>(kept));
  });
}

void density_ratio_vjp_call(const std::string& dtype, int device, uintptr_t stream,
                            const Allocate& allocate, int64_t m, int64_t b, int64_t c, int64_t k,
                            uintptr_t q, uintptr_t p, uintptr_t bandwidth, double ridge,
                            double sigma, uintptr_t ratio, uintptr_t grad, uintptr_t kept,
                            uintptr_t grad_q, uintptr_t grad_p, uintptr_t failed_slice) {
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    density_ratio_vjp(DensityRatioVjpArgs<T>{m, b, c, k, at<T>(q), at<T>(p), at<T>(bandwidth),
                                             ridge, sigma, at<T>(ratio), at<T>(grad), at<T>(grad_q),
                                             at<T>(grad_p), at<int64_t>(failed_slice)},
                      execution, at<double>(kept));
  });
}

void density_ratio_divergence_call(const std::string& dtype, int device, uintptr_t stream,
                                   const Allocate& allocate, int64_t m, int64_t b, int64_t c,
                                   int64_t k, int64_t bandwidths, uintptr_t q, uintptr_t p,
                                   uintptr_t bandwidth, double ridge, double sigma, int divergence,
                                   double alpha, double r_min, uintptr_t value, uintptr_t grad_p,
                                   uintptr_t failed_slice) {
  if (divergence < 0 || divergence >= kDivergenceCodes)
    throw std::invalid_argument("unknown divergence code");
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    density_ratio_divergence(
        DensityRatioDivergenceArgs<T>{m, b, c, k, bandwidths, at<T>(q), at<T>(p), at<T>(bandwidth),
                                      ridge, sigma, divergence, alpha, r_min, at<T>(value),
                                      at<T>(grad_p), at<int64_t>(failed_slice)},
        execution);
  });
}

void divergence_call(const std::string& dtype, int device, uintptr_t stream,
                     const Allocate& allocate, int64_t size, int divergence_code, double alpha,
                     uintptr_t t, uintptr_t value, uintptr_t derivative) {
  if (divergence_code < 0 || divergence_code >= kDivergenceCodes)
    throw std::invalid_argument("unknown divergence code");
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    divergence(
        DivergenceArgs<T>{size, divergence_code, alpha, at<T>(t), at<T>(value), at<T>(derivative)},
        execution);
  });
}

void sliced_wasserstein_call(const std::string& dtype, int device, uintptr_t stream,
                             const Allocate& allocate, int64_t m, int64_t b, int64_t c, uintptr_t x,
                             uintptr_t y, double order, uintptr_t value, uintptr_t grad_x,
                             uintptr_t grad_y) {
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    sliced_wasserstein(SlicedWassersteinArgs<T>{m, b, c, at<T>(x), at<T>(y), order, at<T>(value),
                                                at<T>(grad_x), at<T>(grad_y)},
                       execution);
  });
}

void median_distance_call(const std::string& dtype, int device, uintptr_t stream,
                          const Allocate& allocate, int64_t m, int64_t b, int64_t k, uintptr_t x,
                          uintptr_t value) {
  if (b < 2) throw std::invalid_argument("x must have at least two points in each slice");
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    median_distance(MedianDistanceArgs<T>{m, b, k, at<T>(x), at<T>(value)}, execution);
  });
}

void median_distance_vjp_call(const std::string& dtype, int device, uintptr_t stream,
                              const Allocate& allocate, int64_t m, int64_t b, int64_t k,
                              uintptr_t x, uintptr_t grad, uintptr_t grad_x) {
  if (b < 2) throw std::invalid_argument("x must have at least two points in each slice");
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    median_distance_vjp(MedianDistanceVjpArgs<T>{m, b, k, at<T>(x), at<T>(grad), at<T>(grad_x)},
                        execution);
  });
}

void project_secure_call(const std::string& dtype, int device, uintptr_t stream,
                         const Allocate& allocate, int64_t n, int64_t d, int64_t p, uintptr_t x,
                         uintptr_t frame, double sigma, const py::bytes& key_bytes,
                         uint64_t first_row, uintptr_t out) {
  // Within these bounds the grid and its inverse are normal numbers.
  if (!(sigma > 1e-270 && sigma < 1e270))
    throw std::invalid_argument("sigma of secure noise must be between 1e-270 and 1e270");
  const std::string_view key = key_bytes;
  if (key.size() != sizeof(uint32_t) * kChaChaKeyWords)
    throw std::invalid_argument("key must be 32 bytes");
  uint32_t words[kChaChaKeyWords];
  const WipedAtExit words_wiped(words, sizeof words);
  for (int w = 0; w < kChaChaKeyWords; ++w) {
    words[w] = 0;
    for (int byte = 3; byte >= 0; --byte)  // little-endian
      words[w] = words[w] << 8 | static_cast<unsigned char>(key[static_cast<size_t>(4 * w + byte)]);
  }
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    ProjectSecureArgs<T> args{at<T>(x), at<double>(frame), sigma, {}, first_row, at<T>(out), n, d,
                              p};
    const WipedAtExit key_wiped(args.key, sizeof args.key);
    for (int w = 0; w < kChaChaKeyWords; ++w) args.key[w] = words[w];
    project_secure(args, execution);
  });
}

void project_fast_call(const std::string& dtype, int device, uintptr_t stream,
                       const Allocate& allocate, int64_t n, int64_t d, int64_t p, uintptr_t x,
                       uintptr_t frame, double sigma, uint64_t seed, uint64_t noise_stream,
                       uint64_t first_row, uintptr_t out) {
  run(dtype, {device, stream, allocate}, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    ProjectFastArgs<T> args{at<T>(x), at<T>(frame), sigma, {}, first_row, at<T>(out), n, d, p};
    fast_key(seed, noise_stream, args.key);
    project_fast(args, execution);
  });
}

// Memory of the host that kernels on a device reach by the same address, zeroed. It is never freed:
// a recorded graph may write to it whenever it is replayed.
uintptr_t host_numbers(int device, size_t count) {
  const py::gil_scoped_release unlocked;
  const DeviceGuard guard(device);
  // While a stream is recorded, CUDA refuses this unless told that it has no part in that.
  cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
  check(cudaThreadExchangeStreamCaptureMode(&mode), "change the mode of recording");
  void* start = nullptr;
  const size_t bytes = count * sizeof(int64_t);
  const cudaError_t error = cudaHostAlloc(&start, bytes, cudaHostAllocPortable);
  cudaThreadExchangeStreamCaptureMode(&mode);  // the mode from before
  check(error, ("allocate " + std::to_string(bytes) + " bytes of pinned host memory").c_str());
  std::memset(start, 0, bytes);
  return reinterpret_cast<uintptr_t>(start);
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  using py::arg;
  m.doc() = "CUDA kernels: addresses in, launched on the given device and stream.";
  m.def("device_count", &device_count, "CUDA devices that can be used; 0 without a driver.");
  m.def("host_numbers", &host_numbers, arg("device"), arg("count"),
        "Address of so many 8-byte numbers on the host, within reach of a device; never freed.");
  m.def("gaussian_kernel_sum", &kernel_sum_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("halves"), arg("x"), arg("y"),
        arg("bandwidth"), arg("weights"), arg("out"), "sum_j w_j K(x_i, y_j), [m, b].");
  m.def("gaussian_kernel_sum_total", &kernel_sum_total_call, arg("dtype"), arg("device"),
        arg("stream"), arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("halves"),
        arg("x"), arg("y"), arg("bandwidth"), arg("weights"), arg("row_weights"), arg("out"),
        arg("grad_y"), arg("grad_weights"),
        "Sums, [m, b], and the gradients of their weighted total, skipped where the address is 0.");
  m.def("gaussian_kernel_sum_vjp", &kernel_sum_vjp_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("halves"), arg("x"), arg("y"),
        arg("bandwidth"), arg("weights"), arg("grad"), arg("grad_x"), arg("grad_y"),
        arg("grad_weights"), "Gradients in x, y and weights, skipped where the address is 0.");
  m.def("gaussian_kernel_logsumexp", &logsumexp_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("halves"), arg("x"), arg("y"),
        arg("bandwidth"), arg("log_weights"), arg("out"),
        "log sum_j exp(l_j) K(x_i, y_j), [m, b].");
  m.def("gaussian_kernel_logsumexp_total", &logsumexp_total_call, arg("dtype"), arg("device"),
        arg("stream"), arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("halves"),
        arg("x"), arg("y"), arg("bandwidth"), arg("log_weights"), arg("row_weights"), arg("out"),
        arg("grad_y"), arg("grad_log_weights"),
        "Log sums, [m, b], and the gradients of their weighted total, skipped where the address is "
        "0.");
  m.def("gaussian_kernel_logsumexp_vjp", &logsumexp_vjp_call, arg("dtype"), arg("device"),
        arg("stream"), arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("halves"),
        arg("x"), arg("y"), arg("bandwidth"), arg("log_weights"), arg("logsumexp"), arg("grad"),
        arg("grad_x"), arg("grad_y"), arg("grad_log_weights"),
        "Gradients in x, y and log_weights, skipped where the address is 0.");
  m.def("row_totals", &row_totals_call, arg("dtype"), arg("device"), arg("stream"), arg("allocate"),
        arg("m"), arg("b"), arg("weights"), arg("rows"), arg("totals"),
        "Weighted totals of rows, [m]; rows of weight zero that are not finite become zeros.");
  m.def("density_ratio", &density_ratio_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("q"), arg("p"),
        arg("bandwidth"), arg("ridge"), arg("sigma"), arg("ratio"), arg("kept"),
        arg("failed_slice"),
        "Regularised density ratio at q, [m, b]; NaN in slices that failed. Unless its address is "
        "0, kept [m, kept_numbers(b)] in float64 is filled for the gradients.");
  m.def("density_ratio_vjp", &density_ratio_vjp_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("q"), arg("p"),
        arg("bandwidth"), arg("ridge"), arg("sigma"), arg("ratio"), arg("grad"), arg("kept"),
        arg("grad_q"), arg("grad_p"), arg("failed_slice"),
        "Gradients in q and p, skipped where the address is 0. kept: of density_ratio, or 0.");
  m.def("kept_numbers", &kept_numbers, arg("b"),
        "Numbers of a slice of b rows that density_ratio can keep for its gradients.");
  m.def("density_ratio_divergence", &density_ratio_divergence_call, arg("dtype"), arg("device"),
        arg("stream"), arg("allocate"), arg("m"), arg("b"), arg("c"), arg("k"), arg("bandwidths"),
        arg("q"), arg("p"), arg("bandwidth"), arg("ridge"), arg("sigma"), arg("divergence"),
        arg("alpha"), arg("r_min"), arg("value"), arg("grad_p"), arg("failed_slice"),
        "f-divergence of each slice, and its gradient in p unless the address is 0.");
  m.def("divergence", &divergence_call, arg("dtype"), arg("device"), arg("stream"), arg("allocate"),
        arg("size"), arg("divergence"), arg("alpha"), arg("t"), arg("value"), arg("derivative"),
        "Value and derivative of f at t.");
  m.def("sliced_wasserstein", &sliced_wasserstein_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("m"), arg("b"), arg("c"), arg("x"), arg("y"), arg("order"),
        arg("value"), arg("grad_x"), arg("grad_y"),
        "W_q^q of each slice, [m], and its gradients, skipped where the address is 0.");
  m.def("median_distance", &median_distance_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("m"), arg("b"), arg("k"), arg("x"), arg("value"),
        "Median pairwise distance of each slice, [m].");
  m.def("median_distance_vjp", &median_distance_vjp_call, arg("dtype"), arg("device"),
        arg("stream"), arg("allocate"), arg("m"), arg("b"), arg("k"), arg("x"), arg("grad"),
        arg("grad_x"), "Gradient in x, [m, b, k].");
  m.def("project_secure", &project_secure_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("n"), arg("d"), arg("p"), arg("x"), arg("frame"), arg("sigma"),
        arg("key"), arg("first_row"), arg("out"),
        "Rows times frame (float64) plus ChaCha20 noise, on the grid of the release.");
  m.def("project_fast", &project_fast_call, arg("dtype"), arg("device"), arg("stream"),
        arg("allocate"), arg("n"), arg("d"), arg("p"), arg("x"), arg("frame"), arg("sigma"),
        arg("key0"), arg("key1"), arg("first_row"), arg("out"),
        "Rows times frame plus Philox noise.");
}

}  // namespace dpslice::cuda
