"""Releases of a secret random part of the rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dpslice import _arrays
from dpslice.accounting import _special
from dpslice.accounting._adjacency import SUM_ADJACENCIES
from dpslice.accounting._gaussian import (
    CHUNK,
    ERROR_ABSOLUTE,
    Array,
    Ratio,
    checked_ratio,
    gaussian_epsilon,
    gaussian_mu,
    least_epsilon,
    least_sigma,
    log_delta_at,
    log_loss_tail,
    log_profile,
    log_profile_signed,
    log_target,
)


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

    Raises
    ------
    TypeError
        If a number or a word is of the wrong kind.
    ValueError
        If one is out of range, or not exactly one of `size` and `rate` is given.
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

    far: Ratio
    near: Ratio
    adjacency: str
    sample: Subsample

    def at(self, sigma: float) -> _Base:
        return dataclasses.replace(self, far=self.far.over(sigma), near=self.near.over(sigma))

    def log_delta(self, eps: float) -> float:
        sample = self.sample
        if sample.order == "kept":
            law = self.near if self.adjacency == "zero_out" else self.far
            return min(0.0, math.log(sample.fraction) + log_delta_at(eps, law))
        if sample.size is not None or sample.rate == 1.0:
            return float(self._fixed(eps, np.array([sample.fraction]))[0])
        return self._poisson(eps)

    def _fixed(self, eps: float, t: Array) -> Array:
        """Log-delta when a fixed share t of the rows is drawn, for several t at once."""
        if self.adjacency == "zero_out":
            return self._fixed_zero_out(eps, t)
        return np.log(t) + log_profile(base_epsilon(eps, t), self.far)

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
            return log_loss_tail(near, self.near) - log_loss_tail(far, self.far)

        ends = np.full(t.size, 30.0)
        u = _special.roots(slope, -ends, ends, tol=1e-5)
        log_w, log_rest, far, near = arguments(u)
        replaced = log_rest + log_profile_signed(far, self.far)
        moved = log_w + log_profile_signed(near, self.near)
        value = np.logaddexp(replaced, moved)  # an upper bound at any w, least at this one
        always = log_profile(np.full(t.size, eps), self.near)  # w = 1
        return np.asarray(np.log(t) + np.minimum(value, always))

    def _poisson(self, eps: float) -> float:
        counts, log_weights, log_omitted = binomial(self.sample.n, self.sample.fraction)
        drawn = counts > 0
        counts, log_weights = counts[drawn], log_weights[drawn]
        values = _interpolated(lambda t: self._fixed(eps, t), counts / self.sample.n)
        total = float(np.logaddexp.reduce(log_weights + values))
        return min(0.0, float(np.logaddexp(total, log_omitted)) + ERROR_ABSOLUTE)


def base_epsilon(eps: float, t: Array) -> Array:
    """Solve eps = ln(1 + t (e^x - 1)) for x; no overflow for large eps, no cancellation near 0."""
    if eps < 1.0:
        return np.asarray(np.log1p(math.expm1(eps) / t))
    return np.asarray(eps + np.log1p(-(1.0 - t) * math.exp(-eps)) - np.log(t))


def binomial(n: int, t: float) -> tuple[Array, Array, float]:
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
    return np.concatenate([f(t[i : i + CHUNK]) for i in range(0, t.size, CHUNK)])


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
        far=checked_ratio(sigma, d, p, frame, wide),
        near=checked_ratio(sigma, d, p, frame, norm),
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
    target = log_target(delta, log_delta)
    base = _subsampled(sample, adjacency, sigma, d, p, frame, max_norm, diameter)
    mu = base.near.typical() if adjacency == "zero_out" else base.far.typical()
    return least_epsilon(base.log_delta, target, gaussian_epsilon(target, mu))


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
    target = log_target(delta, log_delta)
    base = _subsampled(sample, adjacency, 1.0, d, p, frame, max_norm, diameter)
    if target >= math.log(base.sample.fraction):
        raise ValueError(
            f"delta must be below the share of the rows drawn, {base.sample.fraction}: a release"
            f" without any noise would meet it; got {math.exp(target)}"
        )
    mu = base.near.typical() if adjacency == "zero_out" else base.far.typical()
    guess = mu / gaussian_mu(eps, target)
    return least_sigma(lambda x: base.at(x).log_delta(eps), target, guess)


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
