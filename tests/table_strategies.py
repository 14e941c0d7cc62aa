"""Hypothesis strategies for schemas and for tables that fit them."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from dpslice.tabular import Boolean, Categorical, Column, Datetime, Number, Schema

NAMES = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
WEIGHTS = st.sampled_from([0.25, 1.0, 1.5, 3.0])


@st.composite
def categoricals(draw: st.DrawFn, name: str) -> Categorical:
    levels = draw(
        st.one_of(
            st.lists(NAMES, min_size=1, max_size=6, unique=True),
            st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=6, unique=True),
        )
    )
    other = draw(st.one_of(st.none(), st.sampled_from(levels)))
    return Categorical(
        name, tuple(levels), other=other, nullable=draw(st.booleans()), weight=draw(WEIGHTS)
    )


@st.composite
def integers(draw: st.DrawFn, name: str) -> Number:
    low = draw(st.integers(-(2**31), 2**31))
    high = low + draw(st.integers(4, 2**31))
    pool = [low, high, (low + high) // 2]
    special = draw(st.lists(st.sampled_from(pool), max_size=3, unique=True))
    step = draw(st.sampled_from([None, None, 1, 5, 100]))
    # So many times wider: with a step, there are as many values as without.
    unit = step or 1
    return Number(
        name,
        "integer",
        low * unit,
        high * unit,
        nullable=draw(st.booleans()),
        special=tuple(value * unit for value in special),
        scale=draw(st.sampled_from(["linear", "log"])),
        weight=draw(WEIGHTS),
        step=step,
    )


@st.composite
def reals(draw: st.DrawFn, name: str) -> Number:
    low = draw(st.floats(-1e6, 1e6))  # test_encoding derives a tolerance from these
    high = low + draw(st.floats(1e-3, 1e9))
    special = draw(st.lists(st.sampled_from([low, high]), max_size=2, unique=True))
    return Number(
        name,
        "real",
        low,
        high,
        nullable=draw(st.booleans()),
        special=tuple(special),
        scale=draw(st.sampled_from(["linear", "log"])),
        weight=draw(WEIGHTS),
    )


@st.composite
def datetimes(draw: st.DrawFn, name: str) -> Datetime:
    bounds = draw(
        st.one_of(
            st.lists(st.dates(), min_size=2, max_size=2, unique=True),
            st.lists(
                st.datetimes().map(lambda t: t.replace(microsecond=0)),
                min_size=2,
                max_size=2,
                unique=True,
            ),
        )
    )
    return Datetime(
        name, min(bounds), max(bounds), nullable=draw(st.booleans()), weight=draw(WEIGHTS)
    )


@st.composite
def booleans(draw: st.DrawFn, name: str) -> Boolean:
    return Boolean(name, nullable=draw(st.booleans()), weight=draw(WEIGHTS))


@st.composite
def schemas(draw: st.DrawFn) -> Schema:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))
    kinds = [categoricals, integers, reals, datetimes, booleans]
    columns = [draw(draw(st.sampled_from(kinds))(name)) for name in names]
    return Schema(tuple(columns), target=draw(st.sampled_from([None, names[0]])))


def values_of(column: Column) -> st.SearchStrategy[object]:
    """Values of a column within its bounds, special and missing ones often among them."""
    options: list[st.SearchStrategy[object]] = []
    if isinstance(column, Categorical):
        options.append(st.sampled_from(column.categories))
    elif isinstance(column, Boolean):
        options.append(st.booleans())
    elif isinstance(column, Number):
        if column.type == "integer":
            step = int(column.step or 1)
            multiples = st.integers(int(column.min) // step, int(column.max) // step)
            options.append(multiples.map(lambda count: count * step))
        else:
            options.append(st.floats(column.min, column.max))
        if column.special:
            options.append(st.sampled_from(column.special))
    elif column.whole_days:
        options.append(st.dates(column.min, column.max))
    else:
        options.append(st.datetimes(column.min, column.max).map(_to_second))
    if column.nullable:
        options.append(st.none())
    return st.one_of(options)


def _to_second(moment: datetime.datetime) -> datetime.datetime:
    return moment.replace(microsecond=0)


@st.composite
def tables(draw: st.DrawFn, schema: Schema, max_rows: int = 12) -> pd.DataFrame:
    n = draw(st.integers(1, max_rows))
    data = {}
    for column in schema:
        values = draw(st.lists(values_of(column), min_size=n, max_size=n))
        if isinstance(column, Number):
            gaps = [np.nan if v is None else v for v in values]
            data[column.name] = pd.Series(gaps, dtype="float64")
        else:
            data[column.name] = pd.Series(values, dtype=object)
    return pd.DataFrame(data)


@st.composite
def schemas_and_tables(draw: st.DrawFn) -> tuple[Schema, pd.DataFrame]:
    schema = draw(schemas())
    return schema, draw(tables(schema))
