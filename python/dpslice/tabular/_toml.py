"""A small TOML writer for what a schema file holds (the standard library only reads TOML)."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from typing import TypeGuard

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_ESCAPES |= {'"': '\\"', "\\": "\\\\"}


def _string(text: str) -> str:
    """Write a basic string: everything TOML forbids in one is escaped (also U+007F)."""
    pieces = []
    for character in text:
        code = ord(character)
        if character in _ESCAPES:
            pieces.append(_ESCAPES[character])
        elif code < 0x20 or code == 0x7F:
            pieces.append(f"\\u{code:04X}")
        elif 0xD800 <= code <= 0xDFFF:
            raise ValueError(f"text must be valid Unicode; got a lone surrogate in {text!r}")
        else:
            pieces.append(character)
    return '"' + "".join(pieces) + '"'


def _key(text: str) -> str:
    return text if _BARE_KEY.fullmatch(text) else _string(text)


def _value(value: object) -> str:
    if isinstance(value, bool):  # before int: a bool is one
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"a schema holds finite numbers only; got {value}")
        return repr(value)  # shortest text that reads back to the same double
    if isinstance(value, datetime.date):  # a datetime is one
        return value.isoformat()
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    if isinstance(value, Mapping):  # inside a list: a table on one line
        pairs = ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items())
        return f"{{ {pairs} }}" if pairs else "{}"
    raise TypeError(f"cannot write {type(value).__name__} as a TOML value")


def _name(path: Sequence[str]) -> str:
    return ".".join(_key(part) for part in path)


def _is_tables(value: object) -> TypeGuard[Sequence[Mapping[str, object]]]:
    """Tell whether a value is a list of tables alone."""
    if not isinstance(value, (list, tuple)) or not value:
        return False
    return all(isinstance(each, Mapping) for each in value)


def dumps(document: Mapping[str, object]) -> str:
    """Write a mapping as TOML text, from which `tomllib.loads` gives back an equal one, in order.

    It may hold strings, booleans, integers, finite floats, dates, local datetimes, lists of those,
    and mappings of them to any depth. A list of mappings becomes an array of tables. Another kind
    of value is a TypeError; a number that is not finite, or text that is not Unicode, a ValueError.
    """
    lines: list[str] = []

    def write(table: Mapping[str, object], path: tuple[str, ...]) -> None:
        tables = {k: v for k, v in table.items() if isinstance(v, Mapping) or _is_tables(v)}
        values = {k: v for k, v in table.items() if k not in tables}
        if path and (values or not table):
            lines.append("[" + _name(path) + "]")
        lines.extend(f"{_key(k)} = {_value(v)}" for k, v in values.items())
        if path and (values or not table):
            lines.append("")
        for k, v in tables.items():
            if isinstance(v, Mapping):
                write(v, (*path, k))
            elif _is_tables(v):
                for each in v:
                    lines.append("[[" + _name((*path, k)) + "]]")
                    lines.extend(f"{_key(key)} = {_value(inner)}" for key, inner in each.items())
                    lines.append("")

    write(document, ())
    return "\n".join(lines)
