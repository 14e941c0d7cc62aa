"""Run the benchmarks and write their report to bench/results.

    python bench/run.py            everything, about ten minutes on two cores
    python bench/run.py --quick    a smoke run, under a minute; the report goes nowhere
    python bench/run.py -k density_ratio       further arguments are pytest's

The benchmarks run in a process of its own, in surroundings that favour nobody: OpenBLAS chooses its
own kernels, threads wait passively. Peers that are not installed are skipped, with the reason.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    arguments = sys.argv[1:]
    environment = {**os.environ, "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "passive")}
    # Set for other programs' sake on some machines; it may name an older processor than this.
    environment.pop("OPENBLAS_CORETYPE", None)
    # KeOps looks for this one, and finds no OpenMP with other compilers.
    environment.setdefault("CXX", "g++")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder) / "raw.json"
        command = [sys.executable, "-m", "pytest", str(HERE), "-q", "-rs", "-W", "default"]
        # From the second one on, a row of a group says how it compares with the fastest.
        options = ["--benchmark-columns=min,median,rounds", f"--benchmark-json={raw}"]
        ran = subprocess.run(
            [*command, *options, *arguments], env=environment, cwd=HERE.parent, check=False
        )
        if not raw.exists() or raw.stat().st_size == 0:
            return ran.returncode or 1
        target = Path(folder) if "--quick" in arguments else HERE / "results"
        report = [sys.executable, str(HERE / "summarise.py"), str(raw), "--out", str(target)]
        written = subprocess.run(report, env=environment, check=False)
    return ran.returncode or written.returncode


if __name__ == "__main__":
    sys.exit(main())
