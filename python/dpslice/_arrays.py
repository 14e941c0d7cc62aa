"""The one place where arguments are checked and arrays are turned into what the kernels take.

Checks run in the order type, rank and shape, dtype, device, value. Every message names the
argument, states the rule, and shows what came. `TypeError` is raised for the wrong kind of object
or dtype, `ValueError` for shape and range.

Arrays of three libraries are understood: NumPy, torch and CuPy. `Batch` remembers which one came
in, on which device and stream, so that results go back as the same kind.
"""

from __future__ import annotations

import importlib
import math
import numbers
import operator
import sys
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "boolean",
    "choice",
    "describe",
    "finite_real",
    "finite_values",
    "integer",
    "negative_real",
    "nonnegative_or_infinite",
    "nonnegative_real",
    "open_unit",
    "positive_integer",
    "positive_real",
    "positive_reals",
    "real_above_one",
    "real_at_least_one",
    "require",
    "synthetic_rows",
    "text",
]

FloatArray = NDArray[np.floating[Any]]


# ---------------------------------------------------------------------------- optional packages


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional package, or say which extra of dpslice brings it.

    Parameters
    ----------
    package : str
        Module to import.
    extra : str
        The extra of dpslice that installs it.

    Returns
    -------
    module
        The imported module.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != package.split(".")[0]:
            raise  # the package is there, but something inside it is broken: show that instead
        raise ImportError(
            f"{package} is needed here and is not installed: pip install 'dpslice[{extra}]'"
        ) from error


# ------------------------------------------------------------------------------------- scalars


def describe(value: object) -> str:
    """Show a value in an error message: short, and with its shape where it is an array."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) > 0:
        return f"{type(value).__name__} of shape {tuple(shape)} and dtype {getattr(value, 'dtype', '?')}"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _real(name: str, value: object, rule: str) -> float:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(f"{name} must be {rule}; got {type(value).__name__} {describe(value)}")
    return float(value)


def finite_real(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is a finite real number."""
    number = _real(name, value, "a finite number")
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number; got {describe(value)}")
    return number


def positive_real(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and > 0."""
    number = _real(name, value, "a finite number > 0")
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number > 0; got {describe(value)}")
    return number


def nonnegative_real(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and >= 0."""
    number = _real(name, value, "a finite number >= 0")
    if not (math.isfinite(number) and number >= 0):
        raise ValueError(f"{name} must be a finite number >= 0; got {describe(value)}")
    return number


def nonnegative_or_infinite(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is >= 0 (infinity is allowed, NaN is not)."""
    number = _real(name, value, "a number >= 0")
    if not number >= 0:
        raise ValueError(f"{name} must be a number >= 0; got {describe(value)}")
    return number


def real_above_one(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and > 1."""
    number = _real(name, value, "a finite number > 1")
    if not (math.isfinite(number) and number > 1):
        raise ValueError(f"{name} must be a finite number > 1; got {describe(value)}")
    return number


def real_at_least_one(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and >= 1."""
    number = _real(name, value, "a finite number >= 1")
    if not (math.isfinite(number) and number >= 1):
        raise ValueError(f"{name} must be a finite number >= 1; got {describe(value)}")
    return number


def positive_reals(name: str, values: object) -> tuple[float, ...]:
    """Return one number or a sequence of them as floats, or raise unless all are finite and > 0."""
    if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, (str, bytes)):
        return (positive_real(name, values),)
    if len(values) == 0:
        raise ValueError(f"{name} must hold at least one number; got {describe(values)}")
    return tuple(positive_real(name, value) for value in values)


def negative_real(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and < 0."""
    number = _real(name, value, "a finite number < 0")
    if not (math.isfinite(number) and number < 0):
        raise ValueError(f"{name} must be a finite number < 0; got {describe(value)}")
    return number


def open_unit(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless 0 < value < 1."""
    number = _real(name, value, "a number strictly between 0 and 1")
    if not 0 < number < 1:
        raise ValueError(f"{name} must be strictly between 0 and 1; got {describe(value)}")
    return number


def integer(name: str, value: object, *, minimum: int) -> int:
    """Return `value` as an int, or raise unless it is an integer >= `minimum`."""
    rule = f"an integer >= {minimum}"
    if isinstance(value, (bool, np.bool_)) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be {rule}; got {type(value).__name__} {describe(value)}")
    number = operator.index(value)
    if number < minimum:
        raise ValueError(f"{name} must be {rule}; got {number}")
    return number


def positive_integer(name: str, value: object) -> int:
    """Return `value` as an int, or raise unless it is an integer >= 1."""
    return integer(name, value, minimum=1)


def choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value`, or raise unless it is one of the allowed words."""
    words = tuple(allowed)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(words)}; got {describe(value)}")
    if value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}; got {value!r}")
    return value


def text(name: str, value: object) -> str:
    """Return `value`, or raise unless it is a string with something in it."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string; got {type(value).__name__} {describe(value)}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty; got {value!r}")
    return value


def boolean(name: str, value: object) -> bool:
    """Return `value` as a bool, or raise unless it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {describe(value)}")
    return bool(value)


def finite_values(name: str, values: FloatArray) -> FloatArray:
    """Return the array, or raise if it holds NaN or infinity (the first place is named)."""
    finite = np.isfinite(values)
    if not finite.all():
        where = tuple(int(i) for i in np.argwhere(~finite)[0])
        raise ValueError(
            f"{name} must hold finite numbers; got {values[where]} at index {where}"
            f" ({int((~finite).sum())} such value(s))"
        )
    return values


# -------------------------------------------------------------------------------------- arrays


def library_of(name: str, value: object) -> str:
    """Tell which array library `value` belongs to: ``numpy``, ``torch`` or ``cupy``.

    torch and CuPy are looked up among the modules already imported: an array of theirs can only
    exist if they are, and dpslice must not import them by itself.
    """
    if isinstance(value, np.ndarray):
        return "numpy"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return "torch"
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):
        return "cupy"
    raise TypeError(f"{name} must be a NumPy, torch or CuPy array; got {type(value).__name__}")


def synthetic_rows(name: str, x: Any, *, d: int) -> Any:
    """Return a torch tensor (c, d) of float32 or float64, or raise; half types only under autocast.

    Parameters
    ----------
    name : str
        Name in messages.
    x : Tensor, shape (c, d)
        Synthetic rows.
    d : int
        Features of the release that they are compared with.

    Returns
    -------
    Tensor, shape (c, d)
        The rows; in float32 if they came in a half type.
    """
    torch = require("torch", extra="torch")
    if not isinstance(x, torch.Tensor):
        raise TypeError(f"{name} must be a torch tensor; got {type(x).__name__}")
    if x.ndim != 2 or x.shape[1] != d or x.shape[0] < 1:
        raise ValueError(
            f"{name} must have shape (c, {d}) with c >= 1 to match the release; "
            f"got {tuple(x.shape)}"
        )
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        x = x.float()
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must have dtype float32 or float64; got {x.dtype}")
    finite = torch.isfinite(x.detach())
    if not bool(finite.all()):
        i, j = (int(index) for index in (~finite).nonzero()[0])
        raise ValueError(f"{name} must hold finite numbers; got {float(x[i, j])} at ({i}, {j})")
    return x


# ----------------------------------------------------------------- private rows, block by block


def random_generator(name: str, value: object) -> np.random.Generator:
    """Return `value`, or raise unless it is a NumPy random generator."""
    if not isinstance(value, np.random.Generator):
        raise TypeError(
            f"{name} must be a numpy.random.Generator (numpy.random.default_rng(seed)); "
            f"got {describe(value)}"
        )
    return value


def row_matrix(name: str, value: object) -> tuple[int, int]:
    """Return the shape of a matrix of rows, or raise; its values are not looked at.

    Parameters
    ----------
    name : str
        Name in messages.
    value : array, shape (rows, d), float32 or float64
        NumPy, torch or CuPy; any byte order and strides.

    Returns
    -------
    rows, d : int
        The shape; ``rows`` may be 0, ``d`` may not.

    Raises
    ------
    TypeError
        If it is no such array, is masked, or has another dtype.
    ValueError
        If it has not two axes, or no column.
    """
    library = library_of(name, value)
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain array; got a masked one: fill or drop its rows")
    shape = tuple(int(size) for size in value.shape)  # type: ignore[attr-defined]
    if len(shape) != 2:
        raise ValueError(f"{name} must have shape (n, d); got shape {shape}")
    dtype = value.dtype  # type: ignore[attr-defined]
    if library == "torch":
        known = str(dtype) in ("torch.float32", "torch.float64")
    else:
        known = dtype.kind == "f" and dtype.itemsize in (4, 8)
    if not known:
        raise TypeError(f"{name} must have dtype float32 or float64; got {dtype}")
    if shape[1] < 1:
        raise ValueError(f"{name} must have at least one column; got shape {shape}")
    return shape[0], shape[1]


def row_block(name: str, value: object, *, first_row: int, d: int) -> FloatArray:
    """Bring a block of rows to host memory, C-contiguous, in native byte order, and check it.

    Parameters
    ----------
    name : str
        Name in messages.
    value : array, shape (rows, d), float32 or float64
        NumPy, torch or CuPy.
    first_row : int
        Number of the block's first row in the table, for messages.
    d : int
        Columns that the block must have.

    Returns
    -------
    array, shape (rows, d), float32 or float64
        The block itself if nothing had to be changed, else a copy.

    Raises
    ------
    TypeError
        As in `row_matrix`.
    ValueError
        As in `row_matrix`, if the block has not d columns, or holds NaN or infinity: the message
        names the row.
    """
    rows, columns = row_matrix(name, value)
    if columns != d:
        raise ValueError(
            f"{name} must have {d} columns in every block; got shape ({rows}, {columns}) "
            f"for the block that starts at row {first_row}"
        )
    library = library_of(name, value)
    if library == "torch":
        value = value.detach().cpu().numpy()  # type: ignore[attr-defined]
    elif library == "cupy":
        value = value.get()  # type: ignore[attr-defined]
    values: FloatArray = np.asarray(value)
    native = np.float32 if values.dtype.itemsize == 4 else np.float64
    block: FloatArray = np.require(values, dtype=native, requirements=["C", "A"])
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        row = int(np.argmin(finite))
        column = int(np.argmin(np.isfinite(block[row])))
        raise ValueError(
            f"{name} must hold finite numbers; got {block[row, column]} "
            f"in row {first_row + row}, column {column}"
        )
    return block
