r"""Synthesis from a release of sums: noisy tables of pairs of columns, a mixture of products.

A release of sums puts its noise once on each count, so what it says of a table grows with the
number of rows, where a release of rows drowns each of them. `Discretization` says what is counted,
`ProductMixture` is fitted to the counts by `MarginalMatching`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpslice import _arrays
from dpslice.accounting import SUM_ADJACENCIES
from dpslice.adaptive import AdaptiveSumMechanism
from dpslice.features import MarginalSums
from dpslice.mechanism import SumMechanism
from dpslice.release import SumRelease
from dpslice.tabular._conditions import Conditions, drawn_until, keep_to_rules, refusal_of
from dpslice.tabular._cuts import cut
from dpslice.tabular.discretization import Discretization, FineShape
from dpslice.tabular.mixture import ProductMixture
from dpslice.tabular.schema import Schema
from dpslice.torch.sum_losses import MarginalMatching, balanced
from dpslice.torch.training import FitResult, TrainingState, fit

__all__ = ["MixtureOptions", "SumMethod"]

Group = tuple[int, ...]
Numbers = NDArray[np.float64]

# Releases in rounds: how many tables are chosen in all, for each column; shares of the privacy
# budget (of the squared ratio of sensitivity to noise) for counting and for choosing them.
TABLES_PER_COLUMN = 0.5
COUNTING_SHARE = 0.2
CHOOSING_SHARE = 0.04
_MOST_COMPONENTS = 2**20  # of all models together: gigabytes, with a few hundred levels
_WORST_SHOWN = 5  # tables in a report
_AGAIN = 0.25  # of the steps and of the learning rate, to fit a model again to a release with more


@dataclass(frozen=True)
class MixtureOptions:
    """How a mixture of products is fitted to a release of sums. None of it costs privacy.

    The defaults were chosen by measurement (``bench/quality.py``).

    Parameters
    ----------
    steps : int
        Steps of Adam over the whole model.
    components : int
        Components K of the mixture.
    lr : float
        Peak learning rate of the logits; a cosine schedule lowers it to 0.
    spread : float
        Standard deviation of the logits at the start.
    stop_at : float, optional
        Stop when the loss has fallen to this: 1 is what the release's noise explains on average of
        a model without parameters of its own, less means that some of the noise is learned.
        Default: train for all steps. By measurement that is better for most tables, and 0.9 takes
        a quarter of the steps and helps where n is small.
    models : int
        Mixtures that are fitted, each by itself to the whole release, from starts of their own. The
        result is their union, which has learned less of the noise than each; it takes as many times
        the time.

    Raises
    ------
    TypeError
        If an option is of the wrong kind.
    ValueError
        If it is out of range: steps < 0, the others not positive, or more than 2**20 components in
        all models together.
    """

    steps: int = 2000
    components: int = 1024
    lr: float = 0.05
    spread: float = 0.5
    stop_at: float | None = None
    models: int = 1

    def __post_init__(self) -> None:
        # Checked before anything is released: the budget is not to be spent for a mistake. What is
        # kept are Python's own numbers, which a file can hold.
        _arrays.store(
            self,
            steps=_arrays.integer("steps", self.steps, minimum=0),
            components=_arrays.positive_integer("components", self.components),
            lr=_arrays.positive_real("lr", self.lr),
            spread=_arrays.positive_real("spread", self.spread),
            stop_at=(
                None if self.stop_at is None else _arrays.positive_real("stop_at", self.stop_at)
            ),
            models=_arrays.positive_integer("models", self.models),
        )
        if self.components * self.models > _MOST_COMPONENTS:
            raise ValueError(
                f"components times models must be at most {_MOST_COMPONENTS}, as all of them are "
                f"in memory at once; got components={self.components}, models={self.models}"
            )


class _EachByItself(nn.Module):
    """Mean loss of several models, whose rows follow each other: none is fitted to another's."""

    def __init__(self, loss: MarginalMatching, models: int) -> None:
        super().__init__()
        self.loss = loss
        self.models = models
        self.release = loss.release

    def extra_repr(self) -> str:
        return f"models={self.models}"

    def forward(self, rows: Tensor) -> Tensor:
        return torch.stack([self.loss(part) for part in rows.chunk(self.models)]).mean()


class SumMethod:
    """What `Synthesizer` does with ``method="sums"``.

    Parameters
    ----------
    schema : Schema
        The public schema.
    options : MixtureOptions
        How the mixture is fitted.
    settings : mapping, optional
        Arguments of `Discretization`, as `settings` returned them. Default or empty: its defaults.

    Raises
    ------
    ValueError
        As `Discretization.features`.
    """

    name: ClassVar[str] = "sums"
    adjacencies: ClassVar[tuple[str, ...]] = SUM_ADJACENCIES
    options_class: ClassVar[type[MixtureOptions]] = MixtureOptions
    settings_key: ClassVar[str] = "discretization"  # in the metadata of a release

    def __init__(
        self, schema: Schema, options: MixtureOptions, settings: Mapping[str, Any] | None = None
    ) -> None:
        self.options = options
        if settings:
            settings = {"triples": False, **settings}  # releases of versions that knew none
        self.discretization = Discretization(schema, **(settings or {}))
        self.features = self.discretization.features()

    def settings(self) -> dict[str, Any]:
        """Return what makes the same codes of the same schema."""
        return self.discretization.settings()

    def publish(
        self,
        df: pd.DataFrame | Iterable[pd.DataFrame],
        *,
        epsilon: float,
        delta: float,
        adjacency: str,
        rows_per_person: int,
        seed: int,
        rounds: int = 0,
        on_round: Callable[[int, list[tuple[str, ...]]], None] | None = None,
        **where: Any,
    ) -> SumRelease:
        """Release a private table; `where` is passed on to the mechanism's `release`.

        In `rounds`, if there are any, tables of three columns that a model of the pairs fits worst
        are chosen and counted, too; `on_round` is told which.
        """
        budget: dict[str, Any] = {
            "epsilon": epsilon,
            "delta": delta,
            "adjacency": adjacency,
            "rows_per_person": rows_per_person,
        }
        blocks = self.discretization.encode_blocks(df)
        if not rounds:
            return SumMechanism(features=self.features, **budget).release(blocks, **where)
        candidates = self.discretization.candidates()
        if len(candidates) < rounds:
            raise ValueError(
                f"rounds must be at most the number of tables of three columns to choose from; the "
                f"schema has {len(candidates)} that are small enough, got {rounds} rounds"
            )
        wanted = math.ceil(TABLES_PER_COLUMN * self.discretization.n_columns / rounds)
        mechanism = AdaptiveSumMechanism(
            features=self.features,
            candidates=candidates,
            rounds=rounds,
            tables_per_round=min(wanted, len(candidates) // rounds),
            counting_share=COUNTING_SHARE,
            choosing_share=CHOOSING_SHARE,
            **budget,
        )
        names = self.discretization.schema.names

        def told(i: int, groups: Sequence[Group]) -> None:
            if on_round is not None:
                on_round(i, [tuple(names[j] for j in group) for group in groups])

        return mechanism.release(blocks, self._model_of_rounds(seed), on_round=told, **where)

    def check(self, release: SumRelease) -> None:
        """Raise ValueError unless the release's sums are those of this discretization."""
        features = release.features
        if not (  # there may be more tables, which rounds have chosen
            isinstance(features, MarginalSums)
            and features.sizes == self.features.sizes
            and set(features.groups) >= set(self.features.groups)
        ):
            raise ValueError(
                "release must count the columns as the schema does; it was made for another one"
            )

    def new_model(self) -> ProductMixture:
        """Make a mixture, not fitted yet."""
        sizes = self.discretization.sizes[: self.discretization.n_columns]
        levels = self.discretization.levels
        fine_bins = [levels[j].n_fine_bins for j in self.discretization.fine_codes]
        components = self.options.components * self.options.models
        return ProductMixture(sizes, components, fine_bins)

    def train(
        self, release: SumRelease, *, seed: int, **how: Any
    ) -> tuple[ProductMixture, FitResult]:
        """Fit a new mixture; `how` is passed on to `dpslice.torch.fit`."""
        mixture = self._started(release, seed)
        return mixture, self._fit(mixture, release, seed=seed, **how)

    def _started(self, release: SumRelease, seed: int) -> ProductMixture:
        """Make a mixture about the columns' own distributions."""
        discretization = self.discretization
        assert isinstance(release.features, MarginalSums)
        alone = {
            group[0]: table
            for group, table, _ in release.features.tables(release.sums, release.noise)
            if len(group) == 1
        }
        mixture = self.new_model()
        columns = range(discretization.n_columns)
        mixture.start_from([alone[j] for j in columns], spread=self.options.spread, seed=seed)
        fine = {j: alone[position] for j, position in discretization.fine_codes.items()}
        mixture.set_shapes(list(discretization.shapes(fine).values()))
        return mixture

    def _fit(
        self,
        mixture: ProductMixture,
        release: SumRelease,
        *,
        again: bool = False,
        callbacks: Sequence[Callable[[TrainingState], object]] = (),
        **how: Any,
    ) -> FitResult:
        """Fit a mixture, or, for another release than before, fit it `again` from where it is."""
        options = self.options

        def stop_at_floor(state: TrainingState) -> None:
            if options.stop_at is not None and state.loss <= options.stop_at:
                state.stop()

        loss = MarginalMatching(
            release,
            columns=range(self.discretization.n_columns),
            halves=False,
            columns_weight=_columns_weight(release),
        )
        return fit(
            mixture,
            loss if options.models == 1 else _EachByItself(loss, options.models),
            steps=math.ceil(options.steps * (_AGAIN if again else 1.0)),
            batch_size=mixture.components,
            lr=options.lr * (_AGAIN if again else 1.0),
            callbacks=(*callbacks, stop_at_floor),
            settings={"spread": options.spread},
            **how,
        )

    def _model_of_rounds(self, seed: int) -> Callable[[SumRelease, Sequence[Group]], list[Numbers]]:
        """Return what `AdaptiveSumMechanism` asks for the counts that a model expects."""
        mixture: ProductMixture | None = None

        def estimate(release: SumRelease, groups: Sequence[Group]) -> list[Numbers]:
            nonlocal mixture
            again = mixture is not None
            mixture = mixture if mixture is not None else self._started(release, seed)
            result = self._fit(mixture, release, again=again, seed=seed, progress=False)
            if result.interrupted:  # by Ctrl-C: the release is not to go on with half a model
                raise KeyboardInterrupt
            n = release.features.estimate_n(release.sums, release.noise)
            probabilities = mixture.probabilities()
            return [n * table for table in _expected(probabilities, groups)]

        return estimate

    def sample(
        self,
        mixture: ProductMixture,
        n: int,
        *,
        seed: int,
        conditions: Conditions,
        schema: Schema,
    ) -> pd.DataFrame:
        """Draw rows, from the model's exact conditional distribution where there are conditions.

        Rows that break a rule of `schema`, which is else the method's own, are drawn anew, each by
        itself; all others are what they would be without rules.
        """
        rng = np.random.default_rng(seed)
        discretization = self.discretization
        shapes: dict[int, FineShape] = {}
        shapes |= zip(discretization.fine_codes, mixture.shapes(), strict=True)
        given = {}
        for j, name in enumerate(schema.names):
            if name in conditions:
                levels = discretization.levels[j]
                given[j], left = cut(levels, conditions[name], shapes.get(j))
                if left is not None:
                    shapes[j] = left

        def draw(rows: int, independent: bool) -> pd.DataFrame:
            codes = mixture.sample(rows, rng, given=given, independent=independent)
            return discretization.decode(codes, shapes, rng)

        def draw_kept(rows: int) -> pd.DataFrame:
            table = draw(rows, independent=True)
            return table[keep_to_rules(table, schema)]

        table = draw(n, independent=False)
        broken = np.flatnonzero(~keep_to_rules(table, schema))
        if len(broken) == 0:
            return table
        others = drawn_until(len(broken), draw_kept, refusal=refusal_of(schema, conditions))
        order = np.arange(n)
        order[broken] = n + np.arange(len(broken))
        both = pd.concat([table, others], ignore_index=True)
        return both.iloc[order].reset_index(drop=True)

    def facts(self, release: SumRelease | None, model: ProductMixture) -> dict[str, Any]:
        """Return what a report says of the method beyond steps and loss."""
        facts: dict[str, Any] = {"components": model.components}
        if release is not None:
            misfits = self.misfits(release, model)
            if misfits:
                mean = float(np.mean(list(misfits.values())))
                facts["misfit over noise, mean of tables"] = float(f"{mean:.3g}")
                worst = sorted(misfits, key=lambda group: misfits[group], reverse=True)
                for rank, group in enumerate(worst[:_WORST_SHOWN], 1):
                    names = ", ".join(self.discretization.schema.names[j] for j in group)
                    facts[f"misfit over noise, worst table {rank}"] = (
                        f"{names}: {misfits[group]:.3g}"
                    )
        return facts

    def misfits(self, release: SumRelease, model: ProductMixture) -> dict[Group, float]:
        """Mean squared misfit of each table, in squared standard deviations of its noise.

        1 is what noise alone explains; much more means that the model does not reach what the
        release says, less that it has learned some of the noise.

        Parameters
        ----------
        release : SumRelease
            A release of sums.
        model : ProductMixture
            Fitted to it.

        Returns
        -------
        dict from tuple of int to float
            For each group of two or more columns.
        """
        assert isinstance(release.features, MarginalSums)
        sums, noise = release.sums, release.noise
        n = release.features.estimate_n(sums, noise)
        tables = [
            (group, table, deviation)
            for group, table, deviation in release.features.tables(sums, noise)
            if len(group) > 1
        ]
        expected = _expected(model.probabilities(), [group for group, *_ in tables])
        return {
            group: float(np.mean((n * guess - table) ** 2) / deviation**2)
            for (group, table, deviation), guess in zip(tables, expected, strict=True)
        }


def _columns_weight(release: SumRelease) -> float:
    """Weight of single columns in the loss: more, the more noise there is in a table.

    Noise is measured by what it adds up to over a table, in records, against their number; so this
    is public. By measurement.
    """
    features = release.features
    assert isinstance(features, MarginalSums)
    n = features.estimate_n(release.sums, release.noise)
    noise = [
        deviation * table.size / n
        for group, table, deviation in features.tables(release.sums, release.noise)
        if len(group) > 1
    ]
    return min(10.0, 1.0 + 20.0 * float(np.mean(noise))) if noise else 1.0


def _expected(probabilities: Sequence[Numbers], groups: Sequence[Group]) -> list[Numbers]:
    """Share of the rows in each cell of some tables, of a mixture's distributions.

    Each table, of two columns or more, is a product of the joint distributions of two runs of its
    columns. Of many tables most of the time would go into the longer run, so each of these is made
    once, for all that share it.
    """
    sizes = [probability.shape[1] for probability in probabilities]
    parts = [np.ascontiguousarray(probability.T) for probability in probabilities]

    # As in the losses' `shares`, but [cells, components]: of narrow columns much quicker.
    def joint(run: Iterable[int]) -> Numbers:
        first, *others = (parts[column] for column in run)
        for part in others:
            first = (first[:, None, :] * part).reshape(-1, part.shape[1])
        return first

    sharing: dict[Group, list[tuple[int, Group, bool]]] = {}
    for i, group in enumerate(groups):
        left, right = map(tuple, balanced(group, sizes))
        turned = math.prod(sizes[j] for j in left) > math.prod(sizes[j] for j in right)
        longer, shorter = (left, right) if turned else (right, left)
        sharing.setdefault(longer, []).append((i, shorter, turned))
    tables: list[Numbers] = [np.empty(0)] * len(groups)
    for longer, those in sharing.items():
        shared = joint(longer)
        for i, shorter, turned in those:
            other = joint(shorter)
            table = shared @ other.T if turned else other @ shared.T
            tables[i] = table.reshape([sizes[j] for j in groups[i]]) / shared.shape[1]
    return tables
