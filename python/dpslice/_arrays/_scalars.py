"""Single values: numbers, words, flags, objects; and how a message shows what came.

Optional packages are here too (`require`), for their message is one of these.
"""

from __future__ import annotations

import importlib
import math
import numbers
import operator
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "boolean",
    "choice",
    "describe",
    "elements",
    "finite_real",
    "instance",
    "integer",
    "kind_of",
    "negative_real",
    "nonnegative_or_infinite",
    "nonnegative_real",
    "open_unit",
    "optional_callable",
    "path",
    "positive_integer",
    "positive_real",
    "positive_reals",
    "random_generator",
    "real_above_one",
    "real_array",
    "real_at_least_one",
    "require",
    "seed",
    "store",
    "text",
]

_Kind = TypeVar("_Kind")


def describe(value: object) -> str:
    """Show a value in an error message: short, and with its shape where it is an array."""
    shape = getattr(value, "shape", None)
    if shape is not None and len(shape) > 0:
        dtype = getattr(value, "dtype", "?")
        return f"{type(value).__name__} of shape {tuple(shape)} and dtype {dtype}"
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than some 4,300 digits
        return f"{type(value).__name__} of too many digits to show"
    return text if len(text) <= 80 else text[:77] + "..."


def kind_of(value: object) -> str:
    """Name the type of what should be an array; of a batch of several, say what to do."""
    name = type(value).__name__
    if isinstance(value, (list, tuple)) and value and hasattr(value[0], "shape"):
        return f"{name} of arrays, as a DataLoader gives it: pass the rows alone, batch[0]"
    return name


def _with_type(value: object) -> str:
    """Show a value after its type, which of an array is shown anyway."""
    kind, shown = type(value).__name__, describe(value)
    return shown if shown.startswith(kind) else f"{kind} {shown}"


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional package; the ImportError says which extra of dpslice brings it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != package.split(".")[0]:
            raise  # the package is there, but something inside it is broken: show that instead
        raise ImportError(
            f"{package} is needed here and is not installed: pip install 'dpslice[{extra}]'"
        ) from error


# ----------------------------------------------------------------------------------------- numbers


def _as_float(name: str, value: object, rule: str) -> float:
    """Return a real number as a float; one beyond float64 breaks any rule."""
    # NumPy counts complex numbers and durations among its numbers.
    other = isinstance(value, (bool, np.bool_, np.complexfloating, np.timedelta64))
    if other or not isinstance(value, (numbers.Real, np.number)):
        raise TypeError(f"{name} must be {rule}; got {_with_type(value)}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{name} must be {rule}; got {describe(value)}, which is beyond float64"
        ) from None


def _real(name: str, value: object, rule: str, obeys: Callable[[float], bool]) -> float:
    """Return `value` as a float, or raise unless it is a real number that obeys the rule."""
    # Nearly all are floats: the look at an abstract class takes longer.
    number = value if type(value) is float else _as_float(name, value, rule)
    if not obeys(number):  # as NaN never does: comparisons with it are false
        raise ValueError(f"{name} must be {rule}; got {describe(value)}")
    return number


def finite_real(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is a finite real number."""
    return _real(name, value, "a finite number", math.isfinite)


def positive_real(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and > 0."""
    return _real(name, value, "a finite number > 0", lambda x: 0 < x < math.inf)


def nonnegative_real(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and >= 0."""
    return _real(name, value, "a finite number >= 0", lambda x: 0 <= x < math.inf)


def nonnegative_or_infinite(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is >= 0 (infinity is allowed, NaN is not)."""
    return _real(name, value, "a number >= 0", lambda x: x >= 0)


def negative_real(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and < 0."""
    return _real(name, value, "a finite number < 0", lambda x: -math.inf < x < 0)


def real_above_one(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and > 1."""
    return _real(name, value, "a finite number > 1", lambda x: 1 < x < math.inf)


def real_at_least_one(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless it is finite and >= 1."""
    return _real(name, value, "a finite number >= 1", lambda x: 1 <= x < math.inf)


def open_unit(name: str, value: object) -> float:
    """Return `value` as a float, or raise unless 0 < value < 1."""
    number = _real(name, value, "a number strictly between 0 and 1", lambda _: True)
    if not 0 < number < 1:
        raise ValueError(f"{name} must be strictly between 0 and 1; got {describe(value)}")
    return number


def positive_reals(name: str, values: object) -> tuple[float, ...]:
    """Return one number or a sequence of them as floats, or raise unless all are finite and > 0."""
    if not isinstance(values, (Sequence, np.ndarray)) or isinstance(values, (str, bytes)):
        return (positive_real(name, values),)
    if len(values) == 0:
        raise ValueError(f"{name} must hold at least one number; got {describe(values)}")
    return tuple(positive_real(name, value) for value in values)


def integer(name: str, value: object, *, minimum: int) -> int:
    """Return `value` as an int, or raise unless it is an integer >= `minimum`."""
    rule = f"an integer >= {minimum}"
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:  # of arrays, too, which have an index only if they are integers
        raise TypeError(f"{name} must be {rule}; got {_with_type(value)}") from None
    if number < minimum:
        raise ValueError(f"{name} must be {rule}; got {describe(number)}")
    return number


def positive_integer(name: str, value: object) -> int:
    """Return `value` as an int, or raise unless it is an integer from 1 to 2**63 - 1."""
    return _int64(name, value, minimum=1)


def seed(name: str, value: object) -> int:
    """Return `value` as an int, or raise unless it is an integer from 0 to 2**63 - 1."""
    return _int64(name, value, minimum=0)


def _int64(name: str, value: object, *, minimum: int) -> int:
    """Check an integer that must fit into 64 bits, one of them for the sign."""
    number = integer(name, value, minimum=minimum)
    if number >= 2**63:
        raise ValueError(f"{name} must be an integer < 2**63; got {describe(number)}")
    return number


def real_array(name: str, value: Any) -> NDArray[np.float64]:
    """Return a copy of an array, or of nested sequences, in float64, or raise unless it is real."""
    try:
        given = np.asarray(value)
        real = given.dtype.kind in "iuf"
        if given.dtype.kind == "O":  # as of integers beyond 64 bits
            real = all(isinstance(each, numbers.Real) for each in given.flat)
        if real:
            with np.errstate(over="ignore"):  # longer numbers become infinite
                return np.array(given, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):  # each library raises its own
        pass
    raise TypeError(f"{name} must hold real numbers; got {_with_type(value)}")


# ------------------------------------------------------------------------------------------- other


def store(frozen: object, /, **checked: object) -> None:
    """Set fields of a frozen dataclass to what a check has made of them."""
    for name, value in checked.items():
        object.__setattr__(frozen, name, value)


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
        raise TypeError(f"{name} must be a string; got {_with_type(value)}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty; got {value!r}")
    return value


def path(name: str, value: object) -> Path:
    """Return `value` as a path, or raise unless it is a string or a path-like object of one."""
    # Numbers would be those of open files, and bytes have no ending to tell what a file is.
    if isinstance(value, (str, os.PathLike)):
        place = os.fspath(value)
        if isinstance(place, str):
            return Path(place)
    raise TypeError(f"{name} must be a string or a path; got {_with_type(value)}")


def boolean(name: str, value: object) -> bool:
    """Return `value` as a bool, or raise unless it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {describe(value)}")
    return bool(value)


def instance(name: str, value: object, kind: type[_Kind], called: str) -> _Kind:
    """Return `value`, or raise unless it is of a class: `called` is its name with an article."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {called}; got {describe(value)}")
    return value


def optional_callable(name: str, value: object) -> None:
    """Raise TypeError unless `value` is None or can be called."""
    if value is not None and not callable(value):
        raise TypeError(f"{name} must be callable, or None; got {_with_type(value)}")


def elements(name: str, values: Any) -> tuple[Any, ...]:
    """Return what a sequence holds, or raise unless it is one."""
    try:
        if not isinstance(values, (str, bytes)):
            return tuple(values)
    except TypeError:
        pass
    raise TypeError(f"{name} must be a sequence; got {_with_type(values)}")


def random_generator(name: str, value: object) -> np.random.Generator:
    """Return `value`, or raise unless it is a NumPy random generator."""
    if not isinstance(value, np.random.Generator):
        raise TypeError(
            f"{name} must be a numpy.random.Generator (numpy.random.default_rng(seed)); "
            f"got {describe(value)}"
        )
    return value
