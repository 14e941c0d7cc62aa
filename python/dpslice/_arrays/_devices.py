"""Where arrays lie, the kernels that work there, and what CUDA arrays need of their library.

torch and CuPy are looked up among the modules already imported: an array of theirs can only exist
if they are, and dpslice must not import them by itself.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from dpslice._arrays._scalars import kind_of

__all__ = [
    "NUMPY_ON_CPU",
    "Place",
    "address",
    "backend_for",
    "capturing",
    "device_addresses",
    "device_array",
    "device_empty",
    "device_full",
    "device_vector",
    "kept_vector",
    "library_of",
    "library_or_none",
    "on_device",
    "place_of",
    "product_halves",
    "same_kind",
    "widened",
]


# ------------------------------------------------------------------------------------------ places


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


def library_of(name: str, value: object) -> str:
    """Tell which array library `value` belongs to: ``numpy``, ``torch`` or ``cupy``."""
    library = library_or_none(value)
    if library is None:
        raise TypeError(f"{name} must be a NumPy, torch or CuPy array; got {kind_of(value)}")
    return library


def library_or_none(value: Any) -> str | None:
    """Tell which of the three array libraries `value` belongs to, if any."""
    if isinstance(value, np.ndarray):
        return "numpy"
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return "torch"
    cupy = sys.modules.get("cupy")
    if cupy is not None and isinstance(value, cupy.ndarray):
        return "cupy"
    return None


_PLACES = 256  # devices and streams to remember at a time: many more than a program uses

NUMPY_ON_CPU, _TORCH_ON_CPU = Place("numpy", "cpu"), Place("torch", "cpu")


def place_of(name: str, value: Any) -> Place:
    """Tell where an array of any of the three libraries lies, without touching its values."""
    library = library_of(name, value)
    if library == "numpy":
        return NUMPY_ON_CPU
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


def on_device(place: Place) -> bool:
    """Tell whether an array lies in the memory of a CUDA device."""
    return place.device != "cpu"


def same_kind(result: Any, place: Place) -> Any:
    """Give a kernel's result back as the kind of array that came in; memory is shared."""
    if place.library == "torch" and not on_device(place):
        return sys.modules["torch"].from_numpy(result)
    return result


# ----------------------------------------------------------------------------------------- kernels


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


@functools.lru_cache(_PLACES)
def _cuda_kernels(module: ModuleType, place: Place, later: bool) -> Any:
    from dpslice._cuda_kernels import CudaKernels  # which imports this package

    return CudaKernels(module, place, later)


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


# ----------------------------------------------------------------------------------- device memory
#
# What CUDA arrays need of their library, which is torch or CuPy. New arrays lie on the device of
# `like`, and belong to the stream that is current there.


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


def capturing(place: Place) -> bool:
    """Tell whether the current stream records a CUDA graph, so that it cannot be waited for."""
    if place.library == "torch":
        return bool(sys.modules["torch"].cuda.is_current_stream_capturing())
    return bool(sys.modules["cupy"].cuda.get_current_stream().is_capturing())
