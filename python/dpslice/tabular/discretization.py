r"""Rows of a table as integer codes, for sum releases, and back.

Each column becomes a *coarse* code, which pairs of columns are counted by, and a number or a
datetime with many values a *fine* code as well, which is counted alone. The levels of a code are

=====================  =====================================================================
column                 levels
=====================  =====================================================================
categorical, boolean   its categories (and "missing")
number, datetime       bins over its bounds, then each special value (and "missing")
=====================  =====================================================================

Bins are equally wide in the place of a value in its bounds (on a logarithmic scale where the schema
says so); those of integers and of days hold whole values, one each where there are few. A coarse
bin is a run of fine ones. Everything follows from the public schema alone.

Counting pairs coarsely keeps them many to a cell, where noise is small against the count; the fine
counts bring back the shape inside a bin (`FineShape`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.features import MarginalSums
from dpslice.tabular._places import (
    bounds_of,
    place_to_value,
    special_values,
    states_of,
    step_of,
    value_to_place,
)
from dpslice.tabular.columns import Categorical, Column, Datetime, Number, step_numbers
from dpslice.tabular.schema import Schema

__all__ = ["Discretization", "FineShape", "Levels"]

Codes = NDArray[np.int64]
Numbers = NDArray[np.float64]

COARSE_BINS = 32  # of a number, where pairs are counted
FINE_BINS = 4096  # of a number, where it is counted alone

# Levels of a target that pairs are counted on: each brings noise of its own to every pair.
MOST_TARGET_LEVELS = 4

# Cells of a table that the rounds of a release may choose, and of all of them together; and how
# many they may be, which is what time goes by where tables are small.
MOST_CANDIDATE_CELLS = 10_000
MOST_CELLS_OF_CANDIDATES = 1 << 24
MOST_CANDIDATES = 200_000  # all of about 107 columns
_MOST_TRIPLES = 1 << 21  # that candidates are picked from: all of about 230 columns

# Coarse levels of all columns together: models of pairs hold some square matrices over them.
MOST_LEVELS = 20_000


@dataclass(frozen=True, eq=False)
class Levels:
    """The levels of one column.

    Parameters
    ----------
    column : Column
        The column of the schema.
    edges : array, shape (fine bins + 1,) or None
        Ends of the fine bins, increasing; None for categories.
    starts : array, shape (coarse bins + 1,)
        ``starts[i]`` is the first fine bin of coarse bin i; the last entry is their number.
    whole : float or None
        Step between the values of a bin (1 for integers without another, a day in seconds), None if
        continuous.
    n_states : int
        Levels that are not bins: special values and missing; all levels of a categorical column.
    """

    column: Column
    edges: Numbers | None
    starts: Codes
    whole: float | None
    n_states: int

    @property
    def n_bins(self) -> int:
        """Coarse bins."""
        return len(self.starts) - 1

    @property
    def n_fine_bins(self) -> int:
        """Fine bins."""
        return int(self.starts[-1])

    @property
    def coarse(self) -> int:
        """Coarse levels."""
        return self.n_bins + self.n_states

    @property
    def fine(self) -> int:
        """Fine levels; equal to the coarse ones where there is nothing finer."""
        return self.n_fine_bins + self.n_states

    @property
    def has_fine(self) -> bool:
        """Whether the fine code says more than the coarse one."""
        return self.fine > self.coarse


@dataclass(frozen=True, eq=False)
class FineShape:
    """How the values of one column lie inside its coarse bins.

    Parameters
    ----------
    cumulative : array, shape (fine bins + 1,)
        Cumulative weight of the fine bins, from 0.
    """

    cumulative: Numbers


@dataclass(frozen=True, eq=False)
class CutShape(FineShape):
    """The same of a part of a column's values: other pieces, in place of the fine bins.

    Parameters
    ----------
    cumulative : array, shape (pieces + 1,)
        Cumulative weight of the pieces, from 0.
    lower, upper : array, shape (pieces,)
        Their ends; equal for a single real number.
    starts : array, shape (coarse bins + 1,)
        As of `Levels`, of the pieces; a coarse bin may have none, if no code is of it.
    """

    lower: Numbers
    upper: Numbers
    starts: Codes


class Discretization:
    """The map between tables of a schema and integer codes.

    Parameters
    ----------
    schema : Schema
        The public schema.
    coarse_bins, fine_bins : int
        Most bins of a number, in pairs and alone. `fine_bins` is at least `coarse_bins`.
    triples : bool
        Whether to count pairs of columns on each level of the schema's target, if that has at most
        four and the columns are not too wide for it: what predicts the target are often two columns
        together.

    Attributes
    ----------
    levels : tuple of Levels
        One per column of the schema.
    sizes : tuple of int
        Levels of each code: the coarse codes in the schema's order, then the fine ones of the
        columns that have them.
    fine_codes : dict from int to int
        For each column with a fine code, where that is among the codes.

    Raises
    ------
    TypeError
        If `schema` is no Schema, or a number of bins no integer.
    ValueError
        If a number of bins is less than 1, or fewer fine bins than coarse ones are asked for.

    Examples
    --------
    >>> import pandas as pd
    >>> from dpslice.tabular import Categorical, Discretization, Number, Schema
    >>> schema = Schema([Number("age", "integer", 0, 99), Categorical("job", ("cook", "pilot"))])
    >>> discretization = Discretization(schema, coarse_bins=10)
    >>> discretization.sizes
    (10, 2, 100)
    >>> discretization.encode(pd.DataFrame({"age": [0, 57], "job": ["pilot", "cook"]}))
    array([[ 0,  1,  0],
           [ 5,  0, 57]])
    """

    def __init__(
        self,
        schema: Schema,
        *,
        coarse_bins: int = COARSE_BINS,
        fine_bins: int = FINE_BINS,
        triples: bool = True,
    ) -> None:
        self.schema = _arrays.instance("schema", schema, Schema, "a Schema")
        self.coarse_bins = _arrays.positive_integer("coarse_bins", coarse_bins)
        self.fine_bins = _arrays.positive_integer("fine_bins", fine_bins)
        if self.fine_bins < self.coarse_bins:
            raise ValueError(
                f"fine_bins must be at least coarse_bins ({self.coarse_bins}); got {fine_bins}"
            )
        self.triples = _arrays.boolean("triples", triples)
        self.levels = tuple(self._levels(column) for column in schema)
        sizes = [levels.coarse for levels in self.levels]
        self.fine_codes: dict[int, int] = {}
        for j, levels in enumerate(self.levels):
            if levels.has_fine:
                self.fine_codes[j] = len(sizes)
                sizes.append(levels.fine)
        self.sizes: tuple[int, ...] = tuple(sizes)

    def settings(self) -> dict[str, Any]:
        """Return the keyword arguments that make the same discretization of the same schema.

        Returns
        -------
        dict
            JSON-safe.
        """
        return {
            "coarse_bins": self.coarse_bins,
            "fine_bins": self.fine_bins,
            "triples": self.triples,
        }

    @property
    def n_columns(self) -> int:
        """Columns of the table, which is also the number of coarse codes."""
        return len(self.levels)

    def features(self) -> MarginalSums:
        """Return what a sum release counts of the codes.

        Every column alone, coarse and fine, and every pair of columns. With `triples`, every pair
        of other columns on each level of the target instead, which holds the pairs with the target
        too. A group's weight is the product of its columns' weights in the schema, in triples
        without the target's.

        Returns
        -------
        MarginalSums

        Raises
        ------
        ValueError
            If the columns have so many levels that the tables of all pairs would not fit into
            memory; the largest columns are named.
        """
        self._check_levels()
        weight = [levels.column.weight for levels in self.levels]
        groups: list[tuple[int, ...]] = [(j,) for j in range(self.n_columns)]
        groups += [(position,) for position in self.fine_codes.values()]
        weights = weight + [weight[j] for j in self.fine_codes]
        pairs = self._pairs()
        return MarginalSums(
            self.sizes,
            (*groups, *pairs),
            (*weights, *(weight[a] * weight[b] for *_, a, b in pairs)),
        )

    def candidates(self) -> tuple[tuple[int, ...], ...]:
        """Return what the rounds of a sum release choose from: tables of three columns.

        They are counted on each level of the target, if the pairs are. Tables with more cells than
        ``MOST_CANDIDATE_CELLS`` are left out.

        If the others are more than ``MOST_CANDIDATES``, or have more than
        ``MOST_CELLS_OF_CANDIDATES`` cells together, some are picked. Columns take turns to bring in
        a table, so that all are in many, however wide they are; the target, if tables are not on
        its levels, every second one. A column brings its tables in a fixed random order, the key of
        each being its cells times a uniform number: small ones come sooner, and yet the large ones
        get their part of the cells.

        Returns
        -------
        tuple of tuples of int
            Groups of columns, by position. They follow from the schema alone.
        """
        target = self._target()
        lead = () if target is None else (target,)
        tables = _triples([j for j in range(self.n_columns) if j != target])
        sizes = np.array(self.sizes[: self.n_columns])
        cells = sizes[tables].prod(axis=1) * math.prod(self.sizes[j] for j in lead)
        small = cells <= MOST_CANDIDATE_CELLS
        tables, cells = tables[small], cells[small]
        if len(tables) > MOST_CANDIDATES or cells.sum() > MOST_CELLS_OF_CANDIDATES:
            tables = tables[self._by_turns(tables, cells)]
        return tuple(lead + tuple(table) for table in tables.tolist())

    def _by_turns(self, tables: Codes, cells: Codes) -> Codes:
        """Pick tables where there are too many, as `candidates` says; return their places."""
        order = np.argsort(_public_random().random(len(tables)) * cells, kind="stable")
        of_columns = tables[order].ravel()
        places = np.repeat(order, tables.shape[1])[np.argsort(of_columns, kind="stable")]
        ends = np.cumsum(np.bincount(of_columns, minlength=self.n_columns))
        queues = [iter(queue.tolist()) for queue in np.split(places, ends[:-1])]
        names = self.schema.names
        turns: list[int] = []
        for j, name in enumerate(names):
            if name != self.schema.target:
                turns.append(j)
                if self._target() is None and self.schema.target is not None:
                    turns.append(names.index(self.schema.target))
        picked: set[int] = set()
        left = MOST_CELLS_OF_CANDIDATES
        for j in itertools.cycle(turns):  # not all tables fit, so that there is an end
            place = next((place for place in queues[j] if place not in picked), None)
            if place is None:
                continue
            left -= int(cells[place])
            if left < 0 or len(picked) == MOST_CANDIDATES:
                break
            picked.add(place)
        return np.sort(np.array(list(picked), dtype=np.int64))

    def _check_levels(self) -> None:
        coarse = self.sizes[: self.n_columns]
        if sum(coarse) > MOST_LEVELS:
            widest = sorted(zip(coarse, self.schema.names, strict=True), reverse=True)[:3]
            named = ", ".join(f"{name!r} ({size})" for size, name in widest)
            raise ValueError(
                f"schema must have at most {MOST_LEVELS} levels over all columns to count pairs "
                f"of them; got {sum(coarse)}, most of them in {named}: drop or coarsen such columns"
            )

    def _pairs(self) -> list[tuple[int, ...]]:
        """Return all pairs of columns, on the levels of the target if that is to be."""
        target = self._target()
        lead = () if target is None else (target,)
        others = [j for j in range(self.n_columns) if j != target]
        return [lead + some for some in itertools.combinations(others, 2)]

    def _target(self) -> int | None:
        """Return the column on whose levels pairs are counted, if any."""
        name = self.schema.target
        if not self.triples or name is None or self.n_columns < 3:
            return None
        target = self.schema.names.index(name)
        levels = self.sizes[target]
        # A model holds its square matrices once for each level.
        fits = levels * sum(self.sizes[: self.n_columns]) ** 2 <= MOST_LEVELS**2
        return target if levels <= MOST_TARGET_LEVELS and fits else None

    def _levels(self, column: Column) -> Levels:
        if not isinstance(column, Number | Datetime):
            size = len(column.categories) if isinstance(column, Categorical) else 2
            none = np.zeros(1, dtype=np.int64)
            return Levels(column, None, none, None, size + column.nullable)
        states = len(special_values(column)) + column.nullable
        low, high = bounds_of(column)
        whole = step_of(column)
        if whole is None:
            edges = place_to_value(column, np.linspace(0.0, 1.0, self.fine_bins + 1))
            starts = np.linspace(0, self.fine_bins, self.coarse_bins + 1).round().astype(np.int64)
            return Levels(column, edges, starts, None, states)
        first, last = step_numbers(low, high, whole)
        count = last - first + 1
        if count <= self.fine_bins:
            units = np.arange(first, last + 2, dtype=np.float64)
        else:
            ends = place_to_value(column, np.linspace(0.0, 1.0, self.fine_bins + 1)) / whole
            units = np.unique(np.concatenate([[first], np.ceil(ends[1:-1]), [last + 1]]))
        # A whole value u belongs to the bin whose ends are u - 1/2 and u + 1/2, or wider ones.
        edges = (units - 0.5) * whole
        ends = value_to_place(column, np.clip(edges, low, high)) * self.coarse_bins
        starts = _runs(ends, min(self.coarse_bins, len(edges) - 1))
        return Levels(column, edges, starts, whole, states)

    # ----------------------------------------------------------------------------- to codes

    def encode(self, df: pd.DataFrame) -> Codes:
        """Turn a table into codes.

        Parameters
        ----------
        df : pandas.DataFrame, n rows
            A table of the schema. It is checked as `Schema.validate` checks it; values outside
            their bounds are clipped.

        Returns
        -------
        ndarray, shape (n, number of codes), int64
            ``0 <= codes[:, i] < sizes[i]``.

        Raises
        ------
        TypeError, ValueError
            As `Schema.validate`.
        """
        self.schema.check_columns(df)
        codes = np.empty((len(df), len(self.sizes)), dtype=np.int64)
        for j, levels in enumerate(self.levels):
            values = levels.column.to_numbers(df[levels.column.name])
            coarse, fine = _codes(levels, values)
            codes[:, j] = coarse
            if j in self.fine_codes:
                codes[:, self.fine_codes[j]] = fine
        return codes

    def encode_blocks(
        self, df: pd.DataFrame | Iterable[pd.DataFrame], *, block_rows: int = 65_536
    ) -> Iterator[Codes]:
        """Encode a table in blocks of rows, in memory for one block.

        Parameters
        ----------
        df : pandas.DataFrame, or iterable of them
            The table, whole or in pieces (as `iter_table` gives them).
        block_rows : int
            Most rows per block.

        Yields
        ------
        ndarray, shape (<= block_rows, number of codes), int64

        Raises
        ------
        TypeError, ValueError
            As `encode`; also if there is no row at all.
        """
        for piece in self.schema.blocks(df, block_rows=block_rows):
            yield self.encode(piece)

    def code_of(self, column: int, value: object) -> int:
        """Coarse code of one value of a column.

        Parameters
        ----------
        column : int
            Position of the column.
        value : object
            A value as the table would hold it; None for a missing one.

        Returns
        -------
        int

        Raises
        ------
        TypeError, ValueError
            If there is no such column, or it cannot hold the value.
        """
        column = _arrays.integer("column", column, minimum=0)
        if column >= self.n_columns:
            raise ValueError(
                f"column must be a position below {self.n_columns}, the number of columns; "
                f"got {column}"
            )
        levels = self.levels[column]
        number = levels.column.to_numbers(pd.Series([value], name=levels.column.name))
        return int(_codes(levels, number)[0][0])

    # --------------------------------------------------------------------------- from codes

    def decode(
        self, codes: Codes, shapes: Mapping[int, FineShape], rng: np.random.Generator
    ) -> pd.DataFrame:
        """Turn coarse codes into a table.

        A value is drawn inside its bin: a fine bin by the column's shape (evenly, without one),
        then evenly in the fine bin.

        Parameters
        ----------
        codes : ndarray, shape (n, number of columns), int64
            Coarse codes.
        shapes : mapping from int to FineShape
            By column; empty, if there are none.
        rng : numpy.random.Generator
            Where values inside bins come from.

        Returns
        -------
        pandas.DataFrame, n rows
            Columns and dtypes of the schema.

        Raises
        ------
        TypeError
            If the codes are no array of integers, `shapes` is no mapping to shapes, or `rng` is no
            NumPy generator.
        ValueError
            If the codes have another shape, or one is out of range.
        """
        if not isinstance(codes, np.ndarray) or codes.dtype.kind not in "iu":
            raise TypeError(f"codes must be an array of integers; got {_arrays.describe(codes)}")
        if codes.ndim != 2 or codes.shape[1] != self.n_columns:
            raise ValueError(f"codes must have shape (n, {self.n_columns}); got {codes.shape}")
        highest = np.array([levels.coarse for levels in self.levels])
        if ((codes < 0) | (codes >= highest)).any():
            raise ValueError("codes must lie within the levels of their columns")
        if not isinstance(shapes, Mapping):
            raise TypeError(
                f"shapes must be a mapping from columns to shapes; got {_arrays.describe(shapes)}"
            )
        for j, shape in shapes.items():
            _arrays.instance(f"shapes[{j!r}]", shape, FineShape, "a FineShape")
        rng = _arrays.random_generator("rng", rng)
        return pd.DataFrame(
            {
                levels.column.name: levels.column.from_numbers(
                    _values(levels, codes[:, j], shapes.get(j), rng)
                )
                for j, levels in enumerate(self.levels)
            }
        )

    def shapes(self, counts: Mapping[int, Numbers]) -> dict[int, FineShape]:
        """Shapes inside coarse bins, from noisy counts of the fine levels.

        Negative counts are taken for none; a coarse bin without any count is even.

        Parameters
        ----------
        counts : mapping from int to array, shape (fine levels,)
            By column; finite.

        Returns
        -------
        dict from int to FineShape
        """
        shapes = {}
        for j, noisy in counts.items():
            levels = self.levels[j]
            weight = np.maximum(noisy[: levels.n_fine_bins], 0.0)
            for start, stop in zip(levels.starts[:-1], levels.starts[1:], strict=True):
                if not weight[start:stop].sum() > 0.0:
                    weight[start:stop] = 1.0
            shapes[j] = FineShape(np.concatenate([[0.0], np.cumsum(weight)]))
        return shapes


# ---------------------------------------------------------------------------------------- helpers


def _public_random() -> np.random.Generator:
    """Return the same random numbers at every call: what is drawn with them is public."""
    return np.random.default_rng(0)


def _triples(columns: Sequence[int]) -> Codes:
    """Return all groups of three columns in lexical order, [groups, 3]; a fixed sample of many."""
    count = len(columns)
    if math.comb(count, 3) <= _MOST_TRIPLES:
        every = itertools.combinations(columns, 3)
        return np.fromiter(itertools.chain.from_iterable(every), np.int64).reshape(-1, 3)
    drawn = np.sort(_public_random().integers(0, count, (_MOST_TRIPLES, 3)), axis=1)
    drawn = drawn[(np.diff(drawn, axis=1) > 0).all(axis=1)]
    numbers = np.unique(np.ravel_multi_index(tuple(drawn.T), (count,) * 3))
    places = np.stack(np.unravel_index(numbers, (count,) * 3), axis=1)
    return np.asarray(np.array(columns)[places], dtype=np.int64)


def _runs(ends: Numbers, wanted: int) -> Codes:
    """Cut fine bins into at most `wanted` runs of about equal width in `ends`, none empty."""
    bins = len(ends) - 1
    if bins <= wanted:
        return np.arange(bins + 1, dtype=np.int64)
    middles = 0.5 * (ends[:-1] + ends[1:])  # in units of a coarse bin
    run = np.clip(np.floor(middles), 0, wanted - 1)
    starts = np.flatnonzero(np.diff(run, prepend=-1.0) > 0)
    return np.append(starts, bins).astype(np.int64)


def _codes(levels: Levels, values: Numbers) -> tuple[Codes, Codes]:
    """Coarse and fine codes [n] of the numbers that `Column.to_numbers` makes."""
    missing = np.isnan(values)
    if levels.edges is None:
        codes = np.where(missing, levels.coarse - 1, values).astype(np.int64)
        return codes, codes
    column = levels.column
    assert isinstance(column, Number | Datetime)
    inside = np.where(missing, levels.edges[0], values)
    fine = np.searchsorted(levels.edges, inside, side="right") - 1
    fine = np.clip(fine, 0, levels.n_fine_bins - 1)
    coarse = np.searchsorted(levels.starts, fine, side="right") - 1
    states = states_of(column, values)
    coarse = np.where(states == 0, coarse, levels.n_bins - 1 + states)
    fine = np.where(states == 0, fine, levels.n_fine_bins - 1 + states)
    return coarse.astype(np.int64), fine.astype(np.int64)


def _values(
    levels: Levels, codes: Codes, shape: FineShape | None, rng: np.random.Generator
) -> Numbers:
    """Numbers [n] for `Column.from_numbers`."""
    column = levels.column
    if levels.edges is None:
        values = codes.astype(np.float64)
        if column.nullable:
            values[codes == levels.coarse - 1] = np.nan
        return values
    assert isinstance(column, Number | Datetime)
    starts, lower, upper = levels.starts, levels.edges[:-1], levels.edges[1:]
    if isinstance(shape, CutShape):
        starts, lower, upper = shape.starts, shape.lower, shape.upper
    bins = np.minimum(codes, levels.n_bins - 1)
    first, last = starts[bins], starts[bins + 1]
    uniform = rng.random(len(codes))
    if shape is None:
        fine = first + np.floor(uniform * (last - first)).astype(np.int64)
    else:
        low, high = shape.cumulative[first], shape.cumulative[last]
        fine = np.searchsorted(shape.cumulative, low + uniform * (high - low), side="right") - 1
    fine = np.clip(fine, first, last - 1)
    within = rng.random(len(codes))
    lower, upper = lower[fine], upper[fine]
    if levels.whole is None:
        places = value_to_place(column, np.stack([lower, upper]))
        values = place_to_value(column, places[0] + within * (places[1] - places[0]))
        values = np.clip(values, lower, upper)  # places round
    else:
        count = np.rint((upper - lower) / levels.whole)
        values = lower + (0.5 + np.floor(within * count)) * levels.whole
        values = np.clip(values, *bounds_of(column))
    others: Sequence[Any] = [*special_values(column), *([np.nan] if column.nullable else [])]
    for state, other in enumerate(others):
        values[codes == levels.n_bins + state] = other
    return values
