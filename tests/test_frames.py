"""Frames: orthonormality, the Haar law, independence of blocks, and their seeds.

Statistical tests use fixed seeds; a correct frame would miss each bound with probability below
1e-9 for a random seed.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpslice import frames

Z_LIMIT = 6.12


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


# ---------------------------------------------------------------------------------- orthonormality


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), st.integers(1, 100), st.integers(0, 2**32))
def test_blocks_are_orthonormal(d: int, p: int, seed: int) -> None:
    frame = frames.orthonormal_frame(d, p, rng(seed))
    assert frame.shape == (d, p)
    assert frame.dtype == np.float64
    for start in range(0, p, d):
        block = frame[:, start : start + d]
        assert np.linalg.norm(block.T @ block - np.eye(block.shape[1]), 2) < 1e-13
    if p % d == 0:
        assert np.linalg.norm(frame @ frame.T - p // d * np.eye(d), 2) < 1e-12 * p
    assert frames.orthonormality_error(frame) < 1e-12 * p


def test_orthonormality_error_sees_errors() -> None:
    frame = frames.orthonormal_frame(5, 12, rng())
    for column in (0, 7, 11):
        bent = frame.copy()
        bent[:, column] *= 1 + 1e-6
        assert frames.orthonormality_error(bent) == pytest.approx(2e-6, rel=1e-3)


def test_a_frame_that_is_not_orthonormal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = frames.haar_columns
    monkeypatch.setattr(frames, "haar_columns", lambda *args: exact(*args) * (1 + 1e-8))
    with pytest.raises(RuntimeError, match="frame that is not orthonormal"):
        frames.orthonormal_frame(6, 6, rng())


# --------------------------------------------------------------------------------------- Haar law


def test_entries_follow_the_law_of_a_point_on_the_sphere() -> None:
    # u_1^2 of a uniform unit vector is Beta(1/2, (d-1)/2).
    d, draws = 5, 20_000
    blocks = frames.haar_columns((draws, d, d), rng(1))
    for i, j in ((0, 0), (4, 0), (0, 4), (2, 3), (4, 4)):
        entry = blocks[:, i, j]
        assert stats.kstest(entry**2, stats.beta(0.5, (d - 1) / 2).cdf).pvalue > 1e-9
        assert abs(np.mean(entry > 0) - 0.5) < Z_LIMIT * 0.5 / np.sqrt(draws)


@pytest.mark.parametrize("columns", [1, 3, 4])
def test_law_is_invariant_under_rotation(columns: int) -> None:
    # Entry (0, j) of Q and of RQ have one law; R is a fixed rotation. Two independent halves.
    d, draws = 4, 20_000
    rotation = frames.haar_columns((d, d), rng(2))
    q = frames.haar_columns((draws, d, columns), rng(3))
    turned = rotation @ frames.haar_columns((draws, d, columns), rng(4))
    for j in range(columns):
        for i in range(d):
            assert stats.ks_2samp(q[:, i, j], turned[:, i, j]).pvalue > 1e-9
    # The same for a function of the whole matrix.
    weights = np.random.default_rng(5).normal(size=(d, columns))
    pair = stats.ks_2samp((q * weights).sum((1, 2)), (turned * weights).sum((1, 2)))
    assert pair.pvalue > 1e-9


def test_second_and_fourth_moments() -> None:
    # E q_ij^2 = 1/d, E q_ij^4 = 3/(d(d+2)), E q_11^2 q_12^2 = 1/(d(d+2)),
    # E q_11^2 q_22^2 = (d+1)/(d(d-1)(d+2)), E q_11 q_12 q_21 q_22 = -1/(d(d-1)(d+2)).
    d, draws = 3, 200_000
    q = frames.haar_columns((draws, d, d), rng(6))
    a, b, c, e = q[:, 0, 0], q[:, 0, 1], q[:, 1, 0], q[:, 1, 1]
    moments = {
        "2": (a**2, 1 / d),
        "4": (e**4, 3 / (d * (d + 2))),
        "same row": (a**2 * b**2, 1 / (d * (d + 2))),
        "same column": (a**2 * c**2, 1 / (d * (d + 2))),
        "apart": (a**2 * e**2, (d + 1) / (d * (d - 1) * (d + 2))),
        "all four": (a * b * c * e, -1 / (d * (d - 1) * (d + 2))),
        "product": (a * e, 0.0),
    }
    for name, (values, expected) in moments.items():
        error = values.std() / np.sqrt(draws)
        assert abs(values.mean() - expected) < Z_LIMIT * error, name


def test_determinants_have_both_signs_equally() -> None:
    q = frames.haar_columns((20_000, 4, 4), rng(7))
    assert abs(np.mean(np.linalg.det(q))) < Z_LIMIT / np.sqrt(20_000)
    ones = frames.haar_columns((20_000, 1, 1), rng(8))
    assert set(np.unique(ones)) == {-1.0, 1.0}
    assert abs(ones.mean()) < Z_LIMIT / np.sqrt(20_000)


def test_blocks_are_independent_of_each_other() -> None:
    draws, d = 4000, 3
    made = np.stack([frames.orthonormal_frame(d, 8, rng(1000 + i)) for i in range(draws)])
    first, second, last = made[:, :, :3], made[:, :, 3:6], made[:, :, 6:]
    for a, b in ((first, second), (first, last), (second, last)):
        for change in (np.asarray, np.square):
            x = change(a).reshape(draws, -1) - change(a).reshape(draws, -1).mean(0)
            y = change(b).reshape(draws, -1) - change(b).reshape(draws, -1).mean(0)
            correlations = np.sqrt(draws) * (x.T @ y / draws) / np.outer(x.std(0), y.std(0))
            assert np.abs(correlations).max() < Z_LIMIT + 1.0  # 81 of them


def test_last_block_has_the_law_of_leading_columns() -> None:
    narrow = np.stack([frames.orthonormal_frame(4, 6, rng(i))[:, 4:] for i in range(6000)])
    full = frames.haar_columns((6000, 4, 4), rng(9))[:, :, :2]
    weights = np.random.default_rng(10).normal(size=(4, 2))
    for change in (np.asarray, np.square, np.abs):
        a, b = (change(q) * weights for q in (narrow, full))
        assert stats.ks_2samp(a.sum((1, 2)), b.sum((1, 2))).pvalue > 1e-9


# ------------------------------------------------------------------------------------- gaussian


def test_gaussian_frame_is_gaussian() -> None:
    d, p = 50, 4000
    frame = frames.gaussian_frame(d, p, rng(11))
    assert frame.shape == (d, p)
    assert stats.kstest(frame.ravel() * np.sqrt(d), "norm").pvalue > 1e-9
    lag = frame[:, :-1] * frame[:, 1:] * d
    assert abs(lag.mean()) < Z_LIMIT / np.sqrt(lag.size)


@pytest.mark.parametrize(("d", "p"), [(1, 1), (1, 10**6), (3, 5), (100, 100), (10**5, 7)])
def test_column_norm_bound_is_hardly_ever_reached(d: int, p: int) -> None:
    bound = frames.column_norm_bound("gaussian", d, p)
    assert p * stats.chi2.sf(d * bound**2, d) < 2.0**-72
    assert bound < 1 + 2 * np.sqrt((50 + np.log(p)) / d) + np.sqrt(2 * (50 + np.log(p)) / d)
    assert frames.column_norm_bound("orthonormal", d, p) == 1.0


@pytest.mark.parametrize(
    "bound", [frames.column_norm_bound, lambda *a: frames.worst_case_norm(*a, 0)]
)
def test_bad_arguments_of_the_bounds(bound) -> None:
    with pytest.raises(ValueError, match="kind must be one of orthonormal, gaussian; got 'haar'"):
        bound("haar", 3, 2)
    with pytest.raises(ValueError, match="d must be an integer >= 1; got 0"):
        bound("gaussian", 0, 2)
    with pytest.raises(TypeError, match="p must be an integer >= 1; got str"):
        bound("orthonormal", 3, "2")


def test_a_gaussian_frame_beyond_the_bound_is_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    tight = 1.0
    monkeypatch.setattr(frames, "column_norm_bound", lambda *_: tight)
    for seed in range(50):
        assert np.linalg.norm(frames.gaussian_frame(4, 2, rng(seed)), axis=0).max() <= tight


# ------------------------------------------------------------------------------- seeds and errors


@pytest.mark.parametrize("kind", frames.FRAMES)
def test_seed_fixes_the_frame(kind: str) -> None:
    one = frames.make_frame(kind, 6, 10, 3)
    np.testing.assert_array_equal(one, frames.make_frame(kind, 6, 10, 3))
    assert not np.array_equal(one, frames.make_frame(kind, 6, 10, 4))
    assert not np.array_equal(frames.make_frame(kind, 6, 10), frames.make_frame(kind, 6, 10))


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="kind must be one of orthonormal, gaussian; got 'haar'"):
        frames.make_frame("haar", 3, 3)
    with pytest.raises(ValueError, match="seed must be an integer >= 0; got -1"):
        frames.make_frame("gaussian", 3, 3, -1)
    with pytest.raises(TypeError, match="seed must be an integer"):
        frames.make_frame("gaussian", 3, 3, 1.5)  # type: ignore[arg-type]
    for make in (frames.orthonormal_frame, frames.gaussian_frame):
        with pytest.raises(ValueError, match="d must be an integer >= 1; got 0"):
            make(0, 3, rng())
        with pytest.raises(ValueError, match="p must be an integer >= 1; got 0"):
            make(3, 0, rng())
        with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator"):
            make(3, 3, 7)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"rng must be a numpy.random.Generator"):
        frames.haar_columns((3, 3), 7)  # type: ignore[arg-type]
    for shape in ((3, 4), (2, 3, 4), (3,)):
        with pytest.raises(ValueError, match="with columns <= rows; got"):
            frames.haar_columns(shape, rng())
