"""A column's values as states and as places within its bounds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from dpslice.tabular.columns import Datetime, Number, Numbers

# scale="log" encodes log1p((v - min) / s), where s is this fraction of the range, and at least 1
# for integers: values nearer to min than s are spread linearly, two decades above logarithmically.
_LOG_FRACTION = 1e-2


def special_values(column: Number | Datetime) -> tuple[float, ...]:
    """Values that are states of their own."""
    return column.special if isinstance(column, Number) else ()


def bounds_of(column: Number | Datetime) -> tuple[float, float]:
    """Bounds of the regular values, as the numbers of `to_numbers`."""
    return column.regular_bounds if isinstance(column, Number) else column.bounds_seconds


def step_of(column: Number | Datetime) -> float | None:
    """Distance of neighbouring values, None for real numbers."""
    if isinstance(column, Datetime):
        return column.unit
    if column.step is not None:
        return column.step
    return 1.0 if column.type == "integer" else None


def _log_unit(column: Number) -> float:
    """Return the distance from the lower end at which ``scale="log"`` turns logarithmic."""
    low, high = column.regular_bounds
    unit = _LOG_FRACTION * (high - low)
    return max(unit, 1.0) if column.type == "integer" else unit


def states_of(column: Number | Datetime, values: Numbers) -> NDArray[np.intp]:
    """State of each value: 0 regular, then one for each special value, the last one missing."""
    special = special_values(column)
    states = np.zeros(len(values), dtype=np.intp)
    for state, value in enumerate(special, start=1):
        states[values == value] = state
    states[np.isnan(values)] = len(special) + 1
    return states


def value_to_place(column: Number | Datetime, values: Numbers) -> Numbers:
    """Place of each value in the bounds: 0 at the lower end, 1 at the upper one."""
    low, high = bounds_of(column)
    above = np.clip(values, low, high) - low
    if isinstance(column, Number) and column.scale == "log":
        unit = _log_unit(column)
        place = np.log1p(above / unit) / math.log1p((high - low) / unit)
    else:
        place = above / (high - low)
    return np.minimum(place, 1.0)


def place_to_value(column: Number | Datetime, place: Numbers) -> Numbers:
    """Inverse of `value_to_place`; places outside [0, 1] are clipped."""
    low, high = bounds_of(column)
    place = np.clip(place.astype(np.float64), 0.0, 1.0)
    if isinstance(column, Number) and column.scale == "log":
        unit = _log_unit(column)
        above = unit * np.expm1(place * math.log1p((high - low) / unit))
    else:
        above = place * (high - low)
    return np.clip(low + above, low, high)
