"""What AIM computes with mbi, in NumPy: the same numbers, without a compiler.

JAX compiles an estimation anew for each set of cliques, and a projection operation by operation.
AIM has another set of cliques in each of up to some hundreds of rounds, and spends most of its
time in the compiler. Here are mbi 1.1.0's mirror descent, step rule included, on mbi's junction
tree, and its variable elimination. Models agree to rounding, until that decides whether a step near
the optimum is taken.

    python bench/mbi_numpy.py        compares both with mbi's (pip install mbi==1.1.0)
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Clique = tuple[str, ...]
ITERATIONS = 1000  # mbi's default


# ----------------------------------------------------------------------------------------- factors


def _summed(values: Values, names: Clique, kept: Clique) -> Values:
    """Sum over all names but `kept`."""
    axes = tuple(i for i, name in enumerate(names) if name not in kept)
    left = [name for name in names if name in kept]
    sums: Values = values.sum(axis=axes).transpose([left.index(name) for name in kept])
    return sums


def _log_summed(values: Values, axis: int) -> Values:
    """Take the logarithm of the sum of exponentials."""
    top = values.max(axis=axis, keepdims=True)
    total: Values = np.log(np.exp(values - top).sum(axis=axis)) + top.squeeze(axis)
    return total


def _over(values: NDArray[Any], names: Clique, wider: Sequence[str]) -> NDArray[Any]:
    """Give a factor axes of length 1, so that it broadcasts against one over more names."""
    order = sorted(range(len(names)), key=lambda i: wider.index(names[i]))
    shape = [1] * len(wider)
    for i in order:
        shape[wider.index(names[i])] = values.shape[i]
    return values.transpose(order).reshape(shape)


# -------------------------------------------------------------------------------------- estimation


class _Tree:
    """Marginals by messages on a junction tree: to a root, and back."""

    def __init__(self, domain: Any, cliques: list[Clique]) -> None:
        import networkx
        from mbi import junction_tree
        from mbi.clique_utils import reverse_clique_mapping

        tree = junction_tree.make_junction_tree(domain, cliques)[0]
        nodes = list(networkx.dfs_preorder_nodes(tree))
        self.shapes = {node: domain.project(node).shape for node in nodes}
        # Of each node but roots: its parent, which comes before it, and the names that they share.
        self.links: dict[Clique, tuple[Clique, Clique]] = {
            node: (parent, tuple(name for name in node if name in parent))
            for parent, node in networkx.dfs_edges(tree)
        }
        held = reverse_clique_mapping(nodes, cliques, domain=domain)
        self.home = {clique: node for node in nodes for clique in held[node]}

        # Nodes have millions of cells and many short axes, over which NumPy is slow: they are kept
        # flat, with the place of each cell in each smaller factor.
        self.places: dict[tuple[Clique, Clique], NDArray[np.intp]] = {}
        self.sizes = {clique: domain.project(clique).shape for clique in cliques}

    def _place(self, node: Clique, kept: Clique) -> NDArray[np.intp]:
        if (node, kept) not in self.places:
            sizes = dict(zip(node, self.shapes[node], strict=True))
            shape = tuple(sizes[name] for name in kept)
            numbers = np.arange(math.prod(shape)).reshape(shape)
            place = np.broadcast_to(_over(numbers, kept, node), self.shapes[node])
            self.places[node, kept] = np.ascontiguousarray(place).reshape(-1)
        return self.places[node, kept]

    def _summed(self, values: Values, node: Clique, kept: Clique) -> Values:
        sums: Values = np.asarray(
            np.bincount(self._place(node, kept), weights=values), dtype=np.float64
        )
        return sums

    def marginals(self, potentials: dict[Clique, Values], total: float) -> dict[Clique, Values]:
        beliefs = {node: np.zeros(math.prod(shape)) for node, shape in self.shapes.items()}
        for clique, values in potentials.items():
            node = self.home[clique]
            beliefs[node] += values.reshape(-1)[self._place(node, clique)]
        told: dict[Clique, Values] = {}
        for node in reversed(self.shapes):
            if node in self.links:
                parent, shared = self.links[node]
                told[node] = _logarithm(self._summed(_powers(beliefs[node]), node, shared))
                beliefs[parent] += told[node][self._place(parent, shared)]
        for node in self.shapes:
            if node in self.links:
                parent, shared = self.links[node]
                answer = _logarithm(self._summed(beliefs[parent], parent, shared)) - told[node]
                beliefs[node] += answer[self._place(node, shared)]
            powers = _powers(beliefs[node])
            beliefs[node] = powers * (total / powers.sum())
        return {
            clique: self._summed(beliefs[node], node, clique).reshape(self.sizes[clique])
            for clique, node in self.home.items()
        }


def _powers(logarithms: Values) -> Values:
    powers: Values = np.exp(logarithms - logarithms.max())
    return powers


def _logarithm(values: Values) -> Values:
    """Take the logarithm; of what underflowed, that of the least number in place of -inf."""
    logarithms: Values = np.log(np.maximum(values, np.finfo(np.float64).tiny))
    return logarithms


class _SquaredError:
    """Half the squared misfit of noisy sums, in units of their noise, and its gradient."""

    def __init__(self, domain: Any, measurements: list[Any]) -> None:
        from mbi.clique_utils import maximal_subset

        self.shapes = {}
        self.cliques = maximal_subset([m.clique for m in measurements])
        for clique in self.cliques:
            self.shapes[clique] = domain.project(clique).shape
        self.terms = []
        for m in measurements:
            holder = next(c for c in self.cliques if set(m.clique) <= set(c))
            noisy = np.asarray(m.noisy_measurement, dtype=np.float64)
            noisy = noisy.reshape(domain.project(m.clique).shape)
            self.terms.append((m.clique, holder, noisy, max(float(m.stddev), 1e-12)))

    def __call__(self, marginals: dict[Clique, Values]) -> tuple[float, dict[Clique, Values]]:
        loss = 0.0
        gradient = {clique: np.zeros(shape) for clique, shape in self.shapes.items()}
        for clique, holder, noisy, scale in self.terms:
            misfit = (_summed(marginals[holder], holder, clique) - noisy) / scale
            loss += 0.5 * float(np.vdot(misfit, misfit))
            gradient[holder] += _over(misfit / scale, clique, holder)
        return loss, gradient

    def lipschitz(self) -> float:
        """Estimate the largest eigenvalue of the Hessian, by as many steps as mbi takes."""
        constant = self({clique: np.zeros(shape) for clique, shape in self.shapes.items()})[1]
        vector = {clique: np.ones(shape) for clique, shape in self.shapes.items()}
        estimate = _norm(vector)
        for _ in range(50):
            vector = {clique: values / (estimate + 1e-12) for clique, values in vector.items()}
            slope = self(vector)[1]
            vector = {clique: slope[clique] - constant[clique] for clique in self.cliques}
            estimate = _norm(vector)
        return estimate


def _dot(a: dict[Clique, Values], b: dict[Clique, Values]) -> float:
    return sum(float(np.vdot(a[clique], b[clique])) for clique in a)


def _norm(a: dict[Clique, Values]) -> float:
    return float(np.sqrt(_dot(a, a)))


def mirror_descent(
    domain: Any,
    measurements: list[Any],
    *,
    known_total: float | None = None,
    iters: int = ITERATIONS,
    marginal_oracle: object,
) -> Any:
    """Estimate a model from noisy sums, as ``mbi.estimation.mirror_descent`` does.

    The oracle, mbi's on a junction tree in logarithms, is named and not used.
    """
    from mbi import CliqueVector, Factor, MarkovRandomField, marginal_oracles
    from mbi.estimation import minimum_variance_unbiased_total

    assert marginal_oracle is marginal_oracles.message_passing_stable
    total = known_total
    if total is None:
        total = float(minimum_variance_unbiased_total(measurements))
    error = _SquaredError(domain, measurements)
    tree = _Tree(domain, error.cliques)
    step = 2.0 / (error.lipschitz() * total)
    potentials = {clique: np.zeros(shape) for clique, shape in error.shapes.items()}
    marginals = tree.marginals(potentials, total)
    loss, gradient = error(marginals)
    for _ in range(iters):
        tried = {c: potentials[c] - step * gradient[c] for c in error.cliques}
        reached = tree.marginals(tried, total)
        new_loss, new_gradient = error(reached)
        moved = {c: marginals[c] - reached[c] for c in error.cliques}
        if loss - new_loss >= 0.5 * step * _dot(gradient, moved):
            potentials, marginals, loss, gradient = tried, reached, new_loss, new_gradient
            step *= 1.01
        else:
            step *= 0.5

    def factors(arrays: dict[Clique, Values]) -> Any:
        own = {clique: Factor(domain.project(clique), arrays[clique]) for clique in error.cliques}
        return CliqueVector(domain, error.cliques, own)

    return MarkovRandomField(
        potentials=factors(potentials), marginals=factors(marginals), total=total
    )


# ------------------------------------------------------------------------------------- projections


def project(model: Any, attributes: str | Sequence[str]) -> Any:
    """Return the marginal of a model, as ``MarkovRandomField.project`` does."""
    from mbi import Factor, junction_tree

    kept: Clique = (attributes,) if isinstance(attributes, str) else tuple(attributes)
    if model.marginals.supports(kept):
        return model.marginals.project(kept)
    held = model.potentials.arrays.values()
    factors = [(f.domain.attributes, np.asarray(f.values, dtype=np.float64)) for f in held]
    active = model.potentials.active_domain
    cliques = [names for names, _ in factors]
    order, _ = junction_tree.greedy_order(active, [*cliques, kept], elim=active.invert(kept))

    def joined(parts: list[tuple[Clique, Values]]) -> tuple[Clique, Values]:
        names = tuple(dict.fromkeys(name for own, _ in parts for name in own))
        return names, sum((_over(values, own, names) for own, values in parts), np.zeros(()))

    for name in order:
        names, values = joined([part for part in factors if name in part[0]])
        left = tuple(other for other in names if other != name)
        factors = [part for part in factors if name not in part[0]]
        factors.append((left, _log_summed(values, names.index(name))))
    names, values = joined(factors)
    domain = model.potentials.domain.project(kept)
    values = np.broadcast_to(_over(values, names, kept), domain.shape)
    powers = np.exp(values - values.max())
    return Factor(domain, powers * (float(model.total) / powers.sum()))


@contextmanager
def without_compiler() -> Iterator[None]:
    """Put these functions in the place of mbi's."""
    with (
        mock.patch("mbi.estimation.mirror_descent", mirror_descent),
        mock.patch("mbi.MarkovRandomField.project", project),
    ):
        yield


def tree_megabytes(domain: Any, cliques: list[Clique]) -> float:
    """Size of the junction tree, which AIM's paper bounds; smartnoise-synth counts the cliques."""
    from mbi import junction_tree

    tree = junction_tree.make_junction_tree(domain, cliques)[0]
    return float(sum(domain.size(node) for node in tree.nodes) * 8 / 2**20)


# -------------------------------------------------------------------------------------- comparison


def main() -> None:
    """Compare with mbi, on a model with loops and a clique of three."""
    from mbi import Domain, LinearMeasurement, estimation, marginal_oracles

    rng = np.random.default_rng(0)
    names = [f"col{i}" for i in range(12)]
    domain = Domain(names, [4, 3, 7, 2, 5, 9, 3, 2, 4, 6, 3, 5])
    pairs = ["0 1", "1 2", "2 0", "3 4", "4 5", "6 2", "8 7 9", "9 3", "3 0", "0 1"]
    cliques: list[Clique] = [(name,) for name in names]
    cliques += [tuple(f"col{i}" for i in pair.split()) for pair in pairs]
    measurements = []
    for clique in cliques:
        size = domain.size(clique)
        noisy = 1000 * rng.dirichlet(np.ones(size)) + 3 * rng.normal(size=size)
        measurements.append(LinearMeasurement(noisy, clique, 3.0))
    for iters in (10, 300, ITERATIONS):
        start = time.perf_counter()
        options = {"iters": iters, "marginal_oracle": marginal_oracles.message_passing_stable}
        theirs = estimation.mirror_descent(domain, measurements, **options)
        middle = time.perf_counter()
        ours = mirror_descent(domain, measurements, **options)
        end = time.perf_counter()
        apart = max(
            float(np.abs(theirs.marginals[clique].values - ours.marginals[clique].values).max())
            for clique in ours.potentials.cliques
        )
        print(
            f"{iters} steps of mirror descent: mbi {middle - start:.1f} s, here "
            f"{end - middle:.1f} s; counts of 1000 rows differ by {apart:.1e} at most"
        )
    apart, theirs_took, ours_took = 0.0, 0.0, 0.0
    for pair in itertools.combinations(names, 2):
        start = time.perf_counter()
        expected = np.asarray(theirs.project(pair).values)
        middle = time.perf_counter()
        got = np.asarray(project(theirs, pair).values)
        ours_took += time.perf_counter() - middle
        theirs_took += middle - start
        apart = max(apart, float(np.abs(got - expected).max()))
    print(
        f"projections onto pairs: mbi {theirs_took:.1f} s, here {ours_took:.1f} s; counts differ "
        f"by {apart:.1e} at most"
    )


if __name__ == "__main__":
    main()
