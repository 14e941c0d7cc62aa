"""The kinds of column: type, categories or bounds, all of them public.

Each is a small frozen class with the same two methods: `to_numbers` checks a column of a frame and
turns it into float64 (category index, number, seconds; NaN where missing), `from_numbers` turns
such numbers back into a column of the schema's dtype.
"""

from __future__ import annotations

import datetime
import math
import numbers
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays

__all__ = ["Boolean", "Categorical", "Column", "Datetime", "Number", "Numbers"]

Numbers = NDArray[np.float64]

LINE, ROW = "line", "row"  # names of an index that tells where rows stand in a file

# Encoding and decoding go through float64, which holds every integer up to the first of these, and
# what lies halfway between two up to the second. Of a step with a fraction, multiples round, and
# so does what lies halfway: up to the third, they stay apart.
LARGEST_CATEGORY = 2**53
LARGEST_INTEGER = 2**52 - 1
_MOST_STEPS = 2**50
_MOST_SHOWN = 10  # unknown categories in a message
_WEIGHTS = (1e-6, 1e6)  # beyond, squares of weights and shares of them lose their digits
_FINEST_STEP = 1e-280  # so that its decimal places can be counted in floats
_STEP_TOLERANCE = 1e-12  # of a multiple
_EPOCH = datetime.datetime(1970, 1, 1)
_FRACTION = re.compile(r":\d\d[.,]\d*[1-9]")  # of a second
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


def _check_common(column: Column) -> None:
    """Check name, nullable and weight, and store the weight as a float."""
    _check_name(column.name)
    _check_flag(column.name, "nullable", column.nullable)
    label = f"column {column.name!r}: weight"
    weight = _arrays.positive_real(label, column.weight)
    if not _WEIGHTS[0] <= weight <= _WEIGHTS[1]:
        raise ValueError(f"{label} must be from {_WEIGHTS[0]:g} to {_WEIGHTS[1]:g}; got {weight:g}")
    _arrays.store(column, weight=weight)


def _as_sequence(name: str, key: str, value: object) -> tuple[Any, ...]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Sequence | np.ndarray):
        raise TypeError(f"column {name!r}: {key} must be a list; got {_arrays.describe(value)}")
    return tuple(v.item() if isinstance(v, np.generic) else v for v in value)


def first_place(series: pd.Series[Any], where: NDArray[np.bool_]) -> str:
    """Say where the first of some cells is, for the data holder: in a file, its line or row.

    How many there are would be said of this piece of a table only, and other labels than numbers
    may name people.
    """
    label = series.index[int(np.flatnonzero(where)[0])]
    if not isinstance(label, numbers.Integral):
        return ""
    place = series.index.name if series.index.name in (LINE, ROW) else "index"
    return f" (the first at {place} {label})"


def _check_missing(column: Column, series: pd.Series[Any], missing: NDArray[np.bool_]) -> None:
    if not column.nullable and missing.any():
        raise ValueError(
            f"column {column.name!r}: missing values{first_place(series, missing)}, but the schema "
            "does not declare it nullable (nullable = true)"
        )


def _wholly_missing(column: Column, series: pd.Series[Any]) -> Numbers | None:
    """NaN for every row if no value is there at all: such a column's dtype says nothing."""
    if len(series) and pd.api.types.is_scalar(series.iloc[0]) and pd.isna(series.iloc[0]):
        missing = series.isna().to_numpy(dtype=bool)
        if missing.all():
            _check_missing(column, series, missing)
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


def as_moment(label: str, value: object) -> datetime.date:
    """Return a date, or a local time to the second, of ISO text or of what else stands for one.

    A person names it, so one that is finer is a mistake, where a table's are cut off.
    """
    finer = f"{label} must be a date, or a time to the second; got {{}}"
    if isinstance(value, str):
        if _FRACTION.search(value):  # of which Python reads six digits
            raise ValueError(finer.format(repr(value)))
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
        if value.nanosecond:
            raise ValueError(finer.format(value.isoformat()))
        value = value.to_pydatetime()
    # NaT is a datetime, as far as Python knows.
    if value is pd.NaT or not isinstance(value, datetime.date):
        raise TypeError(f"{label} must be a date or a time; got {_arrays.describe(value)}")
    if isinstance(value, datetime.datetime):
        if value.tzinfo is not None:
            raise ValueError(f"{label} must be without time zone; got {value.isoformat()}")
        if value.microsecond:
            raise ValueError(finer.format(value.isoformat()))
    return value


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

    if TYPE_CHECKING:  # what the fields are made of

        def __init__(
            self,
            name: str,
            categories: Sequence[str] | Sequence[int],
            other: str | int | None = None,
            nullable: bool = False,
            weight: float = 1.0,
        ) -> None: ...

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
        if integers and any(abs(c) > LARGEST_CATEGORY for c in categories):
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
        _arrays.store(self, categories=categories)

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
        gone = _wholly_missing(self, series)
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
        _check_missing(self, series, missing)
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
        taken = np.asarray(self.categories, dtype=np.int64)[index]
        return _integer_series(self, taken, missing)


def _integer_series(
    column: Column, values: NDArray[np.int64], missing: NDArray[np.bool_]
) -> pd.Series[Any]:
    if column.nullable:
        return pd.Series(pd.arrays.IntegerArray(values, missing), name=column.name)
    return pd.Series(values, name=column.name)


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
        gone = _wholly_missing(self, series)
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
        _check_missing(self, series, missing)
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


class _Bounded(ABC):
    """What columns within bounds share: counts of the values that are changed."""

    @abstractmethod
    def _compared(
        self, series: pd.Series[Any]
    ) -> tuple[Numbers, tuple[float, float], NDArray[np.bool_]]:
        """Return values before they are clipped, NaN where missing, bounds, and what is rounded."""

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
        values, (low, high), _ = self._compared(series)
        return int(np.count_nonzero((values < low) | (values > high)))

    def rounded(self, series: pd.Series[Any]) -> int:
        """Count the values that are rounded to the step, or cut to whole days or seconds.

        Those outside the bounds are left to `outside`. For the data holder's eyes, too.

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
        values, (low, high), changed = self._compared(series)
        return int(np.count_nonzero((values >= low) & (values <= high) & changed))


@dataclass(frozen=True)
class Number(_Bounded):
    """A column of integers or of real numbers within public bounds.

    Parameters
    ----------
    name : str
        Name of the column.
    type : {"integer", "real"}
        Kind of the numbers; decoded integers are whole.
    min, max : float or int
        Public bounds; values outside are clipped. Whole, and within ±(2**52 - 1), for
        integers.
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
        synthetic ones. It divides `min` and `max`, which lie within 2**50 steps, and is whole for
        integers.

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

    if TYPE_CHECKING:  # what the fields are made of

        def __init__(
            self,
            name: str,
            type: str,
            min: float,
            max: float,
            nullable: bool = False,
            special: Sequence[float] = (),
            scale: str = "linear",
            weight: float = 1.0,
            step: float | None = None,
        ) -> None: ...

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
        _arrays.store(self, min=low, max=high, special=special)
        if self.step is not None:
            _arrays.store(self, step=self._checked_step())
        low, high = self.regular_bounds
        first, last = (low, high) if self.step is None else step_numbers(low, high, self.step)
        if not first < last:
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
            if step < _FINEST_STEP or abs(bound) > step * _MOST_STEPS:
                raise ValueError(
                    f"column {self.name!r}: step must be at least {_FINEST_STEP:g}, and {key} "
                    f"within 2**50 of them; got step = {step!r}, {key} = {bound!r}"
                )
            if not math.isclose(round(bound / step) * step, bound, rel_tol=_STEP_TOLERANCE):
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
        if abs(exact) > LARGEST_INTEGER:
            raise ValueError(
                f"{label} must lie within ±(2**52 - 1) (type = 'integer'); got {value!r}; declare "
                "type = 'real', or categories"
            )
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
        return self._stepped(np.clip(checked_numbers(self, series), self.min, self.max))

    def _compared(
        self, series: pd.Series[Any]
    ) -> tuple[Numbers, tuple[float, float], NDArray[np.bool_]]:
        values = checked_numbers(self, series)
        changed = np.abs(self._stepped(values) - values) > self._slack(values)
        low, high = np.array([self.min, self.max], dtype=np.float64)
        return values, (low - self._slack(low), high + self._slack(high)), changed

    def _slack(self, values: Numbers) -> Numbers:
        """Return how far off numbers may be that stand for multiples of a fractional step.

        Those that were read from a file, and bounds, need not be one to the last bit.
        """
        if self.step is None or self.type == "integer":
            return np.zeros_like(values)
        return np.asarray(np.minimum(_STEP_TOLERANCE * np.abs(values), self.step / 4.0))

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
        return _integer_series(self, whole, missing)


@dataclass(frozen=True)
class Datetime(_Bounded):
    """A column of dates or of local times within public bounds.

    Parameters
    ----------
    name : str
        Name of the column.
    min, max : datetime.date, datetime.datetime or ISO 8601 str
        Public bounds, without time zone; values outside are clipped. Two dates make a column of
        whole days, two times to the second one of whole seconds: finer parts of values are cut off.
    nullable : bool
        Whether values may be missing.
    weight : float
        Factor of the column's size in the encoded row.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If a bound is no date, or finer than a second, or min is not before max.
    """

    name: str
    min: datetime.date
    max: datetime.date
    nullable: bool = False
    weight: float = 1.0

    type: ClassVar[str] = "datetime"

    if TYPE_CHECKING:  # what the fields are made of

        def __init__(
            self,
            name: str,
            min: datetime.date | str,
            max: datetime.date | str,
            nullable: bool = False,
            weight: float = 1.0,
        ) -> None: ...

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
        _arrays.store(self, min=low, max=high)

    def _bound(self, key: str, value: object) -> datetime.date:
        return as_moment(f"column {self.name!r}: {key}", value)

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
        seconds, _ = self._checked(series)
        return np.floor(np.clip(seconds, *self.bounds_seconds) / self.unit) * self.unit

    def _compared(
        self, series: pd.Series[Any]
    ) -> tuple[Numbers, tuple[float, float], NDArray[np.bool_]]:
        seconds, finer = self._checked(series)
        cut = np.floor(seconds / self.unit) * self.unit
        return cut, self.bounds_seconds, (cut != seconds) | finer

    def _checked(self, series: pd.Series[Any]) -> tuple[Numbers, NDArray[np.bool_]]:
        """Whole seconds since 1970, NaN where missing, and whether more than they was there."""
        gone = _wholly_missing(self, series)
        if gone is not None:
            return gone, np.zeros(len(gone), dtype=bool)
        kind = _inferred(series)
        stamps = series.to_numpy()
        objects = stamps.dtype == object  # as those of pyarrow's types are that NumPy lacks
        if objects and any(getattr(value, "tzinfo", None) is not None for value in stamps):
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
        _check_missing(self, series, missing)
        if objects:
            filled = [_EPOCH if gone else v for v, gone in zip(stamps, missing, strict=True)]
            stamps = np.array(filled, dtype="datetime64[us]")
        whole = stamps.astype("datetime64[s]")  # rounded down, before 1970 too
        seconds = np.where(missing, np.nan, whole.astype(np.int64).astype(np.float64))
        return seconds, (stamps != whole) & ~missing

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
        stamps[missing] = np.datetime64("NaT", "s")  # NumPy 2.5 deprecates one without a unit
        return pd.Series(stamps.astype(self.numpy_dtype), name=self.name)


Column = Categorical | Boolean | Number | Datetime
_CLASS_OF_TYPE: dict[str, type[Categorical | Boolean | Number | Datetime]] = {
    "integer": Number,
    "real": Number,
    "categorical": Categorical,
    "boolean": Boolean,
    "datetime": Datetime,
}


def column_from_dict(name: str, keys: Mapping[str, Any]) -> Column:
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


def column_to_dict(column: Column) -> dict[str, Any]:
    """Keys of a column as a schema file writes them; defaults are left out."""
    keys: dict[str, Any] = {"type": column.type}
    for field in fields(column):
        value = getattr(column, field.name)
        if field.name in ("name", "type") or value == field.default:
            continue
        keys[field.name] = list(value) if isinstance(value, tuple) else value
    return keys


def checked_numbers(column: Number, series: pd.Series[Any]) -> Numbers:
    """Return the numbers as they are, NaN where missing, or raise as `Number.to_numbers`."""
    gone = _wholly_missing(column, series)
    if gone is not None:
        return gone
    values = _float_column(column.name, series, column.type)
    missing = np.isnan(values)
    _check_missing(column, series, missing)
    infinite = np.isinf(values)
    if infinite.any():
        raise ValueError(
            f"column {column.name!r}: holds infinite values{first_place(series, infinite)}; "
            "numbers must be finite"
        )
    broken = ~missing & (np.rint(values) != values)
    if column.type == "integer" and broken.any():
        raise ValueError(
            f"column {column.name!r}: holds numbers that are not whole"
            f"{first_place(series, broken)}, but the schema says type = 'integer'; declare "
            "type = 'real'"
        )
    return values


def step_numbers(low: float, high: float, step: float) -> tuple[int, int]:
    """Return the numbers of the first and the last multiple of a step within some bounds.

    Where something is not whole, or rounded, the bounds are multiples themselves, but for rounding:
    as floats, 0.3 / 0.1 is less than 3.
    """
    exact = (float(value).is_integer() and abs(value) <= 2**53 for value in (low, high, step))
    if all(exact):
        return -(-int(low) // int(step)), int(high) // int(step)
    return round(low / step), round(high / step)


def held_number(subject: str, column: Column, value: Any) -> float:
    """Return a value as `Column.to_numbers` has it, or raise unless the column can hold it.

    What tables hold is clipped, rounded and mapped to `other`; where a person names a value, one
    outside the bounds or an unknown level is a mistake.

    Parameters
    ----------
    subject : str
        What the value is named by, with a verb, as in "conditions must be".
    column : Column
        The column.
    value : object
        A scalar as a table would hold it.

    Returns
    -------
    float
        NaN for a missing value.

    Raises
    ------
    TypeError
        If the value is not of the column's kind.
    ValueError
        If the column cannot hold it.
    """
    rule = f"{subject} values that column {column.name!r} can hold"
    levels = column.categories if isinstance(column, Categorical) else None
    if levels is not None and not pd.isna(value) and value not in levels:
        raise ValueError(
            f"{rule}; got {_arrays.describe(value)}, which is not among the schema's categories"
        )
    if pd.isna(value) and not column.nullable:
        raise ValueError(f"{rule}; got a missing value, and the column is not nullable")
    try:
        number = column.to_numbers(pd.Series([value], name=column.name))
    except OverflowError:  # an integer that no float holds
        raise ValueError(f"{rule}; got {_arrays.describe(value)}") from None
    except (TypeError, ValueError) as error:  # which is about the cells of a table
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(f"{rule}, {_called(column)}; got {_arrays.describe(value)}") from None
    kept, grid = True, ""
    if isinstance(column, Number) and not pd.isna(value):
        kept = float(number[0]) == float(value)
        grid = f" in steps of {column.step:g}" if column.step is not None else ""
    elif isinstance(column, Datetime) and not pd.isna(value):
        grid = " in whole days" if column.whole_days else " in whole seconds"
        kept = column.from_numbers(number)[0] == pd.Timestamp(value)
    if not kept:
        raise ValueError(f"{rule}, within its bounds{grid}; got {value}")
    return float(number[0])


def _called(column: Column) -> str:
    """Say what kind of values a column holds."""
    if isinstance(column, Number):
        return "whole numbers" if column.type == "integer" else "finite numbers"
    if isinstance(column, Categorical):
        return "strings" if column.is_text else "integers"
    return "true or false" if isinstance(column, Boolean) else "dates or times without time zone"
