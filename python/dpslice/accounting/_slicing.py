"""What one release of rows promises, and the noise that it needs for a promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from dpslice import _arrays
from dpslice.accounting._adjacency import (
    ADJACENCIES,
    check_order_unit,
    checked_rows_per_person,
)
from dpslice.accounting._gaussian import (
    SAFE_SIGMA,
    Ratio,
    epsilon_at,
    gaussian_mu,
    least_sigma,
    log_delta_at,
    ratio_of,
)
from dpslice.accounting._guarantee import Guarantee, rounded_up
from dpslice.accounting._rounding import (
    checked_total,
    computed_epsilon,
    lost_delta,
    numerical_loss,
    order_rounding,
    rounded_sensitivity,
)
from dpslice.accounting._shuffling import end_that_holds, least_holding, log_shuffled_delta
from dpslice.frames import FRAMES, orthonormal_norm

_LARGEST_ORDER_EPSILON: Final = 6.0  # that the order is claimed for: little is gained near it


@dataclass(frozen=True)
class Setting:
    """Checked arguments that `slicing_guarantee` and `calibrate_slicing` share."""

    d: int
    p: int
    frame: str
    adjacency: str
    max_norm: float
    diameter: float
    column_norm: float
    frame_norm: float | None
    rows_per_person: int

    def ratio(self, sigma: float, adjacency: str) -> Ratio:
        """Law of the ratio of a person's distance to the noise, rounding included.

        Of one row, the law of its length in a frame that is drawn afresh is known. Several rows
        meet the same frame, and the law of their lengths together depends on which they are; so
        they are bounded by the frame's spectral norm: the Frobenius norm of E U is at most that of
        E, sqrt(rows) times what bounds each, times the norm of U.
        """
        distance = self.row_distance(adjacency)
        if self.frame_norm is None and self.rows_per_person == 1:
            exact = self.computed(distance)
            return ratio_of(sigma=sigma, d=self.d, p=self.p, frame=self.frame, sensitivity=exact)
        norm = self.sure_norm() if self.frame_norm is None else self.frame_norm
        return Ratio(self.computed(distance * norm) / sigma)

    def row_distance(self, adjacency: str) -> float:
        """Distance of two rows, or of a row and zero."""
        if adjacency == "zero_out":
            return self.max_norm
        return min(self.diameter, 2.0 * self.max_norm)  # rows are clipped to max_norm

    def distance(self, adjacency: str) -> float:
        """Distance of neighbouring tables: of all rows of a person together."""
        return math.sqrt(self.rows_per_person) * self.row_distance(adjacency)

    def computed(self, reach: float) -> float:
        """Bound the distance of a person's projected rows as they are computed, each's `reach`."""
        longest = self.max_norm * self.column_norm
        return rounded_sensitivity(reach, self.d, self.p, longest, self.rows_per_person)

    def sure_norm(self) -> float:
        """Bound on the spectral norm of the frame, drawn afresh or known."""
        if self.frame == "orthonormal":
            return orthonormal_norm(self.d, self.p)
        assert self.frame_norm is not None
        return self.frame_norm

    @property
    def numbers(self) -> int:
        """Released numbers that one person's rows are in."""
        return self.p * self.rows_per_person

    def order_ratio(self, sigma: float, adjacency: str) -> float:
        """Bound mu for `shuffled_delta`: the noise against the distance of *any* two rows.

        Every other row is compared with both values of the one that changed: with a row of the
        domain, up to the diameter away; and under ``zero_out`` with zero, up to max_norm away,
        which may be more than a diameter that a caller knows.

        The frame parts two rows by its spectral norm at most, for sure. The law of a random frame
        does not help with partial blocks: n - 1 differences have to be bounded together, for one
        and the same frame.
        """
        norm = self.sure_norm()
        distance = self.row_distance("replace_one")
        if adjacency == "zero_out":
            distance = max(distance, self.max_norm)
        longest = self.max_norm * max(1.0, norm)  # no column is longer than the spectral norm
        return rounded_sensitivity(distance * norm, self.d, self.p, longest) / sigma

    def log_delta_in_order(
        self, eps: float, sigma: float, adjacency: str, n: int, rounding: float
    ) -> float:
        """Ln delta with the order of n rows claimed, less `order_rounding`.

        `eps` and what `rounding` costs of epsilon are stated together.
        """
        if not 0.0 <= eps <= _LARGEST_ORDER_EPSILON:
            return math.inf
        mu = self.order_ratio(sigma, adjacency)
        # The bound need not fall in epsilon, but delta does. It was seen to rise above 1 only.
        smaller = (1.0, 0.9, 0.8, 0.65, 0.5) if eps > 1.0 else (1.0,)
        return min(log_shuffled_delta(eps * share, mu, n, rounding) for share in smaller) + rounding

    def order_target(self, delta: float, n: int) -> float:
        """Ln of what rounding leaves of delta where the order is claimed; -inf for nothing."""
        left = delta - order_rounding(n, self.p)
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
        return math.inf if high is None else least_holding(holds, high) + rounding

    def notes(self) -> tuple[str, ...]:
        accounted = self.computed(self.row_distance(self.adjacency))
        if accounted <= self.distance(self.adjacency) * (1.0 + 1.5e-9):
            return ()
        return (
            f"accounted with Delta = {accounted:.9g}, which covers the rounding of products of "
            "this size",
        )

    def rounding(self, sigma: float) -> float:
        """Epsilon that rounding costs."""
        longest = self.max_norm * self.column_norm
        return numerical_loss(p=self.numbers, sigma=sigma, max_norm=longest)[0]

    def checked_delta(self, delta: object, eps: float = 0.0) -> float:
        """Return delta, or raise unless rounding leaves something of it at this epsilon."""
        return checked_total(delta, eps, self.numbers, self.size)

    @property
    def size(self) -> str:
        """What needs rounding, for messages."""
        several = "" if self.rows_per_person == 1 else f", {self.rows_per_person} rows a person"
        return f"at p = {self.p}{several}"

    def alone(
        self, delta: float, sigma: float, adjacency: str, *, at_least: bool = False
    ) -> tuple[float, float]:
        """Epsilon of the noise alone, rounding included, and what of delta rounding has taken."""
        ratio = self.ratio(sigma, adjacency)
        return computed_epsilon(
            lambda target: epsilon_at(target, ratio),
            delta,
            self.rounding(sigma),
            self.numbers,
            at_least=at_least,
        )


def checked_setting(
    *,
    d: object,
    p: object,
    frame: object,
    adjacency: object,
    max_norm: object,
    diameter: object,
    column_norm: object,
    frame_norm: object,
    rows_per_person: object,
) -> Setting:
    norm = _arrays.positive_real("max_norm", max_norm)
    setting = Setting(
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
        rows_per_person=checked_rows_per_person(rows_per_person),
    )
    if setting.rows_per_person > 1:
        check_sure_norm("rows_per_person", setting.frame, known=setting.frame_norm is not None)
    return setting


def check_sure_norm(name: str, frame: str, *, known: bool) -> None:
    """Raise where a frame's spectral norm has no sure bound, which argument `name` needs."""
    if frame == "gaussian" and not known:
        raise ValueError(
            f"{name} needs a sure bound on the frame, which a gaussian frame that is drawn afresh "
            "has not: take frame='orthonormal', or a seed"
        )


def _checked_order(setting: Setting, n: object) -> int:
    """Return n, or raise where the order of rows may not be claimed."""
    if n is None:
        raise ValueError(
            "n, the public number of rows, must be given with amplify_by_order; got None"
        )
    check_sure_norm("amplify_by_order", setting.frame, known=setting.frame_norm is not None)
    check_order_unit("amplify_by_order", setting.rows_per_person)
    return _arrays.positive_integer("n", n)


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
    rows_per_person: int = 1,
) -> Guarantee:
    """Guarantee of one computed release, with everything that rounding costs.

    Parameters
    ----------
    sigma : float
        Standard deviation of the noise, in the unit of the data.
    delta : float
        Total delta to state, 0 < delta < 1.
    d, p : int
        Features and released columns.
    n : int, optional
        Rows (public). Needed with `amplify_by_order`.
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
    rows_per_person : int, default 1
        Rows that one person has at most, all of which change together: Delta is sqrt(rows) times
        that of one row. With more than one, the frame is counted by the bound on its spectral norm
        (sqrt(ceil(p/d)) of orthonormal ones, drawn afresh or not); neither ``gaussian`` frames
        without a `frame_norm` nor `amplify_by_order` are for that.

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
    setting = checked_setting(
        d=d,
        p=p,
        frame=frame,
        adjacency=adjacency,
        max_norm=max_norm,
        diameter=diameter,
        column_norm=column_norm,
        frame_norm=frame_norm,
        rows_per_person=rows_per_person,
    )
    total = setting.checked_delta(delta)
    notes = _arrays.elements("notes", notes)

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
        ratios = [setting.order_ratio(noise, kind) for kind in kinds]
        # Both adjacencies meet the same ratio where the diameter is no less than the norm bound.
        in_order = {
            mu: setting.epsilon_in_order(total, noise, kind, rows, epsilon)
            for mu, kind in dict(zip(ratios, kinds, strict=True)).items()
        }
        stated = tuple(min(least, in_order[mu]) for mu, least in zip(ratios, alone, strict=True))
        if stated != alone:
            delta_numerical = order_rounding(rows, setting.p)
            without = [f"epsilon {rounded_up(alone[0])}"]
            without += [f"replace_one epsilon {rounded_up(eps)}" for eps in alone[1:]]
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
        rows_per_person=setting.rows_per_person,
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
    rows_per_person: int = 1,
) -> float:
    """Noise of one computed release, so that its total stays within a given epsilon and delta.

    Parameters
    ----------
    epsilon : float
        Total epsilon allowed, > 0.
    delta : float
        Total delta allowed, 0 < delta < 1.
    d, p, frame, adjacency, max_norm, diameter, column_norm, frame_norm
        As in `slicing_guarantee`.
    n, amplify_by_order, rows_per_person
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
    setting = checked_setting(
        d=d,
        p=p,
        frame=frame,
        adjacency=adjacency,
        max_norm=max_norm,
        diameter=diameter,
        column_norm=column_norm,
        frame_norm=frame_norm,
        rows_per_person=rows_per_person,
    )
    total = setting.checked_delta(delta, eps)
    left = math.log(total - lost_delta(setting.numbers, eps))

    def least(budget: float) -> float:
        target = left - (eps - budget)
        guess = setting.ratio(1.0, setting.adjacency).typical() / gaussian_mu(budget, target)

        def log_f(sigma: float) -> float:
            return log_delta_at(budget, setting.ratio(sigma, setting.adjacency))

        return least_sigma(log_f, target, guess)

    # Rounding costs less when sigma is larger, so one correction of the budget is enough.
    rounding = setting.rounding(least(eps))
    if not eps > rounding:
        raise ValueError(
            f"epsilon must exceed what rounding needs {setting.size}, {rounding}; got {eps}"
        )
    sigma = least(eps - rounding)
    while setting.alone(total, sigma, setting.adjacency)[0] > eps:
        sigma *= SAFE_SIGMA
    if amplify_by_order:
        sigma = _least_sigma_in_order(setting, eps, total, sigma, _checked_order(setting, n))
    return sigma


def _least_sigma_in_order(setting: Setting, eps: float, delta: float, high: float, n: int) -> float:
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
    return end_that_holds(holds, high, low)
