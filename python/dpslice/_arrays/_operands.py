"""Arguments of kernels: checked, and turned into arrays that compiled code can read."""

from __future__ import annotations

import functools
import numbers
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from dpslice._arrays._devices import (
    NUMPY_ON_CPU,
    Place,
    backend_for,
    device_array,
    device_vector,
    library_of,
    library_or_none,
    on_device,
    place_of,
)
from dpslice._arrays._finite import FloatArray, all_finite, finite_values
from dpslice._arrays._scalars import nonnegative_real, positive_real

__all__ = [
    "Operand",
    "bandwidths",
    "check_reach",
    "layout",
    "log_weight_values",
    "operand",
    "point_pair",
    "power_values",
    "ratio_values",
]

# What the compiled kernels compute in, by the names that the libraries print. Others are refused,
# never converted: half precision does not carry squared distances, and integers are more often a
# mistake than points.
_KERNEL_DTYPES: dict[str, np.dtype[np.floating[Any]]] = {
    prefix + dtype.name: dtype
    for prefix in ("", "torch.")
    for dtype in (np.dtype(np.float32), np.dtype(np.float64))
}


class Operand(NamedTuple):  # as Place is, and for the same reason
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
    """Check shape, dtype and device: all that there is to check while a graph is traced.

    Parameters
    ----------
    name : str
        Name in messages.
    value : array
        Array of any library, with or without values.
    axes : sequence of str or int
        The expected shape: an int is that size, a letter any size of at least 1.
    like : tensor, optional
        An earlier argument whose dtype and device this one, a tensor too, must share.
    """
    library_of(name, value)
    _check_axes(name, tuple(value.shape), axes)
    dtype = _kernel_dtype(name, value)
    if like is not None and value.dtype != like.dtype:
        raise TypeError(f"{name} must have dtype {like.dtype} like the others; got {dtype}")
    if like is not None and value.device != like.device:
        raise ValueError(f"{name} must be on {like.device} like the others; got {value.device}")


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


def _kernel_dtype(name: str, value: Any) -> np.dtype[np.floating[Any]]:
    """Return float32 or float64, in native byte order, or raise."""
    dtype = value.dtype
    # Those of torch are not looked up in a cache, of which its compiler would warn.
    found = _native(dtype) if isinstance(dtype, np.dtype) else _KERNEL_DTYPES.get(str(dtype))
    if found is None:
        raise TypeError(f"{name} must have dtype float32 or float64; got {value.dtype}")
    return found


@functools.lru_cache(256)  # there are not that many dtypes, but for structured ones
def _native(dtype: np.dtype[Any]) -> np.dtype[np.floating[Any]] | None:
    return _KERNEL_DTYPES.get(str(dtype.newbyteorder("=")))


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


# ------------------------------------------------------------------------------------------ points


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
        if library_or_none(value) != like.place.library:
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


# ------------------------------------------------------------------------------------------ values


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


def power_values(values: Any, first: Operand, second: Operand, order: float) -> None:
    """Refuse numbers x and y where a slice's mean distance to a power has left the number range."""
    if on_device(first.place) or all_finite(values):
        return
    slice_ = int(np.argmin(np.isfinite(values)))
    largest = max(float(np.abs(each.array[slice_]).max()) for each in (first, second))
    raise ValueError(
        f"x and y must be of a size whose distances to the power {order:g} fit {first.dtype}; "
        f"got numbers up to {largest:g} in slice {slice_}"
    )


def ratio_values(name: str, value: Any) -> Operand:
    """Check density ratios: a number, or an array of any shape, finite and >= 0."""
    if isinstance(value, (numbers.Real, np.number)):
        number = np.array(nonnegative_real(name, value))
        return Operand(number, NUMPY_ON_CPU, number.dtype)
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
