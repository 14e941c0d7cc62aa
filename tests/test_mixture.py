"""The mixture of products: its tables, samples and conditionals; the loss it is fitted by."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the mixture is a torch module")
pytest.importorskip("pandas", reason="the mixture is part of the tabular package")

from scipy import stats  # noqa: E402

from dpslice import MarginalSums, SlicingMechanism, SumMechanism, SumRelease  # noqa: E402
from dpslice import mechanism as mechanism_module  # noqa: E402
from dpslice.tabular import ProductMixture  # noqa: E402
from dpslice.tabular.discretization import FineShape  # noqa: E402
from dpslice.tabular.sums import _expected  # noqa: E402
from dpslice.torch import MarginalMatching, SmoothedLikelihood, fit, sum_losses  # noqa: E402

SIZES = (3, 2, 4)
GROUPS = [(0,), (1,), (2,), (0, 1), (0, 2), (1, 2)]
FEATURES = MarginalSums(SIZES, GROUPS, [1.0, 2.0, 1.0, 0.5, 1.0, 3.0])


def _mixture(components: int = 5, seed: int = 0) -> ProductMixture:
    mixture = ProductMixture(SIZES, components)
    mixture.start_from([np.ones(size) for size in SIZES], spread=1.5, seed=seed)
    return mixture


# Levels of the last column are too many to take triples apart by, so these are products.
WIDE = MarginalSums(
    (*SIZES, 2, 5), [(0,), (3, 0), (0, 1, 2), (4, 0, 2), (3, 1, 2, 0), (4, 3, 2, 1, 0)],
    [1.0, 1.0, 3.0, 2.0, 1.0, 0.5],
)  # fmt: skip

TRIPLES = MarginalSums(SIZES, [*GROUPS[:4], (2, 1, 0)], [1.0, 2.0, 1.0, 0.5, 3.0])


def _release(n: int = 400, sigma: float = 3.0, features: MarginalSums = FEATURES):
    rng = np.random.default_rng(1)
    first = rng.integers(0, 3, n)
    columns = [first, rng.integers(0, 2, n), (first + rng.integers(0, 2, n)) % 4]
    columns += [rng.integers(0, size, n) for size in features.sizes[3:]]
    return SumMechanism(features=features, sigma=sigma).release(np.stack(columns, axis=1))


def _distributions(sizes: tuple[int, ...], rows: int) -> torch.Tensor:
    source = torch.Generator().manual_seed(0)
    parts = [torch.rand(rows, size, generator=source, dtype=torch.float64) for size in sizes]
    return torch.cat([part / part.sum(dim=1, keepdim=True) for part in parts], dim=1)


# ------------------------------------------------------------------------------------- mixture


def test_rows_are_distributions() -> None:
    mixture = _mixture()
    rows = mixture(torch.zeros(5, 1))
    assert rows.shape == (5, 9)
    for part in rows.split(SIZES, dim=1):
        torch.testing.assert_close(part.sum(dim=1), torch.ones(5))
    for part, double in zip(rows.split(SIZES, dim=1), mixture.probabilities(), strict=True):
        np.testing.assert_allclose(part.detach().numpy(), double, rtol=1e-5)


def test_expected_tables_are_those_of_all_components() -> None:
    """Of tables that share runs of columns, on either side; by the joint distribution."""
    sizes = (3, 2, 4, 2, 5)
    rng = np.random.default_rng(0)
    parts = [rng.dirichlet(np.ones(size), size=7) for size in sizes]
    groups = [
        (0, 1), (4, 0), (0, 1, 2), (1, 2, 3), (0, 2, 3), (4, 1, 3), (1, 3, 4), (0, 3, 4),
        (3, 0, 1, 2), (1, 0, 3, 4), (4, 3, 2, 1, 0),
    ]  # fmt: skip
    found = _expected(parts, groups)
    assert len(found) == len(groups)
    for group, table in zip(groups, found, strict=True):
        letters = "abcde"[: len(group)]
        whole = ",".join(f"z{letter}" for letter in letters)
        expected = np.einsum(f"{whole}->{letters}", *(parts[j] for j in group)) / 7
        np.testing.assert_allclose(table, expected, rtol=1e-12)


def test_start_has_the_given_shares() -> None:
    mixture = ProductMixture((3,), 4000)
    mixture.start_from([np.array([60.0, 30.0, -5.0])], spread=1e-3, seed=0)
    np.testing.assert_allclose(
        mixture.probabilities()[0].mean(axis=0), np.array([60.5, 30.5, 0.5]) / 91.5, rtol=1e-3
    )


@pytest.mark.parametrize("independent", [False, True])
def test_samples_have_the_models_joint_distribution(independent: bool) -> None:
    """Chi-squared over all 24 cells; systematic choice of components only lowers it."""
    mixture = _mixture()
    codes = mixture.sample(200_000, np.random.default_rng(4), independent=independent)
    joint = np.einsum("ka,kb,kc->abc", *mixture.probabilities()) / 5
    counts = np.zeros(SIZES)
    np.add.at(counts, tuple(codes.T), 1)
    assert stats.chisquare(counts.ravel(), 200_000 * joint.ravel()).pvalue > 1e-6


@pytest.mark.parametrize("independent", [False, True])
def test_conditional_samples_are_exact(independent: bool) -> None:
    mixture = _mixture()
    rng = np.random.default_rng(4)
    codes = mixture.sample(200_000, rng, given={0: 2, 1: 1}, independent=independent)
    assert (codes[:, 0] == 2).all()
    assert (codes[:, 1] == 1).all()
    joint = np.einsum("ka,kb,kc->abc", *mixture.probabilities())
    expected = joint[2, 1] / joint[2, 1].sum()
    counts = np.bincount(codes[:, 2], minlength=4)
    assert stats.chisquare(counts, 200_000 * expected).pvalue > 1e-6


@pytest.mark.parametrize("independent", [False, True])
def test_samples_of_shares_of_levels_are_exact(independent: bool) -> None:
    """Each cell of the joint distribution, times the shares of its levels."""
    mixture = _mixture()
    with torch.no_grad():
        mixture.logits[0, :2] = -2000.0  # what a component does not make is no matter of it
    first, last = np.array([1.0, 0.25, 0.0]), np.array([0.0, 1.0, 0.0, 0.5])
    codes = mixture.sample(
        200_000, np.random.default_rng(4), given={0: first, 2: last}, independent=independent
    )
    joint = np.einsum("ka,kb,kc->abc", *mixture.probabilities())
    expected = joint * first[:, None, None] * last
    counts = np.zeros(SIZES)
    np.add.at(counts, tuple(codes.T), 1)
    possible = expected > 0
    assert not counts[~possible].any()
    expected *= 200_000 / expected.sum()
    assert stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-6


def test_all_of_a_column_is_no_condition() -> None:
    mixture = _mixture()
    codes = [
        mixture.sample(500, np.random.default_rng(4), given=given)
        for given in ({}, {0: np.ones(3), 2: np.ones(4)})
    ]
    np.testing.assert_array_equal(*codes)


def test_independent_rows_are_independent() -> None:
    """How often a component comes varies as of rows drawn one by one, or hardly at all."""
    mixture = ProductMixture((2,), 2)
    with torch.no_grad():
        mixture.logits.copy_(torch.tensor([[50.0, -50.0], [-50.0, 50.0]]))
    rng = np.random.default_rng(0)
    for independent, variance in ((True, 100 / 4), (False, 0.0)):
        counts = [mixture.sample(100, rng, independent=independent).sum() for _ in range(2000)]
        assert np.var(counts) == pytest.approx(variance, rel=0.15, abs=0.3)


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_few_rows(n: int) -> None:
    codes = _mixture().sample(n, np.random.default_rng(0))
    assert codes.shape == (n, 3)
    assert ((codes >= 0) & (codes < np.array(SIZES))).all()


@pytest.mark.parametrize(
    "given",
    [
        *({0: 3}, {0: -1}, {3: 0}, {-1: 0}),
        *({0: np.ones(4)}, {0: np.ones((1, 3))}, {3: np.ones(3)}, {-1: np.ones(4)}),
        *({0: np.array([0.5, 1.5, 0.0])}, {0: np.array([0.5, -0.5, 0.0])}),
        {0: np.array([0.5, np.nan, 0.0])},
    ],
)
def test_conditions_are_levels_of_columns(given: dict) -> None:
    with pytest.raises(ValueError, match="given must map columns to their levels, or to"):
        _mixture().sample(4, np.random.default_rng(0), given=given)


def test_counts_of_a_start_are_those_of_the_columns() -> None:
    with pytest.raises(ValueError, match=r"counts must be one for each of 2 levels; got \(3,\)"):
        _mixture().start_from([np.ones(3), np.ones(3), np.ones(4)], spread=0.5, seed=0)


def test_impossible_conditions_are_refused() -> None:
    mixture = _mixture()
    with torch.no_grad():
        mixture.logits[:, 0] = -2000.0
    for given in ({0: 0}, {0: np.array([1.0, 0.0, 0.0])}, {1: np.zeros(2)}):
        with pytest.raises(ValueError, match="conditions must be possible"):
            mixture.sample(3, np.random.default_rng(0), given=given)


def test_shapes_travel_with_the_weights() -> None:
    mixture = ProductMixture(SIZES, 2, [4, 2])
    mixture.set_shapes(
        [FineShape(np.array([0.0, 1.0, 1.0, 4.0, 5.0])), FineShape(np.array([0.0, 2.0, 3.0]))]
    )
    other = ProductMixture(SIZES, 2, [4, 2])
    other.load_state_dict(mixture.state_dict())
    for one, two in zip(other.shapes(), mixture.shapes(), strict=True):
        np.testing.assert_array_equal(one.cumulative, two.cumulative)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        (((), 3), ValueError, "sizes must hold at least one column"),
        (((2, 0), 3), ValueError, "sizes must be an integer >= 1; got 0"),
        (((2,), 0), ValueError, "components must be an integer >= 1; got 0"),
        ((2, 3), TypeError, "sizes must be a sequence; got int 2"),
    ],
)
def test_bad_sizes_are_refused(arguments: tuple, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        ProductMixture(*arguments)


# ----------------------------------------------------------------------------------------- loss


def _reference(release, rows: np.ndarray, columns_weight: float = 0.0) -> float:
    """The loss of whole batches, cell by cell."""
    ends = np.cumsum([0, *release.features.sizes])
    n = getattr(release, "n", None)
    if n is None or release.guarantee.sampling_rate is not None:
        n = release.features.estimate_n(release.sums, release.noise)
    estimates = {}
    total = cells = 0.0

    def add(group: tuple, table: np.ndarray, noise: float, weight: float) -> None:
        nonlocal total, cells
        for cell in np.ndindex(table.shape):
            share = np.ones(len(rows))
            for column, level in zip(group, cell, strict=True):
                share = share * rows[:, ends[column] + level]
            total += weight * ((share.mean() - table[cell] / n) / (noise / n)) ** 2
            cells += weight

    for group, table, noise in release.features.tables(release.sums, release.noise):
        add(group, table, noise, 1.0)
        for axis, column in enumerate(group):
            others = tuple(other for other in range(len(group)) if other != axis)
            variance = noise**2 * table.size / table.shape[axis]
            estimates.setdefault(column, []).append((table.sum(axis=others), variance))
    if columns_weight:
        for column, found in estimates.items():
            precision = sum(1.0 / variance for _, variance in found)
            mean = sum(table / variance for table, variance in found) / precision
            add((column,), mean, precision**-0.5, columns_weight)
    return total / cells


@pytest.mark.parametrize("features", [FEATURES, TRIPLES, WIDE])
@pytest.mark.parametrize("columns_weight", [0.0, 1.0, 7.5])
def test_value_is_the_formulas(features: MarginalSums, columns_weight: float) -> None:
    release = _release(features=features)
    rows = _distributions(features.sizes, 5)
    loss = MarginalMatching(release, halves=False, columns_weight=columns_weight)
    expected = _reference(release, rows.numpy(), columns_weight)
    assert float(loss(rows)) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("columns", [(4, 2, 0, 3, 1), (2, 0, 1), (3, 0)])
@pytest.mark.parametrize("product", [0, 12_000])
def test_columns_in_another_order(
    columns: tuple, product: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a release of those columns alone, in that order."""
    monkeypatch.setattr(sum_losses, "_EACH_PRODUCT", product)
    whole = _release(features=WIDE)
    inside = [
        (group, table, noise)
        for group, table, noise in WIDE.tables(whole.sums, whole.noise)
        if set(group) <= set(columns)
    ]
    sizes = [WIDE.sizes[j] for j in columns]
    place = {j: i for i, j in enumerate(columns)}
    features = MarginalSums(
        sizes,
        [tuple(place[j] for j in group) for group, _, _ in inside],
        [whole.sigma / noise for _, _, noise in inside],
    )
    part = SumRelease(
        features,
        np.concatenate([table.ravel() for _, table, _ in inside]),
        whole.sigma,
        dataclasses.replace(whole.guarantee, p=features.n_cells),
        n=whole.n,
    )
    rows = _distributions(sizes, 5)
    loss = MarginalMatching(whole, columns=columns, halves=False)
    assert float(loss(rows)) == pytest.approx(_reference(part, rows.numpy()), rel=1e-5)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ({}, 1.0),
        ({"adjacency": "add_remove"}, 2 / 3),  # one of three cells is spent on their number
        ({"sampling_rate": 0.5}, None),
    ],
)
def test_the_truth_scores_one_where_the_number_of_rows_is_public(how, expected) -> None:
    """Of one table of three cells, over 400 releases; six standard errors of chi-squared.

    The shares of a sample are not quite those of the table; with more noise that is no matter.
    """
    codes = np.repeat([0, 1, 2], [500, 300, 200])[:, None]
    rows = torch.eye(3)[torch.from_numpy(codes[:, 0])]
    features = MarginalSums((3,), [(0,)], [1.0])
    sigma = 20.0 if expected is not None else 60.0
    mechanism = SumMechanism(features=features, sigma=sigma, delta=1e-6, **how)
    values = [
        float(MarginalMatching(mechanism.release(codes), halves=False)(rows)) for _ in range(400)
    ]
    if expected is None:
        assert np.mean(values) < 1.0
    else:
        assert np.mean(values) == pytest.approx(expected, abs=6 * math.sqrt(2 / 3 / 400))


def test_triples_that_share_a_column_are_taken_apart_by_it() -> None:
    """Both ways are tested above: TRIPLES has moments on conditions, WIDE has products."""
    apart = MarginalMatching(_release(features=TRIPLES))
    assert apart._conditions != (None,)
    assert not apart._products
    assert MarginalMatching(_release(features=WIDE))._products


def test_estimates_of_columns_have_their_noise() -> None:
    """Against the exact counts, over repeated releases; chi-squared, error rate 1e-6."""
    rng = np.random.default_rng(0)
    codes = np.stack([rng.integers(0, size, 300) for size in WIDE.sizes], axis=1)
    mechanism = SumMechanism(features=WIDE, sigma=4.0)
    squares: list[float] = []
    for _ in range(200):
        release = mechanism.release(codes)
        for j, (table, deviation) in WIDE.estimate_columns(release.sums, release.noise).items():
            # One level of each column: levels of one, and columns, share some tables' noise.
            exact = np.count_nonzero(codes[:, j] == 0)
            if j == 2:
                squares.append(((table[0] - exact) / deviation) ** 2)
            assert table.shape == (WIDE.sizes[j],)
    low, high = stats.chi2.ppf([5e-7, 1.0 - 5e-7], len(squares))
    assert low < sum(squares) < high


def test_columns_of_a_generator() -> None:
    release = _release()
    order = [2, 0]  # of the columns of a generator
    part = MarginalMatching(release, columns=order, halves=False)
    chosen = MarginalSums((4, 3), [(0,), (1,), (1, 0)], [1.0, 1.0, 1.0])
    assert part.sizes == chosen.sizes
    assert part.n_cells == 4 + 3 + 12


@pytest.mark.parametrize("features", [FEATURES, TRIPLES, WIDE])
@pytest.mark.parametrize("halves", [True, False])
def test_gradient(halves: bool, features: MarginalSums) -> None:
    loss = MarginalMatching(_release(features=features), halves=halves, columns_weight=2.0)
    rows = _distributions(features.sizes, 6).requires_grad_()
    assert torch.autograd.gradcheck(loss, (rows,))


@pytest.mark.parametrize("features", [FEATURES, TRIPLES, WIDE])
@pytest.mark.parametrize("halves", [True, False])
def test_vmap_is_a_loop(halves: bool, features: MarginalSums) -> None:
    loss = MarginalMatching(_release(features=features), halves=halves, columns_weight=2.0)
    rows = _distributions(features.sizes, 18).reshape(3, 6, -1)
    torch.testing.assert_close(torch.func.vmap(loss)(rows), torch.stack([loss(x) for x in rows]))
    want = torch.stack([torch.func.grad(loss)(x) for x in rows])
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(loss))(rows), want)


def test_halves_are_unbiased() -> None:
    """Random one-hot rows of the right model: squares are too large, products are not."""
    release = _release(sigma=0.5)
    model = _mixture()
    rng = np.random.default_rng(6)
    values = {True: [], False: []}
    for _ in range(400):
        codes = model.sample(60, rng)
        rows = torch.zeros(60, 9, dtype=torch.float64)
        for first, column in zip((0, 3, 5), codes.T, strict=True):
            rows[torch.arange(60), torch.from_numpy(first + column)] = 1.0
        for halves, found in values.items():
            found.append(float(MarginalMatching(release, halves=halves)(rows)))
    rows = model(torch.zeros(5, 1)).detach().double()
    truth = float(MarginalMatching(release, halves=False)(rows))
    error = np.std(values[True]) / 20
    assert abs(np.mean(values[True]) - truth) < 5.5 * error  # error rate 4e-8
    assert np.mean(values[False]) > truth + 4.5 * np.std(values[False]) / 20


def test_fit_reaches_the_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    # One noise: of 35 numbers, what is left varies by a quarter.
    monkeypatch.setattr(mechanism_module, "_normals", np.random.default_rng(0).standard_normal)
    release = _release(n=4000, sigma=60.0)
    mixture = _mixture(components=32)
    loss = MarginalMatching(release, halves=False)
    result = fit(mixture, loss, steps=400, batch_size=32, lr=0.05, progress=False)
    assert result.history[0] > 20.0
    assert result.history[-1] < 1.5


def test_what_is_no_release_of_sums_is_refused() -> None:
    rows = SlicingMechanism(sigma=1.0).release(np.ones((4, 2)) / 2)
    with pytest.raises(ValueError, match="takes a release of sums; got kind 'rows'"):
        MarginalMatching(rows)
    with pytest.raises(ValueError, match="takes a release of rows; got kind 'sums'"):
        SmoothedLikelihood(_release())
    with pytest.raises(TypeError, match=r"release must be a dpslice\.Release"):
        MarginalMatching(None)
    with pytest.raises(ValueError, match="columns must be different ones"):
        MarginalMatching(_release(), columns=[0, 0])
    with pytest.raises(ValueError, match="columns must be different ones"):
        MarginalMatching(_release(), columns=[3])
    with pytest.raises(TypeError, match="columns must be a sequence of integers; got"):
        MarginalMatching(_release(), columns=5)
    with pytest.raises(TypeError, match="columns must be an integer"):
        MarginalMatching(_release(), columns=[0.0, 1.0])
    with pytest.raises(ValueError, match="columns_weight must"):
        MarginalMatching(_release(), columns_weight=-1.0)
    pairs = _release(features=MarginalSums(SIZES, [(0, 1)]))
    with pytest.raises(ValueError, match="at least one group of the release"):
        MarginalMatching(pairs, columns=[0])


def test_bad_rows_are_refused() -> None:
    loss = MarginalMatching(_release())
    with pytest.raises(ValueError, match="x_synthetic must have shape"):
        loss(torch.rand(4, 8))
    with pytest.raises(ValueError, match="at least two rows"):
        loss(torch.rand(1, 9))
    with pytest.raises(TypeError, match="x_synthetic"):
        loss([[0.0] * 9])
    with pytest.raises(TypeError, match="x_synthetic must be a torch tensor; got ndarray"):
        loss(np.zeros((4, 9)))
