"""Moments of the private rows, estimated from a release, against known laws."""

from __future__ import annotations

import numpy as np
import pytest

from dpslice import Guarantee, Release, RowRelease
from dpslice.frames import make_frame
from dpslice.tabular.moments import _shrink, estimate_moments


def _release(rows: np.ndarray, p: int, sigma: float, *, kind: str = "orthonormal") -> Release:
    """Release rows with plain noise: these tests need a known law, not privacy."""
    rng = np.random.default_rng(7)
    frame = make_frame(kind, rows.shape[1], p, 3)
    noisy = rows @ frame + sigma * rng.standard_normal((len(rows), p))
    promise = Guarantee(epsilon=1.0, delta=1e-6, adjacency="zero_out", mechanism="test")
    return RowRelease(frame, noisy.astype(np.float32), sigma, promise, frame_kind=kind)


def _spiked(n: int, d: int, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    direction = rng.standard_normal(d)
    direction /= np.linalg.norm(direction)
    mean = rng.standard_normal(d)
    rows = mean + np.sqrt(strength) * np.outer(rng.standard_normal(n), direction)
    return rows, mean, direction


@pytest.mark.parametrize("p", [12, 24])
def test_mean_and_factor_of_a_spiked_law_are_found(p: int) -> None:
    rows, mean, direction = _spiked(40_000, 12, strength=4.0)
    moments = estimate_moments(_release(rows, p, sigma=2.0))
    # standard error of each entry of the mean: at most sqrt((4 + 4) / 40000) = 0.014
    np.testing.assert_allclose(moments.mean, mean, atol=0.07)
    # The bulk's largest eigenvalue may pass the edge by chance; little of it is left by shrinking.
    assert (moments.factors[:, 1:] ** 2).sum() < 0.1
    found = moments.factors[:, 0]
    assert abs(found @ direction) / np.linalg.norm(found) > 0.995
    assert found @ found == pytest.approx(4.0, rel=0.08)


def test_pure_noise_gives_no_factors() -> None:
    # The largest eigenvalue exceeds the bulk edge by chance now and then (Tracy-Widom), but what is
    # left of it after shrinking is next to nothing.
    moments = estimate_moments(_release(np.zeros((20_000, 30)), 30, sigma=1.0))
    assert (moments.factors**2).sum() < 0.05


@pytest.mark.parametrize(("kind", "p"), [("orthonormal", 5), ("gaussian", 24)])
def test_frames_that_do_not_determine_the_covariance_give_the_mean_alone(kind: str, p: int) -> None:
    rows, mean, _ = _spiked(20_000, 12, strength=1.0)
    release = _release(rows, p, sigma=0.5, kind=kind)
    moments = estimate_moments(release)
    assert moments.factors.shape == (12, 0)
    np.testing.assert_allclose(moments.mean @ release.frame, mean @ release.frame, atol=0.1)


def test_fewer_rows_than_features_give_the_mean_alone() -> None:
    assert estimate_moments(_release(np.ones((3, 12)), 12, sigma=0.1)).factors.shape == (12, 0)


def test_one_row_is_enough_for_a_mean() -> None:
    moments = estimate_moments(_release(np.ones((1, 4)), 4, sigma=1e-3))
    np.testing.assert_allclose(moments.mean, 1.0, atol=0.02)


def test_shrinkage_matches_the_spiked_model() -> None:
    # A spike ell shows at (1 + ell) (1 + ratio / ell) in the sample covariance with unit noise.
    ratio = 0.05
    spikes = np.array([10.0, 3.0, 0.5])
    shown = (1 + spikes) * (1 + ratio / spikes)
    cosine2 = (1 - ratio / spikes**2) / (1 + ratio / spikes)
    np.testing.assert_allclose(_shrink(shown, ratio), spikes * cosine2, rtol=1e-12)
    assert _shrink(np.array([1.0, 0.2]), ratio).tolist() == [0.0, 0.0]
