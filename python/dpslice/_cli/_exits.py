"""Exit codes, 0 being success; and an end of the command before any code of its own can run."""

from __future__ import annotations

import os
import sys
from typing import Final

FAILED: Final = 1
USAGE_ERROR: Final = 2
INTERRUPTED: Final = 130  # 128 + SIGINT, as shells report it


def end_command(error: Exception) -> None:
    """End the process with one line, if it is the command ``dpslice``; else return.

    For errors while the package is imported, which happens before `dpslice.cli` can catch them. A
    program that imports dpslice gets the error itself.
    """
    arguments = getattr(sys, "argv", None) or [""]  # a program that embeds Python may set none
    started = arguments[0]
    if started == "-m":  # so it stands while `python -m` looks for the module, and imports this
        started = sys.orig_argv[-len(arguments)].removeprefix("-m").split(".")[0]
    if os.path.basename(started) == "dpslice":
        raise SystemExit(f"error: {error}") from None  # printed to standard error; FAILED
