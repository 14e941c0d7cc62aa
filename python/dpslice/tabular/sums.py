r"""Synthesis from a release of sums: noisy tables of pairs of columns, a mixture of products.

A release of sums puts its noise once on each count, so what it says of a table grows with the
number of rows, where a release of rows drowns each of them. `Discretization` says what is counted,
`ProductMixture` is fitted to the counts by `MarginalMatching`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice.accounting import SUM_ADJACENCIES
from dpslice.mechanism import SumMechanism
from dpslice.release import Release
from dpslice.tabular.discretization import Discretization
from dpslice.tabular.mixture import ProductMixture
from dpslice.tabular.schema import Datetime, Number, Schema
from dpslice.torch.sum_losses import MarginalMatching
from dpslice.torch.training import FitResult, fit

__all__ = ["MixtureOptions", "SumMethod"]


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
    """

    steps: int = 2000
    components: int = 1024
    lr: float = 0.05
    spread: float = 0.5


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
        seed: int,
        **where: Any,
    ) -> Release:
        """Release a private table; `where` is passed on to `SumMechanism.release`."""
        mechanism = SumMechanism(
            features=self.features, epsilon=epsilon, delta=delta, adjacency=adjacency
        )
        return mechanism.release(self.discretization.encode_blocks(df), **where)

    def check(self, release: Release) -> None:
        """Raise ValueError unless the release's sums are those of this discretization."""
        if release.features != self.features:
            raise ValueError(
                "release must count the columns as the schema does; it was made for another one"
            )

    def new_model(self) -> ProductMixture:
        """Make a mixture, not fitted yet."""
        sizes = self.discretization.sizes[: self.discretization.n_columns]
        levels = self.discretization.levels
        fine_bins = [levels[j].n_fine_bins for j in self.discretization.fine_codes]
        return ProductMixture(sizes, self.options.components, fine_bins)

    def train(self, release: Release, *, seed: int, **how: Any) -> tuple[ProductMixture, FitResult]:
        """Fit a new mixture; `how` is passed on to `dpslice.torch.fit`."""
        options, discretization = self.options, self.discretization
        columns = range(discretization.n_columns)
        loss = MarginalMatching(release, columns=columns, halves=False)
        alone = {
            group[0]: table
            for group, table, _ in self.features.tables(release.sums, release.noise)
            if len(group) == 1
        }
        mixture = self.new_model()
        mixture.start_from([alone[j] for j in columns], spread=options.spread, seed=seed)
        fine = {j: alone[position] for j, position in discretization.fine_codes.items()}
        mixture.set_shapes(list(discretization.shapes(fine).values()))
        result = fit(
            mixture,
            loss,
            steps=options.steps,
            batch_size=options.components,
            lr=options.lr,
            seed=seed,
            **how,
        )
        return mixture, result

    def sample(
        self,
        mixture: ProductMixture,
        n: int,
        *,
        seed: int,
        conditions: Mapping[str, object],
    ) -> pd.DataFrame:
        """Draw rows, from the model's exact conditional distribution where there are conditions."""
        rng = np.random.default_rng(seed)
        schema = self.discretization.schema
        given = {
            schema.names.index(name): self.discretization.code_of(schema.names.index(name), value)
            for name, value in conditions.items()
        }
        codes = mixture.sample(n, rng, given=given)
        shapes = dict(zip(self.discretization.fine_codes, mixture.shapes(), strict=True))
        table = self.discretization.decode(codes, shapes, rng)
        for name, value in conditions.items():
            column = schema[name]
            if isinstance(column, Number | Datetime):  # the very value, not another of its bin
                number = column.to_numbers(pd.Series([value], name=name))
                table[name] = column.from_numbers(np.repeat(number, n))
        return table

    def facts(self, release: Release | None, model: ProductMixture) -> dict[str, Any]:
        """Return what a report says of the method beyond steps and loss."""
        facts: dict[str, Any] = {"components": self.options.components}
        if release is not None:
            misfits = self.misfits(release, model)
            if np.isfinite(misfits).any():
                worst = np.unravel_index(int(np.nanargmax(misfits)), misfits.shape)
                a, b = (self.discretization.schema.names[j] for j in worst)
                facts["misfit over noise, mean of pairs"] = float(f"{np.nanmean(misfits):.3g}")
                facts["misfit over noise, worst pair"] = f"{a}, {b}: {np.nanmax(misfits):.3g}"
        return facts

    def misfits(self, release: Release, model: ProductMixture) -> NDArray[np.float64]:
        """Mean squared misfit of each pair of columns, in squared standard deviations of the noise.

        Of a pair that was counted on each level of the target, over all of these.

        1 is what noise alone explains; much more means that the model does not reach what the
        release says, less that it has learned some of the noise.

        Parameters
        ----------
        release : Release
            A release of sums.
        model : ProductMixture
            Fitted to it.

        Returns
        -------
        ndarray, shape (columns, columns)
            Symmetric; NaN on the diagonal, and for pairs with the target where that is part of
            triples.
        """
        columns = self.discretization.n_columns
        misfits = np.full((columns, columns), np.nan)
        probabilities = model.probabilities()
        sums, noise = release.sums, release.noise
        n = self.features.estimate_n(sums, noise)
        for group, table, deviation in self.features.tables(sums, noise):
            if len(group) == 1:
                continue
            *given, a, b = group
            levels = probabilities[given[0]].T if given else np.ones((1, model.components))
            share = [(level[:, None] * probabilities[a]).T @ probabilities[b] for level in levels]
            excess = n * np.array(share) / model.components - table.reshape(-1, *table.shape[-2:])
            misfits[a, b] = misfits[b, a] = np.mean((excess / deviation) ** 2)
        return misfits
