"""Schemas: what they accept, what they refuse, how they are stored, how tables are held to them."""

from __future__ import annotations

import dataclasses
import datetime
import json
import subprocess
import sys
import tomllib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpslice.accounting import Guarantee
from dpslice.tabular import Boolean, Categorical, Datetime, Number, Schema, _toml, sdv_types
from dpslice.tabular.encoding import Encoding
from table_strategies import schemas, schemas_and_tables

DAY = datetime.date
TIME = datetime.datetime


# --------------------------------------------------------------------------- contradictory schemas


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Number("age", "integer", 90, 17), ValueError, "'age': min must be less than max"),
        (lambda: Number("age", "integer", 17, 17), ValueError, "'age': min must be less than max"),
        (lambda: Number("age", "integer", 17.5, 90), ValueError, "'age': min must be whole"),
        (lambda: Number("x", "integer", 0, 2**52), ValueError, r"'x': max must lie within ±\(2"),
        (lambda: Number("x", "real", 0, float("inf")), ValueError, "'x': max must be a finite"),
        (lambda: Number("x", "real", float("nan"), 1), ValueError, "'x': min must be a finite"),
        (lambda: Number("x", "real", -1e308, 1e308), ValueError, "'x': max - min must be a finite"),
        (lambda: Number("x", "real", "0", 1), TypeError, "'x': min must be a finite number"),
        (lambda: Number("x", "real", False, True), TypeError, "'x': min must be a finite number"),
        (lambda: Number("x", "float", 0, 1), ValueError, "'x': type must be one of integer, real"),
        (lambda: Number("x", "real", 0, 1, scale="sqrt"), ValueError, "'x': scale must be one of"),
        (lambda: Number("x", "real", 0, 1, special=[2.0]), ValueError, "'x': special values must"),
        (lambda: Number("x", "real", 0, 1, special=[0, 0]), ValueError, "'x': special repeats 0"),
        (lambda: Number("x", "real", 0, 1, special=0), TypeError, "'x': special must be a list"),
        (
            lambda: Number("x", "integer", 0, 9, special=[0.5]),
            ValueError,
            "'x': special must be whole",
        ),
        (lambda: Number("x", "integer", 0, 2, special=[0, 2]), ValueError, "'x': special leaves"),
        (lambda: Number("x", "integer", 0, 9, step=0.5), ValueError, "'x': step must be whole"),
        (lambda: Number("x", "integer", 0, 9, step=0), ValueError, "'x': step must be positive"),
        (lambda: Number("x", "integer", 0, 9, step=10), ValueError, "'x': step must be positive"),
        (lambda: Number("x", "integer", 0, 95, step=10), ValueError, "'x': max must be a multiple"),
        (lambda: Number("x", "real", 0.3, 1, step=0.2), ValueError, "'x': min must be a multiple"),
        (
            lambda: Number("x", "integer", 0, 20, special=[0, 20], step=10),
            ValueError,
            "'x': special leaves",
        ),
        (lambda: Number("x", "real", 0, 1, weight=0), ValueError, "'x': weight must be a finite"),
        (lambda: Number("x", "real", 0, 1, weight=-1), ValueError, "'x': weight must be a finite"),
        (lambda: Number("x", "real", 0, 1, nullable=1), TypeError, "'x': nullable must be true"),
        (lambda: Number("", "real", 0, 1), ValueError, "name must not be empty"),
        (lambda: Number(3, "real", 0, 1), TypeError, "name must be a string"),
        (lambda: Categorical("c", []), ValueError, "'c': categories must hold at least one"),
        (lambda: Categorical("c", ["a", "a"]), ValueError, "'c': categories repeat 'a'"),
        (lambda: Categorical("c", ["a", 1]), TypeError, "'c': categories must be all strings"),
        (lambda: Categorical("c", [True, False]), TypeError, "'c': categories must be all strings"),
        (lambda: Categorical("c", [1.0, 2.0]), TypeError, "'c': categories must be all strings"),
        (lambda: Categorical("c", "ab"), TypeError, "'c': categories must be a list"),
        (lambda: Categorical("c", [2**60]), ValueError, "'c': categories must lie within"),
        (lambda: Categorical("c", ["a"], other="b"), ValueError, "'c': other must be one of"),
        (lambda: Categorical("c", [0, 1], other=True), ValueError, "'c': other must be one of"),
        (
            lambda: Datetime("t", DAY(2024, 1, 2), DAY(2024, 1, 1)),
            ValueError,
            "'t': min must be before max",
        ),
        (lambda: Datetime("t", "2024-01-01", "soon"), ValueError, "'t': max must be a date such"),
        (lambda: Datetime("t", 2019, 2024), TypeError, "'t': min must be a date or a time"),
        (
            lambda: Datetime("t", "2024-01-01", "2024-06-01T00:00:00"),
            ValueError,
            "'t': min and max must both be dates",
        ),
        (
            lambda: Datetime("t", "2024-01-01T00:00:00Z", "2024-06-01T00:00:00Z"),
            ValueError,
            "'t': min must be without time zone",
        ),
        (lambda: Boolean("b", weight=float("inf")), ValueError, "'b': weight must be a finite"),
        (lambda: Schema([]), ValueError, "at least one column"),
        (lambda: Schema([Boolean("b"), Boolean("b")]), ValueError, "'b' occurs twice"),
        (lambda: Schema([Boolean("b")], target="c"), ValueError, "target must name a column"),
        (lambda: Schema([Boolean("b")], name=3), TypeError, "name must be a string"),
        (lambda: Schema([Boolean("b")], guarantee=3), TypeError, "guarantee must be a Guarantee"),
        (lambda: Schema(["b"]), TypeError, "columns must be Categorical, Boolean"),
        (lambda: Schema("b"), TypeError, "columns must be a list"),
    ],
)
def test_contradictions_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bounds_and_levels_are_normalised():
    column = Number("x", "integer", np.int64(0), 9.0, special=np.array([3, 0]))
    assert (column.min, column.max, column.special) == (0, 9, (3, 0))
    assert all(type(v) is int for v in (column.min, column.max, *column.special))
    assert type(Number("x", "real", 0, 1).min) is float
    assert Categorical("c", np.array(["a", "b"], dtype=object)).categories == ("a", "b")
    assert Datetime("t", pd.Timestamp("2020-01-01 10:00"), "2021-01-01T00:00:00").min == TIME(
        2020, 1, 1, 10
    )


def test_special_integers_at_the_ends_narrow_the_regular_range():
    assert Number("x", "integer", 0, 10, special=[0, 1, 10]).regular_bounds == (2, 9)
    assert Number("x", "integer", 0, 10, special=[5]).regular_bounds == (0, 10)
    assert Number("x", "real", 0, 10, special=[0]).regular_bounds == (0.0, 10.0)


def test_schema_is_a_sequence_of_named_columns():
    schema = Schema([Boolean("a"), Number("b", "real", 0, 1)], target="b")
    assert schema.names == ("a", "b")
    assert len(schema) == 2
    assert list(schema) == list(schema.columns)
    assert schema["b"].max == 1.0
    with pytest.raises(KeyError):
        schema["c"]


# ------------------------------------------------------------------------------------------ files

EXAMPLE = """
[table]
name = "census"
target = "income"
[columns.age]
type = "integer"
min = 17
max = 90
[columns.workclass]
type = "categorical"
categories = ["Private", "Self-emp", "?"]
[columns.income]
type = "boolean"
[columns.admitted]
type = "datetime"
min = 2019-01-01
max = 2024-12-31
nullable = true
[columns.gain]
type = "real"
min = 0
max = 1e5
special = [0]
scale = "log"
weight = 0.5
"""


def write(path, text, **options):
    path.write_text(text, encoding="utf-8", **options)
    return path


def test_the_plan_s_example_file(tmp_path):
    schema = Schema.load(write(tmp_path / "s.toml", EXAMPLE))
    assert schema == Schema(
        [
            Number("age", "integer", 17, 90),
            Categorical("workclass", ["Private", "Self-emp", "?"]),
            Boolean("income"),
            Datetime("admitted", DAY(2019, 1, 1), DAY(2024, 12, 31), nullable=True),
            Number("gain", "real", 0.0, 1e5, special=[0.0], scale="log", weight=0.5),
        ],
        name="census",
        target="income",
    )
    assert schema.guarantee is None


def test_numbers_on_a_step():
    """Rounded to multiples, on the way in and out; special values are left as they are."""
    pay = Number("pay", "integer", 0, 1000, special=[0, 999], step=100)
    values = pd.Series([-5, 0, 40, 149, 151, 999, 990, 5000], name="pay")
    np.testing.assert_array_equal(pay.to_numbers(values), [0, 0, 0, 100, 200, 999, 1000, 1000])
    back = pay.from_numbers(np.array([0.0, 260.0, 999.0, 1000.0]))
    assert back.tolist() == [0, 300, 999, 1000]
    part = Number("part", "real", 0, 1, step=0.1, nullable=True)
    found = part.to_numbers(pd.Series([0.04, 0.31, np.nan]))
    np.testing.assert_array_equal(found, [0.0, 0.3, np.nan])  # 0.3, not 0.30000000000000004


@given(schema=schemas())
@settings(deadline=None)
def test_toml_and_dict_round_trip(schema, tmp_path_factory):
    path = tmp_path_factory.mktemp("schema") / "s.toml"
    schema.save(path)
    assert Schema.load(path) == schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict(), sort_keys=True))) == schema


def test_guarantee_travels_with_the_schema(tmp_path):
    cost = Guarantee(
        epsilon=0.1, delta=1e-7, adjacency="zero_out", mechanism="schema inference", n=10
    )
    schema = Schema([Boolean("b")], guarantee=cost)
    schema.save(tmp_path / "s.toml")
    assert Schema.load(tmp_path / "s.toml").guarantee == cost
    assert Schema.from_dict(schema.to_dict()).guarantee == cost


LEAVES = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    st.dates(),
    st.datetimes(),
)


@given(
    st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"])),
        st.recursive(
            st.one_of(LEAVES, st.lists(LEAVES, max_size=3)),
            lambda inner: st.dictionaries(
                st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=3
            ),
            max_leaves=6,
        ),
        max_size=4,
    )
)
@settings(deadline=None)
def test_toml_writer_is_read_back_by_the_standard_library(document):
    assert tomllib.loads(_toml.dumps(document)) == document


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (float("nan"), ValueError, "finite numbers only"),
        ("\ud800", ValueError, "valid Unicode"),
        (None, TypeError, "cannot write NoneType"),
    ],
)
def test_toml_writer_refuses_what_toml_cannot_hold(value, error, message):
    with pytest.raises(error, match=message):
        _toml.dumps({"key": value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have columns"),
        ("[columns]", "at least one column"),
        ("[cols.a]\ntype = 'boolean'", "got 'cols'"),
        ("[columns.a]\nmin = 1", "'a': type is missing"),
        ("[columns.a]\ntype = 'number'", "'a': type must be one of integer, real"),
        ("[columns.a]\ntype = ['real']", "'a': type must be one of"),
        ("[columns.a]\ntype = 'integer'\nmin = 0", "'a': max must be given for type 'integer'"),
        ("[columns.a]\ntype = 'categorical'", "'a': categories must be given"),
        ("[columns.a]\ntype = 'boolean'\nmin = 0", "'a': unknown key 'min' for type 'boolean'"),
        ("[columns.a]\ntype = 'real'\nmin = 0\nmax = 1\nmaxx = 2", "'a': unknown key 'maxx'"),
        ("[columns.a]\ntype = 'real'\nmin = 'x'\nmax = 1", "'a': min must be a finite number"),
        ("[columns.a]\ntype = 'real'\nmin = inf\nmax = 1", "'a': min must be a finite number"),
        ("[columns.a]\ntype = 'datetime'\nmin = 1\nmax = 2", "'a': min must be a date or a time"),
        ("[columns.a]\ntype = 'datetime'\nmin = 07:32:00\nmax = 2024-01-01", "'a': min must be"),
        ("[columns.a]\ntype = 'boolean'\n[columns.a]\ntype = 'boolean'", "not a valid TOML"),
        ("columns = 3", "must have columns"),
        ("[columns]\na = 3", "'a': must be a table of keys"),
        ("[table]\ntargets = 'a'\n[columns.a]\ntype = 'boolean'", r"\[table\]: unknown key"),
        ("[table]\nname = 3\n[columns.a]\ntype = 'boolean'", r"\[table\]: name must be a string"),
        ("[table]\ntarget = 'b'\n[columns.a]\ntype = 'boolean'", "target must name a column"),
        ("{", "not valid JSON"),
    ],
)
def test_bad_schema_files(tmp_path, text, message):
    path = write(tmp_path / "s.toml", text)
    with pytest.raises(ValueError, match=message) as caught:
        Schema.load(path)
    assert str(path) in str(caught.value)


def test_schema_file_must_be_utf8(tmp_path):
    path = tmp_path / "s.toml"
    path.write_bytes("[columns.café]\ntype = 'boolean'".encode("latin-1"))
    with pytest.raises(ValueError, match="must be a UTF-8 text file"):
        Schema.load(path)


def test_schema_dict_must_be_a_mapping():
    with pytest.raises(TypeError, match="document must be a mapping"):
        Schema.from_dict([1])
    with pytest.raises(ValueError, match="must be a table with a name"):
        Schema.from_dict({"columns": [{"type": "boolean"}]})


# ----------------------------------------------------------------------------------- SDV metadata

SDV_COLUMNS = {
    "age": {"sdtype": "numerical", "computer_representation": "Int64"},
    "income": {"sdtype": "numerical"},
    "sex": {"sdtype": "categorical"},
    "smoker": {"sdtype": "boolean"},
    "admitted": {"sdtype": "datetime", "datetime_format": "%Y-%m-%d"},
}
SDV_SINGLE = {"METADATA_SPEC_VERSION": "SINGLE_TABLE_V1", "columns": SDV_COLUMNS}
SDV_MULTI = {
    "METADATA_SPEC_VERSION": "V1",
    "tables": {"people": {"columns": SDV_COLUMNS}},
    "relationships": [],
}
SDV_OVERRIDES = {
    "age": {"min": 17, "max": 90},
    "income": {"min": 0, "max": 1e6, "scale": "log"},
    "sex": {"categories": ["f", "m"], "nullable": True},
    "admitted": {"min": "2019-01-01", "max": "2024-12-31"},
}


@pytest.mark.parametrize("metadata", [SDV_SINGLE, SDV_MULTI])
def test_sdv_metadata_with_overrides(metadata, tmp_path):
    expected = Schema(
        [
            Number("age", "integer", 17, 90),
            Number("income", "real", 0, 1e6, scale="log"),
            Categorical("sex", ["f", "m"], nullable=True),
            Boolean("smoker"),
            Datetime("admitted", DAY(2019, 1, 1), DAY(2024, 12, 31)),
        ]
    )
    assert Schema.from_sdv_metadata(metadata, overrides=SDV_OVERRIDES) == expected
    path = write(tmp_path / "metadata.json", json.dumps(metadata))
    assert Schema.load(path, overrides=SDV_OVERRIDES) == expected


def test_sdv_metadata_says_what_is_missing():
    with pytest.raises(ValueError, match=r"still needed: 'age' \(max\), 'sex' \(categories\)"):
        Schema.from_sdv_metadata(
            SDV_SINGLE, overrides={**SDV_OVERRIDES, "age": {"min": 0}, "sex": {}}
        )


def test_sdv_identifiers_must_be_dropped():
    metadata = {"columns": {"id": {"sdtype": "id"}, "smoker": {"sdtype": "boolean"}}}
    with pytest.raises(ValueError, match="column 'id' has sdtype 'id'"):
        Schema.from_sdv_metadata(metadata)
    assert Schema.from_sdv_metadata(metadata, overrides={"id": None}).names == ("smoker",)
    retyped = Schema.from_sdv_metadata(
        metadata, overrides={"id": {"type": "integer", "min": 0, "max": 9}}
    )
    assert retyped["id"] == Number("id", "integer", 0, 9)


def test_sdv_types():
    assert sdv_types(SDV_MULTI) == {
        "age": "integer",
        "income": "real",
        "sex": "categorical",
        "smoker": "boolean",
        "admitted": "date",
    }
    with_time = {"t": {"sdtype": "datetime", "datetime_format": "%Y-%m-%d %H:%M"}}
    mail = {"mail": {"sdtype": "email"}}
    assert sdv_types({"columns": {**with_time, **mail}}) == {"t": "datetime"}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "must have columns"),
        ({"tables": {}}, "exactly one table; got 0"),
        ({"tables": {"a": {}, "b": {}}}, "exactly one table; got 2"),
        ({"columns": {"a": {}}}, "column 'a' must have an sdtype"),
    ],
)
def test_malformed_sdv_metadata(metadata, message):
    with pytest.raises(ValueError, match=message):
        Schema.from_sdv_metadata(metadata)


def test_overrides_belong_to_sdv_columns(tmp_path):
    with pytest.raises(ValueError, match="the metadata has no column 'x'"):
        Schema.from_sdv_metadata(SDV_SINGLE, overrides={"x": {}})
    with pytest.raises(ValueError, match="for SDV metadata only"):
        Schema.load(write(tmp_path / "s.toml", EXAMPLE), overrides={})
    with pytest.raises(TypeError, match="metadata must be a mapping"):
        Schema.from_sdv_metadata("x")


# ------------------------------------------------------------------------------- tables against it

SCHEMA = Schema(
    [
        Number("age", "integer", 0, 100),
        Number("height", "real", 0.5, 2.5, nullable=True),
        Categorical("job", ["none", "NA", "clerk"]),
        Categorical("code", [1, 2, 9], other=9, nullable=True),
        Boolean("smoker"),
        Datetime("seen", DAY(2020, 1, 1), DAY(2020, 12, 31), nullable=True),
    ]
)


def frame(**changes):
    data = {
        "age": [30, 40],
        "height": [1.5, None],
        "job": ["NA", "clerk"],
        "code": [1, 2],
        "smoker": [True, False],
        "seen": pd.to_datetime(["2020-02-03", None]),
    }
    return pd.DataFrame({**data, **changes})


def test_validate_returns_the_schema_s_own_form():
    got = SCHEMA.validate(frame()[list(reversed(SCHEMA.names))])
    expected = pd.DataFrame(
        {
            "age": pd.array([30, 40], dtype="int64"),
            "height": pd.array([1.5, np.nan], dtype="float64"),
            "job": pd.Series(["NA", "clerk"], dtype=object),
            "code": pd.array([1, 2], dtype="Int64"),
            "smoker": [True, False],
            "seen": pd.Series(["2020-02-03", None], dtype="datetime64[ns]"),
        }
    )
    pd.testing.assert_frame_equal(got, expected)


@given(schemas_and_tables())
@settings(deadline=None)
def test_validate_is_idempotent_and_keeps_fitting_values(pair):
    schema, table = pair
    once = schema.validate(table)
    pd.testing.assert_frame_equal(schema.validate(once), once)
    for column in schema:
        there = table[column.name].notna().to_numpy()
        assert (once[column.name].notna().to_numpy() == there).all()
        if isinstance(column, Categorical | Number):
            got = once[column.name][there].tolist()
            assert got == table[column.name][there].tolist()


def test_out_of_bounds_is_clipped_in_silence(capsys):
    got = SCHEMA.validate(
        frame(
            age=[-5, 10**15], height=[9.0, -9.0], seen=pd.to_datetime(["1999-01-01", "2199-01-01"])
        )
    )
    assert got["age"].tolist() == [0, 100]
    assert got["height"].tolist() == [2.5, 0.5]
    assert got["seen"].dt.strftime("%F").tolist() == ["2020-01-01", "2020-12-31"]
    assert capsys.readouterr() == ("", "")


def test_unknown_category_goes_to_other_where_declared():
    assert SCHEMA.validate(frame(code=[7, None]))["code"].tolist() == [9, pd.NA]
    with pytest.raises(ValueError, match="'job': not among the schema's categories: 'boss' "):
        SCHEMA.validate(frame(job=["boss", "none"]))
    column = Categorical("c", ["a"])
    strangers = pd.Series([f"x{i % 12}" for i in range(30)], name="c")
    shown = ", ".join(f"'x{i}'" for i in range(10))
    numbers = Categorical("n", [1, 2])
    with pytest.raises(ValueError, match=r"categories: 7 \(the first at index 1\);"):
        numbers.to_numbers(pd.Series([1, 7], dtype="Int64"))
    for series in (strangers, strangers.astype("category")):
        with pytest.raises(ValueError, match=rf"{shown} and more \(the first at index 0\);"):
            column.to_numbers(series)


def test_values_outside_the_bounds_are_counted_for_the_data_holder():
    height = Number("h", "real", 0.5, 2.5, nullable=True)
    assert height.outside(pd.Series([0.4, 0.5, 2.5, 2.6, None, 99.0])) == 3
    seen = Datetime("t", datetime.date(2020, 1, 1), datetime.date(2020, 12, 31))
    stamps = pd.to_datetime(["2019-12-31", "2020-01-01", "2020-12-31", "2021-01-01"])
    assert seen.outside(pd.Series(stamps)) == 2
    evening = pd.Series(pd.to_datetime(["2020-12-31 23:59:59"]))
    assert seen.outside(evening) == 0  # cut to its day, as any other


def test_bounds_that_are_no_decimals_hold_the_values_that_they_stand_for():
    """As floats, 0.1 * 3 is more than 0.3, which tables hold."""
    for low, high, step in ((0.1 * 3, 0.7, 0.1), (-0.7, -0.1 * 3, 0.1), (0.3, 0.1 * 7, 0.1)):
        share = Number("s", "real", low, high, step=step)
        values = pd.Series(np.linspace(low, high, 5).round(1))
        assert (share.outside(values), share.rounded(values)) == (0, 0)
        near = pd.Series([low - 1e-9, low * (1 - 1e-15), high * (1 + 1e-15), high + 1e-9])
        assert (share.outside(near), share.rounded(near)) == (2, 0)
    far = Number("s", "integer", 10**14, 2 * 10**14, step=100)  # whole numbers are exact
    values = pd.Series([10**14 - 1, 10**14, 10**14 + 1, 2 * 10**14, 2 * 10**14 + 1])
    assert (far.outside(values), far.rounded(values)) == (2, 1)


def test_values_that_are_rounded_are_counted_for_the_data_holder():
    share = Number("s", "real", 0, 100, nullable=True, special=(0.05,), step=0.1)
    tenths = pd.Series(np.arange(1001) / 10.0)
    assert share.rounded(tenths) == 0
    assert share.rounded(pd.Series([0.05, 0.15, 21.84, 21.8, None, 100.03, -0.02])) == 2
    assert Number("s", "real", 0, 100).rounded(pd.Series([0.15])) == 0
    income = Number("i", "integer", 0, 500, step=100)
    assert income.rounded(pd.Series([0, 100, 150, 199])) == 2
    texts = ["2020-01-01", "2020-12-31 23:59:59.5", "2021-06-01 12:00"]
    stamps = pd.Series(pd.to_datetime(texts, format="ISO8601"))
    assert Datetime("t", "2020-01-01", "2020-12-31").rounded(stamps) == 1
    assert Datetime("t", "2020-01-01T00:00:00", "2021-12-31T00:00:00").rounded(stamps) == 1


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"age": ["30", "40"]}, TypeError, "'age': must hold numbers .* got str"),
        ({"age": [True, False]}, TypeError, "'age': must hold numbers .* got bool"),
        ({"age": [1j, 2j]}, TypeError, "'age': must hold numbers .* got complex"),
        ({"age": [1, "x"]}, TypeError, "'age': must hold numbers .* got mixed"),
        ({"age": [1.5, 2.0]}, ValueError, "'age': holds numbers that are not whole"),
        ({"age": [1.0, np.nan]}, ValueError, r"'age': missing values \(the first at index"),
        ({"height": [1.0, np.inf]}, ValueError, "'height': holds infinite values"),
        ({"job": ["none", None]}, ValueError, r"'job': missing values \(the first at index"),
        ({"job": [1, 2]}, TypeError, "'job': its categories are strings, but .* integer"),
        ({"job": ["none", 2]}, TypeError, "'job': its categories are strings, but .* mixed"),
        ({"code": ["1", "2"]}, TypeError, "'code': its categories are integers, but .* string"),
        ({"code": [True, False]}, TypeError, "'code': its categories are integers, but .* bool"),
        ({"smoker": ["yes", "no"]}, TypeError, "'smoker': must hold booleans"),
        ({"smoker": [0, 2]}, ValueError, "'smoker': numbers in a boolean column must be 0 or 1"),
        ({"smoker": [True, None]}, ValueError, r"'smoker': missing values \(the first at index"),
        ({"seen": ["2020-01-01", "2020-01-02"]}, TypeError, "'seen': must hold datetimes"),
        ({"seen": [1, 2]}, TypeError, "'seen': must hold datetimes"),
        (
            {"seen": pd.to_datetime(["2020-01-01", "2020-01-02"], utc=True)},
            TypeError,
            "'seen': datetimes must be without time zone",
        ),
        (
            {"seen": pd.Series(pd.to_datetime(["2020-01-01"] * 2, utc=True), dtype=object)},
            TypeError,
            "'seen': datetimes must be without time zone",
        ),
        (
            {"seen": [None, datetime.datetime(2020, 5, 6, tzinfo=datetime.UTC)]},
            TypeError,
            "'seen': datetimes must be without time zone",
        ),
        ({"job": [["none"], ["none"]]}, TypeError, "'job': .* strings, but the column holds lists"),
        ({"code": [[1], [2]]}, TypeError, "'code': its categories are integers, but .* mixed"),
        ({"age": [[1], 2]}, TypeError, "'age': must hold numbers .* got mixed"),
        ({"smoker": [[1], [2]]}, TypeError, "'smoker': must hold booleans"),
        ({"seen": [[1], [2]]}, TypeError, "'seen': must hold datetimes"),
        ({"height": [1.0, -np.inf]}, ValueError, r"infinite values \(the first at index 1\);"),
        ({"job": ["none", "x" * 3000]}, ValueError, r"categories: 'x{76}[.]{3} \(the first at"),
        ({"extra": [1, 2]}, ValueError, "no column beyond the schema's; got 'extra'"),
    ],
)
def test_values_that_break_the_schema(changes, error, message):
    with pytest.raises(error, match=message):
        SCHEMA.validate(frame(**changes))


def test_the_frame_itself_is_checked():
    with pytest.raises(ValueError, match="missing: 'age', 'seen'"):
        SCHEMA.validate(frame().drop(columns=["age", "seen"]))
    with pytest.raises(ValueError, match="'age' occurs twice"):
        SCHEMA.validate(pd.concat([frame(), frame()[["age"]]], axis=1))
    with pytest.raises(ValueError, match="at least one row; got an empty table"):
        SCHEMA.validate(frame().iloc[:0])
    with pytest.raises(TypeError, match="df must be a pandas DataFrame; got list"):
        SCHEMA.validate([[1]])


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        (Number("x", "integer", 0, 9), pd.array([1, 2], dtype="Int64"), [1, 2]),
        (Number("x", "integer", 0, 9), [1.0, 2.0], [1, 2]),
        (Number("x", "integer", 0, 9), pd.Series([1, 2], dtype=object), [1, 2]),
        (Number("x", "integer", 0, 9), pd.array([1, 2], dtype="uint8"), [1, 2]),
        (Categorical("x", ["a", "b"]), pd.Categorical(["b", "a"], ["a", "b", "z"]), ["b", "a"]),
        (Categorical("x", ["a", "b"]), pd.array(["b", "a"], dtype="string"), ["b", "a"]),
        (Categorical("x", [1, 2]), [2.0, 1.0], [2, 1]),
        (Categorical("x", [1, 2]), pd.Categorical([2, 1]), [2, 1]),
        (Boolean("x"), [0, 1], [False, True]),
        (Boolean("x"), pd.array([True, False], dtype="boolean"), [True, False]),
        (Boolean("x"), pd.Series([True, False], dtype=object), [True, False]),
    ],
)
def test_accepted_dtypes(column, values, expected):
    assert Schema([column]).validate(pd.DataFrame({"x": values}))["x"].tolist() == expected


@pytest.mark.parametrize(
    "column",
    [
        Number("x", "integer", 0, 9, nullable=True),
        Number("x", "real", 0, 9, nullable=True),
        Categorical("x", ["a"], nullable=True),
        Categorical("x", [1], nullable=True),
        Boolean("x", nullable=True),
        Datetime("x", "2020-01-01", "2021-01-01", nullable=True),
    ],
)
@pytest.mark.parametrize("missing", [None, np.nan, pd.NA, pd.NaT])
@pytest.mark.parametrize("dtype", [object, None])
def test_a_column_may_be_missing_altogether(column, missing, dtype):
    table = pd.DataFrame({"x": pd.Series([missing, missing], dtype=dtype)})
    assert Schema([column]).validate(table)["x"].isna().all()
    strict = Schema([dataclasses.replace(column, nullable=False)])
    with pytest.raises(ValueError, match=r"'x': missing values \(the first at index"):
        strict.validate(table)


def test_unused_levels_of_a_pandas_categorical_are_not_judged():
    schema = Schema([Categorical("x", ["a"], nullable=True)])
    values = pd.Categorical(["a", None], ["a", "unused"])
    assert schema.validate(pd.DataFrame({"x": values}))["x"].tolist() == ["a", None]
    with pytest.raises(ValueError, match="categories: 'z' "):
        schema.validate(pd.DataFrame({"x": pd.Categorical(["a", "z"])}))


def test_datetimes_are_cut_to_whole_steps():
    moments = pd.DataFrame(
        {"t": np.array(["2020-05-06T23:59:59.900", "1969-12-31T00:00:01"], "datetime64[ms]")}
    )
    days = Schema([Datetime("t", "1960-01-01", "2021-01-01")])
    assert days.validate(moments)["t"].astype(str).tolist() == ["2020-05-06", "1969-12-31"]
    seconds = Schema([Datetime("t", "1960-01-01T00:00:00", "2021-01-01T00:00:00")])
    assert seconds.validate(moments)["t"].astype(str).tolist() == [
        "2020-05-06 23:59:59",
        "1969-12-31 00:00:01",
    ]


def test_dates_may_be_of_pyarrow_and_zones_of_its_times_are_seen():
    pa = pytest.importorskip("pyarrow")
    day, noon = datetime.date(2020, 5, 6), TIME(2020, 5, 6, 12, tzinfo=datetime.UTC)
    days = Datetime("t", "2020-05-07", "2021-01-01", nullable=True)
    values = pd.Series([day, None, datetime.date(2020, 5, 8)], dtype=pd.ArrowDtype(pa.date32()))
    assert days.from_numbers(days.to_numbers(values)).astype(str).tolist() == [
        "2020-05-07",
        "NaT",
        "2020-05-08",
    ]
    assert (days.outside(values), days.rounded(values)) == (1, 0)
    for several in ([noon], [noon, None]):
        zoned = pd.Series(several, dtype=pd.ArrowDtype(pa.timestamp("us", "UTC")))
        with pytest.raises(TypeError, match="'t': datetimes must be without time zone"):
            days.to_numbers(zoned)


def test_parts_of_seconds_are_counted_as_rounded():
    """As whatever else is finer than the column; a value that has none is not."""
    column = Datetime("t", "1960-01-01T00:00:00", "2021-01-01T00:00:00", nullable=True)
    whole, finer = TIME(1969, 12, 31, 23, 59, 59), TIME(1969, 12, 31, 23, 59, 59, 1)
    for values in (
        pd.Series([whole, finer, None]),
        pd.Series([whole, finer, None], dtype=object),
        pd.Series(np.array([whole, finer, None], "datetime64[ns]")),
    ):
        assert column.rounded(values) == 1
        assert column.from_numbers(column.to_numbers(values)).tolist()[:2] == [whole, whole]
    assert column.rounded(pd.Series([None, None])) == 0
    # What lies outside is clipped, not rounded; a part of the last second is not outside.
    late = pd.Series([TIME(2021, 1, 1, 0, 0, 0, 5), TIME(2021, 1, 1, 0, 0, 1, 5)])
    assert (column.rounded(late), column.outside(late)) == (1, 1)


@pytest.mark.parametrize(
    "bound",
    [
        "2020-01-01T00:00:00.5",
        "2020-01-01T00:00:00,000001",
        "2020-01-01T00:00:00.0000001",  # of which Python reads six digits
        TIME(2020, 1, 1, 0, 0, 0, 1),
        pd.Timestamp(1, unit="ns"),
    ],
)
def test_bounds_finer_than_a_second_are_refused(bound):
    with pytest.raises(ValueError, match="'t': max must be a date, or a time to the second; got "):
        Datetime("t", "1960-01-01T00:00:00", bound)
    assert Datetime("t", "1960-01-01T00:00:00", "2020-01-01T00:00:00.000").max == TIME(2020, 1, 1)


def test_datetimes_beyond_the_nanosecond_range():
    schema = Schema([Datetime("t", "0001-01-01", "9999-12-31")])
    got = schema.validate(pd.DataFrame({"t": pd.Series([DAY(9999, 12, 31), DAY(1, 1, 1)])}))["t"]
    assert got.dtype == "datetime64[s]"
    assert got.dt.year.tolist() == [9999, 1]


# ------------------------------------------------------------------------ numbers out of all bounds


HUGE = 10**400


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Number("x", "real", -HUGE, 1), "'x': min must be .* beyond float64"),
        (lambda: Number("x", "integer", 0, HUGE), "'x': max must be .* beyond float64"),
        (lambda: Number("x", "real", 0, 1, special=[HUGE]), "'x': special must be a finite number"),
        (lambda: Number("x", "real", 0, 1, step=HUGE), "'x': step must be .* beyond float64"),
        (lambda: Number("x", "real", 0, 1, weight=HUGE), "'x': weight must be a finite number"),
        (
            lambda: Boolean("x", weight=1e300),
            r"'x': weight must be from 1e-06 to 1e\+06; got 1e\+300",
        ),
        (
            lambda: Boolean("x", weight=1e-300),
            r"'x': weight must be from 1e-06 to 1e\+06; got 1e-300",
        ),
        (
            lambda: Number("x", "real", 0, 1e10, step=1e-300),
            "'x': step must be at least 1e-280, an",
        ),
        (lambda: Number("x", "real", 0, 1e-300, step=5e-324), "'x': step must be at least 1e-280"),
        (lambda: Number("x", "real", 0, 1e10, step=1e-7), "'x': step must be .*max within 2..50"),
        (lambda: Categorical("x", ["", "a"], nullable=True), "'x': categories must not hold '' "),
    ],
)
def test_numbers_out_of_all_bounds(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("weight", [1e-6, 1e6])
def test_weights_at_the_ends_of_their_range(weight):
    encoding = Encoding(Schema([Boolean("x", weight=weight), Boolean("y")]))
    assert sum(block.radius**2 for block in encoding.blocks) == pytest.approx(encoding.max_norm**2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[columns.x]\ntype = 'real'\nmin = 0\nmax = 1" + "0" * 400,
            "'x': max must be a finite num",
        ),
        ("[columns.x]\ntype = 'real'\nmin = 0\nmax = 1" + "0" * 6000, "holds a number of too many"),
        ('{"columns": {"x": 1' + "0" * 6000 + "}}", "holds a number of too many digits"),
        ("x = " + "[" * 400 + "]" * 400, "nested too deeply"),
        ("x = " + "[" * 90_000 + "]" * 90_000, "nested too deeply"),
        ('{"columns": ' + "[" * 90_000 + "]" * 90_000 + "}", "nested too deeply"),
        ('{"columns": ' + "[" * 700 + "]" * 700 + "}", "nested too deeply"),
    ],
)
def test_files_that_no_schema_is_like(tmp_path, text, message):
    path = tmp_path / "s.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        Schema.load(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 300


def test_steps_leave_no_negative_zero():
    schema = Schema([Number("x", "real", -1, 1, step=0.5, special=[0.0])])
    values = schema.validate(pd.DataFrame({"x": [-0.1, -0.0, 0.1]}))["x"].to_numpy()
    assert not np.signbit(values).any()


# ------------------------------------------------------------------------------- rows, not tables


@pytest.mark.parametrize(
    ("rows", "kind"),
    [
        (lambda t: t.to_records(), "recarray"),
        (lambda t: t.itertuples(), "Pandas"),
        (lambda t: t.to_dict("records"), "dict"),
        (lambda t: t.to_numpy(), "ndarray"),
        (lambda t: [["secret"]], "list"),
        (lambda t: 3, "int"),
        (lambda t: "secret", "str"),
    ],
)
def test_rows_in_place_of_a_table_are_not_shown(rows, kind):
    schema = Schema([Categorical("job", ["secret"])])
    with pytest.raises(TypeError, match=f"df must be .*; got {kind}$") as caught:
        list(schema.blocks(rows(pd.DataFrame({"job": ["secret"]})), block_rows=5))
    assert "secret" not in str(caught.value)


def test_empty_strings_of_a_nullable_column_are_not_inferred():
    table = pd.DataFrame({"job": ["", pd.NA, "cook"] * 400})
    how = {"epsilon": 1.0, "delta": 1e-6, "types": {"job": "categorical"}}
    with pytest.raises(
        ValueError, match=r"'job': holds empty strings \(the first at index 0\), wh"
    ):
        Schema.infer(table, **how)
    strict = Schema.infer(table.dropna(), **how, nullable=False)
    assert strict["job"].categories == ("", "cook")


def test_overrides_must_be_a_mapping():
    metadata = {"columns": {"smoker": {"sdtype": "boolean"}}}
    with pytest.raises(TypeError, match="overrides must be a mapping; got 5"):
        Schema.from_sdv_metadata(metadata, overrides=5)


def test_names_imported_on_demand_are_listed():
    """Completion and help() show them, and torch is not imported for that."""
    code = (
        "import sys, dpslice.tabular as t\n"
        "assert set(t.__all__) <= set(dir(t)), dir(t)\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
