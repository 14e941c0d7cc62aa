"""Sliced Wasserstein distance of order 2: value of each slice, and gradient in y."""

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
    tuned,
    two_threads,
)


def data(m: int, b: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, m, b, generator=generator)
    return x, 0.8 * y + 0.3, torch.full((m,), 1 / m)


def build(m: int, b: int) -> Group:
    x, y, upstream = data(m, b)

    def ours() -> Contender:
        return Contender(
            peers.with_gradient(lambda at: functional.sliced_wasserstein(x, at), y, upstream)
        )

    return Group(
        contenders={
            OURS: ours,
            OURS_TWO: lambda: two_threads(ours()),
            STRICT: lambda: Contender(
                tuned(
                    [
                        peers.sliced_wasserstein_strict(x, y, upstream, block=block)
                        for block in (*peers.BLOCKS, 1 << 22)
                    ]
                )
            ),
            NAIVE: lambda: Contender(
                peers.with_gradient(lambda at: peers.sliced_wasserstein(x, at), y, upstream),
                default_malloc=True,
            ),
            "POT": lambda: Contender(
                peers.sliced_wasserstein_pot(x, y, upstream), default_malloc=True
            ),
            "NumPy": lambda: Contender(peers.sliced_wasserstein_numpy(x, y, upstream)),
        },
        truth=peers.sliced_wasserstein_strict(
            x.double(), y.double(), upstream.double(), block=1 << 18
        )(),
        # POT's weights of 1/b do not add up to 1 in float32.
        tolerance={"value": 1e-3, "gradient": 1e-3},
        # What sorting needs depends on how; only what must be moved is counted.
        counts=Counts(read=4 * 2 * m * b, written=4 * m * b),
    )


ALL = (OURS, OURS_TWO, STRICT, NAIVE, "POT", "NumPy")
CASES = [
    Case("sliced_wasserstein", (("m", 1000), ("b", 1024)), build, ALL, quick=True),
    Case("sliced_wasserstein", (("m", 200), ("b", 50000)), build, ALL),
    *(
        Case("sliced_wasserstein", (("m", 64), ("b", b)), build, (OURS, STRICT), series="b")
        for b in (64, 512, 4096, 32768)
    ),
]


@parameters(CASES)
def test_sliced_wasserstein(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
