#include "bindings.h"

namespace dpslice {

void register_median_distance(py::module_&) {}

}  // namespace dpslice
