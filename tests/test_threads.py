"""Threads of the kernels, and what a fork leaves of them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys

import pytest

import dpslice
from dpslice import _core

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


@pytest.mark.parametrize(
    ("variable", "threads"), [("3", 3), ("5,2", 5), (" 2 , 3", 2), (None, None)]
)
def test_threads_at_start(variable: str | None, threads: int | None) -> None:
    """As many as OMP_NUM_THREADS says first, else as processors: with OpenMP and without."""
    if threads is None:
        if not hasattr(os, "sched_getaffinity"):
            pytest.skip("Python does not know which processors this process may use")
        threads = len(os.sched_getaffinity(0))
    assert _threads_with(variable) == threads


@pytest.mark.parametrize("variable", ["", "0", "-1", "many", "4x"])
def test_what_is_no_number_of_threads_is_ignored(variable: str) -> None:
    assert _threads_with(variable) == _threads_with(None)


def _threads_with(variable: str | None) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    if variable is not None:
        environment["OMP_NUM_THREADS"] = variable
    code = "import dpslice; print(dpslice.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


_COUNTS = """
import os, threading
import numpy as np
import dpslice
from dpslice import kernels

x = np.random.default_rng(0).normal(size=(2, 4000, 3))
dpslice.set_num_threads(1)
kernels.gaussian_kernel_sum(x, x, 1.0)
done, seen = threading.Event(), []

def watch():
    while not done.is_set():
        seen.append(len(os.listdir("/proc/self/task")))

watcher = threading.Thread(target=watch)
watcher.start()
before = len(os.listdir("/proc/self/task"))
dpslice.set_num_threads(4)
kernels.gaussian_kernel_sum(x, x, 1.0)
done.set()
watcher.join()
print(max(seen) - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_kernel_runs_in_as_many_threads_as_were_set() -> None:
    done = subprocess.run([sys.executable, "-c", _COUNTS], capture_output=True, text=True)
    assert done.stdout == "3\n", done.stderr


# Stacks so large that there is room for a few.
_NO_MORE = """
import ctypes, resource
import numpy as np
import dpslice
from dpslice import kernels

x = np.random.default_rng(0).normal(size=(64, 300, 2))
dpslice.set_num_threads(1)
expected = kernels.gaussian_kernel_sum(x, x, 1.0)
libc = ctypes.CDLL(None)
attributes = ctypes.create_string_buffer(256)
assert libc.pthread_attr_init(attributes) == 0
assert libc.pthread_attr_setstacksize(attributes, ctypes.c_size_t(2**30)) == 0
assert libc.pthread_setattr_default_np(attributes) == 0
with open("/proc/self/statm") as statm:
    mapped = int(statm.read().split()[0]) * resource.getpagesize()
limit = mapped + 5 * 2**29
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
dpslice.set_num_threads(32)
print(np.array_equal(kernels.gaussian_kernel_sum(x, x, 1.0), expected))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory of a process")
@pytest.mark.skipif(
    _core.build_config()["openmp"] is not None, reason="OpenMP ends the process, or does not tell"
)
def test_where_no_more_threads_start_there_are_fewer() -> None:
    done = subprocess.run([sys.executable, "-c", _NO_MORE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
