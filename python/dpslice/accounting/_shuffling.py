"""Releases of rows in a secret, uniformly random order."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from dpslice import _arrays
from dpslice.accounting import _special
from dpslice.accounting._gaussian import (
    Array,
    Ratio,
    gaussian_epsilon,
    gaussian_mu,
    log_delta_at,
)
from dpslice.accounting._subsampling import binomial


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
    Takes up to some seconds for n of a million. Little is gained from epsilon = 5 on for a hundred
    thousand rows or fewer, from 6 on for a million.

    References
    ----------
    Feldman, McMillan, Talwar, "Hiding among the clones", arXiv:2012.12803.
    """
    eps = _arrays.nonnegative_real("epsilon", epsilon)
    ratio = _arrays.positive_real("mu", mu)
    rows = _arrays.positive_integer("n", n)
    # The bound need not fall in epsilon, but delta does.
    smaller = (1.0, 0.99, 0.97, 0.94, 0.9) if eps > 0.0 else (1.0,)
    return math.exp(min(log_shuffled_delta(eps * share, ratio, rows) for share in smaller))


def log_shuffled_delta(eps: float, mu: float, n: int, lost: float = 0.0) -> float:
    """Log of the bound at one epsilon, not above the unshuffled value.

    With `lost`, the other rows' probabilities may fall short of the ideal ones by a factor of
    ``exp(-lost)``: so much rarer are they taken for the row that changed.
    """
    plain = log_delta_at(eps, Ratio(mu))
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
        counts, log_weights, log_omitted = binomial(n - 1, theta)
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
    high = gaussian_epsilon(target, ratio)
    return least_holding(lambda eps: log_shuffled_delta(eps, ratio, rows) <= target, high)


def least_holding(holds: Callable[[float], bool], high: float) -> float:
    """Find an epsilon up to `high`, where a bound holds, at which it does: nearly the least."""
    if high == 0.0 or holds(0.0):
        return 0.0
    return end_that_holds(holds, high, 0.0)


def end_that_holds(holds: Callable[[float], bool], good: float, bad: float) -> float:
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
        return log_shuffled_delta(eps, mu, rows) <= target

    low = gaussian_mu(eps, target)
    high = 1.5 * low
    while holds(high):
        low, high = high, 1.5 * high
    return end_that_holds(holds, low, high)
