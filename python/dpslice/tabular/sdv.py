"""Types of columns from the metadata of SDV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dpslice import _arrays

__all__ = ["sdv_types"]


def sdv_columns(metadata: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Find the one table's columns in single-table or multi-table metadata."""
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata must be a mapping; got {_arrays.describe(metadata)}")
    table: Any = metadata
    if "tables" in metadata:
        tables = metadata["tables"]
        if not isinstance(tables, Mapping) or len(tables) != 1:
            count = len(tables) if isinstance(tables, Mapping) else 0
            raise ValueError(f"SDV metadata must describe exactly one table; got {count}")
        table = next(iter(tables.values()))
    columns = table.get("columns") if isinstance(table, Mapping) else None
    if not isinstance(columns, Mapping) or not columns:
        raise ValueError("SDV metadata must have columns; found neither 'columns' nor 'tables'")
    for name, keys in columns.items():
        if not isinstance(keys, Mapping) or not isinstance(keys.get("sdtype"), str):
            raise ValueError(f"SDV metadata: column {name!r} must have an sdtype")
    return dict(columns)


def sdv_type(name: str, keys: Mapping[str, Any]) -> dict[str, str]:
    """Return the schema type of an SDV column: ``{"type": ...}``."""
    sdtype = keys["sdtype"]
    if sdtype == "numerical":
        representation = str(keys.get("computer_representation", "Float"))
        whole = representation.startswith(("Int", "UInt"))
        return {"type": "integer" if whole else "real"}
    if sdtype in ("categorical", "boolean", "datetime"):
        return {"type": sdtype}
    raise ValueError(
        f"SDV metadata: column {name!r} has sdtype {sdtype!r}, which names or identifies people "
        "and cannot be synthesized; drop it (overrides={...: None}), or override its type"
    )


def sdv_types(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Column types of SDV metadata, as `Schema.infer` takes them.

    Parameters
    ----------
    metadata : mapping
        SDV metadata of one table.

    Returns
    -------
    dict of str to str
        Name to type, in the metadata's order. A datetime whose format has no time of day becomes
        ``date``. Identifiers and personal sdtypes (id, name, email, ...) are left out: drop those
        columns from the frame.

    Raises
    ------
    TypeError
        If `metadata` is no mapping.
    ValueError
        If it is malformed.

    Examples
    --------
    >>> sdv_types({"columns": {"age": {"sdtype": "numerical", "computer_representation": "Int64"}}})
    {'age': 'integer'}
    """
    types: dict[str, str] = {}
    for name, keys in sdv_columns(metadata).items():
        if keys["sdtype"] not in ("numerical", "categorical", "boolean", "datetime"):
            continue
        kind = sdv_type(name, keys)["type"]
        layout = keys.get("datetime_format")
        if kind == "datetime" and isinstance(layout, str):
            has_time = any(code in layout for code in ("%H", "%I", "%M", "%S", "%X", "%c", "%T"))
            kind = "datetime" if has_time else "date"
        types[name] = kind
    return types
