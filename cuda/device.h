// The device that a call runs on: made current for its duration, and asked what launchers must
// know.
#pragma once

#include "runtime.h"

namespace dpslice::cuda {

constexpr int kLeastCapability = 8;  // compute capability 8.0

inline int attribute(cudaDeviceAttr which, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, which, device), "ask for an attribute of the device");
  return value;
}

class DeviceGuard {
 public:
  explicit DeviceGuard(int device) : device_(device) {
    check(cudaGetDevice(&before_), "find the current device (is there an NVIDIA driver?)");
    check(cudaSetDevice(device), ("use device " + std::to_string(device)).c_str());
  }
  ~DeviceGuard() { cudaSetDevice(before_); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

  Execution execution(uintptr_t stream) const {
    const int major = attribute(cudaDevAttrComputeCapabilityMajor, device_);
    if (major < kLeastCapability)
      throw CudaError("dpslice needs a GPU of compute capability 8.0 or newer; device " +
                      std::to_string(device_) + " has " + std::to_string(major) + "." +
                      std::to_string(attribute(cudaDevAttrComputeCapabilityMinor, device_)));
    Execution execution{
        reinterpret_cast<cudaStream_t>(stream), attribute(cudaDevAttrMultiProcessorCount, device_),
        static_cast<size_t>(attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, device_))};
#if defined(DPSLICE_CUDA_EMULATOR)
    execution.share_bytes = cuda_emulator::share_bytes(execution.share_bytes);
#endif
    return execution;
  }

 private:
  int device_, before_ = 0;
};

// 0 without a driver or without a device, whatever the reason.
inline int device_count() {
  int count = 0;
  if (cudaGetDeviceCount(&count) == cudaSuccess) return count;
  cudaGetLastError();
  return 0;
}

}  // namespace dpslice::cuda
