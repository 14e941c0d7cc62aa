"""The one place where arguments are checked and arrays are turned into what the kernels take.

Checks run in the order type, rank and shape, dtype, device, value. Every message names the
argument, states the rule, and shows what came. `TypeError` is raised for the wrong kind of object
or dtype, `ValueError` for shape and range.

Arrays of three libraries are understood: NumPy, torch and CuPy. An `Operand` remembers which one
came in, on which device and stream (`Place`), so that results go back as the same kind, and
`backend_for` picks the compiled kernels that work there.

Values in device memory are not looked at: that would take a pass over them and a synchronisation.
There NaN in gives NaN out, and rules about values are the caller's to keep.

Callers say ``from dpslice import _arrays`` and ``_arrays.operand(...)``, and need not know of the
files, which import only what stands above them here:

``_scalars``
    Numbers, words, flags and other single values; `describe`, optional packages (`require`).
``_finite``
    Whether all numbers of an array are finite.
``_devices``
    Libraries, places, the kernels for a place (`backend_for`), device memory.
``_operands``
    Arrays for kernels (`operand`, `layout`), points and bandwidths, weights, ratios.
``_private_rows``
    What touches private rows (`row_matrix`, `row_block`, `settled`, `refuse_masked`).
``_synthetic_rows``
    Tensors that losses compare with a release; whether `torch.vmap` is at work.
"""

from dpslice._arrays._devices import (
    NUMPY_ON_CPU,
    Place,
    address,
    backend_for,
    capturing,
    device_addresses,
    device_array,
    device_empty,
    device_full,
    device_vector,
    kept_vector,
    library_of,
    library_or_none,
    on_device,
    place_of,
    product_halves,
    same_kind,
    widened,
)
from dpslice._arrays._finite import (
    FloatArray,
    all_finite,
    finite_values,
)
from dpslice._arrays._operands import (
    Operand,
    bandwidths,
    check_reach,
    layout,
    log_weight_values,
    operand,
    point_pair,
    ratio_values,
)
from dpslice._arrays._private_rows import (
    refuse_masked,
    row_block,
    row_matrix,
    settled,
)
from dpslice._arrays._scalars import (
    boolean,
    choice,
    describe,
    elements,
    finite_real,
    instance,
    integer,
    kind_of,
    negative_real,
    nonnegative_or_infinite,
    nonnegative_real,
    open_unit,
    optional_callable,
    positive_integer,
    positive_real,
    positive_reals,
    random_generator,
    real_above_one,
    real_array,
    real_at_least_one,
    require,
    seed,
    text,
)
from dpslice._arrays._synthetic_rows import (
    synthetic_rows,
    values_hidden,
)

__all__ = [
    "NUMPY_ON_CPU",
    "FloatArray",
    "Operand",
    "Place",
    "address",
    "all_finite",
    "backend_for",
    "bandwidths",
    "boolean",
    "capturing",
    "check_reach",
    "choice",
    "describe",
    "device_addresses",
    "device_array",
    "device_empty",
    "device_full",
    "device_vector",
    "elements",
    "finite_real",
    "finite_values",
    "instance",
    "integer",
    "kept_vector",
    "kind_of",
    "layout",
    "library_of",
    "library_or_none",
    "log_weight_values",
    "negative_real",
    "nonnegative_or_infinite",
    "nonnegative_real",
    "on_device",
    "open_unit",
    "operand",
    "optional_callable",
    "place_of",
    "point_pair",
    "positive_integer",
    "positive_real",
    "positive_reals",
    "product_halves",
    "random_generator",
    "ratio_values",
    "real_above_one",
    "real_array",
    "real_at_least_one",
    "refuse_masked",
    "require",
    "row_block",
    "row_matrix",
    "same_kind",
    "seed",
    "settled",
    "synthetic_rows",
    "text",
    "values_hidden",
    "widened",
]
