"""The commands of `dpslice`, with their arguments and options, as the command line knows them.

They take the place of a line `<!-- commands -->`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import typer.main
from sphinx.application import Sphinx

from dpslice._cli._commands import app as command_line

_MARK = "<!-- commands -->"
_KEPT_LINES = "\b\n"  # to Typer: lines that follow stay as they are


def _plain(text: str) -> str:
    """Escape what means something to Markdown, outside of ``code``."""
    parts = re.split(r"(``.+?``)", " ".join(text.split()))
    return "".join(
        part if part.startswith("``") else re.sub(r"([\\*_`\[\]<>{}|#$])", r"\\\1", part)
        for part in parts
    )


def _paragraphs(text: str | None) -> Iterator[str]:
    for paragraph in (text or "").split("\n\n"):
        if not paragraph.startswith(_KEPT_LINES):
            yield _plain(paragraph)
            continue
        title, *lines = paragraph.removeprefix(_KEPT_LINES).splitlines()
        yield _plain(title)
        yield "\n".join(["```sh", *(line.removeprefix("  ") for line in lines), "```"])


def _described(command: Any, context: Any) -> Iterator[str]:
    """Describe a command, then those under it, in Markdown."""
    yield f"## {context.command_path}"
    yield from _paragraphs(command.help)
    usage = command.get_usage(context).removeprefix("Usage: ")
    yield f"```text\n{usage}\n```"
    for kind, title in (("argument", "Arguments"), ("option", "Options")):
        records = [
            parameter.get_help_record(context)
            for parameter in command.get_params(context)
            if parameter.param_type_name == kind
        ]
        told = [record for record in records if record is not None]
        if told:
            yield f"**{title}**"
        for names, text in told:
            yield f"`{names}`\n: {_plain(text)}"
    yield from _paragraphs(command.epilog)
    for name, each in getattr(command, "commands", {}).items():
        yield from _described(each, each.context_class(each, info_name=name, parent=context))


def _insert(app: Sphinx, docname: str, source: list[str]) -> None:
    if _MARK in source[0]:
        command = typer.main.get_command(command_line)
        settings = command.context_settings
        context = command.context_class(command, info_name="dpslice", **settings)
        source[0] = source[0].replace(_MARK, "\n\n".join(_described(command, context)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register this extension."""
    app.connect("source-read", _insert)
    return {"parallel_read_safe": True}
