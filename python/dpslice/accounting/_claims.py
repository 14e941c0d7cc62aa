"""Certificates are computed again from their own numbers when they are read."""

from __future__ import annotations

import dataclasses
from typing import Final

from dpslice.accounting._guarantee import Guarantee, composed_guarantee
from dpslice.accounting._rounding import order_rounding
from dpslice.accounting._slicing import Setting, checked_setting
from dpslice.accounting._sums import checked_distances, sum_epsilon

# What a claim may be off by when it is computed again: ln delta by the first, and other numbers
# down to the second of what is found.
_CLAIM_TOLERANCE: Final = 1e-6
_CLAIM_SHARE: Final = 1.0 - 1e-6


def refuse_overclaim(guarantee: Guarantee) -> None:
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
        Charge as little for rounding as the most lenient version of this library: a certificate
        that states less was not made by any of them.

    Returns
    -------
    Guarantee or None

    Raises
    ------
    ValueError
        If the parts of a composition have another adjacency or `rows_per_person` than the whole, or
        the numbers could not be those of a release.
    """
    if guarantee.mechanism == "composition" and guarantee.parts:
        for name in ("adjacency", "rows_per_person"):
            if any(getattr(part, name) != getattr(guarantee, name) for part in guarantee.parts):
                raise ValueError(f"parts of a guarantee must have its {name}")
        return composed_guarantee(
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
        distances = checked_distances(norm, diameter, guarantee.rows_per_person)
        for kind in kinds:
            distance = distances.of(kind)
            rate = guarantee.sampling_rate if kind == guarantee.adjacency else None
            found.append(
                (sum_epsilon(delta, distance / sigma, p, rate, at_least=at_least), distance)
            )
    elif guarantee.mechanism == "slicing" and guarantee.d and guarantee.frame is not None:
        setting = _setting_of(guarantee)
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


def _setting_of(guarantee: Guarantee) -> Setting:
    return checked_setting(
        d=guarantee.d,
        p=guarantee.p,
        frame=guarantee.frame,
        adjacency=guarantee.adjacency,
        max_norm=guarantee.max_norm,
        diameter=guarantee.diameter,
        column_norm=1.0,  # seeded frames may have longer columns: that counts below the tolerance
        frame_norm=guarantee.frame_norm,
        rows_per_person=guarantee.rows_per_person,
    )


def _refuse_order_overclaim(guarantee: Guarantee) -> None:
    """Do what `refuse_overclaim` does where the order of rows is counted on."""
    assert guarantee.n is not None
    assert guarantee.p is not None
    assert guarantee.sigma is not None
    setting = _setting_of(guarantee)
    n, sigma, rounding = guarantee.n, guarantee.sigma, guarantee.epsilon_numerical
    wrong = None
    if (
        rounding < setting.rounding(sigma) * (1.0 - 1e-12)
        or guarantee.delta_numerical < order_rounding(n, guarantee.p) * (1.0 - 1e-12)
        or not guarantee.delta > guarantee.delta_numerical
    ):
        wrong = "what rounding costs"
    distance = setting.distance(guarantee.adjacency)
    if guarantee.sensitivity is not None and guarantee.sensitivity < distance * _CLAIM_SHARE:
        wrong = "sensitivity"
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
