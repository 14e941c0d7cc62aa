"""Privacy accounting of the slicing mechanism: what a release costs, and how much noise it needs.

The mechanism publishes a random frame U (d x p) and XU + V, with V i.i.d. N(0, sigma^2). Given U it
is a Gaussian mechanism whose ratio of sensitivity to noise, mu, depends on U alone, and U has the
same law whatever the data. So every exact statement here is the analytic Gaussian profile averaged
over the law of mu; bounds (the paper's Theorem 1, RDP conversion) are offered for comparison.

``sensitivity`` is the L2 distance of two neighbouring rows: ``max_norm`` for ``zero_out``
adjacency, the diameter of the record domain for ``replace_one``. The number of rows is public.

The paper is Greenewald, Yu, Wang, Xu, "Privacy without Noisy Gradients: Slicing Mechanism for
Generative Model Training", NeurIPS 2024, arXiv:2410.19941.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Context, Decimal
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays, _special

__all__ = [
    "ADJACENCIES",
    "FRAMES",
    "SUM_ADJACENCIES",
    "Guarantee",
    "Slicing",
    "Subsample",
    "calibrate_shuffled_mu",
    "calibrate_sigma",
    "calibrate_slicing",
    "calibrate_subsampled_sigma",
    "calibrate_sums",
    "choice_range",
    "composed_delta",
    "composed_epsilon",
    "delta",
    "epsilon",
    "lemma1_not_a_guarantee",
    "log_delta",
    "numerical_loss",
    "paper_alpha",
    "paper_epsilon",
    "paper_sigma",
    "rdp",
    "rdp_epsilon",
    "shuffled_delta",
    "shuffled_epsilon",
    "slicing_guarantee",
    "subsampled_delta",
    "subsampled_epsilon",
    "sum_guarantee",
    "sum_numerical_loss",
]

FRAMES: Final = ("orthonormal", "gaussian")
ADJACENCIES: Final = ("zero_out", "replace_one")  # of a release of rows: n is visible
SUM_ADJACENCIES: Final = ("zero_out", "replace_one", "add_remove")

Array = NDArray[np.float64]

# Error of ln delta allowed for, at a value of size |ln delta|: several times what was measured
# against 50-digit arithmetic. It is added, so that a reported delta is never below the true one.
_ERROR_ABSOLUTE: Final = 2.5e-14
_ERROR_RELATIVE: Final = 5e-15
_LARGE_MU: Final = 100.0  # below, what cancels in eps/mu - mu/2 is within that allowance
_SAFE_SIGMA: Final = 1.0 + 1e-10
_MOST_MU: Final = 1e100  # its square, which epsilon is made of, is a number
_SIGMAS: Final = (1e-300, 1e300)  # beyond, sensitivity / sigma is not a normal number any more
_CHUNK: Final = 512  # rows of a batch of quadratures: bounds the memory at some ten MiB


# ------------------------------------------------------------- the law of sensitivity over noise


@dataclass(frozen=True)
class _Ratio:
    """Law of mu = sqrt(fixed^2 + scale^2 T), T ~ chi2(p), Beta(r/2, (d-r)/2), or absent.

    `shape` is (p,) or (r, d), or empty when mu is a fixed number.
    """

    fixed: float
    scale: float = 0.0
    shape: tuple[int, ...] = ()

    def typical(self) -> float:
        """Root mean square of mu."""
        mean = 0.0
        if len(self.shape) == 1:
            mean = float(self.shape[0])
        elif self.shape:
            mean = self.shape[0] / self.shape[1]
        return math.hypot(self.fixed, self.scale * math.sqrt(mean))

    def rdp(self, excess: Array) -> Array:
        """Renyi divergence at the orders 1 + excess: exact, of the mixture over mu."""
        total = 0.5 * (1.0 + excess) * self.fixed**2
        exponent = 0.5 * (1.0 + excess) * excess * self.scale**2
        if len(self.shape) == 1:
            inside = np.minimum(2.0 * exponent * (1.0 + 1e-15), 1.0)
            with np.errstate(divide="ignore"):
                total = total - 0.5 * self.shape[0] / excess * np.log1p(-inside)
        elif self.shape:
            r, d = self.shape
            logs = [_special.log_1f1(0.5 * r, 0.5 * d, float(z)) for z in exponent]
            total = total + np.array(logs) / excess
        return np.asarray(total)

    def highest_order(self) -> float:
        """Order below which the Renyi divergence is finite."""
        if len(self.shape) == 1:
            return 0.5 * (1.0 + math.sqrt(1.0 + 4.0 / self.scale**2))
        return math.inf


def _ratio(*, sigma: float, d: int, p: int, frame: str, sensitivity: float) -> _Ratio:
    noise = sensitivity / sigma
    if frame == "gaussian":
        return _Ratio(0.0, noise / math.sqrt(d), (p,))
    q, r = divmod(p, d)
    return _Ratio(noise * math.sqrt(q), noise, (r, d)) if r else _Ratio(noise * math.sqrt(q))


@np.errstate(over="ignore")  # far from the mode, where the density is 0 or mu infinite
def _average(
    log_f: Callable[[Array, Array], Array], epsilon: Array, ratio: _Ratio, *, deep: bool
) -> Array:
    # ln E exp(log_f(epsilon, mu)); deep: the integrand may sit where mu is tiny, not only large.
    c = ratio.scale
    column = epsilon[:, None]
    log_c = math.log(c)
    if len(ratio.shape) == 1:
        (p,) = ratio.shape
        half = 0.5 * math.log(p)

        def log_chi(y: Array) -> Array:
            mu = np.hypot(ratio.fixed, c * np.exp(y + half))
            return _special.chi_log_density(y, p) + log_f(column, mu)

        # A large loss pits a normal tail in eps/mu against the chi tail: sqrt(S) near sqrt(eps/c).
        # Downwards the density falls as e^(py), and the profile falls as well.
        with np.errstate(divide="ignore"):
            far = 0.5 * (np.log(np.maximum(epsilon, 0.0)) - log_c) - half
        high = np.maximum(0.0, far) + 3.0
        low = max(-200.0, min(0.0, -log_c - half)) if deep else 0.0
        start = np.full_like(epsilon, low - 3.0 - 45.0 / p)
        return _special.log_integral(log_chi, start, high)
    r, d = ratio.shape
    odds = math.log(r / (d - r))

    def log_beta(y: Array) -> Array:
        density, value = _special.beta_log_density(y, 0.5 * r, 0.5 * (d - r))
        return density + log_f(column, np.hypot(ratio.fixed, c * np.sqrt(value)))

    # Towards B = 0 the density falls as e^(ry/2); before that, as exp(-(d-r) e^-y / 2).
    low = (max(-200.0, min(0.0, -2.0 * log_c - odds)) if deep else 0.0) - 120.0 / r
    low -= 3.0 + max(0.0, math.log(120.0 / (d - r)))
    high = np.full_like(epsilon, max(odds, 0.0) - odds + 120.0 / (d - r) + 40.0)
    return _special.log_integral(log_beta, np.full_like(epsilon, low), high)


def _log_profile(epsilon: Array, ratio: _Ratio) -> Array:
    """Upper bound of ln delta at each epsilon >= 0, above the truth by rounding only."""
    if ratio.scale == 0.0 or not ratio.shape:
        value = _special.log_gaussian_profile(epsilon, ratio.fixed)
    elif not math.isfinite(ratio.scale):
        value = np.zeros_like(epsilon)
    else:
        value = np.full_like(epsilon, -np.inf)
        finite = np.flatnonzero(np.isfinite(epsilon))
        for start in range(0, finite.size, _CHUNK):
            some = finite[start : start + _CHUNK]
            value[some] = _average(_special.log_gaussian_profile, epsilon[some], ratio, deep=False)
        near_one = np.flatnonzero(value > -0.1)
        if near_one.size:
            # 1 - delta is small there, and ln delta would keep only its absolute accuracy.
            rest = _average(_special.log_gaussian_complement, epsilon[near_one], ratio, deep=True)
            value[near_one] = np.log1p(-np.exp(np.minimum(rest, 0.0)))
    size = np.abs(np.where(np.isfinite(value), value, 0.0))
    slack = np.minimum(_ERROR_ABSOLUTE, 1e-12 * size) + _ERROR_RELATIVE * size
    mu = ratio.typical()
    if _LARGE_MU < mu < math.inf:
        slack = slack + _large_mu_slack(epsilon, mu, fixed=ratio.scale == 0.0 or not ratio.shape)
    return np.asarray(np.minimum(value + slack, 0.0))


def _large_mu_slack(epsilon: Array, mu: float, *, fixed: bool) -> Array:
    """Bound the further error of ln delta where A = eps/mu - mu/2 cancels."""
    if not fixed:
        # Averages: the profile is a step of relative width 1/mu then, and a grid may miss it.
        return np.full_like(epsilon, 3e-11 * mu + (1e-3 if mu > 1e4 else 0.0))
    # ln delta moves by the inverse of Mills' ratio times as much as A; where A < 0, by no more than
    # the normal density.
    term = np.where(np.isfinite(epsilon), epsilon, 0.0) / mu
    a = np.clip(term - 0.5 * mu, -40.0, 1e6)
    steepness = np.where(a > 0.0, a + 1.0, np.exp(-0.5 * a**2))
    return np.asarray(2.0**-51 * np.minimum(term, 1e100) * steepness)


def _log_profile_signed(epsilon: Array, ratio: _Ratio) -> Array:
    """Extend `_log_profile` to any real epsilon: delta(eps) = 1 - e^eps + e^eps delta(-eps)."""
    flat = np.ravel(epsilon)
    value = _log_profile(np.abs(flat), ratio)
    below = flat < 0.0
    with np.errstate(divide="ignore"):
        value[below] = np.log(-np.expm1(flat[below]) + np.exp(flat[below] + value[below]))
    return np.asarray(np.minimum(value, 0.0).reshape(np.shape(epsilon)))


def _log_loss_tail(epsilon: Array, ratio: _Ratio) -> Array:
    """Ln of the probability that the privacy loss exceeds epsilon; any real epsilon."""
    if ratio.scale == 0.0 or not ratio.shape:
        return _special.log_gaussian_loss_tail(epsilon, ratio.fixed)
    value = np.where(epsilon > 0.0, -np.inf, 0.0)
    finite = np.flatnonzero(np.isfinite(epsilon))
    for start in range(0, finite.size, _CHUNK):
        some = finite[start : start + _CHUNK]
        value[some] = _average(_special.log_gaussian_loss_tail, epsilon[some], ratio, deep=False)
    return value


# --------------------------------------------------------------------------- inverse problems


def _least_epsilon(log_f: Callable[[float], float], target: float, guess: float) -> float:
    """Least epsilon >= 0 with log_f(epsilon) <= target, log_f falling; never below it."""

    @functools.cache  # the root is looked at twice
    def f(x: float) -> float:
        return log_f(x) - target

    low, f_low = 0.0, f(0.0)
    if f_low <= 0.0:
        return 0.0
    high = max(guess, 1e-12)
    f_high = f(high)
    # Close in on the root from the guess, by ever longer steps.
    factor = 1.05
    while f_high > 0.0:
        low, f_low = high, f_high
        high, factor = high * factor, factor**2
        f_high = f(high)
    factor = 1.05
    while low == 0.0 and factor < 1e6:
        lower = high / factor
        f_lower = f(lower)
        if f_lower > 0.0:
            low, f_low = lower, f_lower
        else:
            high, f_high, factor = lower, f_lower, factor**2
    root = _special.brent(f, low, high, f_low, f_high)
    step = 4.0 * sys.float_info.epsilon
    while f(root) > 0.0:
        root, step = root * (1.0 + step), 2.0 * step
    return root


def _checked_log_sigma(last: float, wanted: float) -> float:
    """Return `wanted`, moved into the range of sigma; or raise where `last` was its end."""
    log_sigma = min(max(wanted, math.log(_SIGMAS[0])), math.log(_SIGMAS[1]))
    if log_sigma == last:
        where = "below" if wanted < last else "above"
        raise ValueError(
            "epsilon, delta and sensitivity must be such that sigma is between "
            f"{_SIGMAS[0]:g} and {_SIGMAS[1]:g}; it would be {where}"
        )
    return log_sigma


def _least_sigma(log_f: Callable[[float], float], target: float, guess: float) -> float:
    """Least sigma with log_f(sigma) <= target, log_f falling; times 1 + 1e-10 and verified."""

    def f(x: float) -> float:
        return log_f(math.exp(x)) - target

    # Where the guess leaves the number range, the answer need not.
    low = high = math.log(min(max(guess, _SIGMAS[0]), _SIGMAS[1]))
    f_low = f_high = f(low)
    step = 1e-2
    while f_high > 0.0:
        low, f_low = high, f_high
        high, step = _checked_log_sigma(high, high + step), 2.0 * step
        f_high = f(high)
    step = 1e-2
    while f_low <= 0.0:
        high, f_high = low, f_low
        low, step = _checked_log_sigma(low, low - step), 2.0 * step
        f_low = f(low)
    sigma = math.exp(_special.brent(f, low, high, f_low, f_high)) * _SAFE_SIGMA
    while log_f(sigma) > target:
        sigma *= _SAFE_SIGMA
    return sigma


def _gaussian_epsilon(target: float, mu: float) -> float:
    """Epsilon of the Gaussian mechanism with a fixed ratio: where the other laws start."""
    ratio = _Ratio(mu)
    return _least_epsilon(
        lambda x: _scalar(x, ratio), target, 0.5 * mu * mu + mu * math.sqrt(-2.0 * target)
    )


def _gaussian_mu(epsilon: float, target: float) -> float:
    """Ratio at which the Gaussian mechanism has this epsilon and delta."""
    # mu^2/2 + mu s = epsilon, the tail bound of the profile, solved without cancellation
    s = math.sqrt(-2.0 * target)
    twice = min(2.0 * epsilon, sys.float_info.max)
    guess = (s + math.sqrt(s * s + twice)) / twice
    return 1.0 / _least_sigma(lambda x: _scalar(epsilon, _Ratio(1.0 / x)), target, guess)


def _scalar(epsilon: float, ratio: _Ratio) -> float:
    return float(_log_profile(np.array([epsilon]), ratio)[0])


def _log_target(delta: float | None, log_delta: float | None) -> float:
    if (delta is None) == (log_delta is None):
        raise ValueError("exactly one of delta and log_delta must be given")
    if delta is not None:
        return math.log(_arrays.open_unit("delta", delta))
    return _arrays.negative_real("log_delta", log_delta)


def _checked(sigma: object, d: object, p: object, frame: object, sensitivity: object) -> _Ratio:
    return _ratio(
        sigma=_arrays.positive_real("sigma", sigma),
        d=_arrays.positive_integer("d", d),
        p=_arrays.positive_integer("p", p),
        frame=_arrays.choice("frame", frame, FRAMES),
        sensitivity=_arrays.positive_real("sensitivity", sensitivity),
    )


def _checked_to_square(
    sigma: object,
    d: object,
    p: object,
    frame: object,
    sensitivity: object,
    *,
    least: float = 0.0,
) -> _Ratio:
    """Check arguments as `_checked` does, for what is of the size of the ratio's square."""
    ratio = _checked(sigma, d, p, frame, sensitivity)
    if not least <= ratio.typical() <= _MOST_MU:
        raise ValueError(
            "sigma must not be so far from sensitivity that the square of their ratio leaves the "
            f"number range; got sigma = {sigma} and sensitivity = {sensitivity}"
        )
    return ratio


# ------------------------------------------------------------------- exact epsilon, delta, sigma


def log_delta(
    epsilon: float,
    *,
    sigma: float,
    d: int,
    p: int,
    frame: str = "orthonormal",
    sensitivity: float = 1.0,
) -> float:
    r"""Natural logarithm of the exact delta of one release.

    With :math:`\delta_G(\epsilon; \mu)` the profile of the Gaussian mechanism,

    .. math:: \delta(\epsilon) = E\,\delta_G(\epsilon; (\Delta/\sigma) \sqrt{T}),

    where T = S/d, S ~ chi2(p), for Gaussian frames; for orthonormal ones, with p = q d + r,
    T = q + B, B ~ Beta(r/2, (d-r)/2), and T = q if r = 0. Every pair of rows at distance Delta
    attains it.

    Parameters
    ----------
    epsilon : float
        Privacy parameter, >= 0.
    sigma : float
        Standard deviation of the noise, in the unit of the data.
    d : int
        Features.
    p : int
        Released columns.
    frame : {"orthonormal", "gaussian"}
        Law of the random projection.
    sensitivity : float, default 1.0
        L2 distance Delta of two neighbouring rows, in the unit of the data.

    Returns
    -------
    float
        ln delta; ``-inf`` if even that is below the range of floats. Above the truth by about
        1e-14 (1 + |ln delta|), never below it.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range.
    """
    ratio = _checked(sigma, d, p, frame, sensitivity)
    return _scalar(_arrays.nonnegative_real("epsilon", epsilon), ratio)


def delta(
    epsilon: float,
    *,
    sigma: float,
    d: int,
    p: int,
    frame: str = "orthonormal",
    sensitivity: float = 1.0,
) -> float:
    """Exact delta of one release at a given epsilon.

    Parameters
    ----------
    epsilon : float
        Privacy parameter, >= 0.
    sigma, d, p, frame, sensitivity
        As in `log_delta`.

    Returns
    -------
    float
        delta, in [0, 1]. Where it underflows to 0, `log_delta` still tells.

    Raises
    ------
    TypeError, ValueError
        As in `log_delta`.

    Examples
    --------
    >>> f"{delta(3.0, sigma=2.0, d=30, p=60):.6e}"
    '7.099143e-06'
    """
    value = log_delta(epsilon, sigma=sigma, d=d, p=p, frame=frame, sensitivity=sensitivity)
    return math.exp(value)


def epsilon(
    delta: float | None = None,
    *,
    sigma: float,
    d: int,
    p: int,
    frame: str = "orthonormal",
    sensitivity: float = 1.0,
    log_delta: float | None = None,
) -> float:
    """Exact epsilon of one release at a given delta.

    Parameters
    ----------
    delta : float
        Privacy parameter, 0 < delta < 1.
    sigma, d, p, frame, sensitivity
        As in `log_delta`.
    log_delta : float, optional
        ln delta, instead of `delta`.

    Returns
    -------
    float
        The least epsilon >= 0 with delta(epsilon) <= delta, rounded up; exactly 0 if 0 will do.

    Raises
    ------
    TypeError, ValueError
        As in `log_delta`; and if not exactly one of `delta` and `log_delta` is given.
    """
    target = _log_target(delta, log_delta)
    return _epsilon(target, _checked_to_square(sigma, d, p, frame, sensitivity))


def _epsilon(target: float, ratio: _Ratio) -> float:
    guess = _gaussian_epsilon(target, ratio.typical())
    if not ratio.shape:
        return guess
    return _least_epsilon(lambda x: _scalar(x, ratio), target, guess)


def calibrate_sigma(
    epsilon: float,
    delta: float | None = None,
    *,
    d: int,
    p: int,
    frame: str = "orthonormal",
    sensitivity: float = 1.0,
    log_delta: float | None = None,
) -> float:
    """Noise that one release needs for a given epsilon and delta.

    Parameters
    ----------
    epsilon : float
        Privacy parameter, > 0.
    delta : float
        Privacy parameter, 0 < delta < 1.
    d, p, frame, sensitivity
        As in `log_delta`.
    log_delta : float, optional
        ln delta, instead of `delta`.

    Returns
    -------
    float
        The least sufficient sigma, in the unit of the data, times 1 + 1e-10, with
        ``delta(epsilon, sigma) <= delta`` verified.

    Raises
    ------
    TypeError, ValueError
        As in `log_delta`; and if not exactly one of `delta` and `log_delta` is given.
    """
    eps = _arrays.positive_real("epsilon", epsilon)
    target = _log_target(delta, log_delta)
    unit = _checked(1.0, d, p, frame, sensitivity)  # mu at sigma = 1; it falls as 1/sigma

    def log_f(sigma: float) -> float:
        scaled = _Ratio(unit.fixed / sigma, unit.scale / sigma, unit.shape)
        return _scalar(eps, scaled)

    return _least_sigma(log_f, target, unit.typical() / _gaussian_mu(eps, target))


# ------------------------------------------------------------- Renyi divergence, reference bounds


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
    ratio = _checked_to_square(sigma, d, p, frame, sensitivity)
    return float(_rdp(np.array([order - 1.0]), [ratio])[0])


def _rdp(excess: Array, ratios: Sequence[_Ratio]) -> Array:
    return np.asarray(sum(ratio.rdp(excess) for ratio in ratios) * (1.0 + 1e-12))


def _orders(highest: float, centre: float) -> tuple[Callable[[Array], Array], float, float]:
    # Orders as a function of an unbounded variable, so that both ends are resolved.
    if math.isfinite(highest):
        span = highest - 1.0
        return (lambda u: span / (1.0 + np.exp(-u))), -40.0, 36.0
    return (lambda u: np.exp(u)), centre - 30.0, centre + 30.0


def _least_over_orders(
    bound: Callable[[Array], Array], ratios: Sequence[_Ratio], scale: float
) -> float:
    """Least bound(alpha - 1) over the orders at which the divergence is finite."""
    highest = min(ratio.highest_order() for ratio in ratios)
    mu = math.sqrt(sum(ratio.typical() ** 2 for ratio in ratios))
    excess, low, high = _orders(highest, 0.5 * math.log(max(scale, 1e-300)) - math.log(mu))
    _, value = _special.minimise(
        lambda u: bound(excess(u[0]))[None, :], np.array([low]), np.array([high]), tol=1e-6
    )
    return float(value[0])


def _rdp_epsilon(target: float, ratios: Sequence[_Ratio]) -> float:
    def bound(excess: Array) -> Array:
        alpha = 1.0 + excess
        value = _rdp(excess, ratios) - np.log1p(1.0 / excess) - (target + np.log(alpha)) / excess
        return np.asarray(np.where(np.isnan(value), np.inf, value))

    return max(0.0, _least_over_orders(bound, ratios, -2.0 * target))


def _rdp_log_delta(eps: float, ratios: Sequence[_Ratio]) -> float:
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
    target = _log_target(delta, log_delta)
    ratio = _checked_to_square(sigma, d, p, frame, sensitivity, least=1 / _MOST_MU)
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
    target = _log_target(delta, log_delta)
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
    target = _log_target(delta, log_delta)
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
    target = _log_target(delta, log_delta)
    size = _paper_arguments(d, p, sensitivity)
    guess = size[2] * math.sqrt(size[1] / size[0] * -2.0 * target) / eps
    return _least_sigma(lambda x: math.log(_paper(target, x, *size)[1]), math.log(eps), guess)


# ---------------------------------------------------------------------------------- composition


@dataclass(frozen=True, kw_only=True)
class Slicing:
    """One release among several of the same rows, for `composed_delta` and `composed_epsilon`.

    Attributes
    ----------
    sigma : float
        Standard deviation of the noise, in the unit of the data.
    d, p : int
        Features and released columns.
    frame : {"orthonormal", "gaussian"}
        Law of the random projection. Every release draws its own frame.
    sensitivity : float, default 1.0
        L2 distance of two neighbouring rows, in the unit of the data.
    """

    sigma: float
    d: int
    p: int
    frame: str = "orthonormal"
    sensitivity: float = 1.0

    def __post_init__(self) -> None:
        self._ratio()

    def _ratio(self) -> _Ratio:
        return _checked(self.sigma, self.d, self.p, self.frame, self.sensitivity)


def _merged(parts: Sequence[Slicing]) -> tuple[float, list[_Ratio]]:
    """Sum of the squared ratios: the fixed part's root, and the random parts, as few as can be."""
    fixed, random = 0.0, []
    columns: dict[float, int] = {}
    for part in parts:
        ratio = part._ratio()
        fixed = math.hypot(fixed, ratio.fixed)
        if len(ratio.shape) == 1:
            columns[ratio.scale] = columns.get(ratio.scale, 0) + ratio.shape[0]
        elif ratio.shape:
            random.append(_Ratio(0.0, ratio.scale, ratio.shape))
    random.extend(_Ratio(0.0, scale, (p,)) for scale, p in columns.items())
    return fixed, random


def _dominating(fixed: float, random: Sequence[_Ratio]) -> _Ratio:
    """One law of mu that is above the sum of several: delta rises with mu, so it is a bound."""
    if not random:
        return _Ratio(fixed)
    chi = [ratio for ratio in random if len(ratio.shape) == 1]
    beta = sorted((ratio for ratio in random if len(ratio.shape) == 2), key=lambda x: x.scale)
    if chi:
        keep = _Ratio(0.0, max(x.scale for x in chi), (sum(x.shape[0] for x in chi),))
    else:
        keep = beta.pop()
    # A Beta variable is at most 1.
    fixed = math.hypot(fixed, *(x.scale for x in beta))
    return _Ratio(fixed, keep.scale, keep.shape)


def _checked_parts(parts: Sequence[Slicing]) -> tuple[Slicing, ...]:
    if isinstance(parts, Slicing):
        raise TypeError("parts must be a sequence of Slicing; got one Slicing")
    parts = tuple(parts)
    if not parts:
        raise ValueError("parts must hold at least one Slicing; got none")
    for part in parts:
        if not isinstance(part, Slicing):
            raise TypeError(f"parts must hold Slicing objects; got {type(part).__name__}")
    return parts


def _checked_others(others: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    checked = []
    for pair in others:
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2):
            raise TypeError(
                f"others must hold pairs (epsilon, delta); got {_arrays.describe(pair)}"
            )
        eps = _arrays.nonnegative_real("epsilon of a pair in others", pair[0])
        dlt = _arrays.nonnegative_real("delta of a pair in others", pair[1])
        if dlt >= 1.0:
            raise ValueError(f"delta of a pair in others must be below 1; got {dlt}")
        checked.append((eps, dlt))
    return checked


_MOST_OTHERS: Final = 8  # 2^8 patterns of signs at most


def _composed(
    parts: Sequence[Slicing], others: Sequence[tuple[float, float]]
) -> tuple[Callable[[float], float], float]:
    """Log-delta of everything together, as a function of epsilon, and a typical mu."""
    fixed, random = _merged(parts)
    law = _dominating(fixed, random)
    mu = law.typical()
    exact = len(random) <= 1

    # An (e, d)-DP mechanism is dominated by one that fails with probability d and otherwise
    # answers at random, with a loss of +e or -e, at odds e^e to 1 (Kairouz, Oh, Viswanath 2015).
    # The smallest of too many are just added up, which is what their losses are at most.
    pairs = sorted(others)
    few = max(0, len(pairs) - (_MOST_OTHERS if exact else _MOST_OTHERS // 3))
    losses, log_weights = np.array([math.fsum(e for e, _ in pairs[:few])]), np.zeros(1)
    for e, _ in pairs[few:]:
        log_up, log_down = -math.log1p(math.exp(-e)), -e - math.log1p(math.exp(-e))
        losses = np.concatenate([losses + e, losses - e])
        log_weights = np.concatenate([log_weights + log_up, log_weights + log_down])
    log_survival = math.fsum(math.log1p(-dlt) for _, dlt in pairs)

    def log_base(eps: Array) -> Array:
        value = _log_profile_signed(eps, law)
        if not exact:
            every = [_Ratio(fixed), *random] if fixed > 0.0 else random
            for i in np.flatnonzero(eps > 0.0):
                value[i] = min(value[i], _rdp_log_delta(float(eps[i]), every))
        return value

    def log_f(eps: float) -> float:
        total = float(np.logaddexp.reduce(log_base(eps - losses) + log_weights))
        if not pairs:
            return total
        # 1 - (1 - failures)(1 - delta), never above 1
        failure = -math.expm1(log_survival)
        whole = failure + math.exp(log_survival + total)
        return min(0.0, math.log(whole) + _ERROR_ABSOLUTE) if whole > 0.0 else -math.inf

    return log_f, mu


def composed_delta(
    epsilon: float,
    parts: Sequence[Slicing],
    *,
    others: Sequence[tuple[float, float]] = (),
) -> float:
    """Delta of several releases of the same rows, and of other mechanisms, together.

    Given the frames, the squared ratios of the releases add up. Exact if at most one random term
    is left after merging: full orthonormal blocks are fixed numbers, Gaussian frames with equal
    ``sensitivity / (sigma sqrt d)`` are one chi-squared variable with the columns of all, and one
    partial block is one Beta variable. Otherwise an upper bound: the smaller of two, a law that
    is above the sum (chi-squared terms at the largest scale, Beta terms at 1), and Renyi
    composition of the exact divergences.

    Parameters
    ----------
    epsilon : float
        Privacy parameter, >= 0.
    parts : sequence of Slicing
        The releases; their parameters must not depend on the data or on other outputs.
    others : sequence of (epsilon, delta), optional
        Other differentially private mechanisms on the same records under the same adjacency.
        The bound is the best that holds for every mechanism with these parameters.

    Returns
    -------
    float
        Delta of the whole.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range, or there is nothing to compose.
    """
    eps = _arrays.nonnegative_real("epsilon", epsilon)
    parts, pairs = _checked_parts(parts), _checked_others(others)
    return math.exp(_composed(parts, pairs)[0](eps))


def composed_epsilon(
    delta: float | None,
    parts: Sequence[Slicing],
    *,
    others: Sequence[tuple[float, float]] = (),
    log_delta: float | None = None,
) -> float:
    """Epsilon of several releases of the same rows, and of other mechanisms, together.

    Parameters
    ----------
    delta : float
        Privacy parameter of the whole, 0 < delta < 1; above the deltas of `others` together.
    parts, others
        As in `composed_delta`, with the same statement of when the answer is exact.
    log_delta : float, optional
        ln delta, instead of `delta`.

    Returns
    -------
    float
        Epsilon of the whole, rounded up.

    Raises
    ------
    TypeError, ValueError
        As in `composed_delta`; and if the deltas of `others` already exceed `delta`.
    """
    target = _log_target(delta, log_delta)
    parts, pairs = _checked_parts(parts), _checked_others(others)
    failure = -math.expm1(math.fsum(math.log1p(-dlt) for _, dlt in pairs))
    if failure > 0.0 and math.log(failure) + 2.0 * _ERROR_ABSOLUTE >= target:
        raise ValueError(
            "delta must exceed what the other mechanisms need together;"
            f" got {math.exp(target)} and {failure}"
        )
    log_f, mu = _composed(parts, pairs)
    guess = _gaussian_epsilon(target, mu) + math.fsum(e for e, _ in pairs)
    return _least_epsilon(log_f, target, guess)


# ----------------------------------------------------------------------------------- subsampling


@dataclass(frozen=True, kw_only=True)
class Subsample:
    """How rows are drawn before a release; the number of rows of the table is public.

    Attributes
    ----------
    n : int
        Rows of the table. For ``add_remove`` adjacency: a public lower bound of it.
    size : int, optional
        Rows drawn uniformly without replacement; fixed in advance. Exactly one of `size` and
        `rate` must be given.
    rate : float, optional
        Probability with which each row is drawn by itself (Poisson); the count is then revealed.
    order : {"permuted", "kept"}
        Whether the rows drawn are permuted uniformly at random before they are released, and the
        indices and the permutation forgotten. If not, only delta shrinks.
    """

    n: int
    size: int | None = None
    rate: float | None = None
    order: str = "permuted"

    def __post_init__(self) -> None:
        _arrays.positive_integer("n", self.n)
        if (self.size is None) == (self.rate is None):
            raise ValueError("exactly one of size and rate must be given")
        if self.size is not None and _arrays.positive_integer("size", self.size) > self.n:
            raise ValueError(f"size must be at most n = {self.n}; got {self.size}")
        if self.rate is not None and _arrays.positive_real("rate", self.rate) > 1.0:
            raise ValueError(f"rate must be at most 1; got {self.rate}")
        _arrays.choice("order", self.order, ("permuted", "kept"))

    @property
    def fraction(self) -> float:
        """Expected share of the rows that is drawn."""
        return self.size / self.n if self.size is not None else float(self.rate or 0.0)


@dataclass(frozen=True)
class _Base:
    """Release of the rows drawn: the laws of mu for replacement at D and for a move by C."""

    far: _Ratio
    near: _Ratio
    adjacency: str
    sample: Subsample

    def at(self, sigma: float) -> _Base:
        def scaled(x: _Ratio) -> _Ratio:
            return _Ratio(x.fixed / sigma, x.scale / sigma, x.shape)

        return dataclasses.replace(self, far=scaled(self.far), near=scaled(self.near))

    def log_delta(self, eps: float) -> float:
        sample = self.sample
        if sample.order == "kept":
            law = self.near if self.adjacency == "zero_out" else self.far
            return min(0.0, math.log(sample.fraction) + _scalar(eps, law))
        if sample.size is not None or sample.rate == 1.0:
            return float(self._fixed(eps, np.array([sample.fraction]))[0])
        return self._poisson(eps)

    def _fixed(self, eps: float, t: Array) -> Array:
        """Log-delta when a fixed share t of the rows is drawn, for several t at once."""
        if self.adjacency == "zero_out":
            return self._fixed_zero_out(eps, t)
        return np.log(t) + _log_profile(_base_epsilon(eps, t), self.far)

    def _fixed_zero_out(self, eps: float, t: Array) -> Array:
        # Advanced joint convexity (Balle, Barthe, Gaboardi 2018, Theorem 2); convex in w.
        with np.errstate(divide="ignore"):
            log_gain = eps + np.log(-np.expm1(-np.float64(eps)))  # ln(e^eps - 1)
            offset = np.log1p(-t) - np.log(t) + log_gain

        def arguments(u: Array) -> tuple[Array, Array, Array, Array]:
            log_w, log_rest = -np.logaddexp(0.0, -u), -np.logaddexp(0.0, u)
            return log_w, log_rest, offset - log_rest, eps - log_w

        def slope(u: Array) -> Array:
            # d/dw [w delta(eps - ln w)] is the chance that the loss exceeds eps - ln w.
            _, _, far, near = arguments(u)
            return _log_loss_tail(near, self.near) - _log_loss_tail(far, self.far)

        ends = np.full(t.size, 30.0)
        u = _special.roots(slope, -ends, ends, tol=1e-5)
        log_w, log_rest, far, near = arguments(u)
        replaced = log_rest + _log_profile_signed(far, self.far)
        moved = log_w + _log_profile_signed(near, self.near)
        value = np.logaddexp(replaced, moved)  # an upper bound at any w, least at this one
        always = _log_profile(np.full(t.size, eps), self.near)  # w = 1
        return np.asarray(np.log(t) + np.minimum(value, always))

    def _poisson(self, eps: float) -> float:
        counts, log_weights, log_omitted = _binomial(self.sample.n, self.sample.fraction)
        drawn = counts > 0
        counts, log_weights = counts[drawn], log_weights[drawn]
        values = _interpolated(lambda t: self._fixed(eps, t), counts / self.sample.n)
        total = float(np.logaddexp.reduce(log_weights + values))
        return min(0.0, float(np.logaddexp(total, log_omitted)) + _ERROR_ABSOLUTE)


def _base_epsilon(eps: float, t: Array) -> Array:
    """Solve eps = ln(1 + t (e^x - 1)) for x; no overflow for large eps, no cancellation near 0."""
    if eps < 1.0:
        return np.asarray(np.log1p(math.expm1(eps) / t))
    return np.asarray(eps + np.log1p(-(1.0 - t) * math.exp(-eps)) - np.log(t))


def _binomial(n: int, t: float) -> tuple[Array, Array, float]:
    """List counts k, ln Pr[Bin(n, t) = k] where it matters, and the log of what is left out."""
    if t <= 0.0:
        return np.zeros(1), np.zeros(1), -math.inf
    mode = min(n, int((n + 1) * t))
    half = 64 + int(12.0 * math.sqrt(n * t * (1.0 - t)))
    while True:
        k = np.arange(max(0, mode - half), min(n, mode + half) + 1, dtype=np.float64)
        steps = np.log((n - k[:-1]) / (k[:-1] + 1.0)) + (math.log(t) - math.log1p(-t))
        log_weights = np.concatenate([[0.0], np.cumsum(steps)])
        log_weights -= np.logaddexp.reduce(log_weights)
        # Beyond an end the weights fall faster than geometrically, at the last ratio.
        omitted = [-math.inf]
        if k[0] > 0:
            omitted.append(log_weights[0] - math.log(-math.expm1(-steps[0])))
        if k[-1] < n:
            omitted.append(log_weights[-1] - math.log(-math.expm1(steps[-1])))
        if max(omitted) < -70.0:  # 4e-31
            return k, log_weights, float(np.logaddexp.reduce(omitted))
        half *= 2


def _interpolated(f: Callable[[Array], Array], t: Array) -> Array:
    """Evaluate f, smooth in ln t, at many t: by Chebyshev interpolation where that is exact.

    The result is raised by the error seen. Where it does not converge (the best w of the zero_out
    rule may change its kind), f is evaluated point by point.
    """
    if t.size <= 128:
        return f(t)
    low, high = math.log(t[0]), math.log(t[-1])
    x = np.clip((2.0 * np.log(t) - low - high) / (high - low), -1.0, 1.0)
    previous = None
    for degree in (16, 32, 64):
        nodes = np.cos(math.pi * np.arange(degree + 1) / degree)
        at = np.exp(0.5 * (low + high + (high - low) * nodes))
        values = f(np.minimum(at, 1.0))
        if not np.isfinite(values).all():
            break
        series = np.polynomial.chebyshev.Chebyshev(
            np.polynomial.chebyshev.chebfit(nodes, values, degree)
        )
        current = np.asarray(series(x))
        if previous is not None:
            error = float(np.abs(current - previous).max())
            if error <= 1e-10:
                return np.asarray(np.minimum(current + error, 0.0))
        previous = current
    return np.concatenate([f(t[i : i + _CHUNK]) for i in range(0, t.size, _CHUNK)])


def _subsampled(
    sample: object,
    adjacency: object,
    sigma: object,
    d: object,
    p: object,
    frame: object,
    max_norm: object,
    diameter: object,
) -> _Base:
    if not isinstance(sample, Subsample):
        raise TypeError(f"sample must be a Subsample; got {type(sample).__name__}")
    kind = _arrays.choice("adjacency", adjacency, SUM_ADJACENCIES)
    if kind == "add_remove" and sample.rate is not None:
        raise ValueError(
            "adjacency add_remove needs a fixed sample size: the number of rows that a rate"
            " draws depends on the number of rows of the table; got rate"
        )
    if kind == "add_remove" and sample.order == "kept":
        raise ValueError("adjacency add_remove needs order='permuted'; got 'kept'")
    norm = _arrays.positive_real("max_norm", max_norm)
    wide = 2.0 * norm if diameter is None else _arrays.positive_real("diameter", diameter)
    return _Base(
        far=_checked(sigma, d, p, frame, wide),
        near=_checked(sigma, d, p, frame, norm),
        adjacency=kind,
        sample=sample,
    )


def subsampled_delta(
    epsilon: float,
    *,
    sample: Subsample,
    sigma: float,
    d: int,
    p: int,
    frame: str = "orthonormal",
    adjacency: str = "zero_out",
    max_norm: float = 1.0,
    diameter: float | None = None,
) -> float:
    r"""Delta of a release of a random subset of the rows.

    Rows are released one by one, so a record that is not drawn is a missing row in whose place
    another record stands: the release must be private for *replacement* at the distance
    `diameter` = D before sampling can help. With t = size/n and :math:`\delta_D` the profile of
    `delta` at sensitivity D,

    .. math:: \text{replace\_one:}\quad \delta'(\epsilon') =
              t\,\delta_D(\ln(1 + (e^{\epsilon'} - 1)/t))

    .. math:: \text{zero\_out:}\quad \delta'(\epsilon') = t \min_{0 \le w \le 1} \Big\{ (1-w)\,
              \delta_D\Big(\ln\frac{(1-t)(e^{\epsilon'} - 1)}{t(1-w)}\Big)
              + w\,\delta_C(\epsilon' - \ln w) \Big\}

    ``add_remove`` is the first line with t = size/n, n a public lower bound of the number of rows:
    the only guarantee for added or removed records there is. At a rate, the fixed-size value is
    averaged over the number of rows drawn. If the order of the rows is kept, only
    :math:`t\,\delta(\epsilon')` may be claimed.

    Everything computed from one subsample is one release: two amplified claims about the same
    subsample must not be added. Preprocessing on all rows has its own budget.

    Parameters
    ----------
    epsilon : float
        Privacy parameter of the whole, >= 0.
    sample : Subsample
        How rows are drawn.
    sigma, d, p, frame
        As in `log_delta`.
    adjacency : {"zero_out", "replace_one", "add_remove"}
        Neighbouring tables.
    max_norm : float, default 1.0
        Bound C on the norm of a row.
    diameter : float, optional
        Bound D on the distance of two rows. Default: ``2 * max_norm``.

    Returns
    -------
    float
        Delta of the whole.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range, or `add_remove` is asked for with a rate or kept order.

    References
    ----------
    Balle, Barthe, Gaboardi, "Privacy amplification by subsampling", arXiv:1807.01647, Theorems 2,
    8 and 9.
    """
    eps = _arrays.nonnegative_real("epsilon", epsilon)
    base = _subsampled(sample, adjacency, sigma, d, p, frame, max_norm, diameter)
    return math.exp(base.log_delta(eps))


def subsampled_epsilon(
    delta: float | None = None,
    *,
    sample: Subsample,
    sigma: float,
    d: int,
    p: int,
    frame: str = "orthonormal",
    adjacency: str = "zero_out",
    max_norm: float = 1.0,
    diameter: float | None = None,
    log_delta: float | None = None,
) -> float:
    """Epsilon of a release of a random subset of the rows.

    Parameters
    ----------
    delta, log_delta
        As in `epsilon`.
    sample, sigma, d, p, frame, adjacency, max_norm, diameter
        As in `subsampled_delta`, whose conditions apply.

    Returns
    -------
    float
        Epsilon of the whole, rounded up.

    Raises
    ------
    TypeError, ValueError
        As in `subsampled_delta` and `epsilon`.
    """
    target = _log_target(delta, log_delta)
    base = _subsampled(sample, adjacency, sigma, d, p, frame, max_norm, diameter)
    mu = base.near.typical() if adjacency == "zero_out" else base.far.typical()
    return _least_epsilon(base.log_delta, target, _gaussian_epsilon(target, mu))


def calibrate_subsampled_sigma(
    epsilon: float,
    delta: float | None = None,
    *,
    sample: Subsample,
    d: int,
    p: int,
    frame: str = "orthonormal",
    adjacency: str = "zero_out",
    max_norm: float = 1.0,
    diameter: float | None = None,
    log_delta: float | None = None,
) -> float:
    """Noise that the release of a random subset of the rows needs.

    Parameters
    ----------
    epsilon, delta, log_delta
        As in `calibrate_sigma`.
    sample, d, p, frame, adjacency, max_norm, diameter
        As in `subsampled_delta`, whose conditions apply.

    Returns
    -------
    float
        Sigma, in the unit of the data, times 1 + 1e-10 and verified.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range, or delta is at least the share of the rows drawn: then
        even a release without noise would do, which is no privacy.
    """
    eps = _arrays.positive_real("epsilon", epsilon)
    target = _log_target(delta, log_delta)
    base = _subsampled(sample, adjacency, 1.0, d, p, frame, max_norm, diameter)
    if target >= math.log(base.sample.fraction):
        raise ValueError(
            f"delta must be below the share of the rows drawn, {base.sample.fraction}: a release"
            f" without any noise would meet it; got {math.exp(target)}"
        )
    mu = base.near.typical() if adjacency == "zero_out" else base.far.typical()
    guess = mu / _gaussian_mu(eps, target)
    return _least_sigma(lambda x: base.at(x).log_delta(eps), target, guess)


def lemma1_not_a_guarantee(epsilon: float, delta: float, *, rate: float) -> tuple[float, float]:
    """Amplified (epsilon, delta) as the paper's Lemma 1 has it: NOT a guarantee for this mechanism.

    Lemma 1 needs a base that is private when a record is *removed*. A release of rows is not:
    its output shows how many rows there are, and another record stands in the place of one that is
    not drawn. For every n there are counterexamples. Use `subsampled_epsilon`. This number is for
    comparison with published figures only.

    Parameters
    ----------
    epsilon, delta : float
        Of the release without sampling, at sensitivity 1 as the paper takes it.
    rate : float
        Share of the rows drawn, 0 < rate <= 1.

    Returns
    -------
    epsilon, delta : float
        ``ln(1 + rate (e^epsilon - 1))`` and ``rate * delta``.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the stated kind or out of range.
    """
    eps = _arrays.nonnegative_real("epsilon", epsilon)
    dlt = _arrays.open_unit("delta", delta)
    t = _arrays.positive_real("rate", rate)
    if t > 1.0:
        raise ValueError(f"rate must be at most 1; got {rate}")
    if eps < 1.0:
        return math.log1p(t * math.expm1(eps)), t * dlt
    return eps + math.log(t + (1.0 - t) * math.exp(-eps)), t * dlt


# ---------------------------------------------------------------------- rows in a random order


def shuffled_delta(epsilon: float, *, mu: float, n: int) -> float:
    r"""Upper bound of delta when the released rows are in a secret random order.

    For either adjacency, with mu = Delta' s/sigma, Delta' the *diameter* of the domain (which
    zero belongs to under ``zero_out``) and s the spectral norm of the frame, sqrt(p/d) for full
    orthonormal blocks: every other row may pass for the one that changed. For any
    :math:`\epsilon_0 > \mu^2/2` with :math:`\eta = (n-1)\Phi(\mu/2 - \epsilon_0/\mu) < 1` and
    :math:`\theta = (1-\eta)e^{-\epsilon_0}`,

    .. math:: \delta(\epsilon) \le \sum_c Bin(n-1,\theta)(c)\,[\Pr(A \ge a_c - 1)
              - e^\epsilon \Pr(A \ge a_c)] + (1 + e^\epsilon)\eta,\quad A \sim Bin(c, 1/2),

    :math:`a_c = \lfloor e^\epsilon (c+1)/(1+e^\epsilon) \rfloor + 1`. The least value over
    :math:`\epsilon_0`, over some smaller epsilon, and without shuffling is returned. The rows must
    really be permuted, uniformly and with secret randomness; rounding is not accounted for here.

    Parameters
    ----------
    epsilon : float
        Privacy parameter, >= 0.
    mu : float
        Bound on the ratio for any two rows: ``diameter * sqrt(p/d) / sigma`` of a release with
        full orthonormal blocks (d divides p).
    n : int
        Number of rows, public.

    Returns
    -------
    float
        Upper bound of delta.

    Raises
    ------
    TypeError, ValueError
        If an argument is not of the stated kind or out of range.

    Notes
    -----
    Takes up to some seconds for n of a million; nothing is gained near epsilon = 5 and above.

    References
    ----------
    Feldman, McMillan, Talwar, "Hiding among the clones", arXiv:2012.12803.
    """
    eps = _arrays.nonnegative_real("epsilon", epsilon)
    ratio = _arrays.positive_real("mu", mu)
    rows = _arrays.positive_integer("n", n)
    # The bound need not fall in epsilon, but delta does.
    smaller = (1.0, 0.99, 0.97, 0.94, 0.9) if eps > 0.0 else (1.0,)
    return math.exp(min(_shuffled(eps * share, ratio, rows) for share in smaller))


def _shuffled(eps: float, mu: float, n: int, lost: float = 0.0) -> float:
    """Log of the bound at one epsilon, not above the unshuffled value.

    With `lost`, the other rows' probabilities may fall short of the ideal ones by a factor of
    ``exp(-lost)``: so much rarer are they taken for the row that changed.
    """
    plain = _scalar(eps, _Ratio(mu))
    if n < 2 or not math.isfinite(plain):
        return plain

    def at(eps0: float) -> float:
        eta = (n - 1) * 0.5 * math.erfc((eps0 / mu - 0.5 * mu) * math.sqrt(0.5))
        # The remainder alone may exceed the unshuffled value: do not look at the sum then.
        rest = math.log1p(math.exp(eps)) if eps < 700.0 else eps
        log_rest = (math.log(eta) + rest) if eta > 0.0 else -math.inf
        if not eta < 1.0 or log_rest >= plain:
            return math.inf
        theta = (1.0 - eta) * math.exp(-eps0 - lost)
        counts, log_weights, log_omitted = _binomial(n - 1, theta)
        # More clones hide better, so some counts together may be taken for the least of them. It
        # costs some 5e-4 of delta, and is for small epsilons, whose sums are long.
        some = int(5e-4 / (0.125 * eps * eps + 1.0 / max(1.0, float(counts[0]))))
        if some > 1:
            starts = np.arange(0, counts.size, some)
            counts, log_weights = counts[starts], np.logaddexp.reduceat(log_weights, starts)
        terms = log_weights + _log_clones(counts, eps)
        total = np.logaddexp.reduce(np.concatenate([terms, [log_omitted, log_rest]]))
        # Ln Pr(A = a) loses digits as c grows: 6e-17 c was seen against 60-digit arithmetic.
        return float(total) + 1e-9 + 2.0**-50 * float(counts[-1])

    # eps0 from where eta alone uses up delta to where it no longer matters.
    tail = math.sqrt(2.0 * (math.log(n) + math.log1p(math.exp(min(eps, 700.0)))))
    reach = math.sqrt(tail**2 - 2.0 * plain) + 8.0
    low, high = 0.5 * mu * mu, 0.5 * mu * mu + mu * reach
    best = plain
    for _ in range(3):
        grid = np.linspace(low, high, 13)
        values = [at(float(x)) for x in grid[1:-1]]
        i = int(np.argmin(values))
        best = min(best, values[i])
        low, high = float(grid[i]), float(grid[i + 2])
    return best


def _log_clones(counts: Array, eps: float) -> Array:
    """ln(Pr(A >= a-1) - e^eps Pr(A >= a)), A ~ Bin(c, 1/2), a as in `shuffled_delta`."""
    share = 1.0 / (1.0 + math.exp(-eps))
    a = np.floor(share * (counts + 1.0)) + 1.0
    # Pr(A >= a) = pmf(a) R; R = 1 + ((c-a)/(a+1)) (1 + ((c-a-1)/(a+2)) (1 + ...))
    c = counts
    tail = np.where(a <= c, 1.0, 0.0)
    term, j = tail.copy(), 0.0
    while True:
        term = term * np.maximum(c - a - j, 0.0) / (a + 1.0 + j)
        tail += term
        j += 1.0
        if not (term > 1e-17 * tail).any():
            break
    log_pmf_below = _special.log_fair_binomial(c, np.minimum(a - 1.0, c))
    odds = (c - a + 1.0) / a  # pmf(a) / pmf(a - 1)
    with np.errstate(divide="ignore"):
        inner = np.maximum(1.0 - math.expm1(eps) * odds * tail, 0.0)
        return np.asarray(np.where(a - 1.0 <= c, log_pmf_below + np.log(inner), -np.inf))


def shuffled_epsilon(delta: float, *, mu: float, n: int) -> float:
    """Upper bound of epsilon when the released rows are in a secret random order.

    Parameters
    ----------
    delta : float
        Privacy parameter, 0 < delta < 1.
    mu, n
        As in `shuffled_delta`, whose conditions apply.

    Returns
    -------
    float
        An epsilon at which the bound is at most delta, never above the unshuffled one.

    Raises
    ------
    TypeError, ValueError
        As in `shuffled_delta`.
    """
    target = math.log(_arrays.open_unit("delta", delta))
    ratio = _arrays.positive_real("mu", mu)
    rows = _arrays.positive_integer("n", n)
    high = _gaussian_epsilon(target, ratio)
    return _least_holding(lambda eps: _shuffled(eps, ratio, rows) <= target, high)


def _least_holding(holds: Callable[[float], bool], high: float) -> float:
    """Find an epsilon up to `high`, where a bound holds, at which it does: nearly the least."""
    if high == 0.0 or holds(0.0):
        return 0.0
    return _end_that_holds(holds, high, 0.0)


def _end_that_holds(holds: Callable[[float], bool], good: float, bad: float) -> float:
    """Narrow down where a bound ceases to hold; return the end at which it does.

    The bound need not be monotone: what is returned was tried, or is `good` itself.
    """
    while abs(good - bad) > 1e-7 * max(good, bad):
        middle = 0.5 * (good + bad)
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def calibrate_shuffled_mu(epsilon: float, delta: float, *, n: int) -> float:
    """Largest ratio mu that a release in secret random order may have.

    Parameters
    ----------
    epsilon, delta : float
        Privacy parameters, epsilon > 0 and 0 < delta < 1.
    n : int
        Number of rows, public.

    Returns
    -------
    float
        A mu at which `shuffled_delta` is at most delta; sigma = diameter * sqrt(p/d) / mu.

    Raises
    ------
    TypeError, ValueError
        As in `shuffled_delta`.
    """
    eps = _arrays.positive_real("epsilon", epsilon)
    target = math.log(_arrays.open_unit("delta", delta))
    rows = _arrays.positive_integer("n", n)

    def holds(mu: float) -> bool:
        return _shuffled(eps, mu, rows) <= target

    low = _gaussian_mu(eps, target)
    high = 1.5 * low
    while holds(high):
        low, high = high, 1.5 * high
    return _end_that_holds(holds, low, high)


# --------------------------------------------------------------------- noise in finite precision


def numerical_loss(
    *, p: int, sigma: float, max_norm: float, epsilon: float = 0.0
) -> tuple[float, float]:
    """Privacy lost because a computer rounds: what to add to the exact (epsilon, delta).

    The computed value and the ideal one differ by at most ``8 * 2**-52 * (max_norm + 11 sigma)``
    except with probability ``2**-74`` per number; the release is rounded to a grid of about
    ``sigma / 1024``, so that such a difference changes a cell's probability by a factor close to 1.
    What lies beyond is a mass of ``t = p 2**-74``, which costs ``(1 + e**epsilon) t`` of delta.

    Parameters
    ----------
    p : int
        Number of released columns.
    sigma : float
        Standard deviation of the noise, in the unit of the data.
    max_norm : float
        Bound C on the norm of a row. For a Gaussian frame: C times the largest column norm of
        the frame.
    epsilon : float, optional
        Epsilon that is stated, or a bound on it.

    Returns
    -------
    epsilon, delta : float
        ``2e-11 p (C/sigma + 11)``; and 16 t, which is enough up to epsilon = ln 15, or beyond that
        twice what is needed. The exact delta, besides, grows by a factor of e to the first at most.

    Raises
    ------
    TypeError
        If an argument is not a number of the stated kind.
    ValueError
        If an argument is out of range.
    """
    columns = _arrays.positive_integer("p", p)
    noise = _arrays.positive_real("sigma", sigma)
    norm = _arrays.positive_real("max_norm", max_norm)
    stated = _arrays.nonnegative_or_infinite("epsilon", epsilon)
    return 2e-11 * columns * (norm / noise + 11.0), _lost_delta(columns, stated)


def _lost_mass(numbers: int, eps: float) -> float:
    """Delta that the numbers cost whose errors are larger than accounted for: (1 + e^eps) t."""
    return numbers * 2.0**-74 * (1.0 + math.exp(min(eps, 700.0)))


def _lost_delta(numbers: int, eps: float) -> float:
    """Charge for it: never less as epsilon grows, and twice what is needed where that is much."""
    least, needed = numbers * 2.0**-70, _lost_mass(numbers, eps)
    return least if needed <= least else 2.0 * needed


def _computed_epsilon(
    exact: Callable[[float], float],
    delta: float,
    rounding: float,
    numbers: int,
    *,
    at_least: bool = False,
) -> tuple[float, float]:
    """Epsilon of a computed mechanism at a total delta, and what of delta rounding has taken.

    `exact` is the epsilon of the ideal mechanism at a given ln delta; `rounding` is what is added
    to it. Infinite where the mass beyond the bounds on errors alone takes all of delta: computed
    noise ends somewhere, and two rows that are so far apart can be told apart by that.

    `at_least` leaves out what grows with epsilon, and the growth of delta: so little has been
    charged by all versions of this library.
    """
    lost = _lost_delta(numbers, 0.0)
    if at_least:
        return (exact(math.log(delta - lost)) + rounding if lost < delta else math.inf), lost
    while lost < delta:
        eps = exact(math.log(delta - lost) - rounding) + rounding
        if _lost_mass(numbers, eps) <= lost:
            return eps, lost
        lost = _lost_delta(numbers, eps)
    return math.inf, _lost_delta(numbers, 0.0)


# -------------------------------------------------------------------------------- certificates

_NEIGHBOURS: Final = {
    "zero_out": "one record's row is replaced by a row of zeros, which stays in the table",
    "replace_one": "one record is replaced by any other record of the domain",
    "add_remove": "one record is in the table or not",
}


@dataclass(frozen=True)
class Wording:
    """What a certificate calls things, for one kind of mechanism."""

    nothing: str = _NEIGHBOURS["zero_out"]  # the neighbour under zero_out
    distance: str = "distance of neighbouring rows"
    bounds: str = "rows"
    two: str = "two rows"
    sigma: str = "noise on every released number"


_WORDING: Final = {
    "sums": Wording(
        nothing="one record is replaced by one that counts nowhere",
        distance="distance of neighbouring tables' sums",
        bounds="features",
        two="two",
        sigma="noise on every released sum, in the unit of the features",
    ),
    "schema inference": Wording(
        nothing="one record is replaced by one that falls into no histogram",
        distance="distance of neighbouring tables' counts",
        sigma="noise on every count",
    ),
}


def wording(guarantee: Guarantee) -> Wording:
    """Return the words for a certificate; several releases take those of rows or sums, if any."""
    mechanisms = {leaf.mechanism for leaf in _leaves([guarantee])}
    for mechanism in ("slicing", "sums"):
        if mechanism in mechanisms:
            return _WORDING.get(mechanism, Wording())
    return _WORDING.get(guarantee.mechanism, Wording())


_UPWARDS: Final = Context(prec=6, rounding=ROUND_CEILING)
# Entries of a written guarantee that are left out where they have their defaults.
_ONLY_WHERE_SAID: Final = {"sampling_rate": None, "frame_norm": None, "amplified_by_order": False}
_DEEPEST: Final = 100  # nested parts of one that is read


def _rounded_up(value: float) -> str:
    """Write a number with six significant digits, never smaller than it is."""
    if not math.isfinite(value):
        return "infinite"
    return f"{float(_UPWARDS.create_decimal(Decimal(repr(float(value))))):.6g}"


@dataclass(frozen=True, kw_only=True)
class Guarantee:
    """What a release, or several together, promise: the content of a privacy certificate.

    Attributes
    ----------
    epsilon, delta : float
        Totals: upper bounds that include the numerical loss and every composed part. ``epsilon``
        may be infinite.
    adjacency : {"zero_out", "replace_one", "add_remove"}
        Which pairs of tables the promise is about. The number of rows is public in the first two.
    mechanism : str
        What was done: ``"slicing"``, ``"sums"``, ``"schema inference"``, ``"composition"``, ...
    sensitivity : float, optional
        L2 distance of two neighbouring rows, in the unit of the data; of sums, of two neighbouring
        tables' sums.
    sigma : float, optional
        Standard deviation of the noise, in the unit of the data.
    frame : {"orthonormal", "gaussian"}, optional
        Law of the random projection.
    d, p, n : int, optional
        Features, released columns (of sums: released numbers), rows (a public number, never stated
        under ``add_remove``).
    max_norm, diameter : float, optional
        Bounds on the norm of a row (of sums: of a record's features) and on the distance of two.
    epsilon_numerical, delta_numerical : float
        Loss by rounding (`numerical_loss`, at about ``epsilon``), already inside ``epsilon`` and
        ``delta``.
    epsilon_replace_one : float, optional
        Epsilon of the same release, at the same delta, under ``replace_one`` adjacency.
    private : bool
        False where the noise is not fit for privacy: then there is no guarantee at all.
    parts : tuple of Guarantee
        What was composed, if anything.
    composition : str, optional
        How: ``"basic"`` (epsilon and delta add up) or ``"joint"`` (`composed_epsilon`).
    notes : tuple of str
        Further conditions of the promise, one sentence each; printed on the certificate.
    sampling_rate : float, optional
        Of sums: probability with which each record took part, independently of the others and
        unknown to anyone.
    frame_norm : float, optional
        Bound on the spectral norm of a frame that may have been known before the records were
        fixed (it was drawn from a seed): the guarantee is for the pair of rows that it tells apart
        best. Absent where the frame was drawn afresh, or is as good in all directions.
    amplified_by_order : bool
        Of slicing: whether ``epsilon`` or ``epsilon_replace_one`` counts on the secret, uniformly
        random order of all n rows (`shuffled_delta`). Then it is no longer that of the noise alone.
    """

    epsilon: float
    delta: float
    adjacency: str
    mechanism: str
    sensitivity: float | None = None
    sigma: float | None = None
    frame: str | None = None
    d: int | None = None
    p: int | None = None
    n: int | None = None
    max_norm: float | None = None
    diameter: float | None = None
    epsilon_numerical: float = 0.0
    delta_numerical: float = 0.0
    epsilon_replace_one: float | None = None
    private: bool = True
    parts: tuple[Guarantee, ...] = ()
    composition: str | None = None
    notes: tuple[str, ...] = ()
    sampling_rate: float | None = None
    frame_norm: float | None = None
    amplified_by_order: bool = False

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put("epsilon", _arrays.nonnegative_or_infinite("epsilon", self.epsilon))
        put("delta", _arrays.nonnegative_real("delta", self.delta))
        if self.delta > 1.0:
            raise ValueError(f"delta must be at most 1; got {self.delta}")
        _arrays.choice("adjacency", self.adjacency, SUM_ADJACENCIES)
        _arrays.text("mechanism", self.mechanism)
        if self.frame is not None:
            _arrays.choice("frame", self.frame, FRAMES)
        for name in ("sensitivity", "sigma", "max_norm", "diameter"):
            value = getattr(self, name)
            if value is not None:
                # 0 is legal: a table whose columns have one value each has no spread at all.
                put(name, _arrays.nonnegative_real(name, value))
        for name in ("d", "p", "n"):
            value = getattr(self, name)
            if value is not None:
                put(name, _arrays.integer(name, value, minimum=0 if name == "n" else 1))
        if self.n is not None and self.adjacency == "add_remove":
            raise ValueError("n must not be stated under add_remove, which protects it")
        for name in ("epsilon_numerical", "delta_numerical"):
            put(name, _arrays.nonnegative_real(name, getattr(self, name)))
        if self.epsilon_replace_one is not None:
            replaced = _arrays.nonnegative_or_infinite(
                "epsilon_replace_one", self.epsilon_replace_one
            )
            put("epsilon_replace_one", replaced)
        _arrays.boolean("private", self.private)
        for part in self.parts:
            if not isinstance(part, Guarantee):
                raise TypeError(f"parts must hold Guarantee objects; got {type(part).__name__}")
        put("parts", tuple(self.parts))
        if self.composition is not None:
            _arrays.text("composition", self.composition)
        if isinstance(self.notes, str):
            raise TypeError("notes must be a sequence of sentences; got one string")
        put("notes", tuple(_arrays.text("notes", note) for note in self.notes))
        if self.sampling_rate is not None:
            put("sampling_rate", _arrays.open_unit("sampling_rate", self.sampling_rate))
        if self.frame_norm is not None:
            put("frame_norm", _arrays.positive_real("frame_norm", self.frame_norm))
        _arrays.boolean("amplified_by_order", self.amplified_by_order)
        if self.amplified_by_order:
            self._check_order_claim()

    def _check_order_claim(self) -> None:
        """Raise unless everything is stated that the claim follows from."""
        if self.mechanism != "slicing" or self.parts or self.sampling_rate is not None:
            raise ValueError("amplified_by_order is for one slicing release alone")
        _arrays.choice("adjacency", self.adjacency, ADJACENCIES)
        needed = ("sigma", "frame", "d", "p", "n", "max_norm", "diameter")
        missing = [name for name in needed if not getattr(self, name)]  # 0 is none of them, either
        if self.frame == "gaussian" and self.frame_norm is None:
            missing.append("frame_norm")
        if missing:
            raise ValueError(f"amplified_by_order needs {', '.join(missing)}, above 0")

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> list[str]:
        if not self.private:
            lines = [
                "NOT PRIVATE. The noise of this release is not fit for privacy: no guarantee.",
                f"{self.mechanism}; ({_rounded_up(self.epsilon)}, {_rounded_up(self.delta)}) is"
                " what secure noise of the same size would have given.",
            ]
        else:
            lines = [
                f"{self.mechanism}: ({_rounded_up(self.epsilon)}, {_rounded_up(self.delta)})"
                "-differential privacy",
                f"  epsilon       {_rounded_up(self.epsilon)}   (upper bound, rounded up)",
                f"  delta         {_rounded_up(self.delta)}",
            ]
        words = wording(self)
        rows = "n is public" if self.n is None else f"n is public: n = {self.n}"
        if self.adjacency == "add_remove":
            rows = "n is protected too, but for n > 0"
        neighbours = _NEIGHBOURS[self.adjacency]
        if self.adjacency == "zero_out":
            neighbours = words.nothing
        lines.append(f"  adjacency     {self.adjacency}: {neighbours}; {rows}")
        if self.sensitivity is not None:
            lines.append(f"  Delta         {self.sensitivity:.9g}   ({words.distance})")
        bounds = []
        if self.max_norm is not None:
            bounds.append(f"norm at most {self.max_norm:.9g}")
        if self.diameter is not None:
            bounds.append(f"distance of {words.two} at most {self.diameter:.9g}")
        if bounds:
            lines.append(f"  {words.bounds:<13} {', '.join(bounds)}")
        if self.sigma is not None:
            lines.append(f"  sigma         {self.sigma:.9g}   ({words.sigma})")
        if self.sampling_rate is not None:
            lines.append(
                f"  sampling      {self.sampling_rate:.9g}   (probability of each record to take "
                "part; which ones did is secret)"
            )
        if self.frame is not None:
            shape = "" if self.d is None or self.p is None else f", d = {self.d}, p = {self.p}"
            lines.append(f"  frame         {self.frame}{shape}")
            if self.frame_norm is not None:
                lines.append(
                    "                seeded, so perhaps known beforehand: accounted for the worst"
                    f" pair of rows (spectral norm {_rounded_up(self.frame_norm)})"
                )
        elif self.d is not None and self.p is not None:
            lines.append(f"  size          d = {self.d}, p = {self.p}")
        if self.amplified_by_order:
            lines.append(
                "  order         claimed: the guarantee counts on the secret, uniformly random"
                f" order of all n = {self.n} rows; n is public"
            )
        if self.epsilon_numerical > 0 or self.delta_numerical > 0:
            lines.append(
                f"  rounding      epsilon {_rounded_up(self.epsilon_numerical)}, delta"
                f" {_rounded_up(self.delta_numerical)}   (already included)"
            )
        if self.adjacency != "replace_one":
            if self.epsilon_replace_one is not None:
                lines.append(
                    f"  replace_one   epsilon {_rounded_up(self.epsilon_replace_one)} at the same"
                    " delta, if a record may be replaced by any other"
                )
            elif self.private:
                lines.append("  replace_one   not stated: the promise above is weaker than that")
        lines.extend(f"  note          {note}" for note in self.notes)
        if self.parts:
            how = "" if self.composition is None else f" ({self.composition} composition)"
            if self.composition == "joint":
                how += ", provided that no part's parameters were chosen by what another gave"
            lines.append(f"Composed of{how}:")
            for part in self.parts:
                lines.extend("  " + line for line in part._lines())
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Return the guarantee as a dictionary that JSON can hold (infinity becomes ``"inf"``).

        Returns
        -------
        dict
            One entry per attribute, `parts` as a list of such dictionaries; `sampling_rate`,
            `frame_norm` and `amplified_by_order` only where they say something.
        """
        record: dict[str, Any] = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in _ONLY_WHERE_SAID and value is _ONLY_WHERE_SAID[field.name]:
                continue
            if field.name == "parts":
                value = [part.to_dict() for part in value]
            elif field.name == "notes":
                value = list(value)
            elif isinstance(value, float) and math.isinf(value):
                value = "inf"
            record[field.name] = value
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Guarantee:
        """Rebuild a guarantee from `to_dict`; every key of it must be there and no other.

        Parameters
        ----------
        record : mapping
            What `to_dict` gave.

        Returns
        -------
        Guarantee
            Equal to the one that was written.

        Raises
        ------
        TypeError
            If the record or an entry is of the wrong kind.
        ValueError
            If a key is missing or unknown, an entry is out of range, parts are nested deeper than
            compositions ever are, or an epsilon is less than the other entries give.
        """
        return cls._from_dict(record, depth=0)

    @classmethod
    def _from_dict(cls, record: object, *, depth: int) -> Guarantee:
        if not isinstance(record, Mapping):
            raise TypeError(f"a guarantee must be a mapping; got {type(record).__name__}")
        if depth > _DEEPEST:
            raise ValueError(f"parts of a guarantee must be nested at most {_DEEPEST} deep")
        names = [field.name for field in dataclasses.fields(cls)]
        missing = [name for name in names if name not in record and name not in _ONLY_WHERE_SAID]
        unknown = [str(name) for name in record if name not in names]
        if missing:
            raise ValueError(f"the guarantee has no entry for: {', '.join(missing)}")
        if unknown:
            raise ValueError(f"the guarantee has unknown entries: {', '.join(unknown)}")
        values = dict(record)
        for name in ("epsilon", "epsilon_replace_one"):
            if values[name] == "inf":
                values[name] = math.inf
        for name in ("parts", "notes"):
            if not isinstance(values[name], (list, tuple)):
                raise TypeError(f"{name} must be a list; got {type(values[name]).__name__}")
        values["parts"] = tuple(cls._from_dict(part, depth=depth + 1) for part in values["parts"])
        values["notes"] = tuple(values["notes"])
        guarantee = cls(**values)
        _refuse_overclaim(guarantee)
        return guarantee

    @staticmethod
    def compose(*guarantees: Guarantee) -> Guarantee:
        """Add up several guarantees about the same records.

        Epsilon and delta add up, however the mechanisms depend on one another's outputs. If all
        of them are sums or slicing releases of full orthonormal blocks or of seeded frames, whose
        parameters then must not depend on the data or on other outputs, `composed_epsilon` at the
        sum of the deltas is taken where it is smaller. (Other frames would have to be independent
        of one another.) Releases that claim the order of their rows are counted there by their
        noise alone, or as any mechanism of their epsilon and delta, whichever gives less.

        Parameters
        ----------
        *guarantees : Guarantee
            At least one, all with the same adjacency.

        Returns
        -------
        Guarantee
            The total, with the given ones as its parts; a single one is returned as it is.

        Raises
        ------
        TypeError
            If an argument is not a Guarantee.
        ValueError
            If there is none, or adjacencies or row counts differ.
        """
        for guarantee in guarantees:
            if not isinstance(guarantee, Guarantee):
                raise TypeError(f"compose takes Guarantee objects; got {type(guarantee).__name__}")
        if not guarantees:
            raise ValueError("compose needs at least one guarantee; got none")
        if len(guarantees) == 1:
            return guarantees[0]
        adjacencies = sorted({guarantee.adjacency for guarantee in guarantees})
        if len(adjacencies) > 1:
            raise ValueError(
                "guarantees to compose must have the same adjacency; got "
                + " and ".join(adjacencies)
            )
        counts = sorted({g.n for g in guarantees if g.n is not None})
        if len(counts) > 1:
            raise ValueError(
                "guarantees to compose must be about the same rows; got n = "
                + " and ".join(map(str, counts))
            )
        return _composed_guarantee(guarantees, adjacencies[0], counts[0] if counts else None)


def _composed_guarantee(
    guarantees: Sequence[Guarantee], adjacency: str, n: int | None, *, at_least: bool = False
) -> Guarantee:
    """`Guarantee.compose` of several that go together; `at_least` as of `_computed_epsilon`."""
    basic = math.fsum(g.epsilon for g in guarantees)
    total = min(basic, _joint_epsilon(guarantees, adjacency, at_least=at_least))
    replaced: float | None = None
    known = [g.epsilon_replace_one for g in guarantees if g.epsilon_replace_one is not None]
    if len(known) == len(guarantees):
        joint = _joint_epsilon(guarantees, "replace_one", at_least=at_least)
        replaced = min(math.fsum(known), joint)
    return Guarantee(
        epsilon=total,
        delta=min(1.0, math.fsum(g.delta for g in guarantees)),
        adjacency=adjacency,
        mechanism="composition",
        n=n,
        epsilon_numerical=math.fsum(g.epsilon_numerical for g in guarantees),
        delta_numerical=math.fsum(g.delta_numerical for g in guarantees),
        epsilon_replace_one=replaced,
        private=all(g.private for g in guarantees),
        parts=tuple(guarantees),
        composition="joint" if total < basic else "basic",
    )


def _leaves(guarantees: Sequence[Guarantee]) -> list[Guarantee]:
    return [leaf for g in guarantees for leaf in (_leaves(g.parts) if g.parts else [g])]


def _distance_of(leaf: Guarantee, adjacency: str) -> float | None:
    """Return how far neighbours are apart, by the bounds of the domain."""
    if leaf.max_norm is None or adjacency != "replace_one":
        return leaf.max_norm
    wide = 2.0 * leaf.max_norm
    return wide if leaf.diameter is None else min(wide, leaf.diameter)


def _slicing_of(leaf: Guarantee, adjacency: str) -> Slicing | None:
    """Describe one computed release for `composed_epsilon`, if the certificate says enough."""
    if leaf.sigma is None or leaf.frame is None or leaf.d is None or leaf.p is None:
        return None
    fixed = leaf.frame_norm is not None or (leaf.frame == "orthonormal" and leaf.p % leaf.d == 0)
    if not fixed:
        # The ratio of these depends on the frame, and `composed_epsilon` takes frames to be
        # independent, which no certificate tells.
        return None
    norm, distance = leaf.max_norm, _distance_of(leaf, adjacency)
    if norm is None or distance is None or not (leaf.sigma > 0.0 and distance > 0.0):
        return None
    if leaf.frame_norm is not None:
        # No column of a frame is longer than its spectral norm.
        longest = norm * max(1.0, leaf.frame_norm)
        reach = _rounded_sensitivity(distance * leaf.frame_norm, leaf.d, leaf.p, longest)
        return Slicing(sigma=leaf.sigma, d=1, p=1, sensitivity=reach)
    exact = _rounded_sensitivity(distance, leaf.d, leaf.p, norm)
    return Slicing(sigma=leaf.sigma, d=leaf.d, p=leaf.p, frame=leaf.frame, sensitivity=exact)


def _sums_of(leaf: Guarantee, adjacency: str) -> Slicing | None:
    """Describe a sum release for `composed_epsilon`: a Gaussian mechanism, as if d = p = 1."""
    if leaf.sampling_rate is not None or leaf.p is None:
        return None
    distance = _distance_of(leaf, adjacency)
    if leaf.sigma is None or distance is None or not (leaf.sigma > 0.0 and distance > 0.0):
        return None
    return Slicing(sigma=leaf.sigma, d=1, p=1, sensitivity=distance * _SUM_ROUNDING)


def _joint_epsilon(
    guarantees: Sequence[Guarantee], adjacency: str, *, at_least: bool = False
) -> float:
    """Epsilon of several releases by `composed_epsilon`; infinite where that does not apply."""
    leaves = _leaves(guarantees)
    total = _counted_together(leaves, [], adjacency, at_least)
    # What the order of rows adds is no Gaussian profile. Such a release is still the Gaussian
    # mechanism of its sigma, as above; and it is some mechanism of its epsilon and delta. Amplified
    # claims must not be added where they share the randomness that amplifies. Here none do: every
    # release draws an order and a noise of its own, so they compose as any mechanisms.
    ordered = [leaf for leaf in leaves if leaf.amplified_by_order]
    if ordered:
        rest = [leaf for leaf in leaves if not leaf.amplified_by_order]
        total = min(total, _counted_together(rest, ordered, adjacency, at_least))
    return total


def _counted_together(
    gaussian: Sequence[Guarantee], others: Sequence[Guarantee], adjacency: str, at_least: bool
) -> float:
    """`composed_epsilon` of some leaves as Gaussian mechanisms, of others as what they state."""
    parts = []
    describe = {"slicing": _slicing_of, "sums": _sums_of}
    for leaf in gaussian:
        part = describe[leaf.mechanism](leaf, adjacency) if leaf.mechanism in describe else None
        if part is None:
            return math.inf
        parts.append(part)
    if not parts:
        return math.inf
    pairs = []
    for leaf in others:
        stated = leaf.epsilon if adjacency == leaf.adjacency else leaf.epsilon_replace_one
        if stated is None or not math.isfinite(stated):
            return math.inf
        pairs.append((stated, leaf.delta))  # what rounding costs is in both
    whole = math.fsum(leaf.delta for leaf in gaussian) + math.fsum(dlt for _, dlt in pairs)
    if not 0.0 < whole < 1.0:
        return math.inf
    least = math.fsum(dlt for _, dlt in pairs) * (1.0 + 1e-12)

    def exact(target: float) -> float:
        left = math.exp(target)
        return composed_epsilon(left, parts, others=pairs) if left > least else math.inf

    rounding = math.fsum(leaf.epsilon_numerical for leaf in gaussian)
    numbers = sum(leaf.p or 0 for leaf in gaussian)
    return _computed_epsilon(exact, whole, rounding, numbers, at_least=at_least)[0]


# ---------------------------------------------------------------------- what one release promises

# Where a claim that is read is computed again: of ln delta, and of epsilon.
_CLAIM_TOLERANCE: Final = 1e-6
_CLAIM_SHARE: Final = 1.0 - 1e-6
_LARGEST_ORDER_EPSILON: Final = 6.0  # that the order is claimed for: little is gained near it


def _order_rounding(n: int, p: int) -> float:
    """Delta for rounding where the order of rows is claimed, up to `_LARGEST_ORDER_EPSILON`.

    The computed law of one row lies between ``k`` and ``1/k`` times the ideal one, but for a mass
    of t = p 2^-74 (see `numerical_loss`); ln k is at most half the epsilon stated there. Of the row
    that changed, that costs what it costs without the claim: 2 ln k of epsilon, and (1 + e^eps) t
    of delta. The other n - 1 rows, whose laws hide it, are laws, but for t each, that hold 1/k
    times the share of it that the ideal ones do: k comes off theta once, whatever n, and t is paid
    n - 1 times, on both sides. In all ``(1 + e^eps) n t``, up to a factor of k^2, which is below
    n p 2^-65 for eps <= 6; and delta itself grows by a factor of k.
    """
    return n * p * 2.0**-65


def _rounded_sensitivity(distance: float, d: int, p: int, norm: float) -> float:
    # 1e-9 covers the rounding of the frame; that of XU is at most 2 norm d sqrt(p) 2^-53 for two
    # rows.
    return distance * (1.0 + 1e-9) + 2.0 * norm * d * math.sqrt(p) * 2.0**-53


@dataclass(frozen=True)
class _Setting:
    """Checked arguments that `slicing_guarantee` and `calibrate_slicing` share."""

    d: int
    p: int
    frame: str
    adjacency: str
    max_norm: float
    diameter: float
    column_norm: float
    frame_norm: float | None

    def __post_init__(self) -> None:
        _arrays.choice("adjacency", self.adjacency, ADJACENCIES)

    def ratio(self, sigma: float, adjacency: str) -> _Ratio:
        distance = self.distance(adjacency)
        norm = self.max_norm * self.column_norm
        if self.frame_norm is not None:
            reach = distance * self.frame_norm
            return _Ratio(_rounded_sensitivity(reach, self.d, self.p, norm) / sigma)
        exact = _rounded_sensitivity(distance, self.d, self.p, norm)
        return _ratio(sigma=sigma, d=self.d, p=self.p, frame=self.frame, sensitivity=exact)

    def distance(self, adjacency: str) -> float:
        if adjacency == "zero_out":
            return self.max_norm
        return min(self.diameter, 2.0 * self.max_norm)  # rows are clipped to max_norm

    def order_ratio(self, sigma: float, adjacency: str) -> float:
        """Bound mu for `shuffled_delta`: the noise against the distance of *any* two rows.

        Every other row is compared with both values of the one that changed: with a row of the
        domain, up to the diameter away; and under ``zero_out`` with zero, up to max_norm away,
        which may be more than a diameter that a caller knows.

        The frame parts two rows by its spectral norm at most, for sure: sqrt(ceil(p/d)) for
        orthonormal blocks, the last partial or not (q I plus a projection), drawn afresh or known.
        The law of a random frame does not help with partial blocks: n - 1 differences have to be
        bounded together, for one and the same frame.
        """
        if self.frame == "orthonormal":
            norm = math.sqrt(-(-self.p // self.d)) * (1.0 + 1e-9)  # what frames may be off by
        else:
            assert self.frame_norm is not None
            norm = self.frame_norm
        distance = self.distance("replace_one")
        if adjacency == "zero_out":
            distance = max(distance, self.max_norm)
        longest = self.max_norm * max(1.0, norm)  # no column is longer than the spectral norm
        return _rounded_sensitivity(distance * norm, self.d, self.p, longest) / sigma

    def log_delta_in_order(
        self, eps: float, sigma: float, adjacency: str, n: int, rounding: float
    ) -> float:
        """Ln delta with the order of n rows claimed, less `_order_rounding`.

        `eps` and what `rounding` costs of epsilon are stated together.
        """
        if not 0.0 <= eps <= _LARGEST_ORDER_EPSILON:
            return math.inf
        mu = self.order_ratio(sigma, adjacency)
        # The bound need not fall in epsilon, but delta does. It was seen to rise above 1 only.
        smaller = (1.0, 0.9, 0.8, 0.65, 0.5) if eps > 1.0 else (1.0,)
        return min(_shuffled(eps * share, mu, n, rounding) for share in smaller) + rounding

    def order_target(self, delta: float, n: int) -> float:
        """Ln of what rounding leaves of delta where the order is claimed; -inf for nothing."""
        left = delta - _order_rounding(n, self.p)
        return math.log(left) if left > 0.0 else -math.inf

    def epsilon_in_order(
        self, delta: float, sigma: float, adjacency: str, n: int, near: float | None
    ) -> float:
        """Epsilon that the order of n rows gives, rounding included; infinite where none is found.

        One that was calibrated for, `near`, is tried first.
        """
        rounding = self.rounding(sigma)
        target = self.order_target(delta, n)

        def holds(eps: float) -> bool:
            return self.log_delta_in_order(eps, sigma, adjacency, n, rounding) <= target

        tried = [] if near is None else [near - rounding]
        tried += [_LARGEST_ORDER_EPSILON * 0.8**i for i in range(20)]
        high = next((eps for eps in tried if holds(eps)), None)
        return math.inf if high is None else _least_holding(holds, high) + rounding

    def notes(self) -> tuple[str, ...]:
        distance = self.distance(self.adjacency)
        accounted = _rounded_sensitivity(distance, self.d, self.p, self.max_norm * self.column_norm)
        if accounted <= distance * (1.0 + 1.5e-9):
            return ()
        return (
            f"accounted with Delta = {accounted:.9g}, which covers the rounding of products of "
            "this size",
        )

    def rounding(self, sigma: float) -> float:
        """Epsilon that rounding costs."""
        longest = self.max_norm * self.column_norm
        return numerical_loss(p=self.p, sigma=sigma, max_norm=longest)[0]

    def checked_delta(self, delta: object, eps: float = 0.0) -> float:
        """Return delta, or raise unless rounding leaves something of it at this epsilon."""
        return _checked_total(delta, eps, self.p, f"at p = {self.p}")

    def alone(
        self, delta: float, sigma: float, adjacency: str, *, at_least: bool = False
    ) -> tuple[float, float]:
        """Epsilon of the noise alone, rounding included, and what of delta rounding has taken."""
        ratio = self.ratio(sigma, adjacency)
        return _computed_epsilon(
            lambda target: _epsilon(target, ratio),
            delta,
            self.rounding(sigma),
            self.p,
            at_least=at_least,
        )


def _checked_total(delta: object, eps: float, numbers: int, where: str) -> float:
    total = _arrays.open_unit("delta", delta)
    lost = _lost_delta(numbers, eps)
    if not total > lost:
        at = ""
        if lost > _lost_delta(numbers, 0.0):
            at = f" and epsilon = {eps:g}"
            if eps > 20.0:
                at += " (which protects nothing any more)"
        raise ValueError(
            f"delta must exceed what rounding needs {where}{at}, {lost:.3g}; got {total}"
        )
    return total


def _setting(
    *,
    d: object,
    p: object,
    frame: object,
    adjacency: object,
    max_norm: object,
    diameter: object,
    column_norm: object,
    frame_norm: object,
) -> _Setting:
    norm = _arrays.positive_real("max_norm", max_norm)
    return _Setting(
        d=_arrays.positive_integer("d", d),
        p=_arrays.positive_integer("p", p),
        frame=_arrays.choice("frame", frame, FRAMES),
        adjacency=_arrays.choice("adjacency", adjacency, ADJACENCIES),
        max_norm=norm,
        diameter=2.0 * norm if diameter is None else _arrays.positive_real("diameter", diameter),
        column_norm=_arrays.positive_real("column_norm", column_norm),
        frame_norm=(
            None if frame_norm is None else _arrays.positive_real("frame_norm", frame_norm)
        ),
    )


def check_order_frame(frame: str, *, known: bool) -> None:
    """Raise where the order of rows may not be claimed for a frame, known or drawn afresh."""
    if frame == "gaussian" and not known:
        raise ValueError(
            "amplify_by_order needs a sure bound on the frame, which a gaussian frame that is "
            "drawn afresh has not: take frame='orthonormal', or a seed"
        )


def _checked_order(setting: _Setting, n: object) -> int:
    """Return n, or raise where the order of rows may not be claimed."""
    if n is None:
        raise ValueError(
            "n, the public number of rows, must be given with amplify_by_order; got None"
        )
    check_order_frame(setting.frame, known=setting.frame_norm is not None)
    return _arrays.positive_integer("n", n)


def _refuse_overclaim(guarantee: Guarantee) -> None:
    """Raise if an entry is less than the guarantee's other entries give, where they say enough."""
    if guarantee.amplified_by_order:
        return _refuse_order_overclaim(guarantee)
    least = computed_again(guarantee, at_least=True)
    if least is None:
        return None
    for name in ("epsilon", "epsilon_replace_one", "delta", "sensitivity"):
        stated, needed = getattr(guarantee, name), getattr(least, name)
        if stated is None or needed is None:
            continue
        if stated < needed * _CLAIM_SHARE:
            raise ValueError(
                f"the guarantee claims more than its numbers give: {name} must be at least "
                f"{needed:.9g}; got {stated:.9g}"
            )
    return None


def computed_again(guarantee: Guarantee, *, at_least: bool = False) -> Guarantee | None:
    """Compute a guarantee from its own numbers, or return None if some of these are missing or 0.

    Rounding is counted as for columns of length 1 and for the numbers that were published.

    Parameters
    ----------
    guarantee : Guarantee
        Of a release of rows (the order left out) or of sums, or of several together.
    at_least : bool
        Charge no more for rounding than any version of this library has done: what a certificate
        states less than that, it was not given.

    Returns
    -------
    Guarantee or None
    """
    if guarantee.mechanism == "composition" and guarantee.parts:
        if any(part.adjacency != guarantee.adjacency for part in guarantee.parts):
            raise ValueError("parts of a guarantee must have its adjacency")
        return _composed_guarantee(
            guarantee.parts, guarantee.adjacency, guarantee.n, at_least=at_least
        )
    sigma, p = guarantee.sigma, guarantee.p
    norm, diameter = guarantee.max_norm, guarantee.diameter
    if not (sigma and p and norm and diameter):
        return None
    delta = guarantee.delta
    kinds = [guarantee.adjacency]
    if guarantee.epsilon_replace_one is not None:
        kinds.append("replace_one")
    if guarantee.mechanism == "sums":
        found = []
        for kind in kinds:
            _, distance, _ = _sum_distances(kind, norm, diameter)
            rate = guarantee.sampling_rate if kind == guarantee.adjacency else None
            found.append(
                (_sum_epsilon(delta, distance / sigma, p, rate, at_least=at_least), distance)
            )
    elif guarantee.mechanism == "slicing" and guarantee.d and guarantee.frame is not None:
        setting = _setting(
            d=guarantee.d,
            p=p,
            frame=guarantee.frame,
            adjacency=guarantee.adjacency,
            max_norm=norm,
            diameter=diameter,
            column_norm=1.0,
            frame_norm=guarantee.frame_norm,
        )
        found = [
            (setting.alone(delta, sigma, kind, at_least=at_least), setting.distance(kind))
            for kind in kinds
        ]
    else:
        return None
    (epsilon, lost), distance = found[0]
    return dataclasses.replace(
        guarantee,
        epsilon=epsilon,
        sensitivity=distance,
        delta_numerical=lost,
        epsilon_replace_one=found[1][0][0] if len(found) > 1 else None,
        amplified_by_order=False,
    )


def _refuse_order_overclaim(guarantee: Guarantee) -> None:
    """Raise in the same way where the order of rows is counted on."""
    assert guarantee.n is not None
    assert guarantee.p is not None
    assert guarantee.sigma is not None
    assert guarantee.max_norm is not None
    setting = _setting(
        d=guarantee.d,
        p=guarantee.p,
        frame=guarantee.frame,
        adjacency=guarantee.adjacency,
        max_norm=guarantee.max_norm,
        diameter=guarantee.diameter,
        column_norm=1.0,  # seeded frames may have longer columns: that counts below the tolerance
        frame_norm=guarantee.frame_norm,
    )
    n, sigma, rounding = guarantee.n, guarantee.sigma, guarantee.epsilon_numerical
    wrong = None
    if (
        rounding < setting.rounding(sigma) * (1.0 - 1e-12)
        or guarantee.delta_numerical < _order_rounding(n, guarantee.p) * (1.0 - 1e-12)
        or not guarantee.delta > guarantee.delta_numerical
    ):
        wrong = "what rounding costs"
    for name, kind, stated in (
        ("epsilon", guarantee.adjacency, guarantee.epsilon),
        ("epsilon_replace_one", "replace_one", guarantee.epsilon_replace_one),
    ):
        if stated is None or wrong is not None:
            continue
        eps = stated - rounding
        target = setting.order_target(guarantee.delta, n) + _CLAIM_TOLERANCE
        if setting.log_delta_in_order(eps, sigma, kind, n, rounding) <= target:
            continue
        # With the order claimed for one adjacency, noise alone may serve the other.
        if stated < setting.alone(guarantee.delta, sigma, kind, at_least=True)[0] * _CLAIM_SHARE:
            wrong = name
    if wrong is not None:
        raise ValueError(
            f"the guarantee claims more than its numbers give: {wrong} is too small for its "
            f"sigma and n = {n} rows in random order"
        )


def slicing_guarantee(
    *,
    sigma: float,
    delta: float,
    d: int,
    p: int,
    n: int | None = None,
    frame: str = "orthonormal",
    adjacency: str = "zero_out",
    max_norm: float = 1.0,
    diameter: float | None = None,
    column_norm: float = 1.0,
    frame_norm: float | None = None,
    private: bool = True,
    notes: Sequence[str] = (),
    amplify_by_order: bool = False,
    epsilon: float | None = None,
) -> Guarantee:
    """Guarantee of one computed release, with everything that rounding costs.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise, in the unit of the data.
    delta : float
        Total delta to state, 0 < delta < 1.
    d, p, n : int
        Features, released columns, rows (public).
    frame : {"orthonormal", "gaussian"}
        Law of the random projection.
    adjacency : {"zero_out", "replace_one"}
        Neighbouring tables.
    max_norm : float, default 1.0
        Bound on the norm of a row.
    diameter : float, optional
        Public bound on the distance of two rows. Default, and at most: ``2 * max_norm``.
    column_norm : float, default 1.0
        Largest norm of a column of the frame: 1 for orthonormal frames.
    frame_norm : float, optional
        Bound on the spectral norm of the frame, where the frame may have been known before the
        records were fixed (a seed): then the guarantee is for the two rows, Delta apart, that it
        tells apart best, delta(eps) = dG(eps; Delta frame_norm / sigma). Default: the frame is
        drawn afresh, and delta is the average over its law.
    private : bool, default True
        False for noise that is not fit for privacy.
    notes : sequence of str
        Further conditions, for the certificate.
    amplify_by_order : bool, default False
        Whether all n rows are published in a secret, uniformly random order, which may be counted
        on (`shuffled_delta`): each epsilon is then the smaller of that with and without. Not for
        ``gaussian`` frames without a `frame_norm`.
    epsilon : float, optional
        What `calibrate_slicing` was given with `amplify_by_order`. Its bound need not fall in
        epsilon, so the search for the least one may start well there alone.

    Returns
    -------
    Guarantee
        With ``mechanism="slicing"`` and, for ``zero_out``, the ``replace_one`` epsilon beside it.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range, delta does not exceed what rounding needs, or the order
        may not be counted on.
    """
    noise = _arrays.positive_real("sigma", sigma)
    setting = _setting(
        d=d,
        p=p,
        frame=frame,
        adjacency=adjacency,
        max_norm=max_norm,
        diameter=diameter,
        column_norm=column_norm,
        frame_norm=frame_norm,
    )
    total = setting.checked_delta(delta)

    kinds = [setting.adjacency]
    if setting.adjacency == "zero_out":
        kinds.append("replace_one")
    alone, lost = zip(*(setting.alone(total, noise, kind) for kind in kinds), strict=True)
    delta_numerical = lost[0]
    stated = alone
    if amplify_by_order:
        rows = _checked_order(setting, n)
        if epsilon is not None:
            epsilon = _arrays.positive_real("epsilon", epsilon)
        stated = tuple(
            min(least, setting.epsilon_in_order(total, noise, kind, rows, epsilon))
            for kind, least in zip(kinds, alone, strict=True)
        )
        if stated != alone:
            delta_numerical = _order_rounding(rows, setting.p)
            without = [f"epsilon {_rounded_up(alone[0])}"]
            without += [f"replace_one epsilon {_rounded_up(eps)}" for eps in alone[1:]]
            notes = (*notes, f"without the order, at the same delta: {', '.join(without)}")
    return Guarantee(
        epsilon=stated[0],
        delta=total,
        adjacency=setting.adjacency,
        mechanism="slicing",
        sensitivity=setting.distance(setting.adjacency),
        sigma=noise,
        frame=setting.frame,
        frame_norm=setting.frame_norm,
        d=setting.d,
        p=setting.p,
        n=n,
        max_norm=setting.max_norm,
        diameter=setting.diameter,
        epsilon_numerical=setting.rounding(noise),
        delta_numerical=delta_numerical,
        epsilon_replace_one=stated[1] if setting.adjacency == "zero_out" else None,
        private=private,
        notes=(*notes, *setting.notes()),
        amplified_by_order=stated != alone,
    )


def calibrate_slicing(
    epsilon: float,
    delta: float,
    *,
    d: int,
    p: int,
    frame: str = "orthonormal",
    adjacency: str = "zero_out",
    max_norm: float = 1.0,
    diameter: float | None = None,
    column_norm: float = 1.0,
    frame_norm: float | None = None,
    n: int | None = None,
    amplify_by_order: bool = False,
) -> float:
    """Noise of one computed release, so that its total stays within a given epsilon and delta.

    Parameters
    ----------
    epsilon : float
        Total epsilon allowed, > 0.
    delta : float
        Total delta allowed, 0 < delta < 1.
    d, p, frame, adjacency, max_norm, diameter, column_norm, frame_norm, n, amplify_by_order
        As in `slicing_guarantee`.

    Returns
    -------
    float
        Sigma, in the unit of the data: ``slicing_guarantee(sigma=sigma, delta=delta, ...)`` states
        an epsilon that is at most the given one.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range, or rounding alone needs more than epsilon or delta.
    """
    eps = _arrays.positive_real("epsilon", epsilon)
    setting = _setting(
        d=d,
        p=p,
        frame=frame,
        adjacency=adjacency,
        max_norm=max_norm,
        diameter=diameter,
        column_norm=column_norm,
        frame_norm=frame_norm,
    )
    total = setting.checked_delta(delta, eps)
    left = math.log(total - _lost_delta(setting.p, eps))

    def least(budget: float) -> float:
        target = left - (eps - budget)
        guess = setting.ratio(1.0, setting.adjacency).typical() / _gaussian_mu(budget, target)

        def log_f(sigma: float) -> float:
            return _scalar(budget, setting.ratio(sigma, setting.adjacency))

        return _least_sigma(log_f, target, guess)

    # Rounding costs less when sigma is larger, so one correction of the budget is enough.
    rounding = setting.rounding(least(eps))
    if not eps > rounding:
        raise ValueError(
            f"epsilon must exceed what rounding needs at p = {setting.p}, {rounding}; got {eps}"
        )
    sigma = least(eps - rounding)
    while setting.alone(total, sigma, setting.adjacency)[0] > eps:
        sigma *= _SAFE_SIGMA
    if amplify_by_order:
        sigma = _least_sigma_in_order(setting, eps, total, sigma, _checked_order(setting, n))
    return sigma


def _least_sigma_in_order(
    setting: _Setting, eps: float, delta: float, high: float, n: int
) -> float:
    """Least noise, up to `high`, at which the order of n rows gives epsilon; or `high`."""
    target = setting.order_target(delta, n)

    def holds(sigma: float) -> bool:
        rounding = setting.rounding(sigma)
        at = eps - rounding
        return setting.log_delta_in_order(at, sigma, setting.adjacency, n, rounding) <= target

    if not holds(high):
        return high
    low = high / 1.5
    while holds(low):
        low, high = low / 1.5, low
    return _end_that_holds(holds, high, low)


# ------------------------------------------------------------------------------ sum releases

_SUM_ROUNDING: Final = 1.0 + 1e-9  # covers the rounding of norms, weights and noise scales


def sum_numerical_loss(cells: int, epsilon: float = 0.0) -> tuple[float, float]:
    r"""Privacy that a sum release loses because a computer rounds.

    The sum S is exact. With h the grid and r what is left of S above the largest multiple of h in
    it, a released number is ``S - r + h round((r + V) / h)``. The computed r + V differs from the
    ideal one by at most ``e = 8.5 * 2**-52 * 11 s`` except with probability ``2**-74``, s being
    the standard deviation of V. As in `numerical_loss`, with C = 0, that changes the probability of
    a cell of the grid by a factor of at most 1 + 2.1 e/h, on both sides; s / h is below 2**11.

    Parameters
    ----------
    cells : int
        Released numbers.
    epsilon : float, optional
        Epsilon that is stated, or a bound on it.

    Returns
    -------
    epsilon, delta : float
        ``2e-11 * 11 * cells``, and as of `numerical_loss`.

    Raises
    ------
    TypeError, ValueError
        If `cells` is no positive integer, or `epsilon` no number >= 0.
    """
    count = _arrays.positive_integer("cells", cells)
    stated = _arrays.nonnegative_or_infinite("epsilon", epsilon)
    return 2.2e-10 * count, _lost_delta(count, stated)


def choice_range(mu: float) -> float:
    r"""Range of losses at which the exponential mechanism is mu-Gaussian differentially private.

    Of a mechanism whose privacy losses span a range of eta at most, for any two neighbours, no
    event tells more than one of two outcomes with probabilities P and Q whose log odds differ by
    eta. It is mu-Gaussian differentially private where :math:`\Phi^{-1}(P) - \Phi^{-1}(Q) \le \mu`
    for every such pair. The difference is largest at P = 1 - Q, since
    :math:`\Phi^{-1}(1/(1 + e^{-z}))` is odd in z and concave above 0, so

    .. math:: \eta = 2 \ln\frac{\Phi(\mu/2)}{\Phi(-\mu/2)} = 4 \,\mathrm{artanh}\,
              \mathrm{erf}(\mu / \sqrt 8),

    about 1.6 mu for small mu, where zero-concentrated privacy of the same size allows 2 mu. Such
    mechanisms compose as Gaussian ones do, whatever later ones make of earlier outputs: the squares
    of mu add up.

    Parameters
    ----------
    mu : float
        Ratio of sensitivity to noise of the Gaussian mechanism, > 0.

    Returns
    -------
    float
        eta, 1e-11 below its value for rounding, and no less than 0. Scores q whose sensitivity is
        Delta have it where the probabilities are proportional to exp(eta q / (2 Delta)).

    Raises
    ------
    TypeError, ValueError
        If `mu` is no positive number, or above 50.

    References
    ----------
    Dong, Roth, Su, "Gaussian differential privacy", 2019 (arXiv 1905.02383): composition. Durfee,
    Rogers, "Practical differentially private top-k selection", 2019 (arXiv 1905.04273): the range.
    """
    ratio = _arrays.positive_real("mu", mu)
    if ratio > 50.0:
        raise ValueError(f"mu must be at most 50; got {mu}")
    x = ratio / math.sqrt(8.0)
    eta = 2.0 * (math.log1p(math.erf(x)) - math.log(math.erfc(x)))
    return max(0.0, eta * (1.0 - 1e-12) - 1e-11)


def checked_sampling_rate(value: object, adjacency: str, delta: float) -> float | None:
    """Return the rate, or raise unless it may be sampled at that under the adjacency."""
    if value is None:
        return None
    rate = _arrays.open_unit("sampling_rate", value)
    if not rate > delta:
        raise ValueError(f"sampling_rate must be above delta = {delta}; got {rate}")
    if adjacency == "replace_one":
        raise ValueError(
            "sampling_rate must be None under replace_one: sampling is accounted for records that "
            "are there or count nowhere (zero_out, add_remove)"
        )
    return rate


def _log_sampled_profile(eps: float, mu: float, rate: float | None) -> float:
    r"""Ln delta of a Gaussian mechanism on a Poisson sample.

    One record more moves the output from N(0, 1) to (1 - q) N(0, 1) + q N(mu, 1). The hockey-stick
    divergences of the pair, in both orders, are multiples of the Gaussian mechanism's:

    .. math:: q\,\delta_\mu(\ln(1 + (e^\epsilon - 1)/q)), \qquad
              a\,\delta_\mu(\ln(e^\epsilon q / a)), \quad a = 1 - e^\epsilon (1 - q),

    the second where a > 0.
    """
    ratio = _Ratio(mu)
    if rate is None:
        return _scalar(eps, ratio)
    with_record = math.log(rate) + _scalar(float(_base_epsilon(eps, np.asarray(rate))), ratio)
    if eps >= -math.log1p(-rate):
        return with_record
    a = rate - math.expm1(eps) * (1.0 - rate)
    if not a > 0.0:
        return with_record
    without = math.log(a) + _scalar(max(0.0, eps + math.log(rate / a)), ratio)
    return max(with_record, without)


def _sum_distances(adjacency: object, norm: object, diameter: object) -> tuple[str, float, float]:
    kind = _arrays.choice("adjacency", adjacency, SUM_ADJACENCIES)
    bound = _arrays.positive_real("norm", norm)
    far = min(_arrays.positive_real("diameter", diameter), 2.0 * bound)
    return kind, far if kind == "replace_one" else bound, far


def sum_guarantee(
    *,
    sigma: float,
    delta: float,
    cells: int,
    norm: float,
    diameter: float,
    adjacency: str = "zero_out",
    sampling_rate: float | None = None,
    n: int | None = None,
    notes: Sequence[str] = (),
) -> Guarantee:
    r"""Guarantee of one computed sum release, with everything that rounding costs.

    Publishing :math:`\sum_i \phi(x_i) + N(0, \sigma^2 I)` is a Gaussian mechanism whose ratio of
    sensitivity to noise is the norm bound over sigma where a record is added, removed or replaced
    by one without features, and the diameter over sigma where it is replaced by any other.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise, in the unit of the features.
    delta : float
        Total delta to state, 0 < delta < 1.
    cells : int
        Released numbers.
    norm, diameter : float
        Bounds on the norm of a record's features, and on the distance of two records'.
    adjacency : {"zero_out", "replace_one", "add_remove"}
        Neighbouring tables.
    sampling_rate : float, optional
        Probability with which each record takes part, independently of the others; which ones do,
        and how many, must stay secret. Not under ``replace_one``.
    n : int, optional
        Records; public, and not to be given under ``add_remove``.
    notes : sequence of str
        Further conditions, for the certificate.

    Returns
    -------
    Guarantee
        With ``mechanism="sums"`` and, without sampling, the ``replace_one`` epsilon beside the
        other adjacencies'.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range, or delta does not exceed what rounding needs.

    Examples
    --------
    >>> promise = sum_guarantee(sigma=2.0, delta=1e-6, cells=10, norm=1.0, diameter=1.4)
    >>> f"{promise.epsilon:.4f}"
    '2.2541'
    """
    noise = _arrays.positive_real("sigma", sigma)
    kind, distance, far = _sum_distances(adjacency, norm, diameter)
    total = _checked_total(delta, 0.0, cells, f"for {cells} sums")
    rate = checked_sampling_rate(sampling_rate, kind, total)
    epsilon, lost = _sum_epsilon(total, distance / noise, cells, rate)
    replaced = None
    if kind != "replace_one" and rate is None:
        replaced, _ = _sum_epsilon(total, far / noise, cells, None)
    return Guarantee(
        epsilon=epsilon,
        delta=total,
        adjacency=kind,
        mechanism="sums",
        sensitivity=distance,
        sigma=noise,
        p=cells,
        n=n,
        max_norm=norm,
        diameter=far,
        epsilon_numerical=sum_numerical_loss(cells)[0],
        delta_numerical=lost,
        epsilon_replace_one=replaced,
        notes=tuple(notes),
        sampling_rate=rate,
    )


def _sum_epsilon(
    delta: float, ratio: float, cells: int, rate: float | None, *, at_least: bool = False
) -> tuple[float, float]:
    """Epsilon at a ratio of distance to noise, and what of delta rounding has taken."""
    return _computed_epsilon(
        lambda target: _sampled_epsilon(target, ratio * _SUM_ROUNDING, rate),
        delta,
        sum_numerical_loss(cells)[0],
        cells,
        at_least=at_least,
    )


def _sampled_epsilon(target: float, mu: float, rate: float | None) -> float:
    if rate is None:
        return _epsilon(target, _Ratio(mu))
    return _least_epsilon(
        lambda eps: _log_sampled_profile(eps, mu, rate), target, _gaussian_epsilon(target, mu)
    )


def calibrate_sums(
    epsilon: float,
    delta: float,
    *,
    cells: int,
    norm: float,
    diameter: float,
    adjacency: str = "zero_out",
    sampling_rate: float | None = None,
) -> float:
    """Noise of one computed sum release, so that its total stays within a given epsilon and delta.

    Parameters
    ----------
    epsilon : float
        Total epsilon allowed, > 0.
    delta : float
        Total delta allowed, 0 < delta < 1.
    cells, norm, diameter, adjacency, sampling_rate
        As in `sum_guarantee`.

    Returns
    -------
    float
        Sigma, in the unit of the features.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range, or rounding alone needs more than epsilon or delta.
    """
    eps = _arrays.positive_real("epsilon", epsilon)
    kind, distance, _ = _sum_distances(adjacency, norm, diameter)
    total = _checked_total(delta, eps, cells, f"for {cells} sums")
    rate = checked_sampling_rate(sampling_rate, kind, total)
    rounding, lost = sum_numerical_loss(cells, eps)
    target = math.log(total - lost) - rounding
    if not eps > rounding:
        raise ValueError(
            f"epsilon must exceed what rounding needs for {cells} sums, {rounding}; got {eps}"
        )
    reach = distance * _SUM_ROUNDING
    sigma = reach / _gaussian_mu(eps - rounding, target) * _SAFE_SIGMA
    if rate is not None:
        sigma = _SAFE_SIGMA * _least_sigma(
            lambda x: _log_sampled_profile(eps - rounding, reach / x, rate), target, sigma
        )
    while _sum_epsilon(total, distance / sigma, cells, rate)[0] > eps:
        sigma *= _SAFE_SIGMA
    return sigma
