"""Several releases of the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from dpslice import _arrays
from dpslice.accounting._gaussian import (
    ERROR_ABSOLUTE,
    Array,
    Ratio,
    checked_to_square,
    gaussian_epsilon,
    least_epsilon,
    log_profile_signed,
    log_target,
)
from dpslice.accounting._reference import rdp_log_delta


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

    Raises
    ------
    TypeError, ValueError
        As in `log_delta`; or if the square of sensitivity over sigma leaves the number range.
    """

    sigma: float
    d: int
    p: int
    frame: str = "orthonormal"
    sensitivity: float = 1.0

    def __post_init__(self) -> None:
        self._ratio()

    def _ratio(self) -> Ratio:
        return checked_to_square(self.sigma, self.d, self.p, self.frame, self.sensitivity)


def _merged(parts: Sequence[Slicing]) -> tuple[float, list[Ratio]]:
    """Sum of the squared ratios: the fixed part's root, and the random parts, as few as can be."""
    fixed, random = 0.0, []
    columns: dict[float, int] = {}
    for part in parts:
        ratio = part._ratio()
        fixed = math.hypot(fixed, ratio.fixed)
        if len(ratio.shape) == 1:
            columns[ratio.scale] = columns.get(ratio.scale, 0) + ratio.shape[0]
        elif ratio.shape:
            random.append(Ratio(0.0, ratio.scale, ratio.shape))
    random.extend(Ratio(0.0, scale, (p,)) for scale, p in columns.items())
    return fixed, random


def _dominating(fixed: float, random: Sequence[Ratio]) -> Ratio:
    """One law of mu that is above the sum of several: delta rises with mu, so it is a bound."""
    if not random:
        return Ratio(fixed)
    chi = [ratio for ratio in random if len(ratio.shape) == 1]
    beta = sorted((ratio for ratio in random if len(ratio.shape) == 2), key=lambda x: x.scale)
    if chi:
        keep = Ratio(0.0, max(x.scale for x in chi), (sum(x.shape[0] for x in chi),))
    else:
        keep = beta.pop()
    # A Beta variable is at most 1.
    fixed = math.hypot(fixed, *(x.scale for x in beta))
    return Ratio(fixed, keep.scale, keep.shape)


def _checked_parts(parts: Sequence[Slicing]) -> tuple[Slicing, ...]:
    if isinstance(parts, Slicing):
        raise TypeError("parts must be a sequence of Slicing; got one Slicing")
    parts = _arrays.elements("parts", parts)
    if not parts:
        raise ValueError("parts must hold at least one Slicing; got none")
    for part in parts:
        if not isinstance(part, Slicing):
            raise TypeError(f"parts must hold Slicing objects; got {type(part).__name__}")
    return parts


def _checked_others(others: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    checked = []
    for pair in _arrays.elements("others", others):
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
        value = log_profile_signed(eps, law)
        if not exact:
            every = [Ratio(fixed), *random] if fixed > 0.0 else random
            for i in np.flatnonzero(eps > 0.0):
                value[i] = min(value[i], rdp_log_delta(float(eps[i]), every))
        return value

    def log_f(eps: float) -> float:
        total = float(np.logaddexp.reduce(log_base(eps - losses) + log_weights))
        if not pairs:
            return total
        # 1 - (1 - failures)(1 - delta), never above 1
        failure = -math.expm1(log_survival)
        whole = failure + math.exp(log_survival + total)
        return min(0.0, math.log(whole) + ERROR_ABSOLUTE) if whole > 0.0 else -math.inf

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
    delta : float or None
        Privacy parameter of the whole, 0 < delta < 1; above the deltas of `others` together. None
        where `log_delta` is given.
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
        As in `composed_delta`; if not exactly one of `delta` and `log_delta` is given; or if the
        deltas of `others` already exceed `delta`.
    """
    target = log_target(delta, log_delta)
    parts, pairs = _checked_parts(parts), _checked_others(others)
    failure = -math.expm1(math.fsum(math.log1p(-dlt) for _, dlt in pairs))
    if failure > 0.0 and math.log(failure) + 2.0 * ERROR_ABSOLUTE >= target:
        raise ValueError(
            "delta must exceed what the other mechanisms need together;"
            f" got {math.exp(target)} and {failure}"
        )
    log_f, mu = _composed(parts, pairs)
    guess = gaussian_epsilon(target, mu) + math.fsum(e for e, _ in pairs)
    return least_epsilon(log_f, target, guess)
