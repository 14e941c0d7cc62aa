"""Threads of the kernels, and what a fork leaves of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

import dpslice

_FORKS = """
import os, sys
import numpy as np
import dpslice
from dpslice import kernels

x = np.random.default_rng(0).normal(size=(8, 300, 2))
dpslice.set_num_threads(2)
before = kernels.gaussian_kernel_sum(x, x, 1.0)
child = os.fork()
if child == 0:
    same = np.array_equal(kernels.gaussian_kernel_sum(x, x, 1.0), before)
    os._exit(0 if same and dpslice.get_num_threads() == 1 else 1)
_, status = os.waitpid(child, 0)
assert dpslice.get_num_threads() == 2
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_kernels_work_in_a_forked_child() -> None:
    """OpenMP would wait there for ever for threads that only the parent has."""
    process = subprocess.Popen([sys.executable, "-c", _FORKS], start_new_session=True)
    try:
        assert process.wait(timeout=120) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the child too, should it wait for ever


def test_bad_numbers_of_threads_are_refused() -> None:
    before = dpslice.get_num_threads()
    for number, error in (
        (0, ValueError),
        (2**31, ValueError),
        (2**70, ValueError),
        (1.5, TypeError),
    ):
        with pytest.raises(error, match="threads must be an integer"):
            dpslice.set_num_threads(number)  # type: ignore[arg-type]
    assert dpslice.get_num_threads() == before
