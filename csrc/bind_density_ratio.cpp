#include "bindings.h"

namespace dpslice {

void register_density_ratio(py::module_&) {}

}  // namespace dpslice
