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

std::string shape_text(const std::string& name, const py::array& array) {
  return name + " of shape " + std::string(py::str(array.attr("shape")));
}

void raise_no_memory(const char* function, std::initializer_list<std::string> arrays) {
  std::string wanted;
  try {
    throw;
  } catch (const NoMemory& error) {
    wanted = ": " + std::to_string(error.bytes) + " bytes were wanted at once";
  } catch (const std::bad_alloc&) {
  } catch (const py::error_already_set& error) {  // as of NumPy, for a result
    if (!error.matches(PyExc_MemoryError)) throw;
    wanted = ": " + std::string(py::str(error.value()));
  }
  std::string text = std::string(function) + " got no memory" + wanted;
  const char* before = ", for ";
  for (const std::string& each : arrays) {
    if (each.empty()) continue;
    text += before + each;
    before = ", ";
  }
  PyErr_SetString(PyExc_MemoryError, text.c_str());
  throw py::error_already_set();
}

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
