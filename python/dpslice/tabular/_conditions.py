"""What a sample must keep to: conditions, values that columns are to have, and a schema's rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice.tabular.columns import Datetime, Number
from dpslice.tabular.rules import contradicted
from dpslice.tabular.schema import Schema

BLOCK_ROWS: Final = 16_384  # drawn at a time: memory beyond the output does not grow with n
MOST_TRIES: Final = 1_000  # rows drawn for each row wanted, where those that are wanted are rare


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


def refusal_of(schema: Schema, conditions: Mapping[str, object]) -> str:
    """Say what is wrong where nearly no generated row is accepted."""
    if not schema.impossible:
        return "conditions must not be so rare"
    subject = "conditions and impossible rules" if conditions else "impossible rules"
    return f"{subject} must leave rows that the model makes"


def check_possible(schema: Schema, conditions: Mapping[str, object]) -> None:
    """Raise ValueError where a rule forbids every row that meets the conditions."""
    if not schema.impossible or not conditions:
        return  # a schema's rules alone leave rows possible
    columns = {column.name: column for column in schema}
    broken = contradicted(schema.impossible, columns, numbers_of(schema, conditions))
    if broken is not None:
        raise ValueError(
            f"conditions must leave rows possible; impossible rule {broken + 1} "
            f"({schema.impossible[broken]}) forbids all of them"
        )


def keep_to_rules(table: pd.DataFrame, schema: Schema) -> NDArray[np.bool_]:
    """Tell which synthetic rows break no rule on what is impossible, in memory for one block."""
    kept = np.ones(len(table), dtype=bool)
    if schema.impossible:
        for first in range(0, len(table), BLOCK_ROWS):
            block = slice(first, first + BLOCK_ROWS)
            kept[block] = ~schema.broken_rules(table.iloc[block]).any(axis=1)
    return kept


def drawn_until(
    n: int, draw: Callable[[int], pd.DataFrame], *, refusal: str, rejecting: bool = True
) -> pd.DataFrame:
    """Draw blocks of rows until n are there.

    Parameters
    ----------
    n : int
        Rows wanted.
    draw : callable
        Draws as many rows as it is told, each by itself, and returns those that are accepted.
    refusal : str
        What the message begins with, as `refusal_of` says it.
    rejecting : bool
        Whether any may be missing. Blocks are then always whole, so that fewer rows are the first
        of more.

    Returns
    -------
    pandas.DataFrame, n rows

    Raises
    ------
    ValueError
        If nearly none is accepted: a rule on numbers of synthetic rows, which are public.
    """
    pieces: list[pd.DataFrame] = []
    found = made = 0
    while found < n:
        rows = BLOCK_ROWS if rejecting else min(BLOCK_ROWS, n - found)
        piece = draw(rows).iloc[: n - found]
        made += rows
        found += len(piece)
        pieces.append(piece)
        # For many rows the end is seen long before all tries are made.
        most = MOST_TRIES * min(n, 10 * (found + 1))
        if found < n and made > max(most, 10 * BLOCK_ROWS):
            raise ValueError(f"{refusal}: {found} of {made} generated rows meet them")
    return pd.concat(pieces, ignore_index=True)
