"""The command ``dpslice``: its entry point and its way of failing.

Exit codes: 0 success; 1 an error in files, data or values, told in one line; 2 wrong usage (unknown
command or option, missing argument), or the extra ``tabular`` is not installed; 130 Ctrl-C, SIGTERM
or SIGHUP, which end a command in the same way: with its checkpoint, and without half a file.

The commands are in `dpslice._cli`, which needs Typer; this module needs only the standard library,
so that a bare installation can say what is missing.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Any

from dpslice._cli._exits import FAILED, INTERRUPTED, USAGE_ERROR

__all__ = ["main"]


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
    _settle_streams()
    # Threads that wait actively starve one another wherever cores are shared: training on a busy
    # two-core machine took five times as much processor time. Read when torch loads its OpenMP.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        for package in ("typer", "rich"):
            importlib.import_module(package)
        # Found, not imported: that takes as long as all else, and a help text needs none of it.
        if importlib.util.find_spec("pandas") is None:
            raise ModuleNotFoundError(name="pandas")
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
    from dpslice._cli._commands import app

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        # Schedulers and containers end a job by SIGTERM, also one that ignores SIGINT, as jobs in a
        # shell's background do.
        before[signal.SIGTERM] = signal.signal(signal.SIGTERM, signal.default_int_handler)
        # A terminal that is closed sends SIGHUP; nohup has it ignored.
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            before[signal.SIGHUP] = signal.signal(signal.SIGHUP, _terminate)
    try:
        app(args=None if arguments is None else list(arguments), prog_name="dpslice")
        code = os.EX_OK
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except OSError as error:  # of a help text: commands tell of their own
        code = _output_lost(error)
    finally:
        for which, handler in before.items():
            if handler is not None:  # None: not Python's to put back
                signal.signal(which, handler)
    try:
        if sys.stdout is not None and not sys.stdout.closed:
            sys.stdout.flush()  # now, while it can still be told that this failed
    except OSError as error:
        code = code or _output_lost(error)
        # What is left in the buffer would be tried, and told of, again as the interpreter ends.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
    # CPython remembers that Ctrl-C interrupted code run from a string (dataclasses are made that
    # way); `python -m` would then end the process by SIGINT, although the exception was handled.
    # Running another string makes it forget.
    exec("")
    return code


def _settle_streams() -> None:
    """Make the standard streams such as can be written to without a thought."""
    # A file that is opened while one of them is closed would take its place, and what libraries in
    # C have to say would be written into it.
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stderr is None:  # `print` would take standard output instead
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 -- until the end
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Names of columns and files may hold what an encoding lacks (PYTHONIOENCODING=ascii).
            stream.reconfigure(errors="backslashreplace")


def _terminate(*_: object) -> None:
    # As whoever waits for SIGTERM (training, which saves a checkpoint) will want to know of it.
    signal.raise_signal(signal.SIGTERM)


def _output_lost(error: OSError) -> int:
    if not isinstance(error, BrokenPipeError):  # then the reader has had enough
        print(
            f"error: standard output could not be written: {error.strerror or error}",
            file=sys.stderr,
        )
    return FAILED


if __name__ == "__main__":
    sys.exit(main())
