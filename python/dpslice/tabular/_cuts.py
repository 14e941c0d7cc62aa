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
        Share of each level that meets the condition, up to a common factor.
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

    bins = np.arange(levels.n_fine_bins)
    lower, upper = _pieces(levels, part)
    fine = np.searchsorted(levels.edges, lower, side="right") - 1
    fine = np.clip(fine, 0, bins[-1])  # a real number at the upper bound
    portions = _sizes(levels, lower, upper) / _sizes(levels, *_ends(levels))[fine]
    if not portions.any():
        # A real number has no share of its own, so its fine bin stands for it.
        portions = np.ones(len(lower))
    weights = np.ones(len(bins)) if shape is None else np.diff(shape.cumulative)
    if not (states.any() or (weights[fine] * portions).any()):
        # Noise has left no count at the values. How rows with them are, their bins still tell.
        weights = np.ones(len(bins))

    def of_coarse(place: NDArray[np.intp], weight: Numbers) -> Numbers:
        coarse = np.searchsorted(levels.starts, place, side="right") - 1
        return np.bincount(coarse, weight, minlength=levels.n_bins).astype(np.float64)

    left, whole = of_coarse(fine, weights[fine] * portions), of_coarse(bins, weights)
    shares = np.concatenate([left / np.where(whole > 0.0, whole, 1.0), states])
    shares /= max(1.0, shares.max())  # several real numbers in one bin
    kept = np.flatnonzero(weights[fine] * portions)
    if len(kept) == 0:
        return shares, shape
    return shares, CutShape(
        np.concatenate([[0.0], np.cumsum((weights[fine] * portions)[kept])]),
        lower[kept],
        upper[kept],
        np.searchsorted(fine[kept], levels.starts),
    )


def _ends(levels: Levels) -> tuple[Numbers, Numbers]:
    assert levels.edges is not None
    return levels.edges[:-1], levels.edges[1:]


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
