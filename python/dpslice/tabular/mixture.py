r"""A model of tables for sum releases: a mixture of K products of categorical distributions.

.. math:: q(x) = \frac1K \sum_{l=1}^K \prod_j q_{lj}(x_j), \qquad q_{lj} = \mathrm{softmax}

Every sum over pairs of columns is a matrix product of its probabilities, without sampling noise,
and so is every conditional distribution: that makes it quick to fit to a `MarginalMatching` loss
and exact to condition on. With K at about a thousand it holds dependences of any order that a table
shows in its pairs; trials of networks of the same cost came nowhere near it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dpslice import _arrays
from dpslice.tabular.discretization import FineShape

__all__ = ["ProductMixture"]

Codes = NDArray[np.int64]
Numbers = NDArray[np.float64]

_NO_PROBABILITY = "conditions must be possible; the model gives them no probability"


class ProductMixture(nn.Module):
    """Mixture of products, its components equally likely.

    Parameters
    ----------
    sizes : sequence of int
        Levels of each column.
    components : int
        Number of components K.
    fine_bins : sequence of int
        Fine bins of each column that has a `FineShape`: the model keeps the shapes with its
        weights, so that it can be sampled from without the release.

    Attributes
    ----------
    latent_dim : int
        1: `dpslice.torch.fit` hands every generator noise; this one needs none.

    Raises
    ------
    TypeError, ValueError
        If a size or a number is no positive integer, or there is no column.
    """

    latent_dim = 1

    def __init__(
        self, sizes: Sequence[int], components: int, fine_bins: Sequence[int] = ()
    ) -> None:
        super().__init__()
        given = _arrays.elements("sizes", sizes)
        self.sizes = tuple(_arrays.positive_integer("sizes", size) for size in given)
        if not self.sizes:
            raise ValueError("sizes must hold at least one column; got none")
        self.components = _arrays.positive_integer("components", components)
        self.logits = nn.Parameter(torch.zeros(self.components, sum(self.sizes)))
        self._shapes = [f"shape_{i}" for i in range(len(fine_bins))]
        for name, bins in zip(self._shapes, fine_bins, strict=True):
            self.register_buffer(name, torch.zeros(bins + 1, dtype=torch.float64))

    def set_shapes(self, shapes: Sequence[FineShape]) -> None:
        """Keep the shapes of the columns that have one, in order.

        Parameters
        ----------
        shapes : sequence of FineShape
            One for each of `fine_bins`.
        """
        for name, shape in zip(self._shapes, shapes, strict=True):
            self.get_buffer(name).copy_(torch.from_numpy(shape.cumulative))

    def shapes(self) -> list[FineShape]:
        """Return the shapes that `set_shapes` was given.

        Returns
        -------
        list of FineShape
        """
        return [FineShape(self.get_buffer(name).numpy()) for name in self._shapes]

    def forward(self, z: Tensor) -> Tensor:
        """Return the probabilities of every component.

        Parameters
        ----------
        z : Tensor, shape (K, 1)
            Not used.

        Returns
        -------
        Tensor, shape (K, sum of sizes), float32
            Row l: the distributions of component l, column after column.
        """
        parts = self.logits.split(self.sizes, dim=1)
        return torch.cat([torch.softmax(part, dim=1) for part in parts], dim=1)

    @torch.no_grad()
    def start_from(
        self, counts: Sequence[NDArray[np.floating[Any]]], *, spread: float, seed: int
    ) -> None:
        """Start with components scattered about a product of given distributions.

        Parameters
        ----------
        counts : sequence of arrays, one of shape (levels,) per column
            Estimated counts, which may be negative.
        spread : float
            Standard deviation of the logits. Equal components would stay equal.
        seed : int
            Seed of the scatter.

        Raises
        ------
        ValueError
            If `counts` are not of these columns.
        """
        centres = []
        for size, noisy in zip(self.sizes, counts, strict=True):
            # Half a count for each level: a start must not rule one out.
            share = np.maximum(np.asarray(noisy, dtype=np.float64), 0.0) + 0.5
            if share.shape != (size,):
                raise ValueError(f"counts must be one for each of {size} levels; got {share.shape}")
            centres.append(np.log(share / share.sum()))
        scatter = torch.randn(
            self.logits.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        start = torch.from_numpy(np.concatenate(centres)) + spread * scatter
        self.logits.copy_(start.to(self.logits.dtype))

    @torch.no_grad()
    def probabilities(self) -> list[Numbers]:
        """Return the distributions of every component.

        Returns
        -------
        list of arrays, one of shape (K, levels) per column, float64
        """
        parts = self.logits.double().split(self.sizes, dim=1)
        return [torch.softmax(part, dim=1).numpy() for part in parts]

    def sample(
        self,
        n: int,
        rng: np.random.Generator,
        *,
        given: Mapping[int, int | Numbers] | None = None,
        independent: bool = False,
    ) -> Codes:
        """Draw rows of codes.

        Parameters
        ----------
        n : int
            Number of rows.
        rng : numpy.random.Generator
            Where they come from.
        given : mapping from int to int, or to array, shape (levels,), optional
            Level that a column is to have; or of each level the share of its rows that are wanted,
            from 0 to 1. The rows are drawn from the exact conditional distribution.
        independent : bool
            Whether rows are drawn each by itself, as rejection needs it: how many of a few are kept
            then tells nothing of the others. Otherwise components come each nearly as often as
            expected, with less noise of sampling.

        Returns
        -------
        ndarray, shape (n, number of columns), int64

        Raises
        ------
        ValueError
            If `given` holds no level, or no such shares, of a column, or the model gives the
            condition no probability that a float could hold.
        """
        distributions = self.probabilities()
        shares = self._shares(given or {})
        levels = {j: np.flatnonzero(share) for j, share in shares.items()}
        for j, share in shares.items():
            distributions[j] = distributions[j][:, levels[j]] * share[levels[j]]
        likelihoods = [distributions[j].sum(axis=1) for j in shares]
        chosen = self._choose_components(n, rng, likelihoods, independent)
        codes = np.empty((n, len(self.sizes)), dtype=np.int64)
        for j, probability in enumerate(distributions):
            if j in shares and len(levels[j]) == 1:
                codes[:, j] = levels[j]
                continue
            cumulative = np.cumsum(probability, axis=1)
            if j in shares:
                total = cumulative[:, -1:].copy()
                np.divide(cumulative, total, out=cumulative, where=total > 0.0)
            cumulative[:, -1] = np.inf  # rounding must not leave a number beyond the last level
            # Components lie side by side on one increasing line: one search serves all rows.
            line = (np.minimum(cumulative, 2.0) + 3.0 * np.arange(self.components)[:, None]).ravel()
            found = np.searchsorted(line, 3.0 * chosen + rng.random(n), side="right")
            found -= chosen * probability.shape[1]
            codes[:, j] = levels[j][found] if j in shares else found
        return codes

    def _shares(self, given: Mapping[int, int | Numbers]) -> dict[int, Numbers]:
        """Check what `sample` was given; columns of which all is wanted are left out."""
        shares = {}
        for j, wanted in given.items():
            size = self.sizes[j] if 0 <= j < len(self.sizes) else 0
            if isinstance(wanted, np.ndarray):
                share = np.asarray(wanted, dtype=np.float64)
                fits = share.shape == (size,) and bool(((share >= 0.0) & (share <= 1.0)).all())
            else:
                share = (np.arange(size) == wanted).astype(np.float64)
                fits = 0 <= wanted < size
            if not (fits and size):
                raise ValueError(
                    "given must map columns to their levels, or to a share of each from 0 to 1; "
                    f"got {j}: {_arrays.describe(wanted)}"
                )
            if not share.any():
                raise ValueError(_NO_PROBABILITY)
            if not (share == 1.0).all():
                shares[j] = share
        return shares

    def _choose_components(
        self,
        n: int,
        rng: np.random.Generator,
        likelihoods: Sequence[Numbers],
        independent: bool,
    ) -> Codes:
        """Draw a component for each row: each nearly as often as expected, in random order."""
        with np.errstate(divide="ignore"):
            logs = sum(
                (np.log(likelihood) for likelihood in likelihoods), np.zeros(self.components)
            )
        peak = float(np.max(logs))
        if not math.isfinite(peak):
            raise ValueError(_NO_PROBABILITY)
        weight = np.exp(logs - peak)
        if independent:
            return rng.choice(self.components, size=n, p=weight / weight.sum())
        expected = n * np.cumsum(weight) / weight.sum()
        # One random offset, then evenly: systematic sampling, without the noise of n draws.
        ends = np.floor(expected + rng.random()).astype(np.int64)
        counts = np.diff(np.minimum(ends, n), prepend=0)
        counts[-1] += n - counts.sum()
        return rng.permutation(np.repeat(np.arange(self.components), counts))
