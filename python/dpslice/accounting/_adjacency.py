"""Which pairs of tables a promise is about."""

from __future__ import annotations

from typing import Final

ADJACENCIES: Final = ("zero_out", "replace_one")  # of a release of rows: n is visible
SUM_ADJACENCIES: Final = ("zero_out", "replace_one", "add_remove")
NEIGHBOURS: Final = {
    "zero_out": "one record's row is replaced by a row of zeros, which stays in the table",
    "replace_one": "one record is replaced by any other record of the domain",
    "add_remove": "one record is in the table or not",
}


def public_n(adjacency: str, n: int | None) -> int | None:
    """Return the number of records where it may be told: add_remove protects it."""
    return None if adjacency == "add_remove" else n
