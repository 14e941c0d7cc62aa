"""Parquet files, read as cells: the texts that a CSV file of the same table would have.

So one reader says what a cell means (`dpslice.tabular.files`), whatever kind of file it is of, and
a table has one outcome in both. Each block's distinct values alone are made texts.

A Parquet file says more than its rows do. Of all that, names of columns and what decoding needs are
read: no minimum, maximum or number of missing or distinct values, and no list of categories. Types
of columns decide whether they can be read, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.tabular.columns import ROW

# Read at a time of each column; else a whole row group is, which may be the whole file.
_BUFFER_BYTES = 1 << 20


def is_named(path: object) -> bool:
    """Tell whether a file's name asks for Parquet."""
    return str(path).lower().endswith(".parquet")


def starts(head: bytes) -> bool:
    """Tell whether a file that begins so is Parquet, whole or encrypted.

    A CSV file's header may begin with these letters; no text goes on with such bytes.
    """
    return head[:4] in (b"PAR1", b"PARE") and (head[4:5] == b"\x15" or b"\0" in head)


def require() -> tuple[Any, Any]:
    """Return the modules pyarrow and pyarrow.parquet, or say which extra brings them."""
    return (
        _arrays.require("pyarrow", extra="parquet"),
        _arrays.require("pyarrow.parquet", extra="parquet"),
    )


# -------------------------------------------------------------------------------------- reading


class ParquetTable:
    """An open Parquet file, as `files._Table` has it."""

    place = ROW

    def __init__(self, path: object, raw: IO[bytes]) -> None:
        self._arrow, parquet = require()
        self._path = path
        self._file = parquet.ParquetFile(raw, buffer_size=_BUFFER_BYTES, pre_buffer=False)
        self._schema = self._file.schema_arrow
        self.names: list[str] = self._schema.names

    def check_type(self, name: str, kind: str) -> None:
        """Raise ValueError unless a column's values have one text, of what the schema expects."""
        types = self._arrow.types
        found = self._schema.field(name).type
        if types.is_dictionary(found):
            found = found.value_type
        plain = _is_text(types, found) or types.is_integer(found) or types.is_null(found)
        known = plain or any(
            of_kind(found)
            for of_kind in (
                types.is_boolean,
                types.is_floating,
                types.is_decimal,
                types.is_date,
                types.is_timestamp,
            )
        )
        if not known:
            raise ValueError(
                f"{self._path}: column {name!r} must hold numbers, strings, booleans, dates or "
                f"times; it is of type {_arrays.describe(str(found))} (drop it, or write it as "
                "one of those)"
            )
        if kind == "categorical" and not plain:
            # Of 1.0 and true there is more than one spelling: none is to be guessed.
            raise ValueError(
                f"{self._path}: column {name!r} must hold strings or integers, as its categories "
                f"are strings; it is of type {str(found)!r} (write it as strings, or declare "
                "another type)"
            )

    def hint(self) -> str:
        """Say nothing more of columns that are missing."""
        return ""

    def blocks(
        self, names: Sequence[str], block_rows: int
    ) -> Iterator[tuple[Sequence[int], Iterator[tuple[Sequence[str | None], NDArray[np.intp]]]]]:
        """Read the rows, numbered from 1, and of them the distinct cells of wanted columns."""
        done = 0
        for batch in self._file.iter_batches(batch_size=block_rows, columns=list(names)):
            if batch.num_rows == 0:
                continue
            places = range(done + 1, done + batch.num_rows + 1)
            done += batch.num_rows
            # By name: columns of a record's own names, "a.b", may come along with "a".
            yield places, (self._cells(batch.column(name)) for name in names)
        stated = self._file.metadata.num_rows
        if done != stated:  # a footer that is damaged may lose rows without another word
            raise ValueError(
                f"{self._path}: not a complete Parquet file (it states {stated} rows, and has "
                f"{done})"
            )

    def _cells(self, column: Any) -> tuple[Sequence[str | None], NDArray[np.intp]]:
        arrow, compute = self._arrow, _arrays.require("pyarrow.compute", extra="parquet")
        if arrow.types.is_dictionary(column.type):
            # Its own levels may stand there twice, or for no row.
            column = column.cast(column.type.value_type)
        if _is_text(arrow.types, column.type):
            column = column.cast(arrow.large_string())
        if arrow.types.is_decimal(column.type) and column.type.bit_width < 128:
            # Narrow ones, which newer versions make, are not known to what follows.
            column = column.cast(arrow.decimal128(column.type.precision, column.type.scale))
        found = compute.dictionary_encode(column, null_encoding="encode")
        levels = found.dictionary
        if arrow.types.is_floating(levels.type):  # no number: missing, as pandas has it
            levels = compute.if_else(compute.is_nan(levels), None, levels)
        cells = levels.cast(arrow.string())
        return cells.to_pylist(), found.indices.to_numpy(zero_copy_only=False).astype(np.intp)


def _is_text(types: Any, found: Any) -> bool:
    view = getattr(types, "is_string_view", None)  # of pyarrow 16 and newer
    return bool(
        types.is_string(found) or types.is_large_string(found) or (view is not None and view(found))
    )


@contextmanager
def opened(path: object, raw: IO[bytes]) -> Iterator[ParquetTable]:
    """Read an open file as Parquet; what is wrong with it becomes a ValueError."""
    arrow, _ = require()
    if not raw.seekable():
        raise ValueError(f"{path}: must be a regular file, as Parquet is read from its end")
    try:
        yield ParquetTable(path, raw)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: strings must be UTF-8 text ({error.reason})") from None
    except (arrow.ArrowException, OSError) as error:
        if isinstance(error, MemoryError):
            raise
        why = str(error).partition("\n")[0].strip()
        if "crypt" in why:
            raise ValueError(f"{path}: must not be encrypted; decrypt the Parquet file") from None
        raise ValueError(f"{path}: not a complete Parquet file ({why})") from None


# -------------------------------------------------------------------------------------- writing


def write(df: pd.DataFrame, handle: IO[bytes]) -> None:
    """Write a table as Parquet to an open binary file.

    Times are written to the microsecond, which all readers know. What Parquet has no type for is a
    ValueError.
    """
    arrow, parquet = require()
    try:
        table = arrow.Table.from_pandas(df, preserve_index=False)
    except (arrow.ArrowInvalid, arrow.ArrowTypeError, arrow.ArrowNotImplementedError) as error:
        raise ValueError(
            f"df must have columns of one type each, to be written as Parquet ({error})"
        ) from None
    for i, field in enumerate(table.schema):
        if arrow.types.is_null(field.type):  # no value at all: a type that few readers know
            text = field.with_type(arrow.string())
            table = table.set_column(i, text, table.column(i).cast(arrow.string()))
    parquet.write_table(table, handle, coerce_timestamps="us", allow_truncated_timestamps=True)
