"""The reference in docs/reference lists every public name once; examples of docstrings hold.

`make docs` builds the pages themselves, and takes warnings as errors.
"""

from __future__ import annotations

import ast
import doctest
import importlib
import re
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("torch")
pytest.importorskip("pandas")

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"
PACKAGE = REFERENCE.parents[1] / "python" / "dpslice"
EXTENSION = REFERENCE.parent / "_ext" / "public_names.py"
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


def _constants() -> dict[str, tuple[str, ...]]:
    """Return what the extension calls public, without importing it: it needs Sphinx."""
    body = ast.parse(EXTENSION.read_text(encoding="utf-8")).body
    assigned = {ast.unparse(n.targets[0]): n.value for n in body if isinstance(n, ast.Assign)}
    return {name: ast.literal_eval(assigned[name]) for name in ("MODULES", "RETURNED")}


# Page and module: what each page lists is of its module, but for what these return.
MODULES = {module.rpartition(".")[2]: module for module in _constants()["MODULES"]}
RETURNED = set(_constants()["RETURNED"])


def _listed(page: str) -> list[str]:
    """Return full names: those of summary tables, and of data, which have no page of their own."""
    text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
    names = []
    for block in re.findall(r"^```\{eval-rst\}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        module = re.search(r"^\.\. currentmodule:: (\S+)$", block, re.MULTILINE)
        for name in re.findall(r"^(?:   |\.\. py:data:: )(\w+)$", block, re.MULTILINE):
            assert module is not None, block
            names.append(f"{module[1]}.{name}")
    return names


def _object(path: str) -> object:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def test_every_page_is_of_one_module() -> None:
    pages = {page.stem for page in REFERENCE.glob("*.md")}
    assert pages == {*MODULES, "index", "command-line"}
    for page, module in MODULES.items():
        text = (REFERENCE / f"{page}.md").read_text(encoding="utf-8")
        assert text.startswith(f"# {module}\n")
        strange = {name for name in _listed(page) if name.rpartition(".")[0] != module}
        assert strange <= RETURNED, page


def test_reference_lists_every_public_name_once() -> None:
    """One object under several names is listed under one of them; modules have their pages."""
    listed = [name for page in MODULES for name in _listed(page)]
    assert len(listed) == len(set(listed))
    public: dict[int, set[str]] = {}
    for module in MODULES.values():
        for name in importlib.import_module(module).__all__:
            value = _object(f"{module}.{name}")
            if isinstance(value, ModuleType):
                assert value.__name__ in MODULES.values()
                continue
            public.setdefault(id(value), set()).add(f"{module}.{name}")
    for names in public.values():
        assert len(names & set(listed)) == 1, names
    assert set(listed) - set().union(*public.values()) == RETURNED


def test_no_public_module_is_missing() -> None:
    """A package or module with an __all__ of its own is on a page, or exports through another."""
    packages = {
        f"dpslice.{path.parent.name}"
        for path in PACKAGE.glob("*/__init__.py")
        if not path.parent.name.startswith("_")
    }
    assert packages <= set(MODULES.values())


@pytest.mark.parametrize("module", WITH_EXAMPLES)
def test_examples_of_docstrings_hold(module: str) -> None:
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0
