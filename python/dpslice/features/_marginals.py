"""Counts of the levels of columns, and of combinations of columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dpslice import _arrays
from dpslice.features._base import MOST_CELLS, Codes, GroupedSums, Integers, Numbers, entries_of


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

    if TYPE_CHECKING:  # what the fields are made of

        def __init__(
            self,
            sizes: Sequence[int],
            groups: Sequence[Sequence[int]],
            weights: Sequence[float] = (),
        ) -> None: ...

    name_in_files = "marginal_sums"
    groups_called = "tables"

    def __post_init__(self) -> None:
        sizes = _arrays.elements("sizes", self.sizes)
        _arrays.store(self, sizes=tuple(_arrays.positive_integer("sizes", s) for s in sizes))
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
        _arrays.store(self, groups=tuple(groups))
        weights = _arrays.elements("weights", self.weights) or (1.0,) * len(groups)
        weights = _arrays.positive_reals("weights", weights)
        if len(weights) != len(groups):
            raise ValueError(
                f"weights must hold one number per group ({len(groups)}); got {len(weights)}"
            )
        _arrays.store(self, weights=weights)
        if self.n_cells > MOST_CELLS:
            largest = max(self.groups, key=lambda group: math.prod(self.shape_of(group)))
            raise ValueError(
                f"groups must have at most {MOST_CELLS} cells together; got {self.n_cells}, of "
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

    def take(self, groups: Sequence[Sequence[int]], weights: Sequence[float] = ()) -> MarginalSums:
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
            Its groups in that order.

        Raises
        ------
        TypeError
            If a group is no sequence of integers.
        ValueError
            If there is no such group, none is given, or weights are out of range.
        """
        own = dict(zip(self.groups, self.weights, strict=True))
        given = _arrays.elements("groups", groups)
        picked = tuple(_arrays.elements("groups", group) for group in given)
        for group in picked:
            if group not in own:
                raise ValueError(f"groups must be some of the map's; got {group}")
        weights = _arrays.elements("weights", weights) or tuple(own[group] for group in picked)
        return MarginalSums(self.sizes, picked, weights)

    def joined(
        self, candidates: Any
    ) -> tuple[MarginalSums, tuple[tuple[int, ...], ...], tuple[tuple[int, ...], ...]]:
        """Join the groups with candidates for more, as `GroupedSums.joined`."""
        others = MarginalSums(self.sizes, candidates).groups
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
        """Count the cells of every table, without noise: private; see `FeatureMap.sum`.

        Tables are in the order of `groups`, each in C order.
        """
        counts = []
        columns = np.ascontiguousarray(block.T).astype(np.int64)  # [columns, rows]
        before: tuple[int, ...] = ()
        cells: list[Integers] = []  # of the table before, of its first column, first two, ...
        for group in self.groups:
            # Tables in order share their first columns with the one before.
            same = next((i for i, j in enumerate(group) if before[i : i + 1] != (j,)), len(group))
            del cells[same:]
            for column in group[same:]:
                codes = columns[column]
                cells.append(cells[-1] * self.sizes[column] + codes if cells else codes)
            counts.append(np.bincount(cells[-1], minlength=math.prod(self.shape_of(group))))
            before = group
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
        """Estimate the number of records, as `FeatureMap.estimate_n`: every table adds up to it.

        The totals are averaged with weights inverse to their variances.
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
        """Return a description that JSON can hold."""
        return {
            "map": self.name_in_files,
            "sizes": list(self.sizes),
            "groups": [list(group) for group in self.groups],
            "weights": list(self.weights),
        }

    @classmethod
    def _from_entries(cls, record: Mapping[str, Any]) -> MarginalSums:
        sizes, groups, weights = entries_of(record, "sizes", "groups", "weights")
        return cls(tuple(sizes), tuple(map(tuple, groups)), weights)
