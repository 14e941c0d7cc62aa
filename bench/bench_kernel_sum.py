"""Gaussian kernel sums: value, and gradient in y for a given upstream gradient.

Ours knows the upstream gradient beforehand, as the strict peers do, or by itself finds it out in
backward, as peers as used do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import peers
from dpslice.torch import functional
from harness import (
    COMPILED,
    NAIVE,
    OURS,
    OURS_APART,
    OURS_TWO,
    STRICT,
    Case,
    Contender,
    Counts,
    Group,
    Replay,
    exponential_lanes,
    parameters,
    tuned,
    two_threads,
)

BANDWIDTH = 1.0
MOST_BY_DIFFERENCES = 8  # dimensions: kDirectDims of csrc/gaussian_pairs.h


def data(m: int, b: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, m, b, k, generator=generator)
    return x, y, torch.rand(m, b, generator=generator) / b


def pair_counts(m: int, b: int, k: int, *, log: bool, gradient: bool = True) -> Counts:
    """One product per pair forward, one backward, one exponential for both.

    Ours by differences (csrc/gaussian_pairs.h): k of them, their squares and a factor; the
    exponential; what adds up the sums, or finds and takes off the greatest exponent. Backward the
    differences again, and what adds up k + 1 numbers. By products, in more dimensions: k
    multiply-adds, and k + 1 in whole vectors.
    """
    pairs = m * b * b
    points = 4 * m * b
    if k <= MOST_BY_DIFFERENCES:
        own_products = 0
        own_lanes = 2 * k + 1 + exponential_lanes() + (4 if log else 1)
        if gradient:
            own_lanes += 2 * k + 2
    else:
        own_products = k + (-(-(k + 1) // 16) * 16 if gradient else 0)
        own_lanes = exponential_lanes() + 4
    return Counts(
        flop=pairs * (4 * k if gradient else 2 * k),
        exp=pairs,
        read=points * (2 * k + 1),
        written=points * (k + 1 if gradient else 1),
        own_products=pairs * own_products,
        own_lanes=pairs * own_lanes,
    )


def _strict(x: torch.Tensor, y: torch.Tensor, upstream: torch.Tensor) -> Callable[[], Contender]:
    def make() -> Contender:
        by = [False, True] if x.shape[-1] <= 3 else [False]
        return Contender(
            tuned(
                [
                    peers.pair_kernel_strict(
                        x, y, BANDWIDTH, upstream, log=False, block=block, differences=differences
                    )
                    for block in peers.BLOCKS
                    for differences in by
                ]
            )
        )

    return make


def build(m: int, b: int, k: int) -> Group:
    x, y, upstream = data(m, b, k)

    def ours() -> Contender:
        call, checked = peers.kernel_total("gaussian_kernel_sum", x, y, BANDWIDTH, upstream)
        return Contender(call, checked=checked)

    def apart() -> Contender:
        return Contender(
            peers.with_gradient(
                lambda at: functional.gaussian_kernel_sum(x, at, BANDWIDTH), y, upstream
            )
        )

    def naive(at: torch.Tensor) -> torch.Tensor:
        return peers.kernel_sum(x, at, BANDWIDTH)

    return Group(
        contenders={
            OURS: ours,
            OURS_TWO: lambda: two_threads(ours()),
            OURS_APART: apart,
            STRICT: _strict(x, y, upstream),
            NAIVE: lambda: Contender(peers.with_gradient(naive, y, upstream), default_malloc=True),
            COMPILED: lambda: Contender(peers.compiled(naive, y, upstream)),
            "KeOps": lambda: Contender(
                peers.pair_kernel_keops(x, y, BANDWIDTH, upstream, log=False)
            ),
        },
        truth=peers.pair_kernel_strict(
            x.double(), y.double(), BANDWIDTH, upstream.double(), log=False, block=1 << 18
        )(),
        # Single precision over thousands of terms; torch's expanded distances are the worst.
        tolerance={"value": 1e-4, "gradient": 1e-4},
        counts=pair_counts(m, b, k, log=False),
    )


def build_forward(m: int, b: int, k: int) -> Group:
    x, y, _ = data(m, b, k)

    def ours() -> Contender:
        return Contender(lambda: {"value": functional.gaussian_kernel_sum(x, y, BANDWIDTH)})

    return Group(
        contenders={
            OURS: ours,
            NAIVE: lambda: Contender(
                lambda: {"value": peers.kernel_sum(x, y, BANDWIDTH)}, default_malloc=True
            ),
            "scikit-learn": lambda: Contender(
                peers.kernel_sum_sklearn(x, y, BANDWIDTH), default_malloc=True
            ),
        },
        truth={"value": peers.kernel_sum(x.double(), y.double(), BANDWIDTH)},
        tolerance={"value": 1e-4},
        counts=pair_counts(m, b, k, log=False, gradient=False),
    )


ALL = (OURS, OURS_TWO, OURS_APART, STRICT, NAIVE, "KeOps")
CASES = [
    Case("gaussian_kernel_sum", (("m", 1), ("b", 10000), ("k", 2)), build, ALL),
    Case(
        "gaussian_kernel_sum",
        (("m", 100), ("b", 128), ("k", 2)),
        build,
        (*ALL, COMPILED),
        quick=True,
    ),
    Case("gaussian_kernel_sum", (("m", 100), ("b", 1024), ("k", 2)), build, ALL),
    Case(
        "gaussian_kernel_sum",
        (("m", 1), ("b", 4096), ("k", 2)),
        build_forward,
        (OURS, NAIVE, "scikit-learn"),
        variant="forward",
    ),
    *(
        Case(
            "gaussian_kernel_sum",
            (("m", 1), ("b", b), ("k", 2)),
            build,
            (OURS, STRICT),
            series="b",
        )
        for b in (128, 512, 2048, 8192)
    ),
    *(
        Case(
            "gaussian_kernel_sum",
            (("m", m), ("b", 128), ("k", 2)),
            build,
            (OURS, STRICT),
            series="m",
        )
        for m in (1, 8, 64, 512)
    ),
]


@parameters(CASES)
def test_kernel_sum(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
