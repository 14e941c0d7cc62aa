#include "bindings.h"

namespace dpslice {

void register_project(py::module_&) {}

}  // namespace dpslice
