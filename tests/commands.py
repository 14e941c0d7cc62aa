"""Commands of the command line, run in this process."""

from __future__ import annotations

from typing import Any

from typer.testing import CliRunner

from dpslice._cli._commands import app


def invoke(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments], prog_name="dpslice")


def succeed(*arguments: object) -> Any:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result
