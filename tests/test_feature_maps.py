"""Feature maps of rows: exact sums, bounds that hold for every row, releases, and bad input."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from dpslice import (
    CustomFeatures,
    FeatureMap,
    KernelSums,
    MarginalSums,
    Release,
    SecondMoments,
    SumMechanism,
    _core,
    accounting,
    set_num_threads,
)

MOMENTS = SecondMoments(4, max_norm=1.5, constant=0.75)
KERNELS = KernelSums.on_random_slices(6, n_slices=5, slice_dim=2, n_landmarks=7, seed=3)

# Each slice is bounded by itself; the first two are cut.
WEIGHTED = KernelSums(
    KERNELS.frame,
    KERNELS.landmarks,
    KERNELS.bandwidth,
    bound=np.array([0.9, 1.2, 2.0, 2.0, 5.0]),
    weights=(1.0, 3.0, 0.25, 0.5, 2.0),
)

COUNTING = KernelSums(KERNELS.frame, KERNELS.landmarks, KERNELS.bandwidth, constant=0.75)


def _cubes(rows: np.ndarray) -> np.ndarray:
    return np.concatenate([rows**3, np.abs(rows)], axis=1)


CUSTOM = CustomFeatures(_cubes, d=3, n_cells=6, norm=1.25, name="cubes and sizes")


def _rows(n: int, d: int, scale: float = 0.3, seed: int = 0) -> np.ndarray:
    return scale * np.random.default_rng(seed).normal(size=(n, d))


def _sums(features: FeatureMap, rows: np.ndarray) -> np.ndarray:
    return np.ldexp(features.sum(rows).astype(np.float64), features.unit_exponents())


def _weighted(features: FeatureMap, row: np.ndarray) -> np.ndarray:
    """phi(x) of one row, in the unit of the norm."""
    return _sums(features, row[None]) * features.cell_weights()


def _kernels(features: KernelSums, rows: np.ndarray) -> np.ndarray:
    """Kernels of every row in float64 NumPy: shape (n, m, c)."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows * np.minimum(1.0, features.max_norm / np.maximum(length, 1e-300))
    y = np.einsum("ij,sjk->isk", rows, features.frame)
    squares = ((features.landmarks[None] - y[:, :, None, :]) ** 2).sum(axis=3)
    return np.exp(-0.5 * squares / features.bandwidth[None, :, None] ** 2)


MAPS = {
    "moments": MOMENTS,
    "kernels": KERNELS,
    "weighted kernels": WEIGHTED,
    "counting kernels": COUNTING,
    "custom": CUSTOM,
}


# --------------------------------------------------------------------------------- common to all


@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sums_depend_on_the_rows_alone(name: str, dtype: type) -> None:
    """Not on their order, blocks, neighbours, threads or instruction set, to the last bit."""
    features = MAPS[name]
    rows = _rows(701, features.n_columns, 0.8).astype(dtype)
    whole = features.sum(rows)
    assert whole.dtype == np.int64
    assert whole.shape == (features.n_cells,)
    np.testing.assert_array_equal(features.sum(rows[::-1].copy()), whole)
    np.testing.assert_array_equal(features.sum(rows[:13]) + features.sum(rows[13:]), whole)
    np.testing.assert_array_equal(sum(features.sum(rows[i : i + 1]) for i in range(701)), whole)
    threads, isa = _core.num_threads(), _core.isa()
    try:
        for count in (1, 3):
            set_num_threads(count)
            np.testing.assert_array_equal(features.sum(rows), whole)
        if not name.endswith("kernels"):  # whose last digits an instruction set may round otherwise
            for other in _core.available_isas():
                _core.set_isa(other)
                np.testing.assert_array_equal(features.sum(rows), whole)
    finally:
        set_num_threads(threads)
        _core.set_isa(isa)


@pytest.mark.usefixtures("isa")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("d", [1, 3, 8, 17, 94, 259])
def test_a_row_is_clipped_and_projected_alike_wherever_it_lies(d: int, dtype: type) -> None:
    """To the last bit, before anything is rounded to whole units: add_remove rests on that."""
    rows = _rows(40, d, 3.0).astype(dtype)
    frame = np.random.default_rng(1).normal(size=(d, 11))
    clipped = _core.bounded_rows(rows, 1.0, 0.0)
    projected = _core.project_fast(clipped, frame, 0.0, (0, 0), 0)
    for offset in (0, 1, 2, 3, 5, 7, 13):
        memory = np.zeros(offset + rows.size, dtype)
        elsewhere = memory[offset:].reshape(rows.shape)
        elsewhere[:] = rows[::-1]
        np.testing.assert_array_equal(_core.bounded_rows(elsewhere, 1.0, 0.0)[::-1], clipped)
        for i in (0, 6, 39):
            alone = _core.bounded_rows(elsewhere[39 - i : 40 - i], 1.0, 0.0)
            np.testing.assert_array_equal(alone[0], clipped[i])
            np.testing.assert_array_equal(
                _core.project_fast(alone, frame, 0.0, (0, 0), 0)[0], projected[i]
            )


@pytest.mark.parametrize("name", MAPS)
@settings(deadline=None, max_examples=100)
@given(st.integers(0, 2**32), st.floats(-3.0, 3.0))
def test_no_row_exceeds_the_bounds(name: str, seed: int, size: float) -> None:
    """For rows of any length, on the sphere and as large as floats go too."""
    features = MAPS[name]
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(2, features.n_columns))
    one *= 10.0**size / np.linalg.norm(one)
    two *= float(rng.choice([1e-150, 1.0, 1.5, 1e100])) / np.linalg.norm(two)
    first, second = _weighted(features, one), _weighted(features, two)
    for phi in (first, second):
        assert np.linalg.norm(phi) <= features.norm * (1.0 + 1e-12)
    assert np.linalg.norm(first - second) <= features.diameter * (1.0 + 1e-12)


@pytest.mark.parametrize("name", MAPS)
def test_description_comes_back(name: str) -> None:
    features = MAPS[name]
    again = FeatureMap.from_dict(json.loads(json.dumps(features.to_dict())))
    assert again == features
    assert hash(again) == hash(features)
    assert type(again) is type(features)
    assert repr(again) == repr(features)
    for property_name in ("n_cells", "n_columns", "norm", "diameter"):
        assert getattr(again, property_name) == getattr(features, property_name)
    damaged = features.to_dict()
    damaged.pop("max_norm", None)
    damaged.pop("norm", None)
    with pytest.raises(ValueError, match="unknown or missing entries"):
        FeatureMap.from_dict(damaged)


@pytest.mark.usefixtures("account_once")
@pytest.mark.parametrize("name", MAPS)
@pytest.mark.parametrize("adjacency", accounting.SUM_ADJACENCIES)
def test_release_is_the_sum_with_noise(name: str, adjacency: str, tmp_path: Path) -> None:
    """Kolmogorov-Smirnov on the noise of 400 releases, on its grid; error rate 1e-6."""
    features = MAPS[name]
    rows = _rows(50, features.n_columns)
    exact = _sums(features, rows)
    mechanism = SumMechanism(features=features, sigma=2.0, delta=1e-6, adjacency=adjacency)
    releases = [mechanism.release(rows) for _ in range(400)]
    scale = releases[0].noise
    np.testing.assert_allclose(scale, 2.0 / features.cell_weights(), rtol=1e-15)
    grid = 2.0 ** (np.floor(np.log2(scale)) - 10)
    sums = np.stack([release.sums for release in releases])
    np.testing.assert_array_equal(sums / grid, np.rint(sums / grid))
    assert stats.kstest(((sums - exact) / scale).ravel(), "norm").pvalue > 1e-6
    reach = features.diameter if adjacency == "replace_one" else features.norm
    assert releases[0].guarantee.sensitivity == pytest.approx(reach, rel=1e-12)
    path = tmp_path / "p.dpslice"
    saved = mechanism.release(rows, path=path)
    loaded = Release.load(path)
    assert loaded.features == features
    np.testing.assert_array_equal(loaded.sums, saved.sums)
    assert type(features).__name__ in repr(loaded)
    assert loaded.d == features.n_columns


@pytest.mark.parametrize("name", MAPS)
def test_blocks_and_memory_maps_are_one_table(name: str, tmp_path: Path) -> None:
    features = MAPS[name]
    rows = _rows(300, features.n_columns)
    np.save(tmp_path / "rows.npy", rows)
    mechanism = SumMechanism(features=features, sigma=features.norm / 500.0)
    sources = [
        rows,
        iter([rows[:100], rows[100:100], rows[100:]]),
        np.load(tmp_path / "rows.npy", mmap_mode="r"),
        np.asfortranarray(rows),
    ]
    exact = _sums(features, rows)
    for source in sources:
        release = mechanism.release(source, block_rows=77)
        assert release.n == 300
        assert np.abs((release.sums - exact) / release.noise).max() < 7.0


@pytest.mark.parametrize("name", MAPS)
def test_bad_rows_are_refused(name: str) -> None:
    features = MAPS[name]
    d = features.n_columns
    mechanism = SumMechanism(features=features, epsilon=1.0, delta=1e-6)
    bad = _rows(10, d)
    bad[7, 1] = np.nan
    with pytest.raises(ValueError, match="finite numbers; got nan in row 7, column 1"):
        mechanism.release(bad, block_rows=3)
    with pytest.raises(ValueError, match=rf"X must have shape \(rows, {d}\)"):
        mechanism.release(_rows(10, d + 1))
    with pytest.raises(TypeError, match="float32 or float64"):
        mechanism.release(np.ones((4, d), dtype=np.int64))
    with pytest.raises(ValueError, match="at least one row"):
        mechanism.release(np.ones((0, d)))
    assert mechanism.release(_rows(1, d)).n == 1


# ------------------------------------------------------------------------------- second moments


def test_second_moments_are_those_of_the_rows() -> None:
    rows = _rows(2000, 4)
    sums = _sums(MOMENTS, rows)
    n, first, second = MOMENTS.moments(sums)
    assert n == 2000.0
    np.testing.assert_allclose(first, rows.sum(axis=0), atol=2000 * 1.5 * 2.0**-22)
    np.testing.assert_allclose(second, rows.T @ rows, atol=2000 * 1.5 * 2.0**-21)
    np.testing.assert_array_equal(second, second.T)
    bare = SecondMoments(4, max_norm=1.5, constant=0.0)
    none, nothing, alone = bare.moments(_sums(bare, rows))
    assert none is None
    assert nothing is None
    np.testing.assert_array_equal(alone, second)


def test_second_moments_are_exact_whatever_a_library_does() -> None:
    """Against rational arithmetic on the rounded rows, for rows at the bound."""
    features = SecondMoments(3, max_norm=0.7)
    rows = _rows(3000, 3, scale=5.0)
    whole = _core.bounded_rows(rows, 0.7, 2.0**-22)
    np.testing.assert_array_equal(whole, np.rint(whole))
    expected = [
        sum(int(a) * int(b) for a, b in zip(whole[:, i], whole[:, j], strict=True))
        for i in range(3)
        for j in range(i, 3)
    ]
    i, j = np.triu_indices(4)
    got = features.sum(rows)[(i < 3) & (j < 3)]
    assert got.tolist() == expected
    limit = Fraction(0.7) ** 2 * 4**22
    assert all(sum(int(a) ** 2 for a in row) <= limit * (1 + Fraction(1, 10**12)) for row in whole)


def test_second_moments_of_many_long_rows_are_exact() -> None:
    """Whose products add up to more than float64 holds without rounding."""
    rng = np.random.default_rng(0)
    rows = np.stack([rng.uniform(0.9, 0.99, 5000), rng.uniform(-0.1, 0.1, 5000)], axis=1)
    first, second = _core.bounded_rows(rows, 1.0, 2.0**-22).T.astype(int).tolist()
    got = SecondMoments(2, constant=0.0).sum(rows).tolist()
    assert got[0] == sum(a * a for a in first) > 2**55
    assert got[1:] == [sum(map(int.__mul__, first, second)), sum(b * b for b in second)]


@pytest.mark.parametrize("constant", [0.0, 0.3, 1.5, 2.5])
def test_second_moments_attain_their_bounds(constant: float) -> None:
    features = SecondMoments(3, max_norm=1.5, constant=constant)
    cosine = -min(1.0, (constant / 1.5) ** 2)  # of the two rows that are farthest apart
    one = np.array([1.5, 0.0, 0.0])
    two = 1.5 * np.array([cosine, math.sqrt(1.0 - cosine**2), 0.0])
    phi = [_weighted(features, row) for row in (one, two)]
    assert np.linalg.norm(phi[0]) == pytest.approx(features.norm, rel=1e-6)
    assert np.linalg.norm(phi[0] - phi[1]) == pytest.approx(features.diameter, rel=1e-6)


def test_number_of_records_is_estimated_where_it_is_protected() -> None:
    mechanism = SumMechanism(features=MOMENTS, sigma=1.0, delta=1e-6, adjacency="add_remove")
    assert abs(mechanism.release(_rows(500, 4)).estimated_n - 500) < 20
    bare = SumMechanism(
        features=SecondMoments(4, constant=0.0), sigma=1.0, delta=1e-6, adjacency="add_remove"
    )
    with pytest.raises(ValueError, match=r"does not count records.*release them with a constant"):
        _ = bare.release(_rows(500, 4)).estimated_n
    custom = SumMechanism(features=CUSTOM, sigma=1.0, delta=1e-6, adjacency="add_remove")
    with pytest.raises(ValueError, match="return a constant c as well, and give n as its released"):
        _ = custom.release(_rows(5, 3)).estimated_n


def test_norms_at_the_ends_of_their_range_need_no_constant() -> None:
    assert SecondMoments(2, max_norm=1e-100).constant == 1e-100
    assert SecondMoments(2, max_norm=1e100).constant == 0.5e100


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"d": 0}, "d must be"),
        ({"d": 2, "max_norm": -1.0}, "max_norm must be"),
        ({"d": 2, "constant": math.inf}, "constant must be"),
        ({"d": 2, "max_norm": 1e200}, "max_norm must lie between"),
        ({"d": 2, "max_norm": 0.9e-100}, "max_norm must lie between"),
        ({"d": 2, "constant": 0.9e-100}, "constant must lie between"),
        ({"d": 100_000}, "take fewer columns, or KernelSums"),
    ],
)
def test_bad_second_moments_are_refused(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        SecondMoments(**options)


# ---------------------------------------------------------------------------------- kernel sums


@pytest.mark.parametrize("slice_dim", [1, 2, 3])
def test_kernel_sums_agree_with_numpy(isa: str, slice_dim: int) -> None:
    rng = np.random.default_rng(slice_dim)
    features = KernelSums(
        rng.normal(size=(3, 5, slice_dim)) / 3.0,
        rng.normal(size=(3, 9, slice_dim)) * 0.3,
        np.array([0.2, 0.3, 0.4]),
        max_norm=2.0,
    )
    rows = _rows(400, 5, 1.0)
    sums = _sums(features, rows)
    expected = _kernels(features, rows).sum(axis=0).ravel()
    # Each kernel is rounded down by less than 2^-30.
    assert (sums <= expected * (1.0 + 1e-12)).all()
    assert (sums >= expected - 400 * 2.0**-30 * (1.0 + 1e-6)).all()


def test_bound_of_kernel_sums_is_the_largest_norm() -> None:
    """Of one slice: by search over a fine grid."""
    features = KernelSums(
        np.eye(2)[None, :, :1], np.array([[-0.4], [0.1], [0.15], [0.9]]), 0.2, max_norm=1.0
    )
    grid = np.stack([np.linspace(-1.0, 1.0, 20_001), np.zeros(20_001)], axis=1)
    norms = np.linalg.norm(_kernels(features, grid)[:, 0], axis=1)
    assert norms.max() <= features.norm <= norms.max() * (1.0 + 2e-6)
    assert not features.cuts
    assert features.diameter == pytest.approx(math.sqrt(2.0) * features.norm)


@pytest.mark.parametrize("width", [1e-100, 1e-9, 1e100])
@pytest.mark.parametrize("stretch", [1e-200, 1.0, 1e149])
def test_kernels_of_extreme_units_keep_their_bounds(width: float, stretch: float) -> None:
    """Where squares of distances underflow or overflow, a kernel is 1 or 0."""
    frame = np.array([[stretch, 0.5 * stretch], [-stretch, 0.25 * stretch]])[None]
    features = KernelSums(frame, np.zeros((2, 2)), width)
    rows = np.array([[0.6, 0.8], [0.8, -0.6], [0.0, 0.0], [1e300, 1e300], [1e-300, 0.0]])
    for row in rows:
        assert all(0 <= kernel <= 2**30 for kernel in features.sum(row[None]))
    assert features.sum(rows[2:3]).tolist() == [2**30, 2**30]
    assert features.group_total(0) == 2 << 30


def test_kernel_sums_beyond_a_declared_bound_are_scaled_down() -> None:
    free = KERNELS
    tight = KernelSums(free.frame, free.landmarks, free.bandwidth, bound=0.5 * free.norm)
    assert tight.cuts
    rows = _rows(50, 6)
    for row in rows:
        full, cut = _weighted(free, row), _weighted(tight, row)
        length = np.linalg.norm(full)
        expected = full * min(1.0, tight.norm / length)
        np.testing.assert_allclose(cut, expected, atol=2.1 * 2.0**-30)
        assert np.linalg.norm(cut) <= tight.norm * (1.0 + 1e-12)
    assert any(np.linalg.norm(_weighted(free, row)) > tight.norm for row in rows)


@pytest.mark.parametrize("constant", [0.25, 3.0])
@pytest.mark.parametrize("each", [False, True])
def test_a_constant_counts_records_within_the_bounds(constant: float, each: bool) -> None:
    """Both are attained, by records at landmarks that are far from each other."""
    features = KernelSums(
        np.eye(2)[None, :, :1],
        np.array([[-1.0], [1.0]]),
        0.01,
        bound=np.array([1.0]) if each else 1.0,
        weights=(2.0,) if each else (),
        constant=constant,
    )
    weight = 2.0 if each else 1.0
    assert features.n_cells == 3
    one, two = (_weighted(features, np.array([x, 0.0])) for x in (-1.0, 1.0))
    np.testing.assert_array_equal(one, [constant, weight, 0.0])
    np.testing.assert_array_equal(two, [constant, 0.0, weight])
    assert features.norm == pytest.approx(math.hypot(weight, constant), rel=1e-15)
    assert np.linalg.norm(one) == pytest.approx(features.norm, rel=1e-15)
    assert np.linalg.norm(one - two) == pytest.approx(features.diameter, rel=1e-15)
    assert _sums(features, np.zeros((7, 2)))[0] == 7.0


def test_a_constant_changes_nothing_else() -> None:
    rows = _rows(100, 6)
    np.testing.assert_array_equal(COUNTING.sum(rows)[1:], KERNELS.sum(rows))
    assert COUNTING.diameter == KERNELS.diameter
    assert COUNTING.groups == (-1, *KERNELS.groups)
    assert COUNTING.take([-1, 3, 1], [5.0, 1.0, 2.0]) == KernelSums(
        KERNELS.frame[[3, 1]],
        KERNELS.landmarks[[3, 1]],
        KERNELS.bandwidth[[3, 1]],
        bound=KERNELS.take([3, 1]).bound,
        weights=(1.0, 2.0),
        constant=5.0,
    )
    assert COUNTING.take([-1, 2]).constant == 0.75
    assert COUNTING.take([2]) == KERNELS.take([2])
    for bad in ([-1], [0, -1], [-1, -1, 0], [-1, 5], [-2]):
        with pytest.raises(ValueError, match="groups must"):
            COUNTING.take(bad)
    with pytest.raises(ValueError, match="weights must"):
        COUNTING.take([-1, 0], [0.0, 1.0])
    on_slices = KernelSums.on_random_slices(6, n_slices=2, seed=0, constant=0.5)
    assert on_slices.constant == 0.5
    # What versions without constants wrote, and read, is written as it was.
    assert set(KERNELS.to_dict()) == {
        "map", "frame", "landmarks", "bandwidth", "max_norm", "bound"
    }  # fmt: skip


def test_kernel_sums_estimate_a_number_that_is_protected() -> None:
    mechanism = SumMechanism(features=COUNTING, sigma=1.0, delta=1e-6, adjacency="add_remove")
    found = [mechanism.release(_rows(500, 6)).estimated_n for _ in range(100)]
    assert abs(np.mean(found) - 500) < 6.0 / 0.75 / math.sqrt(100)


def test_slices_with_weights_are_bounded_each_by_itself() -> None:
    plain, bounds = KERNELS, WEIGHTED.bound
    assert WEIGHTED.cuts
    assert WEIGHTED.norm == pytest.approx(math.hypot(*(bounds * WEIGHTED.weights)))
    assert not plain.take(range(5)).cuts
    rows = _rows(50, 6)
    for row in rows:
        full, cut = (_sums(f, row[None]).reshape(5, -1) for f in (plain, WEIGHTED))
        length = np.linalg.norm(full, axis=1)
        assert np.all(np.linalg.norm(cut, axis=1) <= bounds * (1.0 + 1e-12))
        expected = full * np.minimum(1.0, bounds / np.maximum(length, 1e-300))[:, None]
        np.testing.assert_allclose(cut, expected, atol=2.1 * 2.0**-30)
    assert (length[:2] > bounds[:2]).any()
    np.testing.assert_array_equal(
        WEIGHTED.cell_weights().reshape(5, -1)[:, 0], [1.0, 3.0, 0.25, 0.5, 2.0]
    )


def test_slices_are_taken_apart() -> None:
    some = WEIGHTED.take([3, 1])
    assert some.groups == (0, 1)
    assert some.weights == (0.5, 3.0)
    assert WEIGHTED.take([3, 1], [1.0, 7.0]).weights == (1.0, 7.0)
    rows = _rows(100, 6)
    whole = dict(WEIGHTED.cut(WEIGHTED.sum(rows)))
    np.testing.assert_array_equal(some.sum(rows), np.concatenate([whole[3], whole[1]]))
    # Of slices that no bound cuts, the sums are the same, bounded together or not.
    np.testing.assert_array_equal(KERNELS.take(range(5)).sum(rows), KERNELS.sum(rows))
    assert KERNELS.take(range(5)).norm == pytest.approx(KERNELS.norm, rel=1e-12)
    tables = MarginalSums((2, 3), [(0,), (0, 1)], [2.0, 1.0])
    assert tables.take([(0, 1)]) == MarginalSums((2, 3), [(0, 1)], [1.0])
    for bad in ([], [5], [-1]):
        with pytest.raises(ValueError, match="groups must"):
            KERNELS.take(bad)
    together = KernelSums(KERNELS.frame, KERNELS.landmarks, KERNELS.bandwidth, bound=0.5)
    with pytest.raises(ValueError, match="bound must be one for each slice where they are rel"):
        together.take([0])


@settings(max_examples=60)
@given(st.integers(1, 3), st.integers(0, 2**32), st.floats(-2.0, 0.5))
def test_total_of_a_slice_is_never_exceeded(k: int, seed: int, width: float) -> None:
    """At the landmarks, between them, and where the sum of kernels is largest, by ascent."""
    rng = np.random.default_rng(seed)
    landmarks = rng.uniform(-0.5, 0.5, (int(rng.integers(1, 12)), k))
    features = KernelSums(np.eye(k + 1)[None, :, :k], landmarks, 10.0**width)
    total = features.group_total(0)
    assert total <= len(landmarks) << 30
    y = np.concatenate([landmarks, rng.uniform(-0.5, 0.5, (50, k))])
    for _ in range(30):  # of mean-shift steps
        kernels = np.exp(-0.5 * ((y[:, None] - landmarks) ** 2).sum(axis=2) / 10.0 ** (2 * width))
        best = kernels.sum(axis=1).max()
        assert best * 2.0**30 <= total
        y = kernels @ landmarks / np.maximum(kernels.sum(axis=1, keepdims=True), 1e-300)
    assert all(
        features.sum(np.append(row, 0.0)[None]).sum() <= total
        for row in np.concatenate([y, landmarks])
    )


def test_total_of_a_slice_is_nearly_attained() -> None:
    """One third of what Cauchy and Schwarz allow for, where landmarks are a bandwidth apart."""
    features = KernelSums.on_random_slices(9, n_slices=1, n_landmarks=64, seed=0)
    assert features.group_total(0) == pytest.approx(math.sqrt(2.0 * math.pi) * 2.0**30, rel=3e-3)
    assert features.group_total(0) < 0.25 * math.sqrt(64) * features.group_norm(0) * 2.0**30
    flat = KernelSums.on_random_slices(9, n_slices=1, slice_dim=2, n_landmarks=16, seed=0)
    assert flat.group_total(0) == pytest.approx(2.0 * math.pi * 2.0**30, rel=2e-2)
    # Too many places to search: the other bounds hold.
    far = KernelSums(np.eye(3)[None], np.random.default_rng(0).uniform(-0.5, 0.5, (50, 3)), 1e-4)
    assert far.group_total(0) == pytest.approx(math.sqrt(50.0) * 2.0**30, rel=1e-5)
    cut = KernelSums(far.frame, far.landmarks, 1e-4, bound=np.array([0.5]))
    assert cut.group_total(0) == pytest.approx(0.5 * math.sqrt(50.0) * 2.0**30, rel=1e-5)


def test_kernel_sums_of_weight_one_are_described_as_they_were() -> None:
    """Releases that were saved before slices had weights, and the other way round."""
    described = KERNELS.to_dict()
    assert set(described) == {"map", "frame", "landmarks", "bandwidth", "max_norm", "bound"}
    assert described["bound"] == KERNELS.norm
    assert set(WEIGHTED.to_dict()) - set(described) == {"weights"}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"frame": np.ones((2, 3))}, r"frame must have shape \(m, d, k\)"),
        ({"frame": np.full((1, 3, 1), np.nan)}, "frame must"),
        ({"landmarks": np.ones((2, 2))}, r"landmarks must have shape \(c, 1\) or \(1, c, 1\)"),
        ({"landmarks": np.empty((0, 1))}, "landmarks must have shape"),
        ({"landmarks": np.array([[0.0], [5.0]])}, "in slice 0 .* landmark 1 has norm 5"),
        ({"bandwidth": np.ones(3)}, r"bandwidth must be a number or have shape \(1,\)"),
        ({"bandwidth": 0.0}, "bandwidth must"),
        ({"bandwidth": 1e-160}, "bandwidth must lie between 1e-100 and 1e100; got 1e-160"),
        ({"bandwidth": 1e160}, "bandwidth must lie between"),
        ({"frame": 1e200 * np.eye(3)[None, :, :1]}, "frame must have slices of norm 1e150 over"),
        ({"frame": 1e90 * np.eye(3)[None, :, :1], "max_norm": 1e90}, "frame must have slices"),
        ({"max_norm": 0.0}, "max_norm must be"),
        ({"bound": -1.0}, "bound must be"),
        ({"constant": -1.0}, "constant must be"),
        ({"constant": 1e200}, "constant must lie between 1e-100 and 1e100; got 1e"),
        ({"bound": np.ones(2)}, r"bound must be a number or have shape \(1,\)"),
        ({"bound": np.zeros(1)}, "bound must be"),
        ({"bound": 1.0, "weights": [2.0]}, "bound must be one for each slice where they have"),
        ({"weights": [1.0, 2.0]}, r"weights must hold one number per slice \(1\); got 2"),
        ({"weights": [0.0]}, "weights must be"),
    ],
)
def test_bad_kernel_sums_are_refused(change: dict, match: str) -> None:
    good = {"frame": np.eye(3)[None, :, :1], "landmarks": np.zeros((1, 1)), "bandwidth": 0.5}
    with pytest.raises(ValueError, match=match):
        KernelSums(**(good | change))
    with pytest.raises(ValueError, match="slice_dim must be at most d"):
        KernelSums.on_random_slices(2, n_slices=1, slice_dim=3)
    with pytest.raises(ValueError, match="n_landmarks must leave at most"):
        KernelSums.on_random_slices(9, n_slices=10**4, slice_dim=3, n_landmarks=100)


@pytest.mark.parametrize("name", ["frame", "landmarks", "bandwidth", "bound", "weights"])
@pytest.mark.parametrize("value", ["abc", 1j, np.array([1j]), {"a": 1}, len])
def test_what_is_no_array_of_a_kernel_sum(name: str, value: object) -> None:
    good = {"frame": np.eye(3)[None, :, :1], "landmarks": np.zeros((1, 1)), "bandwidth": 0.5}
    with pytest.raises(TypeError, match=f"^{name} must "):
        KernelSums(**(good | {name: value}))


def test_a_number_of_landmarks_without_end() -> None:
    with pytest.raises(ValueError, match=r"n_landmarks must leave at most .* too many digits"):
        KernelSums.on_random_slices(3, n_slices=1, slice_dim=3, n_landmarks=10**5000)


@pytest.mark.parametrize("name", ["sizes", "groups", "weights"])
@pytest.mark.parametrize("value", [None, 3, 0.5, "ab", len])
def test_what_is_no_sequence_of_a_marginal_map(name: str, value: object) -> None:
    good = {"sizes": (3, 2), "groups": [(0,), (0, 1)], "weights": (1.0, 2.0)}
    with pytest.raises(TypeError, match=f"^{name} must be a sequence; got "):
        MarginalSums(**(good | {name: value}))
    with pytest.raises(TypeError, match=r"^groups must be a sequence; got int 1"):
        MarginalSums((3, 2), [(0,), 1])  # type: ignore[list-item]


@pytest.mark.parametrize(("constant", "most"), [(0.0, 16383), (1.0, 16382)])
def test_second_moments_that_no_memory_holds(constant: float, most: int) -> None:
    assert SecondMoments(most, constant=constant).n_cells <= 2**27
    told = f"d must be at most {most} columns, .* got {most + 1} columns with 13422592"
    with pytest.raises(ValueError, match=told):
        SecondMoments(most + 1, constant=constant)


# --------------------------------------------------------------------------------- any function


def test_custom_features_are_clipped_and_rounded_towards_zero() -> None:
    for row in _rows(100, 3, 0.7):
        full = _cubes(row[None])[0]
        expected = full * min(1.0, 1.25 / np.linalg.norm(full))
        got = _weighted(CUSTOM, row)
        assert (np.abs(got) <= np.abs(expected) * (1.0 + 1e-12)).all()
        np.testing.assert_allclose(got, expected, atol=2.1 * 2.0**-29)


def test_certificate_names_the_function_and_what_rests_on_it() -> None:
    promise = SumMechanism(features=CUSTOM, sigma=1.0).account()
    assert "features 'cubes and sizes' of a record must depend on that record alone." in str(
        promise
    )
    assert SumMechanism(features=MOMENTS, sigma=1.0).account().notes == ()


def test_function_sees_one_row_at_a_time_where_places_depend_on_other_rows() -> None:
    """What a library rounds differently in another place of a block could tell of other rows."""
    seen = []

    def watched(rows: np.ndarray) -> np.ndarray:
        seen.append(len(rows))
        return rows

    features = CustomFeatures(watched, d=2, n_cells=2, norm=1.0)
    for adjacency, expected in (("zero_out", [5]), ("add_remove", [1] * 5)):
        seen.clear()
        SumMechanism(features=features, sigma=1.0, adjacency=adjacency).release(_rows(5, 2))
        assert seen == expected
    seen.clear()
    SumMechanism(features=features, sigma=1.0, sampling_rate=0.5).release(_rows(200, 2))
    assert set(seen) == {1}  # fails a correct mechanism with probability 2^-200


def test_function_cannot_change_the_rows() -> None:
    def spoils(rows: np.ndarray) -> np.ndarray:
        rows[:] = 0.0
        return rows + 1.0

    rows = _rows(5, 2)
    before = rows.copy()
    CustomFeatures(spoils, d=2, n_cells=2, norm=2.0).sum(rows)
    np.testing.assert_array_equal(rows, before)


@pytest.mark.parametrize(
    ("result", "error", "match"),
    [
        (np.ones((3, 2)), ValueError, "a row for each of 4 rows; got 3"),
        (np.ones((4, 3)), ValueError, "must have 2 columns"),
        (np.full((4, 2), np.inf), ValueError, "the result of function must hold finite numbers"),
        (np.ones((4, 2), dtype=int), TypeError, "the result of function must have dtype"),
        ([1.0], TypeError, "the result of function"),
    ],
)
def test_bad_results_of_the_function_are_refused(result, error, match: str) -> None:
    features = CustomFeatures(lambda _: result, d=2, n_cells=2, norm=1.0)
    with pytest.raises(error, match=match):
        SumMechanism(features=features, sigma=1.0).release(np.ones((4, 2)))


def test_bad_custom_features_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="function must be callable"):
        CustomFeatures(3, d=2, n_cells=2, norm=1.0)
    with pytest.raises(ValueError, match="n_cells must be at most"):
        CustomFeatures(_cubes, d=2, n_cells=1 << 30, norm=1.0)
    with pytest.raises(ValueError, match="norm must"):
        CustomFeatures(_cubes, d=2, n_cells=2, norm=0.0)
    path = tmp_path / "p.dpslice"
    SumMechanism(features=CUSTOM, sigma=1.0).release(_rows(5, 3), path=path)
    loaded = Release.load(path).features
    with pytest.raises(ValueError, match="loaded without their function"):
        SumMechanism(features=loaded, sigma=1.0).release(_rows(5, 3))


def test_take_gives_some_of_the_groups() -> None:
    counts = MarginalSums((2, 3), [(0,), (0, 1)], [1.0, 2.0])
    assert counts.take([[0, 1]]) == MarginalSums((2, 3), [(0, 1)], [2.0])
    for weights in ((), (1.0,)):
        with pytest.raises(ValueError, match=r"groups must be some of the map's; got \(1,\)"):
            counts.take([(1,)], weights)
    with pytest.raises(TypeError, match="groups must be a sequence; got int 1"):
        counts.take([1])


def test_corners_out_of_reach_are_no_landmarks() -> None:
    features = KernelSums.on_random_slices(4, n_slices=2, slice_dim=2, n_landmarks=5, seed=0)
    assert features.n_landmarks == 13  # of 25
    assert np.linalg.norm(features.landmarks, axis=2).max() <= features.max_norm
