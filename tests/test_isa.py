"""Instruction sets: which one runs, how one is forced, and that their code is kept apart."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from dpslice import _core


def run_python(code: str, isa: str | None) -> subprocess.CompletedProcess[str]:
    return run(["-c", code], isa)


def run(arguments: list[str], isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("DPSLICE_ISA", None)
    if isa is not None:
        environment["DPSLICE_ISA"] = isa
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


SHOW = "from dpslice import _core; print(_core.isa())"


def test_best_instruction_set_runs_by_default() -> None:
    found = run_python(SHOW, None)
    assert found.stdout.strip() == _core.available_isas()[-1]


@pytest.mark.parametrize("isa", _core.available_isas())
def test_environment_forces_an_instruction_set(isa: str) -> None:
    assert run_python(SHOW, isa).stdout.strip() == isa


def test_empty_environment_variable_counts_as_unset() -> None:
    assert run_python(SHOW, "").stdout.strip() == _core.available_isas()[-1]


def test_unknown_instruction_set_in_the_environment() -> None:
    kernel = "import numpy as np; from dpslice.kernels import median_distance"
    for code in (SHOW, f"{kernel}; median_distance(np.eye(2)[None])"):
        found = run_python(code, "mmx")
        assert found.returncode != 0
        assert "ValueError: environment variable DPSLICE_ISA: isa must be one of" in found.stderr
        assert "got 'mmx'" in found.stderr


def test_the_command_tells_of_it_in_one_line() -> None:
    pytest.importorskip("typer")
    found = run(["-m", "dpslice", "info"], "mmx")
    known = ", ".join(_core.available_isas())
    expected = f"error: environment variable DPSLICE_ISA: isa must be one of {known}; got 'mmx'\n"
    assert (found.returncode, found.stdout, found.stderr) == (1, "", expected)
    assert run(["-m", "dpslice", "--version"], "mmx").returncode == 0


def test_unknown_instruction_set() -> None:
    before = _core.isa()
    with pytest.raises(ValueError, match=r"isa must be one of .*; got 'altivec'"):
        _core.set_isa("altivec")
    assert _core.isa() == before


def test_fixture_sets_the_instruction_set(isa: str) -> None:
    assert _core.isa() == isa


def test_number_of_threads(keep_threads: None) -> None:
    _core.set_num_threads(3)
    assert _core.num_threads() == 3


# ------------------------------------------------------------------------------------ objects
#
# Each kernel is compiled once for each instruction set. A function that two of these compilations
# emit under one name is kept once by the linker, perhaps with instructions that the machine lacks.
# So whatever a kernel's object lets the linker merge must have the instruction set in its name.


def kernel_objects() -> list[Path]:
    root = Path(__file__).resolve().parents[1]
    builds = [
        root / "build",
        *(root / "build").glob("*"),
        Path(os.environ.get("DPSLICE_BUILD", ".")),
    ]
    return [
        found
        for build in builds
        if build.is_dir()
        for found in build.glob("CMakeFiles/dpslice_*.dir/csrc/*.o")
    ]


def merged_symbols(binary: Path) -> list[str]:
    """Names of functions that the linker may merge with those of other objects (weak, unique)."""
    shown = subprocess.run(
        ["nm", "--defined-only", str(binary)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = [line.split()[2] for line in shown if line.split()[1] in "WwVvu"]
    return [name for name in names if not name.startswith("DW.ref.")]  # a pointer, no code


def test_objects_define_nothing_that_is_merged_across_instruction_sets() -> None:
    if sys.platform != "linux":
        pytest.skip("nm marks what may be merged in ELF only (tests/tools/macos.sh for macOS)")
    objects = kernel_objects()
    if not objects or shutil.which("nm") is None:
        pytest.skip("no object files of a build in this tree (DPSLICE_BUILD), or no nm")
    foreign = {}
    for path in objects:
        isa = path.parents[1].name.removeprefix("dpslice_").removesuffix(".dir")
        # baseline needs no mark: its instructions run everywhere.
        if isa == "baseline":
            continue
        mark = f"{len(isa)}{isa}"  # as in the mangled name of namespace dpslice::avx2
        names = [name for name in merged_symbols(path) if mark not in name]
        if names:
            foreign[path.name, isa] = names
    assert not foreign


@pytest.mark.parametrize(
    "source",
    sorted(
        path.name
        for path in (Path(__file__).resolve().parents[1] / "csrc").glob("*.cpp")
        if "namespace dpslice::DPSLICE_ISA" in path.read_text()
    ),
)
def test_kernels_compile_for_neon(source: str) -> None:
    """Tiles and vectors of other sizes must fit together, too."""
    compiler = shutil.which("aarch64-linux-gnu-g++")
    if compiler is None:
        pytest.skip("no compiler for aarch64 (Debian: g++-aarch64-linux-gnu)")
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [
            *(compiler, "-std=c++20", "-fopenmp", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"),
            *("-Wno-psabi", "-DDPSLICE_ISA=neon", f"-I{root / 'csrc'}", root / "csrc" / source),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_kernels_of_every_instruction_set_are_in_the_module() -> None:
    if shutil.which("strings") is None:
        pytest.skip("no strings")
    found = subprocess.run(
        ["strings", "-a", str(_core.__file__)], capture_output=True, text=True, check=True
    ).stdout
    for isa in _core.available_isas():
        assert isa in found


# ------------------------------------------------------------------------------- powers of two


def test_exp2_in_float32(isa: str) -> None:
    """Within 1.2 units in the last place, for all normal results."""
    rng = np.random.default_rng(0)
    t = np.concatenate(
        [
            np.linspace(-126, 127, 1_000_001),
            rng.uniform(-1, 1, 300_000),
            -np.exp(rng.uniform(-40, 4.83, 300_000)),
        ]
    ).astype(np.float32)
    found = _core.exp2(t)
    truth = np.exp2(t.astype(np.float64))
    ulp = np.spacing(truth.astype(np.float32)).astype(np.float64)
    assert (np.abs(found - truth) / ulp).max() <= 1.2


def test_exp2_in_float64(isa: str) -> None:
    """Within 1.2 units in the last place, for all normal results."""
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("long double is no longer than double here")
    rng = np.random.default_rng(0)
    t = np.concatenate(
        [
            np.linspace(-1022, 1023, 300_001),
            rng.uniform(-1, 1, 200_000),
            -np.exp(rng.uniform(-80, 6.9, 200_000)),
        ]
    )
    found = _core.exp2(t)
    truth = np.exp2(t.astype(np.longdouble))
    ulp = np.spacing(truth.astype(np.float64)).astype(np.longdouble)
    assert float((np.abs(found - truth) / ulp).max()) <= 1.2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp2_side_by_side_or_alone(isa: str, dtype: type) -> None:
    """Four vectors at a time give what one vector, or a part of one, gives."""
    t = np.random.default_rng(0).uniform(-30, 3, 300).astype(dtype)
    alone = np.concatenate([_core.exp2(t[i : i + 1]) for i in range(len(t))])
    np.testing.assert_array_equal(_core.exp2(t), alone)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_exp2_at_the_ends(isa: str, dtype: type) -> None:
    info = np.finfo(dtype)
    lowest = info.minexp - 1
    t = np.array([0.0, -0.0, 100, -100, -np.inf, info.min, 2 * lowest, np.nan], dtype)
    truth = np.array([1, 1, 2.0**100, 2.0**-100, 0, 0, 0, np.nan], dtype)
    np.testing.assert_array_equal(_core.exp2(t), truth)
    # Between zero and the normal numbers: of that size, and neither negative nor normal.
    between = _core.exp2(np.linspace(lowest, info.minexp, 101, dtype=dtype))
    assert (between >= 0).all()
    assert (between <= info.tiny).all()
