"""Logarithms of Gaussian kernel sums: value, and gradient in y for a given upstream gradient.

Ours knows the upstream gradient beforehand, as the strict peers do, or by itself finds it out in
backward, as peers as used do.
"""

from __future__ import annotations

import torch

import peers
from bench_kernel_sum import pair_counts
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
    Group,
    Replay,
    parameters,
    tuned,
    two_threads,
)

BANDWIDTH = 1.0


def data(m: int, b: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points whose coordinates add up to a few bandwidths, as released rows do."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, m, b, k, generator=generator) * min(1.0, 4 / k**0.5)
    return x, y, torch.rand(m, b, generator=generator) / b


def build(m: int, b: int, k: int) -> Group:
    x, y, upstream = data(m, b, k)

    def ours() -> Contender:
        call, checked = peers.kernel_total("gaussian_kernel_logsumexp", x, y, BANDWIDTH, upstream)
        return Contender(call, checked=checked)

    def apart() -> Contender:
        return Contender(
            peers.with_gradient(
                lambda at: functional.gaussian_kernel_logsumexp(x, at, BANDWIDTH), y, upstream
            )
        )

    def naive(at: torch.Tensor) -> torch.Tensor:
        return peers.kernel_logsumexp(x, at, BANDWIDTH)

    return Group(
        contenders={
            OURS: ours,
            OURS_TWO: lambda: two_threads(ours()),
            OURS_APART: apart,
            STRICT: lambda: Contender(
                tuned(
                    [
                        peers.pair_kernel_strict(x, y, BANDWIDTH, upstream, log=True, block=block)
                        for block in (*peers.BLOCKS, 1 << 20)
                    ]
                )
            ),
            NAIVE: lambda: Contender(peers.with_gradient(naive, y, upstream), default_malloc=True),
            COMPILED: lambda: Contender(peers.compiled(naive, y, upstream)),
            "KeOps": lambda: Contender(
                peers.pair_kernel_keops(x, y, BANDWIDTH, upstream, log=True)
            ),
        },
        truth=peers.pair_kernel_strict(
            x.double(), y.double(), BANDWIDTH, upstream.double(), log=True, block=1 << 18
        )(),
        tolerance={"value": 1e-4, "gradient": 1e-4},  # as for the sums
        counts=pair_counts(m, b, k, log=True),
    )


def build_forward(m: int, b: int, k: int) -> Group:
    x, y, _ = data(m, b, k)
    return Group(
        contenders={
            OURS: lambda: Contender(
                lambda: {"value": functional.gaussian_kernel_logsumexp(x, y, BANDWIDTH)}
            ),
            NAIVE: lambda: Contender(
                lambda: {"value": peers.kernel_logsumexp(x, y, BANDWIDTH)}, default_malloc=True
            ),
            "SciPy": lambda: Contender(
                peers.kernel_logsumexp_scipy(x, y, BANDWIDTH), default_malloc=True
            ),
        },
        truth={"value": peers.kernel_logsumexp(x.double(), y.double(), BANDWIDTH)},
        tolerance={"value": 1e-4},
        counts=pair_counts(m, b, k, log=True, gradient=False),
    )


ALL = (OURS, OURS_TWO, OURS_APART, STRICT, NAIVE)
NAME = "gaussian_kernel_logsumexp"
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
