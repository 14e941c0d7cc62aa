"""Structural zeros: combinations of values that no row has, as a schema states them.

A rule is a mapping from names of columns to values, and says that no row has all of these at once.
Everything here follows from the schema, which is public: a release does not depend on rules, only
what is made of it does. `broken_rules` is the one place where rules meet rows.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.tabular._places import special_values, step_of
from dpslice.tabular.columns import (
    Boolean,
    Categorical,
    Column,
    Datetime,
    Number,
    Numbers,
    as_moment,
    held_number,
)

__all__ = ["Rule"]

Flags = NDArray[np.bool_]

_KEYS = ("min", "max", "not", "missing")  # of a table in a rule
_EPOCH = datetime.datetime(1970, 1, 1)


@dataclass(frozen=True)
class Part:
    """What a rule, or a condition of a sample, says of one column.

    `values` are what a schema file holds: of a range its two ends, None where open; of ``missing``
    one boolean; among those of a condition, None may be a missing value. `numbers` are the same as
    `Column.to_numbers` has them.
    """

    column: str
    kind: str  # "one of", "not", "range" or "missing"
    values: tuple[Any, ...]
    numbers: tuple[float, ...] = ()

    def holds(self, values: Numbers) -> Flags:
        """Tell which of a column's numbers, NaN where missing, are those that are meant."""
        missing = np.isnan(values)
        if self.kind == "missing":
            return missing if self.values[0] else ~missing
        if self.kind == "range":
            low, high = self.numbers
            return (values >= low) & (values <= high)  # NaN is in no range
        among = np.isin(values, self.numbers)  # as which NaN never counts
        if self.kind == "not":
            return ~missing & ~among
        return among | missing if any(map(math.isnan, self.numbers)) else among

    def spelled(self) -> Any:
        """Return the part as a schema file spells it."""
        if self.kind == "missing":
            return {"missing": self.values[0]}
        if self.kind == "range":
            return {
                key: value
                for key, value in zip(("min", "max"), self.values, strict=True)
                if value is not None
            }
        values = self.values[0] if len(self.values) == 1 else list(self.values)
        return values if self.kind == "one of" else {"not": values}

    def __str__(self) -> str:
        if self.kind == "missing":
            return f"{self.column} is {'' if self.values[0] else 'not '}missing"
        texts = ["" if value is None else _text(value) for value in self.values]
        if self.kind == "range":
            low, high = texts
            if low and high:
                return f"{self.column} from {low} to {high}"
            return f"{self.column} at {'least' if low else 'most'} {low or high}"
        verb = "is" if self.kind == "one of" else "is not"
        if len(texts) > _MOST_SHOWN:
            texts = [*texts[:_MOST_SHOWN], f"{len(texts) - _MOST_SHOWN} more"]
        return f"{self.column} {verb} {' or '.join(texts)}"


_MOST_SHOWN = 3  # values of a column in a message


def _text(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime.date) else _arrays.describe(value)


@dataclass(frozen=True, repr=False)
class Rule:
    """A combination of values that no row has; made of a mapping by `Schema`.

    Rules are equal if they say the same of the same columns, in whatever order these are named. As
    text, a rule is put into words.

    Parameters
    ----------
    parts : tuple
        What is said of each column, in the schema's order.

    Examples
    --------
    >>> from dpslice.tabular import Boolean, Number, Schema
    >>> columns = [Number("age", "integer", 0, 99), Boolean("married")]
    >>> schema = Schema(columns, impossible=[{"married": True, "age": {"max": 15}}])
    >>> print(schema.impossible[0])
    age at most 15 and married is True
    >>> schema.impossible[0].to_dict()
    {'age': {'max': 15}, 'married': True}
    """

    parts: tuple[Part, ...]

    def __repr__(self) -> str:
        return f"Rule({self.to_dict()!r})"

    def __str__(self) -> str:
        return " and ".join(map(str, self.parts))

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the rule is about."""
        return tuple(part.column for part in self.parts)

    def to_dict(self) -> dict[str, Any]:
        """Return the mapping that the rule is made of, as a schema file spells it.

        Returns
        -------
        dict
            Values are strings, numbers, booleans, dates and times, lists of them, or a dict.
        """
        return {part.column: part.spelled() for part in self.parts}


# ---------------------------------------------------------------------------------------- reading


def read_rules(given: object, columns: Sequence[Column]) -> tuple[Rule, ...]:
    """Read the rules of a schema, and check that they leave rows possible.

    Parameters
    ----------
    given : sequence of mappings or of Rule
        As `Schema` takes them.
    columns : sequence of Column
        The schema's columns.

    Returns
    -------
    tuple of Rule

    Raises
    ------
    TypeError
        If something is of the wrong kind.
    ValueError
        If a rule names no column, a value that its column cannot hold, or says nothing; if a rule
        is there twice; or if the rules leave no row possible, as far as one column after the other
        tells. All messages name the rule, from 1 on.
    """
    if isinstance(given, (str, bytes, Mapping, Rule)) or not isinstance(given, Iterable):
        raise TypeError(
            "impossible must be a list of rules, in a file [[impossible]] tables; got "
            f"{_arrays.describe(given)}"
        )
    named = {column.name: column for column in columns}
    seen: dict[Rule, int] = {}
    for i, entry in enumerate(given, 1):
        rule = _read_rule(f"impossible rule {i}", entry, named)
        if rule in seen:
            raise ValueError(f"impossible rule {i} ({rule}) repeats rule {seen[rule]}")
        seen[rule] = i
    rules = tuple(seen)
    dead_end = contradicted(rules, named)
    if dead_end is not None:
        others = " beside the other rules" if len(rules) > 1 else ""
        raise ValueError(
            f"impossible rule {dead_end + 1} ({rules[dead_end]}) must leave some rows possible"
            f"{others}; it leaves none"
        )
    return rules


def _read_rule(label: str, entry: object, named: Mapping[str, Column]) -> Rule:
    if isinstance(entry, Rule):
        entry = entry.to_dict()  # it may have been of other columns
    if not isinstance(entry, Mapping):
        raise TypeError(
            f"{label} must map names of columns to values; got {_arrays.describe(entry)}"
        )
    if not entry:
        raise ValueError(f"{label} must name at least one column; got none")
    strange = [name for name in entry if name not in named]
    if strange:
        raise ValueError(f"{label} must name columns of the table; got {strange[0]!r}")
    return Rule(
        tuple(
            read_part(label, column, entry[name], named=f"{label}: rules must name")
            for name, column in named.items()
            if name in entry
        )
    )


def read_part(
    label: str, column: Column, given: Any, *, named: str, missing_among: bool = False
) -> Part:
    """Read what is said of one column: a value, a list of values, or a table of `_KEYS`.

    Parameters
    ----------
    label : str
        What messages begin with, such as "impossible rule 3".
    column : Column
        The column.
    given : object
        What is said of it.
    named : str
        What messages about a value begin with, as `held_number` needs it.
    missing_among : bool
        Whether a missing value may stand among others, and alone is no more than one of them.

    Returns
    -------
    Part

    Raises
    ------
    TypeError
        If something is of the wrong kind.
    ValueError
        If it says nothing, or nothing that the column can hold.
    """
    about = f"{label}: column {column.name!r}"
    if isinstance(given, Mapping):
        part = _read_table(label, column, given, named)
    elif _is_missing(given) and not missing_among:
        part = _missing(about, column, True)
    else:
        values = _read_values(label, column, given, named, missing_among)
        part = Part(column.name, "one of", *values)
    if not part.holds(_representatives(column, [part])).any():
        raise ValueError(
            f"{about}: no value that it can hold is meant by {_arrays.describe(given)}"
        )
    return part


def _read_table(label: str, column: Column, given: Mapping[str, Any], named: str) -> Part:
    about = f"{label}: column {column.name!r}"
    unknown = [key for key in given if key not in _KEYS]
    if unknown:
        raise ValueError(f"{about}: unknown key {unknown[0]!r}; known keys: {', '.join(_KEYS)}")
    if not given or (len(given) > 1 and set(given) != {"min", "max"}):
        raise ValueError(
            f"{about} must have min, max or both, or one of not and missing alone; got "
            f"{_arrays.describe(dict(given))}"
        )
    if "missing" in given:
        return _missing(about, column, given["missing"])
    if "not" in given:
        return Part(column.name, "not", *_read_values(label, column, given["not"], named))
    if not isinstance(column, Number | Datetime):
        raise ValueError(
            f"{about}: min and max are for numbers and datetimes; the column is of type "
            f"{column.type!r}"
        )
    ends: list[Any] = []
    at: list[float] = []
    for key, open_end in (("min", -math.inf), ("max", math.inf)):
        if key in given:
            end, number = _read_end(f"{about}: {key}", column, given[key])
        else:
            end, number = None, open_end
        ends.append(end)
        at.append(number)
    if at[0] > at[1]:
        raise ValueError(
            f"{about}: min must not be greater than max; got min = {_text(ends[0])}, "
            f"max = {_text(ends[1])}"
        )
    return Part(column.name, "range", tuple(ends), tuple(at))


def _read_end(label: str, column: Number | Datetime, given: object) -> tuple[Any, float]:
    """One end of a range, which may lie outside the column's bounds, and its number."""
    if isinstance(column, Datetime):
        when = _read_moment(label, column, given)
        midnight = datetime.datetime(when.year, when.month, when.day)
        start = when if isinstance(when, datetime.datetime) else midnight
        return when, (start - _EPOCH).total_seconds()
    number = _arrays.finite_real(label, given)
    if column.type == "real":
        return number, number
    if number != int(number):
        raise ValueError(f"{label} must be whole (type = 'integer'); got {_arrays.describe(given)}")
    return int(number), number


def _read_moment(label: str, column: Datetime, given: object) -> datetime.date:
    """Return a date or a time, whichever the column's own bounds are."""
    when = as_moment(label, pd.Timestamp(given) if isinstance(given, np.datetime64) else given)
    if column.whole_days and isinstance(when, datetime.datetime):
        if when.time() == datetime.time():  # as tables hold dates
            return when.date()
        raise ValueError(f"{label} must be a date, as the column's bounds are; got {_text(when)}")
    if not column.whole_days and not isinstance(when, datetime.datetime):
        # The whole day, or its first second? A rule is not to be guessed.
        raise ValueError(
            f"{label} must be a time such as 2019-01-31T12:00:00, as the column's bounds are; got "
            f"{_text(when)}"
        )
    return when


def _missing(about: str, column: Column, given: object) -> Part:
    missing = _arrays.boolean(f"{about}: missing", given)
    if not column.nullable:
        raise ValueError(
            f"{about}: missing is for columns that are nullable; no value of this one is missing"
        )
    return Part(column.name, "missing", (missing,))


def _is_missing(value: Any) -> bool:
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _read_values(
    label: str, column: Column, given: Any, named: str, missing_among: bool = False
) -> tuple[tuple[Any, ...], tuple[float, ...]]:
    """One value, or a list of them, and their numbers."""
    about = f"{label}: column {column.name!r}"
    several = isinstance(given, Sequence | np.ndarray) and not isinstance(given, str | bytes)
    listed = list(given) if several else [given]
    if not listed:
        raise ValueError(f"{about} must have at least one value; got an empty list")
    values: list[Any] = []
    found: list[float] = []
    for each in listed:
        value, number = _read_value(label, column, each, named, missing_among)
        if number in found:  # also NaN, which is one object
            raise ValueError(f"{about}: values must differ; {_text(value)} occurs twice")
        values.append(value)
        found.append(number)
    return tuple(values), tuple(found)


def _read_value(
    label: str, column: Column, given: Any, named: str, missing_among: bool
) -> tuple[Any, float]:
    """One value, as a schema file would hold it, and its number."""
    about = f"{label}: column {column.name!r}"
    if not pd.api.types.is_scalar(given):
        raise TypeError(
            f"{about} must have a value, a list of values, or a table with {', '.join(_KEYS)}; got "
            f"{_arrays.describe(given)}"
        )
    missing = _is_missing(given)
    if missing and not missing_among:
        raise ValueError(f"{about}: missing ones must not stand among values; name them alone")
    value: Any = given
    if isinstance(column, Datetime) and not missing:
        value = _read_moment(about, column, given)
    number = held_number(named, column, value)
    if missing:
        return None, math.nan
    if isinstance(column, Categorical):
        return column.categories[int(number)], number
    if isinstance(column, Boolean):
        return bool(number), number
    if isinstance(column, Number):
        return (int(number) if column.type == "integer" else number), number
    return value, number


# ------------------------------------------------------------------------------ what they leave


def contradicted(
    rules: Sequence[Rule], columns: Mapping[str, Column], given: Mapping[str, Part] | None = None
) -> int | None:
    """Find a rule that forbids every row, as far as one column after the other tells.

    Where all but one column of a rule can only have the values that the rule names, that column
    can have none of them; and so on, until nothing changes. A contradiction that takes cases to
    find is not found: that may take exponential time.

    Parameters
    ----------
    rules : sequence of Rule
        The rules.
    columns : mapping from str to Column
        Columns by name.
    given : mapping from str to Part, optional
        What columns are to be, by name.

    Returns
    -------
    int or None
        Position of a rule that every row breaks that meets the others.
    """
    left: dict[str, Numbers] = {}
    for name, column in columns.items():
        about = [part for rule in rules for part in rule.parts if part.column == name]
        if about and given is not None and name in given:
            found = _representatives(column, [*about, given[name]])
            left[name] = found[given[name].holds(found)]
        elif about:
            left[name] = _representatives(column, about)
    changed = True
    while changed:
        changed = False
        for i, rule in enumerate(rules):
            meant = {part.column: part.holds(left[part.column]) for part in rule.parts}
            open_ones = [name for name, flags in meant.items() if not flags.all()]
            if not open_ones:
                return i
            name = open_ones[0]
            if len(open_ones) == 1 and meant[name].any():
                left[name] = left[name][~meant[name]]
                changed = True
    return None


def _representatives(column: Column, parts: Iterable[Part]) -> Numbers:
    """Numbers of a column's values, at least one of those that no part tells apart."""
    if isinstance(column, Number | Datetime):
        low, high = (
            column.bounds_seconds
            if isinstance(column, Datetime)
            else (float(column.min), float(column.max))
        )
        ends = [number for part in parts for number in part.numbers if not math.isnan(number)]
        cuts = np.unique(np.clip([low, high, *special_values(column), *ends], low, high))
        step = step_of(column)
        if step is None:
            found = np.concatenate([cuts, 0.5 * cuts[:-1] + 0.5 * cuts[1:]])
        else:  # the values next to each cut, on either side of it
            near = (np.rint(cuts / step)[:, None] + [-1.0, 0.0, 1.0]) * step
            found = np.clip(np.concatenate([cuts, near.ravel()]), low, high)
        found = np.unique(column.to_numbers(column.from_numbers(found)))
    else:
        found = np.arange(len(column.categories) if isinstance(column, Categorical) else 2.0)
    return np.append(found, np.nan) if column.nullable else found


# --------------------------------------------------------------------------------- against rows


def broken_rules(df: pd.DataFrame, rules: Sequence[Rule], columns: Mapping[str, Column]) -> Flags:
    """Tell which rows break which rules.

    Parameters
    ----------
    df : pandas.DataFrame, n rows
        A table with the columns that rules are about, at least.
    rules : sequence of Rule
        The rules.
    columns : mapping from str to Column
        Columns by name.

    Returns
    -------
    ndarray, shape (n, number of rules), bool

    Raises
    ------
    TypeError, ValueError
        As `Column.to_numbers`.
    """
    broken = np.ones((len(df), len(rules)), dtype=bool)
    if len(df) == 0:  # whose columns may have no type
        return broken
    values: dict[str, Numbers] = {}
    for i, rule in enumerate(rules):
        for part in rule.parts:
            if part.column not in values:
                values[part.column] = columns[part.column].to_numbers(df[part.column])
            broken[:, i] &= part.holds(values[part.column])
    return broken
