"""Whether all numbers of an array are finite: looked at once for operands and for private rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FloatArray",
    "all_finite",
    "finite_values",
]

FloatArray = NDArray[np.floating[Any]]

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
