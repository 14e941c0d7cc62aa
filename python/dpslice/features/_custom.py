"""Any function of rows, clipped to a declared bound on its norm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from dpslice import _arrays, _core
from dpslice.features._base import (
    BLOCK_NUMBERS,
    FEATURE_BITS,
    MOST_FEATURES,
    FloatArray,
    Integers,
    Numbers,
    RowFeatures,
    entries_of,
    power_above,
)


class CustomFeatures(RowFeatures):
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

    These features do not count records. Where their number is protected, training needs one that
    does: let the function return a constant c as well, declare a norm of
    :math:`\sqrt{B^2 + c^2}`, B being the largest norm of the others (where rows are cut, so is c),
    and give `dpslice.torch.FeatureMatching` the constant's released sum over c as `n`.

    Examples
    --------
    >>> features = CustomFeatures(np.abs, d=3, n_cells=3, norm=1.0, name="sizes")
    >>> sums = features.sum(np.array([[0.5, -0.25, 0.0]])) * 2.0 ** features.unit_exponents()
    >>> sums
    array([0.5 , 0.25, 0.  ])
    """

    name_in_files = "custom"
    _how_to_count = (
        "have the function return a constant c as well, and give n as its released sum over c"
    )

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
        if self._n_cells > MOST_FEATURES:
            raise ValueError(f"n_cells must be at most {MOST_FEATURES}; got {n_cells}")
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
        return power_above(self._norm) - FEATURE_BITS

    def unit_exponents(self) -> Integers:
        """Return the exponent of each sum's unit, shape (n_cells,)."""
        return np.full(self.n_cells, self._exponent)

    def most_at_once(self, adjacency: str) -> int:
        """Return how many rows `sum` may be given at once: see the notes of the class."""
        return 1 if adjacency == "add_remove" else max(1, BLOCK_NUMBERS // self.n_cells)

    def sum(self, block: FloatArray) -> Integers:
        """Add up the function's values on a checked block: private; see `FeatureMap.sum`.

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
        d, n_cells, norm, name = entries_of(record, "d", "n_cells", "norm", "name")
        return cls(None, d=d, n_cells=n_cells, norm=norm, name=name)
