"""``dpslice info``: what is installed, and what it runs on."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Mapping
from importlib import metadata as package_metadata
from typing import Any

from dpslice import __version__
from dpslice._cli import _console
from dpslice._cli._app import app, examples
from dpslice._cli._options import JsonOption

_PACKAGES = ("numpy", "torch", "pandas", "scikit-learn", "sdmetrics", "statsmodels", "typer")

_MISSING = {"build": "no", "packages": "not installed"}


@app.command(epilog=examples("dpslice info"))
def info(json: JsonOption = False) -> None:
    """Show versions, instruction set, threads and CUDA."""
    from dpslice import _core

    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = package_metadata.version(package)
        except package_metadata.PackageNotFoundError:
            versions[package] = None
    build = dict(_core.build_config())
    facts: dict[str, Any] = {
        "dpslice": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "instruction set": _core.isa(),
        "instruction sets available": list(_core.available_isas()),
        "threads": _core.num_threads(),
        "cuda kernels": importlib.util.find_spec("dpslice._cuda") is not None,
        "build": build,
        "packages": versions,
    }
    if json:
        _console.print_json(facts)
        return
    rows = []
    for name, value in facts.items():
        if isinstance(value, Mapping):
            rows += [[f"{name}: {key}", str(item or _MISSING[name])] for key, item in value.items()]
        elif isinstance(value, bool):
            rows.append([name, "yes" if value else "no"])
        else:
            rows.append([name, ", ".join(value) if isinstance(value, list) else str(value)])
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")
