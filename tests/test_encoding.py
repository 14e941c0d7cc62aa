"""Encoding: round trips, the norm bound and the diameter, streaming."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from dpslice.tabular import Boolean, Categorical, Datetime, Encoding, Number, Schema
from table_strategies import schemas, schemas_and_tables

WEIGHTS = st.fixed_dictionaries(
    {key: st.floats(0.1, 4.0) for key in ("number_weight", "category_weight", "state_weight")}
)


def samples(column):
    """Values of a column, among them (nearly) those with the largest norm and distance."""
    if isinstance(column, Categorical):
        values = list(column.categories)
    elif isinstance(column, Boolean):
        values = [False, True]
    elif isinstance(column, Datetime):
        steps = pd.date_range(column.min, column.max, 60, unit="s")
        values = [column.min, column.max, *steps.to_pydatetime()]
    else:
        low, high = column.regular_bounds
        share = np.concatenate([np.linspace(0, 1, 60), np.geomspace(1e-4, 1, 60)])
        values = low + share * (high - low)
        values = np.rint(values) if column.type == "integer" else values
        values = [low, high, *np.clip(values, low, high), *column.special]
    return values + [None] * column.nullable


def sample_rows(column, **weights):
    schema = Schema([column])
    table = pd.DataFrame({column.name: pd.Series(samples(column), dtype=object)})
    encoding = Encoding(schema, **weights)
    return encoding, encoding.encode(table)


def largest_distance(rows):
    return max(np.linalg.norm(rows - row, axis=1).max() for row in rows)


# --------------------------------------------------------------------------------------- geometry


@given(schemas(), WEIGHTS)
@settings(deadline=None)
def test_norm_bound_and_diameter_are_attained_and_never_exceeded(schema, weights):
    radius2 = diameter2 = 0.0
    for column in schema:
        encoding, rows = sample_rows(column, **weights)
        norm, distance = np.linalg.norm(rows, axis=1).max(), largest_distance(rows)
        # The norm's bound is rounded up by 1e-12. The farthest two points of a curve are met up to
        # the samples' distance, whose square the loss is: 60 per range, at most 2.5 wide in places
        # on the log scale; integers may lie farther apart.
        assert norm <= encoding.max_norm <= norm * (1 + 1e-11)
        assert distance <= encoding.diameter
        if not (isinstance(column, Number | Datetime) and _few_values(column)):
            assert encoding.diameter <= distance * 1.01
        radius2 += encoding.max_norm**2
        diameter2 += encoding.diameter**2
    schema = Schema(schema.columns)
    encoding = Encoding(schema, **weights)
    # Columns are independent, so the squares add up.
    assert math.isclose(encoding.max_norm, math.sqrt(radius2), rel_tol=1e-11)
    assert math.isclose(encoding.diameter, math.sqrt(diameter2), rel_tol=1e-11)
    assert encoding.diameter <= 2.0 * encoding.max_norm


def _few_values(column):
    if isinstance(column, Datetime):
        low, high = column.bounds_seconds
        return (high - low) / column.unit < 1000
    low, high = column.regular_bounds
    # On the log scale a hundredth of the range counts as one unit.
    return column.type == "integer" and high - low < 100_000


@pytest.mark.parametrize("harmonics", [1, 2, 3, 5])
def test_longest_chord_of_the_curve(harmonics):
    """Oracle: distances of the curve's points at all pairs of a fine grid of places."""
    column = Number("x", "real", 0.0, 1.0)
    encoding = Encoding(Schema([column]), number_weight=2.0, harmonics=harmonics)
    t = np.linspace(0, 1, 801)
    h = np.arange(1, harmonics + 1)
    z = np.exp(1j * np.pi * np.outer(t, h)) / np.sqrt(h)  # [801, harmonics]
    longest = np.sqrt((np.abs(z[:, None] - z[None]) ** 2).sum(-1).max())
    # The grid misses the best place by at most 1/1600: second order, (5 pi / 1600)^2 < 1e-4.
    assert longest <= encoding.diameter <= longest * (1 + 1e-4)
    assert math.isclose(encoding.max_norm, math.sqrt(np.sum(1 / h)), rel_tol=1e-11)


@given(schemas_and_tables(), WEIGHTS)
@settings(deadline=None)
def test_every_row_lies_in_the_ball(pair, weights):
    schema, table = pair
    encoding = Encoding(schema, **weights)
    rows = encoding.encode(table)
    assert rows.shape == (len(table), encoding.d)
    assert (np.linalg.norm(rows, axis=1) <= encoding.max_norm).all()
    assert largest_distance(rows) <= encoding.diameter


@pytest.mark.parametrize(
    "column",
    [
        Categorical("x", ["a", "b", "c"], nullable=True),
        Boolean("x"),
        Number("x", "integer", 0, 9, nullable=True),
        Number("x", "integer", 0, 9, special=[0, 3, 9], nullable=True),
        Number("x", "real", 0, 1, special=[0.5]),
        Datetime("x", "2020-01-01", "2021-01-01", nullable=True),
    ],
)
@pytest.mark.parametrize("state_weight", [0.05, 0.6, 3.0])
def test_no_other_centre_of_the_states_gives_a_smaller_norm(column, state_weight):
    """Oracle: minimise the largest norm over the centre of the states, numerically."""
    encoding, rows = sample_rows(column, state_weight=state_weight)
    n_states = encoding.blocks[0].n_states
    rest = np.zeros(encoding.d - n_states)

    def norms(centre):
        return np.linalg.norm(rows - np.concatenate([centre, rest]), axis=1)

    # Smooth upper bounds of the maximum guide the search; the maximum itself judges it.
    best = norms(np.zeros(n_states)).max()
    for power in (8, 32, 128):
        found = minimize(
            lambda c, q=power: np.sum(norms(c) ** q) ** (1 / q), np.zeros(n_states), method="BFGS"
        )
        best = min(best, norms(found.x).max())
    assert encoding.max_norm <= best * (1 + 1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_closed_forms_of_a_category(k):
    encoding = Encoding(Schema([Categorical("x", list(range(k)), weight=3.0)]), category_weight=0.5)
    assert math.isclose(encoding.max_norm, 1.5 * math.sqrt(1 - 1 / k), abs_tol=1e-15, rel_tol=1e-11)
    expected = 1.5 * math.sqrt(2) if k > 1 else 0.0
    assert math.isclose(encoding.diameter, expected, rel_tol=1e-11)


def test_closed_forms_of_a_number():
    schema = Schema([Number("x", "real", -3, 5, weight=3.0)])
    encoding = Encoding(schema, number_weight=0.5, harmonics=1)
    assert math.isclose(encoding.max_norm, 0.75, rel_tol=1e-11)
    assert math.isclose(encoding.diameter, 1.5, rel_tol=1e-11)
    # |a_2| = a_1 / sqrt(2): squared chord 2 a_1^2 (1 - u) + 2 a_1^2 (1 - u^2), largest at u = -1/2
    two = Encoding(schema, number_weight=0.5, harmonics=2)
    assert math.isclose(two.max_norm, 0.75 * math.sqrt(1.5), rel_tol=1e-11)
    assert math.isclose(two.diameter, 0.75 * math.sqrt(4.5), rel_tol=1e-11)


def test_the_target_weighs_more():
    columns = [Boolean("a"), Boolean("b")]
    encoding = Encoding(Schema(columns, target="b"), target_weight=3.0)
    assert [b.state_weight for b in encoding.blocks] == [1.0, 3.0]
    plain = Encoding(Schema(columns), target_weight=3.0)
    assert [b.state_weight for b in plain.blocks] == [1.0, 1.0]


def test_weights_make_the_same_encoding():
    schema = Schema([Number("x", "real", 0, 1, nullable=True), Boolean("b")], target="b")
    one = Encoding(
        schema,
        number_weight=0.3,
        harmonics=3,
        category_weight=2.0,
        state_weight=0.1,
        target_weight=1.25,
    )
    assert Encoding(schema, **one.weights()).blocks == one.blocks
    assert Encoding(schema).blocks != one.blocks


# ------------------------------------------------------------------------------------ round trips


@given(schemas_and_tables(), WEIGHTS)
@settings(deadline=None, max_examples=200)
def test_decode_undoes_encode(pair, weights):
    schema, table = pair
    encoding = Encoding(schema, **weights)
    back = encoding.decode(encoding.encode(table))
    expected = schema.validate(table)
    for column in schema:
        if isinstance(column, Number) and column.type == "real":
            # A place is known to a few 1e-16; on the log scale that counts up to ln(101) times.
            error = 1e-13 * (column.max - column.min)
            pd.testing.assert_series_equal(
                back[column.name], expected[column.name], rtol=0, atol=error
            )
        else:
            pd.testing.assert_series_equal(back[column.name], expected[column.name])


@given(schemas(), st.data())
@settings(deadline=None)
def test_any_row_decodes_to_a_valid_table(schema, data):
    encoding = Encoding(schema)
    values = st.floats(-1e6, 1e6, width=32)
    rows = np.array(
        data.draw(st.lists(st.lists(values, min_size=encoding.d, max_size=encoding.d), max_size=4)),
        dtype=np.float32,
    ).reshape(-1, encoding.d)
    table = encoding.decode(rows)
    assert len(table) == len(rows)
    assert tuple(table.columns) == schema.names
    if len(table):
        pd.testing.assert_frame_equal(schema.validate(table), table)


def test_blocks_are_laid_out_as_documented():
    schema = Schema(
        [
            Categorical("c", ["a", "b"], nullable=True),
            Number("n", "integer", 0, 10),
            Number("z", "integer", 0, 11, special=[0], nullable=True),
        ]
    )
    encoding = Encoding(
        schema, number_weight=2.0, harmonics=2, category_weight=1.0, state_weight=0.5
    )
    shape = [(b.column, b.start, b.stop, b.n_states, b.n_values) for b in encoding.blocks]
    assert shape == [("c", 0, 3, 3, 0), ("n", 3, 7, 0, 4), ("z", 7, 14, 3, 4)]
    assert [b.has_value for b in encoding.blocks] == [False, True, True]
    assert encoding.blocks[2].states == slice(7, 10)
    assert encoding.blocks[2].values == slice(10, 14)
    table = pd.DataFrame(
        {"c": ["b", None, "a"], "n": [0, 5, 10], "z": pd.array([11, 0, None], dtype="Int64")}
    )
    raw = encoding.encode(table) + encoding.offset
    a = math.sqrt(0.5)  # weight of the second harmonic
    expected = [
        [0, 1, 0, *(1, 0, a, 0), 0.5, 0, 0, *(-1, 0, a, 0)],
        [0, 0, 1, *(0, 1, -a, 0), 0, 0.5, 0, *(0, 0, 0, 0)],
        [1, 0, 0, *(-1, 0, a, 0), 0, 0, 0.5, *(0, 0, 0, 0)],
    ]
    np.testing.assert_allclose(raw, expected, atol=1e-15)


@given(st.integers(1, 4), st.floats(0, 1), st.floats(0, 0.1), st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_a_noisy_value_decodes_to_the_nearest_point(harmonics, t, noise, seed):
    """Oracle: squared distances to the curve on a fine grid of places."""
    encoding = Encoding(
        Schema([Number("x", "real", 0.0, 1.0)]), number_weight=2.0, harmonics=harmonics
    )
    h = np.arange(1, harmonics + 1)

    def curve(place):
        angle = np.pi * np.outer(np.atleast_1d(place), h)
        return np.stack([np.cos(angle), np.sin(angle)], axis=-1).reshape(len(angle), -1) / (
            np.repeat(np.sqrt(h), 2)
        )

    row = curve(t) + noise * np.random.default_rng(seed).standard_normal((1, encoding.d))
    found = encoding.decode(row)["x"].to_numpy()
    best = np.linalg.norm(curve(np.linspace(0, 1, 4001)) - row, axis=1).min()
    assert np.linalg.norm(curve(found) - row) <= best + 1e-12


def test_log_scale_spreads_a_heavy_tail():
    schema = Schema(
        [
            Number("i", "integer", 0, 1023, scale="log"),
            Number("r", "real", 0.0, 1.0, scale="log"),
        ]
    )
    table = pd.DataFrame({"i": [0, 31, 1023], "r": [0.0, 0.01, 1.0]})
    rows = Encoding(schema, number_weight=2.0, harmonics=1).encode(table)
    # log1p(v / s), s a hundredth of the range; the place's angle runs from 0 to pi
    middle = [math.log1p(31 / 10.23) / math.log(101), math.log(2) / math.log(101)]
    for i in range(2):
        angle = math.pi * np.array([0.0, middle[i], 1.0])
        np.testing.assert_allclose(rows[:, 2 * i], np.cos(angle), atol=1e-15)
        np.testing.assert_allclose(rows[:, 2 * i + 1], np.sin(angle), atol=1e-15)


def test_log_scale_of_a_small_integer_range_has_unit_one():
    schema = Schema([Number("i", "integer", 0, 3, scale="log")])
    rows = Encoding(schema, number_weight=2.0, harmonics=1).encode(pd.DataFrame({"i": [1]}))
    np.testing.assert_allclose(rows, [[0.0, 1.0]], atol=1e-15)  # log1p(1) is half of log1p(3)


def test_values_outside_the_bounds_are_clipped():
    encoding = Encoding(Schema([Number("x", "real", 0, 1, special=[0.0])]))
    rows = encoding.encode(pd.DataFrame({"x": [-7.0, 7.0]}))
    np.testing.assert_array_equal(rows, encoding.encode(pd.DataFrame({"x": [0.0, 1.0]})))


def test_a_special_value_is_a_state_and_a_near_one_is_not():
    encoding = Encoding(Schema([Number("x", "real", 0, 1, special=[0.0])]))
    rows = encoding.encode(pd.DataFrame({"x": [0.0, 1e-9]})) + encoding.offset
    assert rows[0].argmax() == 1
    assert rows[1].argmax() == 0


# ------------------------------------------------------------------------- streaming and bad input


SMALL = Schema([Number("x", "real", 0, 1), Categorical("c", ["a", "b"])])


def small(n):
    return pd.DataFrame({"x": np.linspace(0, 1, n), "c": (["a", "b"] * n)[:n]})


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_blocks_of_rows_join_to_the_whole(n):
    encoding, table = Encoding(SMALL), small(n)
    blocks = list(encoding.encode_blocks(table, block_rows=3))
    assert all(len(b) <= 3 for b in blocks)
    np.testing.assert_array_equal(np.concatenate(blocks), encoding.encode(table))
    pieces = (piece for piece in (table.iloc[:0], table, table.iloc[:0], table))
    twice = np.concatenate(list(encoding.encode_blocks(pieces, block_rows=2)))
    np.testing.assert_array_equal(twice, np.concatenate([encoding.encode(table)] * 2))


def test_a_constant_column_and_one_row():
    encoding = Encoding(Schema([Categorical("c", ["only"])]))
    rows = encoding.encode(pd.DataFrame({"c": ["only"]}))
    np.testing.assert_array_equal(rows, [[0.0]])
    assert encoding.max_norm == encoding.diameter == 0.0
    assert encoding.decode(rows)["c"].tolist() == ["only"]


def test_row_index_and_column_order_do_not_matter():
    encoding, table = Encoding(SMALL), small(3)
    shuffled = table[["c", "x"]].set_index(pd.Index([7, 7, 1]))
    np.testing.assert_array_equal(encoding.encode(shuffled), encoding.encode(table))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: Encoding("x"), TypeError, "schema must be a Schema"),
        (lambda e: Encoding(SMALL, number_weight=0), ValueError, "number_weight must be a finite"),
        (lambda e: Encoding(SMALL, harmonics=0), ValueError, "harmonics must be an integer >= 1"),
        (lambda e: Encoding(SMALL, target_weight=-1), ValueError, "target_weight must be a fin"),
        (lambda e: Encoding(SMALL, category_weight="1"), TypeError, "category_weight must be"),
        (lambda e: Encoding(SMALL, state_weight=math.inf), ValueError, "state_weight must be"),
        (lambda e: e.encode(small(3).iloc[:0]), ValueError, "at least one row"),
        (lambda e: e.encode(small(3)[["x"]]), ValueError, "missing: 'c'"),
        (lambda e: e.encode(small(3).assign(y=1)), ValueError, "got 'y'"),
        (lambda e: e.encode(small(3).assign(x=math.nan)), ValueError, "missing value"),
        (lambda e: e.encode(small(3).assign(x=-math.inf)), ValueError, "infinite values"),
        (lambda e: e.encode(np.zeros((1, 3))), TypeError, "df must be a pandas DataFrame"),
        (lambda e: list(e.encode_blocks([])), ValueError, "got no blocks"),
        (lambda e: list(e.encode_blocks(small(3).iloc[:0])), ValueError, "at least one row"),
        (lambda e: list(e.encode_blocks([small(3)[:0]] * 2)), ValueError, "got an empty table"),
        (lambda e: list(e.encode_blocks([small(3)[["x"]][:0]])), ValueError, "missing: 'c'"),
        (lambda e: list(e.encode_blocks([np.zeros(3)])), TypeError, "df must be a pandas"),
        (lambda e: list(e.encode_blocks(small(3)["x"])), TypeError, "of them; got Series"),
        (lambda e: list(e.encode_blocks(np.zeros((1, 3)))), TypeError, "of them; got ndarray"),
        (lambda e: list(e.encode_blocks(small(3), block_rows=0)), ValueError, "block_rows must"),
        (lambda e: e.decode(np.zeros((2, 5))), ValueError, r"rows must have shape \(n, 6\)"),
        (lambda e: e.decode(np.zeros(3)), ValueError, r"rows must have shape \(n, 6\)"),
        (lambda e: e.decode(np.full((1, 6), np.nan)), ValueError, "rows must hold finite numbers"),
        (lambda e: e.decode(np.zeros((1, 6), dtype=int)), TypeError, "rows must be a floating"),
        (lambda e: e.decode([[0.0] * 6]), TypeError, "rows must be a floating-point array"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(Encoding(SMALL))
