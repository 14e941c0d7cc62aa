// What every bind_*.cpp uses. Bindings translate: arrays in, pointers and sizes out, the
// interpreter lock released around the kernel. Arguments were checked in python/dpslice/_arrays/;
// here are only guards against reading out of bounds.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

namespace dpslice {

namespace py = pybind11;

// A C-contiguous array of exactly this dtype: arguments are declared noconvert, so that an overload
// is never chosen by converting.
template <class T>
using Array = py::array_t<T, py::array::c_style>;

template <class T>
using OptionalArray = std::optional<Array<T>>;

template <class T>
const T* data_or_null(const OptionalArray<T>& array) {
  return array ? array->data() : nullptr;
}
template <class T>
T* mutable_data_or_null(OptionalArray<T>& array) {
  return array ? array->mutable_data() : nullptr;
}

template <class T>
Array<T> empty(std::initializer_list<int64_t> shape) {
  return Array<T>(std::vector<py::ssize_t>(shape.begin(), shape.end()));
}

inline void require_shape(const char* name, const py::array& array,
                          std::initializer_list<int64_t> shape) {
  bool same = array.ndim() == static_cast<py::ssize_t>(shape.size());
  py::ssize_t axis = 0;
  for (int64_t size : shape) same = same && array.shape(axis++) == size;
  if (!same)
    throw std::invalid_argument(std::string(name) +
                                " does not have the shape that the other arguments imply");
}

inline void require_rank(const char* name, const py::array& array, py::ssize_t rank) {
  if (array.ndim() != rank)
    throw std::invalid_argument(std::string(name) + " must have " + std::to_string(rank) + " axes");
}

// Runs a kernel without the interpreter lock, which is safe since it touches no Python object: the
// arrays are held by the caller's references.
template <class Args>
void run(void (*kernel)(const Args&), const Args& args) {
  py::gil_scoped_release unlocked;
  kernel(args);
}

// Says of an argument that is an array which shape it has: "x of shape (2, 3)"; "" of others.
std::string shape_text(const std::string& name, const py::array& array);
template <class A>
std::string shape_text(const std::string& name, const A& argument) {
  if constexpr (std::is_base_of_v<py::array, A>)
    return shape_text(name, static_cast<const py::array&>(argument));
  return "";
}

// Raises MemoryError for the exception that is being handled, if it is of lacking memory, or throws
// it on.
[[noreturn]] void raise_no_memory(const char* function, std::initializer_list<std::string> arrays);

// Registers a function of a kernel. Where it gets no memory, the error names the function and the
// shapes that it was called with, which say how much it needs.
template <class Result, class... Arguments, class... Extra>
void define(py::module_& m, const char* name, Result (*function)(Arguments...),
            const Extra&... extra) {
  std::vector<std::string> names;
  const auto keep_name = [&](const auto& each) {
    if constexpr (std::is_base_of_v<py::arg, std::decay_t<decltype(each)>>)
      names.push_back(each.name);
  };
  (keep_name(extra), ...);
  m.def(
      name,
      [function, name, names](Arguments... arguments) -> Result {
        try {
          return function(arguments...);
        } catch (...) {
          size_t i = 0;
          raise_no_memory(name, {shape_text(names[i++], arguments)...});
        }
      },
      extra...);
}

void register_kernel_sum(py::module_& m);
void register_density_ratio(py::module_& m);
void register_feature_sums(py::module_& m);
void register_sliced_wasserstein(py::module_& m);
void register_median_distance(py::module_& m);
void register_project(py::module_& m);

}  // namespace dpslice
