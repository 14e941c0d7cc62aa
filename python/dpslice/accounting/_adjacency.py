"""Which pairs of tables a promise is about."""

from __future__ import annotations

from typing import Final

from dpslice import _arrays

ADJACENCIES: Final = ("zero_out", "replace_one")  # of a release of rows: n is visible
SUM_ADJACENCIES: Final = ("zero_out", "replace_one", "add_remove")
NEIGHBOURS: Final = {
    "zero_out": "one record's row is replaced by a row of zeros, which stays in the table",
    "replace_one": "one record is replaced by any other record of the domain",
    "add_remove": "one record is in the table or not",
}


_NEIGHBOURS_OF_PERSON: Final = {
    "zero_out": "the rows of one person, at most {}, are replaced by rows of zeros, which stay in "
    "the table",
    "replace_one": "the records of one person, at most {}, are replaced by any others of the "
    "domain",
    "add_remove": "the records of one person, at most {}, are in the table or not",
}
_MOST_ROWS_PER_PERSON: Final = 10**6  # with more, nothing is left that would be worth releasing


def checked_rows_per_person(value: object) -> int:
    """Return how many rows of the table are one person's, at most."""
    rows = _arrays.positive_integer("rows_per_person", value)
    if rows > _MOST_ROWS_PER_PERSON:
        raise ValueError(f"rows_per_person must be at most {_MOST_ROWS_PER_PERSON}; got {rows}")
    return rows


def check_order_unit(name: str, rows_per_person: int) -> None:
    """Raise if a person may have several rows, whose order argument `name` counts on."""
    if rows_per_person > 1:
        raise ValueError(
            f"{name} is for people with one row each: what the order hides of several rows that "
            f"change together is not known; got rows_per_person = {rows_per_person}"
        )


def neighbours(adjacency: str, rows_per_person: int = 1) -> str:
    """Tell in words which tables are neighbours."""
    if rows_per_person == 1:
        return NEIGHBOURS[adjacency]
    return _NEIGHBOURS_OF_PERSON[adjacency].format(rows_per_person)


def notes_on_people(rows_per_person: int) -> tuple[str, ...]:
    """Say on a certificate what it takes for granted about whose the records are."""
    if rows_per_person == 1:
        return ()
    return (
        f"that nobody has more than {rows_per_person} rows is up to whoever made the table: the "
        "mechanism cannot tell whose a row is",
    )


def public_n(adjacency: str, n: int | None) -> int | None:
    """Return the number of records where it may be told: add_remove protects it."""
    return None if adjacency == "add_remove" else n
