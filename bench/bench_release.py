"""A release of rows that lie in a file: time, and memory beyond what was there before.

The peers neither clip nor shuffle nor protect; they show what the projection alone costs. Released
rows come in random order, so columns' means are what is compared. Peak memory is anonymous memory,
sampled in a process of its own: the output counts, the mapped file does not.

    python bench/bench_release.py NAME FILE N D     prints the peak, in bytes
"""

from __future__ import annotations

import atexit
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import dpslice
import peers
from bench_project import project_counts
from harness import (
    NAIVE,
    OURS,
    OURS_TWO,
    Case,
    Contender,
    Group,
    Replay,
    parameters,
    two_threads,
)

SIGMA = 0.3
MEAN = 0.05


def _open(path: str, n: int, d: int) -> Any:
    # Copy on write: torch takes no read-only arrays.
    return np.memmap(path, dtype=np.float32, mode="c", shape=(n, d))


def _calls(path: str, n: int, d: int) -> dict[str, Callable[[], Any]]:
    rows = _open(path, n, d)
    mechanism = dpslice.SlicingMechanism(sigma=SIGMA, delta=1e-6, seed=0)
    frame = dpslice.SlicingMechanism(sigma=SIGMA, delta=1e-6, seed=0).release(rows[:1]).frame
    single = np.asarray(frame, dtype=np.float32)
    return {
        OURS: lambda: mechanism.release(rows).projections,
        NAIVE: lambda: peers.release_torch(rows, single, SIGMA),
        "NumPy": lambda: peers.release(rows, single, SIGMA),
        "frame": lambda: frame,
    }


def build(n: int, d: int) -> Group:
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = str(Path(folder) / "rows")
    rng = np.random.default_rng(0)
    rows = np.memmap(path, dtype=np.float32, mode="w+", shape=(n, d))
    total = np.zeros(d)
    for start in range(0, n, 1 << 16):
        size = min(1 << 16, n - start)
        block = MEAN + 0.03 * rng.standard_normal((size, d), dtype=np.float32)
        rows[start : start + size] = block
        total += block.sum(0, dtype=np.float64)
    rows.flush()
    del rows
    calls = _calls(path, n, d)

    def contender(name: str, **options: bool) -> Callable[[], Contender]:
        def peak() -> dict[str, float]:
            command = [sys.executable, __file__, name, path, str(n), str(d)]
            printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            return {"peak_bytes": float(printed), "output_bytes": 4.0 * n * d}

        def checked() -> dict[str, Any]:
            return {"value": calls[name]().mean(0, dtype=np.float64)}

        return lambda: Contender(
            calls[name], checked=checked, facts=peak if n >= 1_000_000 else None, **options
        )

    return Group(
        contenders={
            OURS: contender(OURS),
            OURS_TWO: lambda: two_threads(replace(contender(OURS)(), facts=None)),
            NAIVE: contender(NAIVE, default_malloc=True),
            "NumPy": contender("NumPy", default_malloc=True),
        },
        truth={"value": (total / n) @ calls["frame"]()},
        # The mean of the noise: SIGMA / sqrt(n) beside MEAN, five times.
        tolerance={"value": 5 * SIGMA / n**0.5 / MEAN},
        counts=project_counts(n, d, d, "secure"),
    )


ALL = (OURS, OURS_TWO, NAIVE, "NumPy")
CASES = [
    Case("release", (("n", 20_000), ("d", 94)), build, (OURS, NAIVE), quick=True, series="n"),
    Case("release", (("n", 100_000), ("d", 94)), build, (OURS, NAIVE), series="n"),
    Case("release", (("n", 1_000_000), ("d", 94)), build, ALL),
]


@parameters(CASES)
def test_release(case: Case, contender: str, replay: Replay) -> None:
    replay(case, contender)


# --------------------------------------------------------------------------------- peak memory


def _anonymous() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no RssAnon")


def _peak(call: Callable[[], Any]) -> int:
    before = peak = _anonymous()
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    kept = call()
    peak = max(peak, _anonymous())
    done.set()
    watcher.join()
    del kept
    return peak - before


if __name__ == "__main__":
    if sys.platform != "linux":
        sys.exit("peaks are read from /proc, which Linux alone has")
    name, path, n, d = sys.argv[1:]
    calls = _calls(path, int(n), int(d))
    print(_peak(calls[name]))
