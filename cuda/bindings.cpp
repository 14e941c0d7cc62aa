// The module dpslice._cuda: addresses of device memory in, nothing out. Shapes, dtypes and devices
// were checked, and results allocated, in python/dpslice/_cuda_kernels.py; here numbers become
// argument structs, and the interpreter lock is released around the launch.
#include <pybind11/pybind11.h>

#include <cstdint>
#include <string>

#include "common/divergence.h"
#include "device.h"
#include "kernels.h"

namespace dpslice::cuda {
namespace {

namespace py = pybind11;

// An address in device memory; 0 is null.
template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

// Runs launch(T{}, execution) with T the dtype of that name.
template <class Launch>
void run(const std::string& dtype, int device, uintptr_t stream, Launch&& launch) {
  if (dtype != "float32" && dtype != "float64")
    throw std::invalid_argument("dtype must be float32 or float64; got " + dtype);
  py::gil_scoped_release unlocked;
  const DeviceGuard guard(device);
  const Execution execution = guard.execution(stream);
  if (dtype == "float32")
    launch(float{}, execution);
  else
    launch(double{}, execution);
}

void kernel_sum_call(const std::string& dtype, int device, uintptr_t stream, int64_t m, int64_t b,
                     int64_t c, int64_t k, uintptr_t x, uintptr_t y, uintptr_t bandwidth,
                     uintptr_t weights, uintptr_t out) {
  run(dtype, device, stream, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    kernel_sum(KernelSumArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth), at<T>(weights),
                                at<T>(out)},
               execution);
  });
}

void kernel_sum_vjp_call(const std::string& dtype, int device, uintptr_t stream, int64_t m,
                         int64_t b, int64_t c, int64_t k, uintptr_t x, uintptr_t y,
                         uintptr_t bandwidth, uintptr_t weights, uintptr_t grad, uintptr_t grad_x,
                         uintptr_t grad_y, uintptr_t grad_weights) {
  run(dtype, device, stream, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    kernel_sum_vjp(
        KernelSumVjpArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth), at<T>(weights),
                            at<T>(grad), at<T>(grad_x), at<T>(grad_y), at<T>(grad_weights)},
        execution);
  });
}

void logsumexp_call(const std::string& dtype, int device, uintptr_t stream, int64_t m, int64_t b,
                    int64_t c, int64_t k, uintptr_t x, uintptr_t y, uintptr_t bandwidth,
                    uintptr_t log_weights, uintptr_t out) {
  run(dtype, device, stream, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    logsumexp(LogsumexpArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth),
                               at<T>(log_weights), at<T>(out)},
              execution);
  });
}

void logsumexp_vjp_call(const std::string& dtype, int device, uintptr_t stream, int64_t m,
                        int64_t b, int64_t c, int64_t k, uintptr_t x, uintptr_t y,
                        uintptr_t bandwidth, uintptr_t log_weights, uintptr_t logsumexp,
                        uintptr_t grad, uintptr_t grad_x, uintptr_t grad_y,
                        uintptr_t grad_log_weights) {
  run(dtype, device, stream, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    logsumexp_vjp(LogsumexpVjpArgs<T>{m, b, c, k, at<T>(x), at<T>(y), at<T>(bandwidth),
                                      at<T>(log_weights), at<T>(logsumexp), at<T>(grad),
                                      at<T>(grad_x), at<T>(grad_y), at<T>(grad_log_weights)},
                  execution);
  });
}

void density_ratio_call(const std::string& dtype, int device, uintptr_t stream, int64_t m,
                        int64_t b, int64_t c, int64_t k, uintptr_t q, uintptr_t p,
                        uintptr_t bandwidth, double ridge, double sigma, uintptr_t ratio,
                        uintptr_t failed_slice) {
  run(dtype, device, stream, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    density_ratio(DensityRatioArgs<T>{m, b, c, k, at<T>(q), at<T>(p), at<T>(bandwidth), ridge,
                                      sigma, at<T>(ratio), at<int64_t>(failed_slice)},
                  execution);
  });
}

void density_ratio_vjp_call(const std::string& dtype, int device, uintptr_t stream, int64_t m,
                            int64_t b, int64_t c, int64_t k, uintptr_t q, uintptr_t p,
                            uintptr_t bandwidth, double ridge, double sigma, uintptr_t ratio,
                            uintptr_t grad, uintptr_t grad_q, uintptr_t grad_p,
                            uintptr_t failed_slice) {
  run(dtype, device, stream, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    density_ratio_vjp(
        DensityRatioVjpArgs<T>{m, b, c, k, at<T>(q), at<T>(p), at<T>(bandwidth), ridge, sigma,
                               at<T>(ratio), at<T>(grad), at<T>(grad_q), at<T>(grad_p),
                               at<int64_t>(failed_slice)},
        execution);
  });
}

void density_ratio_divergence_call(const std::string& dtype, int device, uintptr_t stream,
                                   int64_t m, int64_t b, int64_t c, int64_t k, int64_t bandwidths,
                                   uintptr_t q, uintptr_t p, uintptr_t bandwidth, double ridge,
                                   double sigma, int divergence, double alpha, double r_min,
                                   uintptr_t value, uintptr_t grad_p, uintptr_t failed_slice) {
  if (divergence < 0 || divergence >= kDivergenceCodes)
    throw std::invalid_argument("unknown divergence code");
  run(dtype, device, stream, [&](auto zero, const Execution& execution) {
    using T = decltype(zero);
    density_ratio_divergence(
        DensityRatioDivergenceArgs<T>{m, b, c, k, bandwidths, at<T>(q), at<T>(p), at<T>(bandwidth),
                                      ridge, sigma, divergence, alpha, r_min, at<T>(value),
                                      at<T>(grad_p), at<int64_t>(failed_slice)},
        execution);
  });
}

}  // namespace

PYBIND11_MODULE(_cuda, m) {
  using py::arg;
  m.doc() = "CUDA kernels: addresses in, launched on the given device and stream.";
  m.def("device_count", &device_count, "CUDA devices that can be used; 0 without a driver.");
  m.def("gaussian_kernel_sum", &kernel_sum_call, arg("dtype"), arg("device"), arg("stream"),
        arg("m"), arg("b"), arg("c"), arg("k"), arg("x"), arg("y"), arg("bandwidth"),
        arg("weights"), arg("out"), "sum_j w_j K(x_i, y_j), [m, b].");
  m.def("gaussian_kernel_sum_vjp", &kernel_sum_vjp_call, arg("dtype"), arg("device"),
        arg("stream"), arg("m"), arg("b"), arg("c"), arg("k"), arg("x"), arg("y"),
        arg("bandwidth"), arg("weights"), arg("grad"), arg("grad_x"), arg("grad_y"),
        arg("grad_weights"), "Gradients in x, y and weights, skipped where the address is 0.");
  m.def("gaussian_kernel_logsumexp", &logsumexp_call, arg("dtype"), arg("device"), arg("stream"),
        arg("m"), arg("b"), arg("c"), arg("k"), arg("x"), arg("y"), arg("bandwidth"),
        arg("log_weights"), arg("out"), "log sum_j exp(l_j) K(x_i, y_j), [m, b].");
  m.def("gaussian_kernel_logsumexp_vjp", &logsumexp_vjp_call, arg("dtype"), arg("device"),
        arg("stream"), arg("m"), arg("b"), arg("c"), arg("k"), arg("x"), arg("y"),
        arg("bandwidth"), arg("log_weights"), arg("logsumexp"), arg("grad"), arg("grad_x"),
        arg("grad_y"), arg("grad_log_weights"),
        "Gradients in x, y and log_weights, skipped where the address is 0.");
  m.def("density_ratio", &density_ratio_call, arg("dtype"), arg("device"), arg("stream"),
        arg("m"), arg("b"), arg("c"), arg("k"), arg("q"), arg("p"), arg("bandwidth"),
        arg("ridge"), arg("sigma"), arg("ratio"), arg("failed_slice"),
        "Regularised density ratio at q, [m, b]; NaN in slices that failed.");
  m.def("density_ratio_vjp", &density_ratio_vjp_call, arg("dtype"), arg("device"), arg("stream"),
        arg("m"), arg("b"), arg("c"), arg("k"), arg("q"), arg("p"), arg("bandwidth"),
        arg("ridge"), arg("sigma"), arg("ratio"), arg("grad"), arg("grad_q"), arg("grad_p"),
        arg("failed_slice"), "Gradients in q and p, skipped where the address is 0.");
  m.def("density_ratio_divergence", &density_ratio_divergence_call, arg("dtype"), arg("device"),
        arg("stream"), arg("m"), arg("b"), arg("c"), arg("k"), arg("bandwidths"), arg("q"),
        arg("p"), arg("bandwidth"), arg("ridge"), arg("sigma"), arg("divergence"), arg("alpha"),
        arg("r_min"), arg("value"), arg("grad_p"), arg("failed_slice"),
        "f-divergence of each slice, and its gradient in p unless the address is 0.");
}

}  // namespace dpslice::cuda
