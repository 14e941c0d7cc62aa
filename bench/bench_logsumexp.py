"""Logarithms of Gaussian kernel sums: value, and gradient in y, as in bench_kernel_sum.py."""

from __future__ import annotations

from typing import Any

import peers
from bench_kernel_sum import builder, forward_builder
from harness import (
    COMPILED,
    NAIVE,
    OURS,
    OURS_APART,
    OURS_TWO,
    STRICT,
    Case,
    Replay,
    parameters,
)


def _strict_ways(_: int) -> list[dict[str, Any]]:
    return [{"block": block} for block in (*peers.BLOCKS, 1 << 20)]


ALL = (OURS, OURS_TWO, OURS_APART, STRICT, NAIVE)
NAME = "gaussian_kernel_logsumexp"
build = builder(NAME, peers.kernel_logsumexp, _strict_ways)
build_forward = forward_builder(NAME, peers.kernel_logsumexp, "SciPy", peers.kernel_logsumexp_scipy)
CASES = [
    Case(NAME, (("m", 1), ("b", 2048), ("k", 94)), build, (*ALL, COMPILED), quick=True),
    Case(NAME, (("m", 1), ("b", 4096), ("k", 94)), build, ALL),
    Case(NAME, (("m", 1), ("b", 2048), ("k", 784)), build, ALL),
    Case(NAME, (("m", 12), ("b", 1024), ("k", 8)), build, (*ALL, "KeOps")),
    Case(
        NAME,
        (("m", 1), ("b", 2048), ("k", 94)),
        build_forward,
        (OURS, NAIVE, "SciPy"),
        variant="forward",
    ),
    *(
        Case(NAME, (("m", 1), ("b", 1024), ("k", k)), build, (OURS, STRICT), series="k")
        for k in (1, 2, 4, 8, 16, 64, 256)
    ),
]


@parameters(CASES)
def test_logsumexp(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
