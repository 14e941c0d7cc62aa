"""Projection of rows with fresh noise. Only ours `secure` protects anybody; the rest is for speed.

The answers are random, so what is compared is the projection without noise and the noise's
deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import peers
from dpslice import kernels
from harness import (
    NAIVE,
    OURS,
    OURS_TWO,
    STRICT,
    Answer,
    Case,
    Contender,
    Counts,
    Group,
    Replay,
    parameters,
    tuned,
    two_threads,
)

SIGMA = 0.5
KEY_BYTES = 12  # of key stream for a normal number: 16 and 8 bytes make two
# What ours takes for one: whole blocks of 64 bytes for four, and vector operations, in lanes of
# float32, counted in the machine code of fast_noise and secure_noise (AVX-512, g++ 12), with what
# adds, rounds and writes them.
OWN_KEY_BYTES = 16
OWN_LANES = {"fast": 62, "secure": 109}
ROWS = (512, 2048, 8192)  # in a block of the strict peer


def data(n: int, d: int, p: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator)
    frame = torch.randn(d, p, generator=generator)
    return x / d**0.5, frame / frame.norm(dim=0)


def project_counts(n: int, d: int, p: int, noise: str) -> Counts:
    """One product and one normal number for each output; ours, secure, in float64: two lanes."""
    secure = noise == "secure"
    return Counts(
        flop=2 * n * d * p,
        key_bytes=KEY_BYTES * n * p if secure else 0,
        read=4 * (n * d + d * p),
        written=4 * n * p,
        own_products=n * d * p * (2 if secure else 1),
        own_lanes=OWN_LANES[noise] * n * p,
        own_key_bytes=OWN_KEY_BYTES * n * p if secure else 0,
    )


def build(noise: str) -> Callable[..., Group]:
    def group(n: int, d: int, p: int) -> Group:
        x, frame = data(n, d, p)
        exact = x.double() @ frame.double()

        def judged(make: Callable[[float], Callable[[], Answer]], **options: Any) -> Contender:
            def checked() -> Answer:
                residual = torch.as_tensor(make(SIGMA)()["value"]).double() - exact
                answer = {"noise": residual.square().mean().sqrt()}
                try:
                    return {**answer, "value": make(0.0)()["value"]}
                except ValueError:  # secure noise cannot be switched off
                    return answer

            return Contender(make(SIGMA), checked=checked, **options)

        def ours() -> Contender:
            return judged(lambda sigma: lambda: {"value": kernels.project(x, frame, sigma, noise)})

        def strict() -> Contender:
            fastest = tuned([peers.project_strict(x, frame, SIGMA, rows=rows) for rows in ROWS])
            judge = judged(lambda sigma: peers.project_strict(x, frame, sigma, rows=2048))
            return Contender(fastest, checked=judge.checked)

        return Group(
            contenders={
                OURS: ours,
                OURS_TWO: lambda: two_threads(ours()),
                STRICT: strict,
                NAIVE: lambda: judged(
                    lambda sigma: peers.project(x, frame, sigma), default_malloc=True
                ),
                "NumPy": lambda: judged(
                    lambda sigma: peers.project_numpy(x, frame, sigma), default_malloc=True
                ),
            },
            truth={"value": exact, "noise": torch.tensor(SIGMA)},
            # The deviation of N normal numbers is known to 1 / sqrt(2 N); six times that.
            tolerance={"value": 1e-5, "noise": 6 / (2 * n * p) ** 0.5},
            counts=project_counts(n, d, p, noise),
        )

    return group


ALL = (OURS, OURS_TWO, STRICT, NAIVE, "NumPy")
GROUPS = {noise: build(noise) for noise in ("fast", "secure")}
CASES = [
    *(
        Case(
            "project",
            (("n", n), ("d", d), ("p", p)),
            GROUPS[noise],
            ALL,
            variant=noise,
            quick=p == 94,
        )
        for noise in ("fast", "secure")
        for n, d, p in ((50000, 94, 94), (50000, 94, 376), (20000, 784, 784))
    ),
    *(
        Case(
            "project",
            (("n", n), ("d", 94), ("p", 94)),
            GROUPS["secure"],
            (OURS, STRICT),
            variant="secure",
            series="n",
        )
        for n in (1000, 10000, 100000)
    ),
    *(
        Case(
            "project",
            (("n", 20000), ("d", d), ("p", d)),
            GROUPS["secure"],
            (OURS, STRICT),
            variant="secure",
            series="d",
        )
        for d in (16, 64, 256, 1024)
    ),
]


@parameters(CASES)
def test_project(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
