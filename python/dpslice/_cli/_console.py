"""What the command line writes: results to standard output, everything else to standard error.

A program reads standard output: the text of a result, or one JSON document. Progress bars, remarks
and errors go to standard error, so that a pipe never carries them.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

# -------------------------------------------------------------------------------------- results


def print_json(document: Mapping[str, Any]) -> None:
    """Write one JSON document to standard output; an infinite number as the text ``inf``."""
    print(json.dumps(_json_safe(document), indent=2, allow_nan=False))


def _json_safe(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _json_safe(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_safe(item) for item in value]
    return value


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table to standard output: the first column to the left, others to the right."""
    lines = [header, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("   ".join(cells).rstrip())


# ------------------------------------------------------------------------------------- progress


def remark(text: str, *, quiet: bool = False) -> None:
    """Write a line to standard error, unless `quiet`."""
    if quiet or sys.stderr is None:  # None, if it is closed: `print` would take standard output
        return
    # Nobody to tell: a terminal that was closed, a full disk. The work itself goes on.
    with suppress(OSError):
        print(text, file=sys.stderr)


@contextmanager
def rows_progress(
    description: str, *, quiet: bool, counted: bool = True
) -> Iterator[Callable[[int], None]]:
    """Show how many rows are done, as the callable is told; how many there will be is not known.

    Not `counted`, where their number is protected: it is not shown then, and neither is the time,
    which grows with it.
    """
    count = [TextColumn("{task.completed:,.0f} rows"), TimeElapsedColumn()] if counted else []
    with _progress(SpinnerColumn(), TextColumn("{task.description}"), *count, quiet=quiet) as bar:
        task = bar.add_task(description, total=None)
        yield lambda rows: bar.update(task, completed=rows)


@contextmanager
def steps_progress(
    description: str, *, total: int, quiet: bool
) -> Iterator[Callable[[int, float], None]]:
    """Show a bar of training steps: the callable is told how many are done, and the last loss."""
    with _progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, loss {task.fields[loss]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        quiet=quiet,
    ) as bar:
        task = bar.add_task(description, total=total, loss="-")
        yield lambda step, loss: bar.update(task, completed=step, loss=f"{loss:.4g}")


class _Lenient:
    """A stream whose terminal may be gone: the work that a bar tells of goes on all the same."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._stream.flush()


@contextmanager
def _progress(*columns: Any, quiet: bool) -> Iterator[Progress]:
    console = Console(file=cast(IO[str], _Lenient(sys.stderr)))
    # In a log file a bar would be a clutter of lines.
    bar = Progress(*columns, console=console, disable=quiet or not console.is_terminal)
    # A bar that shows nothing is not started: rich 13 would write an empty line at its end.
    with nullcontext() if bar.disable else bar:
        yield bar
