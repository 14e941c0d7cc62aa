"""The one place where arguments are checked and arrays are turned into what the kernels take.

Checks run in the order type, rank and shape, dtype, device, value. Every message names the
argument, states the rule, and shows what came. `TypeError` is raised for the wrong kind of object
or dtype, `ValueError` for shape and range.

Arrays of three libraries are understood: NumPy, torch and CuPy. An `Operand` remembers which one
came in, on which device and stream (`Place`), so that results go back as the same kind, and
`backend_for` picks the compiled kernels that work there.

Values in device memory are not looked at: that would take a pass over them and a synchronisation.
There NaN in gives NaN out, and rules about values are the caller's to keep.
"""

from __future__ import annotations

import functools
import importlib
import math
import numbers
import operator
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Operand",
    "Place",
    "address",
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
    "layout",
    "library_of",
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
    "ratio_values",
    "real_above_one",
    "real_array",
    "real_at_least_one",
    "require",
    "same_kind",
    "seed",
    "synthetic_rows",
    "text",
    "widened",
]

FloatArray = NDArray[np.floating[Any]]
_Kind = TypeVar("_Kind")


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
        dtype = getattr(value, "dtype", "?")
        return f"{type(value).__name__} of shape {tuple(shape)} and dtype {dtype}"
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than some 4,300 digits
        return f"{type(value).__name__} of too many digits to show"
    return text if len(text) <= 80 else text[:77] + "..."


def _with_type(value: object) -> str:
    """Show a value after its type, which of an array is shown anyway."""
    kind, shown = type(value).__name__, describe(value)
    return shown if shown.startswith(kind) else f"{kind} {shown}"


def _real(name: str, value: object, rule: str) -> float:
    if type(value) is float:  # as nearly all are: the look at an abstract class takes longer
        return value
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
    number = integer(name, value, minimum=1)
    if number >= 2**63:
        raise ValueError(f"{name} must be an integer < 2**63; got {describe(number)}")
    return number


def seed(name: str, value: object) -> int:
    """Return `value` as an int, or raise unless it is an integer from 0 to 2**63 - 1."""
    number = integer(name, value, minimum=0)
    if number >= 2**63:
        raise ValueError(f"{name} must be an integer < 2**63; got {describe(number)}")
    return number


def choice(name: str, value: object, allowed: Iterable[str]) -> str:
    """Return `value`, or raise unless it is one of the allowed words."""
    words = tuple(allowed)
    if not isinstance(value, str):
        raise TypeError(f"{name} must be one of {', '.join(words)}; got {describe(value)}")
    if value not in words:
        raise ValueError(f"{name} must be one of {', '.join(words)}; got {value!r}")
    return value


def instance(name: str, value: object, kind: type[_Kind], called: str) -> _Kind:
    """Return `value`, or raise unless it is of a class: `called` is its name with an article."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {called}; got {describe(value)}")
    return value


def text(name: str, value: object) -> str:
    """Return `value`, or raise unless it is a string with something in it."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string; got {_with_type(value)}")
    if not value.strip():
        raise ValueError(f"{name} must not be empty; got {value!r}")
    return value


def boolean(name: str, value: object) -> bool:
    """Return `value` as a bool, or raise unless it is True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {describe(value)}")
    return bool(value)


_MANY = 4096  # numbers of an array from which on its sum is quicker than a look at each


def all_finite(values: Any) -> bool:
    """Tell whether a NumPy array or a torch tensor holds finite numbers only.

    A sum is finite only if its terms are, and is made some times as fast as each of them is looked
    at; it may overflow still, so where it is not finite they are looked at.
    """
    if isinstance(values, np.ndarray):
        if values.size >= _MANY and values.flags.c_contiguous:
            flat = values.reshape(-1)
            with np.errstate(over="ignore", invalid="ignore"):
                if math.isfinite(np.dot(flat, flat)):  # the quickest sum that NumPy has
                    return True
        return bool(np.isfinite(values).all())
    values = values.detach()
    return math.isfinite(float(values.sum())) or bool(values.isfinite().all())


def finite_values(name: str, values: FloatArray) -> FloatArray:
    """Return the array, or raise if it holds NaN or infinity (the first place is named)."""
    if not all_finite(values):
        finite = np.isfinite(values)
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
    library = _library(value)
    if library is None:
        raise TypeError(f"{name} must be a NumPy, torch or CuPy array; got {type(value).__name__}")
    return library


def _library(value: Any) -> str | None:
    if isinstance(value, np.ndarray):
        return "numpy"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return "torch"
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):
        return "cupy"
    return None


# What the compiled kernels compute in, by the names that the libraries print. Others are refused,
# never converted: half precision does not carry squared distances, and integers are more often a
# mistake than points.
_KERNEL_DTYPES: dict[str, np.dtype[np.floating[Any]]] = {
    prefix + dtype.name: dtype
    for prefix in ("", "torch.")
    for dtype in (np.dtype(np.float32), np.dtype(np.float64))
}


# Every call makes places and operands, which on a device may take longer than its kernel. So these
# are tuples, and what an earlier call found out is looked up.


class Place(NamedTuple):
    """Which library an array came from and where its memory lies.

    Attributes
    ----------
    library : str
        ``"numpy"``, ``"torch"`` or ``"cupy"``.
    device : str
        ``"cpu"``, or a CUDA device as ``"cuda:0"``.
    stream : int or None
        Address of the CUDA stream that was current when the array was read; None on the CPU.
    """

    library: str
    device: str
    stream: int | None = None

    def __str__(self) -> str:
        return f"{self.library} on {self.device}"


class Operand(NamedTuple):
    """One argument of a kernel, checked: an array that the kernel can read, and where it came from.

    Attributes
    ----------
    array : array
        C-contiguous, aligned and in native byte order; the caller's own memory where that was so
        already. Read it, never write to it. A NumPy array on the CPU; on a CUDA device, an array
        of the caller's library.
    place : Place
        Library and device of the caller's array.
    dtype : numpy.dtype
        Float32 or float64.
    """

    array: Any
    place: Place
    dtype: np.dtype[np.floating[Any]]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the caller's array."""
        return tuple(self.array.shape)


def backend_for(place: Place, later: bool = False) -> Any:
    """Return the compiled kernels that work at `place`.

    On the CPU, the module ``dpslice._core``; on a CUDA device, an object with the same functions,
    which take and give arrays there and run on the stream of `place`.

    Parameters
    ----------
    place : Place
        Where the arrays are.
    later : bool
        On a CUDA device, do not wait for a kernel that may fail: report it in a later call.

    Raises
    ------
    NotImplementedError
        If this build has no CUDA kernels, and `place` is a CUDA device.
    """
    if place.device == "cpu":
        core = sys.modules.get("dpslice._core")
        if core is not None:
            return core
        try:
            return importlib.import_module("dpslice._core")
        except ModuleNotFoundError as error:
            raise ImportError(
                "the compiled kernels dpslice._core are missing: build them with 'pip install .'"
            ) from error
    module = sys.modules.get("dpslice._cuda")
    if module is None:
        try:
            module = importlib.import_module("dpslice._cuda")
        except ModuleNotFoundError as error:
            raise NotImplementedError(
                "this build of dpslice has no CUDA kernels, and the arrays are on "
                f"{place.device}; move them to the CPU (torch: x.cpu(), CuPy: cupy.asnumpy(x)), "
                "or build dpslice with pip install -C cmake.define.DPSLICE_CUDA=ON"
            ) from error
    return _cuda_kernels(module, place, later)


_PLACES = 256  # devices and streams to remember at a time: many more than a program uses


@functools.lru_cache(_PLACES)
def _cuda_kernels(module: ModuleType, place: Place, later: bool) -> Any:
    from dpslice._cuda_kernels import CudaKernels  # which imports this module

    return CudaKernels(module, place, later)


_NUMPY, _TORCH_ON_CPU = Place("numpy", "cpu"), Place("torch", "cpu")


def place_of(name: str, value: Any) -> Place:
    """Tell where an array of any of the three libraries lies, without touching its values."""
    library = library_of(name, value)
    if library == "numpy":
        return _NUMPY
    if library == "torch":
        device = value.device
        if device.type == "cpu":
            return _TORCH_ON_CPU
        if device.type != "cuda":
            raise ValueError(f"{name} must be on the CPU or a CUDA device; got device {device}")
        return _device_place("torch", device.index, _torch_stream(sys.modules["torch"], device))
    cupy = sys.modules["cupy"]
    with value.device:
        stream = int(cupy.cuda.get_current_stream().ptr)
    return _device_place("cupy", value.device.id, stream)


@functools.lru_cache(_PLACES)
def _device_place(library: str, device: int, stream: int) -> Place:
    return Place(library, f"cuda:{device}", stream)


def _torch_stream(torch: Any, device: Any) -> int:
    """Return the current stream of a device, by the shortcut that torch's own compiler takes."""
    shortcut = getattr(torch._C, "_cuda_getCurrentRawStream", None)
    if shortcut is not None:
        return int(shortcut(device.index))
    return int(torch.cuda.current_stream(device).cuda_stream)


def _kernel_dtype(name: str, value: Any) -> np.dtype[np.floating[Any]]:
    """Return float32 or float64, in native byte order, or raise."""
    found = _native(value.dtype)
    if found is None:
        raise TypeError(f"{name} must have dtype float32 or float64; got {value.dtype}")
    return found


@functools.lru_cache(256)  # there are not that many dtypes, but for structured ones
def _native(dtype: Any) -> np.dtype[np.floating[Any]] | None:
    native = dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else dtype
    return _KERNEL_DTYPES.get(str(native))


def _check_axes(name: str, shape: tuple[int, ...], axes: Sequence[str | int]) -> None:
    """Check rank and sizes. An axis is a size, or a letter that stands for any size >= 1."""
    if len(shape) == len(axes):
        for size, axis in zip(shape, axes, strict=True):
            if not (size >= 1 if isinstance(axis, str) else size == axis):
                break
        else:
            return
    inside = ", ".join(map(str, axes)) + ("," if len(axes) == 1 else "")
    empty = len(shape) == len(axes) and 0 in shape
    rule = f"shape ({inside})" + (" without an empty axis" if empty else "")
    raise ValueError(f"{name} must have {rule}; got {shape}")


def _host_array(
    name: str, value: Any, place: Place, dtype: np.dtype[np.floating[Any]]
) -> FloatArray:
    """View, or where that cannot be, copy an array on the CPU into the layout that kernels read."""
    if place.library == "torch":
        torch = sys.modules["torch"]
        if value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor; got layout {value.layout}")
        host: FloatArray = value.numpy(force=True)
    else:
        host = np.asarray(value)
    flags = host.flags
    if flags.c_contiguous and flags.aligned and host.dtype == dtype:
        return host
    array: FloatArray = np.require(host, dtype=dtype, requirements=["C", "A"])
    return array


# ----------------------------------------------------------------------------- device memory
#
# What CUDA arrays need of their library, which is torch or CuPy. New arrays lie on the device of
# `like`, and belong to the stream that is current there.


def on_device(place: Place) -> bool:
    """Tell whether an array lies in the memory of a CUDA device."""
    return place.device != "cpu"


def device_array(name: str, value: Any, place: Place) -> Any:
    """Make an array on a CUDA device contiguous, by a copy there if need be."""
    if place.library == "torch":
        torch = sys.modules["torch"]
        if value.layout != torch.strided:
            raise TypeError(f"{name} must be a dense tensor; got layout {value.layout}")
        if value.requires_grad:
            value = value.detach()
        if value.is_contiguous() and not value.is_neg():
            return value
        return value.resolve_neg().contiguous()
    with value.device:
        return sys.modules["cupy"].ascontiguousarray(value)


def device_empty(shape: Sequence[int], dtype: str | None, like: Any, place: Place) -> Any:
    """Allocate an array of the library and on the device of `like`; in its dtype, if None is given.

    New memory belongs to the stream that is current.
    """
    if place.library == "torch":
        if dtype is None:
            return like.new_empty(shape)
        return like.new_empty(shape, dtype=getattr(sys.modules["torch"], dtype))
    with like.device:
        return sys.modules["cupy"].empty(tuple(shape), dtype=dtype or str(like.dtype))


def device_full(size: int, value: int, dtype: str, like: Any, place: Place) -> Any:
    """Allocate a vector of the library and on the device of `like`, of one number."""
    if place.library == "torch":
        return like.new_full((size,), value, dtype=getattr(sys.modules["torch"], dtype))
    with like.device:
        return sys.modules["cupy"].full((size,), value, dtype=dtype)


def device_vector(value: Any, size: int, like: Any, place: Place) -> Any:
    """Make a contiguous vector (size,) of a number, an array () or an array (size,).

    Its library, dtype and device are those of `like`. It may be `value` itself.
    """
    dtype = like.dtype
    if place.library == "torch":
        if isinstance(value, float):
            return sys.modules["torch"].full((size,), value, dtype=dtype, device=like.device)
        if value.dtype == dtype and value.shape == (size,):
            return value.contiguous()
        return value.to(dtype).expand(size).contiguous()
    cupy = sys.modules["cupy"]
    with like.device:
        if isinstance(value, float):
            return cupy.full((size,), value, dtype=dtype)
        return cupy.ascontiguousarray(cupy.broadcast_to(value.astype(dtype), (size,)))


_MOST_KEPT = 4096  # numbers of a vector from which on a call takes longer than to fill it


def kept_vector(value: float, size: int, like: Any, place: Place) -> Any:
    """Make a vector of one number as `device_vector` does, of torch; or give an earlier call's.

    To fill it takes as long as all else before a kernel. Nobody may write to it, and torch must not
    be tracing or transforming anything: what it made for that would be of no use later. Nor is a
    vector kept for a recorded graph, which would outlive it.
    """
    if size > _MOST_KEPT or capturing(place):
        return device_vector(value, size, like, place)
    return _kept_vector(value, size, like.dtype, like.device, place.stream)


@functools.lru_cache(16)
def _kept_vector(value: float, size: int, dtype: Any, device: Any, stream: int | None) -> Any:
    """Fill a vector, for one stream: there it is filled before it is read."""
    torch = sys.modules["torch"]
    with torch.inference_mode(False):  # else autograd could not save it
        return torch.full((size,), value, dtype=dtype, device=device)


def widened(array: Any, place: Place) -> Any:
    """Return an array in float64; itself if it is that already."""
    if place.library == "torch" and on_device(place):
        return array.double()
    return array if str(array.dtype) == "float64" else array.astype(np.float64)


def address(array: Any, place: Place) -> int:
    """Return the address of an array in device memory."""
    if place.library == "torch":
        return int(array.data_ptr())
    return int(array.__cuda_array_interface__["data"][0])


def device_addresses(
    arguments: Sequence[Any], place: Place, *, new: Sequence[Any] = ()
) -> list[Any]:
    """Return the addresses of arrays in device memory; 0 stands for None, numbers for themselves.

    Torch tensors are told that the stream uses them: their memory may have come from another one,
    and must not be given away before the kernel is done.

    Parameters
    ----------
    arguments : sequence
        What a kernel is given.
    place : Place
        Device and stream.
    new : sequence
        More arguments, appended: arrays that were allocated on this stream for this call, which
        need not be told.
    """
    stream = None
    if place.library == "torch" and not capturing(place):
        stream = _stream_object(place)
    found: list[Any] = []
    for value in (*arguments, *new):
        if isinstance(value, (int, float, bytes)):
            found.append(value)
        elif value is None:
            found.append(0)
        else:
            found.append(address(value, place))
            if stream is not None and len(found) <= len(arguments):
                value.record_stream(stream)
    return found


@functools.lru_cache(_PLACES)
def _stream_object(place: Place) -> Any:
    """Return torch's object for the stream of a place, which is the current one."""
    return sys.modules["torch"].cuda.current_stream(place.device)


def product_halves(place: Place) -> int:
    """Tell how exactly products of float32 numbers are to be made on a device.

    Returns
    -------
    int
        2: as float32 makes them. 1: with the 11 bits of TensorFloat32, which
        ``torch.set_float32_matmul_precision("high")`` allows.
    """
    if place.library != "torch":
        return 2
    torch = sys.modules["torch"]
    precision = getattr(torch.backends.cuda.matmul, "fp32_precision", None)
    if precision is None:  # before torch 2.9
        return 2 if torch.get_float32_matmul_precision() == "highest" else 1
    return 1 if precision == "tf32" else 2


def capturing(place: Place) -> bool:
    """Tell whether the current stream records a CUDA graph, so that it cannot be waited for."""
    if place.library == "torch":
        return bool(sys.modules["torch"].cuda.is_current_stream_capturing())
    return bool(sys.modules["cupy"].cuda.get_current_stream().is_capturing())


def operand(
    name: str,
    value: Any,
    axes: Sequence[str | int],
    *,
    like: Operand | None = None,
    same_dtype: bool = True,
    finite: bool = True,
) -> Operand:
    """Check one array argument and make it readable for a kernel.

    Parameters
    ----------
    name : str
        Name in messages.
    value : array
        NumPy, torch or CuPy array of float32 or float64. Any strides, alignment and byte order;
        read-only arrays are fine.
    axes : sequence of str or int
        The expected shape: an int is that size, a letter any size of at least 1.
    like : Operand, optional
        An earlier argument whose library, dtype and device this one must share.
    same_dtype : bool
        Whether the dtype must be that of `like`.
    finite : bool
        Refuse NaN and infinity, where the array is on the CPU.

    Returns
    -------
    Operand
        The array, contiguous and aligned, and its place.

    Raises
    ------
    TypeError
        If `value` is no array, of another library than `like`, masked, sparse, or of another dtype.
    ValueError
        If its shape is wrong, it requires a gradient, lies on another device, or is not finite.
    NotImplementedError
        If it lies on a device that this build has no kernels for.
    """
    library = library_of(name, value)
    if like is not None and library != like.place.library:
        raise TypeError(
            f"{name} must be a {like.place.library} array like the others; got {library}"
        )
    if library == "numpy" and isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must not be a masked array: the kernels know no mask")
    if library == "torch" and value.requires_grad:
        raise ValueError(
            f"{name} must not require a gradient, which is not made here: use the function of the "
            "same name in dpslice.torch.functional, if there is one, or pass detach()ed"
        )
    _check_axes(name, tuple(value.shape), axes)
    dtype = _kernel_dtype(name, value)
    if like is None:
        place = place_of(name, value)
        backend_for(place)
    else:
        if same_dtype and dtype != like.dtype:
            raise TypeError(f"{name} must have dtype {like.dtype} like the others; got {dtype}")
        place = like.place
        # Devices are compared first: their names, and streams, take longer.
        if not on_device(place) or value.device != like.array.device:
            place = place_of(name, value)
        if place.device != like.place.device:
            raise ValueError(
                f"{name} must be on {like.place.device} like the others; got {place.device}"
            )
    if on_device(place):
        return Operand(device_array(name, value, place), place, dtype)
    array = _host_array(name, value, place, dtype)
    if finite:
        finite_values(name, array)
    return Operand(array, place, dtype)


def layout(name: str, value: Any, axes: Sequence[str | int], *, like: Any = None) -> None:
    """Check shape and dtype alone: all that there is to check while a graph is traced.

    Parameters
    ----------
    name : str
        Name in messages.
    value : array
        Array of any library, with or without values.
    axes : sequence of str or int
        The expected shape: an int is that size, a letter any size of at least 1.
    like : array, optional
        An earlier argument whose dtype this one must share.
    """
    library_of(name, value)
    _check_axes(name, tuple(value.shape), axes)
    dtype = _kernel_dtype(name, value)
    if like is not None and value.dtype != like.dtype:
        raise TypeError(f"{name} must have dtype {like.dtype} like the others; got {dtype}")


def point_pair(x_name: str, x: Any, y_name: str, y: Any) -> tuple[Operand, Operand]:
    """Check the points ``(m, b, k)`` and ``(m, c, k)`` of a kernel over pairs.

    Their values are left to `check_reach`.
    """
    first = operand(x_name, x, ("m", "b", "k"), finite=False)
    m, _, k = first.shape
    return first, operand(y_name, y, (m, "c", k), like=first, finite=False)


def bandwidths(name: str, value: Any, like: Operand) -> Any:
    """Return one bandwidth for each slice of `like`, in its dtype.

    The values of an array are left to `check_reach`.

    Parameters
    ----------
    name : str
        Name in messages.
    value : float or array, shape (m,) or ()
        Finite and positive. An array is of the library and device of `like`; its dtype may be
        float32 or float64 whatever that of `like`.
    like : Operand
        Points (m, b, k) that the bandwidth belongs to.

    Returns
    -------
    array, shape (m,)
        Bandwidths in the dtype of `like`, on its device; NumPy's if that is the CPU.
    """
    slices = like.shape[0]
    device = on_device(like.place)
    if isinstance(value, (numbers.Real, np.number)):
        array: FloatArray = np.full(slices, positive_real(name, value))
    else:
        if _library(value) != like.place.library:
            raise TypeError(
                f"{name} must be a number or a {like.place.library} array like the others; "
                f"got {type(value).__name__}"
            )
        axes = () if value.ndim == 0 else (slices,)
        given = operand(name, value, axes, like=like, same_dtype=False, finite=False)
        if device:
            return device_vector(given.array, slices, like.array, like.place)
        array = given.array if value.ndim == 1 else np.broadcast_to(given.array, (slices,))
    if array.dtype != like.dtype or not array.flags.c_contiguous:
        with np.errstate(over="ignore", under="ignore"):  # caught by `check_reach`
            array = np.ascontiguousarray(array, dtype=like.dtype)
    if device:
        _check_bandwidths(name, array)
        return device_vector(float(array[0]), slices, like.array, like.place)
    return array


def _check_bandwidths(name: str, bandwidth: FloatArray) -> None:
    """Refuse bandwidths that are not finite and positive; subnormal ones have no reciprocal."""
    good = np.isfinite(bandwidth) & (bandwidth >= np.finfo(bandwidth.dtype).tiny)
    if not good.all():
        first = int(np.argmin(good))
        raise ValueError(
            f"{name} must be finite and > 0 (in {bandwidth.dtype}); "
            f"got {bandwidth[first]} for slice {first}"
        )


def check_reach(points: Mapping[str, Operand], bandwidth_name: str, bandwidth: Any) -> None:
    """Check the values of points and of their bandwidths, unless they are on a CUDA device.

    Points must be finite, and not so far out that a squared distance in bandwidths leaves the
    number range; bandwidths must be finite and positive.

    Parameters
    ----------
    points : mapping of str to Operand
        Points (m, b, k) and (m, c, k) by their names in messages, of one dtype and device.
    bandwidth_name : str
        Name in messages.
    bandwidth : array, shape (m,)
        Bandwidths, as `bandwidths` returns them.
    """
    first = next(iter(points.values()))
    if on_device(first.place):
        return
    limit = 1e17 if first.dtype.itemsize == 4 else 1e150
    core = backend_for(first.place)
    if all(core.reach(each.array, bandwidth) <= limit for each in points.values()):
        return
    # Something is wrong with them: find out what.
    for name, each in points.items():
        finite_values(name, each.array)
    _check_bandwidths(bandwidth_name, bandwidth)
    for name, each in points.items():
        with np.errstate(over="ignore"):
            reach = np.abs(each.array).max(axis=(1, 2)).astype(np.float64) / bandwidth
        if not (reach <= limit).all():
            slice_ = int(np.argmax(reach))
            raise ValueError(
                f"{name} must lie within {limit:g} bandwidths of the origin; "
                f"got {reach[slice_]:g} bandwidths in slice {slice_}"
            )


def log_weight_values(name: str, weights: Operand) -> None:
    """Refuse log weights that are NaN or +inf; -inf is a weight of zero."""
    if on_device(weights.place):
        return
    bad = np.isnan(weights.array) | (weights.array == np.inf)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise ValueError(
            f"{name} must hold finite numbers or -inf; got {weights.array[where]} at index {where}"
        )


def ratio_values(name: str, value: Any) -> Operand:
    """Check density ratios: a number, or an array of any shape, finite and >= 0."""
    if isinstance(value, (numbers.Real, np.number)):
        number = np.array(nonnegative_real(name, value))
        return Operand(number, _NUMPY, number.dtype)
    library_of(name, value)
    found = operand(name, value, tuple(value.shape))
    if on_device(found.place):
        return found
    negative = found.array < 0
    if negative.any():
        where = tuple(int(i) for i in np.argwhere(negative)[0])
        raise ValueError(
            f"{name} must hold numbers >= 0; got {found.array[where]} at index {where}"
        )
    return found


def same_kind(result: Any, place: Place) -> Any:
    """Give a kernel's result back as the kind of array that came in; memory is shared."""
    if place.library == "torch" and not on_device(place):
        return sys.modules["torch"].from_numpy(result)
    return result


def under_vmap() -> bool:
    """Tell whether the present code is being run by `torch.vmap`, for a whole batch at once."""
    torch = sys.modules["torch"]
    if torch.compiler.is_compiling() or not torch._C._are_functorch_transforms_active():
        return False
    functorch = torch._C._functorch
    levels = functorch.get_interpreter_stack()
    return any(level.key() == functorch.TransformType.Vmap for level in levels)


def synthetic_rows(name: str, x: Any, *, d: int) -> Any:
    """Return a torch tensor (c, d) of float32 or float64, or raise; half types only under autocast.

    Parameters
    ----------
    name : str
        Name in messages.
    x : Tensor, shape (c, d)
        Synthetic rows; finite, which is not looked at in device memory.
    d : int
        Columns of the private rows that they are compared with.

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
            f"{name} must have shape (c, {d}) with c >= 1, as the private rows have {d} columns; "
            f"got {tuple(x.shape)}"
        )
    if x.dtype in (torch.float16, torch.bfloat16) and torch.is_autocast_enabled(x.device.type):
        x = x.float()
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must have dtype float32 or float64; got {x.dtype}")
    # Under vmap nothing here can depend on values. Kernels, which get those of the batch, look too;
    # losses without one give NaN for NaN.
    if x.is_cpu and not under_vmap() and not all_finite(x):
        i, j = (int(index) for index in (~torch.isfinite(x.detach())).nonzero()[0])
        found = float(x.detach()[i, j])
        raise ValueError(f"{name} must hold finite numbers; got {found} at ({i}, {j})")
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


def refuse_masked(name: str, value: object) -> None:
    """Raise TypeError if the rows are a masked array: what it hides would be read."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} must be a plain array; got a masked one: fill or drop its rows")


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
    refuse_masked(name, value)
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


def settled(block: Any) -> Any:
    """Copy a block of a memory map, which someone else may write to while it is used.

    What is checked and clipped must be what is then released.
    """
    return np.array(block) if isinstance(block, np.memmap) else block


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
    if not all_finite(block):
        row = int(np.argmin(np.isfinite(block).all(axis=1)))
        column = int(np.argmin(np.isfinite(block[row])))
        raise ValueError(
            f"{name} must hold finite numbers; got {block[row, column]} "
            f"in row {first_row + row}, column {column}"
        )
    return block
