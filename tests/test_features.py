"""Marginal counts: exact sums, bounds that are attained and never exceeded, and bad input."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpslice import FeatureMap, MarginalSums, Release, SumMechanism

FEATURES = MarginalSums((2, 3, 4), [(0,), (2,), (0, 1), (2, 1)], [1.0, 2.0, 0.5, 3.0])


def _codes(n: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.integers(0, size, n) for size in FEATURES.sizes], axis=1)


def _weighted(features: MarginalSums, record: np.ndarray) -> np.ndarray:
    """phi(x): the features of one record, in their own unit."""
    return features.sum(record[None]) * features.cell_weights()


# Groups that begin with the whole one before, with a part of it, with none, or end within it.
NESTED = MarginalSums(FEATURES.sizes, [(0,), (0, 1), (0, 1, 2), (0, 2), (2, 1), (1,), (2,)])


@pytest.mark.parametrize("features", [FEATURES, NESTED])
def test_counts_agree_with_a_loop(features: MarginalSums) -> None:
    codes = _codes(50)
    counts = features.sum(codes)
    assert counts.dtype == np.int64
    expected = []
    for group in features.groups:
        table = np.zeros(features.shape_of(group), dtype=int)
        for record in codes:
            table[tuple(record[list(group)])] += 1
        expected.append(table.ravel())
    np.testing.assert_array_equal(counts, np.concatenate(expected))


def test_sums_do_not_depend_on_order_or_blocks() -> None:
    codes = _codes(101)
    whole = FEATURES.sum(codes)
    np.testing.assert_array_equal(FEATURES.sum(codes[::-1]), whole)
    np.testing.assert_array_equal(FEATURES.sum(codes[:40]) + FEATURES.sum(codes[40:]), whole)


def test_norm_and_diameter_over_all_records() -> None:
    """Every record has the norm; the farthest two are at the diameter, none are farther."""
    records = [np.array(x) for x in itertools.product(range(2), range(3), range(4))]
    phi = np.array([_weighted(FEATURES, record) for record in records])
    norms = np.linalg.norm(phi, axis=1)
    np.testing.assert_allclose(norms, FEATURES.norm, rtol=1e-14)
    distances = np.linalg.norm(phi[:, None] - phi[None], axis=2)
    assert distances.max() == pytest.approx(FEATURES.diameter, rel=1e-14)


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    weights=st.lists(st.floats(0.01, 100.0), min_size=15, max_size=15),
    data=st.data(),
)
def test_bounds_hold_for_any_map(
    sizes: list[int], weights: list[float], data: st.DataObject
) -> None:
    every = [
        group
        for length in range(1, len(sizes) + 1)
        for group in itertools.combinations(range(len(sizes)), length)
    ]
    groups = data.draw(st.lists(st.sampled_from(every), min_size=1, unique=True))
    features = MarginalSums(tuple(sizes), groups, weights[: len(groups)])
    x, y = (np.array([data.draw(st.integers(0, size - 1)) for size in sizes]) for _ in range(2))
    one, two = _weighted(features, x), _weighted(features, y)
    assert np.linalg.norm(one) <= features.norm * (1 + 1e-12)
    assert np.linalg.norm(one - two) <= features.diameter * (1 + 1e-12)


def test_tables_come_back() -> None:
    counts = FEATURES.sum(_codes(30)).astype(float)
    noise = 5.0 / FEATURES.cell_weights()
    tables = list(FEATURES.tables(counts, noise))
    assert [group for group, _, _ in tables] == list(FEATURES.groups)
    for (group, table, deviation), weight in zip(tables, FEATURES.weights, strict=True):
        assert table.shape == FEATURES.shape_of(group)
        assert table.sum() == 30
        assert deviation == 5.0 / weight


def test_number_of_records_is_estimated_without_bias() -> None:
    """1000 draws of the noise: the mean is within 4 standard errors (error rate 6e-5)."""
    rng = np.random.default_rng(3)
    counts = FEATURES.sum(_codes(500)).astype(float)
    noise = 5.0 / FEATURES.cell_weights()
    found = [
        FEATURES.estimate_n(counts + noise * rng.normal(size=noise.size), noise)
        for _ in range(1000)
    ]
    precision = sum(
        1.0 / (math.prod(FEATURES.shape_of(g)) * (5.0 / w) ** 2)
        for g, w in zip(FEATURES.groups, FEATURES.weights, strict=True)
    )
    spread = precision**-0.5
    assert abs(np.mean(found) - 500) < 4 * spread / math.sqrt(1000)
    assert np.std(found) == pytest.approx(spread, rel=0.1)  # relative error 2.2 %: 4.5 of them


def test_description_survives_json() -> None:
    record = json.loads(json.dumps(FEATURES.to_dict()))
    assert MarginalSums.from_dict(record) == FEATURES
    with pytest.raises(ValueError, match="unknown map"):
        MarginalSums.from_dict(record | {"map": "moments"})
    with pytest.raises(ValueError, match="unknown or missing entries"):
        MarginalSums.from_dict({"map": "marginal_sums"})


def _own_map(name: str | None) -> type[FeatureMap]:
    """A map of one's own: how many records are positive."""

    class Positive(FeatureMap):
        n_columns = n_cells = 1
        norm = diameter = 1.0
        if name is not None:
            name_in_files = name

        def block_rows(self, name: str, block: object) -> int:
            return len(block)  # type: ignore[arg-type]

        def check_block(self, name: str, block: object, *, first_row: int) -> np.ndarray:
            return np.asarray(block)

        def sum(self, block: np.ndarray) -> np.ndarray:
            return (block > 0).sum(axis=0).astype(np.int64)

        def to_dict(self) -> dict:
            return {"map": self.name_in_files}

        @classmethod
        def _from_entries(cls, record: object) -> FeatureMap:
            return cls()

    return Positive


def test_a_map_of_ones_own_is_released_and_read_again(tmp_path: Path) -> None:
    own = _own_map("positive")
    made = SumMechanism(features=own(), sigma=1.0).release(np.ones((100, 1)), path=tmp_path / "r")
    assert type(Release.load(tmp_path / "r").features) is own
    assert abs(made.sums[0] - 100) < 6
    _own_map("positive")  # defined again, as in a notebook
    with pytest.raises(ValueError, match="name_in_files must be a new one; 'positive' is that of"):
        type("Other", (FeatureMap,), {"name_in_files": "positive"})
    assert "exact sums of the features Positive are as their author says" in str(made.guarantee)
    for changes in (
        {},
        {"to_dict": lambda _: {"x": 1}},
        {"to_dict": lambda _: {"map": np.ones(2)}},
    ):
        bad = type("Bad", (_own_map(None),), changes)
        with pytest.raises(TypeError, match=r"read again from their to_dict\(\); Bad cannot"):
            SumMechanism(features=bad(), sigma=1.0)
    other = type("Other", (own,), {"to_dict": lambda _: FEATURES.to_dict()})
    with pytest.raises(TypeError, match="Other became MarginalSums"):
        SumMechanism(features=other(), sigma=1.0)
    with pytest.raises(ValueError, match="unknown map, 'never': if it is a class"):
        FeatureMap.from_dict({"map": "never"})


@pytest.mark.parametrize(
    ("sizes", "groups", "weights", "error", "match"),
    [
        ((2, 0), [(0,)], (), ValueError, "sizes must be an integer >= 1; got 0"),
        ((2, 2.5), [(0,)], (), TypeError, "sizes must be"),
        ((2,), [], (), ValueError, "groups must hold at least one group"),
        ((2,), [()], (), ValueError, "groups must each name at least one column; got an empty"),
        ((2,), [(1,)], (), ValueError, r"different columns below 1; got \(1,\)"),
        ((2, 2), [(0, 0)], (), ValueError, r"different columns below 2; got \(0, 0\)"),
        ((2, 2), [(0, 1), (1, 0)], (), ValueError, "groups must be different"),
        ((2, 2), [(0,)], (1.0, 2.0), ValueError, r"one number per group \(1\); got 2"),
        ((2, 2), [(0,)], (0.0,), ValueError, "weights must be a finite number > 0; got 0.0"),
        ((2, 2), [(0,)], (math.nan,), ValueError, "weights must be a finite number > 0"),
        ((30_000, 30_000), [(0,), (0, 1)], (), ValueError, r"table of the columns \(0, 1\)"),
    ],
)
def test_bad_maps_are_refused(
    sizes: tuple, groups: list, weights: tuple, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        MarginalSums(sizes, groups, weights)


@pytest.mark.parametrize(
    ("block", "error", "match"),
    [
        ([[0, 0, 0]], TypeError, "X must be a NumPy array of integer codes"),
        (np.zeros((2, 3)), TypeError, "X must be a NumPy array of integer codes"),
        (np.zeros((2, 3), dtype=bool), TypeError, "integer codes"),
        (np.zeros(3, dtype=int), ValueError, r"X must have shape \(rows, 3\)"),
        (np.zeros((2, 4), dtype=int), ValueError, r"X must have shape \(rows, 3\).*got \(2, 4\)"),
        (np.array([[0, 0, 0], [0, 3, 0]]), ValueError, "row 8 has 3 in column 1, which has 3"),
        (np.array([[0, -1, 0]]), ValueError, "row 7 has -1 in column 1"),
    ],
)
def test_bad_records_are_refused(block: object, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        FEATURES.check_block("X", block, first_row=7)


@pytest.mark.parametrize(
    ("block", "got"),
    [
        ([2, 1], "list"),
        ("John Smith 12345", "str"),
        (np.array("John Smith 12345"), "dtype <U16"),
        (np.array([["John Smith 12345"]], dtype=object), "dtype object"),
    ],
)
def test_records_of_another_kind_are_not_shown(block: object, got: str) -> None:
    with pytest.raises(TypeError, match=f"must be a NumPy array of integer codes; got {got}$"):
        FEATURES.check_block("a block of X", block, first_row=0)


def test_tables_are_no_iterables_of_blocks() -> None:
    pandas = pytest.importorskip("pandas")
    mechanism = SumMechanism(features=FEATURES, epsilon=1.0, delta=1e-6)
    with pytest.raises(TypeError, match=r"X must be an array of records .* got DataFrame \(tables"):
        mechanism.release(pandas.DataFrame({0: [0, 1], 1: [1, 0]}))
