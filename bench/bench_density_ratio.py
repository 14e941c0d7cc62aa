"""Density ratio and its KL divergence: value of each slice, and gradient in the synthetic rows."""

from __future__ import annotations

import torch

import peers
from dpslice.divergences import get_divergence
from dpslice.torch import functional
from harness import (
    COMPILED,
    NAIVE,
    OURS,
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

BANDWIDTH = 1.7  # about the median distance of two points of a plane
RIDGE = 1e-2
SIGMA = 0.3
R_MIN = get_divergence("kl").r_min
LEAST_NARROW = 192  # rows: kLeastNarrow of csrc/gram_solver.h


def data(m: int, b: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, p = torch.randn(2, m, b, k, generator=generator)
    return q, 0.8 * p + 0.3, torch.full((m,), 1 / m)


def divergence_counts(m: int, b: int, k: int) -> Counts:
    """Half the Gram matrix, the cross kernel once, a Cholesky factor, two solves by it.

    Ours in float64, two lanes each: distances, kernels and their sums, the factor, the solves, and
    what pulls the points. With more rows it depends on them which factor does (gram_solver.h).
    """
    per_slice = b**3 / 3 + 8 * b**2 + b**2 * k + 4 * k * b**2
    wide = b < LEAST_NARROW
    kernels = 1.5 * (2 * k + 1) + 1 + (1 + 2 * k)
    return Counts(
        flop=m * per_slice,
        exp=1.5 * m * b**2,
        read=4 * m * b * 2 * k,
        written=4 * m * (b * k + 1),
        own_products=2 * m * (b**3 / 6 + 2 * b**2) if wide else 0,
        own_lanes=m * b**2 * (2 * kernels + 1.5 * exponential_lanes(double=True)) if wide else 0,
    )


def build(m: int, b: int, k: int) -> Group:
    q, p, upstream = data(m, b, k)
    given = (BANDWIDTH, RIDGE, SIGMA, R_MIN)

    def ours() -> Contender:
        return Contender(
            peers.with_gradient(
                lambda at: functional.density_ratio_divergence(
                    q, at, BANDWIDTH, RIDGE, "kl", sigma=SIGMA
                ),
                p,
                upstream,
            )
        )

    def naive(at: torch.Tensor) -> torch.Tensor:
        return peers.density_ratio_kl(q, at, *given)

    return Group(
        contenders={
            OURS: ours,
            OURS_TWO: lambda: two_threads(ours()),
            STRICT: lambda: Contender(
                tuned(
                    [
                        peers.density_ratio_kl_strict(q, p, *given, upstream, block=block)
                        for block in peers.BLOCKS
                    ]
                )
            ),
            NAIVE: lambda: Contender(peers.with_gradient(naive, p, upstream), default_malloc=True),
            COMPILED: lambda: Contender(peers.compiled(naive, p, upstream)),
        },
        truth=peers.density_ratio_kl_strict(
            q.double(), p.double(), *given, upstream.double(), block=1 << 18
        )(),
        # The inverse of a Gram matrix with ridge 1e-2 and up to 1024 points multiplies rounding
        # errors by up to 1e5, in any float32 implementation; the error is in the table.
        tolerance={"value": 2e-2, "gradient": 1e-1},
        counts=divergence_counts(m, b, k),
    )


ALL = (OURS, OURS_TWO, STRICT, NAIVE)
CASES = [
    Case(
        "density_ratio",
        (("m", 100), ("b", 128), ("k", 2)),
        build,
        (*ALL, COMPILED),
        quick=True,
    ),
    *(
        Case("density_ratio", (("m", m), ("b", b), ("k", k)), build, ALL)
        for m, b, k in ((100, 128, 8), (200, 256, 2), (50, 512, 2), (20, 1024, 3))
    ),
    *(
        Case("density_ratio", (("m", 20), ("b", b), ("k", 2)), build, (OURS, STRICT), series="b")
        for b in (32, 64, 128, 256, 512)
    ),
    *(
        Case("density_ratio", (("m", m), ("b", 128), ("k", 2)), build, (OURS, STRICT), series="m")
        for m in (4, 16, 64, 256)
    ),
]


@parameters(CASES)
def test_density_ratio(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
