"""Releases for tests, made by the formula O = XU + V: no code of the mechanism, seeded noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from dpslice.accounting import Guarantee
from dpslice.release import Release, RowRelease

GUARANTEE = Guarantee(epsilon=1.0, delta=1e-6, adjacency="zero_out", mechanism="test")


def make_release(
    rows: NDArray[np.float64],
    sigma: float,
    *,
    p: int | None = None,
    frame_kind: str = "orthonormal",
    seed: int = 0,
) -> Release:
    rng = np.random.default_rng(seed)
    d = rows.shape[1]
    p = d if p is None else p
    if frame_kind == "orthonormal":
        blocks = [np.linalg.qr(rng.normal(size=(d, d)))[0] for _ in range(-(-p // d))]
        frame = np.concatenate(blocks, axis=1)[:, :p]
    else:
        frame = rng.normal(size=(d, p)) / np.sqrt(d)
    projections = rows @ frame + sigma * rng.normal(size=(len(rows), p))
    return RowRelease(
        np.ascontiguousarray(frame),
        np.ascontiguousarray(projections, dtype=np.float32),
        sigma,
        GUARANTEE,
        frame_kind=frame_kind,
    )


def gaussian_rows(n: int, d: int, *, seed: int = 1) -> NDArray[np.float64]:
    """Rows of a Gaussian with a mean and a full covariance of its own."""
    rng = np.random.default_rng(seed)
    mixing = 0.25 * rng.normal(size=(d, d)) + 0.3 * np.eye(d)
    return rng.normal(size=(n, d)) @ mixing.T + 0.2 * rng.normal(size=d)
