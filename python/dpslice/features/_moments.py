"""Sums of products of two coordinates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays, _core
from dpslice.features._base import (
    MOST_CELLS,
    FloatArray,
    Integers,
    Numbers,
    RowFeatures,
    entries_of,
    power_above,
)

# Coordinates whose products are summed are multiples of 2^-22 of the largest: 512 products of two
# of them add up within the 53 bits of float64, in any order, without rounding.
_COORDINATE_BITS: Final = 22
_EXACT_ROWS: Final = 1 << (53 - 2 * _COORDINATE_BITS)


@dataclass(frozen=True)
class SecondMoments(RowFeatures):
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
    _how_to_count = "release them with a constant"

    def __post_init__(self) -> None:
        d = _arrays.positive_integer("d", self.d)
        max_norm = _arrays.positive_real("max_norm", self.max_norm)
        # Half of the smallest norm is a constant that is too small.
        constant = max(0.5 * max_norm, 1e-100) if self.constant is None else self.constant
        constant = _arrays.nonnegative_real("constant", constant)
        _arrays.store(self, d=d, max_norm=max_norm, constant=constant)
        for name, value in (("max_norm", max_norm), ("constant", constant)):
            if value and not 1e-100 <= value <= 1e100:
                raise ValueError(f"{name} must lie between 1e-100 and 1e100; got {value}")
        if self.n_cells > MOST_CELLS // 2:
            size = (math.isqrt(4 * MOST_CELLS + 1) - 1) // 2  # the largest with so many pairs
            raise ValueError(
                f"d must be at most {size - (constant > 0.0)} columns, as second moments must be "
                f"at most {MOST_CELLS // 2} sums; got {self.d} columns with {self.n_cells}: take "
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
        return power_above(self.max_norm) - _COORDINATE_BITS

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
        """Estimate the number of records, as `FeatureMap.estimate_n`: a constant counts them."""
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
        return cls(*entries_of(record, "d", "max_norm", "constant"))
