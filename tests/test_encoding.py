"""Encoding: round trips, the norm bound and the diameter, streaming."""

from __future__ import annotations

import itertools
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


def corners(column):
    """Values at which a column's norm and distances can be largest."""
    if isinstance(column, Categorical):
        values = list(column.categories)
    elif isinstance(column, Boolean):
        values = [False, True]
    elif isinstance(column, Datetime):
        values = [column.min, column.max]
    else:
        low, high = column.regular_bounds
        if column.type == "real":  # where an end is special, the regular values only approach it
            low = np.nextafter(low, high) if low in column.special else low
            high = np.nextafter(high, low) if high in column.special else high
        values = [low, high, *column.special]
    return values + [None] * column.nullable


def corner_rows(column, **weights):
    schema = Schema([column])
    table = pd.DataFrame({column.name: pd.Series(corners(column), dtype=object)})
    return Encoding(schema, **weights), Encoding(schema, **weights).encode(table)


def largest_distance(rows):
    return max(np.linalg.norm(a - b) for a, b in itertools.product(rows, rows))


# --------------------------------------------------------------------------------------- geometry


@given(schemas(), WEIGHTS)
@settings(deadline=None)
def test_norm_bound_and_diameter_are_attained_and_never_exceeded(schema, weights):
    radius2 = diameter2 = 0.0
    for column in schema:
        encoding, rows = corner_rows(column, **weights)
        norm, distance = np.linalg.norm(rows, axis=1).max(), largest_distance(rows)
        # The bounds are rounded up by 1e-12. Beside a special end one step of float64, at most
        # 1.2e-10 at bounds of 1e6 (the strategy's), is up to 1.2e-7 of a range of 1e-3, and 145
        # times that on the log scale.
        apart = isinstance(column, Number) and column.type == "real" and column.special
        tol = 1e-4 if apart else 1e-11
        assert norm <= encoding.max_norm <= norm * (1 + tol)
        assert distance <= encoding.diameter <= distance * (1 + tol)
        radius2 += encoding.max_norm**2
        diameter2 += encoding.diameter**2
    encoding = Encoding(schema, **weights)
    # Columns are independent, so the squares add up.
    assert math.isclose(encoding.max_norm, math.sqrt(radius2), rel_tol=1e-11)
    assert math.isclose(encoding.diameter, math.sqrt(diameter2), rel_tol=1e-11)
    c, d = encoding.max_norm, encoding.diameter
    assert math.sqrt(2.0) * c * (1 - 1e-9) <= d <= 2.0 * c * (1 + 1e-9)


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
        Number("x", "integer", 0, 9),
        Number("x", "integer", 0, 9, nullable=True),
        Number("x", "integer", 0, 9, special=[0, 3, 9], nullable=True),
        Number("x", "real", 0, 1, special=[0.5]),
        Datetime("x", "2020-01-01", "2021-01-01", nullable=True),
    ],
)
@pytest.mark.parametrize("state_weight", [0.05, 0.6, 3.0])
def test_no_smaller_ball_holds_the_points(column, state_weight):
    """Oracle: minimise the largest distance to the block's points over the centre, numerically."""
    encoding, rows = corner_rows(column, state_weight=state_weight)

    def worst(centre):
        return np.linalg.norm(rows - centre, axis=1).max()

    # A smooth upper bound of the maximum guides the search; the maximum itself judges it.
    best = worst(np.zeros(encoding.d))
    for power in (8, 32, 128):
        found = minimize(
            lambda c, q=power: np.sum(np.linalg.norm(rows - c, axis=1) ** q) ** (1 / q),
            np.zeros(encoding.d),
            method="BFGS",
        )
        best = min(best, worst(found.x))
    assert encoding.max_norm <= best * (1 + 1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_closed_forms_of_a_category(k):
    encoding = Encoding(Schema([Categorical("x", list(range(k)), weight=3.0)]), category_weight=0.5)
    assert math.isclose(encoding.max_norm, 1.5 * math.sqrt(1 - 1 / k), abs_tol=1e-15, rel_tol=1e-11)
    expected = 1.5 * math.sqrt(2) if k > 1 else 0.0
    assert math.isclose(encoding.diameter, expected, rel_tol=1e-11)


def test_closed_forms_of_a_number():
    encoding = Encoding(Schema([Number("x", "real", -3, 5, weight=3.0)]), number_weight=0.5)
    assert math.isclose(encoding.max_norm, 0.75, rel_tol=1e-11)
    assert math.isclose(encoding.diameter, 1.5, rel_tol=1e-11)


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
            # A place is known to about 1e-16 of the range, or of its logarithm (at most 7) times
            # the distance from min.
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
    encoding = Encoding(schema, number_weight=2.0, category_weight=1.0, state_weight=0.5)
    shape = [(b.column, b.start, b.stop, b.n_states, b.has_value) for b in encoding.blocks]
    assert shape == [("c", 0, 3, 3, False), ("n", 3, 4, 0, True), ("z", 4, 8, 3, True)]
    assert [b.value for b in encoding.blocks] == [None, 3, 7]
    assert encoding.blocks[2].states == slice(4, 7)
    table = pd.DataFrame(
        {"c": ["b", None, "a"], "n": [0, 5, 10], "z": pd.array([11, 0, None], dtype="Int64")}
    )
    raw = encoding.encode(table) + encoding.offset
    expected = [
        [0, 1, 0, -1, 0.5, 0, 0, 1],
        [0, 0, 1, 0, 0, 0.5, 0, 0],
        [1, 0, 0, 1, 0, 0, 0.5, 0],
    ]
    np.testing.assert_allclose(raw, expected, atol=1e-15)


def test_log_scale_spreads_a_heavy_tail():
    schema = Schema(
        [
            Number("i", "integer", 0, 1023, scale="log"),
            Number("r", "real", 0.0, 1.0, scale="log"),
        ]
    )
    table = pd.DataFrame({"i": [0, 31, 1023], "r": [0.0, 1e-3, 1.0]})
    rows = Encoding(schema, number_weight=1.0).encode(table)
    # log1p(v) for integers; log1p(v / 0.001 of the range) for real numbers
    np.testing.assert_allclose(rows[:, 0], [-0.5, 0.0, 0.5], atol=1e-15)
    np.testing.assert_allclose(
        rows[:, 1], [-0.5, math.log(2) / math.log(1001) - 0.5, 0.5], atol=1e-15
    )


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
    pieces = (piece for piece in (table, table.iloc[:0], table))
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
        (lambda e: Encoding(SMALL, category_weight="1"), TypeError, "category_weight must be"),
        (lambda e: Encoding(SMALL, state_weight=math.inf), ValueError, "state_weight must be"),
        (lambda e: e.encode(small(3).iloc[:0]), ValueError, "at least one row"),
        (lambda e: e.encode(small(3)[["x"]]), ValueError, "missing: 'c'"),
        (lambda e: e.encode(small(3).assign(y=1)), ValueError, "got 'y'"),
        (lambda e: e.encode(small(3).assign(x=math.nan)), ValueError, "3 missing value"),
        (lambda e: e.encode(small(3).assign(x=-math.inf)), ValueError, "infinite values"),
        (lambda e: e.encode(np.zeros((1, 3))), TypeError, "df must be a pandas DataFrame"),
        (lambda e: list(e.encode_blocks([])), ValueError, "got no blocks"),
        (lambda e: list(e.encode_blocks(small(3).iloc[:0])), ValueError, "at least one row"),
        (lambda e: list(e.encode_blocks([np.zeros(3)])), TypeError, "df must be a pandas"),
        (lambda e: list(e.encode_blocks(small(3), block_rows=0)), ValueError, "block_rows must"),
        (lambda e: e.decode(np.zeros((2, 4))), ValueError, r"rows must have shape \(n, 3\)"),
        (lambda e: e.decode(np.zeros(3)), ValueError, r"rows must have shape \(n, 3\)"),
        (lambda e: e.decode(np.full((1, 3), np.nan)), ValueError, "rows must hold finite numbers"),
        (lambda e: e.decode(np.zeros((1, 3), dtype=int)), TypeError, "rows must be a floating"),
        (lambda e: e.decode([[0.0] * 3]), TypeError, "rows must be a floating-point array"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call(Encoding(SMALL))
