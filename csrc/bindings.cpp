// The module dpslice._core: one call per file of bindings.
#include "bindings.h"

#include "isa.h"
#include "threads.h"

namespace dpslice {
namespace {

py::dict build_config() {
  py::dict config;
#if defined(__clang__)
  config["compiler"] = std::string("clang ") + __clang_version__;
#else
  config["compiler"] = std::string("gcc ") + __VERSION__;
#endif
  config["version"] = DPSLICE_VERSION;
#ifdef _OPENMP
  config["openmp"] = _OPENMP;
#else
  config["openmp"] = py::none();
#endif
  return config;
}

}  // namespace
}  // namespace dpslice

PYBIND11_MODULE(_core, m) {
  using namespace dpslice;
  m.doc() = "Compiled kernels of dpslice. Arguments are checked in dpslice._arrays, not here.";
  m.def("num_threads", &num_threads, "Threads that kernels use.");
  m.def("set_num_threads", &set_num_threads, py::arg("threads"),
        "Set the threads that kernels use.");
  m.def("isa", [] { return std::string(isa_name(active_isa())); }, "Instruction set in use.");
  m.def("set_isa", &set_active_isa, py::arg("name"), "Use the kernels of another instruction set.");
  m.def("available_isas", &available_isas,
        "Instruction sets that this build and this processor both have, slowest first.");
  m.def("build_config", &build_config, "Facts about this build.");
  register_project(m);
  register_kernel_sum(m);
  register_density_ratio(m);
  register_sliced_wasserstein(m);
  register_median_distance(m);
  register_feature_sums(m);
}
