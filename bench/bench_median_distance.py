"""Median pairwise distance of each slice."""

from __future__ import annotations

import torch

import peers
from dpslice.torch import functional
from harness import (
    NAIVE,
    OURS,
    OURS_TWO,
    STRICT,
    Case,
    Contender,
    Counts,
    Group,
    Replay,
    parameters,
    two_threads,
)


def build(m: int, b: int, k: int) -> Group:
    x = torch.randn(m, b, k, generator=torch.Generator().manual_seed(0))

    def ours() -> Contender:
        return Contender(lambda: {"value": functional.median_distance(x)})

    return Group(
        contenders={
            OURS: ours,
            OURS_TWO: lambda: two_threads(ours()),
            STRICT: lambda: Contender(peers.median_distance_strict(x)),
            NAIVE: lambda: Contender(peers.median_distance(x), default_malloc=True),
            "SciPy": lambda: Contender(peers.median_distance_scipy(x), default_malloc=True),
        },
        truth=peers.median_distance_strict(x.double())(),
        tolerance={"value": 1e-5},
        # One distance per pair: three operations a coordinate.
        counts=Counts(flop=m * b * (b - 1) / 2 * 3 * k, read=4 * m * b * k, written=4 * m),
    )


ALL = (OURS, OURS_TWO, STRICT, NAIVE, "SciPy")
CASES = [
    Case("median_distance", (("m", 47), ("b", 128), ("k", 2)), build, ALL, quick=True),
    Case("median_distance", (("m", 47), ("b", 1024), ("k", 2)), build, ALL),
    # 94 coordinates; torch's quantile takes 16 million numbers at most.
    Case("median_distance", (("m", 1), ("b", 4096), ("k", 94)), build, ALL),
]


@parameters(CASES)
def test_median_distance(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
