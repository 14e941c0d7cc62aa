"""Compare the stubs of the extension with what pybind11-stubgen makes of it, or write them anew.

python tests/tools/check_stubs.py            exit 1 and show the difference if they drifted
python tests/tools/check_stubs.py --write    update python/dpslice/_core.pyi
python tests/tools/check_stubs.py --cuda     _cuda.pyi instead, with --write or without: of the CUDA
                                             kernels as compiled for the CPU, in a minute or two
"""

from __future__ import annotations

import difflib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "python" / "dpslice"


def core_stub(folder: Path) -> str:
    """Make the stub of dpslice._core, as it is found."""
    options = ("--exit-code", "--numpy-array-use-type-var")
    return _stub("dpslice._core", folder, *options)


def cuda_stub(folder: Path) -> str:
    """Make the stub of the module that tests/emulated_cuda.py builds."""
    sys.path.insert(0, str(ROOT / "tests"))
    import emulated_cuda

    emulated_cuda.build(folder, flags=("-O0",))  # only its signatures are looked at
    os.environ["PYTHONPATH"] = str(folder)
    return _stub("_cuda", folder)


def _stub(module: str, folder: Path, *options: str) -> str:
    command = [sys.executable, "-m", "pybind11_stubgen", module, "--output-dir", str(folder)]
    subprocess.run([*command, *options], check=True)
    return (folder / f"{module.replace('.', '/')}.pyi").read_text(encoding="utf-8")


def main() -> int:
    arguments = sys.argv[1:]
    name, generate = ("_cuda", cuda_stub) if "--cuda" in arguments else ("_core", core_stub)
    stub = PACKAGE / f"{name}.pyi"
    with tempfile.TemporaryDirectory() as folder:
        fresh = generate(Path(folder))
    if "--write" in arguments:
        stub.write_text(fresh, encoding="utf-8")
        return 0
    committed = stub.read_text(encoding="utf-8") if stub.exists() else ""
    difference = list(
        difflib.unified_diff(
            committed.splitlines(), fresh.splitlines(), str(stub), "generated", lineterm=""
        )
    )
    print("\n".join(difference) or f"{stub.name} is up to date")
    return 1 if difference else 0


if __name__ == "__main__":
    sys.exit(main())
