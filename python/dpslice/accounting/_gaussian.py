"""Exact epsilon, delta and sigma of one release: the Gaussian profile, averaged over frames.

Given the frame U, the slicing mechanism is a Gaussian mechanism whose ratio of sensitivity to
noise, mu, depends on U alone; `Ratio` is the law of mu.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.accounting import _special
from dpslice.frames import FRAMES

Array = NDArray[np.float64]
# Error of ln delta allowed for, at a value of size |ln delta|: several times what was measured
# against 50-digit arithmetic. It is added, so that a reported delta is never below the true one.
ERROR_ABSOLUTE: Final = 2.5e-14
_ERROR_RELATIVE: Final = 5e-15
_LARGE_MU: Final = 100.0  # below, what cancels in eps/mu - mu/2 is within that allowance
SAFE_SIGMA: Final = 1.0 + 1e-10
MOST_MU: Final = 1e150  # its square, which epsilon is made of, is a number
_SIGMAS: Final = (1e-300, 1e300)  # beyond, sensitivity / sigma is not a normal number any more
CHUNK: Final = 512  # rows of a batch of quadratures: bounds the memory at some ten MiB


# ------------------------------------------------------------- the law of sensitivity over noise


@dataclass(frozen=True)
class Ratio:
    """Law of mu = sqrt(fixed^2 + scale^2 T), T ~ chi2(p), Beta(r/2, (d-r)/2), or absent.

    `shape` is (p,) or (r, d), or empty when mu is a fixed number.
    """

    fixed: float
    scale: float = 0.0
    shape: tuple[int, ...] = ()

    def over(self, sigma: float) -> Ratio:
        """Law with sigma times the noise."""
        return Ratio(self.fixed / sigma, self.scale / sigma, self.shape)

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


def ratio_of(*, sigma: float, d: int, p: int, frame: str, sensitivity: float) -> Ratio:
    noise = sensitivity / sigma
    if frame == "gaussian":
        return Ratio(0.0, noise / math.sqrt(d), (p,))
    q, r = divmod(p, d)
    return Ratio(noise * math.sqrt(q), noise, (r, d)) if r else Ratio(noise * math.sqrt(q))


@np.errstate(over="ignore")  # far from the mode, where the density is 0 or mu infinite
def _average(
    log_f: Callable[[Array, Array], Array], epsilon: Array, ratio: Ratio, *, deep: bool
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


def log_profile(epsilon: Array, ratio: Ratio) -> Array:
    """Upper bound of ln delta at each epsilon >= 0, above the truth by rounding only."""
    if ratio.scale == 0.0 or not ratio.shape:
        value = _special.log_gaussian_profile(epsilon, ratio.fixed)
    elif not math.isfinite(ratio.scale):
        value = np.zeros_like(epsilon)
    else:
        value = np.full_like(epsilon, -np.inf)
        finite = np.flatnonzero(np.isfinite(epsilon))
        for start in range(0, finite.size, CHUNK):
            some = finite[start : start + CHUNK]
            value[some] = _average(_special.log_gaussian_profile, epsilon[some], ratio, deep=False)
        near_one = np.flatnonzero(value > -0.1)
        if near_one.size:
            # 1 - delta is small there, and ln delta would keep only its absolute accuracy.
            rest = _average(_special.log_gaussian_complement, epsilon[near_one], ratio, deep=True)
            value[near_one] = np.log1p(-np.exp(np.minimum(rest, 0.0)))
    size = np.abs(np.where(np.isfinite(value), value, 0.0))
    slack = np.minimum(ERROR_ABSOLUTE, 1e-12 * size) + _ERROR_RELATIVE * size
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


def log_profile_signed(epsilon: Array, ratio: Ratio) -> Array:
    """Extend `log_profile` to any real epsilon: delta(eps) = 1 - e^eps + e^eps delta(-eps)."""
    flat = np.ravel(epsilon)
    value = log_profile(np.abs(flat), ratio)
    below = flat < 0.0
    with np.errstate(divide="ignore"):
        value[below] = np.log(-np.expm1(flat[below]) + np.exp(flat[below] + value[below]))
    return np.asarray(np.minimum(value, 0.0).reshape(np.shape(epsilon)))


def log_loss_tail(epsilon: Array, ratio: Ratio) -> Array:
    """Ln of the probability that the privacy loss exceeds epsilon; any real epsilon."""
    if ratio.scale == 0.0 or not ratio.shape:
        return _special.log_gaussian_loss_tail(epsilon, ratio.fixed)
    value = np.where(epsilon > 0.0, -np.inf, 0.0)
    finite = np.flatnonzero(np.isfinite(epsilon))
    for start in range(0, finite.size, CHUNK):
        some = finite[start : start + CHUNK]
        value[some] = _average(_special.log_gaussian_loss_tail, epsilon[some], ratio, deep=False)
    return value


# --------------------------------------------------------------------------- inverse problems


def least_epsilon(log_f: Callable[[float], float], target: float, guess: float) -> float:
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


def least_sigma(log_f: Callable[[float], float], target: float, guess: float) -> float:
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
    sigma = math.exp(_special.brent(f, low, high, f_low, f_high)) * SAFE_SIGMA
    while log_f(sigma) > target:
        sigma *= SAFE_SIGMA
    return sigma


def gaussian_epsilon(target: float, mu: float) -> float:
    """Epsilon of the Gaussian mechanism with a fixed ratio; the first guess for other laws."""
    ratio = Ratio(mu)
    return least_epsilon(
        lambda x: log_delta_at(x, ratio), target, 0.5 * mu * mu + mu * math.sqrt(-2.0 * target)
    )


def gaussian_mu(epsilon: float, target: float) -> float:
    """Ratio at which the Gaussian mechanism has this epsilon and delta."""
    # mu^2/2 + mu s = epsilon, the tail bound of the profile, solved without cancellation
    s = math.sqrt(-2.0 * target)
    twice = min(2.0 * epsilon, sys.float_info.max)
    guess = (s + math.sqrt(s * s + twice)) / twice
    return 1.0 / least_sigma(lambda x: log_delta_at(epsilon, Ratio(1.0 / x)), target, guess)


def log_delta_at(epsilon: float, ratio: Ratio) -> float:
    return float(log_profile(np.array([epsilon]), ratio)[0])


def log_target(delta: float | None, log_delta: float | None) -> float:
    if (delta is None) == (log_delta is None):
        raise ValueError("exactly one of delta and log_delta must be given")
    if delta is not None:
        return math.log(_arrays.open_unit("delta", delta))
    return _arrays.negative_real("log_delta", log_delta)


def checked_ratio(sigma: object, d: object, p: object, frame: object, sensitivity: object) -> Ratio:
    return ratio_of(
        sigma=_arrays.positive_real("sigma", sigma),
        d=_arrays.positive_integer("d", d),
        p=_arrays.positive_integer("p", p),
        frame=_arrays.choice("frame", frame, FRAMES),
        sensitivity=_arrays.positive_real("sensitivity", sensitivity),
    )


def checked_to_square(
    sigma: object,
    d: object,
    p: object,
    frame: object,
    sensitivity: object,
    *,
    least: float = 0.0,
) -> Ratio:
    """Check arguments as `checked_ratio` does, for what is of the size of the ratio's square."""
    ratio = checked_ratio(sigma, d, p, frame, sensitivity)
    if not least <= ratio.typical() <= MOST_MU:
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
        ``1e-14 (1 + |ln delta|)``, never below it.

    Raises
    ------
    TypeError
        If an argument is not of the stated kind.
    ValueError
        If an argument is out of range.
    """
    ratio = checked_ratio(sigma, d, p, frame, sensitivity)
    return log_delta_at(_arrays.nonnegative_real("epsilon", epsilon), ratio)


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
    delta : float, optional
        Privacy parameter, 0 < delta < 1. Exactly one of `delta` and `log_delta` is given.
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
        As in `log_delta`; if not exactly one of `delta` and `log_delta` is given; or if the square
        of sensitivity over sigma leaves the number range.
    """
    target = log_target(delta, log_delta)
    return epsilon_at(target, checked_to_square(sigma, d, p, frame, sensitivity))


def epsilon_at(target: float, ratio: Ratio) -> float:
    guess = gaussian_epsilon(target, ratio.typical())
    if not ratio.shape:
        return guess
    return least_epsilon(lambda x: log_delta_at(x, ratio), target, guess)


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
    delta : float, optional
        Privacy parameter, 0 < delta < 1. Exactly one of `delta` and `log_delta` is given.
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
        As in `log_delta`; if not exactly one of `delta` and `log_delta` is given; or if sigma would
        not lie between 1e-300 and 1e300.
    """
    eps = _arrays.positive_real("epsilon", epsilon)
    target = log_target(delta, log_delta)
    unit = checked_ratio(1.0, d, p, frame, sensitivity)  # mu at sigma = 1
    guess = unit.typical() / gaussian_mu(eps, target)
    return least_sigma(lambda sigma: log_delta_at(eps, unit.over(sigma)), target, guess)
