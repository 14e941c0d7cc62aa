"""What is lost because a computer rounds: of epsilon, of delta, and of distances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from dpslice import _arrays
from dpslice.frames import ORTHONORMAL_TOLERANCE


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
    return 2e-11 * columns * (norm / noise + 11.0), lost_delta(columns, stated)


def _lost_mass(numbers: int, eps: float) -> float:
    """Delta that numbers with errors beyond the bound cost: (1 + e^eps) t."""
    return numbers * 2.0**-74 * (1.0 + math.exp(min(eps, 700.0)))


def lost_delta(numbers: int, eps: float) -> float:
    """Delta to charge for the lost mass: 16 t, or twice what is needed where that is not enough.

    It never falls as epsilon grows.
    """
    least, needed = numbers * 2.0**-70, _lost_mass(numbers, eps)
    return least if needed <= least else 2.0 * needed


def computed_epsilon(
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

    `at_least` leaves out what grows with epsilon, and the growth of delta. No version of this
    library has charged less.
    """
    lost = lost_delta(numbers, 0.0)
    if at_least:
        return (exact(math.log(delta - lost)) + rounding if lost < delta else math.inf), lost
    while lost < delta:
        eps = exact(math.log(delta - lost) - rounding) + rounding
        if _lost_mass(numbers, eps) <= lost:
            return eps, lost
        lost = lost_delta(numbers, eps)
    return math.inf, lost_delta(numbers, 0.0)


def order_rounding(n: int, p: int) -> float:
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


def rounded_sensitivity(distance: float, d: int, p: int, norm: float, rows: int = 1) -> float:
    """Bound the distance of two projected rows as they are computed, or of several such pairs.

    Orthonormal frames are off by the tolerance that they were drawn to. Rounding adds at most
    ``2 norm d sqrt(p) 2^-53`` to the distance of two rows of XU. Of several `rows`, each of which
    has `distance`, the squares add up.
    """
    frame = 1.0 + ORTHONORMAL_TOLERANCE
    return math.sqrt(rows) * (distance * frame + 2.0 * norm * d * math.sqrt(p) * 2.0**-53)


def checked_total(delta: object, eps: float, numbers: int, where: str) -> float:
    total = _arrays.open_unit("delta", delta)
    lost = lost_delta(numbers, eps)
    if not total > lost:
        at, rest = "", ""
        if lost > lost_delta(numbers, 0.0):
            at = f" and epsilon = {eps:g}"
            if eps > 20.0:
                at += " (which protects nothing any more)"
                rest = "; choose a smaller epsilon"
        raise ValueError(
            f"delta must exceed what rounding needs {where}{at}, {lost:.3g}; got {total}{rest}"
        )
    return total


SUM_ROUNDING: Final = 1.0 + 1e-9  # covers the rounding of norms, weights and noise scales


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
    return 2.2e-10 * count, lost_delta(count, stated)
