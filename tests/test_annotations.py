"""Constructors that are annotated for type checkers alone must be those that dataclasses make."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

for package in ("pandas", "torch"):
    pytest.importorskip(package)

PACKAGE = Path(__file__).resolve().parents[1] / "python" / "dpslice"


def _annotated() -> dict[str, ast.FunctionDef]:
    """Find them, by the dotted names of their classes."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(("dpslice", *file.relative_to(PACKAGE).with_suffix("").parts))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ClassDef):
                continue
            blocks = [part for part in node.body if isinstance(part, ast.If)]
            for part in (part for block in blocks for part in block.body):
                if isinstance(part, ast.FunctionDef) and part.name == "__init__":
                    found[f"{module}.{node.name}"] = part
    return found


ANNOTATED = _annotated()


def test_there_are_some() -> None:
    assert {"dpslice.tabular.schema.Schema", "dpslice.adaptive.AdaptiveSumMechanism"} <= set(
        ANNOTATED
    )


@pytest.mark.parametrize("name", ANNOTATED)
def test_they_are_as_the_fields_say(name: str) -> None:
    module, _, class_name = name.rpartition(".")
    cls = getattr(importlib.import_module(module), class_name)
    assert dataclasses.is_dataclass(cls)
    parameters = inspect.signature(cls).parameters.values()
    made = {p.name: (p.kind is p.KEYWORD_ONLY, p.default) for p in parameters}
    arguments = ANNOTATED[name].args
    stated: dict[str, tuple[bool, Any]] = {}
    positional = arguments.args[1:]  # but self
    padded = [None] * (len(positional) - len(arguments.defaults)) + arguments.defaults
    for keyword_only, names, defaults in (
        (False, positional, padded),
        (True, arguments.kwonlyargs, arguments.kw_defaults),
    ):
        for argument, default in zip(names, defaults, strict=True):
            value = inspect.Parameter.empty if default is None else ast.literal_eval(default)
            stated[argument.arg] = keyword_only, value
    assert list(stated.items()) == list(made.items())
