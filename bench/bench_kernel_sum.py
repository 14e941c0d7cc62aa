"""Gaussian kernel sums: value, and gradient in y for a given upstream gradient.

Ours knows the upstream gradient beforehand, as the strict peers do, or by itself finds it out in
backward, as peers as used do. Groups of log sums, for bench_logsumexp.py, are made here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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
    """Points whose coordinates add up to a few bandwidths, as released rows do."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, m, b, k, generator=generator) * min(1.0, 4 / k**0.5)
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


def builder(
    name: str,
    plain: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
    strict_ways: Callable[[int], list[dict[str, Any]]],
) -> Callable[..., Group]:
    """Return what builds the group of a kernel: `plain` torch, and strict in some ways, by k."""
    op = getattr(functional, name)
    log = name.endswith("logsumexp")

    def build(m: int, b: int, k: int) -> Group:
        x, y, upstream = data(m, b, k)

        def ours() -> Contender:
            call, checked = peers.kernel_total(name, x, y, BANDWIDTH, upstream)
            return Contender(call, checked=checked)

        def strict() -> Contender:
            return Contender(
                tuned(
                    [
                        peers.pair_kernel_strict(x, y, BANDWIDTH, upstream, log=log, **way)
                        for way in strict_ways(k)
                    ]
                )
            )

        def naive(at: torch.Tensor) -> torch.Tensor:
            return plain(x, at, BANDWIDTH)

        return Group(
            contenders={
                OURS: ours,
                OURS_TWO: lambda: two_threads(ours()),
                OURS_APART: lambda: Contender(
                    peers.with_gradient(lambda at: op(x, at, BANDWIDTH), y, upstream)
                ),
                STRICT: strict,
                NAIVE: lambda: Contender(
                    peers.with_gradient(naive, y, upstream), default_malloc=True
                ),
                COMPILED: lambda: Contender(peers.compiled(naive, y, upstream)),
                "KeOps": lambda: Contender(
                    peers.pair_kernel_keops(x, y, BANDWIDTH, upstream, log=log)
                ),
            },
            truth=peers.pair_kernel_strict(
                x.double(), y.double(), BANDWIDTH, upstream.double(), log=log, block=1 << 18
            )(),
            # Single precision over thousands of terms; torch's expanded distances are the worst.
            tolerance={"value": 1e-4, "gradient": 1e-4},
            counts=pair_counts(m, b, k, log=log),
        )

    return build


def forward_builder(
    name: str,
    plain: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor],
    library: str,
    of_library: Callable[[torch.Tensor, torch.Tensor, float], peers.Call],
) -> Callable[..., Group]:
    """Return what builds the group of a kernel's value alone."""
    op = getattr(functional, name)

    def build(m: int, b: int, k: int) -> Group:
        x, y, _ = data(m, b, k)
        return Group(
            contenders={
                OURS: lambda: Contender(lambda: {"value": op(x, y, BANDWIDTH)}),
                NAIVE: lambda: Contender(
                    lambda: {"value": plain(x, y, BANDWIDTH)}, default_malloc=True
                ),
                library: lambda: Contender(of_library(x, y, BANDWIDTH), default_malloc=True),
            },
            truth={"value": plain(x.double(), y.double(), BANDWIDTH)},
            tolerance={"value": 1e-4},
            counts=pair_counts(m, b, k, log=name.endswith("logsumexp"), gradient=False),
        )

    return build


def _strict_ways(k: int) -> list[dict[str, Any]]:
    by = [False, True] if k <= 3 else [False]
    return [{"block": block, "differences": each} for block in peers.BLOCKS for each in by]


NAME = "gaussian_kernel_sum"
ALL = (OURS, OURS_TWO, OURS_APART, STRICT, NAIVE, "KeOps")
build = builder(NAME, peers.kernel_sum, _strict_ways)
build_forward = forward_builder(NAME, peers.kernel_sum, "scikit-learn", peers.kernel_sum_sklearn)
CASES = [
    Case(NAME, (("m", 1), ("b", 10000), ("k", 2)), build, ALL),
    Case(NAME, (("m", 100), ("b", 128), ("k", 2)), build, (*ALL, COMPILED), quick=True),
    Case(NAME, (("m", 100), ("b", 1024), ("k", 2)), build, ALL),
    Case(
        NAME,
        (("m", 1), ("b", 4096), ("k", 2)),
        build_forward,
        (OURS, NAIVE, "scikit-learn"),
        variant="forward",
    ),
    *(
        Case(NAME, (("m", 1), ("b", b), ("k", 2)), build, (OURS, STRICT), series="b")
        for b in (128, 512, 2048, 8192)
    ),
    *(
        Case(NAME, (("m", m), ("b", 128), ("k", 2)), build, (OURS, STRICT), series="m")
        for m in (1, 8, 64, 512)
    ),
]


@parameters(CASES)
def test_kernel_sum(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
