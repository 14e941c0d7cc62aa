"""Instructions that each kernel executes on a fixed small case, against the committed counts.

    python bench/instructions.py            compare; fails where a count is off by more than 5 %
    python bench/instructions.py --write    measure anew and write instructions.json

Wall time on a shared machine says little; the number of instructions, counted by callgrind, does
not depend on the load. It depends on the compiler: counts are kept by compiler and version, and
without one of this build's, or without valgrind, nothing is compared and that is said.

Callgrind counts only what runs inside libc's `qsort_r`, to which `qsort` leads: each case is run by
the one comparison that sorting two numbers takes. Python and NumPy around it are thereby left out.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from dpslice import _core, kernels

COUNTS = Path(__file__).with_suffix(".json")
TOLERANCE = 0.05
GATE = "qsort_r"
ISAS = ("baseline", "avx2")  # what valgrind can run everywhere; it knows no AVX-512

Case = Callable[[], object]


def cases() -> dict[str, Case]:
    """Kernels forward and backward, some million instructions each: float32, one thread."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        return rng.standard_normal(shape, dtype=np.float32)

    # Small k goes by differences, large k by products: both are counted.
    few, many = (normal(2, 160, 2), normal(2, 160, 2)), (normal(1, 160, 32), normal(1, 160, 32))
    rows, frame = normal(256, 48), normal(48, 48)
    values = normal(8, 500), normal(8, 500)
    found: dict[str, Case] = {}
    for name, (x, y) in (("k=2", few), ("k=32", many)):
        m, b, _ = x.shape
        g = np.full(m, 1.0 if name == "k=2" else 6.0, dtype=np.float32)
        up, logs = normal(m, b), kernels.gaussian_kernel_logsumexp(x, y, g)
        given = (0.1, 0.0)  # ridge, sigma
        ratio = kernels.density_ratio(x, y, g, *given)
        found |= {
            f"{kernel} {name}": partial(getattr(_core, kernel), *arguments)
            for kernel, arguments in {
                "gaussian_kernel_sum": (x, y, g, None),
                "gaussian_kernel_sum_vjp": (x, y, g, None, up, True, True, False),
                "gaussian_kernel_sum_total": (x, y, g, None, up, True, False),
                "gaussian_kernel_logsumexp": (x, y, g, None),
                "gaussian_kernel_logsumexp_vjp": (x, y, g, None, logs, up, True, True, False),
                "gaussian_kernel_logsumexp_total": (x, y, g, None, up, True, False),
                "density_ratio": (x, y, g, *given),
                "density_ratio_vjp": (x, y, g, *given, ratio, up, True, True),
                # Of the KL divergence, with the gradient.
                "density_ratio_divergence": (x, y, g[None], *given, 0, 0.0, 1e-6, True),
                "median_distance": (x,),
            }.items()
        }
    double = frame.astype(np.float64)
    # Private rows of which some span the others.
    many_rows, synthetic, g = normal(1, 320, 2), normal(1, 40, 2), np.full((1, 1), 1.7, np.float32)
    found |= {
        "density_ratio_divergence b=320": partial(
            _core.density_ratio_divergence,
            *(many_rows, synthetic, g, 0.01, 0.0, 0, 0.0, 1e-6, True),
        ),
        "project fast": partial(_core.project_fast, rows, frame, 0.5, (1, 2), 0),
        "project secure": partial(
            _core.project_secure, rows, double, 0.5, bytes(32), 0, np.inf, "float32"
        ),
        "bounded_rows": partial(_core.bounded_rows, rows, 1.0, 2.0**-22),
        "kernel_feature_sums": partial(
            _core.kernel_feature_sums,
            rng.standard_normal((64, 4, 2)),
            rng.standard_normal((4, 33, 2)),
            np.full(4, -0.7),
            2.0**30,
            2.0**30,
        ),
        "sliced_wasserstein": partial(_core.sliced_wasserstein, *values, 2.0),
        "sliced_wasserstein_gradient": partial(
            _core.sliced_wasserstein_gradient, *values, 2.0, True, True
        ),
    }
    return found


def _dumps(folder: Path) -> list[int]:
    """Numbers of the dumps that callgrind has written so far: out.1, out.2, ..."""
    suffixes = [path.suffix[1:] for path in folder.glob("out.*")]
    return sorted(int(suffix) for suffix in suffixes if suffix.isdigit())


def run_cases(isa: str, folder: Path) -> None:
    """Run every case inside the gate, once to warm up outside it; what valgrind is put around.

    Prints the number of each case's dump, for others may sort, too.
    """
    _core.set_isa(isa)
    _core.set_num_threads(1)
    libc = ctypes.CDLL(None)
    comparison = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    two = (ctypes.c_int * 2)(0, 0)
    item = ctypes.c_size_t(ctypes.sizeof(ctypes.c_int))
    numbers = {}
    for name, case in cases().items():
        case()

        def compare(a: object, b: object, case: Case = case) -> int:
            case()
            return 0

        libc.qsort(two, ctypes.c_size_t(2), item, comparison(compare))
        numbers[name] = _dumps(folder)[-1]
    print(json.dumps(numbers))


def measure(isa: str) -> dict[str, int]:
    """Instructions of every case with one instruction set."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={folder}/out",
            f"--toggle-collect={GATE}",
            f"--dump-after={GATE}",
            sys.executable,
            __file__,
            "--run",
            isa,
            folder,
        ]
        # The seed of Python's hashes decides how its dictionaries lie.
        environment = {
            **os.environ,
            "PYTHONHASHSEED": "0",
            "PYTHONMALLOC": "malloc",
            "OPENBLAS_NUM_THREADS": "1",
        }
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if ran.returncode != 0:
            raise SystemExit(f"valgrind failed ({ran.returncode}):\n{ran.stderr[-3000:]}")
        counts = {}
        for name, number in json.loads(ran.stdout.splitlines()[-1]).items():
            text = Path(f"{folder}/out.{number}").read_text()
            found = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
            if found is None:
                raise SystemExit(f"callgrind counted nothing for {name}, {isa}")
            counts[name] = int(found.group(1))
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--write", action="store_true", help="replace the counts of this compiler")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_cases(args.run[0], Path(args.run[1]))
        return 0

    compiler = str(_core.build_config()["compiler"])
    known = json.loads(COUNTS.read_text()) if COUNTS.exists() else {}
    if shutil.which("valgrind") is None:
        print("instructions: skipped, there is no valgrind")
        return 0
    isas = [isa for isa in ISAS if isa in _core.available_isas()]
    if not isas:
        print("instructions: skipped, this processor has none of " + ", ".join(ISAS))
        return 0
    if not args.write and compiler not in known:
        print(f"instructions: skipped, no counts for {compiler}; there are for {', '.join(known)}")
        return 0

    wrong = 0
    expected = known.get(compiler, {})
    for isa in isas:
        found = measure(isa)
        for name, count in found.items():
            before = expected.get(isa, {}).get(name)
            change = None if before is None else count / before - 1
            off = not args.write and (change is None or abs(change) > TOLERANCE)
            wrong += off
            told = "new" if change is None else f"{change:+.1%}"
            print(f"{isa:9} {name:38} {count:>12,} {told:>8}{'  <-- off' if off else ''}")
        expected[isa] = found
    if args.write:
        COUNTS.write_text(json.dumps({**known, compiler: expected}, indent=1) + "\n")
        print(f"instructions: written for {compiler}")
        return 0
    if wrong:
        print(
            f"instructions: {wrong} counts differ by more than {TOLERANCE:.0%}; if that is meant, "
            "run bench/instructions.py --write"
        )
        return 1
    print(f"instructions: as committed for {compiler}, within {TOLERANCE:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
