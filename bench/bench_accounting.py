"""The accountant, asked what dp_accounting can answer too.

A full orthonormal block is a Gaussian mechanism, so its sigma and epsilon are the analytic ones.
"""

from __future__ import annotations

from collections.abc import Callable

import peers
from dpslice import accounting
from harness import OURS, Case, Contender, Group, Replay, parameters

EPSILON, DELTA, SIGMA = 3.0, 1e-6, 1.5


def _group(
    ours: Callable[[], float], google: str, scipy: Callable[[], float], at: tuple[float, ...]
) -> Group:
    def theirs() -> Contender:
        function = getattr(peers.imported("dp_accounting").gaussian_mechanism, google)
        return Contender(lambda: {"value": function(*at)})

    return Group(
        contenders={
            OURS: lambda: Contender(lambda: {"value": ours()}),
            "dp_accounting": theirs,
            "SciPy": lambda: Contender(lambda: {"value": scipy()}),
        },
        truth={"value": scipy()},
        tolerance={"value": 1e-3},  # dp_accounting stops its search there
    )


def calibrate_sigma(d: int) -> Group:
    return _group(
        lambda: accounting.calibrate_sigma(EPSILON, DELTA, d=d, p=d),
        "get_sigma_gaussian",
        lambda: peers.gaussian_sigma(EPSILON, DELTA),
        (EPSILON, DELTA),
    )


def epsilon(d: int) -> Group:
    return _group(
        lambda: accounting.epsilon(DELTA, sigma=SIGMA, d=d, p=d),
        "get_epsilon_gaussian",
        lambda: peers.gaussian_epsilon(DELTA, SIGMA),
        (SIGMA, DELTA),
    )


ALL = (OURS, "dp_accounting", "SciPy")
CASES = [
    Case("accounting", (("d", 94),), calibrate_sigma, ALL, variant="calibrate_sigma", quick=True),
    Case("accounting", (("d", 94),), epsilon, ALL, variant="epsilon", quick=True),
]


@parameters(CASES)
def test_accounting(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)
