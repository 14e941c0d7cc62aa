r"""A sum release in rounds: which tables or slices come after the first is chosen by the data.

Some combinations of columns say more than others, and some directions, and which ones depends on
the private rows. The first release counts `features`; a model is fitted to it, by the caller. Then,
in each round, the tables (or slices) that the model fits worst are chosen among public
`candidates`, counted with noise of their own, and the model is fitted anew. Liu, Vietri and Wu
(GEM, 2021) and McKenna et al. (AIM, 2022) work in this manner.

Everything is one Gaussian mechanism to the accountant. Counts are; and a choice by the exponential
mechanism whose losses span a range of eta is mu-Gaussian differentially private
(`dpslice.accounting.choice_range`), however the rounds depend on what came out before.

This is code that reads private records: it counts them once, and then works on these counts.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays, accounting
from dpslice import release as _release
from dpslice.accounting import SUM_ADJACENCIES, Guarantee
from dpslice.accounting._adjacency import checked_rows_per_person, public_n
from dpslice.accounting._guarantee import rounded_up
from dpslice.features import GroupedSums, KernelSums, MarginalSums
from dpslice.mechanism import (
    ExactSums,
    SumSetting,
    account_sums,
    add_up,
    checked_budget,
    made_at,
)
from dpslice.release import SumRelease

__all__ = ["AdaptiveSumMechanism"]

Group = Any  # the columns of a table, tuple[int, ...]; or the number of a slice
Integers = NDArray[np.int64]
Numbers = NDArray[np.float64]
_Expected = Sequence[NDArray[np.floating[Any]]] | NDArray[np.floating[Any]]

# Asks a model for the sums that it expects in some groups.
Estimate = Callable[[SumRelease, Sequence[Group]], _Expected]

# An expected sum is clipped to this. Records are fewer than 2^32 and units at least 2^-30, so that
# misfits fit 63 bits: one that wrapped around would have no bound on its sensitivity.
_LARGEST_ESTIMATE: Final = 2.0**32


@dataclass(frozen=True, kw_only=True)
class AdaptiveSumMechanism:
    r"""Publish noisy sums, some of them of tables or slices that the data choose in rounds.

    In each round, tables of `MarginalSums`, or slices of `KernelSums`, are drawn one after the
    other by the exponential mechanism: candidate g with a probability proportional to
    :math:`\exp(\eta q_g / 2 \Delta)`,

    .. math:: q_g = \sum_v |T_g(v) - M_g(v)| - \sqrt{2/\pi}\, s_g\, \text{cells}_g,

    T being the exact sums, M those that the model expects (rounded to whole numbers of the sums'
    unit), s the noise that the table or slice would be counted with, whose mean absolute value is
    taken off; Delta is said below. None is chosen twice. Sums of one of `features` are averaged
    with the new ones, by their precisions.

    No two tables of a round have two columns in common, beside those that all candidates have.
    Slices may be as alike as candidates are.

    Parameters
    ----------
    features : MarginalSums or KernelSums
        What is counted first.
    candidates : sequence of sequences of int, or KernelSums
        What the rounds choose from, public; some, or all, may be among `features`. Groups of
        columns; or slices, whose d, dimension, number of landmarks and max_norm are those of the
        features. The fewer, the better the choice.
    rounds : int
        Rounds, each with a new fit of the model.
    tables_per_round : int
        Tables, or slices, chosen and counted in each, if so many may be chosen together.
    counting_share, choosing_share : float
        Shares of the whole squared ratio of sensitivity to noise that are spent on counting what
        was chosen, and on choosing it. The rest is for `features`.
    epsilon, delta, sigma, adjacency, rows_per_person
        As of `SumMechanism`, for everything together; sigma is the noise on sums of weight 1 in
        `features`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument is out of range, there are fewer candidates than are to be chosen, their sums
        would not fit into memory, some slices are the same, or slices share a bound that cuts.

    Notes
    -----
    *Sensitivity of a score.* Sums are whole multiples of a unit u, and exact: of neighbouring
    tables, they differ by the features :math:`\phi_g(x)` of the record x that is absent or counts
    nowhere, or by :math:`\phi_g(x) - \phi_g(x')` under ``replace_one``; M and s are the same, as
    they follow from what is public. By the triangle inequality, a score moves by

    .. math:: \sum_v \phi_g(x)_v \le A_g, \qquad
              \sum_v |\phi_g(x)_v - \phi_g(x')_v| \le 2 A_g

    at most, features being non-negative. For a table :math:`A_g = 1`: a record falls into one cell.
    For a slice of c landmarks, whose kernels are 1 at most and whose norm is kept within
    :math:`b_g`,

    .. math:: A_g \le \min\Big(c,\ \sqrt c\, b_g,\
              \max_y \sum_l e^{-\|c_l - y\|^2 / 2 g^2}\Big),

    the last of which is bounded from above by a search of all y (about :math:`\sqrt{2\pi}` for
    landmarks a bandwidth apart in one dimension, however many they are). Delta is the largest of
    all A, times 2 under ``replace_one``, times `rows_per_person`. Scores are computed as integers,
    in u, so that rounding adds nothing; what rounding did to features is in the bound on A, and
    rounding M, or clipping it, is no matter.

    *Sensitivity of sums.* Each slice is bounded by itself, so that the norm of those of the first
    release and of the chosen ones together is bounded by the norm of weights times bounds, whatever
    is chosen. A `bound` for all slices together that cuts would not do, and is refused.

    Examples
    --------
    >>> import numpy as np
    >>> from dpslice import AdaptiveSumMechanism, KernelSums, MarginalSums
    >>> codes = np.random.default_rng(0).integers(0, 3, (5000, 3))
    >>> mechanism = AdaptiveSumMechanism(
    ...     features=MarginalSums((3, 3, 3), [(0,), (1,), (2,)]),
    ...     candidates=[(0, 1), (0, 2), (1, 2)], rounds=1, epsilon=1.0, delta=1e-6)
    >>> def even(release, groups):  # a model that expects all combinations to be equally frequent
    ...     return [np.full((3, 3), release.n / 9.0) for _ in groups]
    >>> len(mechanism.release(codes, even).features.groups)
    4

    Slices that a model of rows of zeros fits worst; `dpslice.torch.expected_sums` tells what a
    generator expects.

    >>> rows = np.random.default_rng(0).normal(size=(5000, 4)) * 0.3
    >>> slices = KernelSums.on_random_slices(4, n_slices=20, n_landmarks=8, seed=0)
    >>> mechanism = AdaptiveSumMechanism(
    ...     features=slices.take(range(5)), candidates=slices, rounds=2, tables_per_round=3,
    ...     epsilon=1.0, delta=1e-6)
    >>> def zeros(release, groups):
    ...     one = slices.take(groups).sum(np.zeros((1, 4))).reshape(len(groups), 8)
    ...     return np.ldexp(one * float(release.n), slices.unit_exponent)
    >>> 5 <= mechanism.release(rows, zeros).features.n_slices <= 11
    True
    """

    features: MarginalSums | KernelSums
    candidates: Sequence[tuple[int, ...]] | KernelSums
    rounds: int
    tables_per_round: int = 1
    counting_share: float = 0.3
    choosing_share: float = 0.05
    epsilon: float | None = None
    delta: float | None = None
    sigma: float | None = None
    adjacency: str = "zero_out"
    rows_per_person: int = 1

    if TYPE_CHECKING:  # what the fields are made of

        def __init__(
            self,
            *,
            features: MarginalSums | KernelSums,
            candidates: Sequence[Sequence[int]] | KernelSums,
            rounds: int,
            tables_per_round: int = 1,
            counting_share: float = 0.3,
            choosing_share: float = 0.05,
            epsilon: float | None = None,
            delta: float | None = None,
            sigma: float | None = None,
            adjacency: str = "zero_out",
            rows_per_person: int = 1,
        ) -> None: ...

    # Features and candidates, each group once, and what the two are called there.
    _all: GroupedSums[Group] = field(init=False, repr=False, compare=False)
    _own: tuple[Group, ...] = field(init=False, repr=False, compare=False)
    _choices: tuple[Group, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.features, (MarginalSums, KernelSums)):
            raise TypeError(
                "features must be MarginalSums or KernelSums; "
                f"got {_arrays.describe(self.features)}"
            )
        _arrays.store(
            self,
            rounds=_arrays.positive_integer("rounds", self.rounds),
            tables_per_round=_arrays.positive_integer("tables_per_round", self.tables_per_round),
            counting_share=_arrays.open_unit("counting_share", self.counting_share),
            choosing_share=_arrays.open_unit("choosing_share", self.choosing_share),
        )
        if not self.counting_share + self.choosing_share < 1.0:
            raise ValueError(
                "counting_share and choosing_share must leave something for the features; got "
                f"{self.counting_share} and {self.choosing_share}"
            )
        first: GroupedSums[Group] = self.features.apart()
        try:
            everything, own, choices = first.joined(self.candidates)
        except (TypeError, ValueError) as error:
            raise type(error)(f"candidates are not valid: {error}") from error
        if len(choices) < self._picks:
            raise ValueError(
                f"candidates must be at least the {self._picks} {everything.groups_called} of all "
                f"rounds; got {len(choices)}"
            )
        features = everything.take(own, self.features.group_weights)
        _arrays.store(self, _all=everything, _own=own, _choices=choices, features=features)
        if not isinstance(self.candidates, KernelSums):
            _arrays.store(self, candidates=choices)
        _arrays.store(self, **checked_budget(self.epsilon, self.delta, self.sigma))
        _arrays.choice("adjacency", self.adjacency, SUM_ADJACENCIES)
        _arrays.store(self, rows_per_person=checked_rows_per_person(self.rows_per_person))

    # ------------------------------------------------------------------------------- accounting

    @property
    def _picks(self) -> int:
        return self.rounds * self.tables_per_round

    @functools.cached_property
    def _norm(self) -> float:
        """Norm of the features, of what is chosen and an allowance for the choices together."""
        return self.features.norm / math.sqrt(1.0 - self.counting_share - self.choosing_share)

    @functools.cached_property
    def _weight(self) -> float:
        """Weight of a chosen group of norm 1."""
        return self._norm * math.sqrt(self.counting_share / self._picks)

    def _weight_of(self, group: Group) -> float:
        """Weight of a group that is chosen: every one has the same norm then."""
        return self._weight / self._all.group_norm(group)

    def account(self, *, n: int | None = None) -> Guarantee:
        """Tell what a release will guarantee, and its sigma.

        Parameters
        ----------
        n : int, optional
            Number of records, to be named in the guarantee where it is public.

        Returns
        -------
        Guarantee
            As of a `SumMechanism` whose features have the norm of all counts and choices together;
            the number of released sums is the most that may be rounded, those that are counted
            again included.

        Raises
        ------
        TypeError, ValueError
            As `SumMechanism.account`.
        """
        largest = max(math.prod(self._all.shape_of(group)) for group in self._choices)
        choosing = self._norm * math.sqrt(self.choosing_share)
        counting = math.hypot(self.features.norm, self._norm * math.sqrt(self.counting_share))
        assert self.delta is not None
        setting = SumSetting(
            delta=self.delta,
            # A group of the features that is counted again is rounded again.
            cells=self.features.n_cells + self._picks * largest,
            norm=self._norm,
            # Features are not negative, so those of two records are at most sqrt(2) times as far
            # apart as long, and scores move by up to twice as much; the mu of a choice at most
            # doubles with its range, as it is concave in it.
            diameter=math.hypot(math.sqrt(2.0) * counting, 2.0 * choosing),
            adjacency=self.adjacency,
            sampling_rate=None,
            rows_per_person=self.rows_per_person,
        )
        guarantee = account_sums(
            setting,
            epsilon=self.epsilon,
            sigma=self.sigma,
            weights=np.append(self.features.cell_weights(), [*map(self._weight_of, self._choices)]),
            notes=(),
            n=n,
        )
        assert guarantee.sigma is not None
        range_ = rounded_up(self._choice_range(guarantee.sigma))
        note = (
            f"up to {self._picks} {self._all.groups_called} were chosen by exponential mechanisms, "
            f"with epsilon below {range_} each under {self.adjacency}: {self.choosing_share:.3g} "
            "of the squares of norm and distance above are for that."
        )
        return dataclasses.replace(guarantee, notes=(note, *guarantee.notes, *self._all.notes))

    @property
    def _records(self) -> int:
        """How many records' features neighbouring tables differ by."""
        return self.rows_per_person * (2 if self.adjacency == "replace_one" else 1)

    @functools.cached_property
    def _reach(self) -> int:
        """By how many units the scores of neighbouring tables differ at most: Delta."""
        return self._records * max(map(self._all.group_total, self._choices))

    def _choice_range(self, sigma: float) -> float:
        """Range of the losses of one choice, under the adjacency that was asked for: eta."""
        mu = self._norm * math.sqrt(self.choosing_share / self._picks) / sigma
        return accounting.choice_range(min(self._records * mu, 50.0))  # what it is defined for

    # ---------------------------------------------------------------------------------- release

    def release(
        self,
        X: object,
        estimate: Estimate,
        *,
        path: str | os.PathLike[str] | None = None,
        overwrite: bool = False,
        block_rows: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        progress: Callable[[int], None] | None = None,
        on_round: Callable[[int, tuple[Group, ...]], None] | None = None,
    ) -> SumRelease:
        """Release private records: read once, block by block; models are fitted in between.

        Once `estimate` or `on_round` has been called, the guarantee is spent, also if an error or
        Ctrl-C ends the release: what they have seen, and a second release, add up.

        Parameters
        ----------
        X, path, overwrite, block_rows, metadata, progress
            As of `SumMechanism.release`.
        estimate : callable
            Given what has been released so far and a list of groups, fits a model and returns the
            sums that it expects, an array of each group's shape. Called once in every round. It
            must know nothing of the private records but the release. A group is a tuple of columns;
            of `KernelSums` it is the number of a slice of `candidates`.
        on_round : callable, optional
            Called with the round (from 0) and the groups that it has counted; both are public.

        Returns
        -------
        SumRelease
            Of the same map as `features`: those, then the chosen ones, with the weights that tell
            their noise.

        Raises
        ------
        TypeError, ValueError, ReleaseError, FileExistsError, FileNotFoundError, OSError
            As `SumMechanism.release`; and ValueError if what `estimate` returns is not that.
        """
        if not callable(estimate):
            raise TypeError(f"estimate must be callable; got {_arrays.describe(estimate)}")
        if on_round is not None and not callable(on_round):
            raise TypeError(f"on_round must be callable; got {_arrays.describe(on_round)}")
        if block_rows is not None:
            block_rows = _arrays.positive_integer("block_rows", block_rows)
        facts = _release.plain_metadata(metadata)
        guarantee = self.account()
        _ = self._reach  # the search for it may take a while: not once rows have been read

        def make() -> SumRelease:
            total, n = add_up(self._all, self.adjacency, X, block_rows, progress)
            promise = dataclasses.replace(guarantee, n=public_n(self.adjacency, n))
            sums = dict(self._all.cut(total.whole()))
            return self._run(sums, promise, facts, estimate, on_round)

        return made_at(path, make, overwrite=overwrite)

    def _run(
        self,
        exact: Mapping[Group, Integers],
        guarantee: Guarantee,
        metadata: dict[str, Any],
        estimate: Estimate,
        on_round: Callable[[int, tuple[Group, ...]], None] | None,
    ) -> SumRelease:
        """Count the features, then go through the rounds; sums are `exact`, and private."""
        assert guarantee.sigma is not None
        sigma = guarantee.sigma
        slope = self._choice_range(sigma) / (2 * self._reach)
        released: dict[Group, tuple[Numbers, float]] = {}  # noisy sums and weight

        def count(groups: Sequence[Group], weights: Sequence[float]) -> None:
            features = self._all.take(groups, weights)
            sums = np.concatenate([exact[group].ravel() for group in groups])
            noisy = (
                part for _, part in features.cut(ExactSums.of(features, sums).with_noise(sigma))
            )
            for group, part, weight in zip(groups, noisy, weights, strict=True):
                if group in released:  # the average of both, by their precisions
                    before, old = released[group]
                    both = math.hypot(old, weight)
                    part = (old / both) ** 2 * before + (weight / both) ** 2 * part
                    weight = both
                released[group] = part, weight

        def so_far() -> SumRelease:
            features = self._all.take(tuple(released), tuple(w for _, w in released.values()))
            return SumRelease(
                features,
                np.concatenate([part.ravel() for part, _ in released.values()]),
                sigma,
                dataclasses.replace(guarantee, p=features.n_cells),
                n=guarantee.n,
                metadata=metadata,
            )

        count(self._own, self.features.group_weights)
        left = list(self._choices)
        columns = self._all.columns_of
        everywhere = frozenset.intersection(*map(columns, left))
        for i in range(self.rounds):
            expected = self._expected(estimate(so_far(), list(left)), left)
            scores = []
            for group, guess in zip(left, expected, strict=True):
                before = released[group][1] if group in released else 0.0
                noise = sigma / math.hypot(before, self._weight_of(group))
                allowance = math.sqrt(2.0 / math.pi) * noise * guess.size
                misfit = _total(np.abs(exact[group] - guess))
                scores.append(misfit - round(math.ldexp(allowance, -self._all.unit_exponent)))
            chosen = _choose(scores, left, self.tables_per_round, slope, everywhere, columns)
            count(chosen, [*map(self._weight_of, chosen)])
            # A model that has learned some of a group's noise would have it chosen once more.
            left = [group for group in left if group not in chosen]
            if on_round is not None:
                on_round(i, tuple(chosen))
        return so_far()

    def _expected(self, sums: Any, groups: Sequence[Group]) -> list[Integers]:
        """Check what a model expects, and round it to whole numbers of units."""
        several = isinstance(sums, Sequence) or (isinstance(sums, np.ndarray) and sums.ndim > 0)
        if not several or len(sums) != len(groups):
            raise ValueError(
                f"estimate must return a sequence of {len(groups)} arrays, one for each group; "
                f"got {_arrays.describe(sums)}"
            )
        whole = []
        for group, given in zip(groups, sums, strict=True):
            try:
                guess = _arrays.real_array("estimate", given)
            except TypeError:
                guess = np.full(1, np.nan)
            if guess.shape != self._all.shape_of(group) or not np.isfinite(guess).all():
                raise ValueError(
                    f"estimate must return finite real {self._all.described(group)}; "
                    f"got {_arrays.describe(given)}"
                )
            bound = np.clip(guess, -_LARGEST_ESTIMATE, _LARGEST_ESTIMATE)
            whole.append(np.rint(np.ldexp(bound, -self._all.unit_exponent)).astype(np.int64))
        return whole


def _total(numbers: Integers) -> int:
    """Add up integers that are not negative; their sum may exceed 63 bits."""
    return (int((numbers >> 32).sum()) << 32) + int((numbers & 0xFFFFFFFF).sum())


def _choose(
    scores: Sequence[int],
    candidates: Sequence[Group],
    count: int,
    slope: float,
    everywhere: frozenset[int] = frozenset(),
    columns: Callable[[Group], frozenset[int]] = frozenset,
) -> list[Group]:
    """Draw groups one after the other, by the exponential mechanism for each.

    A group that has two columns in common with one drawn before, beside those that are everywhere,
    is out: what it shows is likely to be what that one shows.

    Each is drawn with a probability proportional to ``2**40 + floor(2**93 exp(slope (q - max)))``,
    exactly: whole numbers, and a draw of the operating system's below their sum. Where scores move
    by r at most, up or down, so does their maximum, and exponents move within a range of
    2 slope r that holds 0; adding a constant to the weights keeps their ratios within it. The float
    exponential and the floor change a weight by 2e-12 of it, which `accounting.choice_range` allows
    for.
    """
    pairs = [
        list(itertools.combinations(sorted(columns(group) - everywhere), 2)) for group in candidates
    ]
    holders = defaultdict(list)  # of a pair of columns: candidates are many
    for place, held in enumerate(pairs):
        for pair in held:
            holders[pair].append(place)
    left = list(range(len(candidates)))
    picked: list[int] = []
    while left and len(picked) < count:
        highest = max(scores[place] for place in left)
        weights = [
            (1 << 40) + int(math.ldexp(math.exp(slope * (scores[place] - highest)), 93))
            for place in left
        ]
        draw = secrets.randbelow(sum(weights))
        ends = itertools.accumulate(weights)
        chosen = next(place for place, end in zip(left, ends, strict=True) if draw < end)
        picked.append(chosen)
        out = {chosen}.union(*(holders[pair] for pair in pairs[chosen]))
        left = [place for place in left if place not in out]
    return [candidates[place] for place in picked]
