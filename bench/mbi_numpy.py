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
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Clique = tuple[str, ...]
Message = tuple[Clique, Values]
ITERATIONS = 1000  # mbi's default


# ----------------------------------------------------------------------------------------- factors


def _summed(values: Values, names: Clique, kept: Clique) -> Values:
    """Sum over all names but `kept`, one by one: NumPy is slow over short axes among others."""
    left = list(names)
    for name in names:
        if name not in kept:
            i = left.index(name)
            before, after = values.shape[:i], values.shape[i + 1 :]
            size, run = values.shape[i], math.prod(after)
            if run > 16:
                sums = values.reshape(-1, size, run).sum(axis=1)
            else:
                sums = values.reshape(-1, size * run) @ np.tile(np.eye(run), (size, 1))
            values = sums.reshape(before + after)
            left.remove(name)
    ordered: Values = values.transpose([left.index(name) for name in kept])
    return ordered


def _add(values: Values, names: Clique, added: Values, own: Clique) -> None:
    """Add a factor of fewer names, in place."""
    added = added.transpose(sorted(range(len(own)), key=lambda i: names.index(own[i])))
    missing = [i for i, name in enumerate(names) if name not in own]
    # Repeated along all but the first of the axes that it lacks, the last ones first.
    for i in missing[:0:-1]:
        size, run = values.shape[i], math.prod(values.shape[i + 1 :])
        if run > 16:
            added = np.repeat(added.reshape(-1, 1, run), size, axis=1)
        else:
            added = added.reshape(-1, run) @ np.tile(np.eye(run), size)
    if missing:
        i = missing[0]
        run = math.prod(values.shape[i + 1 :])
        view = values.reshape(-1, values.shape[i], run)
        view += added.reshape(-1, 1, run)
    else:
        values += added.reshape(values.shape)


def _log_summed(values: Values) -> Values:
    """Take the logarithm of the sum of exponentials, over the first axis."""
    top = values.max(axis=0)
    values -= top
    total: Values = np.log(np.exp(values, out=values).sum(axis=0)) + top
    return total


def _over(values: NDArray[Any], names: Clique, wider: Sequence[str]) -> NDArray[Any]:
    """Give a factor axes of length 1, so that it broadcasts against one over more names."""
    order = sorted(range(len(names)), key=lambda i: wider.index(names[i]))
    shape = [1] * len(wider)
    for i in order:
        shape[wider.index(names[i])] = values.shape[i]
    return values.transpose(order).reshape(shape)


# -------------------------------------------------------------------------------------- estimation


class _Side:
    """Some names of a node, whose joint values are the rows (or the columns) of its matrix."""

    def __init__(self, names: Clique, sizes: dict[str, int], cliques: Iterable[Clique]) -> None:
        self.names = names
        self.shape = tuple(sizes[name] for name in names)
        self.cells = math.prod(self.shape)
        self.own = [clique for clique in cliques if set(clique) <= set(names)]
        # What other cliques share with these names: an indicator of each of its values.
        parts = {self.part(clique) for clique in cliques if clique not in self.own}
        self.spans: dict[Clique, slice] = {}
        indicators: list[Values] = [np.zeros((self.cells, 0))]
        width = 0
        for part in sorted(parts - {()}):
            shape = tuple(sizes[name] for name in part)
            indicators.append(np.eye(math.prod(shape))[self._place(part, shape)])
            self.spans[part] = slice(width, width + indicators[-1].shape[1])
            width = self.spans[part].stop
        self.indicators = np.hstack(indicators)

    def part(self, clique: Clique) -> Clique:
        return tuple(name for name in clique if name in self.names)

    def _place(self, part: Clique, shape: tuple[int, ...]) -> NDArray[Any]:
        """For each joint value, the number of that of a part."""
        numbers = np.arange(math.prod(shape)).reshape(shape)
        place = np.broadcast_to(_over(numbers, part, self.names), self.shape)
        return np.ascontiguousarray(place).reshape(-1)

    def potential(self, potentials: dict[Clique, Values]) -> Values:
        """Add up the potentials of the cliques that lie within these names."""
        values = np.zeros(self.shape)
        for clique in self.own:
            values += _over(potentials[clique], clique, self.names)
        return values.reshape(-1)


class _Node:
    """A node of the tree: a matrix of powers, of the values of some names by those of the others.

    Cliques within the rows' names or the columns' are sums of a row or a column. Of all others the
    potentials are one product with indicators of values, and the marginals another. So a cell
    takes two products, however many cliques there are, and one exponential.
    """

    def __init__(self, names: Clique, sizes: dict[str, int], cliques: list[Clique]) -> None:
        self.names = names
        self.shape = tuple(sizes[name] for name in names)
        half = math.prod(self.shape) ** 0.5
        first = min(
            range(len(names) + 1), key=lambda i: abs(math.log(math.prod(self.shape[:i]) / half))
        )
        self.rows = _Side(names[:first], sizes, cliques)
        self.columns = _Side(names[first:], sizes, cliques)
        self.own = [*self.rows.own, *self.columns.own]
        self.crossing = [clique for clique in cliques if clique not in self.own]
        self.sizes = {clique: tuple(sizes[name] for name in clique) for clique in cliques}
        self.powers = np.empty((self.rows.cells, self.columns.cells))

    def _parts(self, clique: Clique) -> tuple[Clique, slice, slice]:
        row, column = self.rows.part(clique), self.columns.part(clique)
        return row + column, self.rows.spans[row], self.columns.spans[column]

    def set_potentials(self, potentials: dict[Clique, Values], told: list[Message]) -> None:
        """Set the powers to those of potentials and messages, the largest to 1."""
        rows, columns = self.rows, self.columns
        table = np.zeros((rows.indicators.shape[1], columns.indicators.shape[1]))
        for clique in self.crossing:
            names, i, j = self._parts(clique)
            ordered = _over(potentials[clique], clique, names)
            table[i, j] += ordered.reshape(table[i, j].shape)
        ones = np.ones
        left = [rows.indicators @ table, rows.potential(potentials), ones(rows.cells)]
        right = [columns.indicators, ones(columns.cells), columns.potential(potentials)]
        np.matmul(np.column_stack(left), np.column_stack(right).T, out=self.powers)
        for kept, message in told:
            _add(self.powers.reshape(self.shape), self.names, message, kept)
        self.powers -= self.powers.max()
        np.exp(self.powers, out=self.powers)

    def summed(self, kept: Clique) -> Values:
        return _summed(self.powers.reshape(self.shape), self.names, kept)

    def hear(self, kept: Clique, answer: Values) -> None:
        """Multiply by the powers of an answer."""
        values = self.powers.reshape(self.shape)
        values *= _over(_powers(answer), kept, self.names)

    def marginals(self, total: float) -> dict[Clique, Values]:
        rows, columns = self.rows, self.columns
        by_row = self.powers @ np.column_stack([columns.indicators, np.ones(columns.cells)])
        table = rows.indicators.T @ by_row[:, :-1]
        row_sums, column_sums = by_row[:, -1], self.powers.sum(axis=0)
        scale = total / row_sums.sum()
        found = {}
        for side, sums in ((rows, row_sums), (columns, column_sums)):
            for clique in side.own:
                found[clique] = _summed(sums.reshape(side.shape), side.names, clique) * scale
        for clique in self.crossing:
            names, i, j = self._parts(clique)
            sizes = dict(zip(clique, self.sizes[clique], strict=True))
            ordered = table[i, j].reshape([sizes[name] for name in names])
            found[clique] = _over(ordered, names, clique) * scale
        return found


class _Tree:
    """Marginals by messages on a junction tree: to a root, and back."""

    def __init__(self, domain: Any, cliques: list[Clique]) -> None:
        import networkx
        from mbi import junction_tree
        from mbi.clique_utils import reverse_clique_mapping

        tree = junction_tree.make_junction_tree(domain, cliques)[0]
        names = list(networkx.dfs_preorder_nodes(tree))
        held = reverse_clique_mapping(names, cliques, domain=domain)
        sizes = dict(zip(domain.attributes, domain.shape, strict=True))
        # Of each node but roots: its parent, which comes before it, and the names that they share.
        self.links: dict[Clique, tuple[Clique, Clique]] = {
            node: (parent, tuple(name for name in node if name in parent))
            for parent, node in networkx.dfs_edges(tree)
        }
        shared_by: dict[Clique, list[str]] = {node: [] for node in names}
        for node, (parent, shared) in self.links.items():
            shared_by[node] += shared
            shared_by[parent] += shared

        def ordered(node: Clique) -> Clique:
            """Long runs of memory: names that messages sum over come first."""
            times = Counter(shared_by[node])
            return tuple(sorted(node, key=lambda name: (times[name], sizes[name])))

        self.nodes = {node: _Node(ordered(node), sizes, held[node]) for node in names}

    def marginals(self, potentials: dict[Clique, Values], total: float) -> dict[Clique, Values]:
        told: dict[Clique, list[Message]] = {name: [] for name in self.nodes}
        sent: dict[Clique, Values] = {}
        for name in reversed(self.nodes):
            node = self.nodes[name]
            node.set_potentials(potentials, told[name])
            if name in self.links:
                parent, shared = self.links[name]
                sent[name] = _logarithm(node.summed(shared))
                told[parent].append((shared, sent[name]))
        found: dict[Clique, Values] = {}
        for name, node in self.nodes.items():
            if name in self.links:
                parent, shared = self.links[name]
                answer = _logarithm(self.nodes[parent].summed(shared)) - sent[name]
                node.hear(shared, answer)
            found |= node.marginals(total)
        return found


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

    sizes = dict(zip(active.attributes, active.shape, strict=True))

    def joined(parts: list[tuple[Clique, Values]], first: Clique) -> tuple[Clique, Values]:
        # Long runs of memory: what is summed over comes first, the most values last.
        every = {name for own, _ in parts for name in own}
        names = tuple(sorted(every, key=lambda name: (name not in first, sizes[name], name)))
        values = np.zeros([sizes[name] for name in names])
        for own, part in parts:
            _add(values, names, part, own)
        return names, values

    for name in order:
        names, values = joined([part for part in factors if name in part[0]], (name,))
        factors = [part for part in factors if name not in part[0]]
        factors.append((names[1:], _log_summed(values)))
    names, values = joined(factors, kept)
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
