"""Exact sums of features over private rows, as `SumMechanism` adds them up, against plain products.

The peers add up in floating point and neither clip nor check: they show what the same sums cost
where nothing has to be exact.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

import dpslice
from dpslice.features import FeatureMap
from harness import (
    NAIVE,
    OURS,
    OURS_TWO,
    Case,
    Contender,
    Counts,
    Group,
    Replay,
    parameters,
    two_threads,
)

SLICES, LANDMARKS = 32, 32


def _rows(n: int, d: int) -> np.ndarray:
    # None is clipped.
    return np.random.default_rng(0).normal(scale=0.5 / np.sqrt(d), size=(n, d))


def _group(
    features: FeatureMap,
    rows: np.ndarray,
    peers: dict[str, Callable[[], np.ndarray]],
    *,
    flop: float,
    exp: float = 0.0,
) -> Group:
    units = np.ldexp(1.0, features.unit_exponents())

    def ours() -> Contender:
        return Contender(lambda: {"sums": features.sum(rows) * units})

    def contender(call: Callable[[], np.ndarray]) -> Callable[[], Contender]:
        return lambda: Contender(lambda: {"sums": call()})

    first = next(iter(peers.values()))
    return Group(
        contenders={
            OURS: ours,
            OURS_TWO: lambda: two_threads(ours()),
            **{name: contender(call) for name, call in peers.items()},
        },
        truth={"sums": first()},
        tolerance={"sums": 1e-5},
        # In float64, which costs twice what the counts' unit, float32, does.
        counts=Counts(flop=2 * flop, exp=2 * exp, read=rows.nbytes, written=8 * features.n_cells),
    )


def second_moments(n: int, d: int) -> Group:
    rows = _rows(n, d)
    features = dpslice.SecondMoments(d, constant=0.0)
    upper = np.triu_indices(d)
    tensor = torch.from_numpy(rows)
    return _group(
        features,
        rows,
        {
            "NumPy": lambda: (rows.T @ rows)[upper],
            NAIVE: lambda: (tensor.mT @ tensor).numpy()[upper],
        },
        flop=n * d * (d + 1),
    )


def kernel_sums(n: int, d: int) -> Group:
    rows = _rows(n, d)
    features = dpslice.KernelSums.on_random_slices(
        d, n_slices=SLICES, n_landmarks=LANDMARKS, seed=0
    )
    directions = torch.from_numpy(features.frame[:, :, 0].T.copy())  # [d, m]
    landmarks = torch.from_numpy(features.landmarks[:, :, 0].copy())  # [m, c]
    factor = -0.5 / torch.from_numpy(features.bandwidth.copy()) ** 2

    def torch_sums() -> np.ndarray:
        total = torch.zeros_like(landmarks)
        for part in torch.from_numpy(rows).split(256):  # so that the kernels stay in cache
            apart = (part @ directions)[:, :, None] - landmarks
            total += torch.exp(apart.square_().mul_(factor[:, None])).sum(dim=0)
        return total.flatten().numpy()

    # Three operations a landmark and slice beside the exponential.
    pairs = n * SLICES * LANDMARKS
    return _group(
        features, rows, {NAIVE: torch_sums}, flop=2 * n * d * SLICES + 3 * pairs, exp=pairs
    )


CASES = [
    Case(
        "feature sums: second moments",
        (("n", 100_000), ("d", 94)),
        second_moments,
        (OURS, OURS_TWO, "NumPy", NAIVE),
    ),
    Case(
        "feature sums: kernels",
        (("n", 20_000), ("d", 94)),
        kernel_sums,
        (OURS, OURS_TWO, NAIVE),
        quick=True,
    ),
]


@parameters(CASES)
def test_feature_sums(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
