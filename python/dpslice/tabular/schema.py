"""The public description of a table: column types, categories and bounds.

A schema is public knowledge: the norm bound of the encoded rows, hence the noise of a release,
follows from it alone. It is written by hand, read from a TOML file or from SDV metadata, or
estimated from the data at a stated privacy cost (`Schema.infer`). Nothing in this module looks at
data in order to choose a type, a category or a bound.

Each kind of column is a small frozen class with the same two methods: `to_numbers` checks a
column of a frame and turns it into float64 (category index, number, seconds; NaN where missing),
`from_numbers` turns such numbers back into a column of the schema's dtype.
"""

from __future__ import annotations

import datetime
import json
import math
import numbers
import os
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.tabular import _toml
from dpslice.tabular.files import LINE, replacing

if TYPE_CHECKING:
    from dpslice.accounting import Guarantee

__all__ = [
    "Boolean",
    "Categorical",
    "Column",
    "Datetime",
    "Number",
    "Schema",
    "read_document",
    "sdv_types",
]

Numbers = NDArray[np.float64]

# Float64 holds every integer up to here; encoding and decoding go through float64.
_LARGEST_INTEGER = 2**53
_MOST_SHOWN = 10  # unknown categories in a message
_WEIGHTS = (1e-6, 1e6)  # beyond, squares of weights and shares of them lose their digits
_FINEST_STEP = 1e-280  # so that its decimal places can be counted in floats
_DEEPEST = 50  # levels of a file: a schema has five
_EPOCH = datetime.datetime(1970, 1, 1)
_SECONDS_PER_DAY = 86_400.0


# ------------------------------------------------------------------------------ checks of a column


def _check_name(name: object) -> None:
    if not isinstance(name, str):
        raise TypeError(f"a column's name must be a string; got {_arrays.describe(name)}")
    if not name:
        raise ValueError("a column's name must not be empty")


def _check_flag(name: str, key: str, value: object) -> None:
    if not isinstance(value, bool):
        raise TypeError(
            f"column {name!r}: {key} must be true or false; got {_arrays.describe(value)}"
        )


def _check_common(column: Categorical | Boolean | Number | Datetime) -> None:
    """Check name, nullable and weight, and store the weight as a float."""
    _check_name(column.name)
    _check_flag(column.name, "nullable", column.nullable)
    label = f"column {column.name!r}: weight"
    weight = _arrays.positive_real(label, column.weight)
    if not _WEIGHTS[0] <= weight <= _WEIGHTS[1]:
        raise ValueError(f"{label} must be from {_WEIGHTS[0]:g} to {_WEIGHTS[1]:g}; got {weight:g}")
    object.__setattr__(column, "weight", weight)


def _as_sequence(name: str, key: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence | np.ndarray):
        raise TypeError(f"column {name!r}: {key} must be a list; got {_arrays.describe(value)}")
    return tuple(v.item() if isinstance(v, np.generic) else v for v in value)


def first_place(series: pd.Series[Any], where: NDArray[np.bool_]) -> str:
    """Say where the first of some cells is, for the data holder: its line, if it is of a file.

    How many there are would be said of this piece of a table only, and other labels than numbers
    may name people.
    """
    label = series.index[int(np.flatnonzero(where)[0])]
    if not isinstance(label, numbers.Integral):
        return ""
    return f" (the first at {'line' if series.index.name == LINE else 'index'} {label})"


def _check_missing(
    name: str, nullable: bool, series: pd.Series[Any], missing: NDArray[np.bool_]
) -> None:
    if not nullable and missing.any():
        raise ValueError(
            f"column {name!r}: missing values{first_place(series, missing)}, but the schema does "
            "not declare it nullable (nullable = true)"
        )


def _wholly_missing(name: str, nullable: bool, series: pd.Series[Any]) -> Numbers | None:
    """NaN for every row if no value is there at all: such a column's dtype says nothing."""
    if len(series) and pd.api.types.is_scalar(series.iloc[0]) and pd.isna(series.iloc[0]):
        missing = series.isna().to_numpy(dtype=bool)
        if missing.all():
            _check_missing(name, nullable, series, missing)
            return np.full(len(series), np.nan)
    return None


def _inferred(series: pd.Series[Any]) -> str:
    """Kind of the values of an object column: pandas' word for it, missing values set aside."""
    return str(pd.api.types.infer_dtype(series, skipna=True))


def _float_column(name: str, series: pd.Series[Any], kind: str) -> Numbers:
    """Values of a numeric column as float64, NaN where missing."""
    dtype = series.dtype
    numeric = pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)
    if pd.api.types.is_complex_dtype(dtype):
        numeric = False
    if not numeric and pd.api.types.is_object_dtype(dtype):
        words = {"integer", "floating", "mixed-integer-float", "decimal"}
        numeric = _inferred(series) in words
    if not numeric:
        what = _inferred(series) if pd.api.types.is_object_dtype(dtype) else str(dtype)
        raise TypeError(f"column {name!r}: must hold numbers (type = {kind!r}); got {what} values")
    return cast(Numbers, series.to_numpy(dtype=np.float64, na_value=np.nan))


# -------------------------------------------------------------------------------------- columns


@dataclass(frozen=True)
class Categorical:
    """A column that takes one of finitely many values, all known beforehand.

    Parameters
    ----------
    name : str
        Name of the column.
    categories : sequence of str or of int
        The levels, all strings or all integers, without repetition.
    other : str or int, optional
        The level that a value outside `categories` is mapped to; one of them. Without it such a
        value is an error.
    nullable : bool
        Whether values may be missing. Public knowledge: it decides the encoding.
    weight : float
        Factor of the column's size in the encoded row: more weight, less relative noise on this
        column and more on all others.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the arguments contradict one another.
    """

    name: str
    categories: tuple[str, ...] | tuple[int, ...]
    other: str | int | None = None
    nullable: bool = False
    weight: float = 1.0

    type: ClassVar[str] = "categorical"

    def __post_init__(self) -> None:
        _check_common(self)
        categories = _as_sequence(self.name, "categories", self.categories)
        if not categories:
            raise ValueError(f"column {self.name!r}: categories must hold at least one level")
        texts = all(isinstance(c, str) for c in categories)
        integers = all(isinstance(c, int) and not isinstance(c, bool) for c in categories)
        if not (texts or integers):
            raise TypeError(
                f"column {self.name!r}: categories must be all strings or all integers; got "
                f"{_arrays.describe(list(categories))}"
            )
        seen: set[object] = set()
        for category in categories:
            if category in seen:
                raise ValueError(f"column {self.name!r}: categories repeat {category!r}")
            seen.add(category)
        if integers and any(abs(c) > _LARGEST_INTEGER for c in categories):
            raise ValueError(f"column {self.name!r}: categories must lie within ±2**53")
        if self.other is not None and (
            isinstance(self.other, bool) or self.other not in seen  # True == 1 is not a level
        ):
            raise ValueError(
                f"column {self.name!r}: other must be one of the categories; got {self.other!r}"
            )
        if self.nullable and "" in seen:
            raise ValueError(
                f"column {self.name!r}: categories must not hold '' where values may be missing "
                "(nullable): a CSV file writes both as an empty cell"
            )
        object.__setattr__(self, "categories", categories)

    @property
    def is_text(self) -> bool:
        """Whether the levels are strings (else integers)."""
        return isinstance(self.categories[0], str)

    def to_numbers(self, series: pd.Series[Any]) -> Numbers:
        """Return the index of each value's category, NaN where missing.

        Parameters
        ----------
        series : pandas.Series, shape (n,)
            Strings or integers (also whole floats, which pandas makes of integers with gaps).

        Returns
        -------
        ndarray, shape (n,), float64

        Raises
        ------
        TypeError
            If the values are not of the categories' kind.
        ValueError
            If a value is missing in a column that is not nullable, or is not among the
            categories of a column that declares no `other`.
        """
        gone = _wholly_missing(self.name, self.nullable, series)
        if gone is not None:
            return gone
        if isinstance(series.dtype, pd.CategoricalDtype):
            # Look the (few) levels up, not the (many) values; only levels in use are judged.
            used = series.cat.remove_unused_categories().cat
            levels = pd.Series(used.categories, name=self.name)
            found = self._lookup(levels)
            raw = used.codes.to_numpy()
            found = np.append(found, -2)  # code -1 (missing) picks the last entry
            index = found[raw]
            values = series.astype(object)
        else:
            index = self._lookup(series)
            values = series
        missing = index == -2
        _check_missing(self.name, self.nullable, series, missing)
        unknown = index == -1
        if unknown.any():
            if self.other is None:
                strangers = list(dict.fromkeys(values[unknown].tolist()))
                several = ", ".join(_arrays.describe(value) for value in strangers[:_MOST_SHOWN])
                if len(strangers) > _MOST_SHOWN:
                    several += " and more"
                raise ValueError(
                    f"column {self.name!r}: not among the schema's categories: {several}"
                    f"{first_place(series, unknown)}; add them, or declare the level that unknown "
                    "values map to (other = ...)"
                )
            index = np.where(unknown, self.categories.index(self.other), index)
        return np.where(missing, np.nan, index.astype(np.float64))

    def _lookup(self, series: pd.Series[Any]) -> NDArray[np.intp]:
        """Category index of each value; -1 where unknown, -2 where missing."""
        kind = None
        if self.is_text:
            values = np.asarray(series, dtype=object)
            known = pd.Index(self.categories, dtype=object)
        elif pd.api.types.is_bool_dtype(series.dtype):
            kind, values, known = "boolean", np.empty(0), pd.Index([])
        else:
            kind = _inferred(series)
            if kind in {"integer", "floating", "mixed-integer-float"}:
                # Exact in float64: the categories lie within ±2**53.
                values = series.to_numpy(dtype=np.float64, na_value=np.nan)
                known = pd.Index(np.asarray(self.categories, dtype=np.float64))
                kind = None
        if kind is not None:
            raise TypeError(
                f"column {self.name!r}: its categories are integers, but the column holds "
                f"{kind} values"
            )
        try:
            index = known.get_indexer(pd.Index(values, dtype=values.dtype, tupleize_cols=False))
        except TypeError:  # not hashable
            raise TypeError(
                f"column {self.name!r}: its categories are strings, but the column holds lists or "
                "other values that are no scalars"
            ) from None
        # The few values without category: missing ones, wrong kinds, unknown categories.
        where = np.flatnonzero(index < 0)
        rest = values[where]
        missing = np.asarray(pd.isna(rest), dtype=bool)
        if self.is_text and not all(isinstance(v, str) for v in rest[~missing]):
            raise TypeError(
                f"column {self.name!r}: its categories are strings, but the column holds "
                f"{_inferred(series)} values; convert it with astype(str), or declare integer "
                "categories"
            )
        result = index.astype(np.intp)
        result[where[missing]] = -2
        return result

    def from_numbers(self, values: Numbers) -> pd.Series[Any]:
        """Return the categories at the given indices (NaN: missing) as a column.

        Parameters
        ----------
        values : ndarray, shape (n,), float64
            Category indices.

        Returns
        -------
        pandas.Series, shape (n,)
            dtype object for strings; int64 for integers, Int64 if nullable.
        """
        missing = np.isnan(values)
        index = np.where(missing, 0.0, values).astype(np.intp)
        if self.is_text:
            taken = np.asarray(self.categories, dtype=object)[index]
            taken[missing] = None
            return pd.Series(taken, name=self.name, dtype=object)
        return _integer_series(
            self.name, np.asarray(self.categories, dtype=np.int64)[index], missing, self.nullable
        )


def _integer_series(
    name: str, values: NDArray[np.int64], missing: NDArray[np.bool_], nullable: bool
) -> pd.Series[Any]:
    if nullable:
        return pd.Series(pd.arrays.IntegerArray(values, missing), name=name)
    return pd.Series(values, name=name)


@dataclass(frozen=True)
class Boolean:
    """A column of true and false.

    Parameters
    ----------
    name : str
        Name of the column.
    nullable : bool
        Whether values may be missing.
    weight : float
        Factor of the column's size in the encoded row.
    """

    name: str
    nullable: bool = False
    weight: float = 1.0

    type: ClassVar[str] = "boolean"

    def __post_init__(self) -> None:
        _check_common(self)

    def to_numbers(self, series: pd.Series[Any]) -> Numbers:
        """Return 0 for false, 1 for true, NaN where missing.

        Parameters
        ----------
        series : pandas.Series, shape (n,)
            Booleans, or numbers that are all 0 or 1.

        Returns
        -------
        ndarray, shape (n,), float64

        Raises
        ------
        TypeError
            If the values are of another kind.
        ValueError
            If a number is neither 0 nor 1, or a value is missing and the column not nullable.
        """
        gone = _wholly_missing(self.name, self.nullable, series)
        if gone is not None:
            return gone
        dtype = series.dtype
        if pd.api.types.is_object_dtype(dtype):
            words = {"boolean", "integer", "floating"}
            accepted = _inferred(series) in words
        else:
            accepted = pd.api.types.is_bool_dtype(dtype) or (
                pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype)
            )
        if not accepted:
            raise TypeError(
                f"column {self.name!r}: must hold booleans (type = 'boolean'); got "
                f"{_inferred(series)} values"
            )
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        missing = np.isnan(values)
        _check_missing(self.name, self.nullable, series, missing)
        strange = ~missing & ~np.isin(values, (0.0, 1.0))
        if strange.any():
            raise ValueError(
                f"column {self.name!r}: numbers in a boolean column must be 0 or 1"
                f"{first_place(series, strange)}"
            )
        return cast(Numbers, values)

    def from_numbers(self, values: Numbers) -> pd.Series[Any]:
        """Return booleans: dtype bool, or boolean if the column is nullable.

        Parameters
        ----------
        values : ndarray, shape (n,), float64
            0, 1, or NaN where missing.

        Returns
        -------
        pandas.Series, shape (n,)
        """
        missing = np.isnan(values)
        flags = np.where(missing, 0.0, values).astype(bool)
        if self.nullable:
            return pd.Series(pd.arrays.BooleanArray(flags, missing), name=self.name)
        return pd.Series(flags, name=self.name)


@dataclass(frozen=True)
class Number:
    """A column of integers or of real numbers within public bounds.

    Parameters
    ----------
    name : str
        Name of the column.
    type : {"integer", "real"}
        Kind of the numbers; decoded integers are whole.
    min, max : float or int
        Public bounds; values outside are clipped. Whole, and within ±2**53, for integers.
    nullable : bool
        Whether values may be missing.
    special : sequence of float or int
        Values within the bounds that are states of their own, such as 0 in a column that is
        mostly zero, or the code of "top-coded": each gets a level, as a category has. At the ends
        of an integer column they also narrow the range of the remaining numbers.
    scale : {"linear", "log"}
        ``log`` spreads a heavy upper tail: the logarithm of the distance from `min` is encoded.
    weight : float
        Factor of the column's size in the encoded row.
    step : float or int, optional
        Distance of the values that are recorded, such as 100 for amounts in hundreds, as far as
        that is publicly known: all but special values are rounded to its multiples, and so are
        synthetic ones. It divides `min` and `max`, and is whole for integers.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If the arguments contradict one another.
    """

    name: str
    type: str
    min: float
    max: float
    nullable: bool = False
    special: tuple[float, ...] = ()
    scale: str = "linear"
    weight: float = 1.0
    step: float | None = None

    def __post_init__(self) -> None:
        _check_common(self)
        _arrays.choice(f"column {self.name!r}: type", self.type, ("integer", "real"))
        _arrays.choice(f"column {self.name!r}: scale", self.scale, ("linear", "log"))
        low, high = self._number("min", self.min), self._number("max", self.max)
        if not low < high:
            raise ValueError(
                f"column {self.name!r}: min must be less than max; got min = {self.min!r}, "
                f"max = {self.max!r}"
            )
        if not math.isfinite(high - low):
            raise ValueError(f"column {self.name!r}: max - min must be a finite number")
        special = tuple(
            self._number("special", v) for v in _as_sequence(self.name, "special", self.special)
        )
        for i, value in enumerate(special):
            if not low <= value <= high:
                raise ValueError(
                    f"column {self.name!r}: special values must lie within min and max; got "
                    f"{value!r} outside [{low!r}, {high!r}]"
                )
            if value in special[:i]:
                raise ValueError(f"column {self.name!r}: special repeats {value!r}")
        object.__setattr__(self, "min", low)
        object.__setattr__(self, "max", high)
        object.__setattr__(self, "special", special)
        if self.step is not None:
            object.__setattr__(self, "step", self._checked_step())
        low, high = self.regular_bounds
        step = self.step
        if not low < high or (
            step is not None and math.ceil(low / step) >= math.floor(high / step)
        ):
            raise ValueError(
                f"column {self.name!r}: special leaves fewer than two other values; declare it "
                "categorical"
            )

    def _checked_step(self) -> float:
        step = self._number("step", self.step)
        if not 0 < step <= self.max - self.min:
            raise ValueError(
                f"column {self.name!r}: step must be positive and at most max - min; got {step!r}"
            )
        for key, bound in (("min", self.min), ("max", self.max)):
            if step < _FINEST_STEP or abs(bound) > step * _LARGEST_INTEGER:
                raise ValueError(
                    f"column {self.name!r}: step must be at least {_FINEST_STEP:g}, and {key} "
                    f"within 2**53 of them; got step = {step!r}, {key} = {bound!r}"
                )
            if not math.isclose(round(bound / step) * step, bound, rel_tol=1e-12, abs_tol=0.0):
                raise ValueError(
                    f"column {self.name!r}: {key} must be a multiple of step ({step!r}); "
                    f"got {bound!r}"
                )
        return step

    def _stepped(self, values: Numbers) -> Numbers:
        """Round to multiples of the step, special values apart."""
        if self.step is None:
            return values
        digits = max(0, -int(Decimal(repr(self.step)).normalize().as_tuple().exponent))
        rounded = np.round(np.rint(values / self.step) * self.step, digits)
        # + 0.0: without it small negative numbers would become -0.0
        return np.where(np.isin(values, self.special), values, rounded) + 0.0

    def _number(self, key: str, value: object) -> float:
        label = f"column {self.name!r}: {key}"
        number = _arrays.finite_real(label, value)
        if self.type == "real":
            return number
        exact = int(value) if isinstance(value, numbers.Integral) else number
        if exact != int(exact):
            raise ValueError(f"{label} must be whole (type = 'integer'); got {value!r}")
        if abs(exact) > _LARGEST_INTEGER:
            raise ValueError(f"{label} must lie within ±2**53; got {value!r}")
        return int(exact)

    @property
    def regular_bounds(self) -> tuple[float, float]:
        """Bounds of the values that are not special.

        Special integers at the ends are cut off: with min = 0 and special = [0] the rest starts
        at 1. Real numbers keep their bounds, for the rest may come arbitrarily near.
        """
        low, high = self.min, self.max
        if self.type == "integer":
            while low in self.special and low < high:
                low += 1
            while high in self.special and low < high:
                high -= 1
        return low, high

    def to_numbers(self, series: pd.Series[Any]) -> Numbers:
        """Return the numbers clipped to the bounds, on the step if there is one, NaN where missing.

        Clipping is silent: how many values lie outside is a fact about the private rows, which
        `outside` tells the data holder.

        Parameters
        ----------
        series : pandas.Series, shape (n,)
            Numbers.

        Returns
        -------
        ndarray, shape (n,), float64

        Raises
        ------
        TypeError
            If the values are not numbers.
        ValueError
            If a value is infinite, not whole in an integer column, or missing in a column that
            is not nullable.
        """
        return self._stepped(np.clip(self._checked(series), self.min, self.max))

    def outside(self, series: pd.Series[Any]) -> int:
        """Count the values outside the bounds, which are clipped: for the data holder's eyes.

        Parameters
        ----------
        series : pandas.Series, shape (n,)
            Numbers.

        Returns
        -------
        int

        Raises
        ------
        TypeError, ValueError
            As `to_numbers`.
        """
        return _count_outside(self._checked(series), self.min, self.max)

    def _checked(self, series: pd.Series[Any]) -> Numbers:
        """Numbers as they are, NaN where missing."""
        gone = _wholly_missing(self.name, self.nullable, series)
        if gone is not None:
            return gone
        values = _float_column(self.name, series, self.type)
        missing = np.isnan(values)
        _check_missing(self.name, self.nullable, series, missing)
        infinite = np.isinf(values)
        if infinite.any():
            raise ValueError(
                f"column {self.name!r}: holds infinite values{first_place(series, infinite)}; "
                "numbers must be finite"
            )
        broken = ~missing & (np.rint(values) != values)
        if self.type == "integer" and broken.any():
            raise ValueError(
                f"column {self.name!r}: holds numbers that are not whole"
                f"{first_place(series, broken)}, but the schema says type = 'integer'; declare "
                "type = 'real'"
            )
        return values

    def from_numbers(self, values: Numbers) -> pd.Series[Any]:
        """Return numbers as a column, rounded if integer, and to the step if there is one.

        Parameters
        ----------
        values : ndarray, shape (n,), float64
            Numbers within the bounds, NaN where missing.

        Returns
        -------
        pandas.Series, shape (n,)
            dtype float64 for real; int64 for integer, Int64 if nullable.
        """
        values = self._stepped(values)
        if self.type == "real":
            return pd.Series(values.astype(np.float64), name=self.name)
        missing = np.isnan(values)
        whole = np.rint(np.where(missing, self.min, values)).astype(np.int64)
        return _integer_series(self.name, whole, missing, self.nullable)


@dataclass(frozen=True)
class Datetime:
    """A column of dates or of local times within public bounds.

    Parameters
    ----------
    name : str
        Name of the column.
    min, max : datetime.date, datetime.datetime or ISO 8601 str
        Public bounds, without time zone; values outside are clipped. Two dates make a column of
        whole days, two times one of whole seconds; finer parts are cut off.
    nullable : bool
        Whether values may be missing.
    weight : float
        Factor of the column's size in the encoded row.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a bound is no date, or min is not before max.
    """

    name: str
    min: datetime.date
    max: datetime.date
    nullable: bool = False
    weight: float = 1.0

    type: ClassVar[str] = "datetime"

    def __post_init__(self) -> None:
        _check_common(self)
        low, high = self._bound("min", self.min), self._bound("max", self.max)
        if isinstance(low, datetime.datetime) != isinstance(high, datetime.datetime):
            raise ValueError(
                f"column {self.name!r}: min and max must both be dates or both be times; got "
                f"min = {low.isoformat()}, max = {high.isoformat()}"
            )
        if not low < high:
            raise ValueError(
                f"column {self.name!r}: min must be before max; got min = {low.isoformat()}, "
                f"max = {high.isoformat()}"
            )
        object.__setattr__(self, "min", low)
        object.__setattr__(self, "max", high)

    def _bound(self, key: str, value: object) -> datetime.date:
        label = f"column {self.name!r}: {key}"
        if isinstance(value, str):
            try:
                if len(value) == len("2019-01-01"):
                    value = datetime.date.fromisoformat(value)
                else:
                    value = datetime.datetime.fromisoformat(value)
            except ValueError:
                raise ValueError(
                    f"{label} must be a date such as 2019-01-31 or a time such as "
                    f"2019-01-31T12:00:00; got {value!r}"
                ) from None
        if isinstance(value, pd.Timestamp):
            value = value.to_pydatetime()
        if not isinstance(value, datetime.date):
            raise TypeError(f"{label} must be a date or a time; got {_arrays.describe(value)}")
        if isinstance(value, datetime.datetime):
            if value.tzinfo is not None:
                raise ValueError(f"{label} must be without time zone; got {value.isoformat()}")
            return value.replace(microsecond=0)
        return value

    @property
    def whole_days(self) -> bool:
        """Whether values are dates (else times to the second)."""
        return not isinstance(self.min, datetime.datetime)

    @property
    def unit(self) -> float:
        """Seconds of one step: a day or a second."""
        return _SECONDS_PER_DAY if self.whole_days else 1.0

    @property
    def bounds_seconds(self) -> tuple[float, float]:
        """The bounds in seconds since 1970-01-01T00:00:00."""
        low, high = (
            (datetime.datetime(b.year, b.month, b.day) if self.whole_days else b)
            for b in (self.min, self.max)
        )
        return (
            (cast(datetime.datetime, low) - _EPOCH).total_seconds(),
            (cast(datetime.datetime, high) - _EPOCH).total_seconds(),
        )

    @property
    def numpy_dtype(self) -> str:
        """Nanoseconds as pandas is used to, or seconds where the bounds lie beyond 1678 to 2261."""
        in_range = self.min.year > 1677 and self.max.year < 2262
        return "datetime64[ns]" if in_range else "datetime64[s]"

    def to_numbers(self, series: pd.Series[Any]) -> Numbers:
        """Return seconds since 1970, clipped and cut to whole steps, NaN where missing.

        Parameters
        ----------
        series : pandas.Series, shape (n,)
            dtype datetime64 of any unit, or Python dates and times, without time zone.

        Returns
        -------
        ndarray, shape (n,), float64

        Raises
        ------
        TypeError
            If the values are no dates, or carry a time zone.
        ValueError
            If a value is missing and the column not nullable.
        """
        seconds = self._checked(series)
        return np.floor(np.clip(seconds, *self.bounds_seconds) / self.unit) * self.unit

    def outside(self, series: pd.Series[Any]) -> int:
        """Count the values outside the bounds, which are clipped: for the data holder's eyes.

        Parameters
        ----------
        series : pandas.Series, shape (n,)
            As for `to_numbers`.

        Returns
        -------
        int

        Raises
        ------
        TypeError, ValueError
            As `to_numbers`.
        """
        seconds = np.floor(self._checked(series) / self.unit) * self.unit
        return _count_outside(seconds, *self.bounds_seconds)

    def _checked(self, series: pd.Series[Any]) -> Numbers:
        """Seconds since 1970 as they are, NaN where missing."""
        gone = _wholly_missing(self.name, self.nullable, series)
        if gone is not None:
            return gone
        kind = _inferred(series)
        objects = pd.api.types.is_object_dtype(series.dtype)
        if isinstance(series.dtype, pd.DatetimeTZDtype) or (
            objects and any(getattr(value, "tzinfo", None) is not None for value in series)
        ):
            raise TypeError(
                f"column {self.name!r}: datetimes must be without time zone; convert with "
                "pandas.to_datetime(..., utc=True).dt.tz_localize(None)"
            )
        if kind not in {"datetime64", "datetime", "date"}:
            raise TypeError(
                f"column {self.name!r}: must hold datetimes (type = 'datetime'); got {kind} "
                "values (pandas.to_datetime converts strings)"
            )
        missing = series.isna().to_numpy(dtype=bool)
        _check_missing(self.name, self.nullable, series, missing)
        if objects:
            filled = [_EPOCH if gone else v for v, gone in zip(series, missing, strict=True)]
            stamps = np.array(filled, dtype="datetime64[s]")
        else:
            stamps = series.to_numpy().astype("datetime64[s]")
        return np.where(missing, np.nan, stamps.astype(np.int64).astype(np.float64))

    def from_numbers(self, values: Numbers) -> pd.Series[Any]:
        """Return datetimes, at midnight if the column holds whole days.

        Parameters
        ----------
        values : ndarray, shape (n,), float64
            Seconds since 1970-01-01T00:00:00 within the bounds, NaN where missing.

        Returns
        -------
        pandas.Series, shape (n,), datetime64
        """
        missing = np.isnan(values)
        steps = np.rint(np.where(missing, 0.0, values) / self.unit) * self.unit
        stamps = steps.astype(np.int64).astype("datetime64[s]")
        stamps[missing] = np.datetime64("NaT")
        return pd.Series(stamps.astype(self.numpy_dtype), name=self.name)


Column = Categorical | Boolean | Number | Datetime

_CLASS_OF_TYPE: dict[str, type[Categorical | Boolean | Number | Datetime]] = {
    "integer": Number,
    "real": Number,
    "categorical": Categorical,
    "boolean": Boolean,
    "datetime": Datetime,
}


def _column_from_dict(name: str, keys: Mapping[str, Any]) -> Column:
    """Build a column from its keys; every complaint names the column and the key."""
    if not isinstance(keys, Mapping):
        raise ValueError(f"column {name!r}: must be a table of keys; got {_arrays.describe(keys)}")
    if "type" not in keys:
        raise ValueError(f"column {name!r}: type is missing; one of {', '.join(_CLASS_OF_TYPE)}")
    kind = keys["type"]
    if not isinstance(kind, str) or kind not in _CLASS_OF_TYPE:
        raise ValueError(
            f"column {name!r}: type must be one of {', '.join(_CLASS_OF_TYPE)}; got {kind!r}"
        )
    cls = _CLASS_OF_TYPE[kind]
    allowed = [f.name for f in fields(cls) if f.name != "name"]
    unknown = [key for key in keys if key not in (*allowed, "type")]
    if unknown:
        raise ValueError(
            f"column {name!r}: unknown key {unknown[0]!r} for type {kind!r}; known keys: "
            f"{', '.join(k for k in allowed if k != 'type')}"
        )
    required = {Number: ("min", "max"), Datetime: ("min", "max"), Categorical: ("categories",)}
    absent = [key for key in required.get(cls, ()) if key not in keys]
    if absent:
        raise ValueError(
            f"column {name!r}: {' and '.join(absent)} must be given for type {kind!r} (public "
            "knowledge, never taken from the data)"
        )
    arguments = dict(keys) if cls is Number else {k: v for k, v in keys.items() if k != "type"}
    try:
        return cls(name, **arguments)
    except TypeError as error:
        # In a file a wrong kind of value is wrong content: one kind of error for the caller.
        raise ValueError(str(error)) from error


def _column_to_dict(column: Column) -> dict[str, Any]:
    """Keys of a column as a schema file writes them; defaults are left out."""
    keys: dict[str, Any] = {"type": column.type}
    for field in fields(column):
        value = getattr(column, field.name)
        if field.name in ("name", "type") or value == field.default:
            continue
        keys[field.name] = list(value) if isinstance(value, tuple) else value
    return keys


# --------------------------------------------------------------------------------------- schema


@dataclass(frozen=True)
class Schema:
    """The columns of a table, in order, with what is publicly known of them.

    Parameters
    ----------
    columns : sequence of Categorical, Boolean, Number or Datetime
        The columns; names must differ.
    target : str, optional
        Name of the column that a report's models predict. A public label, nothing more.
    name, description : str, optional
        Words for readers and reports.
    guarantee : Guarantee, optional
        What estimating this schema from private data has cost; None if it is public knowledge.
        It is saved with the schema, and the synthesizer adds it to its own.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If there is no column, a name occurs twice, or `target` names no column.

    Examples
    --------
    >>> schema = Schema([Number("age", "integer", 17, 90), Boolean("employed")])
    >>> schema.names
    ('age', 'employed')
    """

    columns: tuple[Column, ...]
    target: str | None = None
    name: str | None = None
    description: str | None = None
    guarantee: Guarantee | None = None

    def __post_init__(self) -> None:
        if isinstance(self.columns, (str, Mapping)) or not isinstance(self.columns, Sequence):
            raise TypeError(
                f"columns must be a list of columns; got {_arrays.describe(self.columns)}"
            )
        for column in self.columns:
            if not isinstance(column, Column):
                raise TypeError(
                    "columns must be Categorical, Boolean, Number or Datetime; got "
                    f"{_arrays.describe(column)}"
                )
        object.__setattr__(self, "columns", tuple(self.columns))
        if not self.columns:
            raise ValueError("columns must hold at least one column; got none")
        repeated = _repeated(self.names)
        if repeated:
            raise ValueError(f"columns must have different names; {repeated[0]!r} occurs twice")
        for key in ("target", "name", "description"):
            value = getattr(self, key)
            if value is not None and not isinstance(value, str):
                raise TypeError(f"{key} must be a string; got {_arrays.describe(value)}")
        if self.target is not None and self.target not in self.names:
            raise ValueError(f"target must name a column; got {self.target!r}")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in order."""
        return tuple(column.name for column in self.columns)

    def __len__(self) -> int:
        return len(self.columns)

    def __iter__(self) -> Iterator[Column]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    # ------------------------------------------------------------------------ against a table

    def validate(self, df: pd.DataFrame) -> pd.DataFrame:
        """Check a table against the schema and return it in the schema's own form.

        Messages may quote a value of the table: they are for the data holder's eyes.

        Parameters
        ----------
        df : pandas.DataFrame, shape (n, number of columns), n >= 1
            The table. Columns may stand in any order.

        Returns
        -------
        pandas.DataFrame
            A new frame: columns in the schema's order and dtypes, unknown categories mapped to
            `other`, numbers and datetimes clipped to their bounds, index 0 to n - 1. Clipping
            is silent, since how much was clipped is a fact about private rows.

        Raises
        ------
        TypeError
            If `df` is no DataFrame, or a column holds values of the wrong kind.
        ValueError
            If the table is empty, a column is missing, unknown or doubled, or a value breaks
            the schema.
        """
        self.check_columns(df)
        return pd.DataFrame({c.name: c.from_numbers(c.to_numbers(df[c.name])) for c in self})

    def check_columns(self, df: pd.DataFrame) -> None:
        """Check the shape of a table, not its values.

        Parameters
        ----------
        df : pandas.DataFrame
            The table.

        Raises
        ------
        TypeError
            If `df` is no DataFrame.
        ValueError
            If it has no rows, or a column is missing, unknown or doubled.
        """
        _check_frame(df, self.names)

    def blocks(
        self, df: pd.DataFrame | Iterable[pd.DataFrame], *, block_rows: int
    ) -> Iterator[pd.DataFrame]:
        """Cut a table, whole or in pieces, into blocks of rows.

        Parameters
        ----------
        df : pandas.DataFrame, or iterable of them
            The table; a piece may be empty, but not all of them.
        block_rows : int
            Most rows per block.

        Yields
        ------
        pandas.DataFrame
            Blocks with the schema's columns, none empty.

        Raises
        ------
        TypeError, ValueError
            As `check_columns`; also if there is no row at all.
        """
        block_rows = _arrays.positive_integer("block_rows", block_rows)
        pieces: Iterable[pd.DataFrame] = [df] if isinstance(df, pd.DataFrame) else df
        if not isinstance(pieces, Iterable) or isinstance(pieces, (str, bytes, Mapping)):
            raise TypeError(
                f"df must be a pandas DataFrame, or an iterable of them; got {type(df).__name__}"
            )
        empty = True
        for piece in pieces:
            if empty or not isinstance(piece, pd.DataFrame) or len(piece) > 0:
                self.check_columns(piece)
            else:
                continue  # a later piece may well be empty; the first one shows the columns
            for first in range(0, len(piece), block_rows):
                yield piece.iloc[first : first + block_rows]
                empty = False
        if empty:
            raise ValueError("df must have at least one row; got no blocks")

    # ------------------------------------------------------------------------------- as a file

    def to_dict(self) -> dict[str, Any]:
        """Return the schema as a JSON-safe dictionary (dates as ISO 8601 text).

        Returns
        -------
        dict
            ``columns`` is a list, so that the order survives tools that sort keys.
        """
        document: dict[str, Any] = {}
        table = self._table_dict()
        if table:
            document["table"] = table
        document["columns"] = [
            {
                "name": column.name,
                **{
                    key: value.isoformat() if isinstance(value, datetime.date) else value
                    for key, value in _column_to_dict(column).items()
                },
            }
            for column in self
        ]
        if self.guarantee is not None:
            document["guarantee"] = self.guarantee.to_dict()
        return document

    def _table_dict(self) -> dict[str, str]:
        values = {key: getattr(self, key) for key in ("name", "description", "target")}
        return {key: value for key, value in values.items() if value is not None}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Schema:
        """Build a schema from `to_dict`'s result, or from the tables of a schema file.

        Parameters
        ----------
        document : mapping
            ``columns``: a list of mappings with ``name``, or a mapping from name to keys;
            optional ``table`` with ``name``, ``description``, ``target``; optional ``guarantee``.

        Returns
        -------
        Schema

        Raises
        ------
        ValueError
            If a key is unknown or missing, or the schema contradicts itself.
        """
        if not isinstance(document, Mapping):
            raise TypeError(f"document must be a mapping; got {_arrays.describe(document)}")
        unknown = [key for key in document if key not in ("table", "columns", "guarantee")]
        if unknown:
            raise ValueError(
                f"a schema has the tables [table], [columns.<name>] and [guarantee]; got "
                f"{unknown[0]!r}"
            )
        given = document.get("columns")
        if isinstance(given, Mapping):
            pairs = list(given.items())
        elif isinstance(given, Sequence) and not isinstance(given, str):
            pairs = []
            for entry in given:
                if not isinstance(entry, Mapping) or "name" not in entry:
                    raise ValueError("each entry of columns must be a table with a name")
                pairs.append((entry["name"], {k: v for k, v in entry.items() if k != "name"}))
        else:
            raise ValueError("a schema must have columns ([columns.<name>] tables)")
        table = table_keys(document)
        columns = [_column_from_dict(name, keys) for name, keys in pairs]
        try:
            return cls(tuple(columns), guarantee=read_guarantee(document), **table)
        except TypeError as error:
            raise ValueError(f"[table]: {error}") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the schema as a TOML file, whole or not at all.

        Parameters
        ----------
        path : str or path-like
            The file; an existing one is replaced.
        """
        document: dict[str, Any] = {}
        table = self._table_dict()
        if table:
            document["table"] = table
        document["columns"] = {column.name: _column_to_dict(column) for column in self}
        if self.guarantee is not None:
            # TOML has no null; the certificate has. So it travels as JSON text.
            document["guarantee"] = {"json": json.dumps(self.guarantee.to_dict())}
        with replacing(path) as handle:
            handle.write(_toml.dumps(document).encode())

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Schema:
        """Read a schema file (TOML), or SDV metadata (JSON).

        Parameters
        ----------
        path : str or path-like
            The file. Its content decides, not its name: JSON starts with a brace.
        overrides : mapping of str to mapping, optional
            For SDV metadata: what it does not say, as in `from_sdv_metadata`.

        Returns
        -------
        Schema

        Raises
        ------
        ValueError
            If the file is not UTF-8, not TOML or JSON, or no consistent schema.
        """
        document, is_sdv = read_document(path)
        if is_sdv:
            return cls.from_sdv_metadata(document, overrides=overrides)
        if overrides is not None:
            raise ValueError("overrides may be given for SDV metadata only, not for a TOML file")
        try:
            return cls.from_dict(document)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    @classmethod
    def from_sdv_metadata(
        cls,
        metadata: Mapping[str, Any],
        *,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> Schema:
        """Build a schema from SDV metadata, which knows types but neither bounds nor categories.

        Parameters
        ----------
        metadata : mapping
            SDV metadata of one table (``columns``), or of several tables of which there is one
            (``tables``).
        overrides : mapping of str to mapping, optional
            For each column, keys of a schema file that complete or replace what the metadata
            says: ``{"age": {"min": 17, "max": 90}}``. None as a value drops the column, as
            identifiers must be.

        Returns
        -------
        Schema

        Raises
        ------
        ValueError
            If the metadata is malformed, or bounds or categories are still missing. To pay for
            them with privacy budget instead, pass `sdv_types(metadata)` to `Schema.infer`.

        Examples
        --------
        >>> metadata = {"columns": {"smoker": {"sdtype": "boolean"}}}
        >>> Schema.from_sdv_metadata(metadata).columns
        (Boolean(name='smoker', nullable=False, weight=1.0),)
        """
        given: Mapping[str, Mapping[str, Any] | None] = overrides if overrides is not None else {}
        known = _sdv_columns(metadata)
        stray = [name for name in given if name not in known]
        if stray:
            raise ValueError(f"overrides: the metadata has no column {stray[0]!r}")
        columns: list[Column] = []
        incomplete: list[str] = []
        for name, keys in known.items():
            extra = given.get(name, {})
            if extra is None:
                continue
            merged: dict[str, Any] = {**({} if "type" in extra else _sdv_type(name, keys)), **extra}
            needed = {"categorical": ("categories",), "boolean": ()}.get(
                str(merged["type"]), ("min", "max")
            )
            absent = [key for key in needed if key not in merged]
            if absent:
                incomplete.append(f"{name!r} ({', '.join(absent)})")
            else:
                columns.append(_column_from_dict(name, merged))
        if incomplete:
            raise ValueError(
                "SDV metadata carries no bounds and no categories; still needed: "
                f"{', '.join(incomplete)}. Give them as overrides, or let Schema.infer estimate "
                "them with part of the privacy budget (types=sdv_types(metadata))"
            )
        return cls(tuple(columns))

    # ------------------------------------------------------------------------------ from data

    @classmethod
    def infer(
        cls,
        df: pd.DataFrame,
        *,
        epsilon: float,
        delta: float,
        types: Mapping[str, str | Column] | Schema | str,
        adjacency: str = "zero_out",
        nullable: bool | Collection[str] = True,
        target: str | None = None,
        prior: Guarantee | None = None,
    ) -> Schema:
        """Estimate bounds and categories from private rows, at a stated privacy cost.

        The work and its proof are in `dpslice.tabular.inference`.

        Parameters
        ----------
        df : pandas.DataFrame, shape (n, number of columns)
            The private table. Its column names, their order and (but under ``add_remove``) n are
            taken as public.
        epsilon, delta : float
            The whole cost, shared by all columns; stated in the result's `guarantee`.
        types : mapping of str to (str or Column), Schema, or "dtypes"
            The public type of every column: integer, real, boolean, datetime (whole seconds),
            date (whole days), categorical (text) or categorical_integer. A Column is taken as
            it is and costs nothing: it must be public, or paid for in `prior`. A Schema stands for
            all its columns and for what it has cost. ``"dtypes"``: the caller declares the frame's
            dtypes to be public knowledge; dtypes that a CSV reader guessed from the values are not.
        adjacency : {"zero_out", "replace_one", "add_remove"}
            Which tables count as neighbours: those of the release that the schema is for.
        nullable : bool or collection of str
            Which columns may have missing values: public knowledge; all by default, since
            whether some value is missing is a fact about private rows.
        target : str, optional
            Target column to note in the schema. Default: that of `types`, if it is a Schema.
        prior : Guarantee, optional
            What was spent on these rows before, where columns in `types` come from an inferred
            schema (its `guarantee`); it becomes part of the result's.

        Returns
        -------
        Schema
            With `guarantee` set (None if no column needed the data, now or before).

        Raises
        ------
        TypeError
            If a column does not hold values of its type.
        ValueError
            If arguments are out of range, types are missing or unknown, or the budget is too
            small to find anything in some column.
        """
        from dpslice.tabular.inference import infer_schema

        return infer_schema(
            df,
            epsilon=epsilon,
            delta=delta,
            types=types,
            adjacency=adjacency,
            nullable=nullable,
            target=target,
            prior=prior,
        )


def _count_outside(values: Numbers, low: float, high: float) -> int:
    return int(np.count_nonzero((values < low) | (values > high)))


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names)


def _check_frame(df: pd.DataFrame, names: Sequence[str]) -> None:
    """Check that a frame has exactly these columns, once each, and at least one row."""
    if not isinstance(df, pd.DataFrame):
        # By its type alone: it may be a row, of an iterable of rows.
        raise TypeError(f"df must be a pandas DataFrame; got {type(df).__name__}")
    present = list(df.columns)
    doubled = _repeated(present)
    if doubled:
        raise ValueError(f"df must have each column once; {doubled[0]!r} occurs twice")
    absent = [name for name in names if name not in present]
    if absent:
        raise ValueError(f"df must have every column of the schema; missing: {_quoted(absent)}")
    extra = [name for name in present if name not in names]
    if extra:
        raise ValueError(
            f"df must have no column beyond the schema's; got {_quoted(extra)} (drop it, or add "
            "it to the schema)"
        )
    if len(df) == 0:
        raise ValueError("df must have at least one row; got an empty table")


def read_guarantee(document: Mapping[str, Any]) -> Guarantee | None:
    """Return what the schema in a document has cost, if it was inferred."""
    stated = document.get("guarantee")
    if stated is None:
        return None
    from dpslice.accounting import Guarantee

    if not isinstance(stated, Mapping):
        raise ValueError("[guarantee] must be a table")
    if set(stated) == {"json"}:
        stated = _parse_json("[guarantee] json", str(stated["json"]))
    return Guarantee.from_dict(dict(stated))


def read_document(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bool]:
    """Read the tables of a schema file, or SDV metadata, without judging what they say.

    Parameters
    ----------
    path : str or path-like
        The file. Its content decides, not its name: JSON starts with a brace.

    Returns
    -------
    document : dict
        What the file holds.
    is_sdv : bool
        Whether it is JSON, hence SDV metadata.

    Raises
    ------
    ValueError
        If the file is not UTF-8, or neither TOML nor JSON.
    """
    raw = Path(path).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a schema must be a UTF-8 text file ({error})") from None
    if text.lstrip().startswith("{"):
        return _parse_json(path, text), True
    document: dict[str, Any] = _parsed(path, "a valid TOML file", tomllib.loads, text)
    return document, False


def table_keys(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a document says of the table as a whole, in known keys alone."""
    table = document.get("table", {})
    if not isinstance(table, Mapping):
        raise ValueError(f"[table] must be a table of keys; got {_arrays.describe(table)}")
    strange = [key for key in table if key not in ("name", "description", "target")]
    if strange:
        raise ValueError(
            f"[table]: unknown key {strange[0]!r}; known keys: name, description, target"
        )
    return table


def _parse_json(source: object, text: str) -> dict[str, Any]:
    document = _parsed(source, "valid JSON", json.loads, text)
    if not isinstance(document, dict):
        raise ValueError(f"{source}: must be a JSON object")
    return document


def _parsed(source: object, what: str, parse: Callable[[str], Any], text: str) -> Any:
    """Parse the text of a file; whatever is wrong with it is a ValueError that names the file."""
    try:
        document = parse(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{source}: not {what}: {error}") from None
    except RecursionError:
        raise ValueError(f"{source}: not a schema: it is nested too deeply") from None
    except ValueError:  # Python's own, of integers beyond sys.get_int_max_str_digits()
        raise ValueError(f"{source}: holds a number of too many digits") from None
    level = [document]
    for _ in range(_DEEPEST):
        parts = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        level = [child for part in parts for child in part]
    if level:
        raise ValueError(f"{source}: not a schema: it is nested too deeply")
    return document


# --------------------------------------------------------------------------------- SDV metadata


def _sdv_columns(metadata: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Find the one table's columns in single-table or multi-table metadata."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping; got {_arrays.describe(metadata)}")
    table: Any = metadata
    if "tables" in metadata:
        tables = metadata["tables"]
        if not isinstance(tables, Mapping) or len(tables) != 1:
            count = len(tables) if isinstance(tables, Mapping) else 0
            raise ValueError(f"SDV metadata must describe exactly one table; got {count}")
        table = next(iter(tables.values()))
    columns = table.get("columns") if isinstance(table, Mapping) else None
    if not isinstance(columns, Mapping) or not columns:
        raise ValueError("SDV metadata must have columns; found neither 'columns' nor 'tables'")
    for name, keys in columns.items():
        if not isinstance(keys, Mapping) or not isinstance(keys.get("sdtype"), str):
            raise ValueError(f"SDV metadata: column {name!r} must have an sdtype")
    return dict(columns)


def _sdv_type(name: str, keys: Mapping[str, Any]) -> dict[str, str]:
    """Return the schema type of an SDV column: ``{"type": ...}``."""
    sdtype = keys["sdtype"]
    if sdtype == "numerical":
        representation = str(keys.get("computer_representation", "Float"))
        whole = representation.startswith(("Int", "UInt"))
        return {"type": "integer" if whole else "real"}
    if sdtype in ("categorical", "boolean", "datetime"):
        return {"type": sdtype}
    raise ValueError(
        f"SDV metadata: column {name!r} has sdtype {sdtype!r}, which names or identifies people "
        "and cannot be synthesized; drop it (overrides={...: None}), or override its type"
    )


def sdv_types(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Column types of SDV metadata, as `Schema.infer` takes them.

    Parameters
    ----------
    metadata : mapping
        SDV metadata of one table.

    Returns
    -------
    dict of str to str
        Name to type, in the metadata's order. A datetime whose format has no time of day becomes
        ``date``. Identifiers and personal sdtypes (id, name, email, ...) are left out: drop those
        columns from the frame.

    Raises
    ------
    ValueError
        If the metadata is malformed.

    Examples
    --------
    >>> sdv_types({"columns": {"age": {"sdtype": "numerical", "computer_representation": "Int64"}}})
    {'age': 'integer'}
    """
    types: dict[str, str] = {}
    for name, keys in _sdv_columns(metadata).items():
        if keys["sdtype"] not in ("numerical", "categorical", "boolean", "datetime"):
            continue
        kind = _sdv_type(name, keys)["type"]
        layout = keys.get("datetime_format")
        if kind == "datetime" and isinstance(layout, str):
            has_time = any(code in layout for code in ("%H", "%I", "%M", "%S", "%X", "%c", "%T"))
            kind = "datetime" if has_time else "date"
        types[name] = kind
    return types
