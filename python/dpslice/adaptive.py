r"""A sum release in rounds: which tables are counted beyond the first is chosen by the data.

Some combinations of columns say more than others, and which ones depends on the private rows. The
first release counts `features`; a model is fitted to it, by the caller. Then, in each round, the
tables that the model fits worst are chosen among public `candidates`, counted with noise of their
own, and the model is fitted anew. Liu, Vietri and Wu (GEM, 2021) and McKenna et al. (AIM, 2022)
work in this manner.

Everything is one Gaussian mechanism to the accountant. Counts are; and a choice by the exponential
mechanism whose losses span a range of eta is mu-Gaussian differentially private
(`dpslice.accounting.choice_range`), however the rounds depend on what came out before.

This is code that reads private records: it counts them once, and then works on these counts.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dpslice import _arrays, accounting
from dpslice import release as _release
from dpslice.accounting import SUM_ADJACENCIES, Guarantee
from dpslice.features import MarginalSums
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

Group = tuple[int, ...]
Numbers = NDArray[np.float64]

# Of a model that is asked for the counts that it expects.
Estimate = Callable[[SumRelease, Sequence[Group]], Sequence[NDArray[np.floating[Any]]]]

# Of a count. Records are fewer than 2^32 and cells at most 2^28, so scores are far below 2^63: a
# sum that wrapped around would have no bound on its sensitivity.
_LARGEST_ESTIMATE: Final = 2.0**33


@dataclass(frozen=True, kw_only=True)
class AdaptiveSumMechanism:
    r"""Publish noisy counts, some of them of tables that the data choose in rounds.

    In each round, tables are drawn one after the other by the exponential mechanism: candidate g
    with a probability proportional to :math:`\exp(\eta q_g / 2 \Delta)`,

    .. math:: q_g = \sum_v |T_g(v) - M_g(v)| - \sqrt{2/\pi}\, s_g\, \text{cells}_g,

    T being the exact counts, M those that the model expects (rounded to whole numbers), s the noise
    that the table would be counted with, whose mean absolute value is taken off; Delta is 1, and 2
    under ``replace_one``. No two tables of a round have two columns in common, beside those that
    all candidates have, and none is chosen twice. Counts of a table of `features` are averaged with
    the new ones, by their precisions.

    Parameters
    ----------
    features : MarginalSums
        What is counted first.
    candidates : sequence of sequences of int
        Groups of columns that the rounds choose from; they may be among those of `features`.
    rounds : int
        Rounds, each with a new fit of the model.
    tables_per_round : int
        Tables chosen and counted in each, if so many may be chosen together.
    counting_share, choosing_share : float
        Shares of the whole squared ratio of sensitivity to noise that are spent on counting chosen
        tables, and on choosing them. The rest is for `features`.
    epsilon, delta, sigma, adjacency
        As of `SumMechanism`, for everything together; sigma is the noise on counts of weight 1 in
        `features`.

    Raises
    ------
    TypeError
        If an argument is of the wrong kind.
    ValueError
        If an argument is out of range, there are fewer candidates than tables to choose, or their
        tables would not fit into memory.

    Examples
    --------
    >>> codes = np.random.default_rng(0).integers(0, 3, (5000, 3))
    >>> mechanism = AdaptiveSumMechanism(
    ...     features=MarginalSums((3, 3, 3), [(0,), (1,), (2,)]),
    ...     candidates=[(0, 1), (0, 2), (1, 2)], rounds=1, epsilon=1.0, delta=1e-6)
    >>> def even(release, groups):  # a model that expects all combinations to be equally frequent
    ...     return [np.full((3, 3), release.n / 9.0) for _ in groups]
    >>> len(mechanism.release(codes, even).features.groups)
    4
    """

    features: MarginalSums
    candidates: Sequence[Group]
    rounds: int
    tables_per_round: int = 1
    counting_share: float = 0.3
    choosing_share: float = 0.05
    epsilon: float | None = None
    delta: float | None = None
    sigma: float | None = None
    adjacency: str = "zero_out"

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        if not isinstance(self.features, MarginalSums):
            raise TypeError(f"features must be MarginalSums; got {_arrays.describe(self.features)}")
        put("rounds", _arrays.positive_integer("rounds", self.rounds))
        put("tables_per_round", _arrays.positive_integer("tables_per_round", self.tables_per_round))
        for name in ("counting_share", "choosing_share"):
            put(name, _arrays.open_unit(name, getattr(self, name)))
        if not self.counting_share + self.choosing_share < 1.0:
            raise ValueError(
                "counting_share and choosing_share must leave something for the features; got "
                f"{self.counting_share} and {self.choosing_share}"
            )
        try:
            choices = MarginalSums(self.features.sizes, tuple(self.candidates))
            self._all_tables(choices.groups)
        except (TypeError, ValueError) as error:
            raise type(error)(f"candidates are not valid: {error}") from error
        if len(choices.groups) < self._picks:
            raise ValueError(
                f"candidates must be at least the {self._picks} tables of all rounds; "
                f"got {len(choices.groups)}"
            )
        # One name for each table: the order of columns that the features have.
        known = {frozenset(group): group for group in self.features.groups}
        put("candidates", tuple(known.get(frozenset(g), g) for g in choices.groups))
        for name, value in checked_budget(self.epsilon, self.delta, self.sigma).items():
            put(name, value)
        _arrays.choice("adjacency", self.adjacency, SUM_ADJACENCIES)

    # ------------------------------------------------------------------------------- accounting

    @property
    def _picks(self) -> int:
        return self.rounds * self.tables_per_round

    @property
    def _norm(self) -> float:
        """Norm of the features, the chosen tables and an allowance for the choices together."""
        return self.features.norm / math.sqrt(1.0 - self.counting_share - self.choosing_share)

    @property
    def _weight(self) -> float:
        """Weight of a chosen table."""
        return self._norm * math.sqrt(self.counting_share / self._picks)

    def _all_tables(self, candidates: Sequence[Group]) -> MarginalSums:
        """Count everything that may be asked for, the features first."""
        known = {frozenset(group) for group in self.features.groups}
        more = tuple(group for group in candidates if frozenset(group) not in known)
        weights = self.features.weights + (1.0,) * len(more)
        return MarginalSums(self.features.sizes, self.features.groups + more, weights)

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
            the number of released sums is the most that may be rounded, tables that are counted
            again included.

        Raises
        ------
        ValueError
            If epsilon or delta is so small that floating-point numbers cannot deliver it.
        """
        largest = max(math.prod(self.features.shape_of(group)) for group in self.candidates)
        choosing = self._norm * math.sqrt(self.choosing_share)
        counting = math.hypot(self.features.norm, self._norm * math.sqrt(self.counting_share))
        assert self.delta is not None
        setting = SumSetting(
            delta=self.delta,
            # A table of the features that is counted again is rounded again.
            cells=self.features.n_cells + self._picks * largest,
            norm=self._norm,
            # A record exchanged for any other changes two counts of a table, and scores by up to 2;
            # the mu of a choice at most doubles with its range, as it is concave in it.
            diameter=math.hypot(math.sqrt(2.0) * counting, 2.0 * choosing),
            adjacency=self.adjacency,
            sampling_rate=None,
        )
        guarantee = account_sums(
            setting,
            epsilon=self.epsilon,
            sigma=self.sigma,
            weights=np.append(self.features.cell_weights(), self._weight),
            notes=(),
            n=n,
        )
        assert guarantee.sigma is not None
        note = (
            f"up to {self._picks} tables were chosen by exponential mechanisms, with epsilon below "
            f"{accounting._rounded_up(self._choice_range(guarantee.sigma))} each under "
            f"{self.adjacency}: {self.choosing_share:.3g} of the squares of norm and distance "
            "above are for that."
        )
        return dataclasses.replace(guarantee, notes=(note,))

    @property
    def _reach(self) -> int:
        """By how much the scores of neighbouring tables differ at most: Delta."""
        return 2 if self.adjacency == "replace_one" else 1

    def _choice_range(self, sigma: float) -> float:
        """Range of the losses of one choice, under the adjacency that was asked for: eta."""
        mu = self._norm * math.sqrt(self.choosing_share / self._picks) / sigma
        return accounting.choice_range(min(self._reach * mu, 50.0))  # what it is defined for

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
            counts that it expects, an array of each group's shape. Called once in every round. It
            must know nothing of the private records but the release.
        on_round : callable, optional
            Called with the round (from 0) and the groups that it has counted; both are public.

        Returns
        -------
        SumRelease
            Of `MarginalSums`: those of `features`, then the chosen ones.

        Raises
        ------
        TypeError, ValueError, FileExistsError, OSError
            As `SumMechanism.release`; and if what `estimate` returns is not that.
        """
        if not callable(estimate):
            raise TypeError(f"estimate must be callable; got {_arrays.describe(estimate)}")
        if on_round is not None and not callable(on_round):
            raise TypeError(f"on_round must be callable; got {_arrays.describe(on_round)}")
        if block_rows is not None:
            block_rows = _arrays.positive_integer("block_rows", block_rows)
        facts = _release.plain_metadata(metadata)
        guarantee = self.account()

        def make() -> SumRelease:
            tables = self._all_tables(self.candidates)
            total, n = add_up(tables, self.adjacency, X, block_rows, progress)
            public_n = None if self.adjacency == "add_remove" else n
            promise = dataclasses.replace(guarantee, n=public_n)
            counts = dict(tables.cut(total.counts()))
            return self._run(counts, promise, facts, estimate, on_round)

        return made_at(path, make, overwrite=overwrite)

    def _run(
        self,
        counts: Mapping[Group, NDArray[np.int64]],
        guarantee: Guarantee,
        metadata: dict[str, Any],
        estimate: Estimate,
        on_round: Callable[[int, tuple[Group, ...]], None] | None,
    ) -> SumRelease:
        """Count the features, then go through the rounds; `counts` are exact, and private."""
        assert guarantee.sigma is not None
        sigma = guarantee.sigma
        slope = self._choice_range(sigma) / (2 * self._reach)
        released: dict[Group, tuple[Numbers, float]] = {}  # noisy counts and weight

        def count(groups: Sequence[Group], weights: Sequence[float]) -> None:
            features = MarginalSums(self.features.sizes, tuple(groups), tuple(weights))
            exact = np.concatenate([counts[group].ravel() for group in groups])
            noisy = ExactSums.of(features, exact).with_noise(sigma)
            for (group, table), weight in zip(features.cut(noisy), weights, strict=True):
                if group in released:  # the average of both, by their precisions
                    before, old = released[group]
                    both = math.hypot(old, weight)
                    table = (old / both) ** 2 * before + (weight / both) ** 2 * table
                    weight = both
                released[group] = table, weight

        def so_far() -> SumRelease:
            features = MarginalSums(
                self.features.sizes, tuple(released), tuple(w for _, w in released.values())
            )
            return SumRelease(
                features,
                np.concatenate([table.ravel() for table, _ in released.values()]),
                sigma,
                dataclasses.replace(guarantee, p=features.n_cells),
                n=guarantee.n,
                metadata=metadata,
            )

        count(self.features.groups, self.features.weights)
        left = list(self.candidates)
        everywhere = frozenset.intersection(*map(frozenset, left))
        for i in range(self.rounds):
            expected = self._expected(estimate(so_far(), list(left)), left)
            scores = []
            for group, counted in zip(left, expected, strict=True):
                weight = math.hypot(released[group][1] if group in released else 0.0, self._weight)
                allowance = round(math.sqrt(2.0 / math.pi) * sigma / weight * counted.size)
                scores.append(int(np.abs(counts[group] - counted).sum()) - allowance)
            chosen = _choose(scores, left, self.tables_per_round, slope, everywhere)
            count(chosen, (self._weight,) * len(chosen))
            # A model that has learned some of a table's noise would have it chosen once more.
            left = [group for group in left if group not in chosen]
            if on_round is not None:
                on_round(i, tuple(chosen))
        return so_far()

    def _expected(self, tables: object, groups: Sequence[Group]) -> list[NDArray[np.int64]]:
        """Check what a model expects, and round it to whole counts."""
        if not isinstance(tables, Sequence) or len(tables) != len(groups):
            raise ValueError(
                f"estimate must return a sequence of {len(groups)} arrays, one for each group; "
                f"got {_arrays.describe(tables)}"
            )
        whole = []
        for group, table in zip(groups, tables, strict=True):
            shape = self.features.shape_of(group)
            try:
                counted = np.asarray(table, dtype=np.float64)
            except (TypeError, ValueError, RuntimeError):  # of torch, where there is a gradient
                counted = np.full(1, np.nan)
            if counted.shape != shape or not np.isfinite(counted).all():
                raise ValueError(
                    f"estimate must return finite counts of shape {shape} for the columns {group}; "
                    f"got {_arrays.describe(table)}"
                )
            bound = np.clip(counted, -_LARGEST_ESTIMATE, _LARGEST_ESTIMATE)
            whole.append(np.rint(bound).astype(np.int64))
        return whole


def _choose(
    scores: Sequence[int],
    candidates: Sequence[Group],
    count: int,
    slope: float,
    everywhere: frozenset[int] = frozenset(),
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
    own = [frozenset(group) - everywhere for group in candidates]
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
        left = [place for place in left if place != chosen and len(own[place] & own[chosen]) < 2]
    return [candidates[place] for place in picked]
