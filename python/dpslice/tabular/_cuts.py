"""Conditions on a column, as shares of its levels and as pieces of its bins: for models of sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpslice.tabular._places import bounds_of, special_values, states_of, value_to_place
from dpslice.tabular.columns import Datetime, Number
from dpslice.tabular.discretization import CutShape, FineShape, Levels
from dpslice.tabular.rules import Part

Numbers = NDArray[np.float64]

# From a whole value to the ends of itself and of its neighbours, in steps. These are cut out, too,
# so that it does not matter how the ends of a range are rounded.
_ENDS = np.array([-1.5, -0.5, 0.5, 1.5])

_ROUNDING = 1e-12  # of sums over a bin


def cut(levels: Levels, part: Part, shape: FineShape | None) -> tuple[Numbers, FineShape | None]:
    """Return what a condition leaves of a column.

    Parameters
    ----------
    levels : Levels
        The column's levels.
    part : Part
        The condition.
    shape : FineShape or None
        How values lie inside the coarse bins; None: evenly.

    Returns
    -------
    shares : ndarray, shape (coarse levels,)
        Share of each level that meets the condition.
    shape : FineShape or None
        How what meets it lies inside the coarse bins.
    """
    column = levels.column
    if levels.edges is None:
        numbers = np.arange(levels.coarse, dtype=np.float64)
        if column.nullable:
            numbers[-1] = np.nan
        return part.holds(numbers).astype(np.float64), shape
    assert isinstance(column, Number | Datetime)
    others = np.array([*special_values(column), *([np.nan] if column.nullable else [])])
    states = part.holds(others).astype(np.float64)

    lower, upper = _pieces(levels, part)
    fine = np.searchsorted(levels.edges, lower, side="right") - 1
    fine = np.clip(fine, 0, levels.n_fine_bins - 1)  # a real number at the upper bound
    coarse = np.searchsorted(levels.starts, fine, side="right") - 1
    sizes = _sizes(levels, levels.edges[:-1], levels.edges[1:])
    portions = _sizes(levels, lower, upper) / sizes[fine]
    even = np.ones(levels.n_fine_bins)
    weights = even if shape is None else np.diff(shape.cumulative)
    left = weights[fine] * portions
    if portions.any() and not (left.any() or states.any()):
        # Noise has left no count at the values. How rows with them are, their bins still tell.
        weights, left = even, portions
    whole = np.add.reduceat(weights, levels.starts[:-1])
    if not portions.any():
        # Real numbers, which have no share, stand for the bin that they are in.
        left = whole[coarse] / np.bincount(coarse, minlength=levels.n_bins)[coarse]
    shares = np.bincount(coarse, left, minlength=levels.n_bins) / whole
    # A whole bin is no part of one, however its sum is rounded.
    shares = np.where(shares > 1.0 - _ROUNDING, 1.0, shares)
    kept = np.flatnonzero(left)
    if len(kept) > 0:
        cumulative = np.concatenate([[0.0], np.cumsum(left[kept])])
        starts = np.searchsorted(coarse[kept], np.arange(levels.n_bins + 1))
        shape = CutShape(cumulative, lower[kept], upper[kept], starts)
    return np.concatenate([shares, states]), shape


def _sizes(levels: Levels, lower: Numbers, upper: Numbers) -> Numbers:
    """Shares of fine bins are as these: whole values, or distances of places."""
    if levels.whole is not None:
        return np.rint((upper - lower) / levels.whole)
    assert isinstance(levels.column, Number | Datetime)
    return value_to_place(levels.column, upper) - value_to_place(levels.column, lower)


def _pieces(levels: Levels, part: Part) -> tuple[Numbers, Numbers]:
    """Cut the fine bins where the condition begins or ends, and keep what meets it."""
    column, edges = levels.column, levels.edges
    assert isinstance(column, Number | Datetime)
    assert edges is not None
    numbers = np.array([number for number in part.numbers if np.isfinite(number)])
    if levels.whole is None and part.kind == "one of":
        single = np.unique(numbers[states_of(column, numbers) == 0])
        return single, single
    if levels.whole is not None:
        numbers = ((np.rint(numbers / levels.whole)[:, None] + _ENDS) * levels.whole).ravel()
    cuts = np.unique(np.concatenate([edges, np.clip(numbers, edges[0], edges[-1])]))
    lower, upper = cuts[:-1], cuts[1:]
    if levels.whole is None:
        inside = 0.5 * lower + 0.5 * upper
    else:  # the first value of each piece, as tables have it
        inside = np.clip(lower + 0.5 * levels.whole, *bounds_of(column))
        inside = column.to_numbers(column.from_numbers(inside))
    meets = part.holds(inside)
    return lower[meets], upper[meets]
