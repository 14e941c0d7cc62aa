"""Conditions on samples: values, sets, ranges, what is not and what is missing.

Truth is the model itself: rows that it makes without conditions, of which those are kept that meet
one, as written down here without the library's help. Seeds are fixed, so that no test fails by
chance twice; with other seeds each comparison would fail once in 10,000 times.
"""

from __future__ import annotations

import datetime
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the synthesizer trains with torch")
stats = pytest.importorskip("scipy.stats")

from dpslice.tabular import (  # noqa: E402
    Boolean,
    Categorical,
    Column,
    Datetime,
    Discretization,
    Number,
    Schema,
    Synthesizer,
    _conditions,
)
from dpslice.tabular._conditions import read_conditions  # noqa: E402
from dpslice.tabular._cuts import cut  # noqa: E402
from dpslice.tabular.discretization import FineShape  # noqa: E402
from dpslice.tabular.rows import _nearest  # noqa: E402
from fixed_models import fixed_synthesizer  # noqa: E402

SCHEMA = Schema(
    [
        Categorical("job", ("clerk", "cook", "pilot"), nullable=True),
        Categorical("level", (1, 2, 3, 5)),
        Boolean("member", nullable=True),
        Number("age", "integer", 0, 90),
        Number("score", "integer", 0, 200, special=[0, 50], nullable=True),  # 50 is in a bin, too
        Number("pay", "real", 0, 9000, special=[0, 550], step=100),
        Number("wealth", "integer", 0, 10**6, scale="log"),  # fine bins of many values
        Number("x", "real", 0.0, 1000.0, special=[0.0], scale="log", nullable=True),
        Datetime("born", "1930-01-01", "2020-12-31"),
        Datetime("seen", "2020-01-01T00:00:00", "2020-12-31T23:59:59", nullable=True),
    ]
)
DAY, TIME = datetime.date, datetime.datetime
Flags = Callable[[pd.DataFrame], Any]

# What is asked for, and the same in words of pandas.
CASES: dict[str, tuple[dict[str, Any], Flags]] = {
    "categories": ({"job": ["cook", "pilot"]}, lambda t: t["job"].isin(["cook", "pilot"])),
    "set": ({"job": {"cook", "clerk"}}, lambda t: t["job"].isin(["cook", "clerk"])),
    "category or missing": (
        {"job": ["cook", None]},
        lambda t: (t["job"] == "cook") | t["job"].isna(),
    ),
    "integer categories": ({"level": range(2, 4)}, lambda t: t["level"].isin([2, 3])),
    "other category": (
        {"job": {"not": "cook"}},
        lambda t: t["job"].notna() & (t["job"] != "cook"),
    ),
    "other categories": ({"level": {"not": [1, 5]}}, lambda t: t["level"].isin([2, 3])),
    "missing": ({"job": {"missing": True}}, lambda t: t["job"].isna()),
    "not missing": ({"member": {"missing": False}}, lambda t: t["member"].notna()),
    "either": ({"member": [True, None]}, lambda t: t["member"].isna() | (t["member"] == True)),  # noqa: E712
    "range": ({"age": {"min": 30, "max": 40}}, lambda t: t["age"].between(30, 40)),
    "texts": ({"age": {"min": "30", "max": "40"}}, lambda t: t["age"].between(30, 40)),
    "least": ({"age": {"min": 61}}, lambda t: t["age"] >= 61),
    "most": ({"age": {"max": 22}}, lambda t: t["age"] <= 22),
    "narrow range": ({"age": {"min": 44, "max": 45}}, lambda t: t["age"].isin([44, 45])),
    "other number": ({"age": {"not": 40}}, lambda t: t["age"] != 40),
    "range with a special value": (
        {"score": {"min": 40, "max": 60}},
        lambda t: t["score"].between(40, 60).fillna(False),
    ),
    "range beyond the bounds": (
        {"score": {"min": -7, "max": 20}},
        lambda t: (t["score"] <= 20).fillna(False),
    ),
    "no special value": (
        {"score": {"not": [0, 50]}},
        lambda t: t["score"].notna() & ~t["score"].isin([0, 50]),
    ),
    "steps": ({"pay": {"min": 450, "max": 799.5}}, lambda t: t["pay"].between(450, 799.5)),
    "wide bins": ({"wealth": {"min": 701, "max": 40_000}}, lambda t: t["wealth"].between(701, 4e4)),
    "real numbers": ({"x": {"min": 3.5, "max": 111.25}}, lambda t: t["x"].between(3.5, 111.25)),
    "real and special": ({"x": {"max": 20.0}}, lambda t: t["x"] <= 20.0),
    "no missing number": ({"x": {"missing": False}}, lambda t: t["x"].notna()),
    "days": (
        {"born": {"min": DAY(1977, 3, 5), "max": "1990-12-31"}},
        lambda t: (t["born"] >= "1977-03-05") & (t["born"] <= "1990-12-31"),
    ),
    "days from": ({"born": {"min": "2003-07-01"}}, lambda t: t["born"] >= "2003-07-01"),
    "times": (
        {"seen": {"min": TIME(2020, 2, 3, 4, 5, 6), "max": pd.Timestamp("2020-09-01 12:00:00")}},
        lambda t: (t["seen"] >= "2020-02-03 04:05:06") & (t["seen"] <= "2020-09-01 12:00:00"),
    ),
    "two columns": (
        {"age": {"max": 33}, "job": ["cook", "pilot"]},
        lambda t: (t["age"] <= 33) & t["job"].isin(["cook", "pilot"]),
    ),
    "four columns": (
        {
            "x": {"min": 5.0},
            "born": {"max": "1990-01-01"},
            "level": [1, 2, 3],
            "member": {"not": True},
        },
        lambda t: (
            (t["x"] >= 5.0)
            & (t["born"] <= "1990-01-01")
            & (t["level"] < 4)
            & (t["member"] == False).fillna(False)  # noqa: E712
        ),
    ),
}
# Of models of rows, numbers stand for what is near them.
OF_SUMS: dict[str, tuple[dict[str, Any], Flags]] = {
    "numbers": ({"age": [3, 40, 41, 77]}, lambda t: t["age"].isin([3, 40, 41, 77])),
    "special numbers": (
        {"score": [0, 49, 50, 51, None]},
        lambda t: t["score"].isna() | t["score"].isin([0, 49, 50, 51]).fillna(False),
    ),
    "steps and special": (
        {"pay": [0, 500, 550, 7000]},
        lambda t: t["pay"].isin([0, 500, 550, 7000]),
    ),
    "one in a wide bin": ({"wealth": {"not": 7}, "age": 5}, lambda t: t["age"] == 5),
}


@functools.cache
def _synthesizer(method: str) -> Synthesizer:
    return fixed_synthesizer(method, SCHEMA, uneven=True)


@functools.cache
def _free(method: str) -> pd.DataFrame:
    return _synthesizer(method).sample(120_000, seed=1)


def _codes(table: pd.DataFrame, column: Column) -> np.ndarray:
    """Some ten levels of a column's values, the same for values that are the same."""
    values = column.to_numbers(table[column.name])
    if not isinstance(column, Categorical | Boolean):
        values = pd.qcut(values, 10, labels=False, duplicates="drop")
    return np.nan_to_num(values, nan=-1.0)


def _differ(one: pd.DataFrame, other: pd.DataFrame, names: list[str]) -> float:
    """P value of two samples' having one law: by chi-squared over some cells of these columns.

    Rare cells are put together.
    """
    both = pd.concat([one[names], other[names]], ignore_index=True)
    cells = sum(100.0**i * _codes(both, SCHEMA[name]) for i, name in enumerate(names))
    _, cell = np.unique(cells, return_inverse=True)
    sample = np.repeat([0, 1], [len(one), len(other)])
    counts = np.bincount(2 * cell + sample, minlength=2 * cell.max() + 2).reshape(-1, 2)
    rare = counts.sum(axis=1) < 40
    table = np.vstack([counts[~rare], counts[rare].sum(axis=0)])
    table = table[table.any(axis=1)]
    return 1.0 if len(table) < 2 else float(stats.chi2_contingency(table).pvalue)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        *((m, name) for m in ("sums", "rows") for name in CASES),
        *(("sums", name) for name in OF_SUMS),
    ],
)
def test_samples_have_the_models_law_given_the_condition(method: str, name: str) -> None:
    conditions, meets = (CASES | OF_SUMS)[name]
    free = _free(method)
    kept = free[meets(free).to_numpy(dtype=bool)]
    assert 300 < len(kept) < len(free)
    # Of rows, rejection takes its time, and as many as the truth has say nearly all it can.
    n = 20_000 if method == "sums" else min(4_000, len(kept))
    sample = _synthesizer(method).sample(n, seed=2, conditions=conditions)
    assert len(sample) == n
    assert meets(sample).all()
    assert sample.dtypes.equals(free.dtypes)
    SCHEMA.validate(sample)
    asked = list(conditions)
    assert _differ(sample, kept, asked[:2]) > 1e-4
    for other in ("job", "age", "x", "seen"):  # and how the others depend on it
        if other not in asked:
            assert _differ(sample, kept, [asked[0], other]) > 1e-4


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_the_comparison_sees_what_it_is_to_see(method: str) -> None:
    free = _free(method)
    n = 20_000 if method == "sums" else 4_000
    shifted = _synthesizer(method).sample(n, seed=2, conditions={"age": {"min": 30, "max": 41}})
    kept = free[free["age"].between(30, 40)]
    assert _differ(shifted, kept, ["age"]) < 1e-9
    young, old = free[free["age"] < 25], free[free["age"] > 65]
    assert _differ(young, old, ["job"]) < 1e-9  # columns depend on each other


@pytest.mark.parametrize("method", ["sums", "rows"])
@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("job", "cook"),
        ("member", None),
        ("age", 40),
        ("score", 50),
        ("x", 12.5),
        ("x", 0.0),
        ("x", None),
        ("born", DAY(1977, 7, 7)),
    ],
)
def test_one_value_of_a_set_is_the_value(method: str, column: str, value: Any) -> None:
    synthesizer = _synthesizer(method)
    n = 200 if method == "sums" else 40  # of rows, rejection takes its time
    expected = synthesizer.sample(n, seed=3, conditions={column: value})
    found = expected[column]
    assert (
        found.isna().all()
        if value is None
        else (found == pd.Timestamp(value) if column == "born" else found == value).all()
    )
    spellings = [value], {value}, frozenset({value}), np.array([value], dtype=object)
    # They are read before any method sees them: of rows, one will do.
    for same in spellings if method == "sums" else spellings[:1]:
        sample = synthesizer.sample(n, seed=3, conditions={column: same})
        pd.testing.assert_frame_equal(sample, expected)


@pytest.mark.parametrize(
    ("column", "whole"),
    [
        ("job", ["clerk", "cook", "pilot", None]),
        ("level", {1, 2, 3, 5}),
        ("member", [True, False, None]),
        ("age", {"min": 0, "max": 90}),
        ("age", {"min": -5}),
        ("age", range(91)),
        ("pay", {"max": 1e9}),
        ("wealth", {"min": 0}),
        ("born", {"min": "1900-01-01"}),
    ],
)
def test_all_values_are_no_condition(column: str, whole: Any) -> None:
    """To the row, as a column of which all is wanted needs no choosing."""
    synthesizer = _synthesizer("sums")
    expected = synthesizer.sample(500, seed=3)
    sample = synthesizer.sample(500, seed=3, conditions={column: whole})
    pd.testing.assert_frame_equal(sample.drop(columns=column), expected.drop(columns=column))
    assert (
        _differ(
            synthesizer.sample(20_000, seed=3, conditions={column: whole}),
            _free("sums"),
            [column, "x"],
        )
        > 1e-4
    )


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_the_upper_bound_and_beyond(method: str) -> None:
    """Of real numbers that is one, without a share of its own: what lies beyond was clipped."""
    synthesizer = _synthesizer(method)
    expected = synthesizer.sample(100, seed=0, conditions={"x": 1000.0})
    assert (expected["x"] == 1000.0).all()
    for same in ({"min": 1000}, {"min": 1000.0, "max": 2e9}, {"min": 1e3, "max": 1e3}):
        sample = synthesizer.sample(100, seed=0, conditions={"x": same})
        pd.testing.assert_frame_equal(sample, expected)


def test_real_numbers_of_a_set_stand_for_their_bins() -> None:
    synthesizer = _synthesizer("sums")
    j = SCHEMA.names.index("x")
    levels = synthesizer._method.discretization.levels[j]
    ends = levels.edges[levels.starts]
    values = np.append(0.25 * ends[:4] + 0.75 * ends[1:5], 1000.0)
    shares = synthesizer.model.probabilities()[j].mean(axis=0)
    expected = shares[[0, 1, 2, 3, levels.n_bins - 1]]
    # And, beside them, another one of a bin, and a special value, which has a share of its own.
    values = np.append(values, [np.nextafter(values[0], 0.0), 0.0])
    expected[0] /= 2
    expected = np.append(expected, [expected[0], shares[levels.n_bins]])
    n = 200_000
    counts = synthesizer.sample(n, seed=4, conditions={"x": values})["x"].value_counts()
    assert set(counts.index) == set(values)
    assert stats.chisquare(counts[values], n * expected / expected.sum()).pvalue > 1e-4


def test_a_range_narrower_than_places_are_told_apart_stands_for_its_bin() -> None:
    low = 999.0
    conditions = {"x": {"min": low, "max": np.nextafter(low, 1000.0)}}
    sample = _synthesizer("sums").sample(100, seed=0, conditions=conditions)
    assert sample["x"].isin([low, np.nextafter(low, 1000.0)]).all()


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_columns_of_any_name_may_be_asked_for(method: str) -> None:
    columns = [Number("self", "integer", 0, 9), Categorical("func", ("min", "max"))]
    synthesizer = fixed_synthesizer(method, Schema(columns))
    table = synthesizer.sample(20, seed=1, conditions={"self": [3, 4], "func": "min"})
    assert table["self"].isin([3, 4]).all()
    assert (table["func"] == "min").all()


def test_of_several_numbers_rows_have_the_nearest() -> None:
    synthesizer = _synthesizer("rows")
    sample = synthesizer.sample(8_000, seed=2, conditions={"wealth": [5000, 5100, 800_000]})
    counts = sample["wealth"].value_counts()
    assert set(counts.index) == {5000, 5100, 800_000}
    from dpslice.tabular._places import value_to_place

    column = SCHEMA["wealth"]
    assert isinstance(column, Number)
    free = value_to_place(column, _free("rows")["wealth"].to_numpy(dtype=np.float64))
    at = value_to_place(column, np.array([5000.0, 5100.0, 8e5]))
    apart = np.abs(free[:, None] - at)
    nearest = apart.argmin(axis=1)[apart.min(axis=1) <= 1 / 64]
    expected = np.bincount(nearest, minlength=3)
    table = [counts[[5000, 5100, 800_000]], expected]
    assert stats.chi2_contingency(table).pvalue > 1e-4


def test_numbers_within_a_64th_of_the_scale_are_near() -> None:
    """They become the nearest of those asked for; what is special is itself alone."""
    column = Number("x", "real", 0.0, 64.0, special=[64.0])
    values = np.array([9.01, 8.99, 10.74, 10.76, 12.49, 12.51, 63.5, 64.0, np.nan])
    near, kept = _nearest(column, values, np.array([11.5, 10.0, 64.0]))
    expected = np.array([10.0, 8.99, 10.0, 11.5, 11.5, 12.51, 63.5, 64.0, np.nan])
    np.testing.assert_array_equal(kept, expected)
    np.testing.assert_array_equal(near, np.isin(expected, [10.0, 11.5, 64.0]))


def test_values_that_noise_has_wiped_out_are_drawn_from_their_bins() -> None:
    synthesizer = fixed_synthesizer("sums", SCHEMA)
    discretization = synthesizer._method.discretization
    j = SCHEMA.names.index("age")
    levels = discretization.levels[j]
    buffer = synthesizer.model.get_buffer(f"shape_{list(discretization.fine_codes).index(j)}")
    counts = np.ones(levels.n_fine_bins)
    counts[[70, 71, 72]] = 0.0
    buffer[1:] = torch.from_numpy(np.cumsum(counts))
    assert not synthesizer.sample(20_000, seed=0)["age"].isin([70, 71, 72]).any()
    for conditions in ({"age": 71}, {"age": [70, 71]}, {"age": {"min": 70, "max": 72}}):
        sample = synthesizer.sample(500, seed=0, conditions=conditions)
        assert sample["age"].isin([70, 71, 72]).all()
    # With others that the model makes, they still never come.
    sample = synthesizer.sample(500, seed=0, conditions={"age": {"min": 71, "max": 74}})
    assert sample["age"].isin([73, 74]).all()


# ------------------------------------------------------------------- shares, one column by itself


@functools.cache
def _enumerated(
    column: Number | Datetime,
) -> tuple[Discretization, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """A column's codes, weights of its fine bins, and every value in them, one by one.

    Of each value, what it is, its coarse bin and its share of that.
    """
    discretization = Discretization(Schema([column]))
    levels = discretization.levels[0]
    assert levels.edges is not None
    assert levels.whole is not None
    weights = np.random.default_rng(0).random(levels.n_fine_bins) ** 3
    values, coarse, shares = [], [], []
    for b in range(levels.n_bins):
        bins = range(levels.starts[b], levels.starts[b + 1])
        total = sum(weights[f] for f in bins)
        for f in bins:
            inside = np.arange(
                levels.edges[f] + levels.whole / 2, levels.edges[f + 1], levels.whole
            )
            values += list(inside)
            coarse += [b] * len(inside)
            shares += [weights[f] / total / len(inside)] * len(inside)
    numbers = column.to_numbers(column.from_numbers(np.array(values)))
    return discretization, weights, numbers, np.array(coarse), np.array(shares)


WHOLE = [
    Number("n", "integer", 0, 90),
    Number("n", "integer", -3, 40, special=[-3, 7]),
    Number("n", "integer", 0, 20_000, scale="log"),
    Number("n", "real", 0.1, 0.9, step=0.1),
    Number("n", "real", -5, 70, special=[1.25, 2.5], step=2.5),
    Number("n", "integer", 0, 900, special=[0], step=3, scale="log"),
    Datetime("n", "2020-01-01", "2020-12-31"),
    Datetime("n", "2020-01-01T00:00:00", "2020-01-01T02:00:00"),
]


@pytest.mark.parametrize("column", WHOLE, ids=str)
@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_shares_of_levels_are_those_of_their_values(
    column: Number | Datetime, data: st.DataObject
) -> None:
    discretization, weights, numbers, coarse, inside = _enumerated(column)
    levels = discretization.levels[0]
    picks = st.sampled_from(list(range(len(numbers))))
    kind = data.draw(st.sampled_from(["min", "max", "range", "values", "not"]))
    ends = sorted(data.draw(st.lists(picks, min_size=2, max_size=2)))
    values = [column.from_numbers(numbers[[i]]).iloc[0] for i in ends]
    number = [numbers[i] for i in ends]
    if isinstance(column, Number) and column.type == "real" and data.draw(st.booleans()):
        # Ends that are no values, and ends that differ from one by a rounding.
        shift = data.draw(st.sampled_from([0.03, -0.03, 1e-16]))
        values = number = [v + shift for v in number] if kind in ("min", "max", "range") else values
    conditions: dict[str, Any] = {
        "min": {"min": values[0]},
        "max": {"max": values[1]},
        "range": {"min": values[0], "max": values[1]},
        "values": list(dict.fromkeys(values)),
        "not": {"not": list(dict.fromkeys(values))},
    }
    meant = {
        "min": numbers >= number[0],
        "max": numbers <= number[1],
        "range": (numbers >= number[0]) & (numbers <= number[1]),
        "values": np.isin(numbers, number),
        "not": ~np.isin(numbers, number),
    }[kind]
    if not meant.any():
        return
    part = read_conditions({"n": conditions[kind]}, discretization.schema)["n"]
    shape = FineShape(np.concatenate([[0.0], np.cumsum(weights)]))
    shares, left = cut(levels, part, shape)
    expected = np.bincount(coarse, inside * meant, minlength=levels.n_bins)
    np.testing.assert_allclose(shares[: levels.n_bins], expected, rtol=1e-9, atol=1e-12)
    # What is drawn in a bin: nothing else, and everything.
    bins = np.flatnonzero(shares[: levels.n_bins])
    codes = np.repeat(bins, 50)[:, None]
    rng = np.random.default_rng(1)
    drawn = discretization.decode(codes, {} if left is None else {0: left}, rng)["n"]
    assert np.isin(column.to_numbers(drawn), numbers[meant]).all()


@functools.cache
def _of_one_column(scale: str) -> tuple[Synthesizer, pd.Series]:
    """A model of real numbers, and some of them."""
    column = Number("x", "real", 0.0, 1000.0, scale=scale)
    synthesizer = fixed_synthesizer("sums", Schema([column]), uneven=True)
    return synthesizer, synthesizer.sample(400_000, seed=1)["x"]


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 10.0), (3.25, 3.5), (9.999, 600.0), (599.0, 1000.0)]
)
def test_real_numbers_in_a_range_have_the_law_of_those_that_are_in_it(
    scale: str, low: float, high: float
) -> None:
    """Kolmogorov and Smirnov's distance, of one column: cells would miss how a bin is cut."""
    synthesizer, free = _of_one_column(scale)
    kept = free[free.between(low, high)]
    sample = synthesizer.sample(20_000, seed=2, conditions={"x": {"min": low, "max": high}})["x"]
    assert sample.between(low, high).all()
    assert stats.ks_2samp(sample, kept).pvalue > 1e-4


# ------------------------------------------------------------------------------- with rules, files

RULES = [
    {"job": ["cook", "pilot"], "age": {"max": 30}},
    {"member": None, "pay": {"min": 5000}},
    {"born": {"min": "1990-01-01"}, "age": {"min": 60}},
]


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_conditions_and_rules_hold_together(method: str) -> None:
    conditions = {"age": {"min": 25, "max": 70}, "job": ["cook", "clerk"], "pay": {"min": 3000}}
    ruled = Schema(SCHEMA.columns, impossible=RULES)
    n = 20_000 if method == "sums" else 3_000
    sample = _synthesizer(method).sample(n, seed=5, conditions=conditions, impossible=RULES)
    assert not ruled.broken_rules(sample).any()
    free = _free(method)
    meets = (
        free["age"].between(25, 70) & free["job"].isin(["cook", "clerk"]) & (free["pay"] >= 3000)
    )
    broken = ruled.broken_rules(free).any(axis=1)
    assert (meets & broken).mean() > 0.005
    kept = free[meets & ~broken]
    assert meets[~broken].sum() > 300
    assert _differ(sample, kept, ["age", "job"]) > 1e-4
    assert _differ(sample, kept, ["pay", "member"]) > 1e-4
    assert _differ(sample, kept, ["born", "age"]) > 1e-4


@pytest.mark.parametrize(
    ("conditions", "rule"),
    [
        ({"job": ["cook", "pilot"], "age": {"max": 20}}, 1),
        ({"job": {"not": "clerk"}, "age": {"min": 10, "max": 30}}, 1),
        ({"member": {"missing": True}, "pay": {"min": 5001}}, 2),
        ({"born": {"min": "1995-05-05"}, "age": [60, 70, 90]}, 3),
    ],
)
def test_conditions_that_rules_forbid(conditions: dict[str, Any], rule: int) -> None:
    match = f"conditions must leave rows possible; impossible rule {rule} .* forbids all of them"
    with pytest.raises(ValueError, match=match):
        _synthesizer("sums").sample(5, conditions=conditions, impossible=RULES)


def test_conditions_that_rules_leave_rows_of() -> None:
    """By a little: values more than in the test above."""
    synthesizer = _synthesizer("sums")
    for conditions in (
        {"job": ["cook", "pilot"], "age": {"max": 31}},
        {"job": {"not": "pilot"}, "age": {"min": 10, "max": 30}},
        {"born": {"min": "1985-01-01"}, "age": [60, 70]},
    ):
        sample = synthesizer.sample(50, seed=0, conditions=conditions, impossible=RULES)
        assert not Schema(SCHEMA.columns, impossible=RULES).broken_rules(sample).any()


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_a_saved_synthesizer_draws_the_same(method: str, tmp_path: Any) -> None:
    rng = np.random.default_rng(0)
    schema = Schema([SCHEMA["age"], SCHEMA["job"], SCHEMA["x"]])
    table = pd.DataFrame(
        {
            "age": rng.integers(0, 91, 3000),
            "job": rng.choice(["cook", "clerk", "pilot"], 3000),
            "x": rng.uniform(0.0, 1000.0, 3000),
        }
    )
    synthesizer = Synthesizer(
        schema,
        epsilon=20.0,
        delta=1e-5,
        method=method,
        training=fixed_synthesizer(method, schema).training,
    ).fit(table, progress=False)
    synthesizer.save(tmp_path / "m.pt")
    conditions = {"age": {"min": 20, "max": 60}, "job": {"cook", "pilot"}, "x": {"max": 900.5}}
    sample = synthesizer.sample(300, seed=1, conditions=conditions)
    assert sample["age"].between(20, 60).all()
    again = Synthesizer.load(tmp_path / "m.pt").sample(300, seed=1, conditions=conditions)
    pd.testing.assert_frame_equal(again, sample)


# --------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("conditions", "error", "match"),
    [
        ({"age": (30, 40)}, TypeError, r"'age' must have no tuple, .* \[a, b\] for two values"),
        ({"age": {"not": (30, 40)}}, TypeError, "'age' must have no tuple"),
        ({"age": []}, ValueError, "'age' must have at least one value; got an empty list"),
        ({"age": set()}, ValueError, "'age' must have at least one value; got an empty list"),
        ({"age": {}}, ValueError, "'age' must have min, max or both, .*; got {}"),
        ({"age": [33, 33]}, ValueError, "'age': values must differ; 33 occurs twice"),
        ({"job": [None, None]}, ValueError, "'job': values must differ; None occurs twice"),
        ({"age": [33, 91]}, ValueError, "conditions must be .* 'age' .* within its bounds; got 91"),
        ({"age": [33, "old"]}, ValueError, "column 'age': must be a number .*; got 'old'"),
        ({"age": [33, [34]]}, TypeError, "'age' must have a value, a list of values"),
        ({"age": [33, None]}, ValueError, "'age' can hold; got a missing value, and the column"),
        ({"age": [33, math.nan]}, ValueError, "'age' can hold; got a missing value"),
        (
            {"age": {"min": 40, "max": 30}},
            ValueError,
            "'age': min must not be greater than max; got min = 40, max = 30",
        ),
        ({"age": {"min": 91}}, ValueError, "'age': no value that it can hold is meant by"),
        ({"age": {"max": -1}}, ValueError, "'age': no value that it can hold is meant by"),
        ({"pay": {"min": 601, "max": 699}}, ValueError, "'pay': no value that it can hold"),
        ({"age": {"min": math.nan}}, ValueError, "'age': min must be a finite number; got nan"),
        ({"age": {"max": math.inf}}, ValueError, "'age': max must be a finite number; got inf"),
        (
            {"age": {"min": None}},
            TypeError,
            "'age': min must be a finite number; got NoneType None",
        ),
        ({"age": {"min": 30.5}}, ValueError, r"'age': min must be whole .*; got 30\.5"),
        ({"age": {"min": "old"}}, ValueError, "column 'age': must be a number .*; got 'old'"),
        ({"age": {"min": True}}, TypeError, "'age': min must be a finite number; got bool True"),
        ({"age": {"from": 30}}, ValueError, "'age': unknown key 'from'; known keys: min, max, not"),
        ({"age": {"min": 3, "not": 5}}, ValueError, "'age' must have min, max or both, or one of"),
        (
            {"age": {"missing": False}},
            ValueError,
            "'age': missing is for columns that are nullable",
        ),
        ({"job": {"min": "a"}}, ValueError, "'job': min and max are for numbers and datetimes"),
        ({"level": {"min": 2}}, ValueError, "'level': min and max are for numbers and datetimes"),
        ({"job": ["cook", "king"]}, ValueError, "'job' can hold; got 'king', which is not among"),
        ({"job": [1]}, ValueError, "'job' can hold; got 1, which is not among"),
        ({"job": {"not": ["clerk", None]}}, ValueError, "'job': missing ones must not stand among"),
        ({"job": {"missing": "yes"}}, TypeError, "'job': missing must be True or False; got 'yes'"),
        (
            {"born": {"min": "1990"}},
            ValueError,
            "'born': min must be a date such as .*; got '1990'",
        ),
        ({"born": {"min": 1990}}, TypeError, "'born': min must be a date or a time; got 1990"),
        ({"born": {"max": TIME(1990, 1, 1, 5)}}, ValueError, "'born': max must be a date, as"),
        ({"seen": {"max": DAY(2020, 5, 5)}}, ValueError, "'seen': max must be a time such as"),
        ({"seen": "2020-05-05"}, ValueError, "'seen' must be a time such as .*; got 2020-05-05"),
        ({"town": {"min": 3}}, ValueError, "conditions must name columns of the table; got 'town'"),
    ],
)
def test_mistakes_are_named(conditions: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match) as caught:
        read_conditions(conditions, SCHEMA)
    assert "\n" not in str(caught.value)


def test_conditions_that_rows_never_meet_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rejection, after a bounded number of tries."""
    monkeypatch.setattr(_conditions, "BLOCK_ROWS", 1024)
    day = {"born": {"min": "1977-07-07", "max": "1977-07-07"}}
    with pytest.raises(ValueError, match=r"conditions must not be so rare: 0 of .* meet them"):
        _synthesizer("rows").sample(
            5, seed=0, conditions=day | {"wealth": {"max": 3}, "age": {"max": 0}}
        )
