"""The CUDA kernels under nvcc: they compile, keep to their budgets, link, and import anywhere."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from emulated_cuda import ROOT, load

cuda_budget = load(ROOT / "tests" / "tools" / "cuda_budget.py", "cuda_budget")

REPORT = """\
ptxas info    : Compiling entry function '_ZN7dpslice4cuda10sum_kernelIfLi2EEEvPd' for 'sm_90'
ptxas info    : Function properties for _ZN7dpslice4cuda10sum_kernelIfLi2EEEvPd
    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 2048 bytes smem
ptxas info    : Compiling entry function '_ZN3cub10CUB_SM_9006kernelIiEEvT_' for 'sm_90'
ptxas info    : Used 50 registers, used 1 barriers
"""


@pytest.mark.skipif(shutil.which("c++filt") is None, reason="c++filt is not installed")
def test_the_report_is_read() -> None:
    found = cuda_budget.usage(REPORT)
    assert found == {"sum_kernel<float, 2>": {"registers": 40, "spilled": 12, "shared": 2048}}
    assert cuda_budget.excesses(found, found) == []
    less = {"sum_kernel<float, 2>": {"registers": 39, "spilled": 12, "shared": 2048}, "gone": {}}
    assert cuda_budget.excesses(found, less) == [
        "gone: no such kernel",
        "sum_kernel<float, 2>: 40 registers, budget 39",
    ]
    assert cuda_budget.excesses(found, {}) == ["sum_kernel<float, 2>: no budget"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")
def test_build(tmp_path: Path) -> None:
    """Compiled once for three questions: budgets, linking, and importing without a driver."""
    import pybind11

    objects, report = cuda_budget.compile_kernels(tmp_path)
    budget = json.loads(cuda_budget.BUDGET.read_text(encoding="utf-8"))
    assert cuda_budget.excesses(cuda_budget.usage(report), budget) == []

    toolkit = Path(os.path.realpath(_nvcc_root()))
    includes = [sysconfig.get_paths()["include"], pybind11.get_include(), toolkit / "include"]
    bindings = tmp_path / "bindings.o"
    subprocess.run(
        [
            *("g++", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror"),
            *(f"-isystem{path}" for path in includes),
            *(f"-I{ROOT / 'cuda'}", f"-I{ROOT / 'csrc'}"),
            *("-c", str(ROOT / "cuda" / "bindings.cpp"), "-o", str(bindings)),
        ],
        check=True,
    )
    module = tmp_path / f"_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [
            *("nvcc", "-shared", "-cudart=static", f"-arch={cuda_budget.ARCHITECTURE}"),
            *map(str, [*objects, bindings]),
            *("-o", str(module)),
        ],
        check=True,
    )
    needed = subprocess.run(["ldd", str(module)], capture_output=True, text=True, check=True).stdout
    assert "libcuda" not in needed
    code = (
        "import _cuda\n"
        "if _cuda.device_count() == 0:\n"
        "    try:\n"
        "        _cuda.median_distance('float32', 0, 0, lambda size: 0, 1, 2, 1, 0, 0)\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
        "else:\n"
        "    print('is there an NVIDIA driver?')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "is there an NVIDIA driver?" in done.stdout


def _nvcc_root() -> str:
    """Ask nvcc where its toolkit is: the command on the path may be a link or a wrapper."""
    done = subprocess.run(
        ["nvcc", "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True
    )
    for line in done.stderr.splitlines():
        if line.startswith("#$ TOP="):
            return line.removeprefix("#$ TOP=")
    raise RuntimeError(f"nvcc did not name its toolkit:\n{done.stderr}")
