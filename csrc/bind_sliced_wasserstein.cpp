#include "bindings.h"

namespace dpslice {

void register_sliced_wasserstein(py::module_&) {}

}  // namespace dpslice
