"""Tables as files, CSV or Parquet: read with the types a schema declares, written whole.

pandas' own readers guess types from the values of a CSV file, turn strings such as "NA" into
missing values and fill short rows up; of a Parquet file they take the types that it states. Here
types come from the public schema, only an empty cell is missing, and a ragged row is an error. A
kind of file has a module of its own, which knows cells; what they mean is said here.
"""

from __future__ import annotations

import contextlib
import datetime
import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice._storage import replacing
from dpslice.tabular import _csv, _parquet
from dpslice.tabular.columns import LINE, Categorical, Column
from dpslice.tabular.schema import Schema

__all__ = [
    "cell_value",
    "check_written",
    "columns_of",
    "count_rows",
    "iter_table",
    "read_header",
    "read_table",
    "write_table",
]


# -------------------------------------------------------------------------------------- writing


def write_table(df: pd.DataFrame, path: str | os.PathLike[str], *, overwrite: bool = True) -> None:
    """Write a table as a file, whole or not at all.

    Parameters
    ----------
    df : pandas.DataFrame
        The table; the index is not written.
    path : str or path-like
        The file. Parquet if its name ends in ``.parquet``; else UTF-8 CSV,
        in which a missing value is an empty cell, and compressed if the name ends in ``.gz``.
        Capital letters are as good. Equal tables give equal bytes.
    overwrite : bool
        Whether an existing file is replaced. If not, and there is one, the new one is written
        beside it, as ``x-1.csv``, and a FileExistsError says so.

    Raises
    ------
    TypeError
        If `df` is no DataFrame, or `path` no path.
    ValueError
        If a column holds what Parquet has no type for.
    ImportError
        If pyarrow is needed and not installed.
    OSError
        If the file cannot be written; an existing one is kept then.
    """
    if not isinstance(df, pd.DataFrame):
        raise TypeError(f"df must be a pandas DataFrame; got {type(df).__name__}")
    path = _arrays.path("path", path)
    check_written(path)
    with replacing(path, overwrite=overwrite) as raw:
        if _parquet.is_named(path):
            _parquet.write(df, raw)
        else:
            _csv.write(df, raw, packed=_csv.is_named_gzip(path))


def check_written(path: str | os.PathLike[str]) -> None:
    """Raise ImportError unless `write_table` has what the kind of file needs that is named so."""
    if _parquet.is_named(path):
        _parquet.require()


# -------------------------------------------------------------------------------------- reading


def read_table(
    path: str | os.PathLike[str],
    schema: Schema | Mapping[str, str | Column],
    *,
    missing: Collection[str] = ("",),
    separator: str = ",",
    encoding: str = "utf-8",
    drop: Collection[str] = (),
) -> pd.DataFrame:
    """Read a CSV or Parquet file into columns of the schema's types.

    A table has one outcome in both: values of a Parquet file are read as the cells that they are in
    a CSV file. No type, category or statistic that it states is taken from it.

    Parameters
    ----------
    path : str or path-like
        A CSV file with a header line, or a Parquet file (extra ``parquet``). gzip, around CSV, and
        Parquet are recognised by their first bytes. In a CSV table of one column a blank line is
        an empty cell, in others it is no row.
    schema : Schema, or mapping of str to (str or Column)
        Types of the columns. A mapping gives types alone, as `Schema.infer` takes them.
    missing : collection of str
        Cells that mean a missing value. A text that is a category of its column stays one. In
        Parquet, null and NaN are missing besides, and a real number that is whole is spelled
        without a point: ``"-9"`` means -9.0 there, ``"-9.0"`` means nothing.
    separator : str
        The character between the cells of CSV.
    encoding : str
        The text encoding of CSV, by a name that Python knows, such as ``"latin-1"`` or
        ``"utf-16"``.
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
    ImportError
        If the file is Parquet, and pyarrow is not installed.
    TypeError
        If `path`, `schema`, `missing`, `encoding` or `drop` is of the wrong kind.
    ValueError
        If the file is not text in its encoding, not the gzip or Parquet file its name says
        (``.gz``, ``.parquet``), damaged, encrypted, empty, or a header alone; if its columns are
        not the schema's; if a row is ragged; if a cell is not of its column's type (the first such
        cell of each column is named), or a Parquet column is nested, or of a type that has no one
        spelling as a category; if a type or an encoding is unknown; if `separator` is not one
        character that can separate; or if `drop` names a column of the schema.
    """
    blocks = list(
        iter_table(path, schema, missing=missing, separator=separator, encoding=encoding, drop=drop)
    )
    if len(blocks) == 1:
        return blocks[0].reset_index(drop=True)
    return pd.concat(blocks, ignore_index=True)


def iter_table(
    path: str | os.PathLike[str],
    schema: Schema | Mapping[str, str | Column],
    *,
    block_rows: int = 65_536,
    missing: Collection[str] = ("",),
    separator: str = ",",
    encoding: str = "utf-8",
    drop: Collection[str] = (),
) -> Iterator[pd.DataFrame]:
    """Read a CSV or Parquet file block by block, in memory for one block.

    Parameters
    ----------
    path, schema, missing, separator, encoding, drop
        As in `read_table`.
    block_rows : int
        Most rows of a block; the last may be shorter, and those that end a row group of Parquet.

    Yields
    ------
    pandas.DataFrame
        At most `block_rows` rows, as `read_table` returns them, but with the index "line", where in
        a CSV file each row begins, or "row", its number in a Parquet file. Messages name those.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        As in `read_table`, once the first block is asked for.
    """
    _arrays.positive_integer("block_rows", block_rows)
    if not isinstance(schema, (Schema, Mapping)):
        raise TypeError(
            "schema must be a Schema, or a mapping from names to types; "
            f"got {_arrays.describe(schema)}"
        )
    absent = frozenset(_arrays.elements("missing", missing))
    described = columns_of(schema)
    readers = _cell_readers(described, absent)
    dropped = frozenset(_arrays.elements("drop", drop))
    for name in readers:
        if name in dropped:
            raise ValueError(f"drop must name columns that the schema lacks; got {name!r}")
    with _opened(path, separator, encoding) as table:
        _check_columns(path, table, list(readers), dropped)
        for name, column in described.items():
            table.check_type(name, _kind(column))
        about = "about line" if table.place == LINE else table.place
        any_rows = False
        for places, columns in table.blocks(list(readers), block_rows):
            any_rows = True
            block, wrong = {}, []
            for (name, read), (cells, taken) in zip(readers.items(), columns, strict=True):
                try:
                    values = read(cells)
                except _BadCell as bad:
                    # Of a line exact unless a quoted cell of the row spans several.
                    first = cells.index(bad.cell)
                    where = places[first if taken is None else int((taken == first).argmax())]
                    wrong.append((name, f"column {name!r}, {about} {where}: {bad}"))
                else:
                    block[name] = (values if taken is None else values.take(taken)).array
            if wrong:  # all at once: a table of many columns is put right in one go
                told = "; ".join(message for _, message in wrong[:_MOST_TOLD])
                more = ", ".join(repr(name) for name, _ in wrong[_MOST_TOLD:])
                raise ValueError(
                    f"{path}: {told}" + (f"; and such cells in {more}" if more else "")
                )
            yield pd.DataFrame(block, index=pd.Index(places, name=table.place))
        if not any_rows:
            raise ValueError(f"{path}: the table has no rows, only a header")


def count_rows(
    path: str | os.PathLike[str], *, separator: str = ",", encoding: str = "utf-8"
) -> int:
    """Count the rows of a file, without reading what their cells mean.

    Parameters
    ----------
    path : path
        As in `read_table`, but a file that can be read again afterwards: no pipe.
    separator, encoding
        As in `read_table`.

    Returns
    -------
    int
        Rows, a header not counted: as many as `iter_table` yields.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As in `read_table`; and if `path` is no regular file.
    """
    path = _arrays.path("path", path)
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: must be a regular file, as it is read twice to count its rows")
    with _opened(path, separator, encoding) as table:
        return sum(len(places) for places, _ in table.blocks([], 4096))


def cell_value(column: Column, cell: str) -> object:
    """Read one cell of a column as `read_table` would.

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
    read = _cell_readers({column.name: column}, frozenset({""}))[column.name]
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
    """Read the column names of a file, and no row of it, nor what else it says of its columns.

    Parameters
    ----------
    path, separator, encoding, drop
        As in `read_table`.

    Returns
    -------
    tuple of str
        The names, in the file's order, without those of `drop`.

    Raises
    ------
    FileNotFoundError, ImportError, TypeError, ValueError
        As in `read_table`; also if a name occurs twice.
    """
    dropped = frozenset(_arrays.elements("drop", drop))
    with _opened(path, separator, encoding) as table:
        return tuple(name for name in table.names if name not in dropped)


# Cells of a column: of all rows; or the distinct ones, and which of them each row has. None is a
# missing value.
_Cells = tuple[Sequence[str | None], NDArray[np.intp] | None]


class _Table(Protocol):
    """An open file of some kind, as `iter_table` needs it."""

    names: list[str]  # of the columns, in the file's order
    place: str  # what the numbers of rows count

    def check_type(self, name: str, kind: str) -> None:
        """Raise ValueError if a column of this file cannot be read as a type of `Schema.infer`."""

    def hint(self) -> str:
        """Say why columns may be missing, at the end of a message."""

    def blocks(
        self, names: Sequence[str], block_rows: int
    ) -> Iterator[tuple[Sequence[int], Iterable[_Cells]]]:
        """Yield where rows stand in the file, and the cells of some columns, each block's at once.

        Cells are to be taken before the next block is.
        """


# First bytes of what is taken for a CSV file, and what to do about it. No table begins so.
_OTHER_FILES = {
    b"PK\x03\x04": "a ZIP archive or an Excel workbook: unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook: save the sheet as CSV",
    b"\xfd7zXZ\x00": "packed by xz: unpack it",
    b"\x28\xb5\x2f\xfd": "packed by zstd: unpack it",
    **{b"BZh%d1AY&SY" % level: "packed by bzip2: unpack it" for level in range(1, 10)},
}


@contextmanager
def _opened(path: str | os.PathLike[str], separator: str, encoding: str) -> Iterator[_Table]:
    """Open a file as what it is; what is wrong with it becomes a ValueError."""
    with open(_arrays.path("path", path), "rb") as raw, contextlib.ExitStack() as stack:
        head = raw.peek(16)
        for magic, called in _OTHER_FILES.items():
            if head.startswith(magic):
                raise ValueError(f"{path}: must be a CSV or Parquet file; this one is {called}")
        table: _Table
        if _parquet.starts(head) or _parquet.is_named(path):
            table = stack.enter_context(_parquet.opened(path, raw))
        else:
            table = stack.enter_context(_csv.opened(path, raw, separator, encoding))
        for i, name in enumerate(table.names):
            if name in table.names[:i]:
                raise ValueError(f"{path}: column {name!r} occurs twice in the header")
        yield table


def _check_columns(
    path: object, table: _Table, names: Sequence[str], dropped: Collection[str]
) -> None:
    """Check that a file has the columns of the schema, and no others but those to drop."""
    header = table.names
    absent = [name for name in names if name not in header]
    if absent:
        raise ValueError(
            f"{path}: column(s) missing from the file: {', '.join(map(repr, absent))}"
            + (table.hint() or _names_hint(header, absent))
        )
    extra = [name for name in header if name not in names and name not in dropped]
    if extra:
        raise ValueError(
            f"{path}: column(s) not in the schema: {', '.join(map(repr, extra))} (drop them, or "
            "add them to the schema)"
        )


def _names_hint(header: Sequence[str], absent: Sequence[str]) -> str:
    """Say how names of a file may differ from those that it lacks, at the end of a message."""
    if {name.strip() for name in header} >= set(absent):
        return " (the header has them with spaces around the name)"
    if {name.strip().casefold() for name in header} >= {name.casefold() for name in absent}:
        return " (the header has them in other letters, small or capital)"
    return ""


# Reads the cells of one column; raises _BadCell at one that does not fit.
_CellReader = Callable[[Sequence[str | None]], "pd.Series[Any]"]


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


def columns_of(schema: Schema | Mapping[str, str | Column]) -> Mapping[str, str | Column]:
    """Return the columns of a schema by their names; a mapping is that already."""
    return schema if isinstance(schema, Mapping) else {column.name: column for column in schema}


def _kind(column: str | Column) -> str:
    """Say what a column is read as."""
    if isinstance(column, str):
        return column
    if isinstance(column, Categorical) and not column.is_text:
        return "categorical_integer"
    return column.type


def _cell_readers(
    columns: Mapping[str, str | Column], missing: frozenset[str]
) -> dict[str, _CellReader]:
    """One reader per column."""
    readers: dict[str, _CellReader] = {}
    for name, column in columns.items():
        levels = column.categories if isinstance(column, Categorical) else ()
        # A text that is a level is no missing value.
        readers[name] = _reader_of(name, _kind(column), missing.difference(levels))
    return readers


def _reader_of(name: str, kind: str, missing: frozenset[str]) -> _CellReader:
    gone = missing | {None}

    def each(read: Callable[[Any], Any], cells: Sequence[str | None], absent: Any = None) -> Any:
        try:
            return [absent if cell in gone else read(cell) for cell in cells]
        except _BadCell as bad:
            raise _BadCell(bad.cell, bad.rule, missing) from None

    def text(cells: Sequence[str | None]) -> pd.Series[Any]:
        return pd.Series([None if c in gone else c for c in cells], dtype=object)

    def real(cells: Sequence[str | None]) -> pd.Series[Any]:
        return pd.Series(each(_real, cells, np.nan), dtype="float64")

    def integer(cells: Sequence[str | None]) -> pd.Series[Any]:
        series = pd.Series(each(_integer, cells, 0), dtype="int64")
        present = [c not in gone for c in cells]
        if all(present):
            return series
        # Whether a cell is missing must not change the dtype from block to block.
        return series.astype("Int64").mask(~np.array(present))

    def boolean(cells: Sequence[str | None]) -> pd.Series[Any]:
        return pd.Series(each(_boolean, cells), dtype="boolean")

    def moment(cells: Sequence[str | None]) -> pd.Series[Any]:
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
