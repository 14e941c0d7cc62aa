"""Tables as codes and back: levels, bins, shapes, and what is counted."""

from __future__ import annotations

import datetime
import itertools
import math
from collections import Counter

import numpy as np
import pytest

pd = pytest.importorskip("pandas", reason="codes are made of tables")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from dpslice.tabular import (  # noqa: E402
    Boolean,
    Categorical,
    Datetime,
    Discretization,
    Number,
    Schema,
)
from dpslice.tabular import discretization as discretization_module  # noqa: E402
from table_strategies import schemas, tables  # noqa: E402

SCHEMA = Schema(
    [
        Number("age", "integer", 17, 90),
        Number("income", "real", 0.0, 1e5, special=(0.0,), scale="log", nullable=True),
        Categorical("job", ("cook", "pilot"), weight=2.0),
        Boolean("member", nullable=True),
        Datetime("since", datetime.date(2000, 1, 1), datetime.date(2009, 12, 31)),
        Number("rooms", "integer", 1, 8),
    ]
)


def _table(n: int, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    income = np.exp(rng.normal(9.0, 1.0, n)).clip(0, 1e5)
    income[::5] = 0.0
    income[::7] = np.nan
    member = pd.array(rng.random(n) < 0.3, dtype="boolean")
    member[::10] = pd.NA
    return pd.DataFrame(
        {
            "age": rng.integers(17, 91, n),
            "income": income,
            "job": rng.choice(["cook", "pilot"], n),
            "member": member,
            "since": np.datetime64("2000-01-01") + rng.integers(0, 3653, n).astype("m8[D]"),
            "rooms": rng.integers(1, 9, n),
        }
    ).astype({"since": "datetime64[ns]"})


def test_levels() -> None:
    found = Discretization(SCHEMA)
    # age: 74 whole values in 32 runs; income: 32 bins, zero, missing; since: 3653 days.
    assert found.sizes == (32, 34, 2, 3, 32, 8, 74, 4098, 3653)
    assert found.fine_codes == {0: 6, 1: 7, 4: 8}


@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
@given(data=st.data(), coarse=st.integers(1, 40), more=st.integers(0, 60))
def test_codes_of_decoded_codes_are_the_same(data: st.DataObject, coarse: int, more: int) -> None:
    """Whatever the schema: a decoded row has the very codes that it was decoded from."""
    schema = data.draw(schemas())
    table = data.draw(tables(schema))
    found = Discretization(schema, coarse_bins=coarse, fine_bins=coarse + more)
    codes = found.encode(table)
    assert ((codes >= 0) & (codes < np.array(found.sizes))).all()
    counts = {
        j: np.bincount(codes[:, position], minlength=found.sizes[position]).astype(float)
        for j, position in found.fine_codes.items()
    }
    decoded = found.decode(
        codes[:, : found.n_columns], found.shapes(counts), np.random.default_rng(0)
    )
    schema.validate(decoded)
    again = found.encode(decoded)[:, : found.n_columns]
    for j, levels in enumerate(found.levels):
        special = getattr(levels.column, "special", ())
        if special:  # a value drawn in a bin may by rounding be a special one: then it is that
            same = np.isin(found.levels[j].column.to_numbers(decoded[levels.column.name]), special)
            assert ((again[:, j] == codes[:, j]) | same).all()
        else:
            np.testing.assert_array_equal(again[:, j], codes[:, j])


def test_shapes_bring_the_distribution_inside_bins_back() -> None:
    """With the exact fine counts, a number's distribution is that of the table, bin by bin."""
    table = _table(50_000)
    found = Discretization(SCHEMA)
    codes = found.encode(table)
    counts = {
        j: np.bincount(codes[:, position], minlength=found.sizes[position]).astype(float)
        for j, position in found.fine_codes.items()
    }
    decoded = found.decode(codes[:, :6], found.shapes(counts), np.random.default_rng(1))
    again = found.encode(decoded)
    for j, position in found.fine_codes.items():
        other = np.bincount(again[:, position], minlength=found.sizes[position])
        difference = np.abs(np.cumsum(other - counts[j])).max() / len(table)
        assert difference < 0.01, found.levels[j].column.name


def test_steps_are_bins_of_their_own() -> None:
    """So values that many records share come back exactly."""
    schema = Schema([Number("pay", "integer", 0, 30_000, special=[0], step=100)])
    discretization = Discretization(schema)
    table = pd.DataFrame({"pay": np.arange(0, 30_001, 100)})
    codes = discretization.encode(table)
    assert discretization.sizes == (33, 301)
    np.testing.assert_array_equal(np.sort(codes[:, 1]), np.arange(301))


@pytest.mark.parametrize(
    ("low", "high", "step"),
    [(0.1, 0.3, 0.1), (0.1, 0.2, 0.1), (-0.3, 0.0, 0.1), (0, 1.2, 0.4), (1.1, 2.3, 0.1)],
)
def test_fractions_of_steps_are_bins_of_their_own(low: float, high: float, step: float) -> None:
    """Also at the bounds, which as floats are a little less, or more, than multiples."""
    discretization = Discretization(Schema([Number("x", "real", low, high, step=step)]))
    table = pd.DataFrame({"x": np.linspace(low, high, round((high - low) / step) + 1).round(1)})
    codes = discretization.encode(table)
    np.testing.assert_array_equal(codes[:, 0], np.arange(len(table)))
    decoded = discretization.decode(codes, {}, np.random.default_rng(0))
    pd.testing.assert_frame_equal(decoded, table)


@pytest.mark.parametrize(
    ("low", "step"),
    [
        (1 - 2**52, None),
        (2**52 - 34, None),
        (2**50 - 33, 1),
        (-0.1 * 2**50, 0.1),
        (0.7 * (2**50 - 33), 0.7),
        (1e4 * (2**50 - 33), 1e4),
        (1e-280 * (2**50 - 33), 1e-280),
    ],
)
@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("bins", [33, 5])
def test_the_largest_numbers_are_bins_of_their_own(
    low: float, step: float | None, scale: str, bins: int
) -> None:
    """Where bins end halfway between two values, float64 has the middle still."""
    unit = step or 1
    kind = "integer" if isinstance(unit, int) else "real"
    column = Number("x", kind, low, low + 33 * unit, scale=scale, step=step)
    discretization = Discretization(Schema([column]), coarse_bins=bins, fine_bins=bins)
    table = pd.DataFrame({"x": low + unit * np.arange(34)})
    table["x"] = column.from_numbers(column.to_numbers(table["x"]))
    assert table["x"].is_unique
    codes = discretization.encode(table)
    sizes = np.bincount(codes[:, 0])
    assert sizes.sum() == 34
    assert sizes.min() >= 1
    drawn = np.random.default_rng(0).integers(0, 34, 2000)
    decoded = discretization.decode(codes[drawn], {}, np.random.default_rng(0))
    np.testing.assert_array_equal(discretization.encode(decoded), codes[drawn])
    assert set(decoded["x"]) == set(table["x"])


def test_negative_counts_and_empty_bins() -> None:
    found = Discretization(Schema([Number("x", "real", 0.0, 1.0)]), coarse_bins=2, fine_bins=4)
    shape = found.shapes({0: np.array([-3.0, 6.0, -1.0, -2.0])})[0]
    np.testing.assert_array_equal(shape.cumulative, [0.0, 0.0, 6.0, 7.0, 8.0])
    decoded = found.decode(
        np.array([[0]] * 500 + [[1]] * 500), {0: shape}, np.random.default_rng(0)
    )
    assert decoded["x"][:500].between(0.25, 0.5).all()
    assert decoded["x"][500:].between(0.5, 1.0).all()
    assert decoded["x"][500:].min() < 0.6
    assert decoded["x"][500:].max() > 0.9


def test_what_is_counted() -> None:
    features = Discretization(SCHEMA).features()
    assert len(features.groups) == 6 + 3 + 15
    weight = dict(zip(features.groups, features.weights, strict=True))
    assert weight[0,] == 1.0
    assert weight[2,] == 2.0
    assert weight[0, 2] == 2.0
    assert weight[7,] == 1.0


def test_pairs_are_counted_on_each_level_of_the_target() -> None:
    """The tables of a target of few levels hold those of all pairs; others are as without."""
    target = Schema([*SCHEMA][:6], target=SCHEMA.names[2])
    features = Discretization(target).features()
    singles = [group for group in features.groups if len(group) == 1]
    assert len(singles) == 6 + 3
    others = (0, 1, 3, 4, 5)
    expected = {(2, a, b) for a in others for b in others if a < b}
    assert set(features.groups) == expected | set(singles)
    weight = dict(zip(features.groups, features.weights, strict=True))
    assert weight[2, 0, 1] == weight[0,] * weight[1,]
    plain = Discretization(target, triples=False).features()
    assert plain == Discretization(SCHEMA).features()
    many = Schema([*SCHEMA], target=SCHEMA.names[0])  # of more levels than can be afforded
    assert Discretization(many).sizes[0] > 4
    assert Discretization(many).features() == plain
    words = tuple(f"w{i}" for i in range(19_000))  # pairs of it fit, on two levels they do not
    wide = Schema([Categorical("word", words), Boolean("yes"), Boolean("other")], target="yes")
    assert {len(group) for group in Discretization(wide).features().groups} == {1, 2}


# ---------------------------------------------------------------- what rounds choose from


def _mixed(columns: int, target: str | None = None) -> Schema:
    """A boolean, a number of 32 bins and a categorical column in turn."""
    kinds = [
        lambda j: Boolean(f"b{j}"),
        lambda j: Number(f"n{j}", "real", 0.0, 1.0),
        lambda j: Categorical(f"c{j}", tuple(range(4 + j % 7))),
    ]
    return Schema([kinds[j % 3](j) for j in range(columns)], target=target)


def _all_small(found: Discretization, most: int = 10_000) -> list[tuple[int, ...]]:
    """Tables of three columns of at most `most` cells, one after the other."""
    sizes, columns = found.sizes[: found.n_columns], range(found.n_columns)
    return [
        (a, b, c)
        for a in columns
        for b in columns[a + 1 :]
        for c in columns[b + 1 :]
        if sizes[a] * sizes[b] * sizes[c] <= most
    ]


@pytest.mark.parametrize("columns", [2, 3, 12, 25])
def test_all_tables_of_three_columns_are_candidates_where_they_fit(columns: int) -> None:
    found = Discretization(_mixed(columns))
    tables = _all_small(found)
    assert list(found.candidates()) == tables
    if columns > 9:
        assert len(tables) < math.comb(columns, 3)  # three numbers have 32768 cells
    # Of a target of more than four levels, tables are those without one.
    assert Discretization(_mixed(columns, target="n1")).candidates() == found.candidates()
    if columns > 3:
        on_target = Discretization(_mixed(columns, target="b0")).candidates()
        rest = {group for group in _all_small(found, 5_000) if 0 not in group}
        assert set(on_target) == {(0, *group) for group in rest}
        assert len(on_target) == len(rest)


@pytest.mark.parametrize("target", ["b0", None])
def test_too_many_cells_leave_candidates_of_every_column_and_size(
    target: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the smallest tables alone would take all the cells."""
    monkeypatch.setattr(discretization_module, "MOST_CELLS_OF_CANDIDATES", 1 << 20)
    schema = _mixed(60, target)
    found = Discretization(schema)
    picked = found.candidates()
    assert picked == Discretization(schema).candidates()
    assert len(set(picked)) == len(picked)
    assert list(picked) == sorted(picked)
    sizes = [[found.sizes[j] for j in group] for group in picked]
    cells = np.array([math.prod(size) for size in sizes])
    assert cells.max() <= 10_000
    assert 2**20 - 10_000 < cells.sum() <= 2**20
    groups = [group[1:] if target else group for group in picked]
    assert target is None or {group[0] for group in picked} == {0}
    for group in groups:
        assert len(group) == len(set(group)) == 3
    # Turns are even: a column is in at least the tables that it brings.
    held = Counter(j for group in groups for j in group)
    others = [j for j in range(60) if target is None or j]
    assert min(held[j] for j in others) >= len(picked) // len(others)
    # Of the kinds of tables that are small enough, each has some, and the large not the most.
    kinds = Counter("".join(sorted(schema.names[j][0] for j in group)) for group in groups)
    assert set(kinds) >= {"bbb", "bbn", "bbc", "bcn", "bcc", "ccc", "bnn", "ccn"}
    assert kinds["bbc"] > kinds["bbn"] > kinds["bnn"] > 10
    # Most pairs of columns are in some table: the smallest tables alone have none of numbers.
    pairs = {pair for group in groups for pair in itertools.combinations(group, 2)}
    assert len(pairs) > 0.8 * math.comb(len(others), 2)


def test_too_many_small_tables_are_thinned_out_evenly() -> None:
    """Binomial, of a part of all: six standard deviations."""
    found = Discretization(Schema([Boolean(f"b{j}") for j in range(130)]))
    picked = found.candidates()
    assert len(picked) == len(set(picked)) == 200_000
    held = Counter(j for group in picked for j in group)
    mean, part = 200_000 * 3 / 130, 200_000 / math.comb(130, 3)
    assert all(abs(held[j] - mean) < 6.0 * math.sqrt(mean * (1.0 - part)) for j in range(130))


def test_a_target_is_in_every_second_candidate_that_is_picked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discretization_module, "MOST_CANDIDATES", 300)
    for name, least, most in (("n1", 150, 200), (None, 5, 60)):
        picked = Discretization(_mixed(40, target=name)).candidates()
        assert len(picked) == 300
        assert least <= sum(1 in group for group in picked) <= most


def test_a_column_whose_tables_are_used_up_leaves_its_turns_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The target is in C(9, 2) tables only, some of them too large."""
    found = Discretization(_mixed(10, target="n1"))
    tables = _all_small(found)
    monkeypatch.setattr(discretization_module, "MOST_CANDIDATES", len(tables) - 1)
    picked = found.candidates()
    assert len(picked) == len(tables) - 1
    assert set(picked) < set(tables)
    assert {group for group in tables if 1 in group} <= set(picked)


def test_of_more_triples_than_can_be_listed_some_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discretization_module, "_MOST_TRIPLES", 5000)
    schema = Schema([Boolean(f"b{j}") for j in range(60)], target="b7")
    picked = Discretization(schema).candidates()
    assert picked == Discretization(schema).candidates()
    assert 3500 < len(picked) == len(set(picked)) < 5000  # of 5000, less those drawn twice
    assert {group[0] for group in picked} == {7}
    assert all(7 != a < b < c != 7 != b for _, a, b, c in picked)
    held = Counter(j for _, *group in picked for j in group)
    assert len(held) == 59
    assert min(held.values()) > 100


def test_settings_make_the_same_codes() -> None:
    found = Discretization(SCHEMA, coarse_bins=5, fine_bins=50, triples=False)
    again = Discretization(SCHEMA, **found.settings())
    assert again.sizes == found.sizes
    assert again.settings() == found.settings()


def test_blocks_are_the_table() -> None:
    table = _table(100)
    found = Discretization(SCHEMA)
    blocks = list(found.encode_blocks(iter([table[:30], table[30:30], table[30:]]), block_rows=25))
    assert [len(block) for block in blocks] == [25, 5, 25, 25, 20]
    np.testing.assert_array_equal(np.concatenate(blocks), found.encode(table))


def test_code_of_one_value() -> None:
    found = Discretization(SCHEMA)
    assert found.code_of(2, "pilot") == 1
    assert found.code_of(3, None) == 2
    assert found.code_of(1, 0.0) == 32
    with pytest.raises(ValueError, match="not among the schema's categories"):
        found.code_of(2, "king")
    for column in (-1, len(SCHEMA)):
        with pytest.raises(ValueError, match="column must be"):
            found.code_of(column, "cook")


def test_a_schema_too_wide_for_pairs_is_refused() -> None:
    wide = Schema(
        [Categorical("postcode", tuple(range(19_000))), Categorical("name", tuple(range(2000)))]
    )
    with pytest.raises(
        ValueError, match=r"got 21000, most of them in 'postcode' \(19000\), 'name'"
    ):
        Discretization(wide).features()


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: Discretization("a.toml"), TypeError, "schema must be a Schema"),
        (lambda: Discretization(SCHEMA, coarse_bins=0), ValueError, "coarse_bins must be"),
        (lambda: Discretization(SCHEMA, fine_bins=5), ValueError, r"at least coarse_bins \(32\)"),
        (
            lambda: Discretization(SCHEMA).decode(np.zeros((2, 3), int), {}, None),
            ValueError,
            r"codes must have shape \(n, 6\)",
        ),
        (
            lambda: Discretization(SCHEMA).decode(np.full((2, 6), 40), {}, None),
            ValueError,
            "codes must lie within the levels",
        ),
        (
            lambda: Discretization(SCHEMA).decode(np.zeros((2, 6)), {}, np.random.default_rng(0)),
            TypeError,
            "codes must be an array of integers; got ndarray",
        ),
        (
            lambda: Discretization(SCHEMA).decode(np.zeros((2, 6), int), {}, 5),
            TypeError,
            "rng must be a",
        ),
        (
            lambda: Discretization(SCHEMA).decode(np.zeros((2, 6), int), None, 5),
            TypeError,
            "shapes must be a mapping from columns to shapes; got None",
        ),
        (
            lambda: Discretization(SCHEMA).decode(np.zeros((2, 6), int), {3: [0.0, 1.0]}, 5),
            TypeError,
            r"shapes\[3\] must be a FineShape; got \[0.0, 1.0\]",
        ),
        (
            lambda: Discretization(SCHEMA).encode(_table(3).drop(columns="age")),
            ValueError,
            "age",
        ),
    ],
)
def test_bad_input_is_refused(call, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        call()
