"""One release of rows by every account of it: exact for each frame, by its order, by the paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dpslice.accounting._adjacency import checked_rows_per_person
from dpslice.accounting._guarantee import Guarantee
from dpslice.accounting._reference import paper_alpha, paper_epsilon, paper_sigma
from dpslice.accounting._slicing import calibrate_slicing, slicing_guarantee
from dpslice.frames import FRAMES, column_norm_bound


@dataclass(frozen=True, kw_only=True)
class PaperBound:
    """What Theorem 1 of the paper states, at its best order alpha."""

    sigma: float
    epsilon: float
    alpha: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Guarantees for one and the same epsilon or sigma.

    Attributes
    ----------
    frames : dict of str to Guarantee
        For each kind of frame, drawn afresh: exact, with what rounding costs. Where a person may
        have several rows, without ``gaussian``, in which they are not accounted for, and of partial
        orthonormal blocks from above.
    in_order : Guarantee or None
        With the order of n rows claimed, of an orthonormal frame; None without n.
    paper : PaperBound or None
        For comparison: without what rounding costs. None where a person may have several rows.
    sensitivity : float
        Distance of neighbouring tables' rows, of all of them.
    """

    frames: dict[str, Guarantee]
    in_order: Guarantee | None
    paper: PaperBound | None
    sensitivity: float


def compare_slicing(
    *,
    epsilon: float | None = None,
    sigma: float | None = None,
    delta: float,
    d: int,
    p: int,
    adjacency: str = "zero_out",
    max_norm: float = 1.0,
    diameter: float | None = None,
    n: int | None = None,
    rows_per_person: int = 1,
) -> Comparison:
    """Tell what each kind of release promises at this sigma, or needs for this epsilon.

    Parameters
    ----------
    epsilon, sigma : float
        Exactly one of them: the total epsilon allowed, or the noise.
    n : int, optional
        Public number of rows, whose order may then be claimed.
    delta, d, p, adjacency, max_norm, diameter, rows_per_person
        As in `slicing_guarantee`.

    Returns
    -------
    Comparison

    Raises
    ------
    TypeError, ValueError
        As in `calibrate_slicing` and `slicing_guarantee`; and if not exactly one of `epsilon` and
        `sigma` is given.
    """
    if (epsilon is None) == (sigma is None):
        raise ValueError("exactly one of epsilon and sigma must be given")
    setting: dict[str, Any] = {
        "d": d,
        "p": p,
        "adjacency": adjacency,
        "max_norm": max_norm,
        "diameter": diameter,
        "rows_per_person": checked_rows_per_person(rows_per_person),
    }
    several = setting["rows_per_person"] > 1

    def noise_of(calibrate: Callable[..., float], **how: Any) -> float:
        if epsilon is not None:
            return calibrate(epsilon, delta, **how)
        assert sigma is not None
        return sigma

    stated: dict[str, Guarantee] = {}
    for frame in ("orthonormal",) if several else FRAMES:
        length = column_norm_bound(frame, d, p)
        of_frame = {**setting, "frame": frame, "column_norm": length}
        noise = noise_of(calibrate_slicing, **of_frame)
        stated[frame] = slicing_guarantee(sigma=noise, delta=delta, **of_frame)
    in_order = None
    if n is not None:
        # As `SlicingMechanism` does: gaussian frames that are drawn afresh have no sure bound.
        claim: dict[str, Any] = {**setting, "n": n, "amplify_by_order": True}
        noise = noise_of(calibrate_slicing, **claim)
        in_order = slicing_guarantee(sigma=noise, delta=delta, epsilon=epsilon, **claim)
    distance = stated["orthonormal"].sensitivity
    assert distance is not None
    if several:
        return Comparison(frames=stated, in_order=in_order, paper=None, sensitivity=distance)
    at: dict[str, Any] = {"d": d, "p": p, "sensitivity": distance}
    noise = noise_of(paper_sigma, **at)
    paper = PaperBound(
        sigma=noise,
        epsilon=paper_epsilon(delta, sigma=noise, **at),
        alpha=paper_alpha(delta, sigma=noise, **at),
    )
    return Comparison(frames=stated, in_order=in_order, paper=paper, sensitivity=distance)
