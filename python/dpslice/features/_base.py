"""What every feature map has, and what maps of rows and maps of groups share."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays

Codes = NDArray[np.integer[Any]]
Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]
FloatArray = NDArray[np.floating[Any]]
_Number = TypeVar("_Number", bound=np.generic)
_Group = TypeVar("_Group")
# Released numbers: 16 bytes each while they are added up.
MOST_CELLS: Final = 1 << 28
# Up to so many features, the rounding of a norm is below the 1e-9 that the accounting has for it.
MOST_FEATURES: Final = 1 << 24
BLOCK_NUMBERS: Final = 1 << 21  # projections, or features that a function gives, at a time
# Features in (0, 1] or within their norm are multiples of 2^-30 of it: 2^32 records fit 63 bits.
FEATURE_BITS: Final = 30


def power_above(value: float) -> int:
    """Return the least e with value <= 2^e."""
    fraction, exponent = math.frexp(value)
    return exponent - (fraction == 0.5)


class FeatureMap(ABC):
    """What `dpslice.SumMechanism` and `dpslice.SumRelease` need to know of a feature map.

    Released numbers are the sums of the map's *natural* features; noise on them is sigma over the
    cell's weight. The norm and the diameter are about natural features times their weights.

    A class of one's own is known to files of releases by its `name_in_files`, once it is defined:
    `to_dict` gives ``{"map": name_in_files, ...}``, and the class method ``_from_entries`` makes
    the map again from the other entries. Privacy rests on its norm and diameter being true, and on
    its sums being exact, as its certificates say.
    """

    name_in_files: str
    _how_to_count: ClassVar[str] = "release a constant with the features"  # for messages
    _known: ClassVar[dict[str, type[FeatureMap]]] = {}  # by that name

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        name = cls.__dict__.get("name_in_files")
        if name is None:  # what several maps share
            return
        known = FeatureMap._known.setdefault(_arrays.text("name_in_files", name), cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"name_in_files must be a new one; {name!r} is that of {known.__qualname__}"
            )
        FeatureMap._known[name] = cls  # the same, defined again

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
        if _is_ours(self):
            return ()
        return (
            f"norm, diameter and exact sums of the features {type(self).__name__} are as their "
            "author says.",
        )

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
        raise ValueError(
            f"{type(self).__name__} does not count records: give n where it is public; where it is "
            f"protected, {self._how_to_count}"
        )

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
            Of the class that wrote it, which must be defined. `CustomFeatures` come without their
            function.

        Raises
        ------
        TypeError, ValueError
            If it is not that.
        """
        if not isinstance(record, Mapping):
            raise TypeError(f"features must be a mapping; got {type(record).__name__}")
        name = record.get("map")
        known = FeatureMap._known.get(name) if isinstance(name, str) else None
        if known is None:
            raise ValueError(
                f"features are of an unknown map, {_arrays.describe(name)}: if it is a class of "
                "your own, import what defines it"
            )
        return known._from_entries({key: value for key, value in record.items() if key != "map"})

    @classmethod
    @abstractmethod
    def _from_entries(cls, record: Mapping[str, Any]) -> FeatureMap:
        """Rebuild a map of this class from its entries of `to_dict`, but ``map``."""


def _is_ours(features: FeatureMap) -> bool:
    return type(features).__module__.startswith("dpslice.features.")


def checked_map(features: object) -> FeatureMap:
    """Return a feature map, or raise unless it is one that a release is read back with."""
    if not isinstance(features, FeatureMap):
        raise TypeError(f"features must be a feature map; got {_arrays.describe(features)}")
    if _is_ours(features):
        return features
    name = type(features).__name__
    try:
        again = FeatureMap.from_dict(json.loads(json.dumps(features.to_dict())))
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise TypeError(
            f"features must be such as can be read again from their to_dict(); {name} cannot: "
            f"{error}"
        ) from error
    if not isinstance(features, type(again)):  # it may come back as the class that it refines
        raise TypeError(
            f"features must be such as can be read again from their to_dict(); {name} became "
            f"{type(again).__name__}"
        )
    return features


def entries_of(record: Mapping[str, Any], *names: str) -> list[Any]:
    if set(record) != set(names):
        raise ValueError(f"features have unknown or missing entries: {sorted(record)}")
    return [record[name] for name in names]


class RowFeatures(FeatureMap):
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

    @property
    def group_weights(self) -> tuple[float, ...]:
        """Weight of each group."""
        return self.weights

    def unit_exponents(self) -> Integers:
        """Return the exponent of each sum's unit, shape (n_cells,): the same for all."""
        return np.full(self.n_cells, self.unit_exponent)

    def cell_weights(self) -> Numbers:
        """Return the weight of each released number, shape (n_cells,)."""
        repeats = [math.prod(self.shape_of(group)) for group in self.groups]
        return np.repeat(np.array(self.group_weights), repeats)

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
