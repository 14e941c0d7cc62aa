"""What one release of sums promises, and the noise that it needs for a promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dpslice import _arrays
from dpslice.accounting._adjacency import SUM_ADJACENCIES, checked_rows_per_person
from dpslice.accounting._gaussian import (
    SAFE_SIGMA,
    Ratio,
    epsilon_at,
    gaussian_epsilon,
    gaussian_mu,
    least_epsilon,
    least_sigma,
    log_delta_at,
)
from dpslice.accounting._guarantee import Guarantee
from dpslice.accounting._rounding import (
    SUM_ROUNDING,
    checked_total,
    computed_epsilon,
    sum_numerical_loss,
)
from dpslice.accounting._subsampling import base_epsilon


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


def checked_sampling_rate(
    value: object, adjacency: str, delta: float, rows_per_person: int
) -> float | None:
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
    if rows_per_person > 1:
        raise ValueError(
            "sampling_rate must be None with several rows_per_person: sampling is accounted for "
            f"people with one record each; got rows_per_person = {rows_per_person}"
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
    ratio = Ratio(mu)
    if rate is None:
        return log_delta_at(eps, ratio)
    with_record = math.log(rate) + log_delta_at(float(base_epsilon(eps, np.asarray(rate))), ratio)
    if eps >= -math.log1p(-rate):
        return with_record
    a = rate - math.expm1(eps) * (1.0 - rate)
    if not a > 0.0:
        return with_record
    without = math.log(a) + log_delta_at(max(0.0, eps + math.log(rate / a)), ratio)
    return max(with_record, without)


@dataclass(frozen=True)
class SumDistances:
    """How far one person's records move sums: all of them in the same direction, at worst."""

    norm: float  # of one record
    diameter: float  # of two
    rows_per_person: int

    def of(self, adjacency: str) -> float:
        one = self.diameter if adjacency == "replace_one" else self.norm
        return self.rows_per_person * one


def checked_distances(norm: object, diameter: object, rows_per_person: object) -> SumDistances:
    bound = _arrays.positive_real("norm", norm)
    far = min(_arrays.positive_real("diameter", diameter), 2.0 * bound)
    return SumDistances(bound, far, checked_rows_per_person(rows_per_person))


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
    rows_per_person: int = 1,
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
    rows_per_person : int, default 1
        Records that one person has at most, all of which change together: they move the sums by
        so many times as much as one. Not with a `sampling_rate`.

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
    kind = _arrays.choice("adjacency", adjacency, SUM_ADJACENCIES)
    distances = checked_distances(norm, diameter, rows_per_person)
    distance = distances.of(kind)
    total = checked_total(delta, 0.0, cells, f"for {cells} sums")
    rate = checked_sampling_rate(sampling_rate, kind, total, distances.rows_per_person)
    epsilon, lost = sum_epsilon(total, distance / noise, cells, rate)
    replaced = None
    if kind != "replace_one" and rate is None:
        replaced, _ = sum_epsilon(total, distances.of("replace_one") / noise, cells, None)
    return Guarantee(
        epsilon=epsilon,
        delta=total,
        adjacency=kind,
        mechanism="sums",
        sensitivity=distance,
        sigma=noise,
        p=cells,
        n=n,
        max_norm=distances.norm,
        diameter=distances.diameter,
        epsilon_numerical=sum_numerical_loss(cells)[0],
        delta_numerical=lost,
        epsilon_replace_one=replaced,
        notes=_arrays.elements("notes", notes),
        sampling_rate=rate,
        rows_per_person=distances.rows_per_person,
    )


def sum_epsilon(
    delta: float, ratio: float, cells: int, rate: float | None, *, at_least: bool = False
) -> tuple[float, float]:
    """Epsilon at a ratio of distance to noise, and what of delta rounding has taken."""
    return computed_epsilon(
        lambda target: _sampled_epsilon(target, ratio * SUM_ROUNDING, rate),
        delta,
        sum_numerical_loss(cells)[0],
        cells,
        at_least=at_least,
    )


def _sampled_epsilon(target: float, mu: float, rate: float | None) -> float:
    if rate is None:
        return epsilon_at(target, Ratio(mu))
    return least_epsilon(
        lambda eps: _log_sampled_profile(eps, mu, rate), target, gaussian_epsilon(target, mu)
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
    rows_per_person: int = 1,
) -> float:
    """Noise of one computed sum release, so that its total stays within a given epsilon and delta.

    Parameters
    ----------
    epsilon : float
        Total epsilon allowed, > 0.
    delta : float
        Total delta allowed, 0 < delta < 1.
    cells, norm, diameter, adjacency, sampling_rate, rows_per_person
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
    kind = _arrays.choice("adjacency", adjacency, SUM_ADJACENCIES)
    distances = checked_distances(norm, diameter, rows_per_person)
    distance = distances.of(kind)
    total = checked_total(delta, eps, cells, f"for {cells} sums")
    rate = checked_sampling_rate(sampling_rate, kind, total, distances.rows_per_person)
    rounding, lost = sum_numerical_loss(cells, eps)
    target = math.log(total - lost) - rounding
    if not eps > rounding:
        raise ValueError(
            f"epsilon must exceed what rounding needs for {cells} sums, {rounding}; got {eps}"
        )
    reach = distance * SUM_ROUNDING
    sigma = reach / gaussian_mu(eps - rounding, target) * SAFE_SIGMA
    if rate is not None:
        sigma = SAFE_SIGMA * least_sigma(
            lambda x: _log_sampled_profile(eps - rounding, reach / x, rate), target, sigma
        )
    while sum_epsilon(total, distance / sigma, cells, rate)[0] > eps:
        sigma *= SAFE_SIGMA
    return sigma
