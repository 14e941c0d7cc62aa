"""The version of the compiled module, which the build took from pyproject.toml."""

from __future__ import annotations

from dpslice import _core

__version__: str = _core.build_config()["version"]
