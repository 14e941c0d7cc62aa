"""Rounds that choose slices: sensitivity of scores, accounting, choices, and what is released."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from typer.testing import CliRunner

from dpslice import (
    AdaptiveSumMechanism,
    KernelSums,
    MarginalSums,
    Release,
    SumMechanism,
    accounting,
)
from dpslice import adaptive as adaptive_module
from dpslice._cli._commands import app
from gaussian_mechanism import gaussian_delta

D = 4
SLICES = KernelSums.on_random_slices(D, n_slices=8, n_landmarks=6, seed=0)
FIRST = SLICES.take([0, 1, 2])
# Each slice is a coordinate of its own.
AXES = KernelSums(np.eye(D)[:, :, None], np.linspace(-1.0, 1.0, 9)[:, None], 0.25)


def _rows(n: int = 500, seed: int = 0) -> np.ndarray:
    return 0.3 * np.random.default_rng(seed).normal(size=(n, D))


def _sums(features: KernelSums, rows: np.ndarray) -> np.ndarray:
    """Exact sums of every slice, each bounded by itself: shape (m, c)."""
    whole = features.take(features.groups).sum(rows).reshape(features.n_slices, -1)
    return np.ldexp(whole.astype(np.float64), features.unit_exponent)


def _nothing(release: Release, groups: list[int]) -> np.ndarray:
    """Model that expects no record anywhere."""
    return np.zeros((len(groups), release.features.n_landmarks))


def _mechanism(**options: object) -> AdaptiveSumMechanism:
    given: dict = {
        "features": FIRST, "candidates": SLICES, "rounds": 2, "epsilon": 5.0, "delta": 1e-6,
    }  # fmt: skip
    return AdaptiveSumMechanism(**(given | options))


def _scores(tables: list[np.ndarray], expected: np.ndarray, **options: object) -> np.ndarray:
    """Scores of all candidates in the first round, in units, for each table of rows."""
    seen: list = []

    def choose(scores: list, candidates: list, count: int, *rest: object) -> list:
        seen.append(scores)
        return candidates[:count]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(adaptive_module, "_choose", choose)
        mechanism = _mechanism(rounds=1, **options)
        for rows in tables:
            mechanism.release(rows, lambda release, groups: list(expected))
    assert all(isinstance(score, int) for score in itertools.chain(*seen))
    return np.array(seen, dtype=object)


# ----------------------------------------------------------------------------------- accounting


@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
def test_whole_is_what_its_parts_add_up_to(adjacency: str) -> None:
    mechanism = _mechanism(adjacency=adjacency, tables_per_round=2)
    promise = mechanism.account()
    far = math.sqrt(2.0) if adjacency == "replace_one" else 1.0
    bounds = SLICES.take(range(8)).bound
    counted = far * math.sqrt(sum(bounds[:3] ** 2)) / promise.sigma
    chosen = [far * mechanism._weight_of(s) * bounds[s] / promise.sigma for s in range(8)]
    assert max(chosen) == pytest.approx(min(chosen), rel=1e-12)
    range_ = mechanism._choice_range(promise.sigma)
    choice = 2.0 * stats.norm.ppf(stats.logistic.cdf(range_ / 2.0))
    mu = math.sqrt(counted**2 + 4 * chosen[0] ** 2 + 4 * choice**2)
    exact = gaussian_delta(5.0, mu)
    assert exact < 1e-6
    assert exact == pytest.approx(1e-6, rel=1e-5)
    assert promise.epsilon == 5.0
    # What one choice costs is what its probabilities allow: a range of 2 slope Delta.
    reach = (2 if adjacency == "replace_one" else 1) * max(map(SLICES.group_total, range(8)))
    assert mechanism._reach == reach
    assert "up to 4 slices were chosen by exponential mechanisms" in str(promise)
    assert promise.p == 3 * 6 + 4 * 6
    if adjacency != "replace_one":
        mu = math.sqrt(2.0 * (counted**2 + 4 * chosen[0] ** 2) + 4.0 * 4 * choice**2)
        assert gaussian_delta(promise.epsilon_replace_one, mu) == pytest.approx(1e-6, rel=1e-4)


def test_slices_of_several_kinds_cost_the_same() -> None:
    """Bandwidths, landmarks and bounds differ; a chosen one has the noise that its bound needs."""
    rng = np.random.default_rng(0)
    slices = KernelSums(
        SLICES.frame,
        rng.uniform(-0.5, 0.5, (8, 6, 1)),
        rng.uniform(0.05, 0.6, 8),
        bound=rng.uniform(0.3, 3.0, 8),
    )
    first = slices.take([0, 1], [2.0, 0.5])
    mechanism = _mechanism(features=first, candidates=slices, sigma=3.0, epsilon=None)
    promise = mechanism.account()
    whole = (
        (2.0 * slices.bound[0]) ** 2 + (0.5 * slices.bound[1]) ** 2
    ) / 0.65  # counting_share and choosing_share are the rest
    assert promise.sensitivity == pytest.approx(math.sqrt(whole), rel=1e-12)
    for s in range(8):
        assert (mechanism._weight_of(s) * slices.bound[s]) ** 2 == pytest.approx(0.15 * whole)
    assert mechanism._reach == max(map(slices.group_total, range(8)))
    release = mechanism.release(_rows(), _nothing)
    both = [math.hypot(w, mechanism._weight_of(s)) for s, w in enumerate(first.weights)]
    for weight in release.features.weights:
        assert any(
            weight == pytest.approx(w)
            for w in (*first.weights, *both, *map(mechanism._weight_of, range(2, 8)))
        )


def test_slices_of_the_features_keep_their_bounds() -> None:
    tight = KernelSums(
        SLICES.frame[:1], SLICES.landmarks[:1], SLICES.bandwidth[:1], bound=np.array([0.5])
    )
    mechanism = _mechanism(features=tight)
    assert mechanism.features.bound.tolist() == [0.5]
    assert mechanism._all.group_norm(0) == 0.5
    assert mechanism._all.group_norm(1) == SLICES.take([1]).norm


# ---------------------------------------------------------------------------------- sensitivity


@settings(max_examples=40)
@given(
    st.integers(0, 2**32),
    st.sampled_from(accounting.SUM_ADJACENCIES),
    st.sampled_from([0.0, 1e-3, 0.3, 1.0, 50.0, 1e150]),
    st.sampled_from([0.0, 1.0, 30.0, 1e12]),
)
def test_one_record_moves_no_score_by_more_than_delta(
    seed: int, adjacency: str, size: float, spread: float
) -> None:
    """For records of any length, at landmarks too, whatever the model expects."""
    rng = np.random.default_rng(seed)
    m, k = int(rng.integers(1, 5)), int(rng.integers(1, 3))
    slices = KernelSums(
        rng.normal(size=(m, D, k)) / math.sqrt(D),
        rng.uniform(-0.5, 0.5, (m, int(rng.integers(1, 9)), k)),
        10.0 ** rng.uniform(-1.5, 0.5, m),
        bound=None if rng.random() < 0.5 else rng.uniform(0.1, 3.0, m),
    )
    rows = size * rng.normal(size=(5, D))
    record = size * rng.normal(size=(1, D))
    if rng.random() < 0.5:  # on a landmark, as nearly as clipping allows
        direction = slices.frame[0, :, 0]
        record = (slices.landmarks[0, 0, 0] / (direction @ direction) * direction)[None]
    others = [np.concatenate([rows, record]), rows]
    if adjacency == "replace_one":
        others.append(np.concatenate([rows, size * rng.normal(size=(1, D))]))
        others = [others[0], others[2]]
    expected = rng.normal(scale=spread, size=(m, slices.n_landmarks))
    options: dict = {"features": slices.take([0]), "candidates": slices, "adjacency": adjacency}
    scores = _scores(others, expected, **options)
    reach = _mechanism(rounds=1, **options)._reach
    assert np.abs(scores[1] - scores[0]).max() <= reach
    # All of a record's kernels count where the model expects far less than there is.
    low = _scores(others, np.full_like(expected, -1e6), **options)
    moved = slices.take(range(m)).sum(others[0]) - slices.take(range(m)).sum(others[1])
    np.testing.assert_array_equal(low[0] - low[1], moved.reshape(m, -1).sum(axis=1).astype(object))


@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
def test_delta_is_nearly_attained(adjacency: str) -> None:
    """The noise of a choice is no more than it must be."""
    line = KernelSums(np.eye(D)[:1, :, None], np.linspace(-1.0, 1.0, 33)[:, None], 1.0 / 16.0)
    right, left = np.zeros((2, 1, D))
    right[0, 0], left[0, 0] = 0.5, -0.5
    rows = _rows(20)
    # The model expects too many on the right, and too few on the left.
    expected = np.where(line.landmarks[:, :, 0] > 0.0, 1e6, 0.0)
    tables = [np.concatenate([rows, right]), np.concatenate([rows, left])]
    if adjacency != "replace_one":
        tables[1] = rows
    options: dict = {"features": line, "candidates": line, "adjacency": adjacency}
    scores = _scores(tables, expected, **options)
    reach = _mechanism(rounds=1, **options)._reach
    assert 0.995 * reach < abs(scores[1, 0] - scores[0, 0]) <= reach


def test_scores_are_what_their_formula_says() -> None:
    rows = _rows(300)
    expected = np.random.default_rng(1).normal(10.0, 5.0, (8, 6))
    mechanism = _mechanism(rounds=1, epsilon=None, sigma=3.0)
    (scores,) = _scores([rows], expected, epsilon=None, sigma=3.0)
    for s in range(8):
        weight = math.hypot(1.0 if s < 3 else 0.0, mechanism._weight_of(s))
        score = np.abs(_sums(SLICES, rows)[s] - expected[s]).sum()
        score -= math.sqrt(2.0 / math.pi) * 3.0 / weight * 6
        assert scores[s] * 2.0**-30 == pytest.approx(score, abs=6 * 2.0**-30)


def test_scores_beyond_reason_do_not_wrap_around() -> None:
    """Sums of the largest tables at the largest estimates fit 63 bits, and their total any."""
    largest = (2**32 - 1) << 30
    assert largest + int(adaptive_module._LARGEST_ESTIMATE) * 2**30 < 2**63
    most = np.full(1000, 2**63 - 1)
    assert adaptive_module._total(most) == 1000 * (2**63 - 1)
    for sign in (-1.0, 1.0):
        (scores,) = _scores([_rows(10)], np.full((8, 6), sign * 1e300))
        for score in scores:
            assert abs(score - 6 * 2**62) < 2**40


# -------------------------------------------------------------------------------------- choices


def test_choices_have_the_probabilities_of_the_exponential_mechanism(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With what a release draws from, against the formula; chi-squared, error rate 1e-6."""
    drawn_from: list = []
    choose = adaptive_module._choose

    def spy(*given: object) -> list:
        drawn_from.append(given)
        return choose(*given)

    monkeypatch.setattr(adaptive_module, "_choose", spy)
    rows = _rows(40)
    slices = SLICES.take(range(4))
    options: dict = {
        "features": slices.take([0]), "candidates": slices, "epsilon": None, "sigma": 4.0,
        "choosing_share": 0.6, "rounds": 1,
    }  # fmt: skip
    mechanism = _mechanism(**options)
    sums = _sums(slices, rows)
    noise = [4.0 / math.hypot(1.0 if s == 0 else 0.0, mechanism._weight_of(s)) for s in range(4)]
    total = max(map(slices.group_total, range(4))) * 2.0**-30
    scores = np.abs(sums).sum(axis=1) - math.sqrt(2.0 / math.pi) * 6 * np.array(noise)
    eta = mechanism._choice_range(4.0)
    weights = np.exp(eta / (2.0 * total) * (scores - scores.max()))
    mechanism.release(rows, _nothing)
    ((*given,),) = drawn_from
    draws = 20_000
    seen = Counter(choose(*given)[0] for _ in range(draws))
    got = np.array([seen[s] for s in range(4)])
    expected = draws * weights / weights.sum()
    assert expected.min() > 500.0
    assert expected.max() < 0.6 * draws
    assert got.sum() == draws
    assert stats.chisquare(got, expected).pvalue > 1e-6


@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
def test_slices_that_are_deliberately_misfit_are_chosen(adjacency: str) -> None:
    """The model knows all coordinates but two."""
    rows = _rows(20_000)
    rows[:, 1] = 0.3
    rows[:, 3] = -0.4
    model = _rows(20_000, seed=1)

    def guess(release: Release, groups: list[int]) -> np.ndarray:
        return _sums(AXES.take(groups), model)

    told: list = []
    release = _mechanism(
        features=AXES.take([0]), candidates=AXES, tables_per_round=1, adjacency=adjacency
    ).release(rows, guess, on_round=lambda i, groups: told.append((i, groups)))
    assert sorted(told) == [(0, told[0][1]), (1, told[1][1])]
    assert sorted(s for _, (s,) in told) == [1, 3]
    order = [0, *(s for _, (s,) in told)]
    np.testing.assert_array_equal(release.features.frame, AXES.frame[order])
    exact = _sums(AXES, rows)[order].ravel()
    assert np.abs((release.sums - exact) / release.noise).max() < 6.0
    assert release.guarantee.n == (None if adjacency == "add_remove" else 20_000)


def test_no_slice_is_chosen_twice() -> None:
    told: list = []
    _mechanism(rounds=4, tables_per_round=2).release(
        _rows(), _nothing, on_round=lambda i, groups: told.extend(groups)
    )
    assert sorted(told) == list(range(8))


def test_candidates_need_not_be_among_the_features() -> None:
    others = KernelSums.on_random_slices(D, n_slices=3, n_landmarks=6, seed=5)
    asked: list = []

    def guess(release: Release, groups: list[int]) -> list[np.ndarray]:
        asked.append(list(groups))
        return [np.zeros(6) for _ in groups]

    release = _mechanism(candidates=others, rounds=3).release(_rows(), guess)
    assert release.features.n_slices == 6
    assert asked[0] == [0, 1, 2]
    np.testing.assert_array_equal(release.features.frame[:3], FIRST.frame)
    assert {f.tobytes() for f in release.features.frame[3:]} == {f.tobytes() for f in others.frame}


def test_number_of_records_is_counted_once_where_it_is_among_the_features() -> None:
    counting = KernelSums(SLICES.frame, SLICES.landmarks, SLICES.bandwidth, constant=2.0)
    told: list = []
    estimates: list = []

    def guess(release: Release, groups: list[int]) -> np.ndarray:
        told.extend(groups)
        estimates.append(release.estimated_n)
        return _nothing(release, groups)

    for candidates in (SLICES, counting):  # which may be chosen, the number is not
        mechanism = _mechanism(
            features=counting.take([-1, 0, 1, 2]), candidates=candidates, adjacency="add_remove",
            epsilon=None, sigma=4.0, tables_per_round=2,
        )  # fmt: skip
        plain = _mechanism(epsilon=None, sigma=4.0, tables_per_round=2)
        ratio = math.hypot(FIRST.norm, 2.0) / FIRST.norm
        assert mechanism.features.norm == pytest.approx(math.hypot(FIRST.norm, 2.0), rel=1e-12)
        assert mechanism._weight == pytest.approx(plain._weight * ratio, rel=1e-12)
        release = mechanism.release(_rows(400), guess)
        assert release.features.constant == 2.0
        assert release.features.groups[0] == -1
        assert 3 <= release.features.n_slices <= 7
        assert release.p == 1 + 6 * release.features.n_slices
        assert release.noise[0] == 2.0
        exact = _sums(release.features.take(range(3)), _rows(400)).ravel()
        assert (
            np.abs((release.sums - [400.0, *exact, *release.sums[19:]]) / release.noise).max() < 7
        )
        estimates.append(release.estimated_n)
    assert set(told) == set(range(8))
    assert np.abs(np.array(estimates) - 400).max() < 7 * 2.0


# --------------------------------------------------------------------------------------- noise


def test_slice_that_is_counted_again_is_averaged() -> None:
    mechanism = _mechanism(
        features=SLICES.take([2, 5], [2.0, 1.0]),
        candidates=SLICES.take([5]),
        rounds=1,
        epsilon=None,
        sigma=3.0,
    )
    release = mechanism.release(_rows(), _nothing)
    assert release.features.n_slices == 2
    weight = math.hypot(1.0, mechanism._weight_of(0))
    np.testing.assert_allclose(release.noise, np.repeat([1.5, 3.0 / weight], 6), rtol=1e-12)
    assert release.guarantee.p == 12
    assert mechanism.account().p == 18


def test_averages_have_the_stated_noise() -> None:
    """Variance over repeated releases; chi-squared, error rate 1e-6. Their mean is the truth."""
    mechanism = _mechanism(
        features=SLICES.take([0, 1], [0.5, 1.5]), candidates=SLICES.take([1, 0]), rounds=1,
        tables_per_round=2, epsilon=None, sigma=5.0,
    )  # fmt: skip
    rows = _rows(200)
    exact = _sums(SLICES, rows)[:2].ravel()
    releases = [mechanism.release(rows, _nothing) for _ in range(300)]
    scaled = np.array([(release.sums - exact) / release.noise for release in releases])
    low, high = stats.chi2.ppf([5e-7, 1 - 5e-7], scaled.size)
    assert low < (scaled**2).sum() < high
    assert np.abs(scaled.mean(axis=0)).max() < 6.0 / math.sqrt(300)
    both = [math.hypot(w, mechanism._weight_of(1 - s)) for s, w in enumerate((0.5, 1.5))]
    np.testing.assert_allclose(releases[0].noise, np.repeat(5.0 / np.array(both), 6), rtol=1e-12)


def test_sums_are_the_same_however_the_rows_come() -> None:
    rows = _rows(501)
    options = {"epsilon": None, "sigma": FIRST.norm / math.sqrt(0.65) / 500.0, "rounds": 8}
    exact = {
        frame.tobytes(): sums for frame, sums in zip(SLICES.frame, _sums(SLICES, rows), strict=True)
    }
    for source, step in ((rows, None), (rows, 7), (iter([rows[:3], rows[3:]]), None)):
        release = _mechanism(**options).release(source, _nothing, block_rows=step)
        features = release.features
        assert {frame.tobytes() for frame in features.frame} == set(exact)
        for frame, sums, noise in zip(
            features.frame, release.sums.reshape(8, 6), release.noise.reshape(8, 6), strict=True
        ):
            assert np.abs((sums - exact[frame.tobytes()]) / noise).max() < 7.0
            assert noise.max() < 0.05


def test_number_of_records_is_kept_where_it_is_protected() -> None:
    release = _mechanism(adjacency="add_remove").release(_rows(4321), _nothing)
    assert release.guarantee.n is None
    with pytest.raises(ValueError, match="protected"):
        _ = release.n
    digests = {"files": {}, "certificate_sha256": ""}
    assert "4321" not in json.dumps(
        {key: value for key, value in (release._certificate | digests).items() if key != "features"}
    )


# ---------------------------------------------------------------------------------- files, errors


@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
def test_release_is_saved_loaded_and_verified(adjacency: str, tmp_path: Path) -> None:
    path = tmp_path / "r.dpslice"
    release = _mechanism(adjacency=adjacency, tables_per_round=2).release(
        _rows(), _nothing, path=path, metadata={"a": 1}
    )
    loaded = Release.load(path)
    assert loaded.features == release.features
    assert loaded.features.weights == release.features.weights
    assert hash(loaded.features) == hash(release.features)
    np.testing.assert_array_equal(loaded.sums, release.sums)
    np.testing.assert_array_equal(loaded.noise, release.noise)
    assert loaded.guarantee == release.guarantee
    assert loaded.metadata == {"a": 1}
    loaded.verify()
    result = CliRunner().invoke(app, ["verify", str(path)], prog_name="dpslice")
    assert result.exit_code == 0, result.output
    assert "slices were chosen by exponential mechanisms" in " ".join(result.output.split())
    # What was released may be what the next rounds begin with.
    again = _mechanism(features=loaded.features, adjacency=adjacency)
    assert again.release(_rows(), _nothing).features.n_slices >= loaded.features.n_slices


def test_wrong_rows_are_refused() -> None:
    rows = _rows(10)
    rows[7, 1] = math.nan
    with pytest.raises(ValueError, match="finite numbers; got nan in row 7, column 1"):
        _mechanism().release(rows, _nothing)
    with pytest.raises(ValueError, match=r"X must have shape \(rows, 4\)"):
        _mechanism().release(_rows(10)[:, :3], _nothing)
    with pytest.raises(TypeError, match="float32 or float64"):
        _mechanism().release(np.zeros((5, D), dtype=int), _nothing)
    with pytest.raises(ValueError, match="at least one row"):
        _mechanism().release(np.zeros((0, D)), _nothing)


def test_long_rows_are_clipped() -> None:
    rows = _rows(100)
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    long, unit = rows / length * 1e3, rows / length * (1.0 - 1e-12)
    expected = np.zeros((8, 6))
    apart = _scores([long, unit], expected)
    assert np.abs(apart[0] - apart[1]).max() < 2**14  # digits


CUT = KernelSums(SLICES.frame, SLICES.landmarks, SLICES.bandwidth, bound=1.0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tables_per_round": 5}, "candidates must be at least the 10 slices of all rounds; got 8"),
        ({"candidates": SLICES.take([0])}, "at least the 2 slices of all rounds; got 1"),
        ({"candidates": SLICES.take([0, 1, 0])}, "not valid: slices must be different; 0 and 2"),
        ({"features": SLICES.take([1, 1])}, "^slices must be different; 0 and 1 are the same"),
        ({"candidates": CUT}, "not valid: bound must be one for each slice"),
        ({"features": CUT}, "^bound must be one for each slice"),
        (
            {"candidates": KernelSums.on_random_slices(5, n_slices=8, n_landmarks=6)},
            "not valid: d must be that of the features, 4; got 5",
        ),
        (
            {"candidates": KernelSums.on_random_slices(D, n_slices=8, n_landmarks=7)},
            "n_landmarks must be that of the features, 6; got 7",
        ),
        (
            {"candidates": KernelSums.on_random_slices(D, n_slices=8, n_landmarks=6, max_norm=2.0)},
            r"max_norm must be that of the features, 1\.0; got 2\.0",
        ),
        (
            {"candidates": KernelSums.on_random_slices(D, n_slices=8, slice_dim=2, n_landmarks=6)},
            "slice_dim must be that of the features, 1; got 2",
        ),
    ],
)
def test_arguments_are_checked(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _mechanism(**options)


def test_candidates_that_are_no_slices_are_refused() -> None:
    for bad in ([0, 1, 2], MarginalSums((2, 2), [(0,)]), [(0, 1)], None, SLICES.frame):
        with pytest.raises(TypeError, match="candidates are not valid: they must be KernelSums"):
            _mechanism(candidates=bad)
    with pytest.raises(TypeError, match="candidates are not valid"):
        _mechanism(features=MarginalSums((2, 2), [(0,)]), candidates=SLICES)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ([], "a sequence of 8 arrays, one for each group"),
        (None, "a sequence of 8 arrays"),
        (np.float64(3.0), "a sequence of 8 arrays"),
        (np.array(3.0), "a sequence of 8 arrays"),
        (np.zeros((6, 8)), "a sequence of 8 arrays"),
        (np.zeros(8), r"finite real sums of shape \(6,\) for slice 0"),
        (np.zeros((8, 5)), r"finite real sums of shape \(6,\) for slice 0"),
        (np.full((8, 6), math.nan), "finite real sums of shape"),
        (
            [*np.zeros((7, 6)), np.full(6, math.inf)],
            r"finite real sums of shape \(6,\) for slice 7",
        ),
        (["x"] * 8, "finite real sums of shape"),
    ],
)
def test_what_a_model_expects_is_checked(answer: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _mechanism().release(_rows(), lambda release, groups: answer)


def test_mechanism_may_be_made_again_of_its_parts() -> None:
    mechanism = _mechanism()
    again = AdaptiveSumMechanism(
        features=mechanism.features, candidates=mechanism.candidates, rounds=2, epsilon=5.0,
        delta=1e-6,
    )  # fmt: skip
    assert again == mechanism
    assert again.account() == mechanism.account()
    assert mechanism.candidates is SLICES


# ------------------------------------------------------------------------------------- with torch


def _one_odd_direction(n: int, seed: int) -> np.ndarray:
    """Rows that are two points, blurred, along one direction, and round in all others."""
    rng = np.random.default_rng(seed)
    rows = 0.1 * rng.normal(size=(n, 8))
    rows[:, 7] += 0.4 * rng.choice([-1.0, 1.0], n)
    return rows


@pytest.mark.parametrize("adjacency", ["zero_out", "add_remove"])
def test_rounds_improve_the_fit(adjacency: str) -> None:
    """A generator that starts with slices which do not show what there is to learn."""
    torch = pytest.importorskip("torch")
    from dpslice.torch import FeatureMatching, expected_sums, fit

    n, d = 20_000, 8
    private = _one_odd_direction(n, 0)
    axes = KernelSums(np.eye(d)[:, :, None], np.linspace(-0.8, 0.8, 12)[:, None], 0.15)
    mechanism = AdaptiveSumMechanism(
        features=axes.take(range(4)), candidates=axes, rounds=2, tables_per_round=1, epsilon=1.0,
        delta=1e-6, adjacency=adjacency,
    )  # fmt: skip
    torch.manual_seed(0)
    generator = torch.nn.Sequential(torch.nn.Linear(d, 32), torch.nn.ReLU(), torch.nn.Linear(32, d))
    misfits: list = []
    exact = _sums(axes, private)

    def train(release: Release) -> np.ndarray:
        loss = FeatureMatching(release, n=n)
        options = {"batch_size": 512, "latent_dim": d, "lr": 1e-2, "progress": False}
        fit(generator, loss, steps=250, seed=len(misfits), **options)
        rows = generator(torch.randn(n, d, generator=torch.Generator().manual_seed(1)))
        sums = expected_sums(axes, rows, n=n)
        misfits.append(np.abs(sums - exact).sum() / n)
        return sums

    told: list = []
    release = mechanism.release(
        private,
        lambda release, groups: train(release)[list(groups)],
        on_round=lambda i, groups: told.extend(groups),
    )
    train(release)
    assert told[0] == 7  # the direction that is not round
    assert misfits[2] < 0.5 * misfits[0]
    assert release.features.n_slices in (5, 6)
    # The noise is that of one release of those slices, and the rest of the budget is for choosing.
    fixed = SumMechanism(features=release.features, sigma=release.sigma).account()
    whole = mechanism.account().sensitivity ** 2
    assert fixed.sensitivity**2 == pytest.approx(0.95 * whole, rel=1e-12)
