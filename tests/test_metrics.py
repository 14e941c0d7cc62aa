"""Metrics: values worked out by hand, an independent NumPy oracle, laws, and awkward tables."""

from __future__ import annotations

import datetime
import itertools
import json
import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpslice.tabular import metrics
from dpslice.tabular.columns import Boolean, Categorical, Datetime, Number
from dpslice.tabular.metrics import scores, table_columns
from dpslice.tabular.schema import Schema
from mixed_tables import SCHEMA, mixed_table

FIDELITY = (
    "ks_complement",
    "tv_complement",
    "contingency_similarity",
    "contingency_similarity_all",
    "correlation_similarity",
)
USE = ("f1_synthetic", "f1_real", "auc_synthetic", "auc_real")


def entry(results, name):
    return next(e for e in results["columns"] if e["name"] == name)


# ----------------------------------------------------------------------------- worked by hand


def test_tv_complement_by_hand():
    schema = Schema((Categorical("c", ("a", "b", "c")),))
    real = pd.DataFrame({"c": list("aabb")})
    synthetic = pd.DataFrame({"c": list("abbb")})
    # shares 1/2, 1/2 against 1/4, 3/4: half the sum of the differences is 1/4
    assert scores(real, synthetic, schema)["tv_complement"] == pytest.approx(0.75, abs=1e-12)


def test_ks_complement_by_hand():
    schema = Schema((Number("x", "real", 0, 20),))
    real = pd.DataFrame({"x": [1.0, 2.0, 3.0, 4.0]})
    synthetic = pd.DataFrame({"x": [1.0, 2.0, 3.5, 10.0]})
    # the distribution functions differ most between 4 and 10: 1 against 3/4
    assert scores(real, synthetic, schema)["ks_complement"] == pytest.approx(0.75, abs=1e-12)


def test_contingency_similarity_by_hand():
    schema = Schema((Categorical("c", ("a", "b")), Boolean("d")))
    real = pd.DataFrame({"c": list("aabb"), "d": [True, True, False, False]})
    synthetic = pd.DataFrame({"c": list("aabb"), "d": [True, False, True, False]})
    results = scores(real, synthetic, schema)
    # cells 1/2, 0, 0, 1/2 against 1/4 each: half the sum of the differences is 1/2
    assert results["contingency_similarity"] == pytest.approx(0.5, abs=1e-12)
    assert results["tv_complement"] == pytest.approx(1.0, abs=1e-12)


def test_correlation_similarity_by_hand():
    schema = Schema((Number("x", "real", 0, 9), Number("y", "real", 0, 9)))
    real = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [2.0, 4.0, 6.0]})
    turned = pd.DataFrame({"x": [1.0, 2.0, 3.0], "y": [6.0, 4.0, 2.0]})
    results = scores(real, turned, schema)
    assert results["correlation_similarity"] == pytest.approx(0.0, abs=1e-12)
    (pair,) = results["pairs"]
    assert pair["correlation_real"] == pytest.approx(1.0)
    assert pair["correlation_synthetic"] == pytest.approx(-1.0)


def test_numbers_are_cut_into_ten_bins_of_the_real_range():
    schema = Schema((Number("x", "integer", 0, 100), Boolean("b")))
    real = pd.DataFrame({"x": [0, 9, 50, 100], "b": [True] * 4})
    same_bins = pd.DataFrame({"x": [3, 4, 55, 91], "b": [True] * 4})
    assert scores(real, same_bins, schema)["contingency_similarity_all"] == 1.0
    # 9 -> 11 leaves the bin [0, 10): a quarter of the rows moves
    moved = pd.DataFrame({"x": [0, 11, 50, 100], "b": [True] * 4})
    assert scores(real, moved, schema)["contingency_similarity_all"] == pytest.approx(0.75)


# ------------------------------------------------------------------------ independent oracle


def tv_oracle(a, b):
    levels = set(a) | set(b)
    return 1 - 0.5 * sum(abs(np.mean(a == v) - np.mean(b == v)) for v in levels)


def ks_oracle(a, b):
    grid = np.unique(np.concatenate([a, b]))
    steps = [np.searchsorted(np.sort(v), grid, side="right") / len(v) for v in (a, b)]
    return 1 - np.abs(steps[0] - steps[1]).max()


def test_scores_agree_with_plain_numpy():
    real, synthetic = mixed_table(400, 1, missing=0.0), mixed_table(300, 2, missing=0.0)
    synthetic["age"] = np.minimum(synthetic["age"] + 5, 90)
    results = scores(real, synthetic, SCHEMA)
    for name in ("job", "grade", "member", "income"):
        expected = tv_oracle(real[name].to_numpy(), synthetic[name].to_numpy())
        # sdmetrics adds 1e-6 rows to a level that only the synthetic table has
        assert entry(results, name)["score"] == pytest.approx(expected, abs=1e-6)
    for name in ("age", "gain", "weight"):
        expected = ks_oracle(real[name].to_numpy(), synthetic[name].to_numpy())
        assert entry(results, name)["score"] == pytest.approx(expected, abs=1e-12)
    by_pair = {(p["first"], p["second"]): p for p in results["pairs"]}
    joint = [(t["job"] + "/" + t["income"]).to_numpy() for t in (real, synthetic)]
    assert by_pair["job", "income"]["contingency_similarity"] == pytest.approx(
        tv_oracle(*joint), abs=1e-12
    )
    rho = [np.corrcoef(t["age"], t["weight"])[0, 1] for t in (real, synthetic)]
    pair = by_pair["age", "weight"]
    assert pair["correlation_real"] == pytest.approx(rho[0], abs=1e-12)
    assert pair["correlation_similarity"] == pytest.approx(1 - abs(rho[0] - rho[1]) / 2, abs=1e-12)


def test_headline_scores_are_means_of_the_tables():
    results = scores(mixed_table(200, 1), mixed_table(200, 2), SCHEMA)
    columns, pairs = results["columns"], results["pairs"]
    assert len(pairs) == results["pairs_total"] == 8 * 7 // 2

    def mean(values):
        return pytest.approx(np.mean(list(values)), abs=1e-12)

    discrete = {"job", "grade", "member", "income"}
    assert results["tv_complement"] == mean(c["score"] for c in columns if c["name"] in discrete)
    assert results["ks_complement"] == mean(
        c["score"] for c in columns if c["name"] not in discrete
    )
    assert results["contingency_similarity"] == mean(
        p["contingency_similarity"] for p in pairs if {p["first"], p["second"]} <= discrete
    )
    numeric = [p for p in pairs if not {p["first"], p["second"]} & discrete]
    assert len(numeric) == 6
    assert results["correlation_similarity"] == mean(p["correlation_similarity"] for p in numeric)


# --------------------------------------------------------------------------------------- laws


@settings(max_examples=15, deadline=None)
@given(n=st.integers(1, 40), seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.3, 1.0]))
def test_a_table_agrees_with_itself(n, seed, missing):
    table = mixed_table(n, seed, missing=missing)
    results = scores(table, table.sample(frac=1, random_state=seed), SCHEMA)
    for key in FIDELITY:
        assert results[key] is None or results[key] == pytest.approx(1.0, abs=1e-9)
    json.dumps(results, allow_nan=False)


def test_every_score_lies_between_0_and_1_and_reports_are_json():
    results = scores(mixed_table(150, 3), mixed_table(90, 4), SCHEMA)
    for key in (*FIDELITY, *USE):
        assert 0 <= results[key] <= 1
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_order_of_rows_and_columns_does_not_matter():
    real, synthetic = mixed_table(120, 5), mixed_table(120, 6)
    straight = scores(real, synthetic, SCHEMA)
    mixed = scores(real[real.columns[::-1]], synthetic.sample(frac=1, random_state=0), SCHEMA)
    for key in FIDELITY:
        assert mixed[key] == pytest.approx(straight[key], abs=1e-12)


def test_same_seed_same_scores():
    real, synthetic = mixed_table(150, 7), mixed_table(150, 8)
    assert scores(real, synthetic, SCHEMA, seed=3) == scores(real, synthetic, SCHEMA, seed=3)
    other = scores(real, synthetic, SCHEMA, seed=4)  # another held-out fifth
    assert other["auc_real"] != scores(real, synthetic, SCHEMA, seed=3)["auc_real"]


def test_arguments_are_left_as_they_were():
    real, synthetic = mixed_table(60, 9), mixed_table(60, 10)
    before = real.copy(), synthetic.copy(), list(warnings.filters)
    scores(real, synthetic, SCHEMA)
    pd.testing.assert_frame_equal(real, before[0])
    pd.testing.assert_frame_equal(synthetic, before[1])
    assert list(warnings.filters) == before[2]


def test_reference_holds_other_real_rows_against_the_real_table():
    real, synthetic, holdout = mixed_table(200, 1), mixed_table(200, 2), mixed_table(100, 3)
    results = scores(real, synthetic, SCHEMA, holdout=holdout)
    alone = scores(real, holdout, SCHEMA)
    assert results["reference"] == {key: alone[key] for key in FIDELITY}
    assert alone["reference"] is None


# ----------------------------------------------------------------------------- missing values


def test_missing_values_are_counted_and_set_aside():
    schema = Schema(
        (
            Categorical("c", ("a", "b"), nullable=True),
            Number("x", "real", 0, 9, nullable=True),
        )
    )
    real = pd.DataFrame({"c": ["a", "b", None, None], "x": [1.0, 2.0, np.nan, 3.0]})
    synthetic = pd.DataFrame({"c": ["a", "b", "a", "b"], "x": [1.0, 2.0, 3.0, np.nan]})
    results = scores(real, synthetic, schema)
    assert entry(results, "c")["score"] == 1.0
    assert entry(results, "c")["missing_real"] == 0.5
    assert entry(results, "c")["missing_synthetic"] == 0.0
    assert entry(results, "x")["score"] == 1.0
    # in pairs "missing" is a level: (a,1) and (b,2) agree, the other half of the rows does not
    assert results["pairs"][0]["contingency_similarity"] == pytest.approx(0.5)


@pytest.mark.parametrize("side", ["real", "synthetic"])
def test_column_that_is_missing_altogether_has_no_score(side):
    schema = Schema(
        (
            Categorical("c", ("a", "b"), nullable=True),
            Number("x", "real", 0, 9, nullable=True),
            Datetime("t", "2020-01-01", "2021-01-01", nullable=True),
        )
    )
    full = pd.DataFrame({"c": ["a", "b"], "x": [1.0, 2.0], "t": pd.to_datetime(["2020-02-01"] * 2)})
    empty = pd.DataFrame({"c": [None, None], "x": [np.nan] * 2, "t": pd.to_datetime([None, None])})
    tables = {"real": full, "synthetic": full} | {side: empty}
    results = scores(tables["real"], tables["synthetic"], schema)
    assert results["ks_complement"] is None
    assert results["tv_complement"] is None
    assert results["correlation_similarity"] is None
    for column in results["columns"]:
        assert column["note"] == f"every {side} value is missing"
    json.dumps(results, allow_nan=False)


# ---------------------------------------------------------------------------- awkward tables


def test_constant_columns_have_no_correlation():
    schema = Schema((Number("x", "real", 0, 9), Number("y", "real", 0, 9), Boolean("b")))
    constant = pd.DataFrame({"x": [1.0] * 5, "y": [1.0, 2.0, 3.0, 4.0, 5.0], "b": [True] * 5})
    results = scores(constant, constant, schema)
    assert results["correlation_similarity"] is None
    assert results["ks_complement"] == 1.0
    assert results["tv_complement"] == 1.0
    assert results["contingency_similarity_all"] == pytest.approx(1.0)


def test_one_row_each():
    row = mixed_table(1, 0, missing=0.0)
    results = scores(row, row, SCHEMA)
    assert results["tv_complement"] == 1.0
    assert results["ks_complement"] == 1.0
    assert results["correlation_similarity"] is None
    assert results["auc_real"] is None
    assert "no real rows to train on" in results["classifier"]["reason"]


def test_one_column():
    schema = Schema((Boolean("b"),))
    table = pd.DataFrame({"b": [True, False, True]})
    results = scores(table, table, schema, target="b")
    assert results["pairs"] == []
    assert results["contingency_similarity"] is None
    assert "only column" in results["classifier"]["reason"]


def test_values_the_schema_does_not_know_are_counted():
    schema = Schema(
        (
            Number("x", "real", 0, 10),
            Categorical("c", ("a", "rest"), other="rest"),
            Datetime("t", "2020-01-01", "2020-12-31"),
            Boolean("b"),
        )
    )
    real = pd.DataFrame(
        {
            "x": [1.0, 11.0, -1.0, 10.0],
            "c": ["a", "rest", "z", "a"],
            "t": pd.to_datetime(
                ["2020-01-01", "2020-12-31 23:59", "2021-01-01", "2019-12-31"], format="ISO8601"
            ),
            "b": [True] * 4,
        }
    )
    x, c, t, b = table_columns(schema, real=real)
    assert (x.outside, c.outside, t.outside, b.outside) == ((0.5,), (0.25,), (0.5,), (0.0,))
    assert x.values[0].tolist() == [1.0, 10.0, 0.0, 10.0]
    assert c.values[0].tolist() == [0, 1, 1, 0]
    assert scores(real, real, schema)["columns"][0]["outside_real"] == 0.5


def test_dates_given_as_python_objects():
    schema = Schema((Datetime("t", "2020-01-01", "2020-12-31", nullable=True),))
    days = [datetime.date(2020, 1, 2), None, datetime.date(2021, 5, 1)]
    (column,) = table_columns(schema, real=pd.DataFrame({"t": pd.Series(days, dtype=object)}))
    assert column.outside == (pytest.approx(1 / 3),)
    assert column.present(0).tolist() == [
        pd.Timestamp("2020-01-02").timestamp(),
        pd.Timestamp("2020-12-31").timestamp(),
    ]


@pytest.mark.parametrize("unit", [None, "s", "us"])
@pytest.mark.parametrize(
    ("low", "high"),
    [("1600-01-01", "2024-12-31"), ("2000-01-01T00:00:00", "9999-12-31T23:59:59")],
)
def test_dates_that_nanoseconds_do_not_reach(low, high, unit):
    schema = Schema((Datetime("t", low, high, nullable=True),))
    days = [datetime.datetime(1599, 1, 1), datetime.datetime(2024, 1, 1), None]
    days += [datetime.datetime(9999, 12, 31)]
    series = pd.Series(days, dtype=object)
    if unit is not None:
        series = pd.Series(np.array(days, dtype=f"datetime64[{unit}]"))
    (column,) = table_columns(schema, real=pd.DataFrame({"t": series}))
    assert column.outside == (0.5 if low < "1700" else 0.25,)


@pytest.mark.parametrize(
    ("values", "cells"),
    [
        ([2e15] * 4, 1),
        ([1e16, 1e16, 1e16 + 2, 1e16 + 2], 2),
        ([-2e15, -2e15, -2e15, np.nan], 2),
    ],
)
def test_constant_columns_far_from_zero(values, cells):
    schema = Schema((Number("x", "real", -1e17, 1e17, nullable=True), Boolean("b")))
    real = pd.DataFrame({"x": values, "b": [True] * 4})
    x, _ = table_columns(schema, real=real, synthetic=real)
    assert len(np.unique(metrics._discrete(x, 1)[0])) == cells
    assert scores(real, real, schema)["contingency_similarity_all"] == 1.0


def test_pairs_are_drawn_when_there_are_too_many():
    real, synthetic = mixed_table(50, 1), mixed_table(50, 2)
    results = scores(real, synthetic, SCHEMA, max_pairs=5)
    assert len(results["pairs"]) == 5
    assert results["pairs_total"] == 28
    everything = {(p["first"], p["second"]): p for p in scores(real, synthetic, SCHEMA)["pairs"]}
    for pair in results["pairs"]:
        assert pair == everything[pair["first"], pair["second"]]


# ---------------------------------------------------------------------------------- classifier


def separable(n, seed, classes=("no", "yes")):
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(classes), n)
    return pd.DataFrame(
        {"x": label * 10 + rng.random(n), "y": np.array(classes, dtype=object)[label]}
    )


def separable_schema(classes=("no", "yes")):
    return Schema((Number("x", "real", 0, 100), Categorical("y", classes)), target="y")


def test_separable_classes_are_told_apart():
    results = scores(separable(80, 1), separable(80, 2), separable_schema())
    for key in (*USE, "binary_logistic_regression_synthetic", "binary_logistic_regression_real"):
        assert results[key] == 1.0


def test_inverted_labels_give_the_worst_scores():
    synthetic = separable(80, 2)
    synthetic["y"] = synthetic["y"].map({"no": "yes", "yes": "no"})
    results = scores(separable(80, 1), synthetic, separable_schema())
    assert results["auc_synthetic"] == 0.0
    assert results["f1_synthetic"] == 0.0
    assert results["auc_real"] == 1.0


def test_several_classes_are_averaged():
    classes = ("a", "b", "c")
    results = scores(
        separable(120, 1, classes), separable(120, 2, classes), separable_schema(classes)
    )
    assert results["auc_synthetic"] == 1.0
    assert results["f1_synthetic"] == 1.0
    assert results["classifier"]["binary"] is False
    assert results["binary_logistic_regression_synthetic"] is None


def test_macro_scores_by_hand():
    truth = np.array([0, 0, 1, 2])
    predicted = np.array([0, 1, 1, 1])
    probability = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.3, 0.6, 0.1], [0.1, 0.7, 0.2]])
    f1, auc = metrics._evaluate(truth, probability, predicted, [0, 1, 2])
    # F1: class 0 has precision 1 and recall 1/2, class 1 has 1/3 and 1, class 2 is never found
    assert f1 == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    # AUC: share of pairs in the right order: class 0 3/4, class 1 1/3, class 2 1
    assert auc == pytest.approx((3 / 4 + 1 / 3 + 1) / 3)


def test_auc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 40)
    score = np.round(rng.random(40), 1)  # with ties
    probability = np.stack([1 - score, score], axis=1)
    _, auc = metrics._evaluate(truth, probability, (score > 0.5).astype(np.int64), [1])
    wins = [
        (a > b) + 0.5 * (a == b) for a, b in itertools.product(score[truth == 1], score[truth == 0])
    ]
    assert auc == pytest.approx(np.mean(wins))


def test_synthetic_table_with_one_class_guesses():
    synthetic = separable(50, 2)
    synthetic["y"] = "no"
    results = scores(separable(80, 1), synthetic, separable_schema())
    assert results["auc_synthetic"] == 0.5
    assert results["classifier"]["single_class_synthetic"] is True
    assert results["auc_real"] == 1.0


def test_real_table_with_one_class_has_no_auc():
    real = separable(50, 1)
    real["y"] = "no"
    results = scores(real, separable(50, 2), separable_schema())
    for key in (*USE, "binary_logistic_regression_real"):
        assert results[key] is None
    assert results["classifier"]["positive"] == "yes"
    json.dumps(results, allow_nan=False)


def test_rarer_real_class_is_the_positive_one():
    real = separable(200, 1)
    rare = real[(real["y"] == "yes") | (np.arange(200) < 60)]
    assert scores(rare, rare, separable_schema())["classifier"]["positive"] == "no"
    even = pd.DataFrame({"x": [0.0, 1.0] * 4, "y": ["no", "yes"] * 4})
    holdout = even.iloc[:2]
    tie = scores(even, even, separable_schema(), holdout=holdout)
    assert tie["classifier"]["positive"] == "yes"
    assert tie["classifier"]["positive_share"] == 0.5


def test_missing_labels_are_left_out():
    schema = Schema((Number("x", "real", 0, 100), Categorical("y", ("no", "yes"), nullable=True)))
    real, synthetic = separable(60, 1), separable(60, 2)
    real.loc[:9, "y"] = None
    synthetic.loc[:4, "y"] = None
    results = scores(real, synthetic, schema, target="y")
    assert results["classifier"]["train_rows_real"] == 40
    assert results["classifier"]["test_rows"] == 10
    assert results["classifier"]["train_rows_synthetic"] == 55
    assert results["auc_synthetic"] == 1.0
    synthetic["y"] = None
    reason = scores(real, synthetic, schema, target="y")["classifier"]["reason"]
    assert reason == "there are no synthetic rows to train on in which 'y' is present"


@pytest.mark.parametrize(
    ("column", "values", "reason"),
    [
        (Number("y", "real", 0, 1), [0.25, 0.75] * 10, "is a number column"),
        (Number("y", "integer", 0, 90), [1, 2] * 10, "is a number column"),
        (Datetime("y", "2020-01-01", "2020-02-01"), ["2020-01-03"] * 20, "is a datetime column"),
        (Categorical("y", ("only",)), ["only"] * 20, "one level only"),
        (Categorical("y", tuple(map(str, range(30)))), ["1", "2"] * 10, "has 30 levels"),
    ],
)
def test_targets_that_cannot_be_classified_are_skipped_with_a_reason(column, values, reason):
    values = pd.to_datetime(values) if isinstance(column, Datetime) else values
    schema = Schema((Number("x", "real", 0, 1), column), target="y")
    table = pd.DataFrame({"x": np.linspace(0, 1, 20), "y": values})
    results = scores(table, table, schema)
    assert reason in results["classifier"]["reason"]
    assert all(results[key] is None for key in USE)


def test_integer_and_boolean_targets_are_classes():
    table = separable(80, 1)
    for column, values in (
        (Number("y", "integer", 5, 6), table["y"].map({"no": 5, "yes": 6})),
        (Boolean("y"), table["y"] == "yes"),
    ):
        schema = Schema((Number("x", "real", 0, 100), column))
        coded = table.assign(y=values)
        results = scores(coded, coded, schema, target="y")
        assert results["auc_synthetic"] == 1.0
    assert results["classifier"]["classes"] == ["false", "true"]


def test_no_target_no_classifier():
    table = separable(20, 1)
    schema = Schema(separable_schema().columns)
    assert scores(table, table, schema)["classifier"] == {
        "target": None,
        "reason": "no target column was named",
    }
    assert scores(table, table, schema, target="y")["classifier"]["target"] == "y"


def test_level_that_only_the_held_out_rows_have():
    schema = Schema((Categorical("c", ("a", "b", "new")), Categorical("y", ("no", "yes"))))
    train = pd.DataFrame({"c": ["a", "b"] * 20, "y": ["no", "yes"] * 20})
    holdout = pd.DataFrame({"c": ["a", "b", "new", "new"], "y": ["no", "yes", "no", "yes"]})
    results = scores(train, train, schema, target="y", holdout=holdout)
    # "new" is a tie: 1 of 4 pairs is in the right order for sure, 2 also, 1 is drawn
    assert results["auc_synthetic"] == pytest.approx(3.5 / 4)
    assert results["binary_logistic_regression_synthetic"] is not None


def test_sdmetrics_score_is_the_one_sdmetrics_gives():
    from sdmetrics.single_table import BinaryLogisticRegression

    real, synthetic = mixed_table(300, 1, missing=0.0), mixed_table(300, 2, missing=0.0)
    holdout = mixed_table(200, 3, missing=0.0)
    names = ["job", "age", "weight", "income"]
    schema = Schema(tuple(SCHEMA[name] for name in names), target="income")
    results = scores(real[names], synthetic[names], schema, holdout=holdout[names])
    positive = results["classifier"]["positive"]

    def coded(table):
        return table[names].assign(income=(table["income"] == positive).astype(int))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name, table in (("synthetic", synthetic), ("real", real)):
            expected = BinaryLogisticRegression.compute(
                coded(holdout), coded(table), target="income"
            )
            # same matrix up to the order of its columns; 50 steps may stop short of the optimum
            assert results[f"binary_logistic_regression_{name}"] == pytest.approx(
                expected, abs=0.02
            )


def test_classifier_works_on_at_most_max_rows():
    results = scores(separable(80, 1), separable(80, 2), separable_schema(), max_rows=30)
    classifier = results["classifier"]
    assert classifier["train_rows_real"] == 30
    assert classifier["train_rows_synthetic"] == 30
    assert classifier["test_rows"] == 16
    assert results["auc_synthetic"] == 1.0


def test_dense_matrix_of_sdmetrics_is_bounded(monkeypatch):
    monkeypatch.setattr(metrics, "MAX_DENSE_CELLS", 60)
    seen = []
    import sdmetrics.single_table as single_table

    compute = single_table.BinaryLogisticRegression.compute

    def spy(test, train, **kwargs):
        seen.append(train.shape)
        return compute(test, train, **kwargs)

    monkeypatch.setattr(single_table.BinaryLogisticRegression, "compute", spy)
    scores(separable(80, 1), separable(80, 2), separable_schema())
    assert seen == [(30, 2), (30, 2)]


def test_all_values_missing_in_a_feature():
    real = mixed_table(100, 1, missing=1.0)
    results = scores(real, mixed_table(100, 2), SCHEMA)
    assert 0.5 < results["auc_real"] <= 1
    assert results["auc_synthetic"] is not None


def test_squares_of_numbers_may_be_beyond_float64():
    rng = np.random.default_rng(0)
    plain = [pd.DataFrame({"x": rng.normal(size=200), "y": rng.random(200) < 0.3}) for _ in "ab"]
    for table in plain:
        table["x"] = np.clip(table["x"] + 3 * table["y"], -9, 9)
    large = [table.assign(x=table["x"] * 1e299) for table in plain]
    expected, found = (
        scores(*tables, Schema((Number("x", "real", -9 * unit, 9 * unit), Boolean("y"))), "y")
        for tables, unit in ((plain, 1.0), (large, 1e299))
    )
    for name in USE:
        assert found[name] == pytest.approx(expected[name], abs=1e-9)


# -------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize("which", ["real", "synthetic", "holdout"])
def test_errors_name_the_table(which):
    table = mixed_table(10, 0)
    arguments = {"real": table, "synthetic": table, "holdout": table}

    def call(bad):
        given_tables = arguments | {which: bad}
        scores(
            given_tables["real"], given_tables["synthetic"], SCHEMA, holdout=given_tables["holdout"]
        )

    with pytest.raises(TypeError, match=f"^{which}: .*DataFrame"):
        call(table.to_numpy())
    with pytest.raises(ValueError, match=f"^{which}: .*'age'"):
        call(table.drop(columns="age"))
    with pytest.raises(ValueError, match=f"^{which}: .*'extra'"):
        call(table.assign(extra=1))
    with pytest.raises(ValueError, match=f"^{which}: "):
        call(table.iloc[:0])
    with pytest.raises(ValueError, match=f"^{which}: column 'grade'.*7"):
        call(table.assign(grade=7))
    with pytest.raises(TypeError, match=f"^{which}: column 'age'"):
        call(table.assign(age="old"))


def test_bad_arguments():
    table = mixed_table(10, 0)
    with pytest.raises(ValueError, match="target must be one of the schema's columns; got 'wage'"):
        scores(table, table, SCHEMA, target="wage")
    with pytest.raises(TypeError, match="schema must be a Schema; got 5"):
        scores(table, table, 5)
    with pytest.raises(TypeError, match="target must be a column name; got 3"):
        scores(table, table, SCHEMA, target=3)
    with pytest.raises(ValueError, match="seed must be an integer >= 0"):
        scores(table, table, SCHEMA, seed=-1)
    with pytest.raises(ValueError, match="max_pairs must be an integer >= 1"):
        scores(table, table, SCHEMA, max_pairs=0)
    with pytest.raises(ValueError, match="max_rows must be an integer >= 1"):
        scores(table, table, SCHEMA, max_rows=0)


def test_missing_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sdmetrics.single_column", None)
    table = mixed_table(5, 0)
    with pytest.raises(ImportError, match=r"pip install 'dpslice\[tabular\]'"):
        scores(table, table, SCHEMA)
