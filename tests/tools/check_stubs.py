"""Compare the stubs of the extension with what pybind11-stubgen makes of it, or write them anew.

python tests/tools/check_stubs.py            exit 1 and show the difference if they drifted
python tests/tools/check_stubs.py --write    update python/dpslice/_core.pyi
"""

from __future__ import annotations

import difflib
import subprocess
import sys
import tempfile
from pathlib import Path

STUB = Path(__file__).resolve().parents[2] / "python" / "dpslice" / "_core.pyi"


def generated() -> str:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [
                *(sys.executable, "-m", "pybind11_stubgen", "dpslice._core"),
                *("--output-dir", folder, "--exit-code", "--numpy-array-use-type-var"),
            ],
            check=True,
        )
        return (Path(folder) / "dpslice" / "_core.pyi").read_text(encoding="utf-8")


def main() -> int:
    fresh = generated()
    if "--write" in sys.argv[1:]:
        STUB.write_text(fresh, encoding="utf-8")
        return 0
    committed = STUB.read_text(encoding="utf-8") if STUB.exists() else ""
    difference = list(
        difflib.unified_diff(
            committed.splitlines(), fresh.splitlines(), str(STUB), "generated", lineterm=""
        )
    )
    print("\n".join(difference) or f"{STUB.name} is up to date")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
