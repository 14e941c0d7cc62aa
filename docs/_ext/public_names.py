"""Names in docstrings: `Name` becomes a link where it is public, and code where it is not.

Docstrings say `Name` of what the library exports, of methods of the class at hand, and of
parameters. A name in capitals or with parentheses that is none of these is reported, and so is one
that leads to a page that does not exist.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import re
import sys
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx
from sphinx.util import logging

MODULES = (
    "dpslice",
    "dpslice.accounting",
    "dpslice.divergences",
    "dpslice.features",
    "dpslice.frames",
    "dpslice.kernels",
    "dpslice.tabular",
    "dpslice.torch",
    "dpslice.torch.functional",
)

# Beside what modules export: what their functions return, and the keys of a report's scores.
RETURNED = (
    "dpslice.release.Slices",
    "dpslice.tabular.discretization.FineShape",
    "dpslice.tabular.discretization.Levels",
    "dpslice.tabular.metrics.scores",
)

# ``code`` and roles with their text are passed over, so that no `name` begins where one ends.
_QUOTED = re.compile(r"``.+?``|:[\w:]+:`[^`]+`|`(?P<name>[^`\s][^`]*)`(?!_)", re.DOTALL)
_log = logging.getLogger(__name__)


@functools.cache
def _places() -> dict[int, str]:
    """Return where each public object is documented, by identity: under its shortest name."""
    found: dict[int, str] = {}
    for module in MODULES:
        space = importlib.import_module(module)
        for name in space.__all__:
            found.setdefault(id(getattr(space, name)), f"{module}.{name}")
    for path in RETURNED:
        module, name = path.rsplit(".", 1)
        found[id(getattr(importlib.import_module(module), name))] = path
    return found


def _place(target: object) -> str | None:
    if isinstance(target, ModuleType):
        return target.__name__ if target.__name__ in MODULES else None
    return _places().get(id(target))


def _reached(start: object, path: str) -> tuple[object, str] | None:
    """Follow a dotted path from an object; return what is there and the path of its holder."""
    parts = path.split(".")
    holder = start
    for index, part in enumerate(parts):
        try:
            inspected = getattr(holder, part)
        except AttributeError:
            return None
        if index == len(parts) - 1:
            return holder, part
        holder = inspected
    return None


def _link(name: str, spaces: list[object]) -> str | None:
    """Return the full name of what a name in a docstring leads to, or None."""
    if name in MODULES:
        return name
    if name.startswith("dpslice."):
        spaces, name = [importlib.import_module("dpslice")], name.removeprefix("dpslice.")
    for space in spaces:
        reached = _reached(space, name)
        if reached is None:
            continue
        holder, last = reached
        place = _place(getattr(holder, last))
        if place is not None and not isinstance(holder, type):
            return place
        if isinstance(holder, type):
            of = _place(holder)
            if of is not None and not last.startswith("_") and _documented(holder, last):
                return f"{of}.{last}"
    return None


def _documented(holder: type, last: str) -> bool:
    return bool(inspect.getdoc(inspect.getattr_static(holder, last, None)))


def _parameters(*objects: object) -> set[str]:
    found: set[str] = set()
    for each in objects:
        try:
            found |= set(inspect.signature(each).parameters)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            continue
    return found


def _link_names(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    modules = {*MODULES, *(path.rpartition(".")[0] for path in RETURNED)}
    module = max((each for each in modules if f"{name}.".startswith(f"{each}.")), key=len)
    space = importlib.import_module(module)
    owner = _owner(space, name.removeprefix(f"{module}."))
    spaces = [owner] if owner is not None else []
    spaces += [space, *(importlib.import_module(each) for each in MODULES)]
    spaces += [sys.modules.get(getattr(obj, "__module__", None) or "")]
    parameters = _parameters(obj, owner)

    def replaced(match: re.Match[str]) -> str:
        quoted = match["name"]
        if quoted is None:
            return match[0]
        if quoted in parameters:
            return f"``{quoted}``"
        link = _link(quoted, spaces)
        if link is not None:
            return f":py:obj:`{quoted} <{link}>`"
        if re.match(r"dpslice\.|[A-Z]\w+", quoted):
            _log.warning("%s: `%s` is no public name", name, quoted)
        return f"``{quoted}``"

    text = "\n".join(lines)
    lines[:] = _QUOTED.sub(replaced, text).split("\n")


def _owner(space: object, path: str) -> type | None:
    """Return the class that a documented name is, or belongs to."""
    first = getattr(space, path.split(".")[0], None)
    return first if isinstance(first, type) else None


def _link_bases(app: Sphinx, name: str, obj: Any, options: Any, bases: list[Any]) -> None:
    """Show what a class is to users: of bases that are not public, the bases of these."""
    shown: list[Any] = []
    for base in getattr(obj, "__bases__", ()):
        for each in base.__mro__:
            place = _place(each)
            if place is not None or not each.__module__.startswith(("dpslice", "typing")):
                shown.append(f":py:class:`{place}`" if place else each)
                break
    bases[:] = list(dict.fromkeys(shown))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register this extension; docstrings are read before numpydoc takes them apart."""
    app.connect("autodoc-process-docstring", _link_names, priority=400)
    app.connect("autodoc-process-bases", _link_bases)
    return {"parallel_read_safe": True}
