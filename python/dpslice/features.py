r"""Feature maps of sum releases: what is summed over the records, and how far one record reaches.

A sum release publishes :math:`T = \sum_i \phi(x_i) + N(0, \sigma^2)` for a public map phi
(`dpslice.SumMechanism`). What the privacy of T rests on are two numbers that follow from the map
alone: the bound on the norm of phi(x), and the diameter of the set of its values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays

__all__ = ["MarginalSums"]

Codes = NDArray[np.integer[Any]]
Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]

# Memory for one table of counts, and what is kept beside it: 16 bytes a cell.
_MOST_CELLS: Final = 1 << 28


@dataclass(frozen=True)
class MarginalSums:
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

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("sizes", tuple(_arrays.positive_integer("sizes", size) for size in self.sizes))
        groups = []
        for group in self.groups:
            columns = tuple(_arrays.integer("groups", column, minimum=0) for column in group)
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
        weights = _arrays.positive_reals("weights", tuple(self.weights) or (1.0,) * len(groups))
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

    def cell_weights(self) -> Numbers:
        """Return the weight of each released number, shape (n_cells,)."""
        repeats = [math.prod(self.shape_of(group)) for group in self.groups]
        return np.repeat(np.array(self.weights), repeats)

    # ----------------------------------------------------------------------------------- sums

    def check_block(self, name: str, block: object, *, first_row: int) -> Codes:
        """Check a block of records.

        Parameters
        ----------
        name : str
            Name in messages.
        block : object
            Integer array, shape (rows, number of columns).
        first_row : int
            Number of its first record, for messages.

        Returns
        -------
        array of integers

        Raises
        ------
        TypeError
            If it is no NumPy array of integers.
        ValueError
            If its shape is wrong, or a code is outside its column's levels (the record is named).
        """
        if not isinstance(block, np.ndarray) or block.dtype.kind not in "iu":
            raise TypeError(
                f"{name} must be a NumPy array of integer codes; got {_arrays.describe(block)}"
            )
        if block.ndim != 2 or block.shape[1] != len(self.sizes):
            raise ValueError(
                f"{name} must have shape (rows, {len(self.sizes)}), a code per column; "
                f"got {block.shape}"
            )
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

    def sum(self, codes: Codes) -> Counts:
        """Count the cells of every table, without noise: private.

        Parameters
        ----------
        codes : array of integers, shape (rows, number of columns)
            Checked records.

        Returns
        -------
        array, shape (n_cells,), int64
            Exact, so independent of any order. Tables in the order of `groups`, each in C order.
        """
        counts = []
        columns = np.ascontiguousarray(codes.T).astype(np.int64)  # [columns, rows]
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
        first = 0
        for group in self.groups:
            shape = self.shape_of(group)
            cells = math.prod(shape)
            yield group, sums[first : first + cells].reshape(shape), float(noise[first])
            first += cells

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

    # ---------------------------------------------------------------------------------- files

    def to_dict(self) -> dict[str, Any]:
        """Return a description that JSON can hold.

        Returns
        -------
        dict
        """
        return {
            "map": "marginal_sums",
            "sizes": list(self.sizes),
            "groups": [list(group) for group in self.groups],
            "weights": list(self.weights),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> MarginalSums:
        """Rebuild a feature map from `to_dict`.

        Parameters
        ----------
        record : mapping
            What `to_dict` gave.

        Returns
        -------
        MarginalSums

        Raises
        ------
        TypeError, ValueError
            If it is not that.
        """
        if set(record) != {"map", "sizes", "groups", "weights"}:
            raise ValueError(f"features have unknown or missing entries: {sorted(record)}")
        if record["map"] != "marginal_sums":
            raise ValueError(f"features are of an unknown map: {record['map']!r}")
        return cls(tuple(record["sizes"]), tuple(map(tuple, record["groups"])), record["weights"])
