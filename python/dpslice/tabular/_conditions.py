"""What a sample must keep to: conditions on columns, and a schema's rules.

A condition says of one column what a rule says of it, in the same words; every row is to be so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.tabular._places import step_of
from dpslice.tabular.columns import Categorical, Column, Datetime, Number
from dpslice.tabular.files import cell_value
from dpslice.tabular.rules import Part, contradicted, read_part
from dpslice.tabular.schema import Schema

BLOCK_ROWS: Final = 16_384  # drawn at a time: memory beyond the output does not grow with n
MOST_TRIES: Final = 1_000  # rows drawn for each row wanted, where those that are wanted are rare

Conditions = Mapping[str, Part]  # by column


def read_conditions(given: Mapping[str, object] | None, schema: Schema) -> dict[str, Part]:
    """Read conditions as `Synthesizer.sample` takes them.

    Parameters
    ----------
    given : mapping from str to object, or None
        What columns are to be, by name.
    schema : Schema
        The columns.

    Returns
    -------
    dict from str to Part

    Raises
    ------
    TypeError
        If something is of the wrong kind.
    ValueError
        If a name is that of no column, or a column can hold nothing of what is asked for.
    """
    if given is not None and not isinstance(given, Mapping):
        raise TypeError(
            "conditions must be a mapping from column names to values; got "
            f"{_arrays.describe(given)}"
        )
    read: dict[str, Part] = {}
    for name, meant in (given or {}).items():
        if name not in schema.names:
            raise ValueError(f"conditions must name columns of the table; got {name!r}")
        read[name] = _read_condition(schema[name], meant)
    return read


def _read_condition(column: Column, given: object) -> Part:
    meant = _as_in_rules(column, given)
    how: dict[str, Any] = {"named": "conditions must be", "missing_among": True}
    part = read_part("conditions", column, meant, **how)
    if part.kind == "range" and isinstance(column, Number) and step_of(column) is None:
        # A range that holds one real number, such as the upper bound and what lies beyond.
        low, high = np.clip(part.numbers, column.min, column.max)
        if low == high:
            part = read_part("conditions", column, float(low), **how)
    return part


def _as_in_rules(column: Column, given: Any) -> Any:
    """Make lists of sets, and read texts as cells of a table, wherever they stand."""
    if isinstance(given, str):
        return given if isinstance(column, Categorical) else named_cell(column, given)
    if isinstance(given, Mapping):
        # Ends that are dates and times are read by the rules of rules alone.
        read = {"not", *(("min", "max") if isinstance(column, Number) else ())}
        return {k: _as_in_rules(column, v) if k in read else v for k, v in given.items()}
    if isinstance(given, tuple):  # others write ranges so
        raise TypeError(
            f"conditions: column {column.name!r} must have no tuple, which might be values or a "
            "range: write [a, b] for two values, {'min': a, 'max': b} for what lies between; got "
            f"{_arrays.describe(given)}"
        )
    if isinstance(given, Sequence | Set) and not isinstance(given, bytes):
        return [_as_in_rules(column, each) for each in given]
    return given


def named_cell(column: Column, text: str) -> object:
    """Read one cell that a person has named.

    Of dates and times it is no more than checked: a table's may be cut off, a person's not.

    Parameters
    ----------
    column : Column
        The column of a schema.
    text : str
        The cell; empty for a missing value.

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it cannot be read as the column's type.
    """
    value = cell_value(column, text)
    if isinstance(column, Datetime) and value is not None:
        return text.strip()
    return value.item() if isinstance(value, np.generic) else value  # as messages quote it


def refusal_of(schema: Schema, conditions: Conditions) -> str:
    """Say what is wrong where nearly no generated row is accepted."""
    if not schema.impossible:
        return "conditions must not be so rare"
    subject = "conditions and impossible rules" if conditions else "impossible rules"
    return f"{subject} must leave rows that the model makes"


def check_possible(schema: Schema, conditions: Conditions) -> None:
    """Raise ValueError where a rule forbids every row that meets the conditions."""
    if not schema.impossible or not conditions:
        return  # a schema's rules alone leave rows possible
    columns = {column.name: column for column in schema}
    broken = contradicted(schema.impossible, columns, conditions)
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
