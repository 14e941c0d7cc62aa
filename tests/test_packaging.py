"""What pyproject.toml, constraints.txt and the Makefile say of versions must fit together.

And what needs an extra is imported when it is used, not before.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def _requirements(lines: list[str]) -> dict[str, Requirement]:
    found = [Requirement(line) for line in lines]
    return {canonicalize_name(each.name): each for each in found if each.name != "dpslice"}


def test_constraints_are_within_the_ranges(pyproject: dict[str, Any]) -> None:
    """And all that is required has one: what the make targets install depends on no day."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {canonicalize_name(k): v for k, v in re.findall(r"^([\w-]+)==(.+)$", text, re.MULTILINE)}
    project = pyproject["project"]
    lists = [
        pyproject["build-system"]["requires"],
        project["dependencies"],
        *project["optional-dependencies"].values(),
    ]
    for lines in lists:
        for name, requirement in _requirements(lines).items():
            assert name in pins, name
            assert requirement.specifier.contains(pins[name]), requirement


def test_dev_has_what_the_build_needs(pyproject: dict[str, Any]) -> None:
    """Of the same versions, for builds without isolation, as make's are."""
    dev = _requirements(pyproject["project"]["optional-dependencies"]["dev"])
    build = _requirements(pyproject["build-system"]["requires"])
    assert build.items() <= dev.items()
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {*build, "cmake", "ninja"} <= set(makefile.split())
    assert str(dev["cmake"].specifier) == pyproject["tool"]["scikit-build"]["cmake"]["version"]
    least = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8").splitlines()[0]
    assert least.startswith(f"cmake_minimum_required(VERSION {str(dev['cmake'].specifier)[2:]}")


def test_version_is_the_same_everywhere(pyproject: dict[str, Any]) -> None:
    version = pyproject["project"]["version"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, flags=re.MULTILINE) == [version]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (\S+)", changes, flags=re.MULTILINE)[0] == version


@pytest.mark.parametrize(
    ("package", "needed", "name"),
    [("torch", "torch", "SlicedDivergence"), ("tabular", "pandas", "Schema")],
)
def test_packages_with_extras_are_imported_on_use(package: str, needed: str, name: str) -> None:
    pytest.importorskip(needed)
    code = (
        "import sys, dpslice\n"
        f"assert {needed!r} not in sys.modules\n"
        f"assert dpslice.{package}.{name}.__name__ == {name!r}\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    blocked = f"import sys; sys.modules[{needed!r}] = None\nimport dpslice; dpslice.{package}"
    done = subprocess.run([sys.executable, "-c", blocked], capture_output=True, text=True)
    assert done.returncode == 1
    assert f"ImportError: {needed} is needed here" in done.stderr
    assert f"pip install 'dpslice[{package}]'" in done.stderr
