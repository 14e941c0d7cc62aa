"""Schema files: read, parsed and written, without judging what they say."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dpslice import _arrays
from dpslice._storage import replacing
from dpslice.accounting import Guarantee
from dpslice.tabular import _toml

DOCUMENT_KEYS = ("table", "columns", "impossible", "guarantee")  # of a schema, or of types

_DEEPEST = 50  # levels of a file: a schema has five


def read_guarantee(document: Mapping[str, Any]) -> Guarantee | None:
    """Return what the schema in a document has cost, if it was inferred."""
    stated = document.get("guarantee")
    if stated is None:
        return None
    if not isinstance(stated, Mapping):
        raise ValueError("[guarantee] must be a table")
    if set(stated) == {"json"}:
        stated = _parse_json("[guarantee] json", str(stated["json"]))
    return Guarantee.from_dict(dict(stated))


def read_document(path: str | os.PathLike[str]) -> tuple[dict[str, Any], bool]:
    """Read the tables of a schema file, or SDV metadata, without judging what they say.

    Returned with the document is whether it is JSON, hence SDV metadata. The file's content decides
    that, not its name: JSON starts with a brace.
    """
    raw = _arrays.path("path", path).read_bytes()
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: a schema must be a UTF-8 text file ({error})") from None
    if text.lstrip().startswith("{"):
        return _parse_json(path, text), True
    document: dict[str, Any] = _parsed(path, "a valid TOML file", tomllib.loads, text)
    return document, False


def table_keys(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a document says of the table as a whole, in known keys alone."""
    table = document.get("table", {})
    if not isinstance(table, Mapping):
        raise ValueError(f"[table] must be a table of keys; got {_arrays.describe(table)}")
    strange = [key for key in table if key not in ("name", "description", "target")]
    if strange:
        raise ValueError(
            f"[table]: unknown key {strange[0]!r}; known keys: name, description, target"
        )
    return table


def _parse_json(source: object, text: str) -> dict[str, Any]:
    document = _parsed(source, "valid JSON", json.loads, text)
    if not isinstance(document, dict):
        raise ValueError(f"{source}: must be a JSON object")
    return document


def _parsed(source: object, what: str, parse: Callable[[str], Any], text: str) -> Any:
    """Parse the text of a file; whatever is wrong with it is a ValueError that names the file."""
    try:
        document = parse(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{source}: not {what}: {error}") from None
    except RecursionError:
        raise ValueError(f"{source}: not a schema: it is nested too deeply") from None
    except ValueError:  # Python's own, of integers beyond sys.get_int_max_str_digits()
        raise ValueError(f"{source}: holds a number of too many digits") from None
    level = [document]
    for _ in range(_DEEPEST):
        parts = [
            v.values() if isinstance(v, dict) else v for v in level if isinstance(v, dict | list)
        ]
        level = [child for part in parts for child in part]
    if level:
        raise ValueError(f"{source}: not a schema: it is nested too deeply")
    return document


def write_document(
    path: str | os.PathLike[str],
    table: Mapping[str, Any],
    columns: Mapping[str, Mapping[str, Any]],
    guarantee: Guarantee | None,
    *,
    impossible: Sequence[Mapping[str, Any]] = (),
    overwrite: bool = True,
) -> None:
    """Write a schema file, or one of types, whole or not at all."""
    document: dict[str, Any] = {"table": table} if table else {}
    # Where nullable is not said, it is true in a file of types and false in a schema. A boolean is
    # complete in both, and a schema may be read as types: so it says.
    document["columns"] = {
        name: {**keys, "nullable": keys.get("nullable", False)}
        if keys["type"] == "boolean"
        else keys
        for name, keys in columns.items()
    }
    if impossible:
        document["impossible"] = impossible
    if guarantee is not None:
        # TOML has no null; the certificate has. So it travels as JSON text.
        document["guarantee"] = {"json": json.dumps(guarantee.to_dict())}
    with replacing(path, overwrite=overwrite) as handle:
        handle.write(_toml.dumps(document).encode())
