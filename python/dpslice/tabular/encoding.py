r"""Rows of a table as vectors of bounded norm, and back.

A row is the concatenation of one block per column. A block has a *state* part, a *value* part, or
both:

=====================  ====================================  ==========================
column                 states                                value
=====================  ====================================  ==========================
categorical, boolean   its levels (and "missing")            none
number, datetime       none                                  its place in the bounds
the same, with special "regular", each special value         its place in the bounds if
values or nullable     (and "missing")                       regular, else zeros
=====================  ====================================  ==========================

The state part is ``state_weight * (one-hot row)`` less a constant centre.

The value part puts a number's place t in its bounds (0 at the lower, 1 at the upper) on a curve,

.. math:: \gamma(t) = (a_1 \cos \pi t, a_1 \sin \pi t, a_2 \cos 2\pi t, a_2 \sin 2\pi t, \dots),

whose points all have the norm :math:`r = (\sum a_h^2)^{1/2}`. One scalar per number would be told
from noise by its mean and variance only, and in these a heavy-tailed number shows little; the
higher harmonics show the shape of its distribution, at a small price in norm.

Every row lies in a ball around the zero vector, whose radius `max_norm` and the `diameter` of the
set of encoded rows follow from the public schema alone. Centres are chosen to make it small: noise
for a given privacy grows with it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.polynomial import Chebyshev
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.tabular._places import (
    bounds_of,
    place_to_value,
    special_values,
    states_of,
    value_to_place,
)
from dpslice.tabular.columns import Boolean, Categorical, Column, Datetime, Number
from dpslice.tabular.schema import Schema

__all__ = ["Block", "Encoding"]

Rows = NDArray[np.float64]

# How large a column's block is in the encoded row. The noise of a release is the same in every
# direction, so these weights decide how the privacy budget is divided between columns; only
# their ratios matter. Chosen by trials on the Adult table at epsilon = 5.
NUMBER_WEIGHT = 0.5  # diameter 2 a_1 of a number's first harmonic; a_h = a_1 / sqrt(h)
HARMONICS = 2
CATEGORY_WEIGHT = 1.0  # one-hot weight of a category; two levels are sqrt(2) times this apart
STATE_WEIGHT = 0.5  # one-hot weight of "regular", special and missing in a column with a value
TARGET_WEIGHT = 2.0  # factor for the schema's target: what depends on it matters most to its owner


# Places tried by `_nearest_place` before Newton's method: the curve of H harmonics bends at most
# H times in [0, 1], so this many per harmonic find the right bend.
_GRID_PER_HARMONIC = 32
_DECODE_ROWS = 16_384  # rows decoded at once, which bounds the memory of that search

# A computed row differs from the exact one by a few units in the last place, so do the sums of
# squares below; bounds are enlarged by more than that, and by less than anyone can notice.
_ROUND_UP = 1.0 + 1e-12


@dataclass(frozen=True)
class Block:
    """Where a column lies in the encoded row, and how.

    Parameters
    ----------
    column : str
        Name of the column.
    start, stop : int
        Its entries of the row: ``row[start:stop]``.
    n_states : int
        Number of state entries; they come first. 0 for a number without states.
    n_values : int
        Number of value entries after them: two per harmonic, cosine and sine; 0 if there is no
        value. If there are states too, state 0 is "regular" and the values are 0 in the others.
    state_weight : float
        Factor of the one-hot row (0 without states).
    harmonic_weights : tuple of float
        The curve's weights a_1, a_2, ...; empty without value.
    centre : tuple of float
        What is subtracted from the state entries, length `n_states`.
    radius, diameter : float
        Largest norm of the block's points, and their largest distance.
    """

    column: str
    start: int
    stop: int
    n_states: int
    n_values: int
    state_weight: float
    harmonic_weights: tuple[float, ...]
    centre: tuple[float, ...]
    radius: float
    diameter: float

    @property
    def has_value(self) -> bool:
        """Whether the block has a value part."""
        return self.n_values > 0

    @property
    def states(self) -> slice:
        """The state entries of the row."""
        return slice(self.start, self.start + self.n_states)

    @property
    def values(self) -> slice:
        """The value entries of the row."""
        return slice(self.start + self.n_states, self.stop)


def _longest_chord(harmonic_weights: tuple[float, ...]) -> float:
    r"""Largest distance of two points of the curve.

    Points at places that differ by x have squared distance
    :math:`\sum_h 2 a_h^2 (1 - \cos h\pi x) = \sum_h 2 a_h^2 (1 - T_h(u))`, :math:`u = \cos \pi x`:
    a polynomial in u, largest at an end of [-1, 1] or where its derivative is zero. (A small error
    in such a place changes the value in second order only.)
    """
    squares = [2.0 * a * a for a in harmonic_weights]
    distance2 = Chebyshev([math.fsum(squares), *(-q for q in squares)])
    places = np.real(distance2.deriv().roots()) if len(squares) > 1 else np.empty(0)
    places = np.concatenate([[-1.0, 1.0], np.clip(places, -1.0, 1.0)])
    return math.sqrt(float(distance2(places).max()))


def _ball(
    n_states: int, state_weight: float, harmonic_weights: tuple[float, ...]
) -> tuple[tuple[float, ...], float, float]:
    r"""Centre of the states, radius and diameter of a block's points.

    The points are :math:`w e_i` for the states without value, and :math:`(w e_0, \gamma)` with
    :math:`\|\gamma\| = r` for the regular one. Without values the centre is the simplex centre.
    With both, let m = n_states - 1 states have no value. Their centroid G is at distance
    :math:`h = w\sqrt{1 + 1/m}` from :math:`w e_0` and at :math:`\rho = w\sqrt{1 - 1/m}` from each
    of them. By symmetry the best centre lies on the segment from G to :math:`w e_0`, at distance
    u from G, where the regular points are as far away, :math:`(h-u)^2 + r^2`, as the others,
    :math:`\rho^2 + u^2`; that is at :math:`u = (h^2 - \rho^2 + r^2) / (2h)`, or at the segment's
    end if u exceeds h. (The values' own centre stays zero. The
    curve's smallest ball is up to 6 % smaller for two harmonics, but contributes a small part of
    a mixed table's norm.)
    """
    w = state_weight
    if not harmonic_weights:
        k = n_states
        spread = math.sqrt(2.0) * w if k > 1 else 0.0
        return (w / k,) * k, w * math.sqrt(1.0 - 1.0 / k), spread
    r = math.sqrt(math.fsum(a * a for a in harmonic_weights))
    chord = _longest_chord(harmonic_weights)
    if n_states == 0:
        return (), r, chord
    m = n_states - 1
    h = w * math.sqrt(1.0 + 1.0 / m)
    u = min(h, (2.0 * w * w / m + r * r) / (2.0 * h))  # h^2 - rho^2 = 2 w^2 / m
    share = u / h
    centre = (w * share, *([w * (1.0 - share) / m] * m))
    radius = math.hypot(h - u, r)
    # A special and a regular state (two special ones are nearer), or two regular points.
    return centre, radius, max(math.sqrt(2.0 * w * w + r * r), chord)


class Encoding:
    """The map between tables of a schema and rows of bounded norm.

    Parameters
    ----------
    schema : Schema
        The public schema.
    number_weight : float
        Diameter of the first harmonic of every number and datetime, times the column's weight.
    harmonics : int
        Harmonics per number, at least 1.
    category_weight : float
        Weight of the one-hot rows of categorical and boolean columns, times the column's weight.
    state_weight : float
        Weight of the one-hot rows that tell regular, special and missing apart in columns with a
        value, times the column's weight.
    target_weight : float
        A further factor for the column that the schema names as its target.

    Attributes
    ----------
    schema : Schema
    blocks : tuple of Block
        One per column, in order; together they are the row.
    d : int
        Length of a row.
    offset : ndarray, shape (d,)
        Constant subtracted from every row; ``row + offset`` has plain one-hot rows times their
        weight.
    max_norm : float
        C: no encoded row is longer. Attained, but for rounding.
    diameter : float
        D: no two encoded rows are farther apart. Attained, but for rounding, and where the places
        of whole numbers leave out the farthest.

    Raises
    ------
    TypeError
        If `schema` is no Schema, a weight no number, or `harmonics` no integer.
    ValueError
        If a weight is not finite and positive, or `harmonics` is less than 1.

    Examples
    --------
    >>> import pandas as pd
    >>> from dpslice.tabular import Boolean, Encoding, Number, Schema
    >>> schema = Schema([Number("age", "integer", 0, 100), Boolean("employed")])
    >>> encoding = Encoding(schema, number_weight=2.0, harmonics=1)
    >>> encoding.d
    4
    >>> frame = pd.DataFrame({"age": [0, 50], "employed": [True, False]})
    >>> encoding.encode(frame).round(6) + 0.0
    array([[ 1. ,  0. , -0.5,  0.5],
           [ 0. ,  1. ,  0.5, -0.5]])
    >>> encoding.decode(encoding.encode(frame)).equals(frame)
    True
    """

    def __init__(
        self,
        schema: Schema,
        *,
        number_weight: float = NUMBER_WEIGHT,
        harmonics: int = HARMONICS,
        category_weight: float = CATEGORY_WEIGHT,
        state_weight: float = STATE_WEIGHT,
        target_weight: float = TARGET_WEIGHT,
    ) -> None:
        self.schema = _arrays.instance("schema", schema, Schema, "a Schema")
        self.number_weight = _arrays.positive_real("number_weight", number_weight)
        self.harmonics = _arrays.positive_integer("harmonics", harmonics)
        self.category_weight = _arrays.positive_real("category_weight", category_weight)
        self.state_weight = _arrays.positive_real("state_weight", state_weight)
        self.target_weight = _arrays.positive_real("target_weight", target_weight)
        blocks: list[Block] = []
        start = 0
        for column in schema:
            blocks.append(self._block(column, start))
            start = blocks[-1].stop
        self.blocks: tuple[Block, ...] = tuple(blocks)
        self.d: int = start
        self.offset: Rows = np.zeros(start)
        for block in self.blocks:
            self.offset[block.states] = block.centre
        self.max_norm: float = math.sqrt(math.fsum(b.radius**2 for b in blocks)) * _ROUND_UP
        self.diameter: float = math.sqrt(math.fsum(b.diameter**2 for b in blocks)) * _ROUND_UP

    def weights(self) -> dict[str, float]:
        """Return the keyword arguments that make the same encoding of the same schema.

        Returns
        -------
        dict
            JSON-safe.
        """
        return {
            "number_weight": self.number_weight,
            "harmonics": self.harmonics,
            "category_weight": self.category_weight,
            "state_weight": self.state_weight,
            "target_weight": self.target_weight,
        }

    def _block(self, column: Column, start: int) -> Block:
        factor = column.weight * (self.target_weight if column.name == self.schema.target else 1.0)
        harmonic_weights: tuple[float, ...] = ()
        if isinstance(column, Categorical | Boolean):
            levels = len(column.categories) if isinstance(column, Categorical) else 2
            n_states = levels + column.nullable
            weight = self.category_weight * factor
        else:
            extra = len(special_values(column)) + column.nullable
            n_states = 1 + extra if extra else 0
            weight = self.state_weight * factor if n_states else 0.0
            first = self.number_weight * factor / 2.0
            harmonic_weights = tuple(first / math.sqrt(h) for h in range(1, self.harmonics + 1))
        centre, radius, diameter = _ball(n_states, weight, harmonic_weights)
        n_values = 2 * len(harmonic_weights)
        return Block(
            column=column.name,
            start=start,
            stop=start + n_states + n_values,
            n_states=n_states,
            n_values=n_values,
            state_weight=weight,
            harmonic_weights=harmonic_weights,
            centre=centre,
            radius=radius,
            diameter=diameter,
        )

    # ---------------------------------------------------------------------------- to vectors

    def encode(self, df: pd.DataFrame) -> Rows:
        """Encode a table.

        Parameters
        ----------
        df : pandas.DataFrame, n rows
            A table of the schema. It is checked as `Schema.validate` checks it; values outside
            their bounds are clipped.

        Returns
        -------
        ndarray, shape (n, d), float64
            Rows of norm at most `max_norm`.

        Raises
        ------
        TypeError, ValueError
            As `Schema.validate`.
        """
        self.schema.check_columns(df)
        rows = np.empty((len(df), self.d))
        rows[:] = -self.offset
        for column, block in zip(self.schema, self.blocks, strict=True):
            values = column.to_numbers(df[column.name])
            if isinstance(column, Number | Datetime):
                _encode_value(rows, block, column, values)
            else:
                states = np.where(np.isnan(values), block.n_states - 1, values).astype(np.intp)
                _add_states(rows, block, states)
        return rows

    def encode_blocks(
        self, df: pd.DataFrame | Iterable[pd.DataFrame], *, block_rows: int = 65_536
    ) -> Iterator[Rows]:
        """Encode a table in blocks of rows, in memory for one block.

        Parameters
        ----------
        df : pandas.DataFrame, or iterable of them
            The table, whole or in pieces (as `iter_table` gives them).
        block_rows : int
            Most rows per block.

        Yields
        ------
        ndarray, shape (<= block_rows, d), float64
            Fresh array for each block.

        Raises
        ------
        TypeError, ValueError
            As `encode`; also if there is no row at all.
        """
        for piece in self.schema.blocks(df, block_rows=block_rows):
            yield self.encode(piece)

    # -------------------------------------------------------------------------- from vectors

    def decode(self, rows: NDArray[np.floating[Any]]) -> pd.DataFrame:
        """Turn rows, encoded or made by a generator, into a table.

        States are decided by the largest entry, which is the nearest one-hot row; values by the
        nearest point of the curve; integers and dates are rounded. A regular value may by rounding
        land on a special one: it is that value then, as nothing in a table tells them apart.

        Parameters
        ----------
        rows : ndarray, shape (n, d), floating
            Encoded rows; finite.

        Returns
        -------
        pandas.DataFrame, n rows
            Columns in the schema's order and dtypes.

        Raises
        ------
        TypeError
            If `rows` is no floating-point array.
        ValueError
            If its shape is not (n, d), or a value is not finite.
        """
        if not isinstance(rows, np.ndarray) or not np.issubdtype(rows.dtype, np.floating):
            raise TypeError(f"rows must be a floating-point array; got {_arrays.describe(rows)}")
        if rows.ndim != 2 or rows.shape[1] != self.d:
            raise ValueError(f"rows must have shape (n, {self.d}); got {rows.shape}")
        _arrays.finite_values("rows", rows)
        return pd.DataFrame(
            {
                column.name: column.from_numbers(self._decode_block(rows, column, block))
                for column, block in zip(self.schema, self.blocks, strict=True)
            }
        )

    def _decode_block(self, rows: NDArray[Any], column: Column, block: Block) -> Rows:
        states = np.zeros(len(rows), dtype=np.intp)
        if block.n_states:
            states = np.argmax(rows[:, block.states] + self.offset[block.states], axis=1)
        if isinstance(column, Number | Datetime):
            values = place_to_value(column, _nearest_place(block, rows[:, block.values]))
            if block.n_states:
                others = np.array([0.0, *special_values(column), np.nan])
                values = np.where(states == 0, values, others[states])
            return values
        values = states.astype(np.float64)
        if column.nullable:
            values[states == block.n_states - 1] = np.nan
        return values


# --------------------------------------------------------------------------------------- values


def _curve(block: Block, place: Rows) -> Rows:
    """Points of the block's curve at places [n] in [0, 1]: [n, n_values]."""
    angle = np.pi * place
    points = np.empty((len(place), block.n_values))
    for h, weight in enumerate(block.harmonic_weights, start=1):
        points[:, 2 * h - 2] = weight * np.cos(h * angle)
        points[:, 2 * h - 1] = weight * np.sin(h * angle)
    return points


def _nearest_place(block: Block, points: NDArray[Any]) -> Rows:
    """Places [n] of the points of the curve nearest to `points` [n, n_values].

    All points of the curve have the same norm, so the nearest one has the largest inner product:
    the best of a grid, then Newton's method on the derivative, kept between the grid's neighbours.
    """
    steps = _GRID_PER_HARMONIC * len(block.harmonic_weights)
    grid = np.linspace(0.0, 1.0, steps + 1)
    on_grid = _curve(block, grid).T  # [n_values, steps + 1]
    places = np.empty(len(points))
    for first in range(0, len(points), _DECODE_ROWS):
        rows = points[first : first + _DECODE_ROWS].astype(np.float64)
        best = grid[np.argmax(rows @ on_grid, axis=1)]
        low, high = np.maximum(best - 1.0 / steps, 0.0), np.minimum(best + 1.0 / steps, 1.0)
        place = best
        for _ in range(6):  # quadratic convergence from 1/64 away: 4 steps reach rounding
            slope, bend = np.zeros(len(rows)), np.zeros(len(rows))
            for h, weight in enumerate(block.harmonic_weights, start=1):
                cos, sin = np.cos(h * np.pi * place), np.sin(h * np.pi * place)
                along, across = rows[:, 2 * h - 2], rows[:, 2 * h - 1]
                slope += weight * h * (across * cos - along * sin)
                bend -= weight * h * h * (along * cos + across * sin)
            # Near a maximum the second derivative is negative; elsewhere (far off the curve) stay.
            move = np.divide(slope, np.pi * bend, out=np.zeros_like(slope), where=bend < 0.0)
            place = np.clip(place - move, low, high)
        places[first : first + _DECODE_ROWS] = place
    return places


def _encode_value(rows: Rows, block: Block, column: Number | Datetime, values: Rows) -> None:
    states = states_of(column, values)
    place = value_to_place(column, np.where(np.isnan(values), bounds_of(column)[0], values))
    points = _curve(block, place)
    if block.n_states:
        _add_states(rows, block, states)
        points[states != 0] = 0.0
    rows[:, block.values] = points


def _add_states(rows: Rows, block: Block, states: NDArray[np.intp]) -> None:
    rows[np.arange(len(rows)), block.start + states] += block.state_weight
