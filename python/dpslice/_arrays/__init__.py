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
    Numbers, words, flags and other single values, and where they are kept (`store`); `describe`,
    optional packages (`require`).
``_finite``
    Whether all numbers of an array are finite.
``_devices``
    Libraries, places, the kernels for a place (`backend_for`), device memory.
``_operands``
    Arrays for kernels (`operand`, `layout`), points and bandwidths, weights, ratios.
``_private_rows``
    What touches private rows (`row_matrix`, `row_block`, `settled`, `refuse_masked`).
``_synthetic_rows``
    Tensors that losses compare with a release; whether something hides their values.
"""

from dpslice._arrays._devices import *  # noqa: F403 -- each file says what it gives
from dpslice._arrays._finite import *  # noqa: F403
from dpslice._arrays._operands import *  # noqa: F403
from dpslice._arrays._private_rows import *  # noqa: F403
from dpslice._arrays._scalars import *  # noqa: F403
from dpslice._arrays._synthetic_rows import *  # noqa: F403
