r"""Feature maps of sum releases: what is summed over the records, and how far one record reaches.

A sum release publishes :math:`T = \sum_i \phi(x_i) + N(0, \sigma^2)` for a public map phi
(`dpslice.SumMechanism`). What the privacy of T rests on are two numbers that follow from the map
alone, the bound on the norm of phi(x) and the diameter of the set of its values, and that the sum
itself is exact, so that no rounding error tells anything about the records. Every map therefore
gives whole numbers: multiples of a power of two, as many as float64 has digits for.

`MarginalSums`
    Counts of the levels of columns and of their combinations, for records of integer codes.
`SecondMoments`
    Sums of products of two coordinates: the variance along every direction at once.
`KernelSums`
    Gaussian kernels between landmarks and projections of the record, on slices.
`CustomFeatures`
    Any function of rows, clipped to a bound on its norm that is declared beforehand.

The features of the first and the third come in groups, tables and slices, each of which may be
released apart (`GroupedSums`).
"""

from __future__ import annotations

import base64
import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays, _core, frames

__all__ = ["CustomFeatures", "FeatureMap", "KernelSums", "MarginalSums", "SecondMoments"]

Codes = NDArray[np.integer[Any]]
Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]
_Number = TypeVar("_Number", bound=np.generic)
_Group = TypeVar("_Group")

# Released numbers: 16 bytes each while they are added up.
_MOST_CELLS: Final = 1 << 28
# Up to so many features, the rounding of a norm is below the 1e-9 that the accounting has for it.
_MOST_FEATURES: Final = 1 << 24

_BLOCK_NUMBERS: Final = 1 << 21  # projections, or features that a function gives, at a time
_FEWEST_ROWS: Final = 1 << 10  # that are projected at a time

# Features in (0, 1] or within their norm are multiples of 2^-30 of it: 2^32 records fit 63 bits.
_FEATURE_BITS: Final = 30
# Coordinates whose products are summed are multiples of 2^-22 of the largest: 512 products of two
# of them add up within the 53 bits of float64, in any order, without rounding.
_COORDINATE_BITS: Final = 22
_EXACT_ROWS: Final = 1 << (53 - 2 * _COORDINATE_BITS)

_SEARCHED_KERNELS: Final = 1 << 22  # of a slice, to bound its sum of kernels


def _power_above(value: float) -> int:
    """Return the least e with value <= 2^e."""
    fraction, exponent = math.frexp(value)
    return exponent - (fraction == 0.5)


class FeatureMap(ABC):
    """What `dpslice.SumMechanism` and `dpslice.SumRelease` need to know of a feature map.

    Released numbers are the sums of the map's *natural* features; noise on them is sigma over the
    cell's weight. The norm and the diameter are about natural features times their weights.
    """

    name_in_files: str

    @property
    @abstractmethod
    def n_columns(self) -> int:
        """Columns of a record."""

    @property
    @abstractmethod
    def n_cells(self) -> int:
        """Released numbers."""

    @property
    @abstractmethod
    def norm(self) -> float:
        """Largest norm of the weighted features of a record."""

    @property
    @abstractmethod
    def diameter(self) -> float:
        """Largest distance of the weighted features of two records."""

    def cell_weights(self) -> Numbers:
        """Return the weight of each released number, shape (n_cells,): 1 unless a map says more."""
        return np.ones(self.n_cells)

    @property
    def notes(self) -> tuple[str, ...]:
        """Conditions of the promise that rest on the caller, one sentence each."""
        return ()

    def unit_exponents(self) -> Integers:
        """Return e for each released number, shape (n_cells,): `sum` counts in units of 2**e."""
        return np.zeros(self.n_cells, dtype=np.int64)

    @property
    def most_records(self) -> int:
        """Records whose `sum` is sure to fit 64-bit integers."""
        return 1 << 32

    def most_at_once(self, adjacency: str) -> int:
        """Return how many records `sum` may be given at once."""
        return self.most_records

    @abstractmethod
    def block_rows(self, name: str, block: object) -> int:
        """Check the kind and shape of a block of records, not its values; return its length."""

    @abstractmethod
    def check_block(self, name: str, block: object, *, first_row: int) -> Any:
        """Check a block of records and bring it to host memory, for `sum`.

        Parameters
        ----------
        name : str
            Name in messages.
        block : object
            Records: what the map takes, with a row for each.
        first_row : int
            Number of its first record, for messages.

        Returns
        -------
        array

        Raises
        ------
        TypeError
            If it is of the wrong kind.
        ValueError
            If its shape is wrong or a value is not allowed (the record is named).
        """

    @abstractmethod
    def sum(self, block: Any) -> Integers:
        """Add up the natural features of a checked block, without noise: private.

        Parameters
        ----------
        block : array
            What `check_block` returned.

        Returns
        -------
        array, shape (n_cells,), int64
            Exact, in units of ``2.0 ** unit_exponents()``, so independent of any order.
        """

    def estimate_n(self, sums: Numbers, noise: Numbers) -> float:
        """Estimate the number of records from released sums; at least 1.

        Parameters
        ----------
        sums, noise : array, shape (n_cells,)
            Released sums and their standard deviations.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the map does not count records.
        """
        raise ValueError(f"{type(self).__name__} does not count records; give n where it is public")

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """Return a description that JSON can hold.

        Returns
        -------
        dict
        """

    @staticmethod
    def from_dict(record: Mapping[str, Any]) -> FeatureMap:
        """Rebuild a feature map from `to_dict`.

        Parameters
        ----------
        record : mapping
            What `to_dict` gave.

        Returns
        -------
        FeatureMap
            Of the class that wrote it. `CustomFeatures` come without their function.

        Raises
        ------
        TypeError, ValueError
            If it is not that.
        """
        if not isinstance(record, Mapping):
            raise TypeError(f"features must be a mapping; got {type(record).__name__}")
        for map_class in (MarginalSums, SecondMoments, KernelSums, CustomFeatures):
            if record.get("map") == map_class.name_in_files:
                return map_class._from_entries(
                    {key: value for key, value in record.items() if key != "map"}
                )
        raise ValueError(f"features are of an unknown map: {record.get('map')!r}")

    @classmethod
    @abstractmethod
    def _from_entries(cls, record: Mapping[str, Any]) -> FeatureMap:
        """Rebuild a map of this class from its entries of `to_dict`, but ``map``."""


def _entries(record: Mapping[str, Any], *names: str) -> list[Any]:
    if set(record) != set(names):
        raise ValueError(f"features have unknown or missing entries: {sorted(record)}")
    return [record[name] for name in names]


class _RowFeatures(FeatureMap):
    """A map of rows of numbers, on the CPU or another device."""

    d: int

    @property
    def n_columns(self) -> int:
        """Columns of a record: d."""
        return self.d

    def block_rows(self, name: str, block: object) -> int:
        """Check the kind and shape of a block of rows, not its values; return its length."""
        rows, columns = _arrays.row_matrix(name, block)
        if columns != self.d:
            raise ValueError(f"{name} must have shape (rows, {self.d}); got ({rows}, {columns})")
        return rows

    def check_block(self, name: str, block: object, *, first_row: int) -> FloatArray:
        """Check a block of rows and bring it to host memory, as `FeatureMap.check_block`."""
        return _arrays.row_block(name, block, first_row=first_row, d=self.d)


class GroupedSums(FeatureMap, Generic[_Group]):
    """A map whose features come in groups, each of which may be released apart.

    None of the features is negative, and each group's are bounded by themselves, whatever the other
    groups are. `groups` names them, in the order of the released numbers; `weights` are theirs.
    """

    groups: tuple[_Group, ...]
    weights: tuple[float, ...]

    groups_called: str
    unit_exponent: int = 0

    def unit_exponents(self) -> Integers:
        """Return the exponent of each sum's unit, shape (n_cells,): the same for all."""
        return np.full(self.n_cells, self.unit_exponent)

    def cell_weights(self) -> Numbers:
        """Return the weight of each released number, shape (n_cells,)."""
        repeats = [math.prod(self.shape_of(group)) for group in self.groups]
        return np.repeat(np.array(self.weights), repeats)

    def cut(self, numbers: NDArray[_Number]) -> Iterator[tuple[_Group, NDArray[_Number]]]:
        """Cut an array with a number for each cell into those of the groups.

        Parameters
        ----------
        numbers : array, shape (n_cells,)
            Sums, or anything else about the cells.

        Yields
        ------
        group : tuple of int, or int
        part : array, shape of the group
            A view.
        """
        first = 0
        for group in self.groups:
            shape = self.shape_of(group)
            cells = math.prod(shape)
            yield group, numbers[first : first + cells].reshape(shape)
            first += cells

    @abstractmethod
    def shape_of(self, group: _Group) -> tuple[int, ...]:
        """Shape of a group's features."""

    @abstractmethod
    def described(self, group: _Group) -> str:
        """Say what a model has to tell about a group, for messages."""

    @abstractmethod
    def columns_of(self, group: _Group) -> frozenset[int]:
        """Columns whose dependence a group shows: two that share it are likely to show the same."""

    @abstractmethod
    def group_norm(self, group: _Group) -> float:
        """Largest norm of a record's natural features of a group."""

    @abstractmethod
    def group_total(self, group: _Group) -> int:
        """Largest sum of a record's features of a group, in their unit; never too low."""

    @abstractmethod
    def take(self, groups: Sequence[_Group], weights: Sequence[float] = ()) -> GroupedSums[_Group]:
        """Return a map of some of the groups, with other weights where they are given."""

    def apart(self) -> GroupedSums[_Group]:
        """Return the map with every group bounded by itself, or raise unless they are different."""
        return self

    @abstractmethod
    def joined(
        self, candidates: Any
    ) -> tuple[GroupedSums[_Group], tuple[_Group, ...], tuple[_Group, ...]]:
        """Join the groups with candidates for more.

        Returns
        -------
        all : GroupedSums
            Every group once, with weight 1.
        own, others : tuple
            The names there of the groups and of the candidates.

        Raises
        ------
        TypeError, ValueError
            If candidates are not of the same kind, or some are the same.
        """


@dataclass(frozen=True)
class MarginalSums(GroupedSums[tuple[int, ...]]):
    r"""Counts of the levels of columns, and of combinations of columns: marginal tables.

    Records are integer codes, one per column. For each group g of columns, the features are the
    indicators of the cells of its table, times a public weight:

    .. math:: \phi(x) = \big(w_g\, 1[x_g = v]\big)_{g,\,v}, \qquad
              \|\phi(x)\|^2 = \sum_g w_g^2 = \Phi^2 \quad\text{for every record.}

    Two records share the indicators on which they agree, so they are at most
    :math:`\sqrt2\,\Phi` apart; records that differ in every column attain it.

    Tables are released as plain counts, with noise sigma / w_g in each cell of group g: more
    weight, less noise for this group and more for all others.

    Parameters
    ----------
    sizes : sequence of int
        Levels of each column: codes run from 0 to ``sizes[j] - 1``.
    groups : sequence of sequences of int
        Each group names at least one column, by position; none twice, and no two groups are the
        same.
    weights : sequence of float, optional
        One per group, finite and positive. Default: all 1.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a size, a group or a weight is out of range, there is no group, or the tables have so
        many cells that they would not fit into memory (the largest group is named).

    Examples
    --------
    >>> features = MarginalSums((2, 3), [(0,), (0, 1)])
    >>> features.n_cells, round(features.norm, 3)
    (8, 1.414)
    >>> features.sum(np.array([[0, 2], [1, 1], [0, 2]]))
    array([2, 1, 0, 0, 2, 0, 1, 0])
    """

    sizes: tuple[int, ...]
    groups: tuple[tuple[int, ...], ...]
    weights: tuple[float, ...] = ()

    name_in_files = "marginal_sums"
    groups_called = "tables"

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        sizes = _arrays.elements("sizes", self.sizes)
        put("sizes", tuple(_arrays.positive_integer("sizes", size) for size in sizes))
        groups = []
        for group in _arrays.elements("groups", self.groups):
            columns = tuple(
                _arrays.integer("groups", column, minimum=0)
                for column in _arrays.elements("groups", group)
            )
            if not columns:
                raise ValueError("groups must each name at least one column; got an empty one")
            if len(set(columns)) < len(columns) or max(columns) >= len(self.sizes):
                raise ValueError(
                    f"groups must each name different columns below {len(self.sizes)}; "
                    f"got {columns}"
                )
            groups.append(columns)
        if not groups:
            raise ValueError("groups must hold at least one group; got none")
        if len({tuple(sorted(group)) for group in groups}) < len(groups):
            raise ValueError("groups must be different; one occurs twice")
        put("groups", tuple(groups))
        weights = _arrays.elements("weights", self.weights) or (1.0,) * len(groups)
        weights = _arrays.positive_reals("weights", weights)
        if len(weights) != len(groups):
            raise ValueError(
                f"weights must hold one number per group ({len(groups)}); got {len(weights)}"
            )
        put("weights", weights)
        if self.n_cells > _MOST_CELLS:
            largest = max(self.groups, key=lambda group: math.prod(self.shape_of(group)))
            raise ValueError(
                f"groups must have at most {_MOST_CELLS} cells together; got {self.n_cells}, of "
                f"which {math.prod(self.shape_of(largest))} in the table of the columns "
                f"{largest}: use fewer levels, or fewer groups"
            )

    # ---------------------------------------------------------------------------------- sizes

    @property
    def n_columns(self) -> int:
        """Columns of a record."""
        return len(self.sizes)

    @property
    def n_cells(self) -> int:
        """Cells of all tables together: released numbers."""
        return sum(math.prod(self.shape_of(group)) for group in self.groups)

    @property
    def norm(self) -> float:
        """Norm of the features of every record."""
        return math.hypot(*self.weights)  # without squares that could underflow

    @property
    def diameter(self) -> float:
        """Largest distance of the features of two records."""
        return math.sqrt(2.0) * self.norm

    def shape_of(self, group: Sequence[int]) -> tuple[int, ...]:
        """Shape of the table of a group."""
        return tuple(self.sizes[column] for column in group)

    # --------------------------------------------------------------------------------- groups

    def described(self, group: tuple[int, ...]) -> str:
        """Say what a model has to tell about a group, for messages."""
        return f"counts of shape {self.shape_of(group)} for the columns {group}"

    def columns_of(self, group: tuple[int, ...]) -> frozenset[int]:
        """Columns of a group."""
        return frozenset(group)

    def group_norm(self, group: tuple[int, ...]) -> float:
        """Norm of a record's indicators of a group: one of them is 1."""
        return 1.0

    def group_total(self, group: tuple[int, ...]) -> int:
        """Sum of a record's indicators of a group."""
        return 1

    def take(
        self, groups: Sequence[tuple[int, ...]], weights: Sequence[float] = ()
    ) -> MarginalSums:
        """Return a map of some groups, with other weights where they are given.

        Parameters
        ----------
        groups : sequence of tuples of int
            Some of `groups`.
        weights : sequence of float, optional
            One for each. Default: their own.

        Returns
        -------
        MarginalSums
        """
        own = dict(zip(self.groups, self.weights, strict=True))
        weights = _arrays.elements("weights", weights) or tuple(own[group] for group in groups)
        return MarginalSums(self.sizes, tuple(groups), weights)

    def joined(
        self, candidates: Any
    ) -> tuple[MarginalSums, tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Join the groups with candidates for more, as `GroupedSums.joined`."""
        others = MarginalSums(self.sizes, tuple(candidates)).groups
        # One name for each table: the order of columns that this map has.
        known = {frozenset(group): group for group in self.groups}
        more = tuple(group for group in others if frozenset(group) not in known)
        names = tuple(known.get(frozenset(group), group) for group in others)
        return MarginalSums(self.sizes, self.groups + more), self.groups, names

    # ----------------------------------------------------------------------------------- sums

    def block_rows(self, name: str, block: object) -> int:
        """Check the kind and shape of a block of codes, not its values; return its length."""
        if not isinstance(block, np.ndarray) or block.dtype.kind not in "iu":
            # Types alone: a block of another kind may be a private record.
            got = f"dtype {block.dtype}" if isinstance(block, np.ndarray) else type(block).__name__
            raise TypeError(f"{name} must be a NumPy array of integer codes; got {got}")
        _arrays.refuse_masked(name, block)
        if block.ndim != 2 or block.shape[1] != len(self.sizes):
            raise ValueError(
                f"{name} must have shape (rows, {len(self.sizes)}), a code per column; "
                f"got {block.shape}"
            )
        return int(block.shape[0])

    def check_block(self, name: str, block: object, *, first_row: int) -> Codes:
        """Check a block of codes, as `FeatureMap.check_block`: each below its column's size."""
        self.block_rows(name, block)
        assert isinstance(block, np.ndarray)
        for column, size in enumerate(self.sizes):  # of a memory map, column by column
            codes = block[:, column]
            if not len(codes) or (codes.min() >= 0 and codes.max() < size):
                continue
            row = int(np.argmax((codes < 0) | (codes >= size)))
            raise ValueError(
                f"{name} must hold codes below its columns' sizes; row {first_row + row} has "
                f"{block[row, column]} in column {column}, which has {self.sizes[column]} levels"
            )
        return block

    def sum(self, block: Codes) -> Integers:
        """Count the cells of every table, without noise: private.

        Parameters
        ----------
        block : array of integers, shape (rows, number of columns)
            Checked records.

        Returns
        -------
        array, shape (n_cells,), int64
            Exact, so independent of any order. Tables in the order of `groups`, each in C order.
        """
        counts = []
        columns = np.ascontiguousarray(block.T).astype(np.int64)  # [columns, rows]
        for group in self.groups:
            shape = self.shape_of(group)
            cell = columns[group[0]]
            for column, size in zip(group[1:], shape[1:], strict=True):
                cell = cell * size + columns[column]
            counts.append(np.bincount(cell, minlength=math.prod(shape)))
        return np.concatenate(counts)

    def tables(
        self, sums: Numbers, noise: Numbers
    ) -> Iterator[tuple[tuple[int, ...], Numbers, float]]:
        """Cut released numbers into tables.

        Parameters
        ----------
        sums, noise : array, shape (n_cells,)
            Released counts and their standard deviations.

        Yields
        ------
        group : tuple of int
        table : array, shape of the group
        noise : float
            Standard deviation of the noise on each of its cells.
        """
        for (group, table), (_, deviations) in zip(self.cut(sums), self.cut(noise), strict=True):
            yield group, table, float(deviations.flat[0])

    def estimate_n(self, sums: Numbers, noise: Numbers) -> float:
        """Estimate the number of records from released counts: every table adds up to it.

        The totals are averaged with weights inverse to their variances; at least 1.

        Parameters
        ----------
        sums, noise : array, shape (n_cells,)
            Released counts and their standard deviations.

        Returns
        -------
        float
        """
        totals, precisions = [], []
        for _, table, deviation in self.tables(sums, noise):
            totals.append(float(table.sum()))
            precisions.append(1.0 / (table.size * deviation * deviation))
        return max(1.0, float(np.average(totals, weights=precisions)))

    def estimate_columns(self, sums: Numbers, noise: Numbers) -> dict[int, tuple[Numbers, float]]:
        """Estimate the counts of each column from every table that holds it.

        The table's sums over its other columns, averaged with weights inverse to their variances.

        Parameters
        ----------
        sums, noise : array, shape (n_cells,)
            Released counts and their standard deviations.

        Returns
        -------
        dict from int to (array, shape (levels,), float)
            By column, of those that are in any group: counts, and the standard deviation of each.
        """
        totals = {j: np.zeros(self.sizes[j]) for group in self.groups for j in group}
        precisions = dict.fromkeys(totals, 0.0)
        for group, table, deviation in self.tables(sums, noise):
            for axis, j in enumerate(group):
                others = tuple(other for other in range(table.ndim) if other != axis)
                precision = self.sizes[j] / (table.size * deviation * deviation)
                totals[j] += precision * table.sum(axis=others)
                precisions[j] += precision
        return {j: (totals[j] / precisions[j], precisions[j] ** -0.5) for j in totals}

    # ---------------------------------------------------------------------------------- files

    def to_dict(self) -> dict[str, Any]:
        """Return a description that JSON can hold.

        Returns
        -------
        dict
        """
        return {
            "map": self.name_in_files,
            "sizes": list(self.sizes),
            "groups": [list(group) for group in self.groups],
            "weights": list(self.weights),
        }

    @classmethod
    def _from_entries(cls, record: Mapping[str, Any]) -> MarginalSums:
        sizes, groups, weights = _entries(record, "sizes", "groups", "weights")
        return cls(tuple(sizes), tuple(map(tuple, groups)), weights)


# ------------------------------------------------------------------------------- second moments


@dataclass(frozen=True)
class SecondMoments(_RowFeatures):
    r"""Products of two coordinates: with the noise known, the variance along every direction.

    Rows are clipped to norm C = `max_norm` and, where `constant` c is positive, get c as one more
    coordinate, which adds the sums of the coordinates themselves and the number of records:

    .. math:: \phi(x) = \tilde x \tilde x^T, \qquad \tilde x = (x, c), \qquad
              \|\phi(x)\| = \|\tilde x\|^2 \le C^2 + c^2.

    Two such matrices are at most :math:`\sqrt2\,(C^2 + c^2)` apart (:math:`2\sqrt2\,C c` if c > C).
    Off the diagonal a product stands for two entries of the matrix: its weight is :math:`\sqrt2`.
    What is released are the sums of products of (x, 1), row by row of the upper triangle: the
    powers of c are weights, too, and `moments` tells the sums apart.

    Coordinates are rounded to multiples of a power of two of about :math:`2^{-22} C` first, within
    the ball, so that the sums are exact.

    Parameters
    ----------
    d : int
        Columns of a row.
    max_norm : float
        Bound on the norm of a row; longer ones are scaled down.
    constant : float, optional
        c >= 0, in the unit of the rows. More of it, less noise on means and more on second
        moments. Default: half of `max_norm`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument is out of range, or d so large that the sums would not fit into memory.

    Examples
    --------
    >>> features = SecondMoments(2, constant=1.0)
    >>> features.n_cells, features.norm
    (6, 2.0)
    >>> features.moments(np.array([3.0, 1.0, 2.0, 5.0, -1.0, 10.0]))[1]
    array([ 2., -1.])
    """

    d: int
    max_norm: float = 1.0
    constant: float | None = None

    name_in_files = "second_moments"

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("d", _arrays.positive_integer("d", self.d))
        put("max_norm", _arrays.positive_real("max_norm", self.max_norm))
        constant = 0.5 * self.max_norm if self.constant is None else self.constant
        put("constant", _arrays.nonnegative_real("constant", constant))
        for name, value in (("max_norm", self.max_norm), ("constant", self.constant)):
            if value and not 1e-100 <= value <= 1e100:
                raise ValueError(f"{name} must lie between 1e-100 and 1e100; got {value}")
        if self.n_cells > _MOST_CELLS // 2:
            raise ValueError(
                f"d must be at most {math.isqrt(_MOST_CELLS) - 1} columns, whose second moments "
                f"are {_MOST_CELLS // 2} sums; got {self.d} columns with {self.n_cells}: take "
                "fewer columns, or KernelSums on slices of them"
            )

    @property
    def _size(self) -> int:
        return self.d + (self._constant > 0.0)

    @property
    def _constant(self) -> float:
        assert self.constant is not None
        return self.constant

    @property
    def _exponent(self) -> int:
        return _power_above(self.max_norm) - _COORDINATE_BITS

    @property
    def n_cells(self) -> int:
        """Released numbers: one for each pair of coordinates."""
        return self._size * (self._size + 1) // 2

    @property
    def norm(self) -> float:
        """Largest norm of the weighted features of a record."""
        return self.max_norm**2 + self._constant**2

    @property
    def diameter(self) -> float:
        """Largest distance of the weighted features of two records."""
        if self._constant <= self.max_norm:
            return math.sqrt(2.0) * self.norm
        return 2.0 * math.sqrt(2.0) * self.max_norm * self._constant

    def _places(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Row and column of each released number in the matrix: its upper triangle."""
        i, j = np.triu_indices(self._size)
        return i, j

    def cell_weights(self) -> Numbers:
        """Return the weight of each released number, shape (n_cells,)."""
        factor = np.ones(self._size)
        factor[self.d :] = self._constant
        i, j = self._places()
        return np.where(i == j, 1.0, math.sqrt(2.0)) * factor[i] * factor[j]

    def unit_exponents(self) -> Integers:
        """Return the exponent of each sum's unit, shape (n_cells,)."""
        exponent = np.full(self._size, self._exponent)
        exponent[self.d :] = 0
        i, j = self._places()
        return np.asarray(exponent[i] + exponent[j], dtype=np.int64)

    @property
    def most_records(self) -> int:
        """Records whose sums are sure to fit 64-bit integers."""
        return (1 << (63 - 2 * _COORDINATE_BITS)) - 1

    def sum(self, block: FloatArray) -> Integers:
        """Add up the products of a checked block, without noise: private; see `FeatureMap.sum`."""
        whole = _core.bounded_rows(block, self.max_norm, math.ldexp(1.0, self._exponent))
        total = np.zeros((self._size, self._size), dtype=np.int64)
        for first in range(0, len(whole), _EXACT_ROWS):
            part = whole[first : first + _EXACT_ROWS]
            # Whole numbers below 2^53 at every step, so the order of a library's sums is no matter.
            total[: self.d, : self.d] += (part.T @ part).astype(np.int64)
            if self._size > self.d:
                total[: self.d, self.d] += part.sum(axis=0).astype(np.int64)
                total[self.d, self.d] += len(part)
        return np.asarray(total[self._places()])

    def estimate_n(self, sums: Numbers, noise: Numbers) -> float:
        """Estimate the number of records, which a map with a constant counts; at least 1.

        Parameters
        ----------
        sums, noise : array, shape (n_cells,)
            Released sums and their standard deviations.

        Returns
        -------
        float

        Raises
        ------
        ValueError
            If the map has no constant.
        """
        if self._size == self.d:
            return super().estimate_n(sums, noise)
        return max(1.0, float(sums[-1]))

    def moments(self, sums: Numbers) -> tuple[float | None, Numbers | None, Numbers]:
        """Cut released sums into the number of rows, the sum of rows, and that of their products.

        Parameters
        ----------
        sums : array, shape (n_cells,)
            Released sums.

        Returns
        -------
        n : float or None
            Noisy number of records; None without a constant, as the next.
        first : array, shape (d,), or None
            Noisy sum of x.
        second : array, shape (d, d)
            Noisy sum of x x^T, symmetric.
        """
        matrix = np.empty((self._size, self._size))
        i, j = self._places()
        matrix[i, j] = matrix[j, i] = sums
        second = matrix[: self.d, : self.d]
        if self._size == self.d:
            return None, None, second
        return float(matrix[-1, -1]), matrix[: self.d, -1], second

    def to_dict(self) -> dict[str, Any]:
        """Return a description that JSON can hold."""
        return {
            "map": self.name_in_files,
            "d": self.d,
            "max_norm": self.max_norm,
            "constant": self.constant,
        }

    @classmethod
    def _from_entries(cls, record: Mapping[str, Any]) -> SecondMoments:
        return cls(*_entries(record, "d", "max_norm", "constant"))


# ---------------------------------------------------------------------------------- kernel sums


def _packed(array: Numbers) -> dict[str, Any]:
    """Describe an array bit by bit for JSON."""
    raw = np.ascontiguousarray(array, dtype="<f8").tobytes()
    return {"shape": list(array.shape), "float64": base64.b64encode(raw).decode("ascii")}


def _unpacked(record: object) -> Numbers:
    if not isinstance(record, Mapping) or set(record) != {"shape", "float64"}:
        raise ValueError("features hold an array that is not packed as shape and float64")
    raw = base64.b64decode(record["float64"], validate=True)
    return np.frombuffer(raw, dtype="<f8").reshape(record["shape"]).astype(np.float64)


def _largest_kernel_norm(landmarks: Numbers, bandwidth: float) -> float:
    r"""Find the largest :math:`\sqrt{\sum_l K(c_l, y)^2}` over y, for landmarks (c, k).

    The sum of squared kernels is a mixture of Gaussians, each of whose maxima is the limit of
    mean-shift steps from a landmark near it; of very many landmarks, some hundreds are tried. That
    finds the value to some digits; that no record exceeds what is declared is not left to it:
    features are clipped.
    """
    best = 0.0
    starts = landmarks[:: -(-len(landmarks) // 512)]
    together = max(1, (1 << 20) // len(landmarks))
    for first in range(0, len(starts), together):
        y = starts[first : first + together]
        for _ in range(64):
            offsets = y[:, None, :] - landmarks  # [starts, c, k]
            squares = np.exp(-(offsets**2).sum(axis=2) / bandwidth**2)
            total = squares.sum(axis=1)
            best = max(best, float(total.max()))
            y = squares @ landmarks / total[:, None]
    return math.sqrt(best) * (1.0 + 1e-6)


def _bound_on_kernel_sum(landmarks: Numbers, bandwidth: float) -> float:
    r"""Bound :math:`f(y) = \sum_l K(c_l, y)` for all y, given landmarks (c, k): never too low.

    At the largest f its gradient is 0, so y is there an average of the landmarks, weighted by their
    kernels, and lies in the box around them. The Hessian of ln f is a covariance matrix of
    landmarks over g^4, less 1/g^2 on the diagonal; so at a distance r from the largest value, ln f
    is lower by r^2 / 2g^2 at most. The box is filled with cells whose points are within r of their
    centre: no value exceeds the largest of a centre by more than that. Far more cells than can be
    searched give infinity.
    """
    c, k = landmarks.shape
    low, high = landmarks.min(axis=0), landmarks.max(axis=0)
    most = max(1.0, (_SEARCHED_KERNELS / c) ** (1.0 / k))
    with np.errstate(over="ignore"):
        cells = np.clip(np.ceil(8.0 * (high - low) / bandwidth), 1.0, most).astype(np.int64)
        sides = (high - low) / cells
        # The second term is for the rounding of the centres.
        radius = 0.5 * np.linalg.norm(sides) + 1e-15 * math.sqrt(k) * np.abs(landmarks).max()
        loss = 0.5 * np.square(radius / bandwidth)
    if not loss < 50.0:
        return math.inf
    largest, together = 0.0, max(1, (1 << 20) // c)
    for first in range(0, int(cells.prod()), together):
        places = np.arange(first, min(first + together, int(cells.prod())))
        centres = low + (np.stack(np.unravel_index(places, cells), axis=1) + 0.5) * sides
        offsets = (centres[:, None, :] - landmarks) / bandwidth  # [cells, c, k]
        sums = np.exp(-0.5 * (offsets**2).sum(axis=2)).sum(axis=1)
        largest = max(largest, float(sums.max()))
    return largest * math.exp(loss)


@dataclass(frozen=True, eq=False)
class KernelSums(_RowFeatures, GroupedSums[int]):
    r"""Gaussian kernels between public landmarks and the projections of a record, slice by slice.

    .. math:: \phi(x)_{s,l} = \exp\Big(-\frac{\|c_{s,l} - \theta_s^T x\|^2}{2 g_s^2}\Big),
              \qquad \|\phi(x)\| \le B

    Sums are, up to a factor, the kernel density estimates of every slice at its landmarks. Features
    are rounded down to multiples of 2**-30, so that sums are exact.

    Slices may have weights. They are released as plain sums all the same, with noise sigma / w_s
    in each of slice s: more weight, less noise for this slice and more for all others.

    Parameters
    ----------
    frame : array, shape (m, d, k)
        Directions :math:`\theta_s` of each slice; public.
    landmarks : array, shape (c, k) or (m, c, k)
        Public points of a slice: the same for all slices, or each its own. Each must lie within
        ``max_norm`` times the slice's largest stretch, plus four bandwidths: the rows can come no
        nearer to others.
    bandwidth : float or array, shape (m,)
        Bandwidth g of all slices, or of each.
    max_norm : float
        Bound on the norm of a row; longer ones are scaled down before they are projected.
    bound : float or array, shape (m,), optional
        B: longer features are scaled down. Of an array, those of each slice by themselves, and B is
        the norm of bounds times weights. Default: about the largest norm that there can be, so that
        none are; for each slice if there are weights. A smaller one brings less noise, and a bias
        where it cuts. (How many rows it cuts is private and never shown.)
    weights : sequence of float, optional
        One per slice, finite and positive. Default: all 1. Others need a bound for each slice.

    Attributes
    ----------
    d, n_slices, slice_dim, n_landmarks : int
        Columns of a row, slices m, their dimension k, and landmarks of a slice.
    groups : tuple of int
        Numbers of the slices: 0 to m - 1.
    cuts : bool
        Whether `bound` is so small that rows may exceed it.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If shapes do not fit, an argument is out of range, or a landmark lies where no row can come
        near (it is named).

    Examples
    --------
    >>> features = KernelSums.on_random_slices(10, n_slices=5, n_landmarks=16, seed=0)
    >>> features.n_cells, round(features.norm, 2)
    (80, 2.98)
    """

    frame: Numbers  # [m, d, k]
    landmarks: Numbers  # [m, c, k]
    bandwidth: Numbers  # [m]
    max_norm: float = 1.0
    bound: float | Numbers | None = None  # of all slices together, or [m]
    weights: tuple[float, ...] = ()

    name_in_files = "kernel_sums"
    groups_called = "slices"
    unit_exponent = -_FEATURE_BITS

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            if isinstance(value, np.ndarray):
                value = np.array(value, order="C")
                value.flags.writeable = False
            object.__setattr__(self, name, value)

        frame = _arrays.finite_values("frame", _arrays.real_array("frame", self.frame))
        if frame.ndim != 3 or not frame.size:
            raise ValueError(f"frame must have shape (m, d, k), none of them 0; got {frame.shape}")
        m, _, k = frame.shape
        given = _arrays.real_array("landmarks", self.landmarks)
        landmarks = _arrays.finite_values("landmarks", given)
        shape = landmarks.shape
        if landmarks.ndim == 2:
            landmarks = np.broadcast_to(landmarks, (m, *landmarks.shape))
        if landmarks.ndim != 3 or landmarks.shape[::2] != (m, k) or not landmarks.size:
            raise ValueError(f"landmarks must have shape (c, {k}) or ({m}, c, {k}); got {shape}")
        widths = _arrays.real_array("bandwidth", self.bandwidth)
        if widths.ndim > 1 or (widths.ndim == 1 and widths.shape != (m,)):
            raise ValueError(f"bandwidth must be a number or have shape ({m},); got {widths.shape}")
        bandwidth = np.broadcast_to(widths, (m,))
        _arrays.positive_reals("bandwidth", tuple(bandwidth.tolist()))
        put("frame", frame)
        put("landmarks", landmarks)
        put("bandwidth", bandwidth)
        put("max_norm", _arrays.positive_real("max_norm", self.max_norm))
        if self.n_cells > _MOST_FEATURES:
            raise ValueError(
                f"landmarks of all slices must be at most {_MOST_FEATURES}; got {self.n_cells}"
            )
        # Where a square or a product overflows, a kernel may be no number: no bound would hold.
        if not ((bandwidth >= 1e-100) & (bandwidth <= 1e100)).all():
            raise ValueError(
                "bandwidth must lie between 1e-100 and 1e100; got "
                f"{bandwidth.min():g} to {bandwidth.max():g}"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            stretch = self.max_norm * np.linalg.norm(frame, axis=(1, 2))
        if not (stretch <= 1e150).all():
            raise ValueError(
                f"frame must have slices of norm 1e150 over max_norm at most; got {stretch.max():g}"
            )
        reach = self.max_norm * np.linalg.norm(frame, ord=2, axis=(1, 2)) + 4.0 * bandwidth
        lengths = np.linalg.norm(landmarks, axis=2)
        if (lengths > reach[:, None]).any():
            s, c = np.unravel_index(int(np.argmax(lengths / reach[:, None])), lengths.shape)
            raise ValueError(
                "landmarks must lie within max_norm times the stretch of their slice, plus four "
                f"bandwidths; in slice {s} that is {reach[s]:.6g}, and landmark {c} has norm "
                f"{lengths[s, c]:.6g}"
            )
        weights = _arrays.elements("weights", self.weights) or (1.0,) * m
        weights = _arrays.positive_reals("weights", weights)
        if len(weights) != m:
            raise ValueError(f"weights must hold one number per slice ({m}); got {len(weights)}")
        put("weights", weights)
        alike = set(weights) == {1.0}
        bound = self.bound
        if bound is None:
            bound = math.hypot(*self._longest) if alike else self._longest
        if np.ndim(bound) == 0:
            put("bound", _arrays.positive_real("bound", bound))
            if not alike:
                raise ValueError(
                    f"bound must be one for each slice where they have weights; got {self.bound} "
                    "for all together"
                )
            return
        bound = _arrays.real_array("bound", bound)
        if bound.shape != (m,):
            raise ValueError(f"bound must be a number or have shape ({m},); got {bound.shape}")
        _arrays.positive_reals("bound", tuple(bound.tolist()))
        put("bound", bound)

    def _of_layouts(self, function: Callable[[Numbers, float], float]) -> Numbers:
        """Apply a function to the landmarks and the bandwidth of each slice, shape (m,)."""
        m, _, k = self.landmarks.shape
        slices = np.concatenate([self.landmarks.reshape(m, -1), self.bandwidth[:, None]], axis=1)
        layouts, which = np.unique(slices, axis=0, return_inverse=True)  # often all are the same
        values = [function(row[:-1].reshape(-1, k), float(row[-1])) for row in layouts]
        return np.array(values)[which.ravel()]

    @functools.cached_property
    def _longest(self) -> Numbers:
        """About the largest norm of each slice's features, never less by more than some digits."""
        return self._of_layouts(_largest_kernel_norm)

    @functools.cached_property
    def cuts(self) -> bool:
        """Whether `bound` is so small that rows may exceed it."""
        if isinstance(self.bound, np.ndarray):
            return bool((self.bound < self._longest * (1.0 - 1e-9)).any())
        return self.norm < math.hypot(*self._longest) * (1.0 - 1e-9)

    @classmethod
    def on_random_slices(
        cls,
        d: int,
        *,
        n_slices: int,
        slice_dim: int = 1,
        n_landmarks: int = 32,
        max_norm: float = 1.0,
        seed: int | None = None,
    ) -> KernelSums:
        """Choose random orthonormal slices, and landmarks on a grid where projections fall.

        Projections of rows of norm `max_norm` on a random direction have a standard deviation of
        ``max_norm / sqrt(d)``; the grid reaches four of them to both sides, `max_norm` at most.
        The bandwidth is the distance of neighbouring landmarks.

        Parameters
        ----------
        d : int
            Columns of a row.
        n_slices : int
            Slices m.
        slice_dim : int
            Their dimension k, at most d.
        n_landmarks : int
            Landmarks of a slice along each of its axes (their k-th power in all).
        max_norm : float
            Bound on the norm of a row.
        seed : int, optional
            Public seed of the directions. Default: fresh entropy of the operating system.

        Returns
        -------
        KernelSums

        Raises
        ------
        TypeError, ValueError
            If an argument is of the wrong kind or out of range.
        """
        d = _arrays.positive_integer("d", d)
        m = _arrays.positive_integer("n_slices", n_slices)
        k = _arrays.positive_integer("slice_dim", slice_dim)
        if k > d:
            raise ValueError(f"slice_dim must be at most d = {d}; got {k}")
        count = _arrays.integer("n_landmarks", n_landmarks, minimum=2)
        # In logarithms first: a power of large numbers takes long.
        if k * math.log(count) > 100.0 or m * count**k > _MOST_FEATURES:
            raise ValueError(
                f"n_slices and n_landmarks must leave at most {_MOST_FEATURES} sums; "
                f"got {_arrays.describe(count)}**{k} on {m} slices"
            )
        norm = _arrays.positive_real("max_norm", max_norm)
        rng = np.random.default_rng(None if seed is None else _arrays.seed("seed", seed))
        reach = min(norm, 4.0 * norm / math.sqrt(d))
        axis = np.linspace(-reach, reach, count)
        grid = np.stack(np.meshgrid(*[axis] * k, indexing="ij"), axis=-1).reshape(-1, k)
        inside = np.linalg.norm(grid, axis=1) <= norm  # corners of the grid may be out of reach
        return cls(
            frames.haar_columns((m, d, k), rng), grid[inside], axis[1] - axis[0], max_norm=norm
        )

    @property
    def d(self) -> int:  # type: ignore[override]
        """Columns of a row."""
        return int(self.frame.shape[1])

    @property
    def n_slices(self) -> int:
        """Number of slices m."""
        return int(self.frame.shape[0])

    @property
    def slice_dim(self) -> int:
        """Dimension k of a slice."""
        return int(self.frame.shape[2])

    @property
    def n_landmarks(self) -> int:
        """Landmarks of a slice."""
        return int(self.landmarks.shape[1])

    @property
    def n_cells(self) -> int:
        """Released numbers: slices times landmarks."""
        return self.n_slices * self.n_landmarks

    @property
    def norm(self) -> float:
        """Largest norm of the weighted features of a record."""
        if isinstance(self.bound, np.ndarray):
            return math.hypot(*(self.bound * self.weights))
        assert self.bound is not None
        return self.bound

    @property
    def diameter(self) -> float:
        """Largest distance of two records' features, none of which is negative."""
        return math.sqrt(2.0) * self.norm

    def sum(self, block: FloatArray) -> Integers:
        """Add up the kernels of a checked block, without noise: private; see `FeatureMap.sum`."""
        directions = np.ascontiguousarray(self.frame.transpose(1, 0, 2).reshape(self.d, -1))
        total = np.zeros(self.landmarks.shape[:2], dtype=np.int64)
        step = max(_FEWEST_ROWS, _BLOCK_NUMBERS // directions.shape[1])
        for first in range(0, len(block), step):
            rows = _core.bounded_rows(block[first : first + step], self.max_norm, 0.0)
            projected = _core.project_fast(rows, directions, 0.0, (0, 0), 0)  # no noise: sigma is 0
            points = projected.reshape(-1, self.n_slices, self.slice_dim)
            if not isinstance(self.bound, np.ndarray):
                total += self._bounded_sums(points, slice(None), self.norm)
                continue
            by_slice = np.ascontiguousarray(points.transpose(1, 0, 2))
            for s, bound in enumerate(self.bound.tolist()):
                one = slice(s, s + 1)
                total[one] += self._bounded_sums(by_slice[s][:, None, :], one, bound)
        return total.ravel()

    def _bounded_sums(self, points: Numbers, slices: slice, bound: float) -> Integers:
        """Add up the kernels of projected rows on some slices, bounded together: [slices, c]."""
        scale = math.ldexp(1.0, _FEATURE_BITS)
        return _core.kernel_feature_sums(
            points,
            self.landmarks[slices],
            -0.5 * math.log2(math.e) / self.bandwidth[slices] ** 2,
            scale,
            bound * scale,
        )

    # --------------------------------------------------------------------------------- groups

    @property
    def groups(self) -> tuple[int, ...]:  # type: ignore[override]
        """Numbers of the slices."""
        return tuple(range(self.n_slices))

    def shape_of(self, group: int) -> tuple[int, ...]:
        """Shape of the sums of a slice."""
        return (self.n_landmarks,)

    def described(self, group: int) -> str:
        """Say what a model has to tell about a slice, for messages."""
        return f"sums of shape {self.shape_of(group)} for slice {group}"

    def columns_of(self, group: int) -> frozenset[int]:
        """Return no column: slices share all of them."""
        return frozenset()

    @property
    def _bounds(self) -> Numbers:
        """Bound on the norm of each slice's features, whatever the others are."""
        if isinstance(self.bound, np.ndarray):
            return self.bound
        if self.cuts:
            raise ValueError(
                "bound must be one for each slice where they are released apart; got "
                f"{self.norm:.6g} for all together, less than their largest norm"
            )
        return self._longest

    def group_norm(self, group: int) -> float:
        """Largest norm of a record's natural features of a slice."""
        return float(self._bounds[group])

    @functools.cached_property
    def _totals(self) -> list[int]:
        # A part in 1e8 more is for rounding: of the norms that are kept, and of kernels above 2^-30
        # in compiled code and here, each within 1e-9.
        bounds = math.sqrt(self.n_landmarks) * self._bounds
        totals = np.minimum(bounds, self._of_layouts(_bound_on_kernel_sum)) * (1.0 + 1e-8)
        totals = np.minimum(totals, float(self.n_landmarks))
        return [math.floor(math.ldexp(total, _FEATURE_BITS)) for total in totals.tolist()]

    def group_total(self, group: int) -> int:
        r"""Largest sum of a record's features of a slice, in units of 2**-30; never too low.

        It is the least of three bounds: every kernel is 1 at most, by Cauchy and Schwarz the sum is
        the norm's bound times :math:`\sqrt{c}` at most, and where landmarks overlap, the sum of
        Gaussians is bounded by a search of the whole slice.
        """
        return self._totals[group]

    def take(self, groups: Sequence[int], weights: Sequence[float] = ()) -> KernelSums:
        """Return some slices, each with a bound of its own, with other weights if given.

        Parameters
        ----------
        groups : sequence of int
            Numbers of slices, at least one.
        weights : sequence of float, optional
            One for each. Default: their own.

        Returns
        -------
        KernelSums
            Its slices in that order.

        Raises
        ------
        TypeError
            If a number is no integer.
        ValueError
            If there is no such slice, or `bound` is one for all together that cuts.
        """
        given = _arrays.elements("groups", groups)
        picked = [_arrays.integer("groups", group, minimum=0) for group in given]
        if not picked or max(picked) >= self.n_slices:
            raise ValueError(f"groups must be slices from 0 to {self.n_slices - 1}; got {groups}")
        return KernelSums(
            self.frame[picked],
            self.landmarks[picked],
            self.bandwidth[picked],
            self.max_norm,
            self._bounds[picked],
            _arrays.elements("weights", weights) or tuple(self.weights[s] for s in picked),
        )

    def joined(self, candidates: Any) -> tuple[KernelSums, tuple[int, ...], tuple[int, ...]]:
        """Join the slices with candidates for more, as `GroupedSums.joined`.

        Candidates come first, so that their numbers stay what they are.
        """
        if not isinstance(candidates, KernelSums):
            raise TypeError(
                f"they must be KernelSums, as the features are; got {_arrays.describe(candidates)}"
            )
        for name in ("d", "slice_dim", "n_landmarks", "max_norm"):
            got, wanted = getattr(candidates, name), getattr(self, name)
            if got != wanted:
                raise ValueError(f"{name} must be that of the features, {wanted}; got {got}")
        places = {key: s for s, key in enumerate(candidates.apart()._keys())}
        bounds = candidates._bounds.copy()
        own: list[int] = []
        more: list[int] = []
        for s, key in enumerate(self._keys()):
            own.append(places.get(key, candidates.n_slices + len(more)))
            if key in places:  # the same slice, with the bound that it has here
                bounds[places[key]] = self._bounds[s]
            else:
                more.append(s)
        together = KernelSums(
            np.concatenate([candidates.frame, self.frame[more]]),
            np.concatenate([candidates.landmarks, self.landmarks[more]]),
            np.concatenate([candidates.bandwidth, self.bandwidth[more]]),
            self.max_norm,
            np.concatenate([bounds, self._bounds[more]]),
        )
        return together, tuple(own), candidates.groups

    def apart(self) -> KernelSums:
        """Return the slices, each with a bound of its own, or raise unless they are different."""
        first: dict[bytes, int] = {}
        for s, key in enumerate(self._keys()):
            if first.setdefault(key, s) != s:
                raise ValueError(f"slices must be different; {first[key]} and {s} are the same")
        return self.take(self.groups)

    def _keys(self) -> Iterator[bytes]:
        """Tell what makes each slice another: its directions, landmarks and bandwidth."""
        for parts in zip(self.frame, self.landmarks, self.bandwidth, strict=True):
            yield b"".join(part.tobytes() for part in parts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KernelSums) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.frame.tobytes(), self.landmarks.tobytes(), self.weights))

    def __repr__(self) -> str:
        return (
            f"KernelSums(n_slices={self.n_slices}, d={self.d}, slice_dim={self.slice_dim}, "
            f"n_landmarks={self.n_landmarks}, max_norm={self.max_norm:.6g}, bound={self.norm:.6g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a description that JSON can hold."""
        return {
            "map": self.name_in_files,
            "frame": _packed(self.frame),
            "landmarks": _packed(self.landmarks),
            "bandwidth": _packed(self.bandwidth),
            "max_norm": self.max_norm,
            **(
                {"bound": _packed(self.bound), "weights": list(self.weights)}
                if isinstance(self.bound, np.ndarray)
                else {"bound": self.bound}
            ),
        }

    @classmethod
    def _from_entries(cls, record: Mapping[str, Any]) -> KernelSums:
        weights: tuple[float, ...] = ()
        if "weights" in record:  # each slice has a bound of its own
            weights = tuple(record["weights"])
            record = {key: value for key, value in record.items() if key != "weights"}
            record["bound"] = _unpacked(record.get("bound"))
        frame, landmarks, bandwidth, max_norm, bound = _entries(
            record, "frame", "landmarks", "bandwidth", "max_norm", "bound"
        )
        return cls(
            _unpacked(frame), _unpacked(landmarks), _unpacked(bandwidth), max_norm, bound, weights
        )


# --------------------------------------------------------------------------------- any function


class CustomFeatures(_RowFeatures):
    r"""A function of one's own, with a bound on its norm that is enforced.

    Features of a record longer than `norm` are scaled down to it, then rounded towards zero to
    multiples of about 2**-30 of it, so that sums are exact.

    Parameters
    ----------
    function : callable or None
        Takes rows, a float64 array of shape (b, d), and returns their features, shape
        (b, n_cells), float32 or float64 (NumPy, torch or CuPy). The features of a row must depend
        on that row alone, and be the same at every call: what it uses beside (parameters, seeds)
        must be public. None: as of a release that was loaded, for which there is no more to sum.
    d : int
        Columns of a row.
    n_cells : int
        Features.
    norm : float
        Declared bound on the norm of the features of a row. (How many rows it cuts is private and
        never shown.)
    name : str
        What to call it on the certificate.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument is out of range.

    Notes
    -----
    Libraries may round the same row differently in another place of a block. That is no harm where
    the number of records is public, for then neighbouring tables have their rows in the same
    places; under ``add_remove`` `SumMechanism` calls the function with one row at a time.

    Examples
    --------
    >>> features = CustomFeatures(np.abs, d=3, n_cells=3, norm=1.0, name="sizes")
    >>> sums = features.sum(np.array([[0.5, -0.25, 0.0]])) * 2.0 ** features.unit_exponents()
    >>> sums
    array([0.5 , 0.25, 0.  ])
    """

    name_in_files = "custom"

    def __init__(
        self,
        function: Callable[[Numbers], Any] | None,
        *,
        d: int,
        n_cells: int,
        norm: float,
        name: str = "custom",
    ) -> None:
        if function is not None and not callable(function):
            raise TypeError(f"function must be callable; got {_arrays.describe(function)}")
        self.function = function
        self.d = _arrays.positive_integer("d", d)
        self._n_cells = _arrays.positive_integer("n_cells", n_cells)
        if self._n_cells > _MOST_FEATURES:
            raise ValueError(f"n_cells must be at most {_MOST_FEATURES}; got {n_cells}")
        self._norm = _arrays.positive_real("norm", norm)
        if not 1e-200 <= self._norm <= 1e200:
            raise ValueError(f"norm must lie between 1e-200 and 1e200; got {norm}")
        self.name = _arrays.text("name", name)

    @property
    def n_cells(self) -> int:
        """Released numbers."""
        return self._n_cells

    @property
    def norm(self) -> float:
        """Largest norm of the features of a record: as declared."""
        return self._norm

    @property
    def diameter(self) -> float:
        """Largest distance of two records' features: twice the norm."""
        return 2.0 * self._norm

    @property
    def notes(self) -> tuple[str, ...]:
        """Conditions of the promise that rest on the caller, one sentence each."""
        return (f"features {self.name!r} of a record must depend on that record alone.",)

    @property
    def _exponent(self) -> int:
        return _power_above(self._norm) - _FEATURE_BITS

    def unit_exponents(self) -> Integers:
        """Return the exponent of each sum's unit, shape (n_cells,)."""
        return np.full(self.n_cells, self._exponent)

    def most_at_once(self, adjacency: str) -> int:
        """Return how many rows `sum` may be given at once: see the notes of the class."""
        return 1 if adjacency == "add_remove" else max(1, _BLOCK_NUMBERS // self.n_cells)

    def sum(self, block: FloatArray) -> Integers:
        """Add up the function's values on a checked block, without noise: private.

        Parameters
        ----------
        block : array, shape (rows, d)
            Checked rows.

        Returns
        -------
        array, shape (n_cells,), int64
            In units of ``2.0 ** unit_exponents()``.

        Raises
        ------
        TypeError
            If the function's result is no array of float32 or float64.
        ValueError
            If there is no function, or its result has another shape than (rows, n_cells), NaN or
            infinity.
        """
        if self.function is None:
            raise ValueError("features were loaded without their function: they cannot be summed")
        name = "the result of function"
        values = self.function(np.array(block, dtype=np.float64))
        rows, _ = _arrays.row_matrix(name, values)
        if rows != len(block):
            raise ValueError(f"{name} must have a row for each of {len(block)} rows; got {rows}")
        checked = _arrays.row_block(name, values, first_row=0, d=self.n_cells)
        bounded = _core.bounded_rows(checked, self.norm, 0.0)
        whole = np.trunc(np.ldexp(bounded, -self._exponent)).astype(np.int64)
        return np.asarray(whole.sum(axis=0))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CustomFeatures) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.d, self.n_cells, self.norm, self.name))

    def __repr__(self) -> str:
        return (
            f"CustomFeatures({self.name!r}, d={self.d}, n_cells={self.n_cells}, "
            f"norm={self.norm:.6g})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a description that JSON can hold: all but the function."""
        return {
            "map": self.name_in_files,
            "d": self.d,
            "n_cells": self.n_cells,
            "norm": self.norm,
            "name": self.name,
        }

    @classmethod
    def _from_entries(cls, record: Mapping[str, Any]) -> CustomFeatures:
        d, n_cells, norm, name = _entries(record, "d", "n_cells", "norm", "name")
        return cls(None, d=d, n_cells=n_cells, norm=norm, name=name)
