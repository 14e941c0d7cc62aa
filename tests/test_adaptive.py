"""Sum releases in rounds: the accounting of choices, exact choices, and what is released."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import mpmath
import numpy as np
import pytest
from scipy import stats

from dpslice import AdaptiveSumMechanism, MarginalSums, Release, accounting
from dpslice import adaptive as adaptive_module
from dpslice import mechanism as mechanism_module
from gaussian_mechanism import gaussian_delta

SIZES = (2, 3, 4, 2)
SINGLES = MarginalSums(SIZES, [(j,) for j in range(4)])
PAIRS = list(itertools.combinations(range(4), 2))


def _codes(n: int = 4000, seed: int = 0) -> np.ndarray:
    """Columns 0 and 3 are equal, the others independent."""
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, size, n) for size in SIZES], axis=1)
    codes[:, 3] = codes[:, 0]
    return codes


def _mechanism(**options: object) -> AdaptiveSumMechanism:
    given: dict = {
        "features": SINGLES, "candidates": PAIRS, "rounds": 2, "epsilon": 5.0, "delta": 1e-6,
    }  # fmt: skip
    return AdaptiveSumMechanism(**(given | options))


def _product(release: Release, groups: list) -> list[np.ndarray]:
    """Independent columns, from the tables of single columns."""
    alone = {
        group[0]: table / release.estimated_n
        for group, table, _ in release.features.tables(release.sums, release.noise)
        if len(group) == 1
    }
    return [release.estimated_n * np.multiply.outer(alone[a], alone[b]) for a, b in groups]


# ----------------------------------------------------------------------------------- accounting


def test_a_map_of_ones_own_is_named_as_the_authors_word() -> None:
    class Grouped(MarginalSums):
        """What is counted is of this class, whose norms nothing checks."""

        def joined(self, candidates):  # type: ignore[no-untyped-def]
            together, own, others = super().joined(candidates)
            return Grouped(together.sizes, together.groups), own, others

    features = Grouped(SIZES, [(j,) for j in range(4)])
    said = [note for note in _mechanism(features=features).account().notes if "Grouped" in note]
    assert said == [
        "norm, diameter and exact sums of the features Grouped are as their author says."
    ]
    assert len(_mechanism().account().notes) == 1


@pytest.mark.parametrize("mu", [1e-6, 0.03, 0.5, 2.0, 10.0, 49.0])
def test_range_of_a_choice(mu: float) -> None:
    """Against 60 digits, rounded down."""
    with mpmath.workdps(60):
        exact = 2 * mpmath.log(mpmath.ncdf(mpmath.mpf(mu) / 2) / mpmath.ncdf(-mpmath.mpf(mu) / 2))
        got = accounting.choice_range(mu)
        assert exact - 1e-10 * (1 + exact) < got < exact


@pytest.mark.parametrize("mu", [0.05, 0.4, 1.5])
def test_choices_are_gaussian(mu: float) -> None:
    """No pair of outcomes whose log odds differ by eta is easier to tell apart than N(0), N(mu)."""
    eta = accounting.choice_range(mu)
    odds = np.linspace(-30.0, 30.0, 40_001)
    apart = stats.norm.ppf(stats.logistic.cdf(odds + eta / 2))
    apart -= stats.norm.ppf(stats.logistic.cdf(odds - eta / 2))
    assert apart.max() < mu * (1.0 + 1e-9)
    assert apart.max() == pytest.approx(mu, rel=1e-8)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 3.0])
def test_choices_and_counts_together_are_below_the_gaussian_profile(epsilon: float) -> None:
    """A choice whose losses are t and t - eta, beside a Gaussian mechanism, for every t."""
    mu, mu_choice = 0.8, 0.5
    eta = accounting.choice_range(mu_choice)
    bound = gaussian_delta(epsilon, math.hypot(mu, mu_choice))
    for t in np.linspace(0.0, eta, 41)[1:-1]:
        up = (math.exp(eta) - math.exp(t)) / math.expm1(eta)  # probability of the loss t
        together = up * gaussian_delta(epsilon - t, mu)
        together += (1.0 - up) * gaussian_delta(epsilon - t + eta, mu)
        assert together <= bound * (1.0 + 1e-9)


def test_rounding_is_paid_for_each_time_a_table_is_counted() -> None:
    features = MarginalSums(SIZES, [(0,), (0, 1)])
    mechanism = _mechanism(features=features, candidates=[(0, 1), (0, 2)])
    promise = mechanism.account()
    assert promise.p == features.n_cells + 2 * 8
    assert promise.epsilon_numerical == accounting.sum_numerical_loss(promise.p)[0]
    release = mechanism.release(
        _codes(), lambda release, groups: [np.zeros([SIZES[j] for j in g]) for g in groups]
    )
    assert release.guarantee.p == 2 + 6 + 8
    assert release.guarantee.epsilon_numerical == promise.epsilon_numerical


def test_choices_cost_less_than_pure_privacy_and_no_less_than_renyi_shows() -> None:
    for mu in (0.01, 0.3, 1.0):
        assert mu < accounting.choice_range(mu) < 2.0 * mu


@pytest.mark.parametrize("bad", [0.0, -1.0, math.nan, math.inf, 51.0])
def test_ratio_of_a_choice_is_checked(bad: float) -> None:
    with pytest.raises(ValueError, match="mu must be"):
        accounting.choice_range(bad)


@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
def test_whole_is_what_its_parts_add_up_to(adjacency: str) -> None:
    mechanism = _mechanism(adjacency=adjacency, tables_per_round=2)
    promise = mechanism.account()
    far = math.sqrt(2.0) if adjacency == "replace_one" else 1.0
    counted = far * SINGLES.norm / promise.sigma
    chosen = far * mechanism._weight / promise.sigma
    range_ = mechanism._choice_range(promise.sigma)
    choice = 2.0 * stats.norm.ppf(stats.logistic.cdf(range_ / 2.0))
    mu = math.sqrt(counted**2 + 4 * chosen**2 + 4 * choice**2)
    exact = gaussian_delta(5.0, mu)
    assert exact < 1e-6
    assert exact == pytest.approx(1e-6, rel=1e-5)
    assert promise.epsilon == 5.0
    assert "up to 4 tables were chosen by exponential mechanisms" in str(promise)
    if adjacency != "replace_one":
        # Counts of two records are sqrt(2) apart, and choices cost at most twice their mu.
        mu = math.sqrt(2.0 * (counted**2 + 4 * chosen**2) + 4.0 * 4 * choice**2)
        assert gaussian_delta(promise.epsilon_replace_one, mu) == pytest.approx(1e-6, rel=1e-4)


@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
def test_one_record_moves_a_score_by_delta_at_most(
    adjacency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all records of a small domain, whatever the model expects."""
    seen: list = []

    def choose(scores: list, candidates: list, count: int, *rest: object) -> list:
        seen.append(scores)
        return candidates[:count]

    monkeypatch.setattr(adaptive_module, "_choose", choose)
    rng = np.random.default_rng(2)
    codes = _codes(30)
    expected = [rng.normal(2.0, 4.0, [SIZES[j] for j in group]) for group in PAIRS]
    mechanism = _mechanism(rounds=1, adjacency=adjacency, tables_per_round=1)
    if adjacency == "replace_one":
        records = itertools.product(*map(range, SIZES))
        neighbours = [np.vstack([codes[1:], record]) for record in records]
    else:  # the record counts nowhere, or is not there
        neighbours = [np.delete(codes, i, axis=0) for i in range(len(codes))]
    tables = [codes, *neighbours]
    for table in tables:
        mechanism.release(table, lambda release, groups: expected)
    moves = np.abs(np.array(seen[1:]) - np.array(seen[0]))
    assert moves.max() == (2 if adjacency == "replace_one" else 1)


@pytest.mark.parametrize("reach", [1, 2])
def test_weights_of_a_choice_stay_within_their_range(
    reach: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exact ratios of the whole numbers that are drawn from, for random neighbouring scores."""
    drawn: list = []

    def randbelow(total: int) -> int:
        drawn.append(total)
        return 0

    kept: list = []
    accumulate = itertools.accumulate
    monkeypatch.setattr(adaptive_module.secrets, "randbelow", randbelow)
    monkeypatch.setattr(
        adaptive_module.itertools,
        "accumulate",
        lambda weights: kept.append(list(weights)) or accumulate(weights),
    )
    rng = np.random.default_rng(3)
    with mpmath.workdps(60):
        for _ in range(300):
            eta = float(10.0 ** rng.uniform(-3, 1))
            scores = [int(q) for q in rng.integers(-200, 200, 6) * 10 ** rng.integers(0, 3)]
            moved = [q + int(rng.integers(-reach, reach + 1)) for q in scores]
            kept.clear(), drawn.clear()
            for given in (scores, moved):
                adaptive_module._choose(given, [(j,) for j in range(6)], 1, eta / (2 * reach))
            losses = [
                mpmath.log(mpmath.mpf(a) * drawn[1] / (mpmath.mpf(b) * drawn[0]))
                for a, b in zip(*kept, strict=True)
            ]
            assert max(losses) - min(losses) <= eta + 1e-11


def test_estimates_beyond_reason_do_not_wrap_around() -> None:
    """Scores of the largest tables at the largest counts fit 63 bits."""
    cells, records = 2**28, 2**32
    assert cells * adaptive_module._LARGEST_ESTIMATE + records < 2**62
    features = MarginalSums((2048, 2048), [(0,)])
    mechanism = AdaptiveSumMechanism(
        features=features, candidates=[(0, 1), (1,)], rounds=1, sigma=50.0
    )
    release = mechanism.release(
        np.zeros((100, 2), dtype=int),
        lambda release, groups: [np.full((2048, 2048), -1e300), np.zeros(2048)],
    )
    assert release.features.groups[-1] == (0, 1)


def test_number_of_records_is_kept_where_it_is_protected() -> None:
    release = _mechanism(adjacency="add_remove").release(_codes(), _product)
    assert release.guarantee.n is None
    with pytest.raises(ValueError, match="protected"):
        _ = release.n
    digests = {"files": {}, "certificate_sha256": ""}
    assert "4000" not in json.dumps(release._certificate | digests)


# -------------------------------------------------------------------------------------- choices


def test_choices_have_the_probabilities_of_the_exponential_mechanism() -> None:
    """First and second of two draws without replacement; chi-squared, error rate 1e-6."""
    scores, slope = [10, 12, 7, 12], 0.3
    groups = [(0,), (1,), (2,), (3,)]
    weight = np.exp(slope * np.array(scores, dtype=float))
    draws = 40_000
    seen = Counter(tuple(adaptive_module._choose(scores, groups, 2, slope)) for _ in range(draws))
    pairs = list(itertools.permutations(range(4), 2))
    expected = np.array(
        [weight[i] / weight.sum() * weight[j] / (weight.sum() - weight[i]) for i, j in pairs]
    )
    got = np.array([seen[(i,), (j,)] for i, j in pairs])
    assert stats.chisquare(got, draws * expected).pvalue > 1e-6
    assert got.sum() == draws


def test_hopeless_scores_are_drawn_like_any_other() -> None:
    """Far below the highest, all are equally rare; nothing overflows or divides by zero."""
    groups = [(0,), (1,), (2,)]
    chosen = adaptive_module._choose([0, -(10**12), 5], groups, 3, 40.0)
    assert chosen == [(2,), (0,), (1,)]
    assert sorted(adaptive_module._choose([0, 0, 0], groups, 3, 0.0)) == groups
    # The highest is that of those which are left: else the others would be alike.
    assert adaptive_module._choose([1000, 0, 5], groups, 2, 10.0) == [(0,), (2,)]


def test_draws_part_the_weights_to_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = 2**40 + 2**93
    for draw, chosen in ((0, 0), (weight - 1, 0), (weight, 1), (2 * weight - 1, 1)):
        monkeypatch.setattr(adaptive_module.secrets, "randbelow", lambda _, draw=draw: draw)
        assert adaptive_module._choose([7, 7], [(0,), (1,)], 1, 0.5) == [(chosen,)]


def test_single_columns_bar_nothing() -> None:
    groups = [(0,), (0, 1), (0, 2)]
    assert adaptive_module._choose([9, 5, 0], groups, 3, 9.0) == groups


def test_tables_of_a_round_have_little_in_common() -> None:
    groups = [(9, 0, 1), (9, 0, 1, 2), (9, 1, 2), (9, 3, 4), (9, 0, 2, 3)]
    scores = [100, 99, 98, 0, 97]
    chosen = adaptive_module._choose(scores, groups, 5, 9.0, frozenset([9]))
    assert chosen == [(9, 0, 1), (9, 1, 2), (9, 0, 2, 3), (9, 3, 4)]


def test_worst_table_is_chosen_and_counted() -> None:
    chosen: list = []
    release = _mechanism(rounds=1, epsilon=20.0).release(
        _codes(), _product, on_round=lambda i, groups: chosen.append((i, groups))
    )
    assert chosen == [(0, ((0, 3),))]
    assert release.features.groups == (*SINGLES.groups, (0, 3))
    *_, (_, table, noise) = release.features.tables(release.sums, release.noise)
    exact = np.bincount(_codes()[:, 0], minlength=2)
    assert np.abs(table - np.diag(exact)).max() < 6.0 * noise


def test_no_table_is_chosen_twice() -> None:
    told: list = []
    _mechanism(rounds=3, tables_per_round=2).release(
        _codes(), _product, on_round=lambda i, groups: told.extend(groups)
    )
    assert sorted(told) == PAIRS


def test_table_that_is_counted_again_is_averaged() -> None:
    mechanism = _mechanism(
        features=MarginalSums(SIZES, [(3, 0), (1,)], [2.0, 1.0]),
        candidates=[(0, 3)],
        rounds=1,
        sigma=3.0,
        epsilon=None,
    )
    release = mechanism.release(_codes(), lambda release, groups: [np.zeros((2, 2))])
    assert release.features.groups == ((3, 0), (1,))
    weight = math.sqrt(4.0 + mechanism._weight**2)
    assert release.noise[0] == pytest.approx(3.0 / weight)
    assert release.guarantee.p == 7


def _counting_again() -> tuple[AdaptiveSumMechanism, np.ndarray, np.ndarray]:
    """Make a mechanism that counts its only table twice, codes for it, and their exact counts."""
    mechanism = _mechanism(
        features=MarginalSums(SIZES, [(0, 3)]),
        candidates=[(0, 3)],
        rounds=1,
        sigma=5.0,
        epsilon=None,
    )
    codes = _codes(200)
    return mechanism, codes, np.diag(np.bincount(codes[:, 0], minlength=2)).ravel()


def test_averages_have_the_stated_noise() -> None:
    """Variance over repeated releases; chi-squared, error rate 1e-6."""
    mechanism, codes, exact = _counting_again()
    releases = [
        mechanism.release(codes, lambda release, groups: [np.zeros((2, 2))]) for _ in range(300)
    ]
    scaled = np.array([(release.sums - exact) / release.noise for release in releases])
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], scaled.size)
    assert low < (scaled**2).sum() < high


def test_averages_are_by_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Noise of +3 and -3 deviations, that of the second table the larger one."""
    drawn = iter([3.0, -3.0])
    monkeypatch.setattr(mechanism_module, "_normals", lambda size: np.full(size, next(drawn)))
    mechanism, codes, exact = _counting_again()
    release = mechanism.release(codes, lambda release, groups: [np.zeros((2, 2))])
    weight = mechanism._weight
    assert weight < 0.8
    noise = (15.0 - weight**2 * 15.0 / weight) / (1.0 + weight**2)
    np.testing.assert_allclose(release.sums, exact + noise, atol=5.0 * 2.0**-9)


def test_counts_are_the_same_however_the_records_come() -> None:
    codes = _codes(501)
    options = {"epsilon": None, "sigma": SINGLES.norm / math.sqrt(0.65) / 500.0}
    tables = MarginalSums(SIZES, (*SINGLES.groups, *PAIRS))
    exact = {
        group: table
        for group, table, _ in tables.tables(tables.sum(codes), np.ones(tables.n_cells))
    }
    for source, rows in ((codes, None), (codes, 7), (iter([codes[:3], codes[3:]]), None)):
        release = _mechanism(rounds=6, **options).release(source, _product, block_rows=rows)
        assert set(release.features.groups) == set(exact)
        for group, table, noise in release.features.tables(release.sums, release.noise):
            assert noise < 0.02
            np.testing.assert_array_equal(np.rint(table), exact[group])


# ---------------------------------------------------------------------------------- files, errors


def test_release_is_saved_and_loaded(tmp_path: Path) -> None:
    release = _mechanism().release(_codes(), _product, path=tmp_path / "r", metadata={"a": 1})
    loaded = Release.load(tmp_path / "r")
    assert loaded.features == release.features
    assert np.array_equal(loaded.sums, release.sums)
    assert loaded.guarantee == release.guarantee
    assert loaded.metadata == {"a": 1}


def test_nothing_is_left_of_a_release_whose_model_fails(tmp_path: Path) -> None:
    def fails(release: Release, groups: list) -> list:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _mechanism().release(_codes(), fails, path=tmp_path / "r")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounds": 0}, "rounds must be"),
        ({"tables_per_round": 4}, "candidates must be at least the 8 tables of all rounds; got 6"),
        ({"counting_share": 1.0}, "counting_share must"),
        ({"choosing_share": 0.0}, "choosing_share must"),
        ({"counting_share": 0.9, "choosing_share": 0.1}, "must leave something"),
        ({"candidates": [(0, 9)]}, "candidates are not valid: groups must each name"),
        ({"candidates": []}, "candidates are not valid: groups must hold at least one"),
        ({"candidates": [(0, 1), (1, 0)]}, "candidates are not valid: groups must be different"),
        ({"epsilon": None}, "exactly one of epsilon and sigma"),
        ({"adjacency": "other"}, "adjacency must be"),
        ({"features": MarginalSums((2**15, 2**14), [(0,)]), "candidates": [(0, 1)]}, "cells"),
    ],
)
def test_arguments_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _mechanism(**options)


def test_noise_of_chosen_tables_stays_within_its_range() -> None:
    """Their weights are not those of the features, whose noise is 10 here."""
    assert _mechanism(epsilon=None, sigma=10.0, counting_share=1e-296).account().sigma == 10.0
    with pytest.raises(ValueError, match=r"noise on a sum .*; got 10 to 6\.89"):
        _mechanism(epsilon=None, sigma=10.0, counting_share=1e-300).account()


def test_kinds_of_arguments_are_checked() -> None:
    with pytest.raises(TypeError, match="features must be MarginalSums or KernelSums; got"):
        _mechanism(features=(1, 2))
    with pytest.raises(TypeError, match="rounds must be an integer"):
        _mechanism(rounds=1.5)
    with pytest.raises(TypeError, match="estimate must be callable"):
        _mechanism().release(_codes(), None)
    with pytest.raises(TypeError, match="on_round must be callable"):
        _mechanism().release(_codes(), _product, on_round=5)
    with pytest.raises(TypeError, match="candidates are not valid: groups must be an integer"):
        _mechanism(candidates=[("a", "b")])
    with pytest.raises(TypeError, match="candidates are not valid"):
        _mechanism(candidates=5)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "a sequence of 6 arrays"),
        (None, "a sequence of 6 arrays"),
        ([np.zeros((9, 9))] * 6, r"finite real counts of shape \(2, 3\) for the columns \(0, 1\)"),
        ([np.full((2, 3), np.nan)] * 6, "finite real counts"),
        (["x"] * 6, "finite real counts"),
        ([np.ones((2, 3), dtype=complex)] * 6, "finite real counts .* dtype complex128"),
    ],
)
def test_what_a_model_expects_is_checked(answer: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _mechanism().release(_codes(), lambda release, groups: answer)


def test_wrong_records_are_refused() -> None:
    with pytest.raises(ValueError, match="row 1 has 9 in column 2"):
        _mechanism().release(np.array([[0, 0, 0, 0], [0, 0, 9, 0]]), _product)
    with pytest.raises(ValueError, match="at least one row"):
        _mechanism().release(np.empty((0, 4), dtype=int), _product)


@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
def test_choices_are_drawn_at_the_range_that_is_accounted_for(
    adjacency: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slope of a release, times the widest range of moved scores, is eta."""
    slopes = []
    choose = adaptive_module._choose

    def watched(scores: list, left: list, count: int, slope: float, *rest: object) -> list:
        slopes.append(slope)
        return choose(scores, left, count, slope, *rest)

    monkeypatch.setattr(adaptive_module, "_choose", watched)
    mechanism = _mechanism(rounds=2, adjacency=adjacency)
    release = mechanism.release(_codes(), _product)
    reach = 2 if adjacency == "replace_one" else 1
    share = mechanism.choosing_share / 2  # of the squared ratio, for one choice
    mu = release.guarantee.max_norm * math.sqrt(share) / release.sigma
    eta = accounting.choice_range(reach * mu)
    assert len(slopes) == 2
    assert slopes == pytest.approx([eta / (2 * reach)] * 2, rel=1e-12)
