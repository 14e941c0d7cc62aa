"""Tables as CSV files: read with the types a schema declares, written whole or not at all.

pandas' own reader guesses types from the values, turns strings such as "NA" into missing values
and fills short rows up. Here types come from the public schema, only an empty cell is missing,
and a ragged row is an error.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import datetime
import gzip
import io
import math
import os
import re
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
    encoding: str = "utf-8",
    drop: Collection[str] = (),
) -> pd.DataFrame:
    """Read a CSV file into columns of the schema's types.

    Parameters
    ----------
    path : str or path-like
        A file with a header line; gzip is recognised by its first bytes. In a table of one column
        a blank line is an empty cell, in others it is no row.
    schema : Schema, or mapping of str to str
        Types of the columns. A mapping gives types alone, as `Schema.infer` takes them.
    missing : collection of str
        Cells that mean a missing value. A text that is a category of its column stays one.
    separator : str
        The character between cells.
    encoding : str
        The text encoding, by a name that Python knows, such as ``"latin-1"`` or ``"utf-16"``.
    drop : collection of str
        Columns of the file that are not read, such as names and numbers of persons; ones that it
        does not have do no harm.

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
        If `schema`, `missing`, `encoding` or `drop` is of the wrong kind.
    ValueError
        If the file is not text in its encoding, not the gzip file its name says (``.gz``), empty,
        or a header alone; if its columns are not the schema's; if a row is ragged; if a cell is not
        of its column's type (the first such cell of each column is named); if a type or an encoding
        is unknown; if `separator` is not one character that can separate; or if `drop` names a
        column of the schema.
    """
    blocks = list(
        iter_csv(path, schema, missing=missing, separator=separator, encoding=encoding, drop=drop)
    )
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
    encoding: str = "utf-8",
    drop: Collection[str] = (),
) -> Iterator[pd.DataFrame]:
    """Read a CSV file block by block, in memory for one block.

    Parameters
    ----------
    path, schema, missing, separator, encoding, drop
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
    absent = frozenset(_arrays.elements("missing", missing))
    readers = _cell_readers(schema, absent)
    dropped = frozenset(_arrays.elements("drop", drop))
    for name in readers:
        if name in dropped:
            raise ValueError(f"drop must name columns that the schema lacks; got {name!r}")
    with _csv_lines(path, separator, encoding) as lines:
        header = _header(path, lines)
        order = _column_order(path, header, list(readers), separator, dropped)
        any_rows = False
        for starts, rows in _row_blocks(path, lines, len(header), block_rows):
            any_rows = True
            columns = list(zip(*rows, strict=True))
            block, wrong = {}, []
            for (name, read), where in zip(readers.items(), order, strict=True):
                try:
                    block[name] = read(columns[where])
                except _BadCell as bad:
                    # Exact unless a quoted cell of the row spans lines.
                    line = starts[columns[where].index(bad.cell)]
                    wrong.append((name, f"column {name!r}, about line {line}: {bad}"))
            if wrong:  # all at once: a table of many columns is put right in one go
                told = "; ".join(message for _, message in wrong[:_MOST_TOLD])
                more = ", ".join(repr(name) for name, _ in wrong[_MOST_TOLD:])
                raise ValueError(
                    f"{path}: {told}" + (f"; and such cells in {more}" if more else "")
                )
            yield pd.DataFrame(block).set_index(pd.Index(starts, name=LINE))
        if not any_rows:
            raise ValueError(f"{path}: the table has no rows, only a header")


def count_csv_rows(
    path: str | os.PathLike[str], *, separator: str = ",", encoding: str = "utf-8"
) -> int:
    """Count the rows of a CSV file, without reading their cells.

    Parameters
    ----------
    path : path
        As in `read_csv`, but a file that can be read again afterwards: no pipe.
    separator, encoding
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
    with _csv_lines(path, separator, encoding) as lines:
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
        raise ValueError(f"column {column.name!r}: {bad}") from None
    return None if pd.isna(value) else value


def read_header(
    path: str | os.PathLike[str],
    *,
    separator: str = ",",
    encoding: str = "utf-8",
    drop: Collection[str] = (),
) -> tuple[str, ...]:
    """Read the column names of a CSV file, and no row of it.

    Parameters
    ----------
    path, separator, encoding, drop
        As in `read_csv`.

    Returns
    -------
    tuple of str
        The names, in the file's order, without those of `drop`.

    Raises
    ------
    FileNotFoundError, TypeError, ValueError
        As in `read_csv`; also if a name occurs twice.
    """
    dropped = frozenset(_arrays.elements("drop", drop))
    with _csv_lines(path, separator, encoding) as lines:
        return tuple(name for name in _header(path, lines) if name not in dropped)


# First bytes of what is taken for a CSV file, and what to do about it. No table begins so.
_OTHER_FILES = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook: unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV",
    b"PAR1\x15": "a Parquet file: read it with pandas, or write it as CSV",
    b"\xfd7zXZ\x00": "packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it",
    **{b"BZh%d1AY&SY" % level: "packed by bzip2: unpack it" for level in range(1, 10)},
}


def _codec(encoding: object) -> str:
    """Return the name by which a text encoding is to be read, or raise if there is none."""
    name = _arrays.text("encoding", encoding)
    try:
        "".encode(name)  # `codecs.lookup` alone would find base64, too
        found = codecs.lookup(name).name
    except (LookupError, ValueError):
        raise ValueError(
            "encoding must be a text encoding that Python knows, such as 'latin-1'; got "
            f"{_arrays.describe(encoding)}"
        ) from None
    return "utf-8-sig" if found == "utf-8" else found  # a byte order mark is no part of a name


@contextmanager
def _csv_lines(path: str | os.PathLike[str], separator: str, encoding: str) -> Iterator[Any]:
    """Open a CSV file as rows of cells; what is wrong with the file becomes a ValueError."""
    if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
        raise ValueError(
            "separator must be one character that is no quote and ends no line; "
            f"got {_arrays.describe(separator)}"
        )
    codec = _codec(encoding)
    with open(path, "rb") as raw, contextlib.ExitStack() as stack:
        opened: Any = raw
        head = raw.peek(16)
        for magic, called in _OTHER_FILES.items():
            if head.startswith(magic):
                raise ValueError(f"{path}: must be a CSV file; this one is {called}")
        # The magic of gzip is no text either: no table begins so.
        if head[:2] == b"\x1f\x8b" or _is_named_gzip(path):
            opened = stack.enter_context(gzip.GzipFile(fileobj=raw))
        text = stack.enter_context(io.TextIOWrapper(opened, encoding=codec, newline=""))
        lines = csv.reader(text, strict=True, delimiter=separator)
        try:
            yield lines
        except UnicodeError as error:
            called = "UTF-8" if codec == "utf-8-sig" else encoding
            why = error.reason if isinstance(error, UnicodeDecodeError) else str(error)
            other = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin-1"
            raise ValueError(
                f"{path}: the file must be {called} text ({why} near line {lines.line_num + 1}); "
                f"give its encoding, such as {other}"
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
    path: object,
    header: Sequence[str],
    names: Sequence[str],
    separator: str,
    dropped: Collection[str],
) -> list[int]:
    """Position in the file of each column of the schema."""
    absent = [name for name in names if name not in header]
    if absent:
        raise ValueError(
            f"{path}: column(s) missing from the file: {', '.join(map(repr, absent))}"
            + _header_hint(header, absent, separator)
        )
    extra = [name for name in header if name not in names and name not in dropped]
    if extra:
        raise ValueError(
            f"{path}: column(s) not in the schema: {', '.join(map(repr, extra))} (drop them, or "
            "add them to the schema)"
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
    if {name.strip().casefold() for name in header} >= {name.casefold() for name in absent}:
        return " (the header has them in other letters, small or capital)"
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


_MOST_TOLD = 3  # columns whose first bad cell a message shows; of others it has the names


class _BadCell(Exception):
    """A cell that does not fit, and the rule that it breaks."""

    def __init__(self, cell: str, rule: str, missing: Collection[str] = ()) -> None:
        super().__init__(f"{rule} ({_missing_words(missing)}); got {_arrays.describe(cell)}")
        self.cell, self.rule = cell, rule


def _missing_words(missing: Collection[str]) -> str:
    """Say which cells mean a missing value, in messages."""
    others = [repr(cell) for cell in sorted(missing) if cell]
    if not others:
        none = "no cell is a missing value"
        return "an empty cell is a missing value, others must be named" if missing else none
    return "missing values: " + ", ".join([*(["an empty cell"] if "" in missing else []), *others])


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
    def each(read: Callable[[str], Any], cells: Sequence[str], absent: Any = None) -> list[Any]:
        try:
            return [absent if cell in missing else read(cell) for cell in cells]
        except _BadCell as bad:
            raise _BadCell(bad.cell, bad.rule, missing) from None

    def text(cells: Sequence[str]) -> pd.Series[Any]:
        return pd.Series([None if c in missing else c for c in cells], dtype=object)

    def real(cells: Sequence[str]) -> pd.Series[Any]:
        return pd.Series(each(_real, cells, np.nan), dtype="float64")

    def integer(cells: Sequence[str]) -> pd.Series[Any]:
        series = pd.Series(each(_integer, cells, 0), dtype="int64")
        present = [c not in missing for c in cells]
        if all(present):
            return series
        # Whether a cell is missing must not change the dtype from block to block.
        return series.astype("Int64").mask(~np.array(present))

    def boolean(cells: Sequence[str]) -> pd.Series[Any]:
        return pd.Series(each(_boolean, cells), dtype="boolean")

    def moment(cells: Sequence[str]) -> pd.Series[Any]:
        return pd.Series(np.array(each(_moment, cells), dtype="datetime64[us]"))

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
    rule = "must be a number"
    if "," in cell:
        rule += ", with a decimal point and nothing between thousands"
    elif _UNIT.search(cell):
        rule += " alone, without a unit or sign"
    raise _BadCell(cell, rule)


_UNIT = re.compile(r"\d\s*[%$€£]\s*$|^\s*[%$€£]\s*\d")


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
        raise _BadCell(cell, "must be a whole number")
    return max(-_HUGE, min(int(number), _HUGE))


_TRUTH = dict.fromkeys(("true", "t", "yes", "y", "1", "1.0"), True)
_TRUTH |= dict.fromkeys(("false", "f", "no", "n", "0", "0.0"), False)


def _boolean(cell: str) -> bool:
    value = _TRUTH.get(cell.strip().lower())
    if value is None:
        raise _BadCell(
            cell, "must be true or false, t/f, yes/no, y/n or 1/0; other words are categories"
        )
    return value


def _moment(cell: str) -> datetime.datetime:
    try:
        value = datetime.datetime.fromisoformat(cell.strip())
    except ValueError:
        raise _BadCell(cell, "must be an ISO 8601 date or time, such as 2019-01-31") from None
    if value.tzinfo is not None:
        raise _BadCell(cell, "must be a time without zone")
    return value
