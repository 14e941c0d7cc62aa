"""Conditions on a sample: values that columns are to have."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from dpslice.tabular.columns import Datetime, Number
from dpslice.tabular.schema import Schema


def numbers_of(schema: Schema, conditions: Mapping[str, object]) -> dict[str, float]:
    """Return the values as `Column.to_numbers` has them, NaN for a missing one."""
    return {
        name: float(schema[name].to_numbers(pd.Series([value], name=name))[0])
        for name, value in conditions.items()
    }


def set_numbers(table: pd.DataFrame, schema: Schema, wanted: Mapping[str, float]) -> None:
    """Put the very number where one near it, or another of its bin, has met the condition."""
    for name, value in wanted.items():
        column = schema[name]
        if isinstance(column, Number | Datetime):
            table[name] = column.from_numbers(np.full(len(table), value))
