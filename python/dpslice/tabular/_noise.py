"""Exact discrete Gaussian noise from the operating system's random numbers.

Only integers are drawn, compared and multiplied, so the output has exactly the stated law and no
rounding of floating-point numbers can betray the value it is added to. The rejection samplers are
those of Canonne, Kamath and Steinke, "The Discrete Gaussian for Differential Privacy",
arXiv:2004.00010, algorithms 1 to 3.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable

# Returns a uniform integer in [0, n), n given.
Below = Callable[[int], int]


def _bernoulli_exp(numerator: int, denominator: int, below: Below) -> bool:
    """Return True with probability exp(-numerator/denominator) (algorithm 1)."""
    while numerator > denominator:  # exp(-x) = exp(-1) exp(-(x - 1))
        if not _bernoulli_exp(1, 1, below):
            return False
        numerator -= denominator
    k = 1
    # Stops at k with probability x^(k-1)/(k-1)! - x^k/k!: odd stops sum up to exp(-x).
    while below(denominator * k) < numerator:
        k += 1
    return k % 2 == 1


def _discrete_laplace(scale: int, below: Below) -> int:
    """Return y with probability proportional to exp(-abs(y)/scale) (algorithm 2)."""
    while True:
        remainder = below(scale)
        if not _bernoulli_exp(remainder, scale, below):
            continue
        quotient = 0
        while _bernoulli_exp(1, 1, below):
            quotient += 1
        magnitude = remainder + scale * quotient
        negative = below(2) == 1
        if negative and magnitude == 0:
            continue  # zero must not be counted twice
        return -magnitude if negative else magnitude


def discrete_gaussian(variance: int, *, below: Below = secrets.randbelow) -> int:
    r"""Draw an integer y with probability proportional to exp(-y^2 / (2 variance)).

    Parameters
    ----------
    variance : int
        The parameter sigma^2, at least 1.
    below : callable
        Source of uniform integers in [0, n). The default is the operating system's
        cryptographic generator; tests pass a seeded one.

    Returns
    -------
    int
        One draw (algorithm 3).
    """
    scale = math.isqrt(variance) + 1
    while True:
        y = _discrete_laplace(scale, below)
        # Accept with probability exp(-(|y| - variance/scale)^2 / (2 variance)).
        numerator = (abs(y) * scale - variance) ** 2
        if _bernoulli_exp(numerator, 2 * variance * scale * scale, below):
            return y


def discrete_gaussian_tail(t: float, variance: int) -> float:
    r"""Upper bound of Pr[Y >= t] for discrete Gaussian Y.

    With sigma^2 = `variance` and integer t >= 0, the weights exp(-y^2/(2 sigma^2)) fall on
    y >= t, so their sum is at most the first plus the integral from t; and all weights together
    are at least sigma sqrt(2 pi) (Poisson summation, Fact 19 of the reference). Hence

    .. math:: \Pr[Y \ge t] \le \Pr[N(0, \sigma^2) \ge t] + e^{-t^2/(2\sigma^2)}/(\sigma\sqrt{2\pi}).

    Parameters
    ----------
    t : float
        Integer at least 0.
    variance : int
        sigma^2.

    Returns
    -------
    float
        The bound, enlarged by more than the rounding of its evaluation.
    """
    z = t / math.sqrt(variance)
    normal_tail = 0.5 * math.erfc(z / math.sqrt(2.0))
    first = math.exp(-0.5 * z * z) / math.sqrt(2.0 * math.pi * variance)
    return (normal_tail + first) * (1.0 + 1e-9)
