"""Bounds to compare with: the Renyi divergence, and Theorem 1 of the paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from dpslice import _arrays
from dpslice.accounting import _special
from dpslice.accounting._gaussian import (
    MOST_MU,
    Array,
    Ratio,
    checked_to_square,
    least_sigma,
    log_target,
)


def rdp(
    alpha: float,
    *,
    sigma: float,
    d: int,
    p: int,
    frame: str = "orthonormal",
    sensitivity: float = 1.0,
) -> float:
    r"""Exact Renyi differential privacy of one release.

    Gaussian frames, with :math:`x = \alpha(\alpha-1)\Delta^2/(d\sigma^2)`:
    :math:`-\frac{p}{2(\alpha-1)} \ln(1-x)`, infinite for x >= 1. Orthonormal frames:

    .. math:: \frac{\alpha\Delta^2 q}{2\sigma^2} + \frac{1}{\alpha-1}
              \ln {}_1F_1\Big(\frac r2; \frac d2; \frac{\alpha(\alpha-1)\Delta^2}{2\sigma^2}\Big)

    Parameters
    ----------
    alpha : float
        Order, > 1.
    sigma, d, p, frame, sensitivity
        As in `log_delta`.

    Returns
    -------
    float
        Renyi divergence of order alpha; may be infinite.

    Raises
    ------
    TypeError, ValueError
        As in `log_delta`.

    References
    ----------
    Mironov, "Renyi differential privacy", arXiv:1702.07476.
    """
    order = _arrays.real_above_one("alpha", alpha)
    ratio = checked_to_square(sigma, d, p, frame, sensitivity)
    return float(_rdp(np.array([order - 1.0]), [ratio])[0])


@np.errstate(invalid="ignore")  # 0 times infinity, at orders that are not the best
def _rdp(excess: Array, ratios: Sequence[Ratio]) -> Array:
    return np.asarray(sum(ratio.rdp(excess) for ratio in ratios) * (1.0 + 1e-12))


def _orders(highest: float, centre: float) -> tuple[Callable[[Array], Array], float, float]:
    # Orders as a function of an unbounded variable, so that both ends are resolved.
    if math.isfinite(highest):
        span = highest - 1.0
        return (lambda u: span / (1.0 + np.exp(-u))), -40.0, 36.0
    return (lambda u: np.exp(u)), centre - 30.0, centre + 30.0


def _least_over_orders(
    bound: Callable[[Array], Array], ratios: Sequence[Ratio], scale: float
) -> float:
    """Least bound(alpha - 1) over the orders at which the divergence is finite."""
    highest = min(ratio.highest_order() for ratio in ratios)
    mu = math.sqrt(sum(ratio.typical() ** 2 for ratio in ratios))
    excess, low, high = _orders(highest, 0.5 * math.log(max(scale, 1e-300)) - math.log(mu))
    _, value = _special.minimise(
        lambda u: bound(excess(u[0]))[None, :], np.array([low]), np.array([high]), tol=1e-6
    )
    return float(value[0])


def _rdp_epsilon(target: float, ratios: Sequence[Ratio]) -> float:
    def bound(excess: Array) -> Array:
        alpha = 1.0 + excess
        value = _rdp(excess, ratios) - np.log1p(1.0 / excess) - (target + np.log(alpha)) / excess
        return np.asarray(np.where(np.isnan(value), np.inf, value))

    return max(0.0, _least_over_orders(bound, ratios, -2.0 * target))


def rdp_log_delta(eps: float, ratios: Sequence[Ratio]) -> float:
    def bound(excess: Array) -> Array:
        alpha = 1.0 + excess
        value = excess * (_rdp(excess, ratios) - np.log1p(1.0 / excess) - eps) - np.log(alpha)
        return np.asarray(np.where(np.isnan(value), np.inf, value))

    return min(0.0, _least_over_orders(bound, ratios, max(2.0 * eps, 1e-6)))


def rdp_epsilon(
    delta: float | None = None,
    *,
    sigma: float,
    d: int,
    p: int,
    frame: str = "orthonormal",
    sensitivity: float = 1.0,
    log_delta: float | None = None,
) -> float:
    r"""Epsilon by way of Renyi privacy: an upper bound of `epsilon`, for comparison.

    .. math:: \min_\alpha\; RDP(\alpha) + \ln(1 - 1/\alpha) - (\ln\delta + \ln\alpha)/(\alpha - 1)

    Parameters
    ----------
    delta, sigma, d, p, frame, sensitivity, log_delta
        As in `epsilon`.

    Returns
    -------
    float
        Upper bound of epsilon, >= 0.

    Raises
    ------
    TypeError, ValueError
        As in `epsilon`.

    References
    ----------
    Canonne, Kamath, Steinke, "The discrete Gaussian for differential privacy", arXiv:2004.00010,
    Proposition 12.
    """
    target = log_target(delta, log_delta)
    ratio = checked_to_square(sigma, d, p, frame, sensitivity, least=1 / MOST_MU)
    return _rdp_epsilon(target, [ratio])


def _paper(target: float, sigma: float, d: int, p: int, sensitivity: float) -> tuple[float, float]:
    # Theorem 1 at its best order: alpha - 1 and epsilon. With H the highest order, d s^2 - a^2 + a
    # is (H - a)(a + H - 1), a product without cancellation.
    s = sigma / sensitivity
    span = 2.0 * d * s * s / (1.0 + math.sqrt(1.0 + 4.0 * d * s * s))  # H - 1

    def bound(u: Array) -> Array:
        excess, rest = span / (1.0 + np.exp(-u)), span / (1.0 + np.exp(u))
        return np.asarray(
            0.5 * p * (1.0 + excess) / (rest * (1.0 + excess + span)) - target / excess
        )

    u, value = _special.minimise(bound, np.array([-60.0]), np.array([60.0]), tol=1e-9)
    return span / (1.0 + math.exp(-u[0])), float(value[0])


def _paper_arguments(d: object, p: object, sensitivity: object) -> tuple[int, int, float]:
    return (
        _arrays.positive_integer("d", d),
        _arrays.positive_integer("p", p),
        _arrays.positive_real("sensitivity", sensitivity),
    )


def paper_epsilon(
    delta: float | None = None,
    *,
    sigma: float,
    d: int,
    p: int,
    sensitivity: float = 1.0,
    log_delta: float | None = None,
) -> float:
    r"""Epsilon that Theorem 1 of the paper states: a valid but loose bound for Gaussian frames.

    .. math:: \min_\alpha\; \frac{p\,\alpha}{2 s^2 (d - g)} + \frac{\ln(1/\delta)}{\alpha - 1},
              \quad s = \sigma/\Delta,\; g = (\alpha^2 - \alpha)/s^2

    over 1 < alpha < (1 + sqrt(1 + 4 d s^2))/2.

    Parameters
    ----------
    delta, sigma, d, p, sensitivity, log_delta
        As in `epsilon`.

    Returns
    -------
    float
        Epsilon at the best alpha (`paper_alpha`); never below `rdp_epsilon` of a Gaussian frame.

    Raises
    ------
    TypeError, ValueError
        As in `epsilon`.
    """
    target = log_target(delta, log_delta)
    noise = _arrays.positive_real("sigma", sigma)
    return _paper(target, noise, *_paper_arguments(d, p, sensitivity))[1]


def paper_alpha(
    delta: float | None = None,
    *,
    sigma: float,
    d: int,
    p: int,
    sensitivity: float = 1.0,
    log_delta: float | None = None,
) -> float:
    """Order at which Theorem 1 of the paper gives its least epsilon.

    Parameters
    ----------
    delta, sigma, d, p, sensitivity, log_delta
        As in `epsilon`.

    Returns
    -------
    float
        Best alpha, > 1, to about 1e-8 (the least value is flat).

    Raises
    ------
    TypeError, ValueError
        As in `epsilon`.
    """
    target = log_target(delta, log_delta)
    noise = _arrays.positive_real("sigma", sigma)
    return 1.0 + _paper(target, noise, *_paper_arguments(d, p, sensitivity))[0]


def paper_sigma(
    epsilon: float,
    delta: float | None = None,
    *,
    d: int,
    p: int,
    sensitivity: float = 1.0,
    log_delta: float | None = None,
) -> float:
    """Noise that Theorem 1 of the paper asks for: a valid but loose bound for Gaussian frames.

    Parameters
    ----------
    epsilon, delta, d, p, sensitivity, log_delta
        As in `calibrate_sigma`.

    Returns
    -------
    float
        Sigma with ``paper_epsilon(delta, sigma=sigma, ...) <= epsilon``, rounded up.

    Raises
    ------
    TypeError, ValueError
        As in `calibrate_sigma`.
    """
    eps = _arrays.positive_real("epsilon", epsilon)
    target = log_target(delta, log_delta)
    size = _paper_arguments(d, p, sensitivity)
    guess = size[2] * math.sqrt(size[1] / size[0] * -2.0 * target) / eps
    return least_sigma(lambda x: math.log(_paper(target, x, *size)[1]), math.log(eps), guess)
