"""The command ``dpslice``: its entry point and its way of failing.

Exit codes: 0 success; 1 an error in files, data or values, told in one line; 2 wrong usage (unknown
command or option, missing argument), or the extra ``tabular`` is not installed; 130 Ctrl-C or
SIGTERM, which ends a command in the same way: with its checkpoint, and without half a file.

The commands are in `dpslice._commands`, which needs Typer; this module needs only the standard
library, so that a bare installation can say what is missing.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

__all__ = ["main"]

USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Arguments after the program's name. Default: those of the process.

    Returns
    -------
    int
        The exit code.
    """
    # Threads that wait actively starve one another wherever cores are shared: training on a busy
    # two-core machine took five times as much processor time. Read when torch loads its OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        for package in ("typer", "rich", "pandas"):
            importlib.import_module(package)
    except ModuleNotFoundError as error:
        print(
            f"error: the command line needs {error.name}, which is not installed: "
            "pip install 'dpslice[tabular]'",
            file=sys.stderr,
        )
        return USAGE_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    from dpslice._commands import app

    # Schedulers and containers end a job by SIGTERM, also one that ignores SIGINT, as jobs in a
    # shell's background do.
    before: Any = None
    if threading.current_thread() is threading.main_thread():
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="dpslice")
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    finally:
        if before is not None:  # None: not there, or not Python's to put back
            signal.signal(signal.SIGTERM, before)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main())
