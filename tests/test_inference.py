"""Schema inference: the noise's law, the accounting, what is found, what it refuses.

Noise in production comes from the operating system and cannot be seeded; here a seeded source takes
its place, so that every run sees the same draws.
"""

from __future__ import annotations

import datetime
import itertools
import json
import math
import random
import re

import mpmath
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

import dpslice
from dpslice.release import total_guarantee
from dpslice.tabular import Boolean, Categorical, Datetime, Number, Schema, _noise, inference
from dpslice.tabular.inference import OTHER, InferenceError


@pytest.fixture(autouse=True)
def _seeded_noise(monkeypatch):
    source = random.Random(7)
    monkeypatch.setattr(
        inference,
        "discrete_gaussian",
        lambda variance: _noise.discrete_gaussian(variance, below=source.randrange),
    )


# ------------------------------------------------------------------------------ the noise's law


def exact_pmf(variance, reach):
    """Probabilities of -reach..reach, by direct summation in 40 digits."""
    with mpmath.workdps(40):
        weights = [
            mpmath.exp(-mpmath.mpf(y * y) / (2 * variance)) for y in range(-reach, reach + 1)
        ]
        total = mpmath.fsum(weights)
        return np.array([float(w / total) for w in weights])


@pytest.mark.parametrize("variance", [1, 7, 100])
def test_sampler_has_the_discrete_gaussian_law(variance):
    """Chi-square test on a fixed seed; fails at a chance of 1e-4 for a fresh one."""
    source = random.Random(20 + variance)
    draws = [_noise.discrete_gaussian(variance, below=source.randrange) for _ in range(20_000)]
    reach = 12 * math.isqrt(variance) + 12
    pmf = exact_pmf(variance, reach)
    counts = np.bincount(np.array(draws) + reach, minlength=2 * reach + 1)
    common = pmf * len(draws) >= 5
    observed = np.append(counts[common], counts[~common].sum())
    expected = np.append(pmf[common], pmf[~common].sum()) * len(draws)
    assert stats.chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.parametrize(
    ("numerator", "denominator"), [(0, 1), (1, 3), (1, 1), (7, 2), (1, 10**30)]
)
def test_bernoulli_of_an_exponential(numerator, denominator):
    """Exact binomial test at 1e-4."""
    source = random.Random(3)
    n = 20_000
    hits = sum(_noise._bernoulli_exp(numerator, denominator, source.randrange) for _ in range(n))
    p = math.exp(-numerator / denominator)
    assert stats.binomtest(hits, n, p).pvalue > 1e-4


def test_the_default_source_is_the_operating_system():
    import secrets

    assert _noise.discrete_gaussian.__kwdefaults__ == {"below": secrets.randbelow}
    # Equal to itself with a chance below 1e-60: 20 draws of sigma 1000 twice.
    draws = [[_noise.discrete_gaussian(10**6) for _ in range(20)] for _ in range(2)]
    assert draws[0] != draws[1]


@given(st.integers(1, 400), st.integers(0, 120))
@settings(deadline=None)
def test_tail_bound_is_above_the_truth_and_near_it(variance, t):
    reach = t + 40 * (math.isqrt(variance) + 1)
    with mpmath.workdps(60):
        weight = [mpmath.exp(-mpmath.mpf(y * y) / (2 * variance)) for y in range(reach)]
        truth = mpmath.fsum(weight[t:]) / (2 * mpmath.fsum(weight) - 1)
        bound = mpmath.mpf(_noise.discrete_gaussian_tail(t, variance))
        # The bound counts the first weight in full and the integral: less than one step too much.
        step = weight[t] / (2 * mpmath.fsum(weight) - 1)
        if bound > 1e-300:
            assert truth <= bound <= truth + step + mpmath.mpf("1e-3") * truth


# -------------------------------------------------------------------------------- the accounting


def exact_delta(epsilon, variance, changes):
    """Delta of noise on counts of which `changes` differ by 1, from its definition.

    The privacy loss is (2 Z + k) / (2 variance), Z the sum of k independent draws, and under the
    other table (2 Z - k) / (2 variance).
    """
    reach = 14 * (math.isqrt(variance) + 1)
    one = exact_pmf(variance, reach)
    law = np.ones(1)
    for _ in range(changes):
        law = np.convolve(law, one)
    z = np.arange(len(law)) - (len(law) - 1) // 2
    here = law[(2 * z + changes) / (2 * variance) > epsilon].sum()
    there = law[(2 * z - changes) / (2 * variance) > epsilon].sum()
    return here - math.exp(epsilon) * there


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
@pytest.mark.parametrize(("histograms", "opened"), [(1, 0), (1, 1), (5, 2)])
@pytest.mark.parametrize("adjacency", ["zero_out", "replace_one", "add_remove"])
def test_noise_and_threshold_meet_epsilon_and_delta(epsilon, histograms, opened, adjacency):
    delta = 1e-5
    noise = inference._Noise(
        epsilon, delta, histograms=histograms, open_histograms=opened, adjacency=adjacency
    )
    changes = {"zero_out": histograms, "replace_one": 2 * histograms, "add_remove": histograms + 1}
    assert noise.changes == changes[adjacency]
    # The threshold's part: a category of one record passes with probability Pr[1 + Y >= T].
    pmf = exact_pmf(noise.variance, 14 * (math.isqrt(noise.variance) + 1))
    y = np.arange(len(pmf)) - len(pmf) // 2
    tau = pmf[1 + y >= noise.threshold].sum() if opened else 0.0
    cost = -math.log1p(-opened * tau)
    spent = exact_delta(epsilon - cost, noise.variance, noise.changes)
    assert spent + opened * tau <= delta * (1 + 1e-9)
    # And it is not wasteful: Renyi accounting is within 15 % of the exact sigma here.
    tight = noise.variance / 1.33
    assert tight < 1 or exact_delta(epsilon, int(tight), noise.changes) > delta / 2


@pytest.mark.parametrize(("epsilon", "delta"), [(0.3, 0.1), (1.0, 0.01), (5.0, 0.2)])
@pytest.mark.parametrize("opened", [0, 1, 2])
def test_threshold_and_noise_share_epsilon_and_delta(epsilon, delta, opened):
    """At deltas so large that what the threshold takes of either is more than the slack."""
    noise = inference._Noise(
        epsilon, delta, histograms=2, open_histograms=opened, adjacency="zero_out"
    )
    passed = opened * _noise.discrete_gaussian_tail(noise.threshold - 1, noise.variance)
    assert passed <= noise.delta_threshold < delta or opened == 0
    left = epsilon + math.log1p(-noise.delta_threshold)
    spent = [
        inference._gaussian_epsilon(2, variance, delta - noise.delta_threshold)
        for variance in (noise.variance, noise.variance * 0.999 - 1)
        if variance > 0
    ]
    assert spent[0] <= left
    assert all(more > left for more in spent[1:])
    # Of a record that is replaced, four counts change; the threshold is as it was.
    replaced = noise.guarantee(n=5).epsilon_replace_one + math.log1p(-noise.delta_threshold)
    expected = inference._gaussian_epsilon(4, noise.variance, delta - noise.delta_threshold)
    assert replaced == pytest.approx(expected, rel=1e-12)


def test_every_bin_gets_the_noise_that_is_accounted_for(monkeypatch):
    seen, drawn = [], []
    occupied = inference._occupied

    def watched(noisy, sigma):
        seen.append(noisy)
        return occupied(noisy, sigma)

    monkeypatch.setattr(inference, "_occupied", watched)
    monkeypatch.setattr(
        inference, "discrete_gaussian", lambda variance: drawn.append(variance) or 7
    )
    for kind, values in (
        ("integer", np.arange(1000)),
        ("real", np.linspace(-1.0, 1.0, 1000)),
        ("date", [datetime.date(2020, 1, 1)] * 1000),
        ("categorical", ["a"] * 600 + ["b"] * 400),
    ):
        seen.clear(), drawn.clear()
        how = {"epsilon": 1.0, "delta": 1e-6, "types": {"x": kind}, "nullable": False}
        guarantee = Schema.infer(pd.DataFrame({"x": values}), **how).guarantee
        assert set(drawn) == {round(guarantee.sigma**2)}
        if kind == "categorical":
            assert len(drawn) == 2
            continue
        (noisy,) = seen
        assert len(drawn) == len(noisy)
        assert noisy.min() == 7
        assert noisy.sum() == 1000 + 7 * len(noisy)


def test_a_category_is_published_from_the_threshold_on(monkeypatch):
    how = {"epsilon": 1.0, "delta": 1e-6}
    noise = inference._Noise(**how, histograms=1, open_histograms=1, adjacency="zero_out")
    monkeypatch.setattr(inference, "discrete_gaussian", lambda _: 0)
    values = ["at"] * noise.threshold + ["below"] * (noise.threshold - 1)
    column = infer_one(values, "categorical", **how)
    assert "at" in column.categories
    assert "below" not in column.categories


@pytest.mark.parametrize(("first", "level"), [(0, "a"), (-4, "b")])
def test_the_level_for_the_rest_is_the_most_frequent_by_noisy_counts(first, level, monkeypatch):
    """Two rows more are no fact that is published, where noise says otherwise."""
    noise = iter([first, 0])  # of a, and of b
    monkeypatch.setattr(inference, "discrete_gaussian", lambda _: next(noise))
    assert infer_one(["a"] * 1002 + ["b"] * 1000, "categorical", nullable=False).other == level


@pytest.mark.parametrize(("extra", "scale"), [(0, "linear"), (100_000, "log")])
def test_the_scale_is_judged_by_noisy_counts(extra, scale, monkeypatch):
    """Where noise says that most values are about 3, it is as if they were."""
    edges = inference._magnitude_edges("integer")
    bin_of_3 = len(edges) - 1 + int(np.searchsorted(edges, 3.0, side="right"))
    draws = itertools.count()
    monkeypatch.setattr(
        inference, "discrete_gaussian", lambda _: extra if next(draws) == bin_of_3 else 0
    )
    assert infer_one(np.arange(1, 1001), "integer").scale == scale


@pytest.mark.parametrize(("extra", "special"), [(0, (0.0,)), (-200, ())])
def test_zero_gets_a_state_of_its_own_by_noisy_counts(extra, special, monkeypatch):
    """Six in ten rows are zero, and four by what is published."""
    zero = len(inference._magnitude_edges("integer")) - 1
    draws = itertools.count()
    monkeypatch.setattr(
        inference, "discrete_gaussian", lambda _: extra if next(draws) == zero else 0
    )
    values = np.concatenate([np.zeros(600), np.full(400, 50.0)])
    assert infer_one(values, "integer").special == special


@pytest.mark.parametrize("first", [0, -100])
def test_a_level_for_the_rest_is_made_by_noisy_counts(first, monkeypatch):
    """A hundred rows that noise has taken away may have been in categories of their own."""
    noise = iter([first, 0])
    monkeypatch.setattr(inference, "discrete_gaussian", lambda _: next(noise))
    column = infer_one(["a"] * 600 + ["b"] * 400, "categorical")
    assert (OTHER in column.categories) == (first < 0)


def test_conversion_from_renyi_is_proposition_12():
    """Oracle: the proposition's delta at the epsilon that we report, at its best order."""
    for changes, variance, delta in [(1, 4, 1e-5), (15, 300, 1e-7), (30, 40_000, 1e-12)]:
        epsilon = inference._gaussian_epsilon(changes, variance, delta)

        def log_delta(log_a1, epsilon=epsilon, rho=changes / (2 * variance)):
            a1 = mpmath.exp(log_a1)
            a = a1 + 1
            return a1 * (a * rho - epsilon) - mpmath.log(a1) + a * mpmath.log(1 - 1 / a)

        best = min(log_delta(x) for x in np.linspace(-5, 15, 2001))
        assert math.isclose(best, math.log(delta), rel_tol=1e-4)


def test_a_category_of_one_record_is_published_with_probability_at_most_delta():
    """The exact probability, not a simulation: Pr[1 + Y >= T] for every budget."""
    for epsilon in (0.1, 1.0, 8.0):
        for delta in (1e-3, 1e-6):
            noise = inference._Noise(
                epsilon, delta, histograms=3, open_histograms=3, adjacency="zero_out"
            )
            pmf = exact_pmf(noise.variance, 12 * (math.isqrt(noise.variance) + 1))
            y = np.arange(len(pmf)) - len(pmf) // 2
            assert 3 * pmf[1 + y >= noise.threshold].sum() <= noise.delta_threshold <= delta / 2


def test_a_unique_category_stays_hidden():
    """400 tables at a threshold share of 0.005: more than 12 have a chance below 1e-6."""
    table = pd.DataFrame({"c": ["common"] * 500 + ["rare"]})
    seen = 0
    for _ in range(400):
        schema = Schema.infer(
            table, epsilon=2.0, delta=0.01, types={"c": "categorical"}, nullable=False
        )
        seen += "rare" in schema["c"].categories
    assert seen <= 12
    assert stats.binom.sf(12, 400, 0.005) < 1e-6


def test_the_guarantee_states_what_was_asked_for():
    table = pd.DataFrame({"c": ["a", "b"] * 500, "x": np.arange(1000)})
    schema = Schema.infer(
        table, epsilon=1.0, delta=1e-6, types={"c": "categorical", "x": "integer"}, target="c"
    )
    cost = schema.guarantee
    assert (cost.epsilon, cost.delta, cost.adjacency) == (1.0, 1e-6, "zero_out")
    assert (cost.mechanism, cost.n, cost.private) == ("schema inference", 1000, True)
    assert math.isclose(cost.sensitivity, math.sqrt(2.0))
    assert 1.0 < cost.epsilon_replace_one < 2.0
    assert schema.target == "c"
    both = Schema.infer(
        table,
        epsilon=1.0,
        delta=1e-6,
        types={"c": "categorical", "x": "integer"},
        adjacency="replace_one",
    ).guarantee
    assert both.sensitivity == 2.0
    assert both.epsilon_replace_one == 1.0
    assert both.sigma > cost.sigma


def test_add_remove_keeps_the_number_of_rows(monkeypatch):
    """It is counted with the noise of all counts, and what depends on it takes that."""
    values = [0] * 700 + [5] * 300
    table = pd.DataFrame({"c": ["a"] * 600 + [f"rare {i}" for i in range(400)], "x": values})
    types = {"c": "categorical", "x": "integer"}
    how = {"epsilon": 1.0, "delta": 1e-6, "types": types, "nullable": False}
    schema = Schema.infer(table, adjacency="add_remove", **how)
    cost = schema.guarantee
    assert (cost.adjacency, cost.n, cost.epsilon) == ("add_remove", None, 1.0)
    assert math.isclose(cost.sensitivity, math.sqrt(3.0))
    assert 1.0 < cost.epsilon_replace_one < 2.0
    assert "n is protected too" in str(cost)
    written = re.sub("Inference [0-9a-f]{16}", "", json.dumps(schema.to_dict()))
    assert "1000" not in written
    assert cost.sigma > Schema.infer(table, **how).guarantee.sigma
    # With a noisy number of 100 rows, no row is left over, and most of them would be zeros; with
    # 10,000 it is the other way round.
    for shift, other, special in ((-900, False, (0.0,)), (9000, True, ())):
        drawn = iter([shift])
        monkeypatch.setattr(inference, "discrete_gaussian", lambda _, it=drawn: next(it, 0))
        found = Schema.infer(table, adjacency="add_remove", **how)
        assert (inference.OTHER in found["c"].categories) == other
        assert found["x"].special == special


def test_known_columns_cost_nothing():
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [True, False]})
    known = Number("a", "real", 0, 5)
    schema = Schema.infer(
        table, epsilon=1.0, delta=1e-6, types={"b": "boolean", "a": known}, nullable=["b"]
    )
    assert schema.columns == (known, Boolean("b", nullable=True))
    assert schema.guarantee is None


def test_what_was_spent_before_stays_spent():
    table = pd.DataFrame({"c": ["a", "b"] * 500, "x": np.arange(1000)})
    how = {"delta": 1e-6, "nullable": False}
    first = Schema.infer(table, epsilon=1.0, types={"c": "categorical", "x": "integer"}, **how)
    # All columns are known by now, for the price they had.
    assert Schema.infer(table, epsilon=0.5, types=first, **how).guarantee == first.guarantee
    noted = Schema(first.columns, target="c", guarantee=first.guarantee)
    assert Schema.infer(table, epsilon=0.5, types=noted, **how).target == "c"
    assert Schema.infer(table, epsilon=0.5, types=noted, target="x", **how).target == "x"
    # One column again, from the whole table and from more rows.
    again = {"c": first["c"], "x": "integer"}
    for df in (table, pd.concat([table, table])):
        second = Schema.infer(df, epsilon=0.5, types=again, prior=first.guarantee, **how)
        assert second.guarantee.epsilon == pytest.approx(1.5)
        assert second.guarantee.delta == pytest.approx(2e-6)
    assert Schema.from_dict(second.to_dict()) == second
    refused = [
        ({"types": first, "prior": first.guarantee}, ValueError, "prior must not be given"),
        ({"types": again, "prior": 1.0}, TypeError, "prior must be a Guarantee; got"),
        (
            {"types": first, "adjacency": "replace_one"},
            ValueError,
            "adjacency must be that of what was spent before, zero_out; got replace_one",
        ),
    ]
    for changes, error, message in refused:
        with pytest.raises(error, match=message):
            Schema.infer(table, epsilon=0.5, **{**how, **changes})


def test_equal_costs_of_two_inferences_add_up():
    table = pd.DataFrame({"x": np.arange(1000)})
    costs = [
        Schema.infer(table, epsilon=0.5, delta=1e-6, types={"x": "integer"}).guarantee
        for _ in range(2)
    ]
    assert costs[0] != costs[1]
    release = dpslice.SlicingMechanism(epsilon=1.0, delta=1e-6).release(
        np.zeros((1000, 2)), metadata={"schema_guarantee": costs[0].to_dict()}
    )
    assert total_guarantee(release).epsilon == pytest.approx(1.5)
    assert total_guarantee(release, costs[0]).epsilon == pytest.approx(1.5)
    assert total_guarantee(release, *costs).epsilon == pytest.approx(2.0)


def test_tails_as_small_as_the_certificate_says_may_be_cut_off():
    """Fixed seeds; the certificate names the tail that is found about half the time."""
    found = []
    for _ in range(40):
        noise = inference._Noise(1.0, 1e-6, histograms=1, open_histograms=0, adjacency="zero_out")
        tail = inference._hidden_tail(noise.sigma)
        values = np.concatenate([np.full(5000, 1.5), np.linspace(9.0, 11.9, tail)])
        schema = Schema.infer(
            pd.DataFrame({"x": values}), epsilon=1.0, delta=1e-6, types={"x": "real"}
        )
        assert f"A tail of some {tail} values" in str(schema.guarantee)
        found.append(schema["x"].max >= 9.0)
    assert 0.2 < np.mean(found) < 0.95


def test_the_certificate_of_an_inference_speaks_of_counts():
    table = pd.DataFrame({"x": np.arange(1000)})
    text = str(Schema.infer(table, epsilon=0.5, delta=1e-6, types={"x": "integer"}).guarantee)
    assert "one record is replaced by one that falls into no histogram" in text
    assert "(distance of neighbouring tables' counts)" in text
    assert "(noise on every count)" in text
    assert "zeros" not in text


# -------------------------------------------------------------------------------- what it finds


def infer_one(values, kind, **options):
    settings = {"epsilon": 1.0, "delta": 1e-6, "types": {"x": kind}, "nullable": False}
    return Schema.infer(pd.DataFrame({"x": values}), **{**settings, **options})["x"]


def test_categories_above_the_threshold_are_found():
    values = ["b"] * 3000 + ["a"] * 2000 + [f"unique {i}" for i in range(1000)]
    column = infer_one(values, "categorical")
    assert column == Categorical("x", ("a", "b", OTHER), other=OTHER)
    Schema([column]).validate(pd.DataFrame({"x": values}))


def test_no_other_level_without_need():
    column = infer_one(["b"] * 3000 + ["a"] * 2000 + ["rare"], "categorical")
    assert column == Categorical("x", ("a", "b"), other="b")


def test_integer_categories():
    values = [7] * 3000 + [-1] * 2000 + list(range(100, 1100))
    column = infer_one(values, "categorical_integer")
    assert column == Categorical("x", (-1, 7), other=7)


def test_missing_values_are_a_public_matter():
    values = [None] * 1000 + ["a"] * 2000 + ["b"] * 2000
    column = infer_one(values, "categorical", nullable=True)
    # Those that are missing need no level of the rest.
    assert column == Categorical("x", ("a", "b"), other="b", nullable=True) or (
        column == Categorical("x", ("a", "b"), other="a", nullable=True)
    )
    for kind in ("categorical", "categorical_integer", "real", "date"):
        with pytest.raises(ValueError, match=r"'x': .*missing value"):
            infer_one([None] * 5, kind)


def test_missing_values_hide_no_zeros():
    """Zero is judged by its share of the values that are there."""
    values = np.where(np.arange(20_000) % 10 < 7, 0.0, np.linspace(1.0, 9.0, 20_000))
    for share in (0.0, 0.4, 0.8):
        some = np.where(np.random.default_rng(0).random(20_000) < share, np.nan, values)
        assert infer_one(some, "real", nullable=True).special == (0.0,)


def test_missing_values_get_noise_though_there_are_none(monkeypatch):
    seen = []
    add = inference._Noise.add
    monkeypatch.setattr(
        inference._Noise,
        "add",
        lambda self, counts: seen.append(counts.tolist()) or add(self, counts),
    )
    for kind, nullable, missing in (
        ("categorical", True, 0),
        ("categorical", True, 7),
        ("categorical", False, 0),
    ):
        infer_one(["a"] * 500 + ["b"] * 500 + [None] * missing, kind, nullable=nullable)
        assert seen == [[500, 500], [missing]][: 1 + nullable]
        seen.clear()


def test_integer_bounds_are_near():
    ages = np.arange(17, 91).repeat(300)
    column = infer_one(ages, "integer")
    # Bins of 2 at 16..31, of 8 at 64..127.
    assert column == Number("x", "integer", 16, 95)


def test_negative_and_real_bounds():
    column = infer_one(np.linspace(-3.0, 5.0, 20_000), "real")
    # The last bin [5, 5.5) holds the one value 5: too little to stand out.
    assert (column.min, column.max, column.scale) == (-3.0, 5.0, "linear")


def test_thin_tails_are_found_together():
    """No bin above 100 holds enough by itself: their union does."""
    tail = np.geomspace(101, 9000, 2500).astype(int)
    column = infer_one(np.concatenate([np.full(20_000, 50), tail]), "integer", epsilon=0.3)
    assert column.min <= 50
    assert column.max > 1000


def test_a_zero_inflated_heavy_tail():
    rng = np.random.default_rng(0)
    gains = np.where(rng.random(50_000) < 0.8, 0, np.exp(rng.normal(7.5, 1.2, 50_000)))
    column = infer_one(np.rint(gains), "integer")
    assert column.special == (0,)
    assert column.scale == "log"
    assert column.min == 0
    assert 20_000 < column.max < 1_000_000


def test_even_values_stay_linear():
    column = infer_one(np.linspace(0, 1, 20_000), "real")
    assert (column.scale, column.special) == ("linear", ())


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, Number("x", "integer", 0, 1)),
        (1, Number("x", "integer", 1, 2)),
        (-1, Number("x", "integer", -1, 0)),
        (2**53, Number("x", "integer", 15 * 2**48, 2**52 - 1)),
    ],
)
def test_constant_columns(value, expected):
    assert infer_one([value] * 5000, "integer") == expected


def test_constant_zero_real():
    column = infer_one([0.0] * 5000, "real")
    assert (column.min, column.max) == (0.0, 1.0)


def test_values_beyond_the_bins_are_clipped():
    column = infer_one([1e250, -1e250] * 5000, "real")
    assert column.max == 2.0**60
    assert column.min == -(2.0**60)


def test_periods():
    days = pd.date_range("2019-01-05", "2021-03-20", freq="h")
    assert infer_one(days, "date") == Datetime(
        "x", datetime.date(2019, 1, 1), datetime.date(2021, 3, 31)
    )
    assert infer_one(days, "datetime") == Datetime(
        "x", datetime.datetime(2019, 1, 1), datetime.datetime(2021, 3, 31, 23, 59, 59)
    )
    old = infer_one([datetime.date(1492, 1, 1), datetime.date(2500, 1, 1)] * 5000, "date")
    assert (old.min.year, old.max.year) == (1800, 2199)


def test_dtypes_may_be_declared_public():
    n = 4000
    table = pd.DataFrame(
        {
            "i": np.arange(n) % 50,
            "r": np.linspace(0, 1, n),
            "b": np.arange(n) % 2 == 0,
            "c": ["u", "v"] * (n // 2),
            "s": pd.array(["u", "v"] * (n // 2), dtype="string"),
            "k": pd.Categorical(["u", "v"] * (n // 2)),
            "t": pd.date_range("2020-01-01", periods=n, freq="h"),
        }
    )
    schema = Schema.infer(table, epsilon=5.0, delta=1e-6, types="dtypes", nullable=False)
    assert [c.type for c in schema] == [
        "integer",
        "real",
        "boolean",
        "categorical",
        "categorical",
        "categorical",
        "datetime",
    ]
    schema.validate(table)
    with pytest.raises(TypeError, match="no column type corresponds to dtype"):
        Schema.infer(
            pd.DataFrame({"d": pd.to_timedelta([1, 2])}), epsilon=1, delta=1e-6, types="dtypes"
        )


def test_innermost_window_goes_first():
    counts = np.zeros(64, dtype=np.int64)
    counts[10:12] = 1000
    counts[13:15] = 70  # each below 5.4 * 15 alone, above 5.4 * 15 * sqrt(2) together
    assert inference._occupied(counts, 15.0) == (10, 14)
    assert inference._occupied(counts[::-1], 15.0) == (49, 53)
    assert inference._occupied(np.zeros(64, dtype=np.int64), 15.0) is None


@given(
    st.sampled_from(["integer", "real"]),
    st.lists(st.integers(-(10**6), 10**6), min_size=1, max_size=5, unique=True),
)
@settings(deadline=None, max_examples=25)
def test_bounds_hold_the_data_when_there_is_plenty(kind, values):
    column = infer_one(np.repeat(values, 3000), kind, epsilon=3.0)
    assert column.min <= min(values)
    assert max(values) <= column.max
    # An edge lies within an eighth of an octave of the outermost value.
    low, high = min(0, min(values)) * 9 / 8 - 1, max(0, max(values)) * 9 / 8 + 1
    assert low <= column.min
    assert column.max <= high


# ---------------------------------------------------------------------------------- what it refuses

TABLE = pd.DataFrame({"c": ["a"] * 20, "x": range(20)})
TYPES = {"c": "categorical", "x": "integer"}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"epsilon": 0}, ValueError, "epsilon must be a finite number > 0; got 0"),
        ({"epsilon": "1"}, TypeError, "epsilon must be a finite number > 0"),
        ({"delta": 0}, ValueError, "delta must be strictly between 0 and 1"),
        ({"delta": 1.0}, ValueError, "delta must be strictly between 0 and 1"),
        ({"adjacency": "none"}, ValueError, "adjacency must be one of zero_out"),
        ({"types": "csv"}, ValueError, "types must be a mapping or 'dtypes'"),
        ({"types": None}, TypeError, "types must be a mapping or 'dtypes'"),
        ({"types": {"c": "categorical"}}, ValueError, "no column beyond the schema's; got 'x'"),
        ({"types": {**TYPES, "y": "real"}}, ValueError, "missing: 'y'"),
        ({"types": {**TYPES, "x": "number"}}, ValueError, r"types\['x'\] must be one of integer"),
        ({"types": {**TYPES, "x": Boolean("y")}}, ValueError, r"types\['x'\] must describe that"),
        ({"types": {**TYPES, "c": "integer"}}, TypeError, "'c': must hold numbers"),
        ({"types": {**TYPES, "x": "categorical"}}, TypeError, "'x': must hold strings"),
        ({"types": {**TYPES, "x": "date"}}, TypeError, "'x': must hold datetimes"),
        ({"nullable": "c"}, TypeError, "nullable must be true, false or column names"),
        ({"nullable": ["z"]}, ValueError, "nullable must name columns of df; got 'z'"),
        ({"target": "z"}, ValueError, "target must name a column"),
        ({"df": TABLE.iloc[:0]}, ValueError, "at least one row"),
        ({"df": [1]}, TypeError, "df must be a pandas DataFrame"),
        ({"df": [1], "types": "dtypes"}, TypeError, "df must be a pandas DataFrame"),
        ({"epsilon": 0.01}, ValueError, "'c': no category stands out from the noise"),
        (
            {"epsilon": 0.01, "types": {**TYPES, "c": Categorical("c", ["a"])}},
            ValueError,
            "'x': no range of values stands out from the noise",
        ),
    ],
)
def test_bad_input(changes, error, message):
    arguments = {"df": TABLE, "epsilon": 50.0, "delta": 1e-6, "types": TYPES, **changes}
    df = arguments.pop("df")
    with pytest.raises(error, match=message):
        Schema.infer(df, **arguments)


def test_what_was_found_is_kept_where_other_columns_show_nothing(tmp_path):
    table = pd.concat([TABLE] * 200, ignore_index=True)
    table = table.assign(gone=np.nan, void=None, old=np.datetime64("NaT", "ns"), b=True)
    types = {**TYPES, "gone": "real", "void": "categorical", "old": "date", "b": "boolean"}
    with pytest.raises(InferenceError) as caught:
        Schema.infer(table, epsilon=50.0, delta=1e-6, types=types, nullable=["gone", "void", "old"])
    error = caught.value
    for part in ("'gone': no range of", "'void': no category", "'old': no month"):  # all at once
        assert f"column {part}" in str(error)
    assert "Its epsilon is spent" in str(error)
    assert list(error.types) == [*TABLE.columns, "gone", "void", "old", "b"]
    assert [n for n, kind in error.types.items() if isinstance(kind, str)] == [
        "gone",
        "void",
        "old",
    ]
    assert error.nullable == ["gone", "void", "old"]
    assert error.guarantee.epsilon == 50.0

    def completed(found):
        by_hand = (
            Number("gone", "real", 0, 1, nullable=True),
            Categorical("void", ["a"], nullable=True),
            Datetime("old", "2020-01-01", "2020-12-31", nullable=True),
        )
        return found | {column.name: column for column in by_hand}

    schema = Schema.infer(
        table, epsilon=1.0, delta=1e-6, types=completed(error.types), prior=error.guarantee
    )
    assert schema.guarantee == error.guarantee
    assert schema["c"] == error.types["c"]
    again = Schema.infer(
        table,
        epsilon=2.0,
        delta=1e-6,
        types=completed(error.types) | {"x": "integer"},
        nullable=error.nullable,
        prior=error.guarantee,
    )
    assert again.guarantee.epsilon == pytest.approx(52.0)


def test_a_tiny_budget_is_met_by_much_noise():
    noise = inference._Noise(1e-4, 1e-9, histograms=2, open_histograms=1, adjacency="replace_one")
    assert inference._gaussian_epsilon(4, noise.variance, noise.delta_noise) <= 1e-4
