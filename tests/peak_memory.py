"""Source of `peak()`, for processes that tests start: most bytes that were resident so far.

Tests that use it are marked `reads_proc`.
"""

from __future__ import annotations

import sys

import pytest

reads_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")

# Not ru_maxrss: that begins where the process was that started this one, perhaps above all of it.
PEAK = """
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
"""
