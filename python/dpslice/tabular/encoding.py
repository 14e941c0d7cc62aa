r"""Rows of a table as vectors of bounded norm, and back.

A row is the concatenation of one block per column. A block has a *state* part, a *value* part, or
both:

=====================  ====================================  ==========================
column                 states                                value
=====================  ====================================  ==========================
categorical, boolean   its levels (and "missing")            none
number, datetime       none                                  its place in the bounds
the same, with special "regular", each special value         its place in the bounds if
values or nullable     (and "missing")                       regular, else 0
=====================  ====================================  ==========================

The state part is ``weight * (one-hot row)``, the value part lies in ``[-R/2, R/2]``, and a constant
`offset` is subtracted: the centre of the smallest ball around the block's possible points. So
every row lies in a ball around the zero vector that is as small as the blocks allow, and noise for
a given privacy is least. The radius `max_norm` and the `diameter` of the set of encoded rows
follow from the public schema alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.tabular.schema import Boolean, Categorical, Column, Datetime, Number, Schema

__all__ = ["Block", "Encoding"]

Rows = NDArray[np.float64]

# How large a column's block is in the encoded row. The noise of a release is the same in every
# direction, so these weights decide how the privacy budget is divided between columns; only
# their ratios matter.
NUMBER_WEIGHT = 1.0  # length of a number's range R
CATEGORY_WEIGHT = 1.0  # one-hot weight of a category; two levels are sqrt(2) times this apart
STATE_WEIGHT = 1.0  # one-hot weight of "regular", special and missing in a column with a value

# scale="log" encodes log1p((v - min) / s). For integers s = 1. For real numbers there is no
# natural unit; s is this fraction of the range, so about ten octaves are told apart.
_LOG_FRACTION = 1e-3

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
    has_value : bool
        Whether the last entry is a value. If there are states too, state 0 is "regular" and the
        value is 0 in the others.
    state_weight : float
        Factor of the one-hot row (0 without states).
    value_range : float
        Length R of the value's range [-R/2, R/2] (0 without value).
    centre : tuple of float
        What is subtracted from the state entries, length `n_states`.
    radius, diameter : float
        Radius of the block's points around the centre, and their largest distance.
    """

    column: str
    start: int
    stop: int
    n_states: int
    has_value: bool
    state_weight: float
    value_range: float
    centre: tuple[float, ...]
    radius: float
    diameter: float

    @property
    def states(self) -> slice:
        """The state entries of the row."""
        return slice(self.start, self.start + self.n_states)

    @property
    def value(self) -> int | None:
        """Index of the value entry, None if there is none."""
        return self.stop - 1 if self.has_value else None


def _smallest_ball(
    n_states: int, state_weight: float, value_range: float, has_value: bool
) -> tuple[tuple[float, ...], float, float]:
    r"""Centre, radius and diameter of a block's points.

    The points are :math:`w e_i` for the states without value, and :math:`(w e_0, t)` with
    :math:`|t| \le R/2` for the regular one. Without values (or states) the centre is the
    simplex centre (or zero). With both, let m = n_states - 1 states have no value. Their
    centroid G is at distance :math:`h = w\sqrt{1 + 1/m}` from :math:`w e_0` and at
    :math:`\rho = w\sqrt{1 - 1/m}` from each of them. By symmetry the smallest ball's centre lies
    on the segment from G to :math:`w e_0`, at distance u from G, where it is as far from the
    regular points, :math:`(h-u)^2 + R^2/4`, as from the others, :math:`\rho^2 + u^2`; that is
    at :math:`u = (h^2 - \rho^2 + R^2/4) / (2h)`, or at the segment's end if u exceeds h.
    """
    w, half = state_weight, value_range / 2
    if not has_value:
        k = n_states
        spread = math.sqrt(2.0) * w if k > 1 else 0.0
        return (w / k,) * k, w * math.sqrt(1.0 - 1.0 / k), spread
    if n_states == 0:
        return (), half, value_range
    m = n_states - 1
    h = w * math.sqrt(1.0 + 1.0 / m)
    u = min(h, (2.0 * w * w / m + half * half) / (2.0 * h))  # h^2 - rho^2 = 2 w^2 / m
    share = u / h
    centre = (w * share, *([w * (1.0 - share) / m] * m))
    radius = math.hypot(h - u, half) if u < h else half
    # Two special states; a special and a regular one; the two ends of the regular one.
    apart = max(2.0 * w * w + half * half, value_range * value_range)
    return centre, radius, math.sqrt(apart)


class Encoding:
    """The map between tables of a schema and rows of bounded norm.

    Parameters
    ----------
    schema : Schema
        The public schema.
    number_weight : float
        Length of the range of every number's and datetime's value, times the column's weight.
    category_weight : float
        Weight of the one-hot rows of categorical and boolean columns, times the column's weight.
    state_weight : float
        Weight of the one-hot rows that tell regular, special and missing apart in columns with a
        value, times the column's weight.

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
        D: no two encoded rows are farther apart. Attained, but for rounding.

    Raises
    ------
    TypeError
        If `schema` is no Schema, or a weight is no number.
    ValueError
        If a weight is not finite and positive.

    Examples
    --------
    >>> schema = Schema([Number("age", "integer", 0, 100), Boolean("employed")])
    >>> encoding = Encoding(schema)
    >>> encoding.d
    3
    >>> frame = pd.DataFrame({"age": [0, 75], "employed": [True, False]})
    >>> encoding.encode(frame)
    array([[-0.5 , -0.5 ,  0.5 ],
           [ 0.25,  0.5 , -0.5 ]])
    >>> encoding.decode(encoding.encode(frame)).equals(frame)
    True
    """

    def __init__(
        self,
        schema: Schema,
        *,
        number_weight: float = NUMBER_WEIGHT,
        category_weight: float = CATEGORY_WEIGHT,
        state_weight: float = STATE_WEIGHT,
    ) -> None:
        if not isinstance(schema, Schema):
            raise TypeError(f"schema must be a Schema; got {_arrays.describe(schema)}")
        self.schema = schema
        self.number_weight = _arrays.positive_real("number_weight", number_weight)
        self.category_weight = _arrays.positive_real("category_weight", category_weight)
        self.state_weight = _arrays.positive_real("state_weight", state_weight)
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

    def _block(self, column: Column, start: int) -> Block:
        if isinstance(column, Categorical | Boolean):
            levels = len(column.categories) if isinstance(column, Categorical) else 2
            n_states, has_value = levels + column.nullable, False
            weight, span = self.category_weight * column.weight, 0.0
        else:
            extra = _n_special(column) + column.nullable
            n_states, has_value = (1 + extra if extra else 0), True
            weight = self.state_weight * column.weight if n_states else 0.0
            span = self.number_weight * column.weight
        centre, radius, diameter = _smallest_ball(n_states, weight, span, has_value)
        return Block(
            column=column.name,
            start=start,
            stop=start + n_states + has_value,
            n_states=n_states,
            has_value=has_value,
            state_weight=weight,
            value_range=span,
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
            The table, whole or in pieces (as `iter_csv` gives them).
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
        _arrays.positive_integer("block_rows", block_rows)
        pieces: Iterable[pd.DataFrame] = [df] if isinstance(df, pd.DataFrame) else df
        empty = True
        for piece in pieces:
            if empty or not isinstance(piece, pd.DataFrame) or len(piece) > 0:
                self.schema.check_columns(piece)
            else:
                continue  # a later piece may well be empty; the first one shows the columns
            for first in range(0, len(piece), block_rows):
                yield self.encode(piece.iloc[first : first + block_rows])
                empty = False
        if empty:
            raise ValueError("df must have at least one row; got no blocks")

    # -------------------------------------------------------------------------- from vectors

    def decode(self, rows: NDArray[np.floating[Any]]) -> pd.DataFrame:
        """Turn rows, encoded or made by a generator, into a table.

        States are decided by the largest entry, which is the nearest one-hot row; values are
        clipped to the bounds; integers and dates are rounded. A regular value may by rounding
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
            values = _place_to_value(column, rows[:, block.stop - 1] / block.value_range + 0.5)
            if block.n_states:
                others = np.array([0.0, *_special(column), np.nan])
                values = np.where(states == 0, values, others[states])
            return values
        values = states.astype(np.float64)
        if column.nullable:
            values[states == block.n_states - 1] = np.nan
        return values


# --------------------------------------------------------------------------------------- values


def _special(column: Number | Datetime) -> tuple[float, ...]:
    return column.special if isinstance(column, Number) else ()


def _n_special(column: Number | Datetime) -> int:
    return len(_special(column))


def _bounds(column: Number | Datetime) -> tuple[float, float]:
    """Bounds of the regular values, as the numbers of `to_numbers`."""
    return column.regular_bounds if isinstance(column, Number) else column.bounds_seconds


def _log_unit(column: Number) -> float:
    """Return the distance from the lower end at which ``scale="log"`` turns logarithmic."""
    low, high = column.regular_bounds
    return 1.0 if column.type == "integer" else _LOG_FRACTION * (high - low)


def _value_to_place(column: Number | Datetime, values: Rows) -> Rows:
    """Place of each value in the bounds: 0 at the lower end, 1 at the upper one."""
    low, high = _bounds(column)
    above = np.clip(values, low, high) - low
    if isinstance(column, Number) and column.scale == "log":
        unit = _log_unit(column)
        place = np.log1p(above / unit) / math.log1p((high - low) / unit)
    else:
        place = above / (high - low)
    return np.minimum(place, 1.0)


def _place_to_value(column: Number | Datetime, place: Rows) -> Rows:
    """Inverse of `_value_to_place`; places outside [0, 1] are clipped."""
    low, high = _bounds(column)
    place = np.clip(place.astype(np.float64), 0.0, 1.0)
    if isinstance(column, Number) and column.scale == "log":
        unit = _log_unit(column)
        above = unit * np.expm1(place * math.log1p((high - low) / unit))
    else:
        above = place * (high - low)
    return np.clip(low + above, low, high)


def _encode_value(rows: Rows, block: Block, column: Number | Datetime, values: Rows) -> None:
    missing = np.isnan(values)
    states = np.zeros(len(values), dtype=np.intp)
    for state, special in enumerate(_special(column), start=1):
        states[values == special] = state
    states[missing] = block.n_states - 1
    if block.n_states:
        _add_states(rows, block, states)
    place = _value_to_place(column, np.where(missing, _bounds(column)[0], values))
    regular = (states == 0) | (block.n_states == 0)
    rows[:, block.stop - 1] = np.where(regular, block.value_range * (place - 0.5), 0.0)


def _add_states(rows: Rows, block: Block, states: NDArray[np.intp]) -> None:
    rows[np.arange(len(rows)), block.start + states] += block.state_weight
