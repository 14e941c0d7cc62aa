"""Rules on what is impossible: how schemas state them, which rows break them, what samples do."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import json
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from dpslice.accounting import Guarantee
from dpslice.tabular import (
    Boolean,
    Categorical,
    Datetime,
    InferenceError,
    Number,
    Rule,
    Schema,
    _toml,
)
from dpslice.tabular.metrics import scores
from dpslice.tabular.report import render_report
from table_strategies import schemas, tables, values_of

DAY, TIME = datetime.date, datetime.datetime
COLUMNS = (
    Number("age", "integer", 0, 90),
    Boolean("married"),
    Categorical("job", ["cook", "pilot", "none"], nullable=True),
    Categorical("level", [1, 2, 3]),
    Number("pay", "real", 0.0, 900.0, special=[0.0, 555.5], step=100.0, nullable=True),
    Number("share", "real", 0.0, 1.0),
    Datetime("born", "1930-01-01", "2020-12-31"),
    Datetime("seen", "2020-01-01T00:00:00", "2020-12-31T23:59:59", nullable=True),
)
CHILD = {"age": {"max": 15}, "married": True}


def _schema(*rules: Any) -> Schema:
    return Schema(COLUMNS, impossible=rules)


# --------------------------------------------------------------------------------------- parsing

FILE = """
[[impossible]]
married = true
age = { max = 15 }

[[impossible]]
born = { min = 2004-01-01, max = 2020-12-31 }
job = ["cook", "pilot"]

[[impossible]]
job = { not = ["none", "cook"] }
pay = { missing = true }

[[impossible]]
level = { not = 2 }
seen = { max = 2020-01-31T12:00:00 }
pay = 0

[[impossible]]
job = { missing = true }
pay = { missing = false }
"""


def test_rules_of_a_file(tmp_path: Path) -> None:
    Schema(COLUMNS).save(tmp_path / "s.toml")
    plain = (tmp_path / "s.toml").read_text()
    assert "impossible" not in plain  # as files were before there were rules
    assert Schema.load(tmp_path / "s.toml").impossible == ()
    (tmp_path / "s.toml").write_text(plain + FILE)
    schema = Schema.load(tmp_path / "s.toml")
    assert schema == _schema(
        CHILD,
        {"job": ("cook", "pilot"), "born": {"min": "2004-01-01", "max": DAY(2020, 12, 31)}},
        {"job": {"not": np.array(["none", "cook"], dtype=object)}, "pay": None},
        {"pay": np.float64(0), "level": {"not": [2]}, "seen": {"max": TIME(2020, 1, 31, 12)}},
        {"job": {"missing": True}, "pay": {"missing": np.bool_(False)}},
    )
    assert [str(rule) for rule in schema.impossible] == [
        "age at most 15 and married is True",
        "job is 'cook' or 'pilot' and born from 2004-01-01 to 2020-12-31",
        "job is not 'none' or 'cook' and pay is missing",
        "level is not 2 and pay is 0.0 and seen at most 2020-01-31T12:00:00",
        "job is missing and pay is not missing",
    ]
    assert repr(schema.impossible[0]) == "Rule({'age': {'max': 15}, 'married': True})"
    assert schema.impossible[2].to_dict() == {
        "job": {"not": ["none", "cook"]},
        "pay": {"missing": True},
    }


def test_rules_travel_with_the_schema(tmp_path: Path) -> None:
    cost = Guarantee(
        epsilon=0.1, delta=1e-7, adjacency="zero_out", mechanism="schema inference", n=10
    )
    schema = Schema(
        COLUMNS, name="people", guarantee=cost, impossible=[CHILD, {"seen": None, "level": [1, 3]}]
    )
    schema.save(tmp_path / "s.toml")
    document = tomllib.loads((tmp_path / "s.toml").read_text())
    assert document["impossible"][0] == {"age": {"max": 15}, "married": True}
    assert Schema.load(tmp_path / "s.toml") == schema
    text = json.dumps(schema.to_dict(), sort_keys=True)
    assert Schema.from_dict(json.loads(text)) == schema
    assert hash(schema) == hash(dataclasses.replace(schema))
    other = dataclasses.replace(schema, target="age")
    assert other.impossible == schema.impossible
    assert dataclasses.replace(schema, impossible=()) != schema
    with pytest.raises(ValueError, match=r"impossible rule 1 must name columns .* got 'married'"):
        dataclasses.replace(schema, columns=COLUMNS[:1])


@st.composite
def schemas_with_rules(draw: st.DrawFn) -> Schema:
    schema = draw(schemas())
    rules = []
    for _ in range(draw(st.integers(1, 3))):
        named = draw(st.lists(st.sampled_from(schema.names), min_size=1, max_size=3, unique=True))
        rules.append({name: draw(_said_of(schema[name])) for name in named})
    try:
        return dataclasses.replace(schema, impossible=rules)
    except ValueError:  # some of these are repeated, mean nothing, or leave nothing
        assume(False)
        raise


def _said_of(column: Any) -> st.SearchStrategy[Any]:
    values = values_of(dataclasses.replace(column, nullable=False))
    several = st.lists(values, min_size=1, max_size=3, unique=True)
    options = [values, several, several.map(lambda given: {"not": given})]
    if isinstance(column, Number | Datetime):
        pairs = st.tuples(values, values).map(sorted)
        options += [
            values.map(lambda end: {"min": end}),
            values.map(lambda end: {"max": end}),
            pairs.map(lambda ends: {"min": ends[0], "max": ends[1]}),
        ]
    if column.nullable:
        options += [st.none(), st.booleans().map(lambda flag: {"missing": flag})]
    return st.one_of(options)


def _means(said: Any, value: Any) -> bool:
    """Say the same as a rule, of one value, in the plainest Python."""
    if said is None:
        return value is None
    if not isinstance(said, Mapping):
        return value in (said if isinstance(said, list) else [said])
    if "missing" in said:
        return (value is None) == said["missing"]
    if value is None:
        return False
    if "not" in said:
        return not _means(said["not"], value)
    return not (("min" in said and value < said["min"]) or ("max" in said and value > said["max"]))


def _plain(value: Any, column: Any) -> Any:
    if pd.isna(value):
        return None
    if isinstance(column, Datetime):
        moment = pd.Timestamp(value).to_pydatetime()
        return moment.date() if column.whole_days else moment
    return value


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_round_trips_and_rows_against_plain_python(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    schema = data.draw(schemas_with_rules())
    path = tmp_path_factory.mktemp("schema") / "s.toml"
    schema.save(path)
    assert Schema.load(path) == schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict(), sort_keys=True))) == schema
    table = schema.validate(data.draw(tables(schema)))
    expected = [
        [
            all(
                _means(said, _plain(table[name][i], schema[name]))
                for name, said in rule.to_dict().items()
            )
            for rule in schema.impossible
        ]
        for i in range(len(table))
    ]
    np.testing.assert_array_equal(schema.broken_rules(table), expected)


@given(st.lists(st.dictionaries(st.text("ab c", min_size=1), st.integers()), min_size=1))
@settings(deadline=None)
def test_toml_writer_makes_arrays_of_tables(entries: list[dict[str, int]]) -> None:
    document = {"a": {"b": entries, "c": {"d": 1}}, "e": entries, "f": [[{"x": entries}], []]}
    assert tomllib.loads(_toml.dumps(document)) == document
    assert "[[e]]" in _toml.dumps(document)
    assert "[[a.b]]" in _toml.dumps(document)


# ---------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("rule", "error", "match"),
    [
        ({}, ValueError, "rule 2 must name at least one column; got none"),
        ({"agee": 3}, ValueError, "rule 2 must name columns of the table; got 'agee'"),
        (3, TypeError, "rule 2 must map names of columns to values; got 3"),
        ({"age": 91}, ValueError, "rule 2: .* column 'age' can hold, within its bounds; got 91"),
        ({"age": 3.5}, ValueError, "rule 2: .*'age' can hold, whole numbers; got 3.5$"),
        ({"age": "old"}, TypeError, "rule 2: .*'age' can hold, whole numbers; got 'old'$"),
        ({"age": [20, np.inf]}, ValueError, "rule 2: .*'age' can hold, whole numbers; got inf$"),
        ({"pay": np.inf}, ValueError, "rule 2: .*'pay' can hold, finite numbers; got inf$"),
        ({"married": "yes"}, TypeError, "rule 2: .*'married' can hold, true or false; got 'yes'$"),
        ({"married": 2}, ValueError, "rule 2: .*'married' can hold, true or false; got 2$"),
        ({"age": None}, ValueError, "rule 2: column 'age': missing is for columns that are null"),
        ({"age": {"missing": False}}, ValueError, "'age': missing is for columns that are null"),
        ({"job": {"missing": 1}}, TypeError, "'job': missing must be True or False; got 1"),
        ({"job": "king"}, ValueError, "column 'job' can hold; got 'king', which is not among"),
        ({"age": 10**400}, ValueError, "column 'age' can hold; got 10000"),
        ({"born": {"max": pd.NaT}}, TypeError, "column 'born': max must be a date or a time; got"),
        ({"job": ["cook", None]}, ValueError, "'job': missing ones must not stand among values"),
        ({"job": ["cook", "cook"]}, ValueError, "'job': values must differ; 'cook' occurs twice"),
        ({"job": []}, ValueError, "'job' must have at least one value; got an empty list"),
        ({"job": {"not": []}}, ValueError, "'job' must have at least one value"),
        ({"job": {"cook"}}, TypeError, "'job' must have a value, a list of values, or a table"),
        ({"level": True}, TypeError, "rule 2: .*'level' can hold, integers; got True$"),
        ({"level": {"not": [1, 2, 3]}}, ValueError, "'level': no value that it can hold is meant"),
        ({"job": {"min": "a"}}, ValueError, "'job': min and max are for numbers and datetimes"),
        ({"married": {"max": 1}}, ValueError, "the column is of type 'boolean'"),
        ({"age": {}}, ValueError, "'age' must have min, max or both, or one of not and missing"),
        ({"age": {"min": 1, "not": 3}}, ValueError, "'age' must have min, max or both"),
        ({"age": {"mix": 1}}, ValueError, "'age': unknown key 'mix'; known keys: min, max, not, m"),
        ({"age": {"min": 9, "max": 8}}, ValueError, "'age': min must not be greater .* max = 8"),
        ({"age": {"min": 91}}, ValueError, "'age': no value that it can hold is meant by"),
        ({"age": {"max": 8.5}}, ValueError, "rule 2: column 'age': max must be whole"),
        ({"age": {"max": np.inf}}, ValueError, "'age': max must be a finite number"),
        ({"pay": {"min": 110, "max": 190}}, ValueError, "'pay': no value that it can hold"),
        ({"pay": 150}, ValueError, "can hold, within its bounds in steps of 100; got 150"),
        ({"born": "soon"}, ValueError, "rule 2: column 'born' must be a date such as"),
        ({"born": 2004}, TypeError, "rule 2: column 'born' must be a date or a time; got 2004"),
        (
            {"born": DAY(2021, 1, 1)},
            ValueError,
            "'born' can hold, within its bounds in whole days; got",
        ),
        ({"born": {"max": TIME(2004, 1, 1, 8)}}, ValueError, "'born': max must be a date, as"),
        ({"seen": {"max": DAY(2020, 5, 1)}}, ValueError, "'seen': max must be a time such as"),
        ({"seen": TIME(2020, 5, 1, 8, 0, 0, 1)}, ValueError, "'seen' must be a date, or a time to"),
        (CHILD, ValueError, r"rule 2 \(age at most 15 and married is True\) repeats rule 1"),
        ({"married": [True, False]}, ValueError, r"rule 2 .* must leave some rows .* leaves none"),
        ({"age": {"min": -5}}, ValueError, "rule 2 .age at least -5. must leave some rows"),
        ({"share": {"not": 0.5}, "age": {"max": 99}}, None, ""),  # share may be 0.5
    ],
)
def test_rules_that_say_nothing_or_what_cannot_be(
    rule: Any, error: type[Exception] | None, match: str, tmp_path: Path
) -> None:
    if error is None:
        _schema(CHILD, rule)
        return
    with pytest.raises(error, match=match) as caught:
        _schema(CHILD, rule)
    assert "impossible rule 2" in str(caught.value)
    document = Schema(COLUMNS).to_dict() | {"impossible": [CHILD, rule]}
    with pytest.raises(ValueError, match=match):  # in a file, a wrong kind is wrong content
        Schema.from_dict(document)


@pytest.mark.parametrize("wrong", [3, "age", {"age": 3}, None])
def test_rules_of_another_kind(wrong: Any) -> None:
    with pytest.raises(TypeError, match="impossible must be a list of rules"):
        Schema(COLUMNS, impossible=wrong)
    with pytest.raises(ValueError, match=r"list of rules, in a file \[\[impossible\]\] tables"):
        Schema.from_dict(Schema(COLUMNS).to_dict() | {"impossible": wrong})


@pytest.mark.parametrize(
    ("rules", "culprit"),
    [
        ([{"married": True}, {"married": False}], 2),
        ([{"age": {"max": 40}}, {"age": {"min": 42}}, {"age": 41}], 3),
        ([{"age": {"max": 40}}, {"age": {"min": 42}}], None),
        ([{"share": {"max": 0.5}}, {"share": {"min": 0.5}}], 2),
        ([{"share": {"max": 0.5}}, {"share": {"min": np.nextafter(0.5, 1)}}], 2),
        ([{"share": {"max": 0.4}}, {"share": {"min": 0.6}}], None),
        ([{"pay": {"missing": False}}, {"pay": None}], 2),
        ([{"pay": {"max": 500}}, {"pay": {"min": 600}}, {"pay": {"missing": True}}], None),
        ([{"pay": {"max": 500}}, {"pay": {"min": 555.5}}, {"pay": {"missing": True}}], 3),
        ([{"level": 1}, {"level": 2, "age": {"max": 90}}, {"level": 3, "job": None}], None),
        ([{"level": 1}, {"level": 2, "age": {"max": 90}}, {"level": 3}], 3),
        # One after the other: no level but 3, so no cook, so nobody is married; but all are.
        ([{"level": [1, 2]}, {"level": 3, "married": True}, {"married": False}], 3),
        ([{"level": 3, "married": True}, {"level": [1, 2]}, {"married": False}], 1),
        ([{"born": {"max": "1999-12-31"}}, {"born": {"min": "2000-01-01"}}], 2),
        ([{"born": {"max": "1999-12-31"}}, {"born": {"min": "2000-01-02"}}], None),
    ],
)
def test_rules_that_leave_nothing(rules: list[Any], culprit: int | None) -> None:
    if culprit is None:
        assert len(_schema(*rules).impossible) == len(rules)
        return
    with pytest.raises(ValueError, match=f"impossible rule {culprit} .* beside the other rules"):
        _schema(*rules)


SMALL = (Categorical("a", [1, 2, 3]), Boolean("b", nullable=True), Number("c", "integer", 0, 3))


@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "a": st.sampled_from([1, 2, 3, [1, 2], [2, 3], {"not": 1}]),
                "b": st.sampled_from([True, False, None, {"missing": False}]),
                "c": st.sampled_from([0, 3, [1, 2], {"min": 1}, {"max": 2}, {"min": 1, "max": 2}]),
            },
        ).filter(bool),
        max_size=6,
    )
)
@settings(deadline=None, max_examples=300)
def test_no_rules_are_refused_that_leave_a_row(rules: list[Any]) -> None:
    every_row = itertools.product([1, 2, 3], [True, False, None], range(4))
    possible = any(
        not any(
            all(_means(said, row["abc".index(name)]) for name, said in rule.items())
            for rule in rules
        )
        for row in every_row
    )
    try:
        Schema(SMALL, impossible=rules)
    except ValueError as error:
        if "repeats" not in str(error):
            assert not possible


# ------------------------------------------------------------------------------------------ rows


def test_rows_are_judged_as_the_schema_takes_them() -> None:
    schema = _schema({"age": {"min": 90}, "pay": 500}, {"pay": {"max": 0}})
    table = pd.DataFrame({"age": [200, 90, 89], "pay": [480.0, np.nan, 0.0]})
    np.testing.assert_array_equal(
        schema.broken_rules(table), [[True, False], [False, False], [False, True]]
    )
    assert schema.broken_rules(table[:0]).shape == (0, 2)
    assert Schema(COLUMNS).broken_rules(table).shape == (3, 0)


def test_tables_without_the_columns_of_rules_are_refused() -> None:
    schema = _schema(CHILD)
    with pytest.raises(TypeError, match="df must be a pandas DataFrame; got list"):
        schema.broken_rules([1])
    with pytest.raises(
        ValueError, match=r"df must have each column .* once; got 'married' 0 times"
    ):
        schema.broken_rules(pd.DataFrame({"age": [3]}))


def test_dates_beyond_nanoseconds() -> None:
    columns = [Datetime("end", "0001-01-01", "9999-12-31"), Boolean("open")]
    schema = Schema(columns, impossible=[{"end": "9999-12-31", "open": False}])
    last = DAY(9999, 12, 31)
    table = pd.DataFrame({"end": [last, last, DAY(1, 1, 1)], "open": [False, True, False]})
    assert schema.broken_rules(table)[:, 0].tolist() == [True, False, False]


# ------------------------------------------------------------------------------------- inference


def test_inference_passes_rules_on(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"age": rng.integers(0, 90, 3000), "married": rng.random(3000) < 0.5})
    how: dict[str, Any] = {"epsilon": 1.0, "delta": 1e-6, "nullable": False}
    rule = {"age": {"max": 15}, "married": True}
    described = {"age": COLUMNS[0], "married": "boolean"}
    schema = Schema.infer(table, types=described, impossible=[rule], **how)
    assert schema.impossible == Schema(COLUMNS, impossible=[rule]).impossible
    assert Schema.infer(table, types=schema, **how).impossible == schema.impossible
    assert Schema.infer(table, types=schema, impossible=[], **how).impossible == ()
    # Before anything is spent: what is not known yet might not hold the rule's values.
    types = {"age": "integer", "married": "boolean"}
    with pytest.raises(ValueError, match=r"rule 1 must be about columns .* 'age' is still to be"):
        Schema.infer(table, types=types, impossible=[rule], **how)
    with pytest.raises(ValueError, match="rule 1 must name columns of the table; got 'agee'"):
        Schema.infer(table, types=types, impossible=[{"agee": 1}], **how)
    with pytest.raises(TypeError, match="impossible must be a list"):
        Schema.infer(table, types=types, impossible=3, **how)  # type: ignore[arg-type]
    table["note"] = None
    types = {**described, "note": "categorical"}
    with pytest.raises(InferenceError) as caught:
        Schema.infer(table, types=types, impossible=[rule], **how | {"nullable": ["note"]})
    caught.value.save_types(tmp_path / "types.toml")
    written = tomllib.loads((tmp_path / "types.toml").read_text())
    assert written["impossible"] == [rule]


# --------------------------------------------------------------------------------------- samples

torch = pytest.importorskip("torch", reason="the synthesizer trains with torch")
stats = pytest.importorskip("scipy.stats")

from dpslice import Release  # noqa: E402
from dpslice.tabular import Synthesizer  # noqa: E402
from fixed_models import QUICK, fixed_synthesizer, quick_synthesizer  # noqa: E402

PEOPLE = Schema(
    [
        Categorical("job", ("clerk", "cook", "pilot")),
        Number("age", "integer", 0, 90),
        Boolean("member", nullable=True),
        Number("pay", "real", 0, 1000, special=[0], step=100),
        Datetime("born", "1930-01-01", "2020-12-31"),
    ],
    impossible=[
        {"job": ["clerk", "pilot"], "age": {"max": 30}},
        {"member": None, "pay": {"min": 500}},
        {"born": {"min": "1990-01-01"}, "age": {"min": 60}},
        {"pay": 300},
    ],
)
FREE = dataclasses.replace(PEOPLE, impossible=())


def _model(method: str, schema: Schema = PEOPLE) -> Callable[[Schema], Synthesizer]:
    first = fixed_synthesizer(method, schema)

    def of(schema: Schema) -> Synthesizer:
        synthesizer = quick_synthesizer(method, schema)
        synthesizer.model = first.model
        return synthesizer

    return of


@pytest.fixture(scope="module", params=["sums", "rows"])
def model(request: pytest.FixtureRequest) -> Callable[[Schema], Synthesizer]:
    return _model(request.param)


def _broken(table: pd.DataFrame) -> np.ndarray[Any, Any]:
    return PEOPLE.broken_rules(table)


def test_samples_break_no_rule(model: Callable[[Schema], Synthesizer]) -> None:
    free = model(FREE).sample(2000, seed=1)
    assert (_broken(free).mean(axis=0) > 0.01).all()  # each of the rules is put to work
    sample = model(PEOPLE).sample(2000, seed=1)
    assert not _broken(sample).any()
    assert len(sample) == 2000
    FREE.validate(sample)
    assert sample.dtypes.equals(free.dtypes)
    assert sample.index.equals(free.index)


def _cells(table: pd.DataFrame) -> pd.Series:
    """Some of what depends on what, as one code a row."""
    parts = {
        "job": table["job"],
        "age": pd.cut(table["age"], [-1, 15, 30, 45, 60, 90]).cat.codes,
        "member": table["member"].astype("Int64").fillna(2),
        "pay": (table["pay"] > 400).astype(int) + (table["pay"] == 0),
        "born": table["born"].dt.year >= 1990,
    }
    return pd.DataFrame(parts).astype(str).agg("-".join, axis=1)


def _differ(one: pd.DataFrame, other: pd.DataFrame) -> float:
    """P value of two samples' having one law; cells of few rows are put together."""
    counts = pd.crosstab(
        pd.concat([_cells(one), _cells(other)], ignore_index=True),
        np.repeat([0, 1], [len(one), len(other)]),
    )
    rare = counts.sum(axis=1) < 40
    table = counts[~rare]
    if rare.any():
        table = pd.concat([table, counts[rare].sum().to_frame().T])
    return float(stats.chi2_contingency(table.to_numpy()).pvalue)


def test_samples_have_the_models_law_given_the_rules(
    model: Callable[[Schema], Synthesizer],
) -> None:
    free = model(FREE).sample(60_000, seed=11)
    filtered = free[~_broken(free).any(axis=1)]
    sample = model(PEOPLE).sample(30_000, seed=12)
    assert _differ(sample, filtered) > 1e-3
    assert _differ(sample, free) < 1e-9  # the test sees what it is to see
    if model(PEOPLE).method != "sums":
        return
    # Rows that break no rule are what they would be without; those in the others' place have the
    # law, too.
    same = model(FREE).sample(30_000, seed=12)
    bad = _broken(same).any(axis=1)
    pd.testing.assert_frame_equal(sample[~bad], same[~bad])
    assert bad.mean() > 0.2
    assert _differ(sample[bad], filtered) > 1e-3


def test_samples_with_conditions_keep_to_rules(model: Callable[[Schema], Synthesizer]) -> None:
    conditions = {"job": "clerk", "pay": 700}
    sample = model(PEOPLE).sample(2000, seed=1, conditions=conditions)
    assert not _broken(sample).any()
    assert (sample["job"] == "clerk").all()
    assert (sample["pay"] == 700).all()
    assert sample["member"].notna().all()
    assert (sample["age"] > 30).all()
    free = model(FREE).sample(8000, seed=2, conditions=conditions)
    bad = _broken(free).any(axis=1)
    assert 0.1 < bad.mean() < 0.999
    assert _differ(sample, free[~bad]) > 1e-3


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_the_very_number_of_a_condition_is_held_to_rules(method: str) -> None:
    """Rows are found by the bin of 5001, or near it, and are then made it: the rule is of that."""
    columns = [Number("x", "integer", 0, 9999), Boolean("b")]
    schema = Schema(columns, impossible=[{"x": {"min": 5001, "max": 5100}, "b": True}])
    synthesizer = _model(method, schema)(schema)
    kept = synthesizer.sample(100, seed=0, conditions={"x": 5000})
    assert kept["b"].any()
    assert (kept["x"] == 5000).all()
    assert not synthesizer.sample(100, seed=0, conditions={"x": 5001})["b"].any()


def test_same_seed_same_rows(model: Callable[[Schema], Synthesizer]) -> None:
    synthesizer = model(PEOPLE)
    sample = synthesizer.sample(300, seed=3)
    pd.testing.assert_frame_equal(synthesizer.sample(300, seed=3), sample)
    assert not synthesizer.sample(300, seed=4).equals(sample)
    pd.testing.assert_frame_equal(synthesizer.sample(300), synthesizer.sample(300, seed=0))
    if synthesizer.method == "rows":  # fewer are the first of more
        more = synthesizer.sample(20_000, seed=3)
        pd.testing.assert_frame_equal(more[:300], sample)


def test_rules_may_be_given_to_a_sample(model: Callable[[Schema], Synthesizer]) -> None:
    with_rules, free = model(PEOPLE), model(FREE)
    expected = with_rules.sample(500, seed=3)
    pd.testing.assert_frame_equal(
        free.sample(500, seed=3, impossible=[rule.to_dict() for rule in PEOPLE.impossible]),
        expected,
    )
    pd.testing.assert_frame_equal(
        with_rules.sample(500, seed=3, impossible=()), free.sample(500, seed=3)
    )
    with pytest.raises(ValueError, match="impossible rule 1 must name columns"):
        free.sample(5, impossible=[{"town": "Bern"}])
    assert free.schema.impossible == ()


def test_share_of_rows_drawn_anew(model: Callable[[Schema], Synthesizer]) -> None:
    share = model(PEOPLE).broken_share()
    free = model(FREE).sample(60_000, seed=9)
    assert share == pytest.approx(_broken(free).any(axis=1).mean(), abs=0.02)
    assert model(PEOPLE).broken_share() == share == model(FREE).broken_share(PEOPLE.impossible)
    assert model(FREE).broken_share() == 0.0


def test_conditions_that_rules_forbid(model: Callable[[Schema], Synthesizer]) -> None:
    synthesizer = model(PEOPLE)
    for conditions, rule in (
        ({"pay": 300}, 4),
        ({"job": "cook", "pay": 300}, 4),
        ({"job": "clerk", "age": 30}, 1),
        ({"member": None, "pay": 1000}, 2),
        ({"born": "1990-01-01", "age": 60}, 3),
    ):
        match = f"conditions must leave rows possible; impossible rule {rule} .* forbids all of"
        with pytest.raises(ValueError, match=match):
            synthesizer.sample(5, conditions=conditions)
    # Which takes no seed, as the other mistakes do not.
    pd.testing.assert_frame_equal(synthesizer.sample(5), synthesizer.sample(5, seed=0))


@pytest.mark.parametrize("n", [1, 100_000])
@pytest.mark.parametrize("conditions", [None, {"job": "cook"}])
def test_rules_that_leave_nearly_nothing_end(
    n: int, conditions: Any, model: Callable[[Schema], Synthesizer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of all days one, which no model makes often: an error after a bounded number of tries."""
    from dpslice.tabular import _conditions

    monkeypatch.setattr(_conditions, "BLOCK_ROWS", 64)
    made: list[int] = []
    until = _conditions.drawn_until

    def counted(rows: int, draw: Any, **how: Any) -> Any:
        def counting(block: int) -> Any:
            made.append(block)
            assert sum(made) <= 10_000 + 64  # not without an end
            return draw(block)

        return until(rows, counting, **how)

    for module in ("sums", "rows"):
        monkeypatch.setattr(f"dpslice.tabular.{module}.drawn_until", counted)
    synthesizer = model(FREE)
    rules = [{"born": {"not": "1977-07-07"}}, {"age": {"not": 33}}, {"pay": {"not": 900}}]
    subject = "conditions and impossible rules" if conditions else "impossible rules"
    with pytest.raises(ValueError, match=f"^{subject} must leave rows that the model makes: 0 of"):
        synthesizer.sample(n, seed=0, conditions=conditions, impossible=rules)


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_rules_travel_with_releases_and_models(method: str, tmp_path: Path) -> None:
    table = FREE.validate(_model(method)(FREE).sample(400, seed=1))
    synthesizer = quick_synthesizer(method, PEOPLE)
    synthesizer.publish(table, path=tmp_path / "r.dpslice")  # which rows break rules is no matter
    again = Synthesizer.from_release(
        Release.load(tmp_path / "r.dpslice"), training=QUICK[method]
    ).train(progress=False)
    assert again.schema == PEOPLE
    again.save(tmp_path / "m.pt")
    loaded = Synthesizer.load(tmp_path / "m.pt")
    assert loaded.schema == PEOPLE
    sample = loaded.sample(500, seed=2)
    pd.testing.assert_frame_equal(sample, again.sample(500, seed=2))
    assert not _broken(sample).any()
    facts = again.training_facts()
    assert facts is not None
    assert facts["rows drawn anew, as they broke a rule"] == f"{again.broken_share():.2%}"


@pytest.mark.parametrize("method", ["sums", "rows"])
def test_what_meets_private_rows_does_not_depend_on_rules(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = FREE.validate(_model(method)(FREE).sample(200, seed=1))

    def refused(*_: Any) -> None:
        raise AssertionError("rules met private rows")

    with monkeypatch.context() as patched:
        patched.setattr("dpslice.tabular.schema.broken_rules", refused)
        made = [quick_synthesizer(method, schema) for schema in (FREE, PEOPLE)]
        releases = [synthesizer.publish(table) for synthesizer in made]
    first, second = (dataclasses.replace(release.guarantee) for release in releases)
    assert first == second
    coded = [
        synthesizer._method.discretization.encode(table)
        if method == "sums"
        else synthesizer._method.encoding.encode(table)
        for synthesizer in made
    ]
    np.testing.assert_array_equal(*coded)


# --------------------------------------------------------------------------------------- reports


def test_reports_count_rows_that_break_rules() -> None:
    schema = Schema(
        [Boolean("a"), Categorical("<b>", ["x", "y"])], impossible=[{"a": True, "<b>": "x"}]
    )
    real = pd.DataFrame({"a": [True, True, False], "<b>": ["x", "y", "x"]})
    synthetic = pd.DataFrame({"a": [True] * 4, "<b>": ["y", "x", "x", "y"]})
    results = scores(real, synthetic, schema)
    entry = {"rule": "a is True and <b> is 'x'", "real": 1, "synthetic": 2}
    assert results["impossible"] == [entry]
    html = render_report(results, real=real, synthetic=synthetic, schema=schema, guarantee=None)
    row = '&lt;b&gt; is &#39;x&#39;</th><td class="n">1</td><td class="n">2</td>'
    assert "Impossible by the schema" in html
    assert row in html
    free = dataclasses.replace(schema, impossible=())
    results = scores(real, synthetic, free)
    assert results["impossible"] == []
    html = render_report(results, real=real, synthetic=synthetic, schema=free, guarantee=None)
    assert "Impossible by the schema" not in html


def test_rule_is_public_api() -> None:
    assert isinstance(PEOPLE.impossible[0], Rule)
    assert PEOPLE.impossible[0].columns == ("job", "age")
