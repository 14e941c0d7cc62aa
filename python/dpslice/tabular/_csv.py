"""CSV files: rows of cells, which are texts, and nothing that is guessed from them.

What cells mean, `dpslice.tabular.files` says.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dpslice import _arrays
from dpslice.tabular.columns import LINE


def is_named_gzip(path: object) -> bool:
    """Tell whether a file's name asks for gzip."""
    return str(path).lower().endswith(".gz")


# -------------------------------------------------------------------------------------- reading


class CsvTable:
    """An open CSV file whose header line has been read, as `files._Table` has it."""

    place = LINE

    def __init__(self, path: object, lines: Any, separator: str) -> None:
        self._path, self._lines, self._separator = path, lines, separator
        header: list[str] | None = next(lines, None)
        if not header:
            raise ValueError(f"{path}: the file is empty; a header line is needed")
        self.names = header

    def check_type(self, name: str, kind: str) -> None:
        """Accept any column for any type: cells are texts."""

    def hint(self) -> str:
        """Say what may be wrong with a header that lacks columns, at the end of a message."""
        for other, called in _SEPARATORS.items():
            if len(self.names) == 1 and other != self._separator and other in self.names[0]:
                return (
                    f" (the header looks as if separated by {called}, not by "
                    f"{_SEPARATORS.get(self._separator, repr(self._separator))}: give that "
                    "separator)"
                )
        return ""

    def blocks(
        self, names: Sequence[str], block_rows: int
    ) -> Iterator[tuple[Sequence[int], list[tuple[Sequence[str], None]]]]:
        """Read the rows that are left: the line that each begins at, and cells by columns."""
        order = [self.names.index(name) for name in names]
        rows: list[list[str]] = []
        starts: list[int] = []
        following = self._lines.line_num + 1
        for row in self._lines:
            start, following = following, self._lines.line_num + 1
            if not row:
                if len(self.names) > 1:
                    continue  # a blank line holds no row
                row = [""]  # but of one column it is how most programs write an empty cell
            if len(row) != len(self.names):
                raise ValueError(
                    f"{self._path}: line {self._lines.line_num}: {len(row)} cell(s), but the "
                    f"header has {len(self.names)}"
                )
            rows.append(row)
            starts.append(start)
            if len(rows) == block_rows:
                yield starts, _columns(rows, order)
                rows, starts = [], []
        if rows:
            yield starts, _columns(rows, order)


def _columns(
    rows: Sequence[Sequence[str]], order: Sequence[int]
) -> list[tuple[Sequence[str], None]]:
    cells = list(zip(*rows, strict=True))
    return [(cells[where], None) for where in order]


_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@contextmanager
def opened(path: object, raw: IO[bytes], separator: str, encoding: str) -> Iterator[CsvTable]:
    """Read an open file as CSV; what is wrong with it, or how to read it, becomes a ValueError."""
    if not isinstance(separator, str) or len(separator) != 1 or separator in '"\r\n':
        raise ValueError(
            "separator must be one character that is no quote and ends no line; "
            f"got {_arrays.describe(separator)}"
        )
    codec = _codec(encoding)
    with contextlib.ExitStack() as stack:
        unpacked: Any = raw
        head = raw.peek(16)  # type: ignore[attr-defined] # of a buffered file
        # The magic of gzip is no text either: no table begins so.
        if head[:2] == b"\x1f\x8b" or is_named_gzip(path):
            unpacked = stack.enter_context(gzip.GzipFile(fileobj=raw))
        text = stack.enter_context(io.TextIOWrapper(unpacked, encoding=codec, newline=""))
        lines = csv.reader(text, strict=True, delimiter=separator)
        try:
            yield CsvTable(path, lines, separator)
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


# -------------------------------------------------------------------------------------- writing


def write(df: pd.DataFrame, handle: Any, *, packed: bool) -> None:
    """Write a table as UTF-8 CSV to an open binary file, by gzip if it is to be packed."""
    if not packed:
        write_text(df, handle)
        return
    # No file name and no time of writing in the header, so that bytes are reproducible.
    with gzip.GzipFile(filename="", mode="wb", fileobj=handle, mtime=0) as packer:
        write_text(df, packer)


def write_text(df: pd.DataFrame, handle: Any) -> None:
    """Write a table as UTF-8 CSV to an open binary file."""
    df = df.copy(deep=False)
    for i, dtype in enumerate(df.dtypes):
        if isinstance(dtype, np.dtype) and dtype.kind == "M":
            df.isetitem(i, _iso_text(df.iloc[:, i].to_numpy()))
        elif isinstance(dtype, np.dtype) and dtype.kind == "f" and _all_whole(df.iloc[:, i]):
            df.isetitem(i, df.iloc[:, i].astype("float64").astype("Int64").array)  # 100, not 100.0
    # The writer quotes a carriage return only where it is part of the line's end.
    texts = [
        pd.Series(df.columns),
        *(df.iloc[:, i] for i, t in enumerate(df.dtypes) if not pd.api.types.is_numeric_dtype(t)),
    ]
    # Distinct values by Python's equality: to pandas, texts that are alike up to a NUL are equal.
    returns = any("\r" in str(value) for column in texts for value in dict.fromkeys(column))
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
