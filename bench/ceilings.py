"""What one core of this machine can do at most, measured: the ceilings that kernels are held to.

    python bench/ceilings.py

Each is the best of many short runs, so that a busy machine does not lower it much. The loops are
in ceilings.cpp, compiled here for this processor; without a C++ compiler there are no ceilings.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_name("ceilings.cpp")
ROUNDS = 200_000  # some ten milliseconds of the longest loop
STREAM_BYTES = 1 << 28  # beyond any cache


@dataclass(frozen=True)
class Ceilings:
    """Per second, of one core: float32 operations, exponentials, key stream and stream bytes.

    `flop` is reached by multiply-adds alone, which count two; `lanes` are vector operations of any
    kind, each as many as the lanes of float32 that it works on.
    """

    flop: float
    lanes: float
    exp: float
    key_bytes: float
    read_bytes: float
    write_bytes: float


def _best(call: Callable[[], object], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def measure(repeats: int = 20) -> Ceilings | None:
    """Compile and run the loops; None where there is no compiler."""
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "ceilings.so"
        options = ["-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno"]
        built = subprocess.run(
            [compiler, *options, "-shared", "-fPIC", "-o", str(library), str(SOURCE)], check=False
        )
        if built.returncode != 0:
            return None
        loops = ctypes.CDLL(str(library))
        rounds = ctypes.c_int64(ROUNDS)
        lanes = loops.lanes()
        data = np.ones(STREAM_BYTES // 4, dtype=np.float32)
        pointer = ctypes.c_void_p(data.ctypes.data)
        size = ctypes.c_int64(data.size)
        few = ctypes.c_int64(ROUNDS // 20)
        return Ceilings(
            flop=24 * lanes * ROUNDS / _best(lambda: loops.multiply_adds(rounds), repeats),
            lanes=16 * lanes * ROUNDS / _best(lambda: loops.operations(rounds), repeats),
            exp=8 * lanes * ROUNDS / _best(lambda: loops.exponentials(rounds), repeats),
            key_bytes=64 * lanes * few.value / _best(lambda: loops.key_stream(few), repeats),
            read_bytes=STREAM_BYTES / _best(lambda: loops.read_all(pointer, size), repeats // 2),
            write_bytes=STREAM_BYTES / _best(lambda: loops.write_all(pointer, size), repeats // 2),
        )


if __name__ == "__main__":
    found = measure()
    print("no C++ compiler" if found is None else json.dumps(asdict(found), indent=1))
