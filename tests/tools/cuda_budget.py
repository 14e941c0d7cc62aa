"""What nvcc reports of each of our CUDA kernels, and the committed budgets that it must keep to.

python tests/tools/cuda_budget.py            compile for sm_90, exit 1 if a kernel needs more
python tests/tools/cuda_budget.py --write    commit to what they need now: tests/cuda_budget.json
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUDGET = ROOT / "tests" / "cuda_budget.json"
ARCHITECTURE = "sm_90a"

# registers of a thread; bytes of a thread that do not fit them; bytes of static shared memory
Usage = dict[str, int]


def compile_kernels(folder: Path) -> tuple[list[Path], str]:
    """Compile every file of cuda/ with nvcc; return the objects and what ptxas said.

    As many at a time as there are processors.
    """
    sources = sorted((ROOT / "cuda").glob("*.cu"))

    def compile_one(source: Path) -> tuple[Path, str]:
        to = folder / f"{source.stem}.o"
        done = subprocess.run(
            [
                *("nvcc", "-std=c++17", "-O3", f"-arch={ARCHITECTURE}", "-Xptxas=-v"),
                *("-Xcompiler=-fPIC,-Wall,-Wextra", "-Werror=all-warnings"),
                *(f"-I{ROOT / 'cuda'}", f"-I{ROOT / 'csrc'}", "-c", str(source), "-o", str(to)),
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode != 0:
            raise RuntimeError(f"nvcc failed on {source.name}:\n{done.stdout}{done.stderr}")
        return to, done.stdout + done.stderr

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compiled = list(pool.map(compile_one, sources))
    return [to for to, _ in compiled], "".join(report for _, report in compiled)


def kernel_name(mangled: str) -> str:
    """Demangle, and leave out parameters, namespaces and the file's hash."""
    demangled = subprocess.run(
        ["c++filt", mangled], capture_output=True, text=True, check=True
    ).stdout.strip()
    name = re.sub(r"_GLOBAL__N__\w+::|\(anonymous namespace\)::|dpslice::|cuda::", "", demangled)
    name = name.removeprefix("void ")
    depth = 0
    for place, letter in enumerate(name):  # the parameters begin outside of any <...>
        depth += {"<": 1, ">": -1}.get(letter, 0)
        if letter == "(" and depth == 0:
            return name[:place]
    return name


def usage(report: str) -> dict[str, Usage]:
    """Read ptxas's report: kernel -> what it uses; those of CUB are its own affair."""
    found: dict[str, Usage] = {}
    name = ""
    spilled = 0
    for line in report.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            name = kernel_name(match[1])
        elif match := re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", line):
            spilled = int(match[1]) + int(match[2])
        elif match := re.search(r"Used (\d+) registers", line):
            shared = re.search(r"(\d+) bytes smem", line)
            found[name] = {
                "registers": int(match[1]),
                "spilled": spilled,
                "shared": int(shared[1]) if shared else 0,
            }
    return {name: used for name, used in found.items() if not name.startswith("cub::")}


def excesses(found: dict[str, Usage], budget: dict[str, Usage]) -> list[str]:
    """Tell what exceeds its budget, has none, or has one for nothing."""
    lines = [f"{name}: no budget" for name in sorted(found.keys() - budget.keys())]
    lines += [f"{name}: no such kernel" for name in sorted(budget.keys() - found.keys())]
    for name in sorted(found.keys() & budget.keys()):
        lines += [
            f"{name}: {found[name][what]} {what}, budget {limit}"
            for what, limit in budget[name].items()
            if found[name][what] > limit
        ]
    return lines


def main() -> int:
    if shutil.which("nvcc") is None:
        print("nvcc is not installed: nothing to compare")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = usage(compile_kernels(Path(folder))[1])
    if "--write" in sys.argv[1:]:
        BUDGET.write_text(json.dumps(found, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    lines = excesses(found, json.loads(BUDGET.read_text(encoding="utf-8")))
    print("\n".join(lines) or f"{len(found)} kernels keep to their budgets")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
