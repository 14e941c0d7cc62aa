"""Tables as CSV files: read with the types a schema declares, written whole or not at all.

pandas' own reader guesses types from the values, turns strings such as "NA" into missing values
and fills short rows up. Here types come from the public schema, only an empty cell is missing,
and a ragged row is an error.
"""

from __future__ import annotations

import contextlib
import csv
import datetime
import gzip
import io
import math
import os
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice._storage import replacing
from dpslice.tabular.columns import LINE, Categorical, Column
from dpslice.tabular.schema import Schema

__all__ = [
    "cell_value",
    "count_csv_rows",
    "iter_csv",
    "read_csv",
    "read_header",
    "write_csv",
]


# -------------------------------------------------------------------------------------- writing


def write_csv(df: pd.DataFrame, path: str | os.PathLike[str]) -> None:
    """Write a table as a UTF-8 CSV file, whole or not at all.

    Parameters
    ----------
    df : pandas.DataFrame
        The table; the index is not written, a missing value becomes an empty cell.
    path : str or path-like
        The file, replaced if it exists; compressed if the name ends in ``.gz`` (or ``.GZ``).
        Equal tables give equal bytes.

    Raises
    ------
    TypeError
        If `df` is no DataFrame.
    OSError
        If the file cannot be written; an existing one is kept then.
    """
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df must be a pandas DataFrame; got {type(df).__name__}")
    with replacing(path) as raw:
        if _is_named_gzip(path):
            # No file name and no time of writing in the header, so that bytes are reproducible.
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                write_text(df, packed)
        else:
            write_text(df, raw)


def _is_named_gzip(path: str | os.PathLike[str]) -> bool:
    return str(path).lower().endswith(".gz")


def write_text(df: pd.DataFrame, handle: Any) -> None:
    """Write a table as UTF-8 CSV to an open binary file, as `write_csv` does to a named one."""
    df = df.copy(deep=False)
    for i, dtype in enumerate(df.dtypes):
        if isinstance(dtype, np.dtype) and dtype.kind == "M":
            df.isetitem(i, _iso_text(df.iloc[:, i].to_numpy()))
        elif isinstance(dtype, np.dtype) and dtype.kind == "f" and _all_whole(df.iloc[:, i]):
            df.isetitem(i, df.iloc[:, i].astype("float64").astype("Int64").array)  # 100, not 100.0
    # The writer quotes a carriage return only where it is part of the line's end.
    texts = [
        pd.Series(df.columns),
        *(df.iloc[:, i] for i, t in enumerate(df.dtypes) if pd.api.types.is_object_dtype(t)),
    ]
    returns = any("\r" in str(value) for column in texts for value in column.unique())
    text = io.TextIOWrapper(handle, encoding="utf-8", newline="", write_through=True)
    df.to_csv(text, index=False, lineterminator="\r\n" if returns else "\n")
    text.detach()


def _all_whole(column: pd.Series[Any]) -> bool:
    """Whether all numbers are integers that float64 holds exactly."""
    values = column.to_numpy(dtype=np.float64)
    values = values[~np.isnan(values)]
    return bool((np.rint(values) == values).all() and (np.abs(values) < 2.0**53).all())


def _iso_text(stamps: NDArray[np.datetime64]) -> NDArray[np.object_]:
    """Dates, or times if any has one; pandas would write the year 999 with three digits."""
    seconds = stamps.astype("datetime64[s]")
    missing = np.isnat(seconds)
    whole_days = (missing | (seconds == seconds.astype("datetime64[D]"))).all()
    text = np.datetime_as_string(seconds, unit="D" if whole_days else "s").astype(object)
    text[missing] = None
    return text


# -------------------------------------------------------------------------------------- reading


def read_csv(
    path: str | os.PathLike[str],
    schema: Schema | Mapping[str, str],
    *,
    missing: Collection[str] = ("",),
    separator: str = ",",
) -> pd.DataFrame:
    """Read a CSV file into columns of the schema's types.

    Parameters
    ----------
    path : str or path-like
        A UTF-8 file with a header line; gzip is recognised by its first bytes. In a table of one
        column a blank line is an empty cell, in others it is no row.
    schema : Schema, or mapping of str to str
        Types of the columns. A mapping gives types alone, as `Schema.infer` takes them.
    missing : collection of str
        Cells that mean a missing value. A text that is a category of its column stays one.
    separator : str
        The character between cells.

    Returns
    -------
    pandas.DataFrame
        Columns in the schema's order. Values are not yet held against bounds and categories:
        `Schema.validate` and `Encoding` do that.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    TypeError
        If `schema` or `missing` is of the wrong kind.
    ValueError
        If the file is not UTF-8, not the gzip file its name says (``.gz``), empty, or a header
        alone; if its columns are not the schema's; if a row is ragged; if a cell is not of its
        column's type; if a type is unknown; or if `separator` is not one character that can
        separate.
    """
    blocks = list(iter_csv(path, schema, missing=missing, separator=separator))
    if len(blocks) == 1:
        return blocks[0].reset_index(drop=True)
    return pd.concat(blocks, ignore_index=True)


def iter_csv(
    path: str | os.PathLike[str],
    schema: Schema | Mapping[str, str],
    *,
    block_rows: int = 65_536,
    missing: Collection[str] = ("",),
    separator: str = ",",
) -> Iterator[pd.DataFrame]:
    """Read a CSV file block by block, in memory for one block.

    Parameters
    ----------
    path, schema, missing, separator
        As in `read_csv`.
    block_rows : int
        Rows per block; the last may be shorter.

    Yields
    ------
    pandas.DataFrame
        At most `block_rows` rows, as `read_csv` returns them, but with the index "line": where in
        the file each row begins, from which messages name a line.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As in `read_csv`, once the first block is asked for.
    """
    _arrays.positive_integer("block_rows", block_rows)
    if not isinstance(schema, (Schema, Mapping)):
        raise TypeError(
            "schema must be a Schema, or a mapping from names to types; "
            f"got {_arrays.describe(schema)}"
        )
    readers = _cell_readers(schema, frozenset(_arrays.elements("missing", missing)))
    with _csv_lines(path, separator) as lines:
        header = _header(path, lines)
        order = _column_order(path, header, list(readers), separator)
        any_rows = False
        for starts, rows in _row_blocks(path, lines, len(header), block_rows):
            any_rows = True
            columns = list(zip(*rows, strict=True))
            block = pd.DataFrame(
                {
                    name: _read_cells(path, name, read, columns[where], starts)
                    for (name, read), where in zip(readers.items(), order, strict=True)
                }
            )
            yield block.set_index(pd.Index(starts, name=LINE))
        if not any_rows:
            raise ValueError(f"{path}: the table has no rows, only a header")


def count_csv_rows(path: str | os.PathLike[str], *, separator: str = ",") -> int:
    """Count the rows of a CSV file, without reading their cells.

    Parameters
    ----------
    path : path
        As in `read_csv`, but a file that can be read again afterwards: no pipe.
    separator : str
        As in `read_csv`.

    Returns
    -------
    int
        Rows, the header not counted: as many as `iter_csv` yields.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `read_csv`; and if `path` is no regular file.
    """
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path}: must be a regular file, as it is read twice to count its rows")
    with _csv_lines(path, separator) as lines:
        header = _header(path, lines)
        return sum(len(rows) for _, rows in _row_blocks(path, lines, len(header), 4096))


def cell_value(column: Column, cell: str) -> object:
    """Read one cell of a column as `read_csv` would.

    Parameters
    ----------
    column : Column
        The column of a schema.
    cell : str
        Its text; empty for a missing value.

    Returns
    -------
    object
        The value; None if missing.

    Raises
    ------
    ValueError
        If it cannot be read as the column's type.
    """
    read = _cell_readers(Schema((column,)), frozenset({""}))[column.name]
    try:
        value = read([cell])[0]
    except _BadCell as bad:
        got = _arrays.describe(bad.cell)
        raise ValueError(f"column {column.name!r}: {bad.rule}; got {got}") from None
    return None if pd.isna(value) else value


def read_header(path: str | os.PathLike[str], *, separator: str = ",") -> tuple[str, ...]:
    """Read the column names of a CSV file, and no row of it.

    Parameters
    ----------
    path, separator
        As in `read_csv`.

    Returns
    -------
    tuple of str
        The names, in the file's order.

    Raises
    ------
    FileNotFoundError, ValueError
        As in `read_csv`; also if a name occurs twice.
    """
    with _csv_lines(path, separator) as lines:
        return tuple(_header(path, lines))


@contextmanager
def _csv_lines(path: str | os.PathLike[str], separator: str) -> Iterator[Any]:
    """Open a CSV file as rows of cells; what is wrong with the file becomes a ValueError."""
    if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
        raise ValueError(
            "separator must be one character that is no quote and ends no line; "
            f"got {_arrays.describe(separator)}"
        )
    with open(path, "rb") as raw, contextlib.ExitStack() as stack:
        opened: Any = raw
        # The magic of gzip is no UTF-8 text: no table begins so.
        if raw.peek(2)[:2] == b"\x1f\x8b" or _is_named_gzip(path):
            opened = stack.enter_context(gzip.GzipFile(fileobj=raw))
        text = stack.enter_context(io.TextIOWrapper(opened, encoding="utf-8-sig", newline=""))
        lines = csv.reader(text, strict=True, delimiter=separator)
        try:
            yield lines
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: the file must be UTF-8 text ({error.reason} near line "
                f"{lines.line_num + 1}); convert it, for example with iconv"
            ) from None
        except csv.Error as error:
            raise ValueError(f"{path}: line {lines.line_num}: {error}") from None
        except (gzip.BadGzipFile, zlib.error, EOFError) as error:
            raise ValueError(f"{path}: not a complete gzip file ({error})") from None


def _header(path: object, lines: Any) -> list[str]:
    header: list[str] | None = next(lines, None)
    if not header:
        raise ValueError(f"{path}: the file is empty; a header line is needed")
    for i, name in enumerate(header):
        if name in header[:i]:
            raise ValueError(f"{path}: column {name!r} occurs twice in the header")
    return header


def _column_order(
    path: object, header: Sequence[str], names: Sequence[str], separator: str
) -> list[int]:
    """Position in the file of each column of the schema."""
    absent = [name for name in names if name not in header]
    if absent:
        raise ValueError(
            f"{path}: column(s) missing from the file: {', '.join(map(repr, absent))}"
            + _header_hint(header, absent, separator)
        )
    extra = [name for name in header if name not in names]
    if extra:
        raise ValueError(
            f"{path}: column(s) not in the schema: {', '.join(map(repr, extra))} (remove them "
            "from the file, or add them to the schema)"
        )
    return [list(header).index(name) for name in names]


_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


def _header_hint(header: Sequence[str], absent: Sequence[str], separator: str) -> str:
    """Say what may be wrong with a header that lacks columns, at the end of a message."""
    for other, called in _SEPARATORS.items():
        if len(header) == 1 and other != separator and other in header[0]:
            return (
                f" (the header looks as if separated by {called}, not by "
                f"{_SEPARATORS.get(separator, repr(separator))}: give that separator)"
            )
    if {name.strip() for name in header} >= set(absent):
        return " (the header has them with spaces around the name)"
    return ""


def _row_blocks(
    path: object, lines: Any, width: int, block_rows: int
) -> Iterator[tuple[list[int], list[list[str]]]]:
    """Rows in blocks, and the lines that they begin at."""
    rows: list[list[str]] = []
    starts: list[int] = []
    following = lines.line_num + 1
    for row in lines:
        start, following = following, lines.line_num + 1
        if not row:
            if width > 1:
                continue  # a blank line holds no row
            row = [""]  # but of one column it is how most programs write an empty cell
        if len(row) != width:
            raise ValueError(
                f"{path}: line {lines.line_num}: {len(row)} cell(s), but the header has {width}"
            )
        rows.append(row)
        starts.append(start)
        if len(rows) == block_rows:
            yield starts, rows
            rows, starts = [], []
    if rows:
        yield starts, rows


# Reads the cells of one column; raises _BadCell at one that does not fit.
_CellReader = Callable[[Sequence[str]], "pd.Series[Any]"]


class _BadCell(Exception):
    def __init__(self, cell: str, rule: str) -> None:
        self.cell, self.rule = cell, rule


def _read_cells(
    path: object, name: str, read: _CellReader, cells: Sequence[str], starts: Sequence[int]
) -> pd.Series[Any]:
    try:
        return read(cells)
    except _BadCell as bad:
        # Exact unless a quoted cell of the row spans lines.
        line = starts[cells.index(bad.cell)]
        got = _arrays.describe(bad.cell)
        raise ValueError(
            f"{path}: column {name!r}, about line {line}: {bad.rule}; got {got}"
        ) from None


def _cell_readers(
    schema: Schema | Mapping[str, str], missing: frozenset[str]
) -> dict[str, _CellReader]:
    """One reader per column, in the schema's order."""
    if isinstance(schema, Mapping):
        return {name: _reader_of(name, kind, missing) for name, kind in schema.items()}

    readers: dict[str, _CellReader] = {}
    for column in schema:
        kind, absent = column.type, missing
        if isinstance(column, Categorical):
            absent = missing - {c for c in column.categories if isinstance(c, str)}
            kind = "categorical" if column.is_text else "categorical_integer"
        readers[column.name] = _reader_of(column.name, kind, absent)
    return readers


def _reader_of(name: str, kind: str, missing: frozenset[str]) -> _CellReader:
    def text(cells: Sequence[str]) -> pd.Series[Any]:
        return pd.Series([None if c in missing else c for c in cells], dtype=object)

    def real(cells: Sequence[str]) -> pd.Series[Any]:
        return pd.Series([_real(c) if c not in missing else np.nan for c in cells], dtype="float64")

    def integer(cells: Sequence[str]) -> pd.Series[Any]:
        present = [c not in missing for c in cells]
        values = [_integer(c) if p else 0 for c, p in zip(cells, present, strict=True)]
        series = pd.Series(values, dtype="int64")
        if all(present):
            return series
        # Whether a cell is missing must not change the dtype from block to block.
        return series.astype("Int64").mask(~np.array(present))

    def boolean(cells: Sequence[str]) -> pd.Series[Any]:
        flags = [None if c in missing else _boolean(c) for c in cells]
        return pd.Series(flags, dtype="boolean")

    def moment(cells: Sequence[str]) -> pd.Series[Any]:
        stamps = [None if c in missing else _moment(c) for c in cells]
        return pd.Series(np.array(stamps, dtype="datetime64[us]"))

    readers: dict[str, _CellReader] = {
        "categorical": text,
        "categorical_integer": integer,
        "integer": integer,
        "real": real,
        "boolean": boolean,
        "datetime": moment,
        "date": moment,
    }
    return readers[_arrays.choice(f"type of column {name!r}", kind, readers)]


def _real(cell: str) -> float:
    try:
        # Python also reads "1_000" and "nan"; in a file the one is a slip, the other no number.
        if "_" not in cell and not math.isnan(number := float(cell)):
            return number
    except ValueError:
        pass
    raise _BadCell(cell, "must be a number (an empty cell is a missing value)")


# No schema's bound or category lies beyond 2**53, so that larger integers are as good as this one.
_HUGE = 2**62


def _integer(cell: str) -> int:
    number: float  # Python's word for int or float
    try:
        number = int(cell) if "_" not in cell else _real(cell)
    except ValueError:
        number = _real(cell)
        if math.isinf(number) and cell.strip().lstrip("+-").isdecimal():
            number = int(math.copysign(_HUGE, number))  # more digits than Python reads
    if isinstance(number, float) and not number.is_integer():  # infinity is none either
        raise _BadCell(cell, "must be a whole number (an empty cell is a missing value)")
    return max(-_HUGE, min(int(number), _HUGE))


_TRUTH = {"true": True, "t": True, "yes": True, "1": True, "1.0": True}
_TRUTH |= {"false": False, "f": False, "no": False, "0": False, "0.0": False}


def _boolean(cell: str) -> bool:
    value = _TRUTH.get(cell.strip().lower())
    if value is None:
        raise _BadCell(cell, "must be true or false (an empty cell is a missing value)")
    return value


def _moment(cell: str) -> datetime.datetime:
    try:
        value = datetime.datetime.fromisoformat(cell.strip())
    except ValueError:
        raise _BadCell(cell, "must be an ISO 8601 date or time, such as 2019-01-31") from None
    if value.tzinfo is not None:
        raise _BadCell(cell, "must be a time without zone")
    return value
