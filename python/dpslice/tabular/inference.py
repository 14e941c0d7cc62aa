r"""Schemas estimated from private rows: noisy histograms of categories and of magnitudes.

What is public
    The column names and their order, the number of rows n (not under ``add_remove``), the type of
    every column, and which columns may have missing values. Types and missingness are not looked
    up in the data, for "every value is whole" and "some value is missing" are facts about private
    rows: the caller states them.

Mechanism
    One histogram per column that needs the data, with independent discrete Gaussian noise of one
    variance :math:`\sigma^2` on every count, drawn exactly (`dpslice.tabular._noise`).

    * Categories are unknown, so only observed ones are counted, and one is published if its noisy
      count reaches a threshold T. The rest share a level (`OTHER`) if the noisy counts leave many
      rows over, and else are mapped to the most frequent category: post-processing.
    * Numbers fall into bins fixed beforehand: eight per octave of their magnitude, for either
      sign, and one for zero; datetimes into the months of four centuries. Every bin gets noise.
      Bounds are then read from the noisy counts, and so are the decisions for a state of its own
      for zero and for a logarithmic scale: post-processing.
    * Missing values of a column that may have them are a bin of its histogram (but of months, where
      nothing depends on their number), which gets noise even if there are none.
    * Under ``add_remove`` the rows are counted too, with the same noise, in a histogram of one bin.

Neighbours
    Under ``zero_out`` the record of one table is the null record in the other, which falls into no
    bin of any histogram, that of missing values included (and is the zero row of a release). Let
    there be m histograms. Under ``zero_out`` and ``add_remove`` a record changes at most one count
    in each, by 1: k = m changes. Under ``replace_one`` at most two in each: k = 2m. The r records
    of one person, all changed together, change counts by r in all: as much as r squared changes by
    1, if all fall into the same bins.

Privacy
    Let X, X' be neighbours and S the categories (of any of the c categorical columns) that occur
    in X but not in X'. Only the changed records have them, so each has a count of r in X at most,
    and there are at most r per column. Let M be the mechanism and M* the same with the categories
    in S (and, for X', those in X' only) suppressed.

    1. M*(X) and M*(X') are functions of noisy counts of the same bins, whose differences have
       squares that add up to :math:`k r^2` at most. Discrete Gaussian noise gives Renyi divergence
       at most :math:`\alpha k r^2/(2\sigma^2)` for every order (Canonne, Kamath and Steinke,
       arXiv:2004.00010, Proposition 5, Theorem 14), hence :math:`(\epsilon_1, \delta_1)` by their
       Proposition 12.
    2. With :math:`\tau \ge r \Pr[r + Y \ge T]`, no category of S passes the threshold with
       probability at least :math:`1 - c\tau`, independently of all other counts. So, for any
       set A of outputs, :math:`\Pr[M(X) \in A] \le \Pr[M^*(X) \in A] + c\tau` and
       :math:`\Pr[M(X') \in A] \ge (1 - c\tau) \Pr[M^*(X') \in A]`.
    3. Together M is :math:`(\epsilon_1 + \ln(1/(1 - c\tau)),\ \delta_1 + c\tau)`-DP, and these are
       the epsilon and delta asked for. In particular a category that one person alone has is
       published with probability at most delta.
"""

from __future__ import annotations

import datetime
import math
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.accounting import SUM_ADJACENCIES, Guarantee
from dpslice.accounting._adjacency import checked_rows_per_person, notes_on_people
from dpslice.release import with_earlier_costs
from dpslice.tabular._documents import write_document
from dpslice.tabular._noise import discrete_gaussian, discrete_gaussian_tail
from dpslice.tabular.columns import (
    LARGEST_CATEGORY,
    LARGEST_INTEGER,
    Boolean,
    Categorical,
    Column,
    Datetime,
    Number,
    checked_numbers,
    column_to_dict,
    first_place,
)
from dpslice.tabular.rules import Rule, read_rules
from dpslice.tabular.schema import Schema

__all__ = ["OTHER", "InferenceError", "infer_schema"]

# Level of an inferred text column that stands for every category that was not published. It is
# made only where noticeably many rows need it; elsewhere a stray unpublished category is mapped to
# the most frequent level.
OTHER = "<other>"

_TYPES = (
    "integer",
    "real",
    "boolean",
    "datetime",
    "date",
    "categorical",
    "categorical_integer",
)

# Bins per octave. More would find tighter bounds in large tables and lose the tails in small ones.
_BINS_PER_OCTAVE = 8
_REAL_OCTAVES = (-40, 60)  # 1e-12 to 1e18
_INTEGER_OCTAVES = (0, 52)  # as far as bounds of integers lie
_FIRST_YEAR, _LAST_YEAR = 1800, 2199

# Probability that any bin without data is taken for one with data: costs accuracy, not privacy.
_FALSE_ALARM = 1e-3
# Windows of up to 2**6 neighbouring bins are pooled in search of thin tails.
_WIDEST_WINDOW = 64
# Rows beyond the published categories are noticed if they exceed this many standard deviations.
_NOTICEABLE = 3.0
# Zero becomes a state of its own if this share of the rows is zero.
_ZERO_INFLATED = 0.5
# The scale is logarithmic if the range is this many times the distance from min to the median.
_HEAVY_TAIL = 10.0


def infer_schema(
    df: pd.DataFrame,
    *,
    epsilon: float,
    delta: float,
    types: Mapping[str, str | Column] | Schema | str,
    adjacency: str = "zero_out",
    nullable: bool | Collection[str] = True,
    target: str | None = None,
    prior: Guarantee | None = None,
    impossible: Sequence[Rule | Mapping[str, object]] | None = None,
    rows_per_person: int = 1,
) -> Schema:
    """Estimate bounds and categories from private rows: `Schema.infer`, and the module's text."""
    epsilon = _arrays.positive_real("epsilon", epsilon)
    delta = _arrays.open_unit("delta", delta)
    _arrays.choice("adjacency", adjacency, SUM_ADJACENCIES)
    if isinstance(types, Schema) and target is None:
        target = types.target
    if isinstance(types, Schema) and impossible is None:
        impossible = types.impossible
    unit = checked_rows_per_person(rows_per_person)
    types, prior = _earlier(types, prior, adjacency, unit)
    kinds = _public_types(df, types, target)
    may_miss = _public_missingness(nullable, tuple(kinds))
    rules = checked_rules(impossible, kinds, [name for name in kinds if may_miss[name]])

    paid = [n for n, kind in kinds.items() if isinstance(kind, str) and kind != "boolean"]
    unknown_domain = [n for n in paid if str(kinds[n]).startswith("categorical")]
    if not paid:
        fixed = tuple(
            Boolean(name, nullable=may_miss[name]) if isinstance(kind, str) else kind
            for name, kind in kinds.items()
        )
        return Schema(fixed, target=target, guarantee=prior, impossible=rules)

    noise = _Noise(
        epsilon,
        delta,
        histograms=len(paid),
        open_histograms=len(unknown_domain),
        adjacency=adjacency,
        rows_per_person=unit,
    )
    rows = noise.number_of_rows(len(df))
    columns: dict[str, Column] = {}
    without: list[str] = []
    for name, kind in kinds.items():
        try:
            if not isinstance(kind, str):
                columns[name] = kind
            elif kind == "boolean":
                columns[name] = Boolean(name, nullable=may_miss[name])
            elif kind in ("categorical", "categorical_integer"):
                columns[name] = _infer_categories(df[name], name, kind, may_miss[name], rows, noise)
            elif kind in ("datetime", "date"):
                columns[name] = _infer_period(df[name], name, kind, may_miss[name], noise)
            else:
                columns[name] = _infer_bounds(df[name], name, kind, may_miss[name], rows, noise)
        except _NothingFound as nothing:
            without.append(f"column {name!r}: no {nothing} stands out from the noise")
    cost = noise.guarantee(n=None if noise.counts_rows else len(df))
    if prior is not None:
        cost = with_earlier_costs(cost, [prior])
    if without:
        # Decided by noisy counts alone, so that it may be published; the budget is spent all the
        # same, and what else it has bought is kept.
        raise InferenceError(
            f"{'; '.join(without)}. Its epsilon is spent; give a larger epsilon, describe the "
            "column by hand (types={...: Column}), or drop it",
            types={name: columns.get(name, kind) for name, kind in kinds.items()},
            nullable=[name for name in kinds if may_miss[name]],
            guarantee=cost,
            impossible=rules,
        )
    return Schema(tuple(columns.values()), target=target, guarantee=cost, impossible=rules)


class InferenceError(ValueError):
    """In some columns nothing stands out from the noise. The budget is spent all the same.

    What was found in the others is paid for, and may be used.

    Attributes
    ----------
    types : dict of str to (str or Column)
        For `Schema.infer`: the columns that were found or given, and the types of those that were
        not, to be described by hand or looked at again.
    nullable : list of str
        For `Schema.infer`: the columns that may have missing values.
    guarantee : Guarantee
        What has been spent, an earlier `prior` included: the `prior` of the next call.
    impossible : tuple of Rule
        For `Schema.infer`: the rules that were given.

    Examples
    --------
    >>> import pandas as pd
    >>> from dpslice.tabular import Categorical, InferenceError, Schema
    >>> table = pd.DataFrame({"age": [30, 40, 50] * 500, "note": None})
    >>> types = {"age": "integer", "note": "categorical"}
    >>> try:
    ...     schema = Schema.infer(table, epsilon=1.0, delta=1e-6, types=types)
    ... except InferenceError as error:
    ...     types = error.types | {"note": Categorical("note", ["none"], nullable=True)}
    ...     schema = Schema.infer(  # nothing is left to be found: no more is spent
    ...         table, epsilon=1.0, delta=1e-6, types=types, prior=error.guarantee)
    >>> schema.names, schema.guarantee.epsilon
    (('age', 'note'), 1.0)
    """

    def __init__(
        self,
        message: str,
        *,
        types: Mapping[str, str | Column],
        nullable: Collection[str],
        guarantee: Guarantee,
        impossible: Sequence[Rule] = (),
    ) -> None:
        super().__init__(message)
        self.types, self.nullable, self.guarantee = dict(types), list(nullable), guarantee
        self.impossible = tuple(impossible)

    def save_types(
        self,
        path: str | os.PathLike[str],
        *,
        target: str | None = None,
        overwrite: bool = True,
    ) -> None:
        """Write a file of types for ``dpslice schema infer``; a schema, once it is completed.

        Parameters
        ----------
        path : str or path-like
            The file.
        target : str, optional
            Target column to note in it.
        overwrite : bool
            Whether an existing file is replaced. If not, and there is one, the new one is written
            beside it, as ``x-1.toml``, and a FileExistsError says so.

        Raises
        ------
        OSError
            If the file cannot be written; an existing one is kept then.
        """
        columns: dict[str, dict[str, Any]] = {}
        for name, kind in self.types.items():
            if isinstance(kind, str):
                columns[name] = {"type": kind, "nullable": name in self.nullable}
            else:
                columns[name] = column_to_dict(kind)
        write_document(
            path,
            {} if target is None else {"target": target},
            columns,
            self.guarantee,
            impossible=[rule.to_dict() for rule in self.impossible],
            overwrite=overwrite,
        )


class _NothingFound(Exception):
    """Nothing of what its words say was found in a column."""


# ---------------------------------------------------------------------------------- what is public


def _earlier(
    types: Mapping[str, str | Column] | Schema | str,
    prior: Guarantee | None,
    adjacency: str,
    rows_per_person: int,
) -> tuple[Mapping[str, str | Column] | str, Guarantee | None]:
    """Columns of `types`, and what finding them has cost: a schema's own, or `prior`."""
    if prior is not None and not isinstance(prior, Guarantee):
        raise TypeError(f"prior must be a Guarantee; got {_arrays.describe(prior)}")
    if isinstance(types, Schema):
        if prior is not None:
            raise ValueError("prior must not be given with a schema as types, which knows its own")
        prior = types.guarantee
        types = {column.name: column for column in types.columns}
    if prior is not None and prior.adjacency != adjacency:
        raise ValueError(
            f"adjacency must be that of what was spent before, {prior.adjacency}; got {adjacency}"
        )
    if prior is not None and prior.rows_per_person != rows_per_person:
        raise ValueError(
            "rows_per_person must be that of what was spent before, "
            f"{prior.rows_per_person}; got {rows_per_person}"
        )
    return types, prior


def _public_types(
    df: pd.DataFrame, types: Mapping[str, str | Column] | str, target: str | None
) -> dict[str, str | Column]:
    """Type of every column of the frame, in the frame's order."""
    if isinstance(types, str):
        if types != "dtypes":
            raise ValueError(f"types must be a mapping or 'dtypes'; got {types!r}")
        if not isinstance(df, pd.DataFrame):
            raise TypeError(f"df must be a pandas DataFrame; got {type(df).__name__}")
        types = {str(name): _type_of_dtype(str(name), df.dtypes.loc[name]) for name in df.columns}
    elif not isinstance(types, Mapping):
        raise TypeError(f"types must be a mapping or 'dtypes'; got {_arrays.describe(types)}")
    for name, kind in types.items():
        if isinstance(kind, Column):
            if kind.name != name:
                raise ValueError(f"types[{name!r}] must describe that column; got {kind.name!r}")
        else:
            _arrays.choice(f"types[{name!r}]", kind, _TYPES)
    # Checks the target and the frame's shape before anything is spent: any schema with these
    # names will do.
    Schema(tuple(Boolean(name) for name in types), target=target).check_columns(df)
    return {name: types[name] for name in df.columns}


def _type_of_dtype(name: str, dtype: Any) -> str:
    if pd.api.types.is_bool_dtype(dtype):
        return "boolean"
    if pd.api.types.is_integer_dtype(dtype):
        return "integer"
    if pd.api.types.is_float_dtype(dtype):
        return "real"
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return "datetime"
    if isinstance(dtype, pd.CategoricalDtype) or pd.api.types.is_object_dtype(dtype):
        return "categorical"
    if pd.api.types.is_string_dtype(dtype):
        return "categorical"
    raise TypeError(f"column {name!r}: no column type corresponds to dtype {dtype}")


def _public_missingness(
    nullable: bool | Collection[str], names: tuple[str, ...]
) -> dict[str, bool]:
    if isinstance(nullable, bool):
        return dict.fromkeys(names, nullable)
    if isinstance(nullable, str) or not isinstance(nullable, Collection):
        raise TypeError(
            f"nullable must be true, false or column names; got {_arrays.describe(nullable)}"
        )
    stray = [name for name in nullable if name not in names]
    if stray:
        raise ValueError(f"nullable must name columns of df; got {stray[0]!r}")
    return {name: name in nullable for name in names}


def checked_rules(
    impossible: Sequence[Rule | Mapping[str, object]] | None,
    kinds: Mapping[str, str | Column],
    nullable: Collection[str],
) -> tuple[Rule, ...]:
    """Read rules before anything is spent: later, one that does not fit would lose the schema."""
    known = [
        Boolean(name, nullable=name in nullable) if isinstance(kind, str) else kind
        for name, kind in kinds.items()
        if not isinstance(kind, str) or kind == "boolean"
    ]
    described = {column.name for column in known}
    for i, rule in enumerate(impossible if isinstance(impossible, Sequence) else (), 1):
        about = rule.to_dict() if isinstance(rule, Rule) else rule
        for name in about if isinstance(about, Mapping) else ():
            if name in kinds and name not in described:
                raise ValueError(
                    f"impossible rule {i} must be about columns that are described already, but "
                    f"{name!r} is still to be estimated: add the rule to the schema afterwards"
                )
    return read_rules(() if impossible is None else impossible, known)


# ------------------------------------------------------------------------------------------ noise


# Orders at which the conversion from Renyi to approximate DP is tried. Each gives a valid bound,
# so a grid costs accuracy only: spaced by 0.3 %, it is within 1e-5 of the best order's variance.
_ORDERS_MINUS_ONE = np.logspace(-4.0, 14.0, 14_000)


def _order_slack(delta: float) -> NDArray[np.float64]:
    """Epsilon of a mechanism of Renyi divergence r(a) is at most min_a r(a) + slack(a).

    Canonne, Kamath and Steinke, Proposition 12, solved for epsilon.
    """
    a1 = _ORDERS_MINUS_ONE
    # ln(1 - 1/a) = -log1p(1/(a - 1))
    return -(np.log1p(1.0 / a1)) - (math.log(delta) + np.log1p(a1)) / a1


def _gaussian_epsilon(changes: int, variance: float, delta: float) -> float:
    """Epsilon of discrete Gaussian noise, where squared differences add up to `changes`."""
    orders = 1.0 + _ORDERS_MINUS_ONE
    bounds = orders * changes / (2.0 * variance) + _order_slack(delta)
    return max(0.0, float(bounds.min()))


class _Noise:
    """The noise of all histograms of one inference, and what it guarantees.

    Parameters
    ----------
    epsilon, delta : float
        Total to spend.
    histograms : int
        Histograms of columns to publish; m, but for the number of rows under ``add_remove``.
    open_histograms : int
        c: those whose bins are not known beforehand.
    adjacency : str
        Decides how many counts a record changes.
    rows_per_person : int
        r: records that change together, at most.
    """

    def __init__(
        self,
        epsilon: float,
        delta: float,
        *,
        histograms: int,
        open_histograms: int,
        adjacency: str,
        rows_per_person: int = 1,
    ) -> None:
        self.epsilon, self.delta, self.adjacency = epsilon, delta, adjacency
        self.rows_per_person = rows_per_person
        self.columns = histograms
        self.counts_rows = adjacency == "add_remove"
        self.histograms = histograms + self.counts_rows
        # The threshold's share c*tau. It also costs ln(1/(1 - c*tau)) of epsilon, hence the
        # second bound: 1.4 * epsilon/4 at most.
        self.delta_threshold = min(delta / 2.0, epsilon / 4.0) if open_histograms else 0.0
        self.delta_noise = delta - self.delta_threshold
        left = epsilon + math.log1p(-self.delta_threshold)
        self.changes = self._changes(self.histograms, adjacency)
        # Largest k r^2/(2 variance) that some order allows. The factor below covers the rounding of
        # this computation.
        rate = float(((left - _order_slack(self.delta_noise)) / (1.0 + _ORDERS_MINUS_ONE)).max())
        if not rate > 0.0:
            raise ValueError(f"epsilon must be larger than {epsilon} for schema inference")
        self.variance = max(1, math.ceil(self.changes / (2.0 * rate) * (1.0 + 1e-9)))
        self.sigma = math.sqrt(self.variance)
        self.threshold = 1
        if open_histograms:
            share = self.delta_threshold / (open_histograms * rows_per_person)
            self.threshold = rows_per_person + _tail_quantile(share, self.variance)

    def _changes(self, histograms: int, adjacency: str) -> int:
        """Bound the sum of the squares of the differences of neighbouring tables' counts."""
        bins = 2 if adjacency == "replace_one" else 1
        return histograms * bins * self.rows_per_person**2

    def add(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the counts with independent noise added."""
        return counts + np.array(
            [discrete_gaussian(self.variance) for _ in range(len(counts))], dtype=np.int64
        )

    def number_of_rows(self, n: int) -> int:
        """Return n where it is public, else n with noise."""
        return int(self.add(np.array([n]))[0]) if self.counts_rows else n

    def number_missing(self, missing: NDArray[np.bool_], nullable: bool) -> int:
        """Return how many values are missing, with noise; 0 of a column that may have none."""
        return int(self.add(np.array([np.count_nonzero(missing)]))[0]) if nullable else 0

    def guarantee(self, *, n: int | None) -> Guarantee:
        """State what publishing all histograms has cost."""
        threshold_cost = -math.log1p(-self.delta_threshold)
        replaced = self.epsilon
        if self.adjacency != "replace_one":  # which leaves the number of rows as it is
            replaced = threshold_cost + _gaussian_epsilon(
                self._changes(self.columns, "replace_one"), self.variance, self.delta_noise
            )
        return Guarantee(
            epsilon=self.epsilon,
            delta=self.delta,
            adjacency=self.adjacency,
            mechanism="schema inference",
            sensitivity=math.sqrt(self.changes),
            sigma=self.sigma,
            n=n,
            epsilon_replace_one=replaced,
            rows_per_person=self.rows_per_person,
            notes=(
                *notes_on_people(self.rows_per_person),
                "Column names, their order, their types and which may have missing values are"
                " public.",
                f"{self.histograms} histogram(s) with discrete Gaussian noise; sensitivity and"
                " sigma are in counts.",
                f"A tail of some {_hidden_tail(self.sigma)} values does not stand out from this"
                " noise: bounds may cut it off, and rarer categories are not named.",
                # So that two inferences are never taken for one when their costs are added up.
                f"Inference {secrets.token_hex(8)}.",
            ),
        )


def _tail_quantile(probability: float, variance: int) -> int:
    """Smallest integer t >= 0 at which the bound on Pr[Y >= t] is at most `probability`."""
    low, high = -1, 1
    while discrete_gaussian_tail(high, variance) > probability:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        if discrete_gaussian_tail(middle, variance) > probability:
            low = middle
        else:
            high = middle
    return high


# ------------------------------------------------------------------------------------- categories


def _infer_categories(
    series: pd.Series[Any], name: str, kind: str, nullable: bool, rows: int, noise: _Noise
) -> Categorical:
    """Publish the categories whose noisy count reaches the threshold."""
    if kind == "categorical_integer":
        whole = Number(name, "integer", 0, 1, nullable=nullable)
        checked = np.clip(checked_numbers(whole, series), -LARGEST_CATEGORY, LARGEST_CATEGORY)
        missing = np.isnan(checked)
        present: NDArray[Any] = checked[~missing].astype(np.int64)
    else:
        values = np.asarray(series, dtype=object)
        missing = np.asarray(pd.isna(values), dtype=bool)
        if missing.any() and not nullable:
            raise ValueError(
                f"column {name!r}: missing values{first_place(series, missing)}, but it is not "
                "among the nullable columns"
            )
        present = values[~missing]
        if not all(isinstance(value, str) for value in present):
            raise TypeError(
                f"column {name!r}: must hold strings (type 'categorical'); for codes use "
                "'categorical_integer'"
            )
        empty = ~missing
        empty[empty] = present == ""
        if nullable and empty.any():
            raise ValueError(
                f"column {name!r}: holds empty strings{first_place(series, empty)}, which a CSV "
                "file could not tell from missing values: make them missing, or leave the column "
                "out of nullable"
            )
    levels, counts = np.unique(present, return_counts=True)
    noisy = noise.add(counts.astype(np.int64))
    without = noise.number_missing(missing, nullable)
    passed = noisy >= noise.threshold
    # np.unique has sorted the levels: their order says nothing about the rows'.
    published = levels[passed].tolist()
    if not published:
        raise _NothingFound("category")
    # Rows that no published category accounts for, beyond what noise explains.
    rest = rows - without - int(noisy[passed].sum())
    explained = noise.sigma * math.sqrt(len(published) + nullable + noise.counts_rows)
    if kind == "categorical" and rest > _NOTICEABLE * explained:
        other: str | int = OTHER
        if OTHER not in published:
            published.append(OTHER)
    else:
        # Too few to deserve a level (and no integer is free to mean "other").
        other = published[int(np.argmax(noisy[passed]))]
    return Categorical(name, tuple(published), other=other, nullable=nullable)


# ----------------------------------------------------------------------------------------- bounds


def _occupied(noisy: NDArray[np.int64], sigma: float) -> tuple[int, int] | None:
    """First and last bin that hold data, judged from noisy counts alone.

    Bins that stand out by themselves come first; then windows of 2, 4, 8, ... bins beyond them,
    which find thin tails that no single bin shows. The innermost window goes first, so that the
    bounds do not reach farther out than the evidence does. None if nothing stands out.
    """
    widths, z = _windows(len(noisy))
    running = np.concatenate([[0], np.cumsum(noisy)])
    found: tuple[int, int] | None = None
    for width in widths:
        sums = running[width:] - running[:-width]
        starts = np.flatnonzero(sums >= z * sigma * math.sqrt(width))
        if found is None:
            if starts.size:
                found = int(starts[0]), int(starts[-1]) + width - 1
            continue
        first, last = found
        while (beyond := starts[starts > last]).size:
            last = int(beyond[0]) + width - 1
        while (before := starts[starts + width <= first]).size:
            first = int(before[-1])
        found = first, last
    return found


def _windows(bins: int) -> tuple[list[int], float]:
    """Widths of the windows of so many bins, and how many deviations a window must stand out."""
    widths = [w for w in (2**j for j in range(64)) if w <= min(_WIDEST_WINDOW, bins)]
    return widths, math.sqrt(2.0 * math.log(bins * len(widths) / _FALSE_ALARM))


def _hidden_tail(sigma: float) -> int:
    """Values beyond the bounds of a real column that stand out from the noise about half the time.

    They are taken to lie in half an octave, four bins: fewer may be there in a lighter tail's
    single bin, more in a heavier one's many.
    """
    _, z = _windows(2 * len(_magnitude_edges("real")) - 1)
    return math.ceil(z * sigma * 2.0)


def _magnitude_edges(kind: str) -> NDArray[np.float64]:
    """Edges of the magnitude bins, ascending and positive; below the first is zero's bin."""
    first, last = _INTEGER_OCTAVES if kind == "integer" else _REAL_OCTAVES
    octaves = np.arange(first, last, dtype=np.float64)
    steps = 1.0 + np.arange(_BINS_PER_OCTAVE) / _BINS_PER_OCTAVE
    edges = np.append(np.outer(np.exp2(octaves), steps).ravel(), 2.0**last)
    if kind == "integer":
        edges = np.unique(np.ceil(edges))  # small octaves hold fewer than eight integers
    return edges


def _infer_bounds(
    series: pd.Series[Any], name: str, kind: str, nullable: bool, rows: int, noise: _Noise
) -> Number:
    """Read bounds, scale and a special zero from a noisy histogram of magnitudes."""
    widest = float(LARGEST_INTEGER) if kind == "integer" else 1e300
    values = Number(name, kind, -widest, widest, nullable=nullable).to_numbers(series)
    missing = np.isnan(values)
    present = rows - noise.number_missing(missing, nullable)
    values = values[~missing]
    edges = _magnitude_edges(kind)
    zero = len(edges) - 1  # index of zero's bin; magnitude bin j >= 1 lies at zero ± j
    magnitude = np.minimum(np.searchsorted(edges, np.abs(values), side="right"), zero)
    index = zero + np.sign(values).astype(np.intp) * magnitude
    noisy = noise.add(np.bincount(index, minlength=2 * zero + 1).astype(np.int64))
    found = _occupied(noisy, noise.sigma)
    if found is None:
        raise _NothingFound("range of values")

    step = 1.0 if kind == "integer" else 0.0  # the upper edge of a bin of integers is not in it

    def lower(j: int) -> float:
        if j == 0:
            return 0.0
        return float(edges[j - 1]) if j > 0 else -(float(edges[-j]) - step)

    def upper(j: int) -> float:
        if j == 0:
            return 0.0
        return float(edges[j]) - step if j > 0 else -float(edges[-j - 1])

    first, last = found[0] - zero, found[1] - zero
    low, high = lower(first), upper(last)
    if not low < high:  # a single integer, or zeros alone
        high = low + 1.0
    special: tuple[float, ...] = ()
    counts = np.maximum(noisy[found[0] : found[1] + 1], 0)
    if first <= 0 <= last and noisy[zero] >= _ZERO_INFLATED * present and high - low > 2.0 * step:
        special = (0.0,)
        counts[-first] = 0  # the scale is judged by the other values
    cumulative = np.cumsum(counts)
    median = first + int(np.searchsorted(cumulative, cumulative[-1] / 2.0))
    heavy = high - low > _HEAVY_TAIL * max(upper(median) - low, step)
    return Number(
        name,
        kind,
        low,
        high,
        nullable=nullable,
        special=special,
        scale="log" if heavy else "linear",
    )


def _infer_period(
    series: pd.Series[Any], name: str, kind: str, nullable: bool, noise: _Noise
) -> Datetime:
    """Read bounds, in whole months, from a noisy histogram of months."""
    widest = Datetime(
        name,
        datetime.datetime(_FIRST_YEAR, 1, 1),
        datetime.datetime(_LAST_YEAR, 12, 31, 23, 59, 59),
        nullable=nullable,
    )
    seconds = widest.to_numbers(series)
    stamps = seconds[~np.isnan(seconds)].astype(np.int64).astype("datetime64[s]")
    origin = (_FIRST_YEAR - 1970) * 12
    months = stamps.astype("datetime64[M]").astype(np.int64) - origin
    n_bins = (_LAST_YEAR - _FIRST_YEAR + 1) * 12
    noisy = noise.add(np.bincount(months, minlength=n_bins).astype(np.int64))
    found = _occupied(noisy, noise.sigma)
    if found is None:
        raise _NothingFound("month")

    def first_day(month: int) -> datetime.datetime:
        return datetime.datetime(_FIRST_YEAR + month // 12, month % 12 + 1, 1)

    start, end = first_day(found[0]), first_day(found[1] + 1)
    if kind == "date":
        return Datetime(
            name, start.date(), (end - datetime.timedelta(days=1)).date(), nullable=nullable
        )
    return Datetime(name, start, end - datetime.timedelta(seconds=1), nullable=nullable)
