"""A whole training step: generator forward, loss, backward, Adam.

Ours is the loss as it comes; the peer is the same loss in plain torch, as users write it. Batches
are random, so what is compared is value and gradient with all rows of a small release, and for the
sampled noise of the Wasserstein loss with a sigma of almost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dpslice
import peers
from dpslice.divergences import get_divergence
from dpslice.torch import SlicedDivergence, SlicedWasserstein, SmoothedLikelihood
from harness import (
    NAIVE,
    OURS,
    OURS_TWO,
    Answer,
    Case,
    Contender,
    Group,
    Replay,
    parameters,
    two_threads,
)

ROWS, D = 20_000, 94
LATENT, HIDDEN = 32, 128
SIGMA = 0.3
BANDWIDTH, RIDGE, R_MIN = 0.5, 1e-2, get_divergence("kl").r_min

Loss = Callable[[Tensor], Tensor]


def make_release(n: int, sigma: float) -> dpslice.RowRelease:
    rows = 0.08 * np.random.default_rng(0).standard_normal((n, D))
    return dpslice.SlicingMechanism(sigma=sigma, delta=1e-6, seed=0).release(rows)


def make_generator(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(HIDDEN, D)).to(dtype)


# ------------------------------------------------------------------- the losses in plain torch


class Plain:
    """A batch of released rows and the synthetic ones, cut into slices of k columns, compared."""

    def __init__(
        self,
        release: dpslice.RowRelease,
        b: int,
        k: int,
        compare: Callable[[Tensor, Tensor], Tensor],
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.released = torch.tensor(release.projections, dtype=dtype)
        self.frame = torch.tensor(release.frame, dtype=dtype)
        self.b, self.k, self.compare = b, k, compare

    def _cut(self, values: Tensor) -> Tensor:
        return values.view(len(values), -1, self.k).transpose(0, 1)

    def __call__(self, x: Tensor) -> Tensor:
        """Return the loss of synthetic rows."""
        n = len(self.released)
        batch = self.released
        if self.b < n:
            batch = batch[torch.randint(n, (self.b,))]
        return self.compare(self._cut(batch), self._cut(x @ self.frame))


def divergence(private: Tensor, synthetic: Tensor) -> Tensor:
    return peers.density_ratio_kl(private, synthetic, BANDWIDTH, RIDGE, SIGMA, R_MIN).mean()


def likelihood(private: Tensor, synthetic: Tensor) -> Tensor:
    c, k = synthetic.shape[1:]
    return math.log(c) - 0.5 * k - peers.kernel_logsumexp(private, synthetic, SIGMA).mean()


def wasserstein(private: Tensor, synthetic: Tensor, sigma: float) -> Tensor:
    noisy = synthetic + sigma * torch.randn_like(synthetic)
    return peers.sliced_wasserstein(private.squeeze(-1), noisy.squeeze(-1)).mean()


# ------------------------------------------------------------------------------------- the step


def make_step(loss: Loss, c: int) -> Callable[[], Any]:
    generator = make_generator()
    optimizer = torch.optim.Adam(generator.parameters(), lr=1e-3)

    def step() -> None:
        optimizer.zero_grad()
        loss(generator(torch.randn(c, LATENT))).backward()
        optimizer.step()

    return step


def answer(loss: Loss, c: int, dtype: torch.dtype = torch.float32) -> Answer:
    """Loss and gradient in the generator's parameters, at its start."""
    generator = make_generator(dtype)
    z = torch.randn(c, LATENT, generator=torch.Generator().manual_seed(1)).to(dtype)
    value = loss(generator(z))
    value.backward()
    gradients = [parameter.grad for parameter in generator.parameters()]
    parts = [gradient.flatten() for gradient in gradients if gradient is not None]
    return {"value": value.detach(), "gradient": torch.cat(parts)}


def build(
    ours: Callable[..., Loss],
    k: int,
    compare: Callable[..., Tensor],
    checked_sigma: float = SIGMA,
) -> Callable[..., Group]:
    def group(b: int, c: int) -> Group:
        release, small = make_release(ROWS, SIGMA), make_release(b, checked_sigma)
        sampled = compare is wasserstein
        timed_compare = partial(compare, sigma=SIGMA) if sampled else compare
        checked_compare = partial(compare, sigma=0.0) if sampled else compare

        def library() -> Contender:
            return Contender(
                make_step(ours(release, batch_size=b, seed=0), c),
                checked=lambda: answer(ours(small, batch_size=b, seed=0), c),
            )

        def plain() -> Contender:
            return Contender(
                make_step(Plain(release, b, k, timed_compare), c),
                default_malloc=True,
                checked=lambda: answer(Plain(small, b, k, checked_compare), c),
            )

        double = torch.float64
        return Group(
            contenders={OURS: library, OURS_TWO: lambda: two_threads(library()), NAIVE: plain},
            truth=answer(Plain(small, b, k, checked_compare, double), c, double),
            # The gradient through a density ratio is ill-conditioned (bench_density_ratio.py).
            tolerance={"value": 1e-3, "gradient": 1e-1 if compare is divergence else 1e-3},
        )

    return group


CASES = [
    Case("training_step", (("b", b), ("c", c)), make, (OURS, OURS_TWO, NAIVE), None, True, name)
    for name, b, c, make in (
        (
            "SlicedDivergence",
            128,
            128,
            build(partial(SlicedDivergence, bandwidth=BANDWIDTH, ridge=RIDGE), 2, divergence),
        ),
        ("SmoothedLikelihood", 2048, 2048, build(SmoothedLikelihood, D, likelihood)),
        ("SlicedWasserstein", 2048, 2048, build(SlicedWasserstein, 1, wasserstein, 1e-5)),
    )
]


@parameters(CASES)
def test_training_step(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
